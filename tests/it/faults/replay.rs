//! Tables are made anew while everything goes on, and while this or that goes wrong.

use std::time::Duration;

use projections::generations::SWITCH_LOCK;
use rand::{RngExt, rngs::StdRng};
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::{
    join,
    time::{sleep, timeout},
};

use super::{
    PAUSE, RECOVERY, faults, fork,
    held::{all_places, application},
    load::{Feed, Load, TRICKLE, answers_were_true},
    random, tell,
    witness::Witness,
};
use crate::{
    proxy::{
        Proxy,
        postgres::{Place, Transactions},
    },
    replay::{SOME, different, fill},
    world::{Process, World, eventually_within},
};

const PROJECTIONS: [&str; 2] = ["clicks", "orders"];
/// How often a switch may come just when nothing is held.
const ATTEMPTS: usize = 12;
/// After so long, nothing comes any more to where it is to be held.
const COMES: Duration = Duration::from_secs(30);

/// The generation that is live.
async fn generation(world: &World, projection: &str) -> i64 {
    let query = format!(
        "SELECT generation FROM millrace.generations WHERE live AND projection = '{projection}'"
    );
    let rows = world.sql(&query).await;
    assert_eq!(rows.len(), 1, "{rows:?}");
    rows[0]["generation"].as_i64().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_generations_switch_no_request_fails_and_no_position_goes_back() {
    let world = World::new("switches").await;
    fill(&world, SOME).await;
    let mut random = random("switches");
    let mut process = world.start(["process"]).await;
    let (mut first, mut second) = (world.start(["run"]).await, world.start(["api"]).await);
    let (clicks, orders) = (Load::of_clicks(&first, 2), Load::of_orders(&second, 2));
    let feed = Feed::of(TRICKLE, &world, fork(&mut random), 5);
    let stop = feed.stop();
    let witness = Witness::new(&world, &second, fork(&mut random), stop.clone());
    let switching = async {
        clicks.acknowledged_more(100).await;
        for round in 0..faults(3) {
            for projection in PROJECTIONS {
                let way = ["--memory=256", "--rollback"][round % 2];
                let report = world.replay(&[way, projection]).await;
                assert_eq!(different(&report), 0, "{report}");
                world.applied_more(500).await;
                orders.acknowledged_more(5).await;
            }
        }
        for projection in PROJECTIONS {
            assert!(generation(&world, projection).await > 0);
            world.replay(&["--drop-old", projection]).await;
        }
        stop.cancel();
    };
    join!(switching, feed.run(), witness.watch(&clicks, &orders));
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    let all = clicks.values().chain(orders.values());
    let failed: Vec<_> = all
        .filter(|fate| !matches!(fate, super::load::Fate::Acknowledged(_)))
        .collect();
    assert!(failed.is_empty(), "{failed:?}");
    answers_were_true(&world, &clicks, &orders).await;
    for api in [&first, &second] {
        assert_eq!(api.get("/readyz").await.status, 200);
    }
    for process in [&mut process, &mut first, &mut second] {
        process.terminate().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_held_between_any_two_statements_while_generations_switch_counts_once() {
    let mut random = random("replay-held");
    let world = World::new("replayheld").await;
    let transactions = std::sync::Arc::new(Transactions::default());
    let server = world.servers.postgres_address();
    let proxy = Proxy::start("127.0.0.1:0", &server, std::sync::Arc::clone(&transactions)).await;
    let by_proxy = world
        .database_url()
        .replace(&server, &proxy.address.to_string());
    let mut process = world.spawn(&["process"], &[("DATABASE_URL", &by_proxy)]);
    let feed = Feed::of(TRICKLE, &world, fork(&mut random), 5);
    let stop = feed.stop();
    let holding = async {
        process.ready().await;
        world.applied_more(2_000).await;
        for projection in PROJECTIONS {
            for place in all_places(&transactions, projection).await {
                switched_while_held(&world, &transactions, projection, &place).await;
            }
        }
        stop.cancel();
    };
    join!(holding, feed.run());
    world.must_be_what_the_log_says().await;
    process.terminate().await;
}

/// Holds a transaction of the fold at this place; meanwhile, another generation wants to go live. It lets go when that
/// has happened, or waits for what is held.
async fn switched_while_held(
    world: &World,
    transactions: &Transactions,
    projection: &str,
    place: &Place,
) {
    for _ in 0..ATTEMPTS {
        goes_on(world, projection).await;
        let before = generation(world, projection).await;
        // What is held cannot be held for long: the replay waits until it is, one step before the switch.
        let look = look_for_live(world, projection).await;
        let mut replay = Replay::start(world, projection);
        replay.about_to_switch(world).await;
        let fold = application(projection);
        let held = timeout(COMES, transactions.hold(&fold, place.clone())).await;
        look.close().await.unwrap();
        let Ok(held) = held else {
            // The fold had to look for its generation, too, and waits behind the replay.
            tell(&format!("{projection} does not come to {place:?}"));
            replay.ended().await;
            continue;
        };
        let has_met = replay.met(world, before).await;
        tell(&format!("{projection} {place:?}: {has_met}"));
        held.let_go();
        replay.ended().await;
        if has_met {
            return;
        }
    }
    panic!("{place:?}: no switch came while {projection} was held");
}

/// Waits until more is folded, after whatever was before.
async fn goes_on(world: &World, projection: &str) {
    let folded = async || -> i64 {
        let checkpoints = world.checkpoints(projection).await;
        checkpoints.iter().map(|(_, next_offset)| next_offset).sum()
    };
    let before = folded().await;
    eventually_within(RECOVERY, "the fold goes on", async || {
        (folded().await > before).then_some(())
    })
    .await;
}

/// Keeps switches from beginning, as a look for the live generation does for a moment, until the connection is closed.
pub async fn look_for_live(world: &World, projection: &str) -> PgConnection {
    let mut connection = PgConnection::connect(&world.database_url()).await.unwrap();
    sqlx::query("SELECT pg_advisory_lock_shared($1, hashtext($2))")
        .bind(SWITCH_LOCK)
        .bind(projection)
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

/// A replay under way.
struct Replay {
    projection: String,
    process: Process,
}

impl Replay {
    fn start(world: &World, projection: &str) -> Self {
        Self {
            projection: projection.to_owned(),
            process: world.spawn(&["replay", projection], &[]),
        }
    }

    /// Waits until it would switch.
    async fn about_to_switch(&self, world: &World) {
        eventually_within(RECOVERY, "it is about to switch", async || {
            self.waits(world, "= 'advisory'").await.then_some(())
        })
        .await;
    }

    /// Whether it waits for locks of this kind.
    async fn waits(&self, world: &World, kind: &str) -> bool {
        let query = format!(
            "SELECT FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
             AND wait_event {kind} AND application_name = 'millrace-replay-{}'",
            self.projection
        );
        !world.sql(&query).await.is_empty()
    }

    /// Whether it has switched, or waits for what is held, before it is too late.
    async fn met(&self, world: &World, before: i64) -> bool {
        let meeting = async {
            while generation(world, &self.projection).await == before
                && !self.waits(world, "<> 'advisory'").await
            {
                sleep(PAUSE).await;
            }
        };
        timeout(Duration::from_secs(10), meeting).await.is_ok()
    }

    async fn ended(&mut self) {
        let status = self.process.ended().await;
        assert_eq!(status.code(), Some(0), "{:?}", self.process.logs());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_that_is_killed_leaves_what_is_live_as_it_was() {
    let world = World::new("replaykills").await;
    fill(&world, SOME).await;
    let mut random = random("replay-kills");
    let mut process = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    let feed = Feed::of(TRICKLE, &world, fork(&mut random), 5);
    let stop = feed.stop();
    let killing = async {
        for _ in 0..faults(10) {
            kill_one(&world, &mut random).await;
        }
        stop.cancel();
    };
    join!(killing, feed.run());
    world.must_be_what_the_log_says().await;
    for projection in PROJECTIONS {
        let (status, reports) = world.verify(&[projection]).await;
        assert_eq!(status, 0, "{reports:?}");
        let report = world.replay(&[projection]).await;
        assert_eq!(different(&report), 0, "{report}");
        world.replay(&["--drop-old", projection]).await;
        assert_eq!(
            world.schemas(projection).await,
            [projection],
            "nothing is left"
        );
    }
    world.must_be_what_the_log_says().await;
    process.terminate().await;
}

async fn kill_one(world: &World, random: &mut StdRng) {
    let projection = PROJECTIONS[random.random_range(0..2)];
    let what = ["replay", "verify"][random.random_range(0..2)];
    let before = generation(world, projection).await;
    let mut replay = world.spawn(&[what, projection], &[]);
    let after = Duration::from_millis(random.random_range(0..1_500));
    sleep(after).await;
    replay.kill();
    let now = generation(world, projection).await;
    tell(&format!(
        "{what} {projection} killed after {after:?}: {before}, {now}"
    ));
    // It has switched or not, and whoever folds goes on.
    assert!(now == before || what == "replay");
    world.applied_more(200).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_replays_at_once_the_second_says_who_is_at_it() {
    let world = World::new("replaytwo").await;
    fill(&world, SOME).await;
    let mut process = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    let look = look_for_live(&world, "orders").await;
    let mut first = Replay::start(&world, "orders");
    first.about_to_switch(&world).await;
    let id = first.process.id();
    let who = format!("process {id} on");
    for args in [
        &["replay", "orders"][..],
        &["replay", "--rollback", "orders"],
        &["replay", "--drop-old", "orders"],
        &["verify", "orders"],
    ] {
        let second = world.millrace(args, "").await;
        second.failed(1, &["`millrace replay orders` is under way", &who]);
    }
    // Another projection is nobody's business.
    assert_eq!(different(&world.replay(&["clicks"]).await), 0);
    look.close().await.unwrap();
    first.ended().await;
    assert_eq!(
        world.generations("orders").await,
        [json!([1, false, true]), json!([2, true, false])]
    );
    // Whoever is dead is in nobody's way.
    let mut killed = world.spawn(&["replay", "orders"], &[]);
    sleep(PAUSE * 20).await;
    killed.kill();
    assert_eq!(different(&world.replay(&["orders"]).await), 0);
    world.must_be_what_the_log_says().await;
    process.terminate().await;
}
