//! Postgres is killed and comes back.

use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
};

use rand::{RngExt, rngs::StdRng};
use reqwest::Method;
use tokio::{join, time::sleep};
use tokio_util::sync::CancellationToken;

use super::{
    PAUSE, RECOVERY, faults, fork,
    load::{Fate, Fates, Feed, Load, acknowledged, clicks_by_banner, uid},
    random,
    servers::{Turn, servers_to_kill},
    witness::Witness,
};
use crate::{
    samples::order,
    world::{Process, World, eventually_within, http::MIN_POSITION},
};

/// How often an order was read from the cache.
const HITS: &str = r#"millrace_cache_reads_total{cache="orders",outcome="hit"}"#;
const STATS: &str = "/v1/banners/stats/0?from=2026-01-01T00:00:00Z&to=2026-01-01T00:01:00Z";

#[tokio::test]
async fn while_postgres_is_dead_writes_and_cached_reads_go_on_and_nothing_is_lost_or_doubled() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "postgres").await;
    let mut run = world.start(["run"]).await;
    let cached = cached_order(&run).await;
    let clicks = Load::of_clicks(&run, 8);
    let orders = Load::of_orders(&run, 2);
    orders.acknowledged_more(5).await;
    let stop = CancellationToken::new();
    let announced = Announced::default();
    let mut random = random("postgres");
    let witness = Witness::new(&world, &run, fork(&mut random), stop.clone());
    let killing = async {
        for _ in 0..faults(2) {
            kill_once(&turn, &run, cached, [&clicks, &orders], &mut random).await;
        }
        stop.cancel();
    };
    join!(
        killing,
        announced.ask(&run, &clicks, &stop),
        announced.must_be_kept(&world, &stop),
        witness.watch(&clicks, &orders)
    );
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    assert_eq!(acknowledged(&clicks).count(), clicks.len());
    assert_eq!(acknowledged(&orders).count(), orders.len());
    world.must_be_what_the_log_says().await;
    every_click_counts_once(&world, &clicks).await;
    every_order_is_there(&world, &orders).await;
    assert!(
        !announced.0.borrow().is_empty(),
        "no position was announced"
    );
    run.terminate().await;
}

#[tokio::test]
async fn partitions_inherited_while_postgres_is_dead_are_taken_up_when_it_is_back() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "heir").await;
    let mut run = world.start(["run"]).await;
    let mut other = world.start(["process"]).await;
    let mut random = random("heir");
    let records = random.random_range(3_000..9_000);
    let feed = Feed::new(&world, random, 1);
    let stop = feed.stop();
    let happening = async {
        world.applied_more(records).await;
        turn.kill("postgres").await;
        other.kill();
        eventually_within(RECOVERY, "it cannot take up what it inherits", async || {
            (run.said(&["reading has ended", "checkpoints"]) >= 2).then_some(())
        })
        .await;
        turn.start("postgres").await;
        world.applied_more(1_000).await;
        run.ready_again().await;
        stop.cancel();
    };
    join!(happening, feed.run());
    world.must_be_what_the_log_says().await;
    run.terminate().await;
}

async fn kill_once(
    turn: &Turn,
    run: &Process,
    cached: &str,
    [clicks, orders]: [&Load; 2],
    random: &mut StdRng,
) {
    clicks
        .acknowledged_more(random.random_range(100..2_000))
        .await;
    turn.kill("postgres").await;
    run.not_ready_since("Postgres").await;
    assert_eq!(run.get(cached).await.status, 200);
    let unread = run.get("/order?uid=never-asked-for").await;
    unread.problem(503, "database_unavailable");
    run.get(STATS).await.problem(503, "database_unavailable");
    clicks.acknowledged_more(500).await;
    orders.acknowledged_more(5).await;
    assert_eq!(run.get(cached).await.status, 200);
    turn.start("postgres").await;
    run.ready_again().await;
    eventually_within(RECOVERY, "queries are answered again", async || {
        (run.get(STATS).await.status == 200).then_some(())
    })
    .await;
}

/// Places an order, and waits until it is read from the cache. An answer is only kept if the table has all that the log
/// has just then, so under load it is a matter of luck; and a hit is only known to be ours while nobody else reads.
async fn cached_order(run: &Process) -> &'static str {
    let placed = run.post("/v1/orders", &order("cached")).await;
    assert_eq!(placed.status, 201, "{placed:?}");
    let path = "/order?uid=cached";
    let hits = async || {
        let metrics = run.get("/metrics").await.body;
        let mut lines = metrics.lines();
        let hits = lines.find_map(|line| line.strip_prefix(HITS));
        hits.unwrap().trim().parse::<u64>().unwrap()
    };
    eventually_within(RECOVERY, "an order is read from the cache", async || {
        let before = hits().await;
        let found = run.get(path).await;
        (found.status == 200 && hits().await > before).then_some(())
    })
    .await;
    path
}

/// Per partition of the clicks, the largest offset that a read was said to reflect.
#[derive(Default)]
struct Announced(RefCell<BTreeMap<i32, i64>>);

impl Announced {
    /// Asks for the newest clicks, and notes what was answered.
    async fn ask(&self, run: &Process, clicks: &Load, stop: &CancellationToken) {
        while !stop.is_cancelled() {
            let newest = clicks.so_far().values().rev().find_map(|fate| match fate {
                Fate::Acknowledged(position) => Some(position.clone()),
                _ => None,
            });
            let Some(position) = newest else {
                sleep(PAUSE).await;
                continue;
            };
            let request = run
                .request(Method::GET, STATS)
                .header(MIN_POSITION, &position);
            if run.send(request).await.status == 200 {
                let (place, offset) = position.rsplit_once('@').unwrap();
                let partition = place.rsplit_once('/').unwrap().1.parse().unwrap();
                let offset: i64 = offset.parse().unwrap();
                let mut announced = self.0.borrow_mut();
                let largest = announced.entry(partition).or_insert(offset);
                *largest = offset.max(*largest);
            }
        }
    }

    /// Whenever Postgres can be asked, its checkpoints are beyond what had been announced before.
    async fn must_be_kept(&self, world: &World, stop: &CancellationToken) {
        let query = "SELECT partition, next_offset FROM millrace.checkpoints WHERE projection = 'clicks' AND live";
        while !stop.is_cancelled() {
            let announced = self.0.borrow().clone();
            for row in world.sql_or_none(query).await.unwrap_or_default() {
                let partition = i32::try_from(row["partition"].as_i64().unwrap()).unwrap();
                let next_offset = row["next_offset"].as_i64();
                let offset = announced.get(&partition).copied();
                assert!(
                    next_offset > offset,
                    "partition {partition}: {next_offset:?}, announced {offset:?}"
                );
            }
            sleep(PAUSE).await;
        }
    }
}

/// Asserts that each click that was acknowledged is counted once.
pub async fn every_click_counts_once(world: &World, fates: &Fates) {
    let counted = clicks_by_banner(world).await;
    let wanted: BTreeMap<_, _> = acknowledged(fates).map(|number| (number, 1)).collect();
    assert_eq!(counted.len(), wanted.len());
    assert!(counted == wanted, "some clicks are missing or doubled");
}

async fn every_order_is_there(world: &World, fates: &Fates) {
    let placed = "SELECT order_uid FROM orders.orders WHERE order_uid <> 'cached'";
    let rows = world.sql(placed).await;
    let found: BTreeSet<_> = rows
        .iter()
        .map(|row| row["order_uid"].as_str().unwrap().to_owned())
        .collect();
    let wanted: BTreeSet<_> = acknowledged(fates).map(uid).collect();
    assert!(found == wanted, "some orders are missing or nobody's");
}
