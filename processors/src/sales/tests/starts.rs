//! Where a process may begin to read: on every log, every legal start leads to the same state as the whole log.

use std::cell::Cell;

use proptest::{prelude::*, test_runner::TestRunner};

use super::{
    logs::{Live, Log, logs},
    *,
};

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
