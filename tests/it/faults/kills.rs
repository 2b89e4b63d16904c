//! Processes that fold are killed and paused.

use std::time::Duration;

use rand::RngExt;
use sqlx::{Connection, PgConnection};
use tokio::{
    join,
    time::{sleep, timeout},
};

use super::{
    PAUSE, RECOVERY, faults, fork,
    load::{Feed, Load, answers_were_true},
    random,
};
use crate::{
    samples::click,
    world::{Process, Raw, World, eventually_within},
};

const FOLD: [&str; 3] = ["process", "--only", "clicks"];
/// For how long a fold waits for a lock.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// A rebalance may take longer than that.
const ATTEMPTS: usize = 5;

/// Feeds a world while its one processing process is killed again and again.
async fn killed_under_load(world: &World, seed: &str, junk: u32, kills: usize) {
    let mut random = random(seed);
    let feed = Feed::new(world, fork(&mut random), junk);
    let stop = feed.stop();
    let killing = async {
        let mut process = world.spawn(&["process"], &[]);
        for _ in 0..kills {
            world.applied_more(random.random_range(1..6_000)).await;
            process.kill();
            process = world.spawn(&["process"], &[]);
        }
        world.applied_more(1).await;
        stop.cancel();
        process
    };
    let (process, ()) = join!(killing, feed.run());
    world.must_be_what_the_log_says().await;
    drop(process);
}

#[tokio::test]
async fn killed_again_and_again_every_record_counts_once() {
    let world = World::new("kills").await;
    killed_under_load(&world, "kills", 0, faults(10)).await;
}

#[tokio::test]
async fn killed_on_a_poisoned_topic_every_junk_record_is_one_dead_letter() {
    let world = World::new("poison").await;
    killed_under_load(&world, "poison", 20, faults(2)).await;
    let letters = world
        .sql("SELECT count(*) AS n FROM millrace.dead_letters WHERE reason IN ('no_value', 'not_framed', 'unknown_schema')")
        .await;
    assert!(letters[0]["n"].as_i64() > Some(500), "{letters:?}");
}

#[tokio::test]
async fn what_a_killed_api_has_acknowledged_is_on_the_log() {
    for _ in 0..faults(1) {
        let world = World::new("killed").await;
        let mut random = random("killed");
        let mut run = world.start(["run"]).await;
        let (clicks, orders) = (Load::of_clicks(&run, 24), Load::of_orders(&run, 4));
        orders.acknowledged_more(random.random_range(1..50)).await;
        clicks
            .acknowledged_more(random.random_range(1..2_000))
            .await;
        run.kill();
        clicks.failed_more(24).await;
        let (clicks, orders) = (clicks.end().await, orders.end().await);
        let process = world.start(["process"]).await;
        answers_were_true(&world, &clicks, &orders).await;
        drop(process);
    }
}

#[tokio::test]
async fn of_two_processes_a_dead_one_and_a_paused_one_never_count_twice() {
    let world = World::new("two").await;
    let mut random = random("two");
    let feed = Feed::new(&world, fork(&mut random), 1);
    let stop = feed.stop();
    let happening = async {
        let mut first = world.spawn(&["process"], &[]);
        let second = world.spawn(&["process"], &[]);
        for _ in 0..faults(1) {
            world.applied_more(random.random_range(3_000..9_000)).await;
            first.kill();
            first = world.spawn(&["process"], &[]);
        }
        shared(&world, [&first, &second]).await;
        world.applied_more(random.random_range(1..6_000)).await;
        second.pause();
        // The group misses it, and the other one takes over.
        everything_moves(&world).await;
        let assigned = second.said(&["was assigned partitions"]);
        second.resume();
        eventually_within(
            RECOVERY,
            "the paused one is assigned partitions",
            async || (second.said(&["was assigned partitions"]) >= assigned + 2).then_some(()),
        )
        .await;
        everything_moves(&world).await;
        first.kill();
        everything_moves(&world).await;
        stop.cancel();
        second
    };
    let (second, ()) = join!(happening, feed.run());
    world.must_be_what_the_log_says().await;
    drop(second);
}

#[tokio::test]
async fn a_batch_that_is_under_way_when_its_partitions_move_counts_once() {
    let world = World::new("moving").await;
    let mut first = world.start(FOLD).await;
    let mut have_met = false;
    for _ in 0..ATTEMPTS {
        // Held up between reading and writing, until the other process has read the same records.
        let held_up = hold_checkpoints(&world).await;
        append_everywhere(&world).await;
        let mut second = world.spawn(&FOLD, &[]);
        have_met |= both_wait(&world).await;
        held_up.close().await.unwrap();
        world.caught_up("clicks").await;
        second.terminate().await;
        if have_met {
            break;
        }
    }
    assert!(have_met, "the processes never had the same records");
    world.must_be_what_the_log_says().await;
    first.terminate().await;
}

/// Locks all checkpoints until the connection is closed.
async fn hold_checkpoints(world: &World) -> PgConnection {
    let mut connection = PgConnection::connect(&world.database_url()).await.unwrap();
    let lock = "BEGIN; SELECT FROM millrace.checkpoints FOR UPDATE";
    sqlx::raw_sql(lock).execute(&mut connection).await.unwrap();
    connection
}

async fn append_everywhere(world: &World) {
    let click = click(7, "2026-01-01T00:00:00Z");
    let value = world.writer("clicks").await.value(&click);
    let records = (0..800).map(|n| Raw::value(value.clone()).into_partition(n % 8));
    world.append_all("clicks", records.collect()).await;
}

/// Whether both folds come to wait for checkpoints before the first has waited too long.
async fn both_wait(world: &World) -> bool {
    let query = "SELECT count(*) AS waiting FROM pg_stat_activity
        WHERE datname = current_database() AND wait_event_type = 'Lock' AND application_name = 'millrace-fold-clicks'";
    let waiting = async {
        while world.sql(query).await[0]["waiting"] != 2 {
            sleep(PAUSE).await;
        }
    };
    timeout(LOCK_TIMEOUT, waiting).await.is_ok()
}

/// Waits until both processes have been assigned partitions of both topics.
async fn shared(world: &World, processes: [&Process; 2]) {
    let topics = ["clicks", "orders"].map(|name| world.topic(name));
    eventually_within(RECOVERY, "both processes fold", async || {
        let is_assigned = |process: &&Process| {
            let has = |topic: &String| process.said(&["was assigned partitions", topic]) > 0;
            topics.iter().all(has)
        };
        processes.iter().all(is_assigned).then_some(())
    })
    .await;
}

/// Waits until every partition has moved on.
pub async fn everything_moves(world: &World) {
    let all = async || {
        let (clicks, orders) = (
            world.checkpoints("clicks").await,
            world.checkpoints("orders").await,
        );
        [clicks, orders].concat()
    };
    let before = all().await;
    assert_eq!(before.len(), 16, "{before:?}");
    eventually_within(RECOVERY, "every partition moves on", async || {
        let now = all().await;
        let mut places = before.iter().zip(&now);
        places.all(|(before, now)| now.1 > before.1).then_some(())
    })
    .await;
}
