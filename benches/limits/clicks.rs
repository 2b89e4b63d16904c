//! Clicks over HTTP: 204 once Kafka has the click, beside an empty 204.
//!
//! Both are answered by the same process through the same middleware, and asked for by the same wrk over as many
//! connections. The process is `millrace run`: while it takes clicks it also folds them into Postgres, which costs it
//! part of the cores; before the limit is measured, the fold has caught up. A click's answer also has its position.
//!
//! Checked after each run: there are at least as many clicks on the log as answers and at most one more a connection
//! (wrk does not wait for its last answers), and the statistics have exactly those that are on the log.

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    it::world::{PATIENCE, Process, World},
    output,
    run::{Report, Row, Settings, peak_mb},
    tools::{Turns, Wrk, wrk},
};

/// The row.
pub const NAME: &str = "clicks";
/// The row whose rate is the maximum that the loads of the latency are taken from.
pub const MAXIMUM: &str = "clicks-512";

const CONNECTIONS: [(i64, Option<f64>); 2] = [(64, Some(0.35)), (512, Some(0.6))];
const BANNER: i64 = 7;
/// How long the broker warms up, in seconds: one that has just started takes three times as long for everything at first.
const WARM_UP: u64 = 20;

/// Measures the row.
///
/// # Errors
/// If clicks were lost or counted twice.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_clicks").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_BENCH_ROUTES", "true")]);
    run.ready().await;
    let empty = format!("http://{}/bench/click", run.address());
    output::note("clicks: warms up the broker");
    count(&world, &run, CONNECTIONS[0].0, WARM_UP).await?;
    for (connections, target) in CONNECTIONS {
        wrk(&empty, connections, 1, Turns::None).await?;
        count(&world, &run, connections, 1).await?;
        let row = Row::new(
            format!("{NAME}-{connections}"),
            "clicks, 204 after the ack",
            "empty 204",
            target,
        );
        let mut detail = Vec::new();
        let row = row
            .alternate(
                settings.pairs,
                async || {
                    let counted = count(&world, &run, connections, settings.seconds).await?;
                    detail.push(json!(counted));
                    Ok(counted.rate())
                },
                async || {
                    Ok(wrk(&empty, connections, settings.seconds, Turns::None)
                        .await?
                        .rate())
                },
            )
            .await?;
        report.detail(&row.name, json!(detail));
        report.took(&row.name, peak_mb(&run));
        report.add(row);
    }
    run.terminate().await;
    Ok(())
}

/// Clicks for a while, and checks that what was acknowledged is on the log and in the statistics.
///
/// # Errors
/// If it is not.
pub async fn count(world: &World, run: &Process, connections: i64, seconds: u64) -> Result<Wrk> {
    let url = format!("http://{}/v1/banners/counter/{BANNER}", run.address());
    let before = on_log(world).await;
    let counted = wrk(&url, connections, seconds, Turns::None).await?;
    let clicks = settled(world).await? - before;
    ensure!(
        (counted.answers..=counted.answers + connections).contains(&clicks),
        "{clicks} clicks are on the log after {} answers over {connections} connections",
        counted.answers
    );
    Ok(counted)
}

/// Waits until the statistics have exactly the clicks that are on the log, and gives how many these are.
///
/// # Errors
/// If it does not come to that.
pub async fn settled(world: &World) -> Result<i64> {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        world.caught_up("clicks").await;
        let (counted, clicks) = (in_statistics(world).await, on_log(world).await);
        if counted == clicks {
            return Ok(clicks);
        }
        // The last requests of a load generator may be on their way when it has ended.
        ensure!(
            tokio::time::Instant::now() < deadline,
            "the statistics have {counted} clicks, the log has {clicks}"
        );
    }
}

/// How many clicks are on the log.
pub async fn on_log(world: &World) -> i64 {
    world.ends("clicks").await.iter().sum()
}

async fn in_statistics(world: &World) -> i64 {
    let rows = world
        .sql("SELECT coalesce(sum(v), 0)::bigint AS clicks FROM clicks.stats")
        .await;
    rows[0]["clicks"].as_i64().unwrap_or_default()
}
