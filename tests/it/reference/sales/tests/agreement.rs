//! Two folds that share no code say the same: on random logs on which everything collides.

use processors::{
    record::Record as Folded,
    sales::{Passed, RuleBook, Sales, Verdict as Said},
};
use rand::{RngExt, SeedableRng, rngs::StdRng};
use schemas::{
    sale_rules::SaleRulesSet,
    sales::{Barrier, CheckoutRequested, Code, PurchaseRequested, SaleEvent},
};

use super::*;

const LOGS: u64 = 300;
const RECORDS: i64 = 150;
const HOUR_MS: i64 = 3_600_000;

#[test]
fn both_folds_say_the_same() {
    for seed in 0..LOGS {
        let mut random = StdRng::seed_from_u64(seed);
        let (book, rules) = some_rules(&mut random);
        let (mut sales, mut codes) = (Sales::default(), Vec::new());
        let (mut records, mut wanted) = (Vec::new(), Vec::new());
        let mut now_ms = NINE;
        for offset in 0..RECORDS {
            now_ms = some_time(&mut random, now_ms);
            let event = some_event(&mut random, now_ms, &codes);
            let asked = asked(
                serde_json::to_value(&event)
                    .unwrap()
                    .as_object()
                    .unwrap()
                    .values()
                    .next()
                    .unwrap(),
            );
            records.push(Record {
                offset,
                timestamp_ms: now_ms,
                asked,
            });
            let record = Folded {
                partition: 0,
                offset,
                timestamp_ms: now_ms,
                event,
            };
            let passed = sales.fold(&record, &book).unwrap();
            let verdict = in_our_words(passed);
            if let Verdict::Reserved { code, .. } = &verdict {
                codes.push(code.clone());
            }
            wanted.push(verdict);
        }
        let history = History::of(records, rules);
        for (judged, wanted) in history.judged.iter().zip(&wanted) {
            assert_eq!(judged.verdict, *wanted, "log {seed} at {}", judged.offset);
        }
        must_be_true(&history, &truth(&history));
    }
}

fn in_our_words(passed: Passed) -> Verdict {
    let decision = match passed {
        Passed::Barrier => return Verdict::None,
        Passed::Void => return Verdict::Void,
        Passed::Decided(decision) => decision,
    };
    match decision.verdict {
        Said::Reserved {
            code,
            expires_at_ms,
        } => Verdict::Reserved {
            code: code.to_string(),
            expires_at_ms,
        },
        Said::Purchased { item_id, user_id } => Verdict::Purchased {
            user_id,
            item_id: item_id.into(),
        },
        Said::Refused(why) => Verdict::Refused(why.name()),
    }
}

fn some_rules(random: &mut StdRng) -> (RuleBook, Vec<(i64, Rules)>) {
    let (mut book, mut all) = (RuleBook::default(), Vec::new());
    for offset in 0..6 {
        let set = SaleRulesSet {
            items: random.random_range(1..=4),
            limit: random.random_range(1..=3),
            reservation_seconds: random.random_range(1..=5),
            sale_seconds: [1, 10, 60, 600, 3_600][random.random_range(0..5)],
        };
        book.set(offset, set);
        all.push((offset, rules(&serde_json::to_value(set).unwrap()).unwrap()));
    }
    (book, all)
}

fn some_time(random: &mut StdRng, now_ms: i64) -> i64 {
    match random.random_range(0..20) {
        0..14 => now_ms + random.random_range(0..1_500),
        14..16 => now_ms - random.random_range(0..5_000),
        16 => now_ms - now_ms % HOUR_MS + HOUR_MS + random.random_range(-1..=1),
        17 => now_ms - now_ms % 60_000 + 60_000 + random.random_range(-1..=1),
        18 => now_ms + random.random_range(0..HOUR_MS),
        _ => now_ms + random.random_range(-2 * HOUR_MS..2 * HOUR_MS),
    }
}

fn some_event(random: &mut StdRng, now_ms: i64, codes: &[String]) -> SaleEvent {
    let drift_ms = [0, 0, 0, 0, 0, 0, 30_000, -30_000, 30_001, -30_001][random.random_range(0..10)];
    let requested_at = now_ms + drift_ms;
    let rules_seen = random.random_range(1..=6);
    let nonce = random.random();
    let keys = [None, None, Some("k".to_owned()), Some("other".to_owned())];
    let key = keys[random.random_range(0..4)].clone();
    let recent = codes.len().saturating_sub(4)..codes.len();
    match random.random_range(0..20) {
        0 => SaleEvent::Barrier(Barrier { nonce }),
        1..9 if !codes.is_empty() => {
            let mut code = codes[random.random_range(recent)].clone();
            if random.random_bool(0.2) {
                // Any digit: another sale, offset, secret, version.
                let place = random.random_range(0..36);
                let digit = if code.as_bytes()[place] == b'-' {
                    "-"
                } else {
                    "8"
                };
                code.replace_range(place..=place, digit);
            }
            let code: Code = code.parse().unwrap();
            SaleEvent::PurchaseRequested(PurchaseRequested {
                code,
                requested_at,
                rules_seen,
                nonce,
                key,
            })
        }
        _ => SaleEvent::CheckoutRequested(CheckoutRequested {
            user_id: random.random_range(0..3),
            item_id: random.random_range(0..5),
            requested_at,
            rules_seen,
            nonce,
            key,
        }),
    }
}
