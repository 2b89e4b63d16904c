//! The flash sale from the command line: rules, requests and their verdicts, a crowd. Every verdict is compared with
//! a fold of the log that shares no code with the one under test.

mod crowd;

use std::{sync::Arc, time::Duration};

use producers::clock;
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    faults::servers::servers_to_kill,
    proxy::{
        Proxy,
        kafka::{Fault, Writes},
    },
    world::{Output, Servers, World},
};

const CLOSED: &str = "127.0.0.1:1";
const CLOSED_REGISTRY: &str = "http://127.0.0.1:1/apis/ccompat/v7";
/// A code that nobody was given.
const NO_CODE: &str = "0192f0c1-2b3c-7d4e-9f50-617283940a1b";
/// One of a sale of long ago.
const OLD_CODE: &str = "06b01c00-0000-8000-807e-2dfbb26b257e";
/// As long as a test may take.
const ROOM_MS: i64 = 120_000;
const HOUR_MS: i64 = 3_600_000;

/// Comes back when the hour, and with it the sale, does not end while a test runs.
pub async fn far_from_the_end_of_the_hour() {
    let left_ms = HOUR_MS - clock::now_ms() % HOUR_MS;
    if left_ms < ROOM_MS {
        sleep(Duration::from_millis(left_ms.unsigned_abs() + 100)).await;
    }
}

/// A world in which a sale runs to the end of the test.
async fn world(name: &str) -> World {
    far_from_the_end_of_the_hour().await;
    World::new(name).await
}

impl World {
    /// Runs `millrace emit` with these words, and `--json`.
    async fn emit(&self, words: &str) -> Output {
        let line = format!("emit {words} --json");
        self.millrace(&line.split(' ').collect::<Vec<_>>(), "")
            .await
    }

    async fn emit_well(&self, words: &str) -> Value {
        let emitted = self.emit(words).await;
        assert_eq!(emitted.status, 0, "{words}: {emitted:?}");
        object(&emitted)
    }

    async fn emit_in_vain(&self, words: &str) -> Value {
        let emitted = self.emit(words).await;
        assert_eq!(emitted.status, 1, "{words}: {emitted:?}");
        object(&emitted)
    }
}

fn object(output: &Output) -> Value {
    serde_json::from_str(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

#[tokio::test]
async fn every_verdict_is_that_of_an_independent_fold() {
    let world = world("verdicts").await;
    world.emit_well("sale-rules --items 3 --limit 2").await;
    let mut told = Vec::new();
    let first = world.emit_well("checkout --user 1 --item 0 --key a").await;
    let code = first["code"].as_str().unwrap().to_owned();
    told.push(first);
    let again = world.emit_well("checkout --user 1 --item 0 --key a").await;
    assert_eq!(
        (&again["code"], &again["replayed"]),
        (&json!(code), &json!(true))
    );
    told.push(again);
    for (words, verdict) in [
        ("checkout --user 1 --item 1 --key a", "key_reused"),
        ("checkout --user 2 --item 0", "item_reserved"),
        ("checkout --user 2 --item 3", "no_such_item"),
        (&format!("purchase --code {NO_CODE}"), "code_unknown"),
    ] {
        let refused = world.emit_in_vain(words).await;
        assert_eq!(refused["verdict"], verdict, "{words}");
        told.push(refused);
    }
    let bought = world.emit_well(&format!("purchase --code {code}")).await;
    assert_eq!(
        (&bought["verdict"], &bought["item_id"], &bought["user_id"]),
        (&json!("purchased"), &json!(0), &json!(1))
    );
    told.push(bought);
    told.push(
        world
            .emit_in_vain(&format!("purchase --code {code} --key b"))
            .await,
    );
    told.push(
        world
            .emit_in_vain(&format!("purchase --code {code} --key b"))
            .await,
    );
    told.push(world.emit_in_vain("checkout --user 2 --item 0").await);
    told.push(world.emit_well("checkout --user 1 --item 1").await);
    told.push(world.emit_in_vain("checkout --user 1 --item 2").await);
    let names: Vec<_> = told.iter().map(|told| &told["verdict"]).collect();
    assert_eq!(
        names[7..],
        [
            "code_used",
            "code_used",
            "item_sold",
            "reserved",
            "user_limit"
        ]
    );
    assert_eq!(told[8]["replayed"], true);

    let history = world.sale_history().await;
    let wanted = history.requests();
    assert_eq!(told.len(), wanted.len());
    for (offset, (told, wanted)) in told.iter().zip(&wanted).enumerate() {
        assert_eq!(
            told["position"],
            format!("{}/0@{offset}", world.topic("sales"))
        );
        assert_eq!(told["verdict"], wanted.verdict.word(), "{told}");
        assert_eq!(told["replayed"], wanted.is_replayed, "{told}");
        if let Some(code) = wanted.verdict.code() {
            assert_eq!(told["code"], code, "{told}");
        }
    }
}

#[tokio::test]
async fn a_verdict_is_told_in_words_and_a_refusal_fails() {
    let world = world("words").await;
    let emit = async |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        world.millrace(&words, "").await
    };
    let sales = world.topic("sales");
    let reserved = emit("emit checkout --user 3 --item 7").await;
    assert_eq!(reserved.status, 0, "{reserved:?}");
    assert!(
        reserved
            .stdout
            .starts_with("reserved item 7 for user 3: code "),
        "{reserved:?}"
    );
    assert!(
        reserved
            .stdout
            .contains(&format!("position {sales}/0@0\nmillrace emit purchase")),
        "{reserved:?}"
    );
    // The second line is the command to go on with.
    let purchase = reserved.stdout.lines().nth(1).unwrap();
    let bought = emit(purchase.strip_prefix("millrace ").unwrap()).await;
    assert_eq!(
        bought.stdout,
        format!("user 3 has bought item 7, position {sales}/0@1\n")
    );
    emit("emit checkout --user 4 --item 7").await.failed(
        1,
        &[
            "refused: item_sold: item 7 is sold, sale 2",
            &format!("position {sales}/0@2"),
        ],
    );
    emit(&format!("emit purchase --code {OLD_CODE}"))
        .await
        .failed(1, &["refused: code_expired"]);
}

#[tokio::test]
async fn rules_hold_from_an_hour_on_in_which_nobody_has_asked_for_anything() {
    let world = world("rules").await;
    let hour = |ahead: i64| {
        let now_ms = clock::now_ms();
        let at_ms = now_ms - now_ms % HOUR_MS + ahead * HOUR_MS;
        jiff::Timestamp::from_millisecond(at_ms)
            .unwrap()
            .to_string()
    };
    let set = world.emit_well("sale-rules --items 5").await;
    assert_eq!(
        set["position"],
        format!("{}/0@0", world.topic("sale-rules"))
    );
    assert_eq!(
        set["rules"],
        json!({"items": 5, "limit": 10, "reservation_seconds": 60, "sale_seconds": 3600})
    );
    assert_eq!(
        (&set["holds_from"], &set["holds_at_the_latest_from"]),
        (&json!(hour(0)), &json!(hour(1)))
    );
    // The first request of the hour makes them hold.
    let refused = world.emit_in_vain("checkout --user 1 --item 5").await;
    assert_eq!(refused["verdict"], "no_such_item");
    let set = world.emit_well("sale-rules --items 100").await;
    assert_eq!(
        (&set["holds_from"], &set["holds_at_the_latest_from"]),
        (&json!(hour(1)), &json!(hour(1)))
    );
    let refused = world.emit_in_vain("checkout --user 1 --item 5").await;
    assert_eq!(refused["verdict"], "no_such_item");
    let told = world
        .millrace(&["emit", "sale-rules", "--limit", "3"], "")
        .await;
    assert!(
        told.stdout
            .contains(&format!("they hold from {} on", hour(1))),
        "{told:?}"
    );
}

#[tokio::test]
async fn a_dry_run_prints_what_would_be_sent_and_sends_nothing() {
    let world = World::new("drysale").await;
    let dry = async |line: &str| {
        let words: Vec<_> = line.split(' ').collect();
        let output = world.millrace(&words, "").await;
        assert_eq!(output.status, 0, "{line}: {output:?}");
        output
    };
    let rules = dry("emit sale-rules --items 7 --dry-run").await;
    assert_eq!(object(&rules)["items"], 7);
    let checkout = dry("emit checkout --user 3 --item 7 --key k --dry-run").await;
    let event = &object(&checkout)["CheckoutRequested"];
    assert_eq!(
        (&event["user_id"], &event["item_id"], &event["key"]),
        (&json!(3), &json!(7), &json!("k"))
    );
    let purchase = dry(&format!("emit purchase --code {NO_CODE} --dry-run")).await;
    assert_eq!(object(&purchase)["PurchaseRequested"]["code"], NO_CODE);
    let crowd = dry("emit sale --users 1000 --each 2 --rate 5 --dry-run").await;
    assert!(
        crowd
            .stdout
            .starts_with("2,000 checkouts of 1,000 users would be sent"),
        "{crowd:?}"
    );
    assert_eq!(world.ends("sales").await, [0]);
    assert_eq!(world.ends("sale-rules").await, [0]);
}

#[tokio::test]
async fn what_makes_no_sense_is_refused_before_anything_is_done() {
    let world = World::new("wrongsale").await;
    for (line, words) in [
        (
            "emit checkout --user -1 --item 1",
            &["--user", "from 0 to"][..],
        ),
        (
            "emit checkout --user 1 --item 10000",
            &["--item", "from 0 to 9999"],
        ),
        (
            "emit checkout --user 1 --item -1",
            &["--item", "from 0 to 9999"],
        ),
        ("emit checkout --user 1", &["--item"]),
        ("emit purchase --code 7", &["--code", "must be a UUID"]),
        ("emit purchase", &["--code"]),
        ("emit sale --users 0 --rate 5", &["--users", "from 1"]),
        ("emit sale --users 5", &["--rate"]),
        ("emit sale --users 5 --rate 0", &["--rate", "larger than 0"]),
        (
            "emit sale --users 5 --rate 1 --items 10001",
            &["--items", "from 1 to 10000"],
        ),
        (
            "emit sale --users 5 --rate 1 --buy-percent 101",
            &["--buy-percent"],
        ),
        (
            "emit sale-rules --items 0 --limit -1 --reservation-seconds 3601 --sale-seconds 7",
            &[
                "items must be 1 to 10000",
                "limit must be 1 to 10000",
                "reservation_seconds must be 1 to 3600",
                "sale_seconds must divide 3600",
                "nothing was sent",
            ],
        ),
    ] {
        let split: Vec<_> = line.split(' ').collect();
        world.millrace(&split, "").await.failed(2, words);
    }
    for key in ["", "a b", "ü", &"k".repeat(256)] {
        let words = [
            "emit", "checkout", "--user", "1", "--item", "1", "--key", key,
        ];
        let refused = world.millrace(&words, "").await;
        refused.failed(2, &["--key", "1 to 255 visible ASCII characters"]);
    }
    assert_eq!(world.ends("sales").await, [0]);
    assert_eq!(world.ends("sale-rules").await, [0]);
}

#[tokio::test]
async fn a_server_or_topic_that_is_away_is_named_with_what_to_do() {
    let world = World::new("awaysale").await;
    let no_topics = World::without_topics(Servers::default(), "notopics").await;
    let purchase = format!("emit purchase --code {NO_CODE}");
    for line in [
        "emit sale-rules",
        "emit checkout --user 1 --item 1",
        &purchase,
        "emit sale --users 5 --rate 5",
    ] {
        let words: Vec<_> = line.split(' ').collect();
        let no_broker = [("MILLRACE_BROKERS", CLOSED)];
        let failed = world.millrace_with(&words, "", &no_broker).await;
        failed.failed(1, &[CLOSED, "MILLRACE_BROKERS"]);
        let no_registry = [("MILLRACE_REGISTRY_URL", CLOSED_REGISTRY)];
        let failed = world.millrace_with(&words, "", &no_registry).await;
        failed.failed(1, &[CLOSED_REGISTRY, "MILLRACE_REGISTRY_URL"]);
        let failed = no_topics.millrace(&words, "").await;
        failed.failed(1, &["does not exist", "run `millrace topics apply`"]);
    }
    assert_eq!(world.ends("sales").await, [0]);
    assert_eq!(world.ends("sale-rules").await, [0]);
}

#[tokio::test]
async fn a_lost_acknowledgement_is_unknown_and_the_key_finds_the_answer() {
    let turn = servers_to_kill().await;
    far_from_the_end_of_the_hour().await;
    let world = World::on(turn.servers(), "unknownsale").await;
    let [listen, kafka] = turn.proxied_kafka();
    let writes = Arc::new(Writes::default());
    let _proxy = Proxy::start(&listen, &kafka, Arc::clone(&writes)).await;
    let through = [("MILLRACE_BROKERS", listen.as_str())];
    let line = "emit checkout --user 3 --item 7 --key k --json";
    let words: Vec<_> = line.split(' ').collect();
    writes.set(Fault::NoAcknowledgement);
    let lost = world.millrace_with(&words, "", &through).await;
    lost.failed(1, &["it is not known what became of the request", "--key"]);
    writes.set(Fault::None);
    let again = world.millrace_with(&words, "", &through).await;
    assert_eq!(again.status, 0, "{again:?}");
    let answer = object(&again);
    let history = world.sale_history().await;
    let wanted = history.requests();
    assert_eq!((wanted.len(), wanted[1].is_replayed), (2, true));
    assert_eq!(answer["replayed"], true);
    assert_eq!(answer["code"], wanted[0].verdict.code().unwrap());
}
