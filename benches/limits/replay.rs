//! Tables made anew from the log: `millrace replay`, from its start to its end, less the comparison with what is live.
//!
//! *Clicks* stand beside a bare consumer that reads the same topic with the same settings; *orders* beside COPY of the rows
//! that the fold has made, into tables made by the same statements, with their keys: both as in [`crate::folds`], with
//! more records. *Verify* stands beside a replay and one scan of both tables, all of which it has to do.
//!
//! Last, clicks are made anew while more come, at a tenth of the rate at which they are folded at most: beside the same
//! without any. What that does to the lag of the live generation is told below the table.
//!
//! Checked after each: it has found no row that is different from what was folded live, and the sums are right.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use processors::{clicks::Clicks, orders::Orders};
use serde_json::{Value, json};
use tokio::time::sleep;

use crate::{
    folds::{BANNERS, clicks, copy, fill, fold, orders, read, rows},
    it::world::World,
    output,
    run::{Report, Row, Settings, peak_mb},
};

/// The row of the clicks.
pub const CLICKS: &str = "replay-clicks";
/// The row of the orders.
pub const ORDERS: &str = "replay-orders";
/// The row of the comparison.
pub const VERIFY: &str = "verify";
/// The row of a replay while more comes.
pub const BUSY: &str = "replay-busy";

const CLICK_COUNT: usize = 10_000_000;
const ORDER_COUNT: usize = 1_000_000;
/// Of the rate at which clicks are folded at most.
const BUSY_PART: f64 = 0.1;
const LOOK_EVERY: Duration = Duration::from_millis(200);

/// A world with so many clicks, folded, and how many a second that were.
async fn world_of_clicks(count: usize) -> Result<(World, f64)> {
    let world = World::new("bench_replay").await;
    fill(&world, clicks(count)).await?;
    let folded = fold::<Clicks>(&world, count).await?;
    Ok((world, folded.rate))
}

/// Measures the row of the clicks.
///
/// # Errors
/// If the tables are not what they were.
pub async fn measure_clicks(settings: &Settings, report: &mut Report) -> Result<()> {
    let count = settings.amount(CLICK_COUNT);
    output::note(format_args!("{CLICKS}: appends and folds {count} clicks"));
    let (world, _) = world_of_clicks(count).await?;
    read(&world, count).await?;
    let row = Row::new(
        CLICKS,
        "clicks from the log into new tables, to the switch",
        "bare consumer",
        Some(0.75),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || replay_clicks(&world, count).await,
            async || read(&world, count).await,
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Measures the row of the orders.
///
/// # Errors
/// If the tables are not what they were.
pub async fn measure_orders(settings: &Settings, report: &mut Report) -> Result<()> {
    let count = settings.amount(ORDER_COUNT);
    let world = World::new("bench_replay").await;
    output::note(format_args!("{ORDERS}: appends and folds {count} orders"));
    fill(&world, orders(count)).await?;
    fold::<Orders>(&world, count).await?;
    let batches = rows(&world, count).await?;
    let row = Row::new(
        ORDERS,
        "orders from the log into new tables, to the switch",
        "COPY of their rows",
        Some(0.4),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || replay(&world, "orders", count).await,
            async || copy(&world, &batches, count).await,
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Measures the row of the comparison.
///
/// # Errors
/// If it finds anything.
pub async fn measure_verify(settings: &Settings, report: &mut Report) -> Result<()> {
    let count = settings.amount(CLICK_COUNT);
    output::note(format_args!("{VERIFY}: appends and folds {count} clicks"));
    let (world, _) = world_of_clicks(count).await?;
    let row = Row::new(
        VERIFY,
        "clicks verified",
        "replay, and a scan of both tables",
        Some(1.0),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || {
                let began = Instant::now();
                let report = said(&world, &["verify", "clicks", "--json"]).await?;
                must_be_the_same(&report)?;
                Ok(count as f64 / began.elapsed().as_secs_f64())
            },
            async || {
                let rate = replay_clicks(&world, count).await?;
                let began = Instant::now();
                for _ in 0..2 {
                    world.sql("SELECT count(*), sum(v) FROM clicks.stats").await;
                }
                let scans = began.elapsed().as_secs_f64();
                Ok(count as f64 / (count as f64 / rate + scans))
            },
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Measures the row of a replay while more comes.
///
/// # Errors
/// If the tables are not what they were.
pub async fn measure_busy(settings: &Settings, report: &mut Report) -> Result<()> {
    let count = settings.amount(CLICK_COUNT);
    output::note(format_args!("{BUSY}: appends and folds {count} clicks"));
    let (world, most) = world_of_clicks(count).await?;
    let rate = format!("{:.0}", most * BUSY_PART);
    let mut lags = Vec::new();
    let row = Row::new(
        BUSY,
        "replay while a tenth of the most clicks come",
        "replay alone",
        Some(0.5),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || {
                let busy = busy(&world, &rate, count).await?;
                lags.push(busy.lag_seconds);
                report.took(BUSY, busy.run_mb);
                Ok(busy.rate)
            },
            async || replay_clicks(&world, count).await,
        )
        .await?;
    report.add(row);
    let most = lags.iter().copied().fold(0.0, f64::max);
    report.note(format!(
        "{BUSY}: {rate} clicks a second came meanwhile; the live generation was {most:.2} s behind at most (wanted: less than 1)"
    ));
    report.detail(BUSY, json!({ "rate": rate, "lag_seconds": lags }));
    Ok(())
}

/// A replay while clicks come.
struct Busy {
    /// Records a second.
    rate: f64,
    /// How far the live generation was behind at most.
    lag_seconds: f64,
    /// The most memory that the fold of the live generation took, in MiB.
    run_mb: u64,
}

async fn busy(world: &World, rate: &str, count: usize) -> Result<Busy> {
    let mut process = world.start(["process", "--only", "clicks"]).await;
    let mut emit = world.spawn(
        &[
            "emit",
            "click",
            "--banner",
            "0",
            "--count",
            "100000000",
            "--rate",
            rate,
        ],
        &[],
    );
    sleep(Duration::from_secs(1)).await;
    let replaying = replay(world, "clicks", count);
    tokio::pin!(replaying);
    let mut lag_seconds: f64 = 0.0;
    let replayed = loop {
        tokio::select! {
            replayed = &mut replaying => break replayed,
            lag = behind(world) => lag_seconds = lag_seconds.max(lag?),
        }
        sleep(LOOK_EVERY).await;
    };
    emit.kill();
    world.caught_up("clicks").await;
    let run_mb = peak_mb(&process);
    process.terminate().await;
    Ok(Busy {
        rate: replayed?,
        lag_seconds,
        run_mb,
    })
}

/// How far the clicks are behind, in seconds.
async fn behind(world: &World) -> Result<f64> {
    let lag = said(world, &["lag", "--json"]).await?;
    let all = lag["partitions"].as_array().context("partitions")?;
    let clicks = all.iter().filter(|lag| lag["projection"] == "clicks");
    let seconds = clicks.filter_map(|lag| lag["seconds"].as_f64());
    Ok(seconds.fold(0.0, f64::max))
}

async fn replay_clicks(world: &World, count: usize) -> Result<f64> {
    let rate = replay(world, "clicks", count).await?;
    let found = world
        .sql(
            "SELECT count(*) AS banners, min(v)::bigint AS least
             FROM (SELECT sum(v) AS v FROM clicks.stats GROUP BY banner_id) AS s",
        )
        .await;
    ensure!(
        found[0] == json!({ "banners": BANNERS, "least": count / BANNERS }),
        "{count} clicks on {BANNERS} banners in turn gave the statistics {}",
        found[0]
    );
    Ok(rate)
}

/// Replays a projection of at least so many records, and removes what was live before; gives records a second.
async fn replay(world: &World, projection: &str, count: usize) -> Result<f64> {
    let began = Instant::now();
    let report = said(world, &["replay", projection, "--json"]).await?;
    let took = began.elapsed().as_secs_f64();
    must_be_the_same(&report)?;
    let records = report["records"].as_u64().unwrap_or_default();
    ensure!(records >= count as u64, "{records} of {count} records");
    output::note(format_args!("{}", report["seconds"]));
    let compared = report["seconds"]["compare"].as_f64().context("compare")?;
    said(world, &["replay", projection, "--drop-old", "--json"]).await?;
    Ok(records as f64 / (took - compared))
}

fn must_be_the_same(report: &Value) -> Result<()> {
    let tables = report["tables"].as_array().context("tables")?;
    for table in tables {
        let is_same = ["added", "removed", "changed"]
            .iter()
            .all(|kind| table[kind] == 0);
        ensure!(is_same, "{table}");
    }
    Ok(())
}

/// What a command says in JSON.
async fn said(world: &World, args: &[&str]) -> Result<Value> {
    let output = world.millrace(args, "").await;
    ensure!(output.status == 0, "{output:?}");
    Ok(serde_json::from_str(output.stdout.trim())?)
}
