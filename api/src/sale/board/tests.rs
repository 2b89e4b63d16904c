use std::{collections::HashMap, sync::atomic::AtomicUsize, thread};

use processors::{
    record::Record,
    sales::{Passed, RuleBook, Verdict as ByLog},
};
use proptest::{collection::vec, prelude::*};
use schemas::{
    sale_rules::SaleRulesSet,
    sales::{Code, PurchaseRequested},
};

use super::*;

const START_MS: i64 = 1_795_251_600_000;
const RULES: SaleRulesSet = SaleRulesSet {
    items: 4,
    limit: 2,
    reservation_seconds: 3,
    sale_seconds: 10,
};

/// A ledger with its board.
struct Process {
    ledger: Ledger,
    board: Arc<Board>,
    /// The clock of the broker.
    now_ms: i64,
    /// How far that of the process is ahead of it.
    error_ms: i64,
    codes: Vec<Code>,
    asked: Vec<SaleEvent>,
}

/// What happens next.
#[derive(Debug, Clone)]
enum Step {
    Checkout(i64, i32),
    /// With one of the codes that were given.
    Purchase(usize),
    /// What was asked before comes once more, with the same key.
    Again(usize),
    Time(i64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0_i64..4, 0_i32..4).prop_map(|(user, item)| Step::Checkout(user, item)),
        4 => (0_usize..64).prop_map(Step::Purchase),
        2 => (0_usize..64).prop_map(Step::Again),
        2 => (0_i64..1_500).prop_map(Step::Time),
    ]
}

fn moment(broker_ms: i64, error_ms: i64) -> Moment {
    Moment {
        wall_ms: broker_ms + error_ms,
        elapsed_ms: broker_ms - START_MS,
    }
}

impl Process {
    fn new() -> Self {
        let mut book = RuleBook::default();
        book.set(0, RULES);
        let ledger = Ledger::starting_at(0, book);
        Self {
            board: Arc::new(Board::of(&ledger)),
            ledger,
            now_ms: START_MS,
            error_ms: 0,
            codes: Vec::new(),
            asked: Vec::new(),
        }
    }

    fn take(&mut self, step: &Step) {
        match *step {
            Step::Checkout(user_id, item_id) => drop(self.fold(self.checkout(user_id, item_id))),
            Step::Purchase(which) if !self.codes.is_empty() => {
                let code = self.codes[which % self.codes.len()];
                self.fold(SaleEvent::PurchaseRequested(PurchaseRequested {
                    code,
                    requested_at: self.now_ms,
                    rules_seen: 1,
                    nonce: 0,
                    key: self.key(),
                }));
            }
            Step::Again(which) if !self.asked.is_empty() => {
                let mut event = self.asked[which % self.asked.len()].clone();
                match &mut event {
                    SaleEvent::CheckoutRequested(checkout) => checkout.requested_at = self.now_ms,
                    SaleEvent::PurchaseRequested(purchase) => purchase.requested_at = self.now_ms,
                    SaleEvent::Barrier(_) => unreachable!("nobody asks for it"),
                }
                self.fold(event);
            }
            Step::Purchase(_) | Step::Again(_) => {}
            Step::Time(more_ms) => self.now_ms += more_ms,
        }
    }

    fn checkout(&self, user_id: i64, item_id: i32) -> SaleEvent {
        SaleEvent::CheckoutRequested(CheckoutRequested {
            user_id,
            item_id,
            requested_at: self.now_ms,
            rules_seen: 1,
            nonce: self.ledger.next_offset(),
            key: self.key(),
        })
    }

    /// Another one for every request.
    fn key(&self) -> Option<String> {
        Some(format!("k-{}", self.ledger.next_offset()))
    }

    /// Folds what it has written itself.
    fn fold(&mut self, event: SaleEvent) -> ByLog {
        self.board.note_clock(self.moment(), self.now_ms);
        self.fold_stamped(event, self.now_ms)
    }

    fn fold_stamped(&mut self, event: SaleEvent, timestamp_ms: i64) -> ByLog {
        let record = Record {
            partition: 0,
            offset: self.ledger.next_offset(),
            timestamp_ms,
            event,
        };
        let Ok(Some(Passed::Decided(decision))) = self.ledger.fold(&record) else {
            panic!("{record:?} counts");
        };
        self.board
            .note(&record.event, &decision, timestamp_ms, &self.ledger);
        if let ByLog::Reserved { code, .. } = decision.verdict {
            self.codes.push(code);
        }
        self.asked.push(record.event);
        decision.verdict
    }

    fn moment(&self) -> Moment {
        moment(self.now_ms, self.error_ms)
    }

    fn refusal(&self, user_id: i64, item_id: i32) -> Option<Refusal> {
        let refused = self.board.refusal(user_id, item_id, self.moment());
        refused.map(|refused| refused.reason)
    }

    /// What the log would say to a checkout that reaches it so much later.
    fn by_log(&self, user_id: i64, item_id: i32, later_ms: i64) -> ByLog {
        let mut other = Self {
            ledger: self.ledger.clone(),
            board: Arc::new(Board::of(&self.ledger)),
            now_ms: self.now_ms + later_ms,
            error_ms: self.error_ms,
            codes: Vec::new(),
            asked: Vec::new(),
        };
        other.fold(other.checkout(user_id, item_id))
    }
}

proptest! {
    /// Whatever has happened, and however much of a second the way to the log takes.
    #[test]
    fn what_the_board_refuses_the_log_would_refuse_for_the_same_reason(
        steps in vec(step(), 0..60), later_ms in 0_i64..1_000, error_ms in -30_000_i64..30_000,
    ) {
        let mut process = Process { error_ms, ..Process::new() };
        for step in &steps {
            process.take(step);
            for user in 0..4 {
                for item in 0..4 {
                    let Some(reason) = process.refusal(user, item) else { continue };
                    let by_log = process.by_log(user, item, later_ms);
                    let name = serde_json::to_value(reason).unwrap();
                    prop_assert_eq!(by_log.name(), name.as_str().unwrap(), "after {:?}", step);
                }
            }
        }
    }
}

/// Everything that makes the board refuse, at once.
fn sold_out() -> Process {
    let mut process = Process::new();
    for item in 0..4 {
        process.take(&Step::Checkout(i64::from(item) / 2, item));
        process.take(&Step::Purchase(usize::try_from(item).unwrap()));
    }
    process
}

#[test]
fn the_board_refuses_what_is_sold_reserved_or_too_much() {
    let mut process = Process::new();
    process.take(&Step::Checkout(1, 0));
    assert_eq!(process.refusal(2, 0), Some(Refusal::ItemReserved));
    assert_eq!(process.refusal(2, 1), None);
    process.take(&Step::Purchase(0));
    assert_eq!(process.refusal(2, 0), Some(Refusal::ItemSold));
    process.take(&Step::Checkout(1, 1));
    // Reserved is not bought: it may lapse.
    assert_eq!(process.refusal(1, 2), None);
    process.take(&Step::Purchase(1));
    assert_eq!(process.refusal(1, 2), Some(Refusal::UserLimit));
    assert_eq!(process.refusal(2, 2), None);
    assert_eq!(sold_out().refusal(3, 0), Some(Refusal::SoldOut));
}

#[test]
fn what_comes_again_changes_nothing_on_the_board() {
    let mut process = Process::new();
    process.take(&Step::Checkout(1, 0));
    process.take(&Step::Purchase(0));
    process.take(&Step::Checkout(1, 1));
    // The answers of the first time, by their keys: a purchase as often as would sell everything, and a reservation.
    for asked in [1, 1, 1, 0] {
        process.take(&Step::Again(asked));
    }
    assert_eq!(process.refusal(2, 0), Some(Refusal::ItemSold));
    assert_eq!(process.refusal(2, 2), None);
}

#[test]
fn after_a_second_without_a_request_that_counts_the_log_is_asked() {
    let mut process = sold_out();
    process.now_ms += FRESH_MS - 1;
    assert_eq!(process.refusal(3, 0), Some(Refusal::SoldOut));
    process.now_ms += 1;
    assert_eq!(process.refusal(3, 0), None);
    assert_eq!(process.by_log(3, 0, 0).name(), "sold_out");
}

#[test]
fn a_clock_that_is_wrong_hides_no_lag() {
    for error_ms in [-10_000, -1_500, 0, 1_500, 10_000] {
        for lag_ms in [FRESH_MS, 1_500, 3_000] {
            let mut process = Process {
                error_ms,
                ..sold_out()
            };
            let stamped_at_ms = process.now_ms;
            // Its own records tell how wrong its clock is.
            process.take(&Step::Checkout(3, 0));
            assert_eq!(process.refusal(3, 0), Some(Refusal::SoldOut), "{error_ms}");
            // A record comes late, and is the newest that it knows.
            process.now_ms += lag_ms;
            process.fold_stamped(process.checkout(3, 0), stamped_at_ms);
            assert_eq!(process.refusal(3, 0), None, "{error_ms} {lag_ms}");
        }
    }
}

#[test]
fn a_clock_that_is_set_or_stands_still_hides_no_lag() {
    let process = sold_out();
    let Moment {
        wall_ms,
        elapsed_ms,
    } = process.moment();
    for (wall, elapsed) in [(-10_000, FRESH_MS), (FRESH_MS, 0), (10_000, 0)] {
        let now = Moment {
            wall_ms: wall_ms + wall,
            elapsed_ms: elapsed_ms + elapsed,
        };
        assert_eq!(process.board.refusal(3, 0, now), None, "{now:?}");
    }
}

#[test]
fn who_has_not_written_of_late_asks_the_log() {
    let board = Process::new().board;
    let now = board.moment(START_MS);
    assert_eq!(board.clock.at_most(now), None);
    board.note_clock(now, START_MS + 40);
    assert_eq!(board.clock.at_most(now), Some(START_MS + 40));
    let later = Moment {
        wall_ms: now.wall_ms + 10_000,
        elapsed_ms: now.elapsed_ms + 10_000,
    };
    assert_eq!(board.clock.at_most(later), None);
}

/// What a refusal was about: an item, a user, or all.
type Subject = (SaleId, Refusal, i64);

impl Process {
    /// Folds everything that a sale can have; notes which record made what true.
    fn sell_all(&mut self, folding: &AtomicI64, facts: &mut HashMap<Subject, i64>) {
        self.codes.clear();
        let steps = (0..4).flat_map(|item| {
            let buy = Step::Purchase(usize::try_from(item).unwrap());
            [(item, Step::Checkout((item / 2).into(), item)), (item, buy)]
        });
        for (item, step) in steps {
            let offset = self.ledger.next_offset();
            // Before it is folded: nobody may be told earlier.
            folding.store(offset, Ordering::SeqCst);
            self.take(&step);
            let stock = self.ledger.stock(self.now_ms);
            let mut note = |reason, subject| {
                facts.entry((stock.sale, reason, subject)).or_insert(offset);
            };
            note(Refusal::ItemReserved, item.into());
            if stock.sold > item.unsigned_abs() {
                note(Refusal::ItemSold, item.into());
            }
            let user = i64::from(item / 2);
            if self.ledger.sales.bought_by(user) == 2 {
                note(Refusal::UserLimit, user);
            }
            if stock.sold == 4 {
                note(Refusal::SoldOut, 0);
            }
        }
    }
}

#[test]
fn nobody_is_told_by_another_thread_what_was_not_folded() {
    const TOLD_MIN: usize = 2_000;
    let mut process = Process::new();
    let board = Arc::clone(&process.board);
    let (folding, told) = (AtomicI64::new(0), AtomicUsize::new(0));
    let now_ms = AtomicI64::new(process.now_ms);
    let mut facts = HashMap::new();
    let refusals = thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut refusals = Vec::new();
            while refusals.len() < TOLD_MIN {
                for (user, item) in (0..4).flat_map(|user| (0..4).map(move |item| (user, item))) {
                    let now = moment(now_ms.load(Ordering::SeqCst), 0);
                    let refused = board.refusal(user, item, now);
                    let folded = folding.load(Ordering::SeqCst);
                    refusals.extend(refused.map(|refused| (refused, user, item, folded)));
                }
                told.store(refusals.len(), Ordering::SeqCst);
            }
            refusals
        });
        while told.load(Ordering::SeqCst) < TOLD_MIN && !asking.is_finished() {
            process.sell_all(&folding, &mut facts);
            process.now_ms += 10_000;
            now_ms.store(process.now_ms, Ordering::SeqCst);
        }
        asking.join().unwrap()
    });
    for (refused, user, item, folded) in refusals {
        let subject = match refused.reason {
            Refusal::ItemReserved | Refusal::ItemSold => i64::from(item),
            Refusal::UserLimit => user,
            Refusal::SoldOut | Refusal::Other => 0,
        };
        let since = facts.get(&(refused.sale, refused.reason, subject));
        assert!(
            since.is_some_and(|since| *since <= folded && refused.next_offset <= folded + 1),
            "{refused:?} to {user} about {item} when {folded} was folded: so since {since:?}"
        );
    }
}

#[test]
fn in_the_last_second_of_a_sale_the_log_is_asked() {
    let mut process = sold_out();
    process.now_ms = START_MS + 8_998;
    process.take(&Step::Checkout(3, 0));
    assert_eq!(process.refusal(3, 0), Some(Refusal::SoldOut));
    process.now_ms += 2;
    assert_eq!(process.refusal(3, 0), None);
    // And the first request of the next one meets a fresh stock.
    process.now_ms = START_MS + 10_000;
    process.take(&Step::Checkout(3, 0));
    assert_eq!(process.refusal(2, 0), Some(Refusal::ItemReserved));
    assert_eq!(process.refusal(2, 1), None);
}

#[test]
fn an_item_is_refused_until_a_second_before_its_reservation_lapses() {
    let mut process = Process::new();
    process.take(&Step::Checkout(1, 0));
    process.now_ms += 1_998;
    process.take(&Step::Checkout(1, 1));
    assert_eq!(process.refusal(2, 0), Some(Refusal::ItemReserved));
    process.now_ms += 2;
    assert_eq!(process.refusal(2, 0), None);
}

#[test]
fn a_board_that_is_made_from_a_ledger_knows_what_the_one_that_was_there_knows() {
    let mut process = sold_out();
    process.board.replace(&process.ledger);
    assert_eq!(process.refusal(3, 0), None, "it is not fresh");
    process.take(&Step::Checkout(3, 1));
    assert_eq!(process.refusal(3, 0), Some(Refusal::SoldOut));
}

#[test]
fn an_item_that_the_sale_does_not_have_is_for_the_log_to_refuse() {
    let process = sold_out();
    assert_eq!(process.refusal(3, 4), None);
}

#[test]
fn users_that_are_full_are_found_among_as_many_as_there_can_be() {
    let users = Users::with_room(1_000);
    let some = |number: i64| number.wrapping_mul(0x5851_f42d_4c95_7f2d) & i64::MAX;
    for number in 0..1_000 {
        users.insert(some(number));
        users.insert(some(number));
    }
    assert!((0..1_000).all(|number| users.contains(some(number))));
    assert!(!(1_000..5_000).any(|number| users.contains(some(number))));
}
