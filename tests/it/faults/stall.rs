//! Never stopped and green: who is behind and does not move says so, and ends; who waits for a server goes on waiting.

use std::{sync::Arc, time::Duration};

use serde_json::Value;
use tokio::time::sleep;

use super::servers::servers_to_kill;
use crate::{
    proxy::{Proxy, kafka::Reads},
    samples::click,
    world::{Raw, World},
};

const MINUTE: &str = "2026-01-01T00:00:00Z";
/// Longer than it takes a process to give itself up that does so a second after it has said that it stands still.
const LONG: Duration = Duration::from_secs(40);

#[tokio::test]
async fn a_partition_that_stands_still_is_said_and_ends_the_process() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "stalls").await;
    let [listen, kafka] = turn.proxied_kafka();
    let reads = Arc::new(Reads::default());
    let _proxy = Proxy::start(&listen, &kafka, Arc::clone(&reads)).await;
    let settings = [
        ("MILLRACE_BROKERS", &*listen),
        ("MILLRACE_STALL_SECONDS", "5"),
    ];
    let mut run = world.spawn(&["run"], &settings);
    run.ready().await;
    let value = world.writer("clicks").await.value(&click(7, MINUTE));
    let record = Raw::value(value).into_partition(3);
    world.append_raw("clicks", record.clone()).await;
    world.caught_up("clicks").await;
    reads.fall_silent();
    world.append_raw("clicks", record).await;
    run.not_ready_since("progress of clicks waits: partition 3 is behind and does not move")
        .await;
    assert_eq!(run.ended().await.code(), Some(1));
    let last = run
        .logs()
        .into_iter()
        .find(|line| line.contains("ends the process"));
    let last: Value = serde_json::from_str(&last.unwrap()).unwrap();
    assert_eq!(
        (
            &last["projection"],
            &last["partition"],
            &last["next_offset"]
        ),
        (&"clicks".into(), &3.into(), &1.into()),
        "{last}"
    );
    // Whoever is started in its place goes on.
    let mut next = world.start(["run"]).await;
    world.must_be_what_the_log_says().await;
    next.terminate().await;
}

#[tokio::test]
async fn who_waits_for_postgres_for_long_goes_on_waiting() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "patient").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_STALL_SECONDS", "1")]);
    run.ready().await;
    turn.kill("postgres").await;
    let value = world.writer("clicks").await.value(&click(7, MINUTE));
    world
        .append_raw("clicks", Raw::value(value).into_partition(3))
        .await;
    run.not_ready_since("fold clicks waits: Postgres").await;
    sleep(LONG).await;
    turn.start("postgres").await;
    run.ready_again().await;
    world.must_be_what_the_log_says().await;
    assert_eq!(run.said(&["does not move"]), 0);
    run.terminate().await;
}
