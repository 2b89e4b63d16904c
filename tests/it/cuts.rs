//! Any cut of the log gives the same tables: folded in one go, by several at once, or by processes that are killed.

use rand::RngExt;
use serde_json::json;

use crate::{
    samples::{order, with},
    world::{Process, Raw, World, eventually},
};

const ORDERS: usize = 10_000;
const CLICKS: usize = 60_000;
const USERS: usize = 20_000;

/// Orders, clicks and users, repetitions, contradictions and junk.
async fn fill(world: &World) {
    let sample = ORDERS.to_string();
    let emitted = world
        .millrace(&["emit", "order", "--sample", &sample, "--seed", "5"], "")
        .await;
    assert_eq!(emitted.status, 0, "{emitted:?}");
    for (banner, clicks) in [("1", CLICKS), ("2", CLICKS / 2)] {
        let count = clicks.to_string();
        let emitted = world
            .millrace(
                &["emit", "click", "--banner", banner, "--count", &count],
                "",
            )
            .await;
        assert_eq!(emitted.status, 0, "{emitted:?}");
    }
    let writer = world.writer("orders").await;
    let mut records = Vec::new();
    for n in 0..2_000 {
        let uid = format!("order-{}", n % 700);
        let order = with(order(&uid), "/sm_id", json!(n % 5 / 4));
        records.push(Raw::value(writer.value(&order)).key(uid));
        if n % 100 == 0 {
            records
                .push(Raw::value(vec![7; n]).into_partition(i32::try_from(n / 100 % 8).unwrap()));
        }
    }
    world.append_all("orders", records).await;
    let users = world.writer("users").await;
    let (set, removed) = (users.of("UserProfileSet"), users.of("UserRemoved"));
    let mut records = Vec::new();
    for n in 0..USERS {
        let id = format!("user-{}", n % (USERS / 7));
        let profile = json!({"user_id": id, "deeplink": "", "promo_message": n.to_string()});
        let value = match n % 5 {
            0 => removed.value(&json!({ "user_id": id })),
            _ => set.value(&profile),
        };
        records.push(Raw::value(value).key(id));
        if n % 1_000 == 0 {
            records.push(Raw::value("junk").into_partition(i32::try_from(n / 1_000 % 8).unwrap()));
        }
    }
    world.append_all("users", records).await;
    let junk = (0..16)
        .map(|n| Raw::value(vec![n; 9]).into_partition(i32::from(n) % 8))
        .collect();
    world.append_all("clicks", junk).await;
}

/// How many records are folded.
async fn folded(world: &World) -> i64 {
    let rows = world
        .sql_or_none("SELECT sum(next_offset)::bigint AS n FROM millrace.checkpoints WHERE live")
        .await;
    rows.and_then(|rows| rows[0]["n"].as_i64()).unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_cut_of_the_log_gives_the_same_tables() {
    let world = World::new("cuts").await;
    fill(&world).await;
    let in_one_go = world.beside().await;
    let mut process = in_one_go.start(["process"]).await;
    in_one_go.must_be_what_the_log_says().await;
    process.terminate().await;

    let total = folded(&in_one_go).await;
    let mut chance = producers::clock::generator(None);
    let mut kills = Vec::new();
    for part in 0..3 {
        let until = chance.random_range(total * part / 3..total * (part + 1) / 3);
        let mut process = world.spawn(&["process"], &[]);
        eventually(
            &format!("{until} of {total} records are folded"),
            async || (folded(&world).await >= until).then_some(()),
        )
        .await;
        process.kill();
        kills.push((until, folded(&world).await));
    }
    let mut process = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;
    let in_pieces = world.tables().await;
    assert!(
        in_pieces.len("orders.orders") > ORDERS,
        "killed at {kills:?} of {total}"
    );
    in_pieces.must_equal(&in_one_go.tables().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn folds_that_come_and_go_count_everything_once() {
    let world = World::new("members").await;
    let mut members: Vec<Process> = vec![world.start(["process"]).await];
    fill(&world).await;
    for round in 0..4 {
        members.push(world.start(["process"]).await);
        if round % 2 == 1 {
            members.remove(0).terminate().await;
        }
        let emitted = world
            .millrace(&["emit", "click", "--banner", "3", "--count", "20000"], "")
            .await;
        assert_eq!(emitted.status, 0, "{emitted:?}");
    }
    world.must_be_what_the_log_says().await;
    for mut member in members {
        member.terminate().await;
    }
}
