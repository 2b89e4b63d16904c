//! What the sale promises, told as stories: `given` what is on the log, `when` the next record comes, `then` this is
//! decided. Times are milliseconds since nine o'clock; a record's offset is its place in the story.

mod checkouts;
mod codes;
mod hours;
mod keys;
mod logs;
mod model;
mod purchases;
mod starts;
mod stocks;
mod time;
mod verdicts;

use schemas::sales::{Barrier, CheckoutRequested};

use super::*;

/// 2026-11-21T09:00:00Z.
const NINE: i64 = 1_795_251_600_000;
const SECOND: i64 = 1_000;
const MINUTE: i64 = 60 * SECOND;

/// A record that is not on the log yet.
#[derive(Clone, Copy)]
struct Request {
    what: What,
    key: Option<&'static str>,
    /// When the broker stamps it; with the record before, if nothing is said.
    at_ms: Option<i64>,
    /// How much later its appender says that it was.
    drift_ms: i64,
    rules_seen: Option<i64>,
}

#[derive(Clone, Copy)]
enum What {
    Checkout { user_id: i64, item_id: i32 },
    Purchase(Code),
    Barrier,
}

fn request(what: What) -> Request {
    Request {
        what,
        key: None,
        at_ms: None,
        drift_ms: 0,
        rules_seen: None,
    }
}

fn checkout(user: &str, item_id: i32) -> Request {
    request(What::Checkout {
        user_id: id(user),
        item_id,
    })
}

fn purchase(code: Code) -> Request {
    request(What::Purchase(code))
}

fn barrier() -> Request {
    request(What::Barrier)
}

impl Request {
    fn key(mut self, key: &'static str) -> Self {
        self.key = Some(key);
        self
    }

    fn at(mut self, at_ms: i64) -> Self {
        self.at_ms = Some(at_ms);
        self
    }

    fn drifting(mut self, drift_ms: i64) -> Self {
        self.drift_ms = drift_ms;
        self
    }

    fn rules_seen(mut self, rules_seen: i64) -> Self {
        self.rules_seen = Some(rules_seen);
        self
    }

    fn record(self, offset: i64, timestamp_ms: i64, rules_seen: i64) -> Record<SaleEvent> {
        let requested_at = timestamp_ms + self.drift_ms;
        let key = self.key.map(str::to_owned);
        let nonce = nonce(offset);
        let event = match self.what {
            What::Checkout { user_id, item_id } => {
                SaleEvent::CheckoutRequested(CheckoutRequested {
                    user_id,
                    item_id,
                    requested_at,
                    rules_seen,
                    nonce,
                    key,
                })
            }
            What::Purchase(code) => SaleEvent::PurchaseRequested(PurchaseRequested {
                code,
                requested_at,
                rules_seen,
                nonce,
                key,
            }),
            What::Barrier => SaleEvent::Barrier(Barrier { nonce }),
        };
        Record {
            partition: 0,
            offset,
            timestamp_ms,
            event,
        }
    }
}

/// A number of each name.
fn id(user: &str) -> i64 {
    user.bytes().map(i64::from).sum()
}

/// What makes the code of this record secret.
fn nonce(offset: i64) -> i64 {
    0x5ec2e7 + offset
}

/// The code of what this record reserved in the sale that begins at nine.
fn code(offset: i64) -> Code {
    code_in(0, offset)
}

/// The same in the sale that begins then.
fn code_in(starts_at_ms: i64, offset: i64) -> Code {
    let sale = SaleId::starting_at_ms(NINE + starts_at_ms);
    Code::new(sale, offset, nonce(offset))
}

fn rules(items: i32, limit: i32, reservation_seconds: i32, sale_seconds: i32) -> SaleRulesSet {
    SaleRulesSet {
        items,
        limit,
        reservation_seconds,
        sale_seconds,
    }
}

/// A log and its rules, with the state after it.
#[derive(Default)]
struct Story {
    sales: Sales,
    book: RuleBook,
    next_offset: i64,
    now_ms: i64,
    passed: Option<Result<Passed, RulesMissing>>,
}

fn given(requests: impl IntoIterator<Item = Request>) -> Story {
    Story::default().and(requests)
}

/// Before the story begins, these rules are set.
fn under(rules: SaleRulesSet) -> Story {
    Story::default().set(rules)
}

impl Story {
    fn given(self, requests: impl IntoIterator<Item = Request>) -> Self {
        self.and(requests)
    }

    fn and(self, requests: impl IntoIterator<Item = Request>) -> Self {
        requests.into_iter().fold(self, |story, request| {
            let story = story.when(request);
            assert!(matches!(story.passed, Some(Ok(_))), "{:?}", story.passed);
            story
        })
    }

    /// New rules are set, and seen by everybody.
    fn set(mut self, rules: SaleRulesSet) -> Self {
        self.book.set(self.book.next_offset(), rules);
        self
    }

    fn when(mut self, request: Request) -> Self {
        self.now_ms = request.at_ms.unwrap_or(self.now_ms);
        let rules_seen = request.rules_seen.unwrap_or(self.book.next_offset());
        let record = request.record(self.next_offset, NINE + self.now_ms, rules_seen);
        let passed = self.sales.fold(&record, &self.book);
        if passed.is_ok() {
            self.next_offset += 1;
        }
        self.passed = Some(passed);
        self
    }

    fn decision(&self) -> Decision {
        match self.passed {
            Some(Ok(Passed::Decided(decision))) => decision,
            other => panic!("nothing was decided: {other:?}"),
        }
    }

    #[track_caller]
    fn then(self, verdict: Verdict) -> Self {
        let decision = self.decision();
        assert_eq!((decision.verdict, decision.is_replayed), (verdict, false));
        self
    }

    /// The verdict is that of an earlier request with the same key.
    #[track_caller]
    fn then_again(self, verdict: Verdict) -> Self {
        let decision = self.decision();
        assert_eq!((decision.verdict, decision.is_replayed), (verdict, true));
        self
    }

    #[track_caller]
    fn then_void(self) -> Self {
        assert_eq!(self.passed, Some(Ok(Passed::Void)));
        self
    }

    /// The verdict fell at this time of the log, in the sale that begins then.
    #[track_caller]
    fn then_at(self, at_ms: i64, sale_starts_at_ms: i64) -> Self {
        let decision = self.decision();
        let wanted = (
            NINE + at_ms,
            SaleId::starting_at_ms(NINE + sale_starts_at_ms),
        );
        assert_eq!((decision.at_ms, decision.sale), wanted);
        self
    }

    /// How it stands at a time.
    fn stock(&self, at_ms: i64) -> Stock {
        self.sales.stock(NINE + at_ms, &self.book)
    }
}

fn reserved(code: Code, expires_at_ms: i64) -> Verdict {
    Verdict::Reserved {
        code,
        expires_at_ms: NINE + expires_at_ms,
    }
}

fn bought(item_id: i32, user: &str) -> Verdict {
    Verdict::Purchased {
        item_id,
        user_id: id(user),
    }
}

fn refused(why: Refused) -> Verdict {
    Verdict::Refused(why)
}
