//! Where a process may begin to read: on every log, every legal start leads to the same state as the whole log.

use std::cell::Cell;

use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    logs::{Live, Log, logs},
    *,
};
use crate::sales::start::Start;

const RECORDS_MAX: usize = 70;
const LOGS: u32 = 2_000;
/// Where the logs are as they should be, twenty starts of each are legal.
const LEGAL_STARTS_MIN: usize = 20_000;

#[test]
fn every_legal_start_leads_to_the_same_state() {
    let legal_starts = Cell::new(0);
    let mut runner = TestRunner::new(ProptestConfig {
        source_file: Some(file!()),
        ..ProptestConfig::with_cases(LOGS)
    });
    let outcome = runner.run(&logs(RECORDS_MAX), |log| {
        let whole = whole(&log);
        for from_ms in times(&log) {
            legal_starts.set(legal_starts.get() + usize::from(starts_well(&log, from_ms, &whole)?));
        }
        Ok(())
    });
    outcome.unwrap();
    assert!(legal_starts.get() > LEGAL_STARTS_MIN, "{legal_starts:?}");
}

/// What became of each record, and the state after it, for whoever folds from the first on.
fn whole(log: &Log) -> Vec<(Passed, [u8; 32])> {
    let mut live = Live::default();
    let indices = 0..log.records.len();
    indices
        .map(|index| (live.fold(log, index), live.sales.digest()))
        .collect()
}

/// Times to begin at. Each record's own is the latest that finds it, the millisecond after one the earliest that
/// finds the next: no start is missed.
fn times(log: &Log) -> Vec<i64> {
    let stamps = log.records.iter().map(|record| record.timestamp_ms);
    let mut times: Vec<_> = stamps.flat_map(|at_ms| [at_ms, at_ms + 1]).collect();
    times.sort_unstable();
    times.dedup();
    times
}

/// Folds from the first record that was stamped at `from_ms` or later. From where the start is legal on, verdicts and
/// states have to be those of the whole log. Whether it was ever legal.
fn starts_well(
    log: &Log,
    from_ms: i64,
    whole: &[(Passed, [u8; 32])],
) -> Result<bool, TestCaseError> {
    let mut stamps = log.records.iter().map(|record| record.timestamp_ms);
    let Some(start) = stamps.position(|at_ms| at_ms >= from_ms) else {
        return Ok(false);
    };
    let book = log.whole_book();
    let mut sales = Sales::default();
    let mut was_legal = start == 0;
    for (record, (wanted, state)) in log.records[start..].iter().zip(&whole[start..]) {
        let passed = sales.fold(record, &book).expect("the book is whole");
        if was_legal {
            prop_assert_eq!(passed, *wanted, "at {} from {}", record.offset, from_ms);
        }
        let last_ms = sales.last_ms();
        let is_legal =
            start == 0 || last_ms.is_some_and(|last_ms| from_ms <= window_start_ms(last_ms));
        prop_assert!(is_legal || !was_legal, "a legal start stays legal");
        if is_legal && (!was_legal || record.offset % 8 == 0) {
            prop_assert_eq!(
                sales.digest(),
                *state,
                "at {} from {}",
                record.offset,
                from_ms
            );
        }
        was_legal = is_legal;
    }
    if was_legal {
        let (_, state) = whole.last().expect("the start is a record");
        prop_assert_eq!(sales.digest(), *state, "from {}", from_ms);
    }
    Ok(was_legal && start > 0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(LOGS))]

    #[test]
    fn a_start_is_found_on_every_log(log in logs(RECORDS_MAX)) {
        let (_, ledger) = found(&log);
        let (_, state) = whole(&log).pop().expect("a log has records");
        prop_assert_eq!(ledger.sales.digest(), state);
    }
}

/// Searches for a start as a process does that has read the rules as far as they go; those that matter come while it
/// waits. Gives the first record that was read, and the state.
fn found(log: &Log) -> (usize, Ledger) {
    let newest = log.records.last().expect("a log has records");
    let mut start = Start::guessed(newest.timestamp_ms);
    let mut book = log.book_so_far();
    loop {
        let index = log
            .records
            .iter()
            .position(|record| record.timestamp_ms >= start.from_ms)
            .unwrap_or(log.records.len());
        let (ledger, assumed) = fold_assuming(&log.records[index..], book.clone());
        let last_ms = ledger.sales.last_ms();
        if index > 0 && !start.is_legal(last_ms) {
            let before_ms = log.records[index - 1].timestamp_ms;
            start = start.earlier(last_ms, Some(before_ms));
            continue;
        }
        let needed_ms = last_ms.map_or(i64::MIN, window_start_ms);
        match assumed.filter(|assumed| assumed.at_ms >= needed_ms) {
            None => return (index, ledger),
            Some(_) => book = log.whole_book(),
        }
    }
}

fn fold_assuming(records: &[Record<SaleEvent>], book: RuleBook) -> (Ledger, Option<Assumed>) {
    let mut ledger = Ledger::starting_at(0, book);
    let mut assumed = None;
    for record in records {
        assumed = ledger.fold_assuming(record).1.or(assumed);
    }
    (ledger, assumed)
}

#[test]
fn rules_that_nobody_set_hold_nobody_up_who_starts_after_their_hour() {
    let foreign = checkout("eve", 1).record(0, NINE - 1, 1_000_000);
    let records = [
        foreign,
        checkout("ann", 2).record(1, NINE + MINUTE, 0),
        checkout("bob", 3).record(2, NINE + HOUR_MS, 0),
    ];
    let (ledger, assumed) = fold_assuming(&records, RuleBook::default());
    let needed_ms = window_start_ms(ledger.sales.last_ms().unwrap());
    assert_eq!(assumed.map(|assumed| assumed.at_ms), Some(NINE - 1));
    assert!(NINE - 1 < needed_ms);

    let (whole, assumed) = fold_assuming(&records[1..], RuleBook::default());
    assert_eq!(assumed, None);
    assert_eq!(ledger.sales.digest(), whole.sales.digest());
}

#[test]
fn a_clock_that_was_far_ahead_is_passed_without_reading_the_log_before_it() {
    const YEAR_MS: i64 = 365 * 24 * HOUR_MS;
    // A request an hour, for a year; then the broker's clock is another year ahead, and nothing counts.
    let counts = (0..365 * 24).map(|hour| (hour, NINE + hour * HOUR_MS, 0));
    let voids =
        (365 * 24..365 * 24 + 9).map(|hour| (hour, NINE + YEAR_MS + hour * HOUR_MS, -YEAR_MS));
    let records = counts.chain(voids).map(|(offset, at_ms, drift_ms)| {
        let request = checkout("ann", 1).drifting(drift_ms);
        request.record(offset, at_ms, 0)
    });
    let mut log = Log::default();
    log.records.extend(records);
    let (first, ledger) = found(&log);
    assert_eq!(first, 365 * 24 - 2);
    assert_eq!(ledger.sales.last_ms(), Some(NINE + YEAR_MS - HOUR_MS));
}

#[test]
fn the_window_begins_an_hour_before_the_hour_of_the_log() {
    for (last_ms, start_ms) in [
        (NINE - 1, NINE - 2 * HOUR_MS),
        (NINE, NINE - HOUR_MS),
        (NINE + HOUR_MS - 1, NINE - HOUR_MS),
        (NINE + HOUR_MS, NINE),
    ] {
        assert_eq!(window_start_ms(last_ms), start_ms);
    }
}
