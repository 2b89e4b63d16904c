//! Clicks: `millrace run`, which answers 204 once Kafka has the click, beside a Go program that counts in memory.
//!
//! The counter (`go/counter.go`) is `net/http` with a map of banners and minutes behind a lock. It loses everything when
//! it ends; Millrace also folds the clicks into Postgres meanwhile. Both are asked by the same wrk.
//!
//! Checked after each run, of both: at least as many clicks are counted as there were answers, and at most one more a
//! connection (wrk does not wait for its last answers).

use anyhow::{Context, Result, ensure};

use crate::{
    clicks,
    it::world::World,
    output,
    peer::Server,
    run::{Report, Row, Settings, peak_mb},
    tools::{Turns, wrk},
};

/// The row over many connections.
pub const WIDE: &str = "clicks-512";
/// The row over few.
pub const NARROW: &str = "clicks-64";

/// What is clicked.
pub const BANNER: i64 = 7;

/// Measures the row over many connections.
///
/// # Errors
/// If clicks were lost or counted twice.
pub async fn measure_wide(settings: &Settings, report: &mut Report) -> Result<()> {
    measure(settings, report, WIDE, 512, Some(1.2)).await
}

/// Measures the row over few connections.
///
/// # Errors
/// As above.
pub async fn measure_narrow(settings: &Settings, report: &mut Report) -> Result<()> {
    measure(settings, report, NARROW, 64, None).await
}

async fn measure(
    settings: &Settings,
    report: &mut Report,
    name: &str,
    connections: i64,
    target: Option<f64>,
) -> Result<()> {
    let world = World::new("peer_clicks").await;
    let mut run = world.start(["run"]).await;
    let counter = Server::go(&["counter"]).await?;
    output::note(format_args!("{name}: warms up"));
    clicks::count(&world, &run, connections, 1).await?;
    count(&counter, connections, 1).await?;
    let row = Row::new(
        name,
        "clicks, 204 after the ack",
        "Go, counted in memory",
        target,
    );
    let row = row
        .alternate(
            settings.pairs,
            async || {
                let counted = clicks::count(&world, &run, connections, settings.seconds);
                Ok(counted.await?.rate())
            },
            async || count(&counter, connections, settings.seconds).await,
        )
        .await?;
    report.add(row);
    report.took(name, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// Clicks for a while; gives answers a second.
///
/// # Errors
/// If clicks were lost or counted twice.
pub async fn count(counter: &Server, connections: i64, seconds: u64) -> Result<f64> {
    let url = counter.url(&format!("/v1/banners/counter/{BANNER}"));
    let before = counted(counter).await?;
    let asked = wrk(&url, connections, seconds, Turns::None).await?;
    let clicks = counted(counter).await? - before;
    ensure!(
        (asked.answers..=asked.answers + connections).contains(&clicks),
        "{clicks} clicks were counted after {} answers over {connections} connections",
        asked.answers
    );
    Ok(asked.rate())
}

/// What the statistics of the counter add up to.
///
/// # Errors
/// If it gives none.
pub async fn counted(counter: &Server) -> Result<i64> {
    let found = counter.json(&format!("/v1/banners/stats/{BANNER}")).await?;
    let rows = found["stats"].as_array().context("no statistics")?;
    Ok(rows.iter().filter_map(|row| row["v"].as_i64()).sum())
}
