use proptest::prelude::*;
use schemas::{
    sale_rules::SaleRulesSet,
    sales::{Barrier, CheckoutRequested, Code, PurchaseRequested},
};

use super::*;
use crate::sales::RuleBook;

const STARTS_AT: i64 = 7_200_000;

/// Three items, two a user, a second to pay, in sales of ten seconds.
fn rules() -> SaleRulesSet {
    SaleRulesSet {
        items: 3,
        limit: 2,
        reservation_seconds: 1,
        sale_seconds: 10,
    }
}

fn id() -> SaleId {
    SaleId::starting_at_ms(STARTS_AT)
}

fn record(offset: i64, after_ms: i64, event: SaleEvent) -> Record<SaleEvent> {
    Record {
        partition: 0,
        offset,
        timestamp_ms: STARTS_AT + after_ms,
        event,
    }
}

fn checkout(offset: i64, after_ms: i64, user_id: i64, item_id: i32) -> Record<SaleEvent> {
    keyed(offset, after_ms, user_id, item_id, None)
}

fn keyed(
    offset: i64,
    after_ms: i64,
    user_id: i64,
    item_id: i32,
    key: Option<&str>,
) -> Record<SaleEvent> {
    let request = CheckoutRequested {
        user_id,
        item_id,
        requested_at: STARTS_AT + after_ms,
        rules_seen: 1,
        nonce: offset,
        key: key.map(str::to_owned),
    };
    record(offset, after_ms, SaleEvent::CheckoutRequested(request))
}

/// With the code of the reservation at this offset.
fn purchase(offset: i64, after_ms: i64, reserved_at: i64) -> Record<SaleEvent> {
    let request = PurchaseRequested {
        code: Code::new(id(), reserved_at, reserved_at),
        requested_at: STARTS_AT + after_ms,
        rules_seen: 1,
        nonce: offset,
        key: None,
    };
    record(offset, after_ms, SaleEvent::PurchaseRequested(request))
}

fn void(mut request: Record<SaleEvent>) -> Record<SaleEvent> {
    request.timestamp_ms += 30_001;
    request
}

fn given(log: &[Record<SaleEvent>]) -> Ledger {
    let mut book = RuleBook::default();
    book.set(0, rules());
    let mut ledger = Ledger::starting_at(0, book);
    for record in log {
        ledger.fold(record).unwrap();
    }
    ledger
}

fn when(ledger: &mut Ledger, batch: &[Record<SaleEvent>]) -> Changes {
    let judged: Vec<_> = batch
        .iter()
        .map(|record| Judged::of(ledger.fold(record).unwrap().unwrap(), ledger))
        .collect();
    History::fold(&(), batch, &judged).changes
}

/// Offset, user, item, verdict and whether it is an earlier one, of each attempt.
type Told = (i64, Option<i64>, Option<i32>, &'static str, bool);

fn told(changes: &Changes) -> Vec<Told> {
    let attempts = changes.attempts.iter();
    attempts
        .map(|a| (a.offset, a.user_id, a.item_id, a.verdict, a.is_replayed))
        .collect()
}

fn taken(user_id: i64, after_ms: i64, offset: i64) -> Option<Taken> {
    Some(Taken {
        user_id,
        at_ms: STARTS_AT + after_ms,
        offset,
    })
}

#[test]
fn what_is_reserved_and_bought_in_a_batch_is_one_row() {
    let changes = when(&mut given(&[]), &[checkout(0, 5, 7, 2), purchase(1, 9, 0)]);
    let item = Item {
        sale: id(),
        item_id: 2,
        reserved: taken(7, 1_005, 0),
        purchased: taken(7, 9, 1),
    };
    assert_eq!(changes.items, [item]);
    let sale = SaleRow {
        id: id(),
        ends_at_ms: STARTS_AT + 10_000,
        rules: rules(),
        sold: 1,
        decided_at_ms: STARTS_AT + 9,
    };
    assert_eq!(changes.sales, [sale]);
    assert_eq!(
        told(&changes),
        [
            (0, Some(7), Some(2), "reserved", false),
            (1, Some(7), Some(2), "purchased", false)
        ]
    );
    let attempt = &changes.attempts[0];
    assert_eq!(attempt.expires_at_ms, Some(STARTS_AT + 1_005));
    assert_eq!((attempt.at_ms, attempt.kind), (STARTS_AT + 5, "checkout"));
}

#[test]
fn a_purchase_in_a_later_batch_leaves_the_reservation_as_it_is() {
    let changes = when(&mut given(&[checkout(0, 5, 7, 2)]), &[purchase(1, 9, 0)]);
    let [item] = &changes.items[..] else {
        panic!("{changes:?}");
    };
    assert_eq!((item.reserved, item.purchased), (None, taken(7, 9, 1)));
}

#[test]
fn refusals_are_attempts_and_change_no_item() {
    let log = [checkout(0, 0, 7, 2), purchase(1, 1, 0)];
    let batch = [
        checkout(2, 2, 8, 2),
        checkout(3, 3, 8, 3),
        purchase(4, 4, 0),
        purchase(5, 5, 3),
    ];
    let changes = when(&mut given(&log), &batch);
    assert_eq!(changes.items, []);
    assert_eq!(
        told(&changes),
        [
            (2, Some(8), Some(2), "item_sold", false),
            (3, Some(8), Some(3), "no_such_item", false),
            (4, None, None, "code_used", false),
            (5, None, None, "code_unknown", false),
        ]
    );
}

#[test]
fn a_void_request_is_of_no_sale_and_a_barrier_is_no_request() {
    let barrier = record(1, 1, SaleEvent::Barrier(Barrier { nonce: 1 }));
    let changes = when(&mut given(&[]), &[void(checkout(0, 0, 7, 2)), barrier]);
    assert_eq!((&changes.sales[..], &changes.items[..]), (&[][..], &[][..]));
    assert_eq!(told(&changes), [(0, Some(7), Some(2), "void", false)]);
    assert_eq!(changes.attempts[0].sale, None);
    assert_eq!(changes.attempts[0].at_ms, STARTS_AT + 30_001);
}

#[test]
fn a_repeated_request_takes_nothing_again() {
    let log = [keyed(0, 0, 7, 2, Some("k"))];
    let batch = [keyed(1, 1, 7, 2, Some("k")), keyed(2, 2, 7, 1, Some("k"))];
    let changes = when(&mut given(&log), &batch);
    assert_eq!(changes.items, []);
    assert_eq!(
        told(&changes),
        [
            (1, Some(7), Some(2), "reserved", true),
            (2, Some(7), Some(1), "key_reused", false)
        ]
    );
    assert!(changes.attempts.iter().all(|attempt| attempt.has_key));
}

#[test]
fn each_sale_of_a_batch_has_its_row() {
    let batch = [checkout(0, 0, 7, 2), checkout(1, 10_000, 7, 2)];
    let changes = when(&mut given(&[]), &batch);
    let starts: Vec<_> = changes.sales.iter().map(|s| s.id.starts_at_ms()).collect();
    assert_eq!(starts, [STARTS_AT, STARTS_AT + 10_000]);
    assert_eq!(changes.items.len(), 2);
}

/// The rows that batches leave behind.
#[derive(Debug, Default, PartialEq, Eq)]
struct Tables {
    sales: BTreeMap<SaleId, SaleRow>,
    items: BTreeMap<(SaleId, i32), Item>,
    attempts: Vec<Attempt>,
}

impl Tables {
    fn apply(&mut self, changes: Changes) {
        self.sales
            .extend(changes.sales.into_iter().map(|sale| (sale.id, sale)));
        for item in changes.items {
            let stored = self.items.entry((item.sale, item.item_id)).or_insert(item);
            stored.reserved = item.reserved.or(stored.reserved);
            stored.purchased = item.purchased;
        }
        self.attempts.extend(changes.attempts);
    }
}

proptest! {
    #[test]
    fn any_cut_into_batches_gives_the_same_tables(
        requests in prop::collection::vec((0..900_i64, 0..4_i64, 0..4_i32, 0..5_i64), 0..80),
        cuts in prop::collection::vec(0..80_usize, 0..6),
    ) {
        let mut after_ms = 0;
        let log: Vec<_> = (0..)
            .zip(&requests)
            .map(|(offset, &(step_ms, who, item, back))| {
                after_ms += step_ms;
                match back {
                    0 | 1 => checkout(offset, after_ms, who, item),
                    2 => void(checkout(offset, after_ms, who, item)),
                    back => purchase(offset, after_ms, offset - back + 2),
                }
            })
            .collect();
        let fold_cut = |mut ends: Vec<usize>| {
            ends.push(log.len());
            ends.sort_unstable();
            let (mut tables, mut ledger, mut start) = (Tables::default(), given(&[]), 0);
            for end in ends {
                tables.apply(when(&mut ledger, &log[start..end]));
                start = end;
            }
            tables
        };
        let cuts = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
        prop_assert_eq!(fold_cut(cuts), fold_cut(Vec::new()));
    }
}
