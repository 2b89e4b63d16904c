//! Histories made by hand: what the log says to them.

mod agreement;
mod lies;

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{fold::code, *};

/// 2026-11-21T09:00:00Z.
const NINE: i64 = 1_795_251_600_000;
const ANN: i64 = 1;
const BOB: i64 = 2;

fn checkout(user_id: i64, item_id: i64) -> Value {
    json!({"user_id": user_id, "item_id": item_id, "key": null})
}

fn purchase(offset: i64) -> Value {
    json!({"code": code_of(offset), "key": null})
}

/// The code that the record at an offset was given in the sale that begins at nine.
fn code_of(offset: i64) -> String {
    code(NINE, offset, nonce(offset))
}

fn nonce(offset: i64) -> i64 {
    7_000 - offset
}

fn with_key(mut event: Value, key: &str) -> Value {
    event["key"] = key.into();
    event
}

/// A log of these events and their times in milliseconds since nine o'clock. Sales have three items, two a user.
fn history(events: impl IntoIterator<Item = (i64, Value)>) -> History {
    let record = |(offset, (at_ms, mut event)): (i64, (i64, Value))| {
        let drift_ms = event["drift_ms"].as_i64().unwrap_or(0);
        event["requested_at"] = (NINE + at_ms + drift_ms).into();
        event["rules_seen"] = 1.into();
        event["nonce"] = nonce(offset).into();
        Record {
            offset,
            timestamp_ms: NINE + at_ms,
            asked: asked(&event),
        }
    };
    let set = json!({"items": 3, "limit": 2, "reservation_seconds": 60, "sale_seconds": 3_600});
    let records = (0..).zip(events).map(record).collect();
    History::of(records, vec![(0, rules(&set).unwrap())])
}

/// Answers that tell the truth, one after the other, ten milliseconds each.
fn truth(history: &History) -> Vec<Answer> {
    let start = Instant::now();
    let after = |ms: i64| start + Duration::from_millis(ms.try_into().unwrap());
    let requests = history
        .judged
        .iter()
        .filter_map(|judged| Some((judged, judged.request.clone()?)));
    requests
        .map(|(judged, request)| {
            let (status, said) = match &judged.verdict {
                Verdict::None => panic!("a request has a verdict"),
                Verdict::Void => (503, "not_applied"),
                Verdict::Reserved { code, .. } => (200, code.as_str()),
                Verdict::Purchased { .. } => (200, ""),
                Verdict::Refused(reason @ "key_reused") => (422, *reason),
                Verdict::Refused(reason) => (409, *reason),
            };
            Answer {
                asked_at: after(judged.offset * 10),
                answered_at: after(judged.offset * 10 + 5),
                request,
                status,
                said: said.to_owned(),
                position: Some(judged.offset),
            }
        })
        .collect()
}

/// Ann reserves and buys item 1, which Bob does not get.
fn simple() -> History {
    history([
        (0, checkout(ANN, 1)),
        (1, checkout(BOB, 1)),
        (2, purchase(0)),
        (3, checkout(BOB, 1)),
    ])
}

#[track_caller]
fn must_be_true(history: &History, answers: &[Answer]) {
    history.check(answers);
}

#[test]
fn a_code_is_made_of_sale_offset_and_nonce() {
    let code = code(NINE, 5, -2);
    assert_eq!(code, "06b015d9-0000-8000-85ff-fffffffffffe");
    assert_eq!(fold::sale_of(&code), Some(NINE));
    assert_eq!(fold::sale_of("00000000-0000-4000-8000-000000000000"), None);
    assert_eq!(fold::sale_of("no code"), None);
}

#[test]
fn verdicts_are_those_of_the_contract() {
    let history = history([
        (0, checkout(ANN, 0)),
        (1, checkout(ANN, 1)),
        (2, checkout(ANN, 2)),
        (3, checkout(BOB, 0)),
        (4, checkout(BOB, 3)),
        (5, purchase(0)),
        (6, purchase(0)),
        (60_001, purchase(1)),
        (60_002, purchase(2)),
        (60_003, checkout(BOB, 0)),
        (60_004, checkout(BOB, 1)),
        (3_600_000, purchase(0)),
        (3_600_001, checkout(BOB, 0)),
        (7_200_000, purchase(0)),
    ]);
    let at = |offset| history.verdict(offset).unwrap();
    let reserved = |sale: i64, offset: i64, expires_at_ms: i64| Verdict::Reserved {
        code: code(NINE + sale, offset, nonce(offset)),
        expires_at_ms: NINE + expires_at_ms,
    };
    assert_eq!(*at(0), reserved(0, 0, 60_000));
    assert_eq!(*at(1), reserved(0, 1, 60_001));
    let bought = Verdict::Purchased {
        user_id: ANN,
        item_id: 0,
    };
    assert_eq!(*at(5), bought);
    for (offset, reason) in [
        (2, "user_limit"),
        (3, "item_reserved"),
        (4, "no_such_item"),
        (6, "code_used"),
        (7, "code_expired"),
        (8, "code_unknown"),
        (9, "item_sold"),
        (11, "code_used"),
        (13, "code_expired"),
    ] {
        assert_eq!(*at(offset), Verdict::Refused(reason), "at {offset}");
    }
    assert_eq!(*at(10), reserved(0, 10, 120_004));
    assert_eq!(*at(12), reserved(3_600_000, 12, 3_660_001));
    assert_eq!(history.verdict(14), None);
}

#[test]
fn requests_that_do_not_count_are_void_and_what_is_no_request_has_no_verdict() {
    let mut late = checkout(ANN, 0);
    late["drift_ms"] = (-30_001).into();
    let history = history([
        (0, late),
        (1, json!({})),
        (2, checkout(-1, 0)),
        (3, checkout(ANN, 0)),
    ]);
    assert_eq!(history.verdict(0), Some(&Verdict::Void));
    assert_eq!(history.verdict(1), Some(&Verdict::None));
    assert_eq!(history.verdict(2), Some(&Verdict::None));
    assert!(matches!(history.verdict(3), Some(Verdict::Reserved { .. })));
    must_be_true(&history, &truth(&history));
}

#[test]
fn a_repetition_with_its_key_is_no_second_reservation() {
    let history = history([
        (0, with_key(checkout(ANN, 1), "k")),
        (1, with_key(checkout(ANN, 1), "k")),
        (2, with_key(checkout(ANN, 2), "k")),
        (3, with_key(purchase(0), "k")),
        (4, with_key(purchase(0), "k")),
        (5, with_key(purchase(0), "other")),
    ]);
    assert_eq!(history.verdict(0), history.verdict(1));
    assert_eq!(history.verdict(2), Some(&Verdict::Refused("key_reused")));
    assert_eq!(history.verdict(3), history.verdict(4));
    assert_eq!(history.verdict(5), Some(&Verdict::Refused("code_used")));
    must_be_true(&history, &truth(&history));
}

#[test]
fn the_truth_is_no_lie() {
    must_be_true(&simple(), &truth(&simple()));
}
