use std::sync::Arc;

use processors::sales::Verdict;
use producers::{
    append::{Appender, Profile},
    clock,
    kafka::Kafka,
    metrics::AppendMetrics,
};

use super::*;

const NO_CODE: &str = "123e4567-e89b-12d3-a456-426614174000";

/// A sale whose broker does not answer.
fn sale() -> Arc<Sale> {
    let kafka = Kafka {
        brokers: "127.0.0.1:1".to_owned(),
        prefix: String::new(),
        properties: Vec::new(),
    };
    let appender = Appender::new(&kafka, Profile::Interactive, AppendMetrics::default());
    let writer = EventWriter::new(Arc::new(appender.unwrap()), "");
    let sale = Sale::new(writer);
    sale.open();
    Arc::new(sale)
}

fn asked(event: &SaleEvent) -> Asked {
    (event.clone(), Context::default())
}

fn stamp(offset: i64) -> Stamped {
    Stamped {
        offset,
        appended_at_ms: clock::now_ms(),
    }
}

fn record(offset: i64, event: &SaleEvent) -> Record<SaleEvent> {
    Record {
        partition: 0,
        offset,
        timestamp_ms: clock::now_ms(),
        event: event.clone(),
    }
}

/// Who has reserved something.
fn holders(sale: &Sale) -> Vec<i64> {
    let ledger = sale.ledger();
    ledger
        .sales
        .reservations()
        .map(|held| held.user_id)
        .collect()
}

#[test]
fn what_was_written_here_is_not_folded_before_what_others_have_written_before_it() {
    let sale = sale();
    let (first, own) = (sale.checkout(1, 7, None), sale.checkout(2, 7, None));
    let told = sale.desk.take(own.nonce()).unwrap();
    sale.fold_own(&[asked(&own)], &[stamp(1)]);
    assert_eq!(sale.ledger().next_offset(), 0);
    assert_eq!(holders(&sale), [0_i64; 0]);
    for (offset, event) in [(0, &first), (1, &own)] {
        sale.fold(&mut sale.ledger(), &record(offset, event))
            .unwrap();
    }
    assert_eq!(holders(&sale), [1]);
    drop(told);
}

#[tokio::test]
async fn what_was_written_here_and_is_the_next_is_told_at_once_and_folded_once() {
    let sale = sale();
    let own = sale.checkout(2, 7, None);
    let mut ticket = sale.desk.take(own.nonce()).unwrap();
    sale.fold_own(&[asked(&own)], &[stamp(0)]);
    let settled = ticket.verdict().await.unwrap().unwrap();
    let Passed::Decided(decision) = settled.passed else {
        panic!("{settled:?}");
    };
    assert!(matches!(decision.verdict, Verdict::Reserved { .. }));
    // As the tail brings it.
    sale.fold(&mut sale.ledger(), &record(0, &own)).unwrap();
    assert_eq!(sale.ledger().next_offset(), 1);
    assert_eq!(holders(&sale), [2]);
}

#[tokio::test(start_paused = true)]
async fn who_gets_no_verdict_in_time_is_told_that_nobody_knows() {
    let sale = sale();
    // Nothing runs beside it: the request stays where it is.
    let queue = Queue::new(Arc::clone(&sale));
    let settled = sale
        .settle(&queue, sale.checkout(1, 1, None), Context::default())
        .await;
    assert!(matches!(settled, Err(Unsettled::Unknown)), "{settled:?}");
    assert_eq!(sale.waiters(), 0);
}

#[test]
fn where_there_is_no_room_for_keys_those_that_are_known_come_again() {
    let sale = sale();
    let key = || Some("k".to_owned());
    let known = sale.checkout(2, 7, key());
    sale.fold_own(&[asked(&known)], &[stamp(0)]);
    let is_full = |event, keys_max| sale.is_full_of_keys(&event, keys_max);
    assert!(!is_full(sale.checkout(3, 7, key()), 2));
    assert!(is_full(sale.checkout(3, 7, key()), 1));
    assert!(is_full(sale.purchase(NO_CODE.parse().unwrap(), key()), 1));
    assert!(!is_full(sale.checkout(2, 7, key()), 1));
    // The same key with another request is for the log to refuse.
    assert!(!is_full(sale.checkout(2, 8, key()), 1));
}

#[test]
fn a_sale_that_was_closed_gives_no_verdict_and_does_not_open_again() {
    let sale = sale();
    sale.close();
    sale.open();
    assert!(!sale.is_open() && sale.stock(0).is_none());
    let own = sale.checkout(2, 7, None);
    sale.fold_own(&[asked(&own)], &[stamp(0)]);
    assert_eq!(sale.ledger().next_offset(), 0);
}

#[test]
fn who_panics_with_the_ledger_in_hand_closes_the_sale() {
    let sale = sale();
    let folding = Arc::clone(&sale);
    let folded = std::thread::spawn(move || {
        let _half_done = folding.ledger();
        panic!("on purpose");
    });
    assert!(folded.join().is_err());
    drop(sale.ledger());
    assert!(!sale.is_open());
}
