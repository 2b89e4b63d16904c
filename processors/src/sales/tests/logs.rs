//! Random logs on which everything collides: few items, users and keys, short sales, clocks that jump, appenders that
//! are late, codes that are real, lapsed and forged.

use proptest::{collection::vec, option, prelude::*, sample::select};

use super::*;

/// A log of the sale and one of its rules.
#[derive(Debug, Clone, Default)]
pub(super) struct Log {
    pub(super) records: Vec<Record<SaleEvent>>,
    /// Where `sale-rules` ended when each of them was appended.
    rules_ends: Vec<i64>,
    pub(super) rules: Vec<(i64, SaleRulesSet)>,
    /// Where it ends now.
    rules_end: i64,
}

/// What happens next.
#[derive(Debug, Clone)]
struct Step {
    clock: Clock,
    what: Asked,
    key: Option<u8>,
    drift_ms: i64,
    /// How many rules its appender had not seen, or claims to have seen before they were there.
    rules_unseen: i64,
    new_rules: Option<SaleRulesSet>,
}

/// How the broker's clock goes on.
#[derive(Debug, Clone)]
enum Clock {
    By(i64),
    /// To this much from the next whole number of so many seconds.
    ToEdge(i64, i64),
}

#[derive(Debug, Clone)]
enum Asked {
    Checkout(i64, i32),
    /// With the code that is so many before the newest.
    Purchase(usize),
    Forged(usize, Forgery),
    /// What was asked for so many records before, with the same key.
    Again(usize),
    Barrier,
}

#[derive(Debug, Clone, Copy)]
enum Forgery {
    OtherSecret,
    OtherOffset,
    OtherSale(i64),
    Foreign,
}

/// Logs of up to so many records.
pub(super) fn logs(records_max: usize) -> impl Strategy<Value = Log> {
    vec(step(), 1..records_max).prop_map(|steps| log(&steps))
}

fn step() -> impl Strategy<Value = Step> {
    let drift_ms = prop_oneof![
        12 => Just(0),
        1 => select(vec![-30_000, 30_000]),
        2 => select(vec![-30_001, 30_001, -HOUR_MS, HOUR_MS]),
    ];
    let rules_unseen = prop_oneof![10 => Just(0), 4 => 1..3_i64, 1 => 3..6_i64, 1 => -2..0_i64];
    let new_rules = option::weighted(0.2, some_rules());
    let key = option::weighted(0.4, 0..2_u8);
    (clock(), asked(), key, drift_ms, rules_unseen, new_rules).prop_map(
        |(clock, what, key, drift_ms, rules_unseen, new_rules)| Step {
            clock,
            what,
            key,
            drift_ms,
            rules_unseen,
            new_rules,
        },
    )
}

fn clock() -> impl Strategy<Value = Clock> {
    let edges = select(vec![1, 2, 60, 600, 3_600]);
    prop_oneof![
        8 => Just(Clock::By(0)),
        10 => (1..300_i64).prop_map(Clock::By),
        4 => (300..1_500_i64).prop_map(Clock::By),
        // Where a reservation of that record ends.
        5 => (1..=5_i64, -1..=1_i64).prop_map(|(seconds, by)| Clock::By(seconds * SECOND + by)),
        3 => (edges, -1..=1_i64).prop_map(|(seconds, by)| Clock::ToEdge(seconds, by)),
        2 => (-5_000..0_i64).prop_map(Clock::By),
        1 => (1..40 * MINUTE).prop_map(Clock::By),
        1 => (1..=3_i64).prop_map(|hours| Clock::By(hours * HOUR_MS)),
        1 => (-3 * HOUR_MS..3 * HOUR_MS).prop_map(Clock::By),
    ]
}

fn asked() -> impl Strategy<Value = Asked> {
    let forgery = prop_oneof![
        Just(Forgery::OtherSecret),
        Just(Forgery::OtherOffset),
        select(vec![-3_600, -600, -60, -1, 1, 60, 600, 3_600]).prop_map(Forgery::OtherSale),
        Just(Forgery::Foreign),
    ];
    prop_oneof![
        12 => (0..3_i64, 0..5_i32).prop_map(|(user_id, item_id)| Asked::Checkout(user_id, item_id)),
        6 => Just(Asked::Purchase(0)),
        5 => (0..5_usize).prop_map(Asked::Purchase),
        2 => (0..5_usize, forgery).prop_map(|(back, how)| Asked::Forged(back, how)),
        4 => (0..6_usize).prop_map(Asked::Again),
        1 => Just(Asked::Barrier),
    ]
}

fn some_rules() -> impl Strategy<Value = SaleRulesSet> {
    let sale_seconds = select(vec![1, 3, 10, 60, 600, 1_800, 3_600]);
    (1..=4, 1..=3, 1..=5, sale_seconds)
        .prop_map(|(items, limit, reservation, sale)| rules(items, limit, reservation, sale))
}

fn log(steps: &[Step]) -> Log {
    let mut log = Log::default();
    log.set(rules(3, 2, 4, 3_600));
    let (mut now_ms, mut codes) = (NINE, Vec::new());
    let (mut live, mut requests) = (Live::default(), Vec::new());
    for (offset, step) in (0..).zip(steps) {
        if let Some(rules) = step.new_rules {
            log.set(rules);
        }
        now_ms = match step.clock {
            Clock::By(ms) => (now_ms + ms).max(0),
            Clock::ToEdge(seconds, by) => (now_ms / (seconds * 1_000) + 1) * seconds * 1_000 + by,
        };
        let request = step.request(&codes, &requests);
        requests.push(request);
        // The usual rules have ten thousand items: nothing would collide.
        let rules_seen = (log.rules_end - step.rules_unseen).max(1);
        log.records.push(request.record(offset, now_ms, rules_seen));
        log.rules_ends.push(log.rules_end);
        if let Passed::Decided(Decision {
            verdict: Verdict::Reserved { code, .. },
            ..
        }) = live.fold(&log, log.records.len() - 1)
        {
            codes.push(code);
        }
    }
    log
}

impl Step {
    fn request(&self, codes: &[Code], before: &[Request]) -> Request {
        let code = |back: usize| codes.iter().rev().nth(back).copied().unwrap_or(code(0));
        let what = match self.what {
            Asked::Checkout(user_id, item_id) => What::Checkout { user_id, item_id },
            Asked::Purchase(back) => What::Purchase(code(back)),
            Asked::Forged(back, how) => What::Purchase(how.of(code(back))),
            Asked::Again(back) => match before.iter().rev().nth(back) {
                Some(first) => {
                    return Request {
                        drift_ms: self.drift_ms,
                        ..*first
                    };
                }
                None => What::Barrier,
            },
            Asked::Barrier => What::Barrier,
        };
        Request {
            key: self.key.map(|key| ["k", "other"][usize::from(key)]),
            drift_ms: self.drift_ms,
            ..request(what)
        }
    }
}

impl Forgery {
    fn of(self, code: Code) -> Code {
        let parts = code.parts().expect("a code of ours");
        let (mut sale, mut offset) = (parts.sale, i64::from(parts.offset));
        let mut secret = i64::try_from(parts.secret).expect("56 bits");
        match self {
            Self::OtherSecret => secret ^= 1,
            Self::OtherOffset => (offset, secret) = (offset + 1, nonce(offset + 1)),
            Self::OtherSale(by) => {
                sale = SaleId::starting_at_ms((sale.starts_at_ms() + by * 1_000).max(0));
            }
            Self::Foreign => return "c0ffee00-0000-4000-8000-000000000000".parse().unwrap(),
        }
        Code::new(sale, offset, secret)
    }
}

impl Log {
    fn set(&mut self, rules: SaleRulesSet) {
        self.rules.push((self.rules_end, rules));
        self.rules_end += 1;
    }

    /// All rules below an offset.
    fn book(&self, end: i64) -> RuleBook {
        let mut book = RuleBook::default();
        for (offset, rules) in &self.rules {
            if *offset < end {
                book.set(*offset, *rules);
            }
        }
        book.pass(end);
        book
    }

    /// The rules that were set.
    pub(super) fn book_so_far(&self) -> RuleBook {
        self.book(self.rules_end)
    }

    /// The rules as somebody has them who starts now.
    pub(super) fn whole_book(&self) -> RuleBook {
        // Beyond every claim of having seen rules that did not come.
        self.book(self.rules_end + 9)
    }
}

/// A process that has been folding from the first record on, with the rules that were there at the time.
#[derive(Default)]
pub(super) struct Live {
    pub(super) sales: Sales,
}

impl Live {
    /// Folds the next record of the log, which is at this index. Rules that are missing are waited for.
    pub(super) fn fold(&mut self, log: &Log, index: usize) -> Passed {
        let record = &log.records[index];
        let book = log.book(log.rules_ends[index]);
        match self.sales.fold(record, &book) {
            Ok(passed) => passed,
            Err(RulesMissing { rules_seen }) => {
                let read_on = self.sales.fold(record, &log.book(rules_seen));
                read_on.expect("everything that it asked for")
            }
        }
    }
}
