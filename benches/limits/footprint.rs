//! What Millrace takes beside cores: time to start, and disk. How much memory it takes stands below the table, of the rows
//! that look at a `millrace run` or `millrace process`: the most that was resident, with the caches that it has unless told.
//!
//! *Start*: `millrace run` on tables that are there, from its start until `/readyz` says 200; told beside the time that a
//! bare client needs for an answer of Postgres and the metadata of Kafka. Nothing is wanted of it.
//!
//! *Disk*: what a million clicks and a million orders of three items take in the log folders of Kafka (of all copies, and
//! without the indexes), as `millrace emit` appends them, and in Postgres with all indexes, as they were folded and before
//! any VACUUM. The clicks are those of [`crate::folds`]: a row of the statistics holds few of them.
//!
//! Checked: every click in its banner's statistics, every row of every order, and no dead letter.

use std::{
    fmt,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use processors::{clicks::Clicks, fold::Fold, inspect, orders::Orders};
use rdkafka::consumer::Consumer;
use schemas::event::Event;
use serde::Serialize;
use serde_json::json;
use sqlx::{Connection, PgConnection};
use tokio::task::spawn_blocking;

use crate::{
    folds::{clicks, fill, fold, fold_orders, must_have_folded, orders},
    it::world::{PATIENCE, World},
    output,
    run::{Report, Settings, median, peak_mb, range},
    tools::log_bytes,
};

/// The row.
pub const NAME: &str = "footprint";

const STARTS: usize = 10;
const CLICK_COUNT: usize = 1_000_000;
const ORDER_COUNT: usize = 100_000;
const MILLION: f64 = 1e6;

/// Measures the row.
///
/// # Errors
/// If an event was lost or counted twice.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_footprint").await;
    measure_starts(&world, report).await?;

    let (click_count, order_count) = (settings.amount(CLICK_COUNT), settings.amount(ORDER_COUNT));
    output::note(format_args!(
        "{NAME}: appends and folds {click_count} clicks and {order_count} orders"
    ));
    fill(&world, clicks(click_count)).await?;
    fold::<Clicks>(&world, click_count)
        .await?
        .told(NAME, report);
    must_have_folded(&world, click_count).await?;
    fill(&world, orders(order_count)).await?;
    fold_orders(&world, order_count).await?.told(NAME, report);

    let of_clicks = Disk::of::<Clicks>(&world, click_count).await?;
    let of_orders = Disk::of::<Orders>(&world, order_count).await?;
    report.note(format!(
        "disk: a million clicks take {of_clicks}, a million orders {of_orders}"
    ));
    report.detail(
        "footprint-disk",
        json!({ "clicks": of_clicks, "orders": of_orders }),
    );
    Ok(())
}

/// Starts `millrace run` again and again.
async fn measure_starts(world: &World, report: &mut Report) -> Result<()> {
    output::note(format_args!("{NAME}: starts {STARTS} times"));
    // Makes the tables.
    world.start(["run"]).await.terminate().await;
    let (mut ready_ms, mut bare_ms) = (Vec::new(), Vec::new());
    for _ in 0..STARTS {
        let began = Instant::now();
        let mut run = world.start(["run"]).await;
        ready_ms.push(ms(began.elapsed()));
        report.took(NAME, peak_mb(&run));
        run.terminate().await;
        bare_ms.push(ms(first_answers(world).await?));
    }
    let (least, most) = range(ready_ms.iter().copied());
    report.note(format!(
        "start: `millrace run` is ready after {:.0} ms, {least:.0}–{most:.0} (of {STARTS}); a bare client has an answer of Postgres and Kafka's metadata after {:.0} ms",
        median(ready_ms.iter().copied()),
        median(bare_ms.iter().copied())
    ));
    report.detail(
        "footprint-start",
        json!({ "ready_ms": ready_ms, "bare_ms": bare_ms }),
    );
    Ok(())
}

/// How long a new client waits for the first answers of Postgres and of Kafka, one after the other.
async fn first_answers(world: &World) -> Result<Duration> {
    let began = Instant::now();
    let mut connection = PgConnection::connect(&world.database_url()).await?;
    sqlx::query("SELECT 1").execute(&mut connection).await?;
    let kafka = world.kafka();
    let asking = move || {
        let consumer = inspect::consumer(&kafka)?;
        consumer.fetch_metadata(None, PATIENCE)?;
        // To end it takes longer than that.
        anyhow::Ok(began.elapsed())
    };
    let took = spawn_blocking(asking).await??;
    connection.close().await?;
    Ok(took)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

/// What a million records of a topic take, in bytes.
#[derive(Debug, Serialize)]
struct Disk {
    kafka: f64,
    postgres: f64,
}

impl Disk {
    /// From what these records take.
    async fn of<F: Fold>(world: &World, count: usize) -> Result<Self> {
        let topic = world.topic(F::Event::TOPIC.name);
        let of_a_million = |bytes: u64| bytes as f64 * MILLION / count as f64;
        Ok(Self {
            kafka: of_a_million(log_bytes(world, &topic).await?),
            postgres: of_a_million(table_bytes(world, F::PROJECTION.name).await?),
        })
    }
}

impl fmt::Display for Disk {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (kafka_mb, postgres_mb) = (self.kafka / MILLION, self.postgres / MILLION);
        write!(
            out,
            "{kafka_mb:.0} MB of Kafka's log and {postgres_mb:.0} MB in Postgres"
        )
    }
}

/// Bytes of the tables of a projection, with all that belongs to them.
async fn table_bytes(world: &World, schema: &str) -> Result<u64> {
    let rows = world
        .sql(&format!(
            "SELECT sum(pg_total_relation_size(c.oid))::bigint AS bytes
             FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
             WHERE n.nspname = '{schema}' AND c.relkind = 'r'"
        ))
        .await;
    rows[0]["bytes"].as_u64().context("no tables")
}
