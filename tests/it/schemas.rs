//! `millrace schemas check`: a build is told before it takes over what it could not read.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    samples::{click, order},
    world::{Raw, World, avro::framed},
};

const SALES: &str = include_str!("../../schemas/avro/sales.avsc");

/// Exit code, and verdict and finding of each check.
async fn check(world: &World, args: &[&str]) -> (i32, BTreeMap<String, (String, String)>) {
    let args = [&["schemas", "check", "--json"], args].concat();
    let output = world.millrace(&args, "").await;
    let line = |line: &str| {
        let check: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| check[name].as_str().unwrap().to_owned();
        (text("check"), (text("verdict"), text("found")))
    };
    (output.status, output.stdout.lines().map(line).collect())
}

#[tokio::test]
async fn every_record_of_the_log_is_read_and_strays_are_no_failure() {
    let world = World::new("sch_well").await;
    let sent = world
        .millrace(&["emit", "order", "--sample", "300"], "")
        .await;
    assert_eq!(sent.status, 0, "{sent:?}");
    let sent = ["emit", "click", "--banner", "3", "--count", "2000"];
    assert_eq!(world.millrace(&sent, "").await.status, 0);
    let orders = world.writer("orders").await;
    for stray in [
        Raw::value("junk"),
        Raw::no_value(),
        Raw::value(framed(3_999_999_999, b"junk")),
        // An id of another topic.
        Raw::value(framed(world.writer("sales").await.id, b"junk")),
        // Read, and no order for the fold: what it says is not for this check to judge.
        Raw::value(orders.value(&order(""))),
    ] {
        world.append_raw("orders", stray).await;
    }
    let (status, checks) = check(&world, &["--against-log"]).await;
    assert_eq!(status, 0, "{checks:?}");
    for topic in world.topics() {
        assert_eq!(checks[&format!("schema {topic}-value")].0, "ok");
        assert_eq!(checks[&format!("log {topic}")].0, "ok");
    }
    let found = |topic: &str| checks[&format!("log {}", world.topic(topic))].1.clone();
    assert_eq!(found("clicks"), "2,000 records, none unreadable");
    assert_eq!(
        found("orders"),
        "305 records, 4 of them no event of any build, none unreadable"
    );
    assert_eq!(found("sales"), "0 records, none unreadable");
}

#[tokio::test]
async fn the_first_record_that_cannot_be_read_is_named() {
    let world = World::new("sch_cut").await;
    let clicks = world.writer("clicks").await;
    let whole = clicks.value(&click(7, "2026-01-02T03:04:05Z"));
    let cut = || Raw::value(&whole[..whole.len() - 1]).into_partition(2);
    world
        .append_raw("clicks", Raw::value(&*whole).into_partition(2))
        .await;
    let (partition, offset) = world.append_raw("clicks", cut()).await;
    world.append_raw("clicks", cut()).await;
    let (status, checks) = check(&world, &["--against-log"]).await;
    assert_eq!(status, 1, "{checks:?}");
    let topic = world.topic("clicks");
    let (verdict, found) = &checks[&format!("log {topic}")];
    assert_eq!(verdict, "failed");
    let named = format!(
        "3 records, 2 unreadable; the first is {topic}/{partition}@{offset}: not what schema id {} says",
        clicks.id
    );
    assert!(found.starts_with(&named), "{found}");
    assert_eq!(checks[&format!("log {}", world.topic("orders"))].0, "ok");
    // Nobody has asked for the log.
    assert_eq!(check(&world, &[]).await.0, 0);
}

#[tokio::test]
async fn an_event_of_a_newer_build_is_told_from_the_registry_and_from_the_log() {
    let world = World::new("sch_newer").await;
    let mut union: Value = serde_json::from_str(SALES).unwrap();
    union.as_array_mut().unwrap().push(json!({
        "type": "record", "name": "ReservationGivenUp",
        "fields": [{ "name": "code", "type": "string" }],
    }));
    let newer = world
        .register("sales", &union)
        .await
        .of("ReservationGivenUp");
    let value = newer.value(&json!({ "code": "x" }));
    world.append_raw("sales", Raw::value(value)).await;
    let topic = world.topic("sales");
    let (status, checks) = check(&world, &["--against-log"]).await;
    assert_eq!(status, 1, "{checks:?}");
    for name in [format!("schema {topic}-value"), format!("log {topic}")] {
        let (verdict, found) = &checks[&name];
        assert_eq!(verdict, "failed", "{name}");
        assert!(found.contains("deploy the build that"), "{found}");
    }
    assert!(
        checks[&format!("log {topic}")]
            .1
            .contains(&format!("{topic}/0@0: "))
    );
}

#[tokio::test]
async fn without_a_server_it_says_which_and_comes_to_an_end() {
    let world = World::new("sch_away").await;
    let output = world
        .millrace_with(
            &["schemas", "check", "--against-log"],
            "",
            &[("MILLRACE_BROKERS", "127.0.0.1:1")],
        )
        .await;
    assert_eq!(output.status, 1, "{output:?}");
    assert!(
        output.stdout.contains("no Kafka broker answers"),
        "{output:?}"
    );
    let output = world
        .millrace_with(
            &["schemas", "check"],
            "",
            &[("MILLRACE_REGISTRY_URL", "http://127.0.0.1:1")],
        )
        .await;
    assert_eq!(output.status, 1, "{output:?}");
    assert!(output.stdout.contains("http://127.0.0.1:1"), "{output:?}");
}
