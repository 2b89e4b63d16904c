//! The broker is killed and comes back.

use std::collections::BTreeMap;

use rand::{RngExt, rngs::StdRng};

use super::{
    faults,
    load::{Fate, Fates, Load, acknowledged, uid},
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
    every_answer_was_true(&world, clicks, orders).await;
    run.terminate().await;
}

/// Ends the load, and asserts that what was acknowledged is counted once, what was refused not at all, and what is
/// unknown at most once.
pub async fn every_answer_was_true(world: &World, clicks: Load, orders: Load) {
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    world.must_be_what_the_log_says().await;
    let rows = world
        .sql("SELECT banner_id AS number, sum(v)::bigint AS n FROM clicks.stats GROUP BY 1")
        .await;
    must_be_true(&clicks, &by_number(&rows));
    let rows = world
        .sql(
            "SELECT replace(order_uid, 'placed-', '')::bigint AS number, 1 AS n FROM orders.orders",
        )
        .await;
    must_be_true(&orders, &by_number(&rows));
    assert!(orders.contains_key(&0) && uid(0) == "placed-0");
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

fn by_number(rows: &[serde_json::Value]) -> BTreeMap<i64, i64> {
    let number = |row: &serde_json::Value, name: &str| row[name].as_i64().unwrap();
    rows.iter()
        .map(|row| (number(row, "number"), number(row, "n")))
        .collect()
}

fn must_be_true(fates: &Fates, counted: &BTreeMap<i64, i64>) {
    assert!(acknowledged(fates).next().is_some());
    for number in counted.keys() {
        assert!(fates.contains_key(number), "nobody asked for {number}");
    }
    for (number, fate) in fates {
        let found = counted.get(number).copied().unwrap_or(0);
        let is_true = match fate {
            Fate::Acknowledged(_) => found == 1,
            Fate::NotApplied => found == 0,
            Fate::Unknown => found <= 1,
        };
        assert!(
            is_true,
            "request {number} is counted {found} times: {fate:?}"
        );
    }
}
