//! Checks the verdicts of a sale against the promises that were made about it, without the state machine that gave them.
//! Before this: `processors/src/sales.rs`; next: `src/commands/audit.rs`.

use std::collections::{BTreeMap, HashMap};

use schemas::{
    sale_rules::SaleRulesSet,
    sales::{CheckoutRequested, Code, PurchaseRequested, SaleEvent, SaleId},
};

use super::{DRIFT_MAX_MS, Decision, HOUR_MS, Passed, RuleBook, Verdict, hour_of};
use crate::record::Record;

/// The audit of one sale; is shown the log from a place where a fold may begin that is to decide the sale.
#[derive(Debug)]
pub struct Audit {
    /// What was found so far.
    pub found: Found,
    book: RuleBook,
    sale: SaleId,
    last_ms: Option<i64>,
    reservations: HashMap<Code, Reservation>,
    /// The newest reservation of each item.
    newest: HashMap<i32, Code>,
    of_users: HashMap<i64, Vec<Code>>,
}

/// What an audit has found.
#[derive(Debug, Default)]
pub struct Found {
    /// The rules of the sale; none if nothing was requested in it.
    pub rules: Option<SaleRulesSet>,
    /// Whether the log goes on after its end.
    pub is_over: bool,
    /// How many requests it had.
    pub requests: u64,
    /// How many of them reserved an item.
    pub reservations: u64,
    /// How many were refused.
    pub refusals: u64,
    /// How many had a verdict that was given before, to the same key.
    pub replays: u64,
    /// The items that were bought.
    pub sold: BTreeMap<i32, Bought>,
    /// Every promise that was broken, and where.
    pub faults: Vec<String>,
}

/// A purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bought {
    /// Who bought.
    pub user_id: i64,
    /// When, milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// The record.
    pub offset: i64,
}

#[derive(Debug, Clone, Copy)]
struct Reservation {
    user_id: i64,
    item_id: i32,
    expires_at_ms: i64,
}

impl Audit {
    /// An audit of this sale; the book has all rules that its requests may name.
    pub fn new(sale: SaleId, book: RuleBook) -> Self {
        Self {
            found: Found::default(),
            book,
            sale,
            last_ms: None,
            reservations: HashMap::new(),
            newest: HashMap::new(),
            of_users: HashMap::new(),
        }
    }

    /// Looks at the next record, and at what the state machine made of it.
    pub fn see(&mut self, record: &Record<SaleEvent>, passed: Passed) {
        let (requested_at, rules_seen) = match &record.event {
            SaleEvent::CheckoutRequested(checkout) => (checkout.requested_at, checkout.rules_seen),
            SaleEvent::PurchaseRequested(purchase) => (purchase.requested_at, purchase.rules_seen),
            SaleEvent::Barrier(_) => return,
        };
        let drift_ms = record.timestamp_ms.abs_diff(requested_at);
        let Passed::Decided(decision) = passed else {
            self.demand(record.offset, drift_ms > DRIFT_MAX_MS, "is void in time");
            return;
        };
        self.demand(
            record.offset,
            drift_ms <= DRIFT_MAX_MS,
            "was decided, and is void",
        );
        let now_ms = record.timestamp_ms.max(self.last_ms.unwrap_or(0));
        self.last_ms = Some(now_ms);
        let time = "was not decided at the time of the log";
        self.demand(record.offset, decision.at_ms == now_ms, time);
        self.place(record.offset, rules_seen, decision);
        if decision.sale == self.sale {
            self.request(record, decision);
        }
    }

    /// Whether the request is in the sale that its time falls into, by the rules of its hour.
    fn place(&mut self, offset: i64, rules_seen: i64, decision: Decision) {
        let starts_at_ms = self.sale.starts_at_ms();
        let hour = hour_of(starts_at_ms);
        if hour_of(decision.at_ms) == hour && self.found.rules.is_none() {
            // The hour's first: its rules hold for all.
            match self.book.newest_below(rules_seen) {
                Ok(rules) => self.found.rules = Some(rules),
                Err(missing) => self.fault(offset, missing),
            }
        }
        let Some(rules) = self.found.rules else {
            return;
        };
        let ends_at_ms = starts_at_ms + i64::from(rules.sale_seconds) * 1_000;
        self.found.is_over |= decision.at_ms >= ends_at_ms.min(hour + HOUR_MS);
        let is_within = (starts_at_ms..ends_at_ms).contains(&decision.at_ms);
        let is_in_it = decision.sale == self.sale;
        self.demand(offset, is_within == is_in_it, "was put into another sale");
    }

    fn request(&mut self, record: &Record<SaleEvent>, decision: Decision) {
        self.found.requests += 1;
        if decision.is_replayed {
            self.found.replays += 1;
            return;
        }
        match (&record.event, decision.verdict) {
            (_, Verdict::Refused(_)) => self.found.refusals += 1,
            (
                SaleEvent::CheckoutRequested(request),
                Verdict::Reserved {
                    code,
                    expires_at_ms,
                },
            ) => self.reserved(record.offset, request, decision.at_ms, code, expires_at_ms),
            (SaleEvent::PurchaseRequested(request), Verdict::Purchased { item_id, user_id }) => {
                let bought = Bought {
                    user_id,
                    at_ms: decision.at_ms,
                    offset: record.offset,
                };
                self.purchased(request, item_id, bought);
            }
            _ => self.fault(record.offset, "has the verdict of another kind of request"),
        }
    }

    fn reserved(
        &mut self,
        offset: i64,
        request: &CheckoutRequested,
        now_ms: i64,
        code: Code,
        expires_at_ms: i64,
    ) {
        self.found.reservations += 1;
        let &CheckoutRequested {
            user_id, item_id, ..
        } = request;
        let rules = self.found.rules.unwrap_or_default();
        let is_there = (0..rules.items).contains(&item_id);
        self.demand(
            offset,
            is_there,
            "reserved an item that the sale does not have",
        );
        let is_sold = self.found.sold.contains_key(&item_id);
        self.demand(offset, !is_sold, "reserved an item that was sold");
        let before = self
            .newest
            .get(&item_id)
            .map(|code| self.reservations[code]);
        let is_free = before.is_none_or(|before| before.expires_at_ms <= now_ms);
        self.demand(
            offset,
            is_sold || is_free,
            "reserved an item that was reserved",
        );
        let has = self.has(user_id, now_ms);
        let within = has < usize::try_from(rules.limit).unwrap_or(0);
        self.demand(offset, within, "reserved more than a user may have");
        let holds_ms = i64::from(rules.reservation_seconds) * 1_000;
        let ends_at_ms = self.sale.starts_at_ms() + i64::from(rules.sale_seconds) * 1_000;
        let is_right = expires_at_ms == ends_at_ms.min(now_ms + holds_ms);
        self.demand(
            offset,
            is_right,
            "reserved for another time than the rules say",
        );
        let reservation = Reservation {
            user_id,
            item_id,
            expires_at_ms,
        };
        let known = self.reservations.insert(code, reservation);
        self.demand(offset, known.is_none(), "gave a code that was given before");
        self.newest.insert(item_id, code);
        self.of_users.entry(user_id).or_default().push(code);
    }

    /// How many items a user has bought, or reserved at this time.
    fn has(&self, user_id: i64, now_ms: i64) -> usize {
        let codes = self.of_users.get(&user_id).into_iter().flatten();
        let reservations = codes.map(|code| (code, self.reservations[code]));
        let counts = |(code, reservation): &(&Code, Reservation)| {
            let bought = self.found.sold.get(&reservation.item_id);
            let is_newest = self.newest.get(&reservation.item_id) == Some(*code);
            let is_bought = is_newest && bought.is_some_and(|bought| bought.user_id == user_id);
            is_bought || reservation.expires_at_ms > now_ms
        };
        reservations.filter(counts).count()
    }

    fn purchased(&mut self, request: &PurchaseRequested, item_id: i32, bought: Bought) {
        let offset = bought.offset;
        match self.reservations.get(&request.code).copied() {
            None => self.fault(offset, "bought with a code that was not given in this sale"),
            Some(reservation) => {
                let is_its =
                    (reservation.item_id, reservation.user_id) == (item_id, bought.user_id);
                self.demand(
                    offset,
                    is_its,
                    "bought another item than its code was given for",
                );
                let in_time = bought.at_ms < reservation.expires_at_ms;
                self.demand(offset, in_time, "bought after the end of the reservation");
            }
        }
        if self.found.sold.contains_key(&item_id) {
            self.fault(offset, format_args!("sold item {item_id} a second time"));
            return;
        }
        self.found.sold.insert(item_id, bought);
        let rules = self.found.rules.unwrap_or_default();
        let within = self.found.sold.len() <= usize::try_from(rules.items).unwrap_or(0);
        self.demand(offset, within, "sold more items than the sale has");
    }

    fn demand(&mut self, offset: i64, is_kept: bool, otherwise: &str) {
        if !is_kept {
            self.fault(offset, otherwise);
        }
    }

    fn fault(&mut self, offset: i64, what: impl std::fmt::Display) {
        self.found.faults.push(format!("offset {offset}: {what}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sales::Refused;

    const STARTS_AT: i64 = 7_200_000;

    fn id() -> SaleId {
        SaleId::starting_at_ms(STARTS_AT)
    }

    /// Two items, one a user, a second to pay, in sales of a minute.
    fn audit() -> Audit {
        let mut book = RuleBook::default();
        let rules = SaleRulesSet {
            items: 2,
            limit: 1,
            reservation_seconds: 1,
            sale_seconds: 60,
        };
        book.set(0, rules);
        Audit::new(id(), book)
    }

    fn code(offset: i64) -> Code {
        Code::new(id(), offset, offset)
    }

    /// Shows a checkout that was decided at this time after the start.
    fn checkout(
        audit: &mut Audit,
        offset: i64,
        after_ms: i64,
        who: i64,
        item: i32,
        verdict: Verdict,
    ) {
        let event = SaleEvent::CheckoutRequested(CheckoutRequested {
            user_id: who,
            item_id: item,
            requested_at: STARTS_AT + after_ms,
            rules_seen: 1,
            nonce: offset,
            key: None,
        });
        show(audit, offset, after_ms, event, verdict);
    }

    fn purchase(audit: &mut Audit, offset: i64, after_ms: i64, with: Code, who: i64, item: i32) {
        let event = SaleEvent::PurchaseRequested(PurchaseRequested {
            code: with,
            requested_at: STARTS_AT + after_ms,
            rules_seen: 1,
            nonce: offset,
            key: None,
        });
        let verdict = Verdict::Purchased {
            item_id: item,
            user_id: who,
        };
        show(audit, offset, after_ms, event, verdict);
    }

    fn show(audit: &mut Audit, offset: i64, after_ms: i64, event: SaleEvent, verdict: Verdict) {
        let at_ms = STARTS_AT + after_ms;
        let record = Record {
            partition: 0,
            offset,
            timestamp_ms: at_ms,
            event,
        };
        let starts_at_ms = at_ms - at_ms.rem_euclid(60_000);
        let decision = Decision {
            sale: SaleId::starting_at_ms(starts_at_ms),
            at_ms,
            verdict,
            is_replayed: false,
        };
        audit.see(&record, Passed::Decided(decision));
    }

    fn reserved(offset: i64, after_ms: i64) -> Verdict {
        Verdict::Reserved {
            code: code(offset),
            expires_at_ms: STARTS_AT + after_ms + 1_000,
        }
    }

    #[test]
    fn a_sale_that_keeps_its_promises_has_no_faults() {
        let mut audit = audit();
        checkout(&mut audit, 0, 0, 7, 0, reserved(0, 0));
        checkout(
            &mut audit,
            1,
            1,
            8,
            0,
            Verdict::Refused(Refused::ItemReserved),
        );
        purchase(&mut audit, 2, 999, code(0), 7, 0);
        checkout(&mut audit, 3, 1_000, 8, 1, reserved(3, 1_000));
        // It has lapsed, and is free for everybody.
        checkout(&mut audit, 4, 2_000, 8, 1, reserved(4, 2_000));
        purchase(&mut audit, 5, 2_999, code(4), 8, 1);
        checkout(
            &mut audit,
            6,
            60_000,
            7,
            0,
            Verdict::Refused(Refused::ItemReserved),
        );
        let found = audit.found;
        assert_eq!(found.faults, [""; 0]);
        let buyers: Vec<_> = found.sold.values().map(|bought| bought.user_id).collect();
        assert_eq!(buyers, [7, 8]);
        assert_eq!(
            (found.requests, found.reservations, found.refusals),
            (6, 3, 1)
        );
        assert!(found.is_over);
    }

    #[test]
    fn every_broken_promise_is_found() {
        let faults = |show: fn(&mut Audit)| {
            let mut audit = audit();
            checkout(&mut audit, 0, 0, 7, 0, reserved(0, 0));
            show(&mut audit);
            audit.found.faults
        };
        /// What breaks a promise, and what is said of it.
        type Case = (fn(&mut Audit), &'static str);
        let cases: [Case; 8] = [
            (
                |a| checkout(a, 1, 1, 8, 0, reserved(1, 1)),
                "offset 1: reserved an item that was reserved",
            ),
            (
                |a| checkout(a, 1, 1, 7, 1, reserved(1, 1)),
                "offset 1: reserved more than a user may have",
            ),
            (
                |a| checkout(a, 1, 1, 8, 2, reserved(1, 1)),
                "offset 1: reserved an item that the sale does not have",
            ),
            (
                |a| checkout(a, 1, 1, 8, 1, reserved(1, 0)),
                "offset 1: reserved for another time than the rules say",
            ),
            (
                |a| purchase(a, 1, 1, code(9), 7, 0),
                "offset 1: bought with a code that was not given in this sale",
            ),
            (
                |a| purchase(a, 1, 1, code(0), 8, 0),
                "offset 1: bought another item than its code was given for",
            ),
            (
                |a| purchase(a, 1, 1_000, code(0), 7, 0),
                "offset 1: bought after the end of the reservation",
            ),
            (
                |a| {
                    purchase(a, 1, 1, code(0), 7, 0);
                    purchase(a, 2, 2, code(0), 7, 0);
                },
                "offset 2: sold item 0 a second time",
            ),
        ];
        for (show, fault) in cases {
            assert_eq!(faults(show), [fault]);
        }
    }
}
