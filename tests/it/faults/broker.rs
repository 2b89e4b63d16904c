//! The broker is killed and comes back.

use rand::{RngExt, rngs::StdRng};

use super::{
    faults,
    held::has_all_partitions,
    load::{Load, answers_were_true},
    random,
    servers::{Turn, servers_to_kill},
};
use crate::world::{Process, World};

#[tokio::test]
async fn when_the_broker_dies_the_acknowledged_is_counted_and_the_refused_is_not() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "broker").await;
    let mut run = world.start(["run"]).await;
    let clicks = Load::of_clicks(&run, 16);
    let orders = Load::of_orders(&run, 2);
    let mut random = random("broker");
    for _ in 0..faults(2) {
        kill_once(&turn, &run, [&clicks, &orders], &mut random).await;
    }
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    answers_were_true(&world, &clicks, &orders).await;
    run.terminate().await;
}

#[tokio::test]
async fn when_the_broker_stands_still_for_longer_than_anybody_waits_the_answers_are_true() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "still").await;
    let mut run = world.start(["run"]).await;
    let clicks = Load::of_clicks(&run, 16);
    let orders = Load::of_orders(&run, 2);
    let mut random = random("still");
    for _ in 0..faults(1) {
        clicks
            .acknowledged_more(random.random_range(100..1_000))
            .await;
        let paused = turn.pause("kafka");
        // What was on its way first; then what cannot be sent any more.
        clicks.unknown_more(1).await;
        clicks.not_applied_more(16).await;
        orders.failed_more(2).await;
        drop(paused);
        clicks.acknowledged_more(200).await;
        orders.acknowledged_more(5).await;
        run.ready_again().await;
        // Who had joined a group just before the broker stood still may be a member twice, until the session of the first
        // is over.
        has_all_partitions(&world, &run).await;
    }
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    answers_were_true(&world, &clicks, &orders).await;
    run.terminate().await;
}

async fn kill_once(turn: &Turn, run: &Process, loads: [&Load; 2], random: &mut StdRng) {
    let [clicks, orders] = loads;
    clicks
        .acknowledged_more(random.random_range(100..2_000))
        .await;
    turn.kill("kafka").await;
    clicks.failed_more(1).await;
    turn.start("kafka").await;
    clicks.acknowledged_more(200).await;
    orders.acknowledged_more(5).await;
    run.ready_again().await;
}
