//! A crowd: as many as there are come away with something, and its summary is what the log says.

use std::process::Command;

use super::world;
use crate::{
    reference::sales::events,
    world::{World, eventually},
};

#[tokio::test]
async fn a_crowd_buys_no_more_than_there_is_and_its_summary_is_what_the_log_says() {
    let world = world("crowd").await;
    world.emit_well("sale-rules --items 50 --limit 2").await;
    let summary = world
        .emit_well("sale --users 200 --each 3 --rate 400 --buy-percent 70 --seed 7")
        .await;
    let history = world.sale_history().await;
    let wanted = history.requests();
    let count = |verdict: &str| {
        let such = wanted
            .iter()
            .filter(|wanted| wanted.verdict.word() == verdict);
        such.count()
    };
    assert_eq!(summary["requests"], wanted.len());
    assert_eq!(summary["checkouts"], 600);
    assert_eq!(summary["reserved"], count("reserved"));
    assert_eq!(summary["purchased"], count("purchased"));
    assert_eq!(summary["purchased"], summary["purchases"]);
    for (reason, told) in summary["refused"].as_object().unwrap() {
        assert_eq!(*told, count(reason), "{reason}");
    }
    let refused = summary["refused"].as_object().unwrap().values();
    let refused: u64 = refused.map(|told| told.as_u64().unwrap()).sum();
    let granted = count("reserved") + count("purchased");
    assert_eq!(refused, (wanted.len() - granted) as u64);
    let sold = count("purchased");
    assert!((20..=50).contains(&sold), "{summary}");
    for (name, wanted) in [("void", 0), ("not_written", 0), ("unknown", 0)] {
        assert_eq!(summary[name], wanted, "{name}");
    }
    assert_eq!(summary["sales"].as_array().unwrap().len(), 1);
    let ms = |name: &str| summary[name].as_f64().unwrap();
    assert!(0.0 < ms("p50_ms") && ms("p50_ms") <= ms("p99_ms"));
    assert!(ms("seconds") > 1.4, "600 requests, 400 a second: {summary}");

    // Who comes when everything is sold is told so.
    let all = world
        .emit_well("sale --users 200 --rate 400 --each 2 --buy-percent 100 --seed 8")
        .await;
    assert!(
        all["purchased"].as_u64().unwrap() + sold as u64 <= 50,
        "{all}"
    );
}

#[tokio::test]
async fn the_same_seed_makes_the_same_crowd() {
    let world = world("seed").await;
    let asked_for = async || {
        let records = world.read_topic("sales").await;
        let events = events(&world, &records).await;
        let checkouts = events.into_iter().filter(|event| event["item_id"].is_i64());
        let asked = checkouts.map(|event| (event["user_id"].clone(), event["item_id"].clone()));
        asked.collect::<Vec<_>>()
    };
    let crowd = "sale --users 40 --rate 1000 --items 10 --seed 3";
    world.emit_well(crowd).await;
    world.emit_well(crowd).await;
    let asked = asked_for().await;
    assert_eq!(asked.len(), 80);
    assert_eq!(asked[..40], asked[40..]);
}

#[tokio::test]
async fn a_crowd_that_is_stopped_says_what_is_on_the_log() {
    let world = world("stopped").await;
    let mut crowd = world.spawn(
        &["emit", "sale", "--users", "1000000", "--rate", "100"],
        &[],
    );
    eventually("requests are on the log", async || {
        (world.ends("sales").await[0] > 20).then_some(())
    })
    .await;
    let interrupt = ["-INT".to_owned(), crowd.id().to_string()];
    assert!(
        Command::new("kill")
            .args(interrupt)
            .status()
            .unwrap()
            .success()
    );
    assert_eq!(crowd.ended().await.code(), Some(1));
    // All but the barrier with which it began.
    let requests = world.ends("sales").await[0] - 1;
    let said = crowd.logs().join("\n");
    let wanted =
        format!("stopped by Ctrl-C; on the log: {requests} requests with a verdict; made: ");
    assert!(said.contains(&wanted), "{wanted}: {said}");
}

#[tokio::test]
async fn a_crowd_has_seen_the_rules_that_are_set_while_it_comes() {
    let world = World::new("newrules").await;
    let crowd = world.spawn(
        &["emit", "sale", "--users", "1000000", "--rate", "100"],
        &[],
    );
    eventually("requests are on the log", async || {
        (world.ends("sales").await[0] > 5).then_some(())
    })
    .await;
    world.emit_well("sale-rules --items 5").await;
    eventually("requests have seen the rules", async || {
        let records = world.read_topic("sales").await;
        let newest = events(&world, &records[records.len() - 1..]).await;
        (newest[0]["rules_seen"] == 1).then_some(())
    })
    .await;
    drop(crowd);
}
