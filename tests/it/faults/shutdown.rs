//! A process that is told to stop.

use std::{collections::BTreeMap, time::Duration};

use rand::RngExt;
use tokio::{
    io::AsyncReadExt,
    time::{sleep, timeout},
};

use super::{
    faults,
    load::{Fate, Load, acknowledged, clicks_by_banner},
    random,
    servers::servers_to_kill,
};
use crate::world::{PATIENCE, World, http::Caller};

#[tokio::test]
async fn told_to_stop_under_load_nothing_acknowledged_is_lost() {
    let world = World::new("sigterm").await;
    let mut random = random("sigterm");
    let mut expected = BTreeMap::new();
    for round in 0..faults(2) {
        let mut run = world.start(["run"]).await;
        let load = Load::of_clicks(&run, 24);
        load.acknowledged_more(random.random_range(100..3_000))
            .await;
        run.terminate().await;
        load.failed_more(24).await;
        let fates = load.end().await;
        for number in acknowledged(&fates) {
            *expected.entry(number).or_insert(0) += 1;
        }
        let unknown = fates.values().filter(|fate| **fate == Fate::Unknown);
        // A keep-alive connection may close just when the next request is on its way, which every client can meet once.
        assert!(unknown.count() <= 24, "round {round}");
    }
    let process = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    let counted = clicks_by_banner(&world).await;
    for (banner, clicks) in expected {
        assert!(counted.get(&banner) >= Some(&clicks), "banner {banner}");
    }
    drop(process);
}

#[tokio::test]
async fn what_was_asked_before_the_signal_to_stop_is_answered() {
    let world = World::new("asked").await;
    // One thread, so that many wait at its door; far more than it lets in before the signal is heard.
    let mut run = world.spawn(&["run"], &[("MILLRACE_THREADS", "1")]);
    run.ready().await;
    let mut callers = Vec::new();
    for banner in 0..20 {
        let mut open = Caller::connect(&run).await;
        open.ask_to_count(banner).await;
        open.must_be(204).await;
        callers.push(open);
    }
    // It stands still, so all of this arrives before it learns that it has to stop.
    run.pause();
    for banner in 20..320 {
        let mut fresh = Caller::connect(&run).await;
        fresh.ask_to_count(banner).await;
        callers.push(fresh);
    }
    for (banner, open) in (320..).zip(&mut callers[..20]) {
        open.ask_to_count(banner).await;
    }
    run.ask_to_stop();
    run.resume();
    for mut caller in callers {
        caller.must_be(204).await;
        caller.must_be_closed().await;
    }
    assert_eq!(run.ended().await.code(), Some(0));
    assert_eq!(world.read_topic("clicks").await.len(), 340);
}

#[tokio::test]
async fn told_to_stop_while_the_servers_are_dead_it_ends_all_the_same() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "alone").await;
    let mut run = world.start(["run"]).await;
    let mut process = world.start(["process"]).await;
    assert_eq!(run.get("/v1/banners/counter/1").await.status, 204);
    for server in ["kafka", "registry", "postgres"] {
        turn.kill(server).await;
    }
    let refused = run.get("/v1/banners/counter/2").await;
    assert_eq!(refused.status, 503, "{refused:?}");
    run.terminate().await;
    process.terminate().await;
    // So that the world can be tidied up.
    for server in ["kafka", "registry", "postgres"] {
        turn.start(server).await;
    }
}

#[tokio::test]
async fn told_to_stop_while_the_broker_stands_still_it_ends_all_the_same() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "asking").await;
    let mut run = world.start(["run"]).await;
    let paused = turn.pause("kafka");
    // By then it asks where each of its topics ends, and would go on for a minute.
    sleep(Duration::from_secs(6)).await;
    run.ask_to_stop();
    let ended = run.ended_within(Duration::from_secs(30)).await;
    drop(paused);
    assert_eq!(ended.code(), Some(0));
}

impl Caller {
    /// A click, whose answer is not waited for.
    async fn ask_to_count(&mut self, banner: i64) {
        let click = format!("GET /v1/banners/counter/{banner} HTTP/1.1\r\nHost: millrace\r\n\r\n");
        assert!(self.send(&click).await);
    }

    /// Nothing more comes but the end.
    async fn must_be_closed(&mut self) {
        let read = timeout(PATIENCE, self.0.read(&mut [0])).await;
        assert_eq!(read.unwrap().unwrap(), 0);
    }
}
