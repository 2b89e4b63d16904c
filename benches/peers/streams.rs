//! Clicks from the log: `millrace process` into Postgres, beside Kafka Streams into its store.
//!
//! The peer (`streams/Clicks.java`) counts by banner and minute exactly once, in a store in memory with its changelog on
//! Kafka. Both read the same full topic from empty, and count each partition apart. Both are timed from the assignment of
//! the first partition until what they have committed passes the last record. Millrace is a new process each time. The
//! peer counts the same topic once before in the same Java process, so that the compiler of Java is done: Millrace needs
//! no such time, but what runs for weeks has had it.
//!
//! Checked after each fold: every banner has as many clicks as were appended.

use std::time::Duration;

use anyhow::{Context, Result};
use schemas::{clicks::BannerClicked, event::Event};
use serde_json::Value;

use crate::{
    folds::{CLICK_COUNT, clicks, fill, fold_clicks, must_have_counted},
    it::world::World,
    output,
    peer::{Peer, built},
    run::{Report, Row, Settings},
    tools,
};

/// The row.
pub const NAME: &str = "clicks-fold";

/// How long it may take to count twice.
const PATIENCE: Duration = Duration::from_secs(300);
/// As much as its counts and its buffers need, and more; the collector is the one for throughput.
const JAVA: [&str; 3] = ["-Xms1g", "-Xmx1g", "-XX:+UseParallelGC"];

/// Measures the row.
///
/// # Errors
/// If a click was lost or counted twice.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("peer_clicks_fold").await;
    let count = settings.amount(CLICK_COUNT);
    output::note(format_args!("{NAME}: appends {count} clicks and warms up"));
    fill(&world, clicks(count)).await?;
    fold_clicks(&world, count).await?;
    let row = Row::new(
        NAME,
        "clicks from the log into Postgres",
        "Kafka Streams, in memory",
        Some(1.5),
    );
    let mut turn = 0;
    let row = row
        .alternate(
            settings.pairs,
            async || Ok(fold_clicks(&world, count).await?.told(NAME, report)),
            async || {
                turn += 1;
                stream(&world, count, turn).await
            },
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Counts all clicks by Kafka Streams; gives clicks a second.
async fn stream(world: &World, count: usize, turn: usize) -> Result<f64> {
    let jars = tools::path("streams").await?;
    let class_path = format!("{}:{jars}/*", built("streams").display());
    let name = format!("{}streams-{turn}", world.prefix);
    let state = built("state").display().to_string();
    let (topic, count_text) = (world.topic(BannerClicked::TOPIC.name), count.to_string());
    let arguments = [&world.servers.brokers, &topic, &name, &state, &count_text];
    let arguments: Vec<&str> = JAVA
        .into_iter()
        .chain(["-cp", &class_path, "Clicks"])
        .chain(arguments.map(String::as_str))
        .collect();
    let mut peer = Peer::start(tools::path("java").await?, &arguments)?;
    let counted: Value = serde_json::from_str(&peer.line(PATIENCE).await?)?;
    peer.ended().await?;
    must_have_counted(&counted["counts"], count)?;
    let took_ms = counted["took_ms"].as_f64().context("no time")?;
    Ok(count as f64 * 1e3 / took_ms)
}
