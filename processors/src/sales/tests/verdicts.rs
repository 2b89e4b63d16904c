//! On every log, the verdicts are those of the model, and what was promised holds.

use std::collections::{BTreeSet, HashMap, HashSet};

use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};

use super::{
    logs::{Live, logs},
    model::{Answer, Given, Model, Said},
    *,
};

const RECORDS_MAX: usize = 80;
const LOGS: u32 = 1_000;
/// Enough to see everything.
const SAMPLES: usize = 300;

proptest! {
    #![proptest_config(ProptestConfig::with_cases(LOGS))]

    #[test]
    fn the_verdicts_are_those_of_a_model_that_forgets_nothing(log in logs(RECORDS_MAX)) {
        let mut model = Model { rules: log.rules.clone(), past: Vec::new() };
        let mut live = Live::default();
        for (index, record) in log.records.iter().enumerate() {
            let wanted = model.judge(record);
            prop_assert_eq!(said(live.fold(&log, index)), wanted, "at {}", index);
        }
    }

    #[test]
    fn nothing_is_ever_oversold(log in logs(RECORDS_MAX)) {
        let mut seen = Seen::default();
        let mut live = Live::default();
        for (index, record) in log.records.iter().enumerate() {
            if let Passed::Decided(decision) = live.fold(&log, index) {
                let stock = live.sales.stock(decision.at_ms, &log.whole_book());
                seen.must_allow(record, &decision, &stock);
            }
        }
    }

    #[test]
    fn the_stock_is_what_the_verdicts_say(log in logs(RECORDS_MAX), later_ms in 0..10_000_i64) {
        let mut model = Model { rules: log.rules.clone(), past: Vec::new() };
        let mut live = Live::default();
        for (index, record) in log.records.iter().enumerate() {
            model.judge(record);
            if let Passed::Decided(decision) = live.fold(&log, index) {
                let before = live.sales.digest();
                let now_ms = decision.at_ms + later_ms;
                let stock = live.sales.stock(now_ms, &log.whole_book());
                prop_assert_eq!(stock.sold as usize, model.bought_in(stock.sale).len());
                prop_assert_eq!(stock.reserved as usize, model.reserved_in(stock.sale, now_ms).len());
                prop_assert_eq!(live.sales.digest(), before);
            }
        }
    }
}

#[test]
fn the_random_logs_have_everything_that_can_happen() {
    let mut runner = TestRunner::deterministic();
    let mut seen = BTreeSet::new();
    for _ in 0..SAMPLES {
        let log = logs(RECORDS_MAX).new_tree(&mut runner).unwrap().current();
        let mut live = Live::default();
        for index in 0..log.records.len() {
            seen.insert(match live.fold(&log, index) {
                Passed::Barrier => ("barrier", false),
                Passed::Void => ("void", false),
                Passed::Decided(decision) => (decision.verdict.name(), decision.is_replayed),
            });
        }
    }
    let count = |wanted| seen.iter().filter(|(_, again)| *again == wanted).count();
    // Two that are no verdicts, two successes, nine refusals; what cannot be repeated is a key that was used before.
    assert_eq!((count(false), count(true)), (13, 10), "{seen:?}");
}

/// In the words of the model.
fn said(passed: Passed) -> Answer {
    let decision = match passed {
        Passed::Barrier => return Answer::Barrier,
        Passed::Void => return Answer::Void,
        Passed::Decided(decision) => decision,
    };
    Answer::Given(Given {
        at_ms: decision.at_ms,
        sale: decision.sale,
        again: decision.is_replayed,
        said: match decision.verdict {
            Verdict::Reserved {
                code,
                expires_at_ms,
            } => Said::Reserved {
                code,
                expires_at_ms,
            },
            Verdict::Purchased { item_id, user_id } => Said::Bought { user_id, item_id },
            Verdict::Refused(why) => Said::No(why.name()),
        },
    })
}

/// All promises that were made on a log.
#[derive(Default)]
struct Seen {
    buyers: HashMap<(SaleId, i32), i64>,
    reservations: Vec<Reservation>,
    codes: HashSet<Code>,
    last_ms: i64,
}

struct Reservation {
    sale: SaleId,
    code: Code,
    user_id: i64,
    item_id: i32,
    expires_at_ms: i64,
    is_bought: bool,
}

impl Seen {
    fn must_allow(&mut self, record: &Record<SaleEvent>, decision: &Decision, stock: &Stock) {
        assert!(self.last_ms <= decision.at_ms, "time went back");
        self.last_ms = decision.at_ms;
        match (&record.event, decision.verdict) {
            _ if decision.is_replayed => return,
            (
                SaleEvent::CheckoutRequested(checkout),
                Verdict::Reserved {
                    code,
                    expires_at_ms,
                },
            ) => {
                assert!(self.codes.insert(code), "a code was given twice");
                assert!(decision.at_ms < expires_at_ms && expires_at_ms <= stock.ends_at_ms);
                self.reservations.push(Reservation {
                    sale: decision.sale,
                    code,
                    user_id: checkout.user_id,
                    item_id: checkout.item_id,
                    expires_at_ms,
                    is_bought: false,
                });
            }
            (SaleEvent::PurchaseRequested(purchase), Verdict::Purchased { item_id, user_id }) => {
                self.buy(purchase.code, item_id, user_id, decision);
            }
            _ => {}
        }
        self.must_fit(decision, stock);
    }

    fn buy(&mut self, code: Code, item_id: i32, user_id: i64, decision: &Decision) {
        let mut all = self.reservations.iter_mut();
        let reservation = all.find(|reservation| reservation.code == code);
        let reservation = reservation.expect("nothing is bought without a reservation");
        assert_eq!(
            (reservation.item_id, reservation.user_id),
            (item_id, user_id)
        );
        assert_eq!(reservation.sale, decision.sale);
        assert!(
            decision.at_ms < reservation.expires_at_ms,
            "bought too late"
        );
        reservation.is_bought = true;
        let before = self.buyers.insert((decision.sale, item_id), user_id);
        assert_eq!(before, None, "an item was bought twice");
    }

    /// Never more than there is, never more than one may have, never an item twice.
    fn must_fit(&self, decision: &Decision, stock: &Stock) {
        let held: Vec<_> = self
            .reservations
            .iter()
            .filter(|held| held.sale == decision.sale)
            .filter(|held| held.is_bought || decision.at_ms < held.expires_at_ms)
            .collect();
        let items: HashSet<_> = held.iter().map(|held| held.item_id).collect();
        assert_eq!(items.len(), held.len(), "an item has two holders");
        assert!(held.len() <= usize::try_from(stock.rules.items).unwrap());
        for user_id in held.iter().map(|held| held.user_id) {
            let count = held.iter().filter(|held| held.user_id == user_id).count();
            assert!(count <= usize::try_from(stock.rules.limit).unwrap());
        }
    }
}
