//! How long a click waits for its 204 while clicks come at a rate: `millrace run`, which answers once Kafka has the click,
//! beside the Go program that counts in memory (`go/counter.go`).
//!
//! oha asks both in turns over as many connections at the same rate, whatever the answers: half of what the slower one can
//! do at most, which wrk finds before. A time runs from when its request was due, so a wait for a free connection counts.
//!
//! Checked after each run, of both: exactly as many clicks are counted as there were answers.

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;

use crate::{
    clicks::{self, on_log, settled},
    counter::{BANNER, count, counted},
    it::world::{Process, World},
    output,
    peer::Server,
    run::{Latency, Report, Settings, median, peak_mb, range, rounded},
    tools::{Asked, Oha, oha},
};

/// The row.
pub const NAME: &str = "clicks-latency";

/// Those over which the most are answered: fewer could not have so many under way.
const CONNECTIONS: i64 = 512;
/// How much longer a latency is measured than one side of a pair.
const LASTING: u32 = 2;
/// A load that comes to less than this part of its rate is told.
const HELD: f64 = 0.95;

/// Measures the row.
///
/// # Errors
/// If clicks were lost or counted twice.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("peer_click_latency").await;
    let mut run = world.start(["run"]).await;
    let counter = Server::go(&["counter"]).await?;
    output::note(format_args!("{NAME}: warms up and finds the maxima"));
    clicks::count(&world, &run, CONNECTIONS, 1).await?;
    count(&counter, CONNECTIONS, 1).await?;
    let by_us = clicks::count(&world, &run, CONNECTIONS, settings.seconds).await?;
    let by_them = count(&counter, CONNECTIONS, settings.seconds).await?;
    let rate = by_us.rate().min(by_them) / 2.0;
    let load = Load {
        told: format!("{} clicks/s", rounded(rate)),
        rate,
        lasting: Duration::from_secs(settings.seconds) * LASTING,
    };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for turn in 1..=settings.pairs {
        let answered = load.on_millrace(&world, &run, report).await?;
        let beside = load.on_counter(&counter, report).await?;
        output::note(format_args!(
            "{NAME} {turn}/{}: p99 {:.1} ms beside {:.1} ms",
            settings.pairs, answered.p99_ms, beside.p99_ms
        ));
        ours.push(answered);
        theirs.push(beside);
    }
    report.note(format!(
        "a click's 204 at {}: p50 {}, p99 {} times as late as that of Go, counted in memory",
        load.told,
        compared(&ours, &theirs, |latency| latency.p50_ms),
        compared(&ours, &theirs, |latency| latency.p99_ms),
    ));
    report.add_latencies(vec![Latency::typical(&ours), Latency::typical(&theirs)]);
    report.detail(NAME, json!({ "millrace": ours, "go": theirs }));
    report.took(NAME, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// How often clicks come, and for how long.
struct Load {
    told: String,
    rate: f64,
    lasting: Duration,
}

impl Load {
    async fn on_millrace(
        &self,
        world: &World,
        run: &Process,
        report: &mut Report,
    ) -> Result<Latency> {
        let before = on_log(world).await;
        let asked = self.ask(run.address(), report).await?;
        let clicks = settled(world).await? - before;
        must_be_all(clicks, &asked)?;
        Ok(asked.latency(&self.told, "click answered, Millrace"))
    }

    async fn on_counter(&self, counter: &Server, report: &mut Report) -> Result<Latency> {
        let before = counted(counter).await?;
        let asked = self.ask(&counter.address, report).await?;
        let clicks = counted(counter).await? - before;
        must_be_all(clicks, &asked)?;
        Ok(asked.latency(&self.told, "click answered, Go"))
    }

    async fn ask(&self, address: &str, report: &mut Report) -> Result<Oha> {
        let url = format!("http://{address}/v1/banners/counter/{BANNER}");
        let asked = Asked {
            method: "GET",
            url: &url,
            status: 204,
            connections: CONNECTIONS,
        };
        let asked = oha(asked, self.rate, self.lasting).await?;
        if asked.rate < HELD * self.rate {
            report.note(format!(
                "{NAME}: oha came to {} of {}: it, or the machine, was too busy for its rate",
                rounded(asked.rate),
                self.told
            ));
        }
        Ok(asked)
    }
}

fn must_be_all(clicks: i64, asked: &Oha) -> Result<()> {
    ensure!(
        clicks == asked.answers,
        "{} clicks were answered, {clicks} are counted",
        asked.answers
    );
    Ok(())
}

/// The median of the pairs' ratios and their range.
fn compared(ours: &[Latency], theirs: &[Latency], ms: fn(&Latency) -> f64) -> String {
    let pairs = ours.iter().zip(theirs);
    let ratios: Vec<f64> = pairs.map(|(ours, theirs)| ms(ours) / ms(theirs)).collect();
    let (least, most) = range(ratios.iter().copied());
    format!(
        "{:.2} ({least:.2}–{most:.2})",
        median(ratios.iter().copied())
    )
}
