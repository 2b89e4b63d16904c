//! Requests that the log decides: purchases with a code that nobody was given, beside clicks; and how long they take at
//! half of the most that is possible, beside a bare producer and consumer at the same rate.
//!
//! Both are asked of the same `millrace run`, as fast as they come over as many connections, and its folds have caught
//! up before the other is asked. The time of a request runs from when it was due, and so does that of the bare client: from
//! there until its consumer has the record. Its topic is another world's, with the same settings.
//!
//! Checked after each run: each answer was counted as a verdict of the log, the log has a record for each verdict, and at
//! most one more a connection than there were answers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    NO_CODE, SETTLED,
    crowd::{Asked, ask},
    far_from_the_end, purchase, verdicts,
};
use crate::{
    bare, clicks,
    it::world::{Process, World, eventually},
    output,
    run::{Latency, Report, Row, Settings, median, peak_mb, rounded},
    tools::wrk_refused,
};

const CONNECTIONS: [i64; 2] = [64, 512];
/// Those over which the most were settled: fewer could not have so many under way.
const LATENCY_CONNECTIONS: usize = 512;
/// How much longer a latency is measured than one side of a pair.
const LASTING: u32 = 2;
const RATIO_MAX: f64 = 3.0;

/// Measures the rows.
///
/// # Errors
/// If a request was not decided, or lost.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    far_from_the_end(settings.lasting()).await;
    let world = World::new("bench_settled").await;
    let mut run = world.start(["run"]).await;
    let mut most = 0.0;
    for connections in CONNECTIONS {
        output::note(format_args!(
            "{SETTLED}: warms up over {connections} connections"
        ));
        settle(&world, &run, connections, 1).await?;
        clicks::count(&world, &run, connections, 1).await?;
        let row = Row::new(
            format!("{SETTLED}-{connections}"),
            "purchases decided by the log",
            "clicks, 204 after the ack",
            Some(0.3),
        );
        let row = row
            .alternate(
                settings.pairs,
                async || settle(&world, &run, connections, settings.seconds).await,
                async || {
                    let counted = clicks::count(&world, &run, connections, settings.seconds);
                    Ok(counted.await?.rate())
                },
            )
            .await?;
        most = row.rate();
        report.took(&row.name, peak_mb(&run));
        report.add(row);
    }
    compare_latency(settings, report, &world, &run, most / 2.0).await?;
    run.terminate().await;
    Ok(())
}

/// Asks for a while; gives answers a second.
///
/// # Errors
/// If a request was not decided, or lost.
pub async fn settle(world: &World, run: &Process, connections: i64, seconds: u64) -> Result<f64> {
    let url = format!("http://{}{}", run.address(), purchase(NO_CODE));
    let before = decided(world, run).await;
    let asked = wrk_refused(&url, connections, seconds).await?;
    must_have_decided(world, run, before, asked.answers, connections).await?;
    Ok(asked.rate())
}

/// Verdicts that were told, and records on the log.
async fn decided(world: &World, run: &Process) -> (i64, i64) {
    let told = verdicts(run, "purchase", "code_unknown", "log").await;
    (told, world.ends("sales").await[0])
}

async fn must_have_decided(
    world: &World,
    run: &Process,
    before: (i64, i64),
    answers: i64,
    more_max: i64,
) -> Result<()> {
    let what = "as many verdicts are told as there were answers";
    eventually(what, async || {
        let (told, _) = decided(world, run).await;
        (told - before.0 >= answers).then_some(())
    })
    .await;
    world.caught_up("sales").await;
    // The last requests of a load generator may be decided when it has gone: nobody is told then.
    let (told, end) = decided(world, run).await;
    let (told, records) = (told - before.0, end - before.1);
    ensure!(
        told <= records && records <= answers + more_max,
        "{answers} answers over {more_max} connections, {told} verdicts, {records} requests on the log"
    );
    Ok(())
}

/// From when a request is due to its verdict, and from when a record is due to a bare consumer.
async fn compare_latency(
    settings: &Settings,
    report: &mut Report,
    world: &World,
    run: &Process,
    rate: f64,
) -> Result<()> {
    let other = World::new("bench_bare").await;
    let lasting = Duration::from_secs(settings.seconds) * LASTING;
    let load = format!("{} purchases/s", rounded(rate));
    output::note(format_args!("{SETTLED}: {load}"));
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    for turn in 1..=settings.pairs {
        let settled = latency(world, run, &load, rate, lasting).await?;
        let times = bare::append_and_tail(&other, "sales", rate, lasting).await?;
        let bare = Latency::of(&load, "bare append read", times);
        output::note(format_args!(
            "{SETTLED} {turn}/{}: p99 {:.1} ms beside {:.1} ms",
            settings.pairs, settled.p99_ms, bare.p99_ms
        ));
        ours.push(settled);
        bares.push(bare);
    }
    let ratios: Vec<f64> = ours
        .iter()
        .zip(&bares)
        .map(|(settled, bare)| settled.p99_ms / bare.p99_ms)
        .collect();
    report.note(format!(
        "p99 of a purchase decided by the log at {load}: {:.2} times that of a bare append and its consumer, {:.2}–{:.2} (target ≤ {RATIO_MAX})",
        median(ratios.iter().copied()),
        ratios.iter().copied().fold(f64::MAX, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    ));
    report.detail(SETTLED, json!({ "settled": ours, "bare": bares }));
    report.add_latencies(vec![Latency::typical(&ours), Latency::typical(&bares)]);
    Ok(())
}

/// Asks at a rate.
async fn latency(
    world: &World,
    run: &Process,
    load: &str,
    rate: f64,
    lasting: Duration,
) -> Result<Latency> {
    let asked = Asked {
        address: run.address().to_owned(),
        path: purchase(NO_CODE),
        status: 409,
        connections: LATENCY_CONNECTIONS,
    };
    let before = decided(world, run).await;
    let times = ask(asked, rate, lasting).await?;
    must_have_decided(world, run, before, i64::try_from(times.len())?, 0).await?;
    Ok(Latency::of(load, "purchase decided", times))
}
