//! `make bench`: Millrace beside the limits of the machine that it runs on, in one run, as ratios.
//!
//! A rate alone says as much about the machine as about the program. So each row measures two things in turns, A B A B
//! …: what Millrace does (A), and what the same machine can do at most on the same way (B): the same HTTP server with an
//! empty answer, a bare Kafka client with the same settings, Postgres's COPY into the same tables. Printed are the
//! median of the pairs' ratios and their range. After each run what went in is compared with what came out; one event
//! lost or counted twice, and there is no result but an error.
//!
//! * [`clicks`], [`orders`]: answers over HTTP; [`folds`]: from the log into Postgres; [`emit`]: onto the log;
//!   [`latency`]: from sending to visible, and memory; [`sale`]: the flash sale.
//! * [`run`]: pairs, table and file; [`tools`]: load generators that others wrote.
//!
//! The environment says what to do: `BENCH=clicks,orders` picks rows, `BENCH=sale` all of the sale, `BENCH_PAIRS`, `BENCH_SECONDS` (of one side of a
//! pair, over HTTP), `BENCH_QUICK=1` (a look whether it works).

#![expect(clippy::unwrap_used, reason = "what is shared with the tests panics")]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: pub is what its other files use"
)]

mod clicks;
mod emit;
mod folds;
mod latency;
mod orders;
mod run;
mod sale;
mod tools;

/// Topics, database and processes of one's own, as the tests have them.
#[expect(dead_code, reason = "the tests use all of it")]
#[path = "../../tests/it"]
mod it {
    pub mod world;
}
#[expect(dead_code, unused_imports, reason = "the program uses all of it")]
#[path = "../../src/output.rs"]
mod output;

use std::process::ExitCode;

use anyhow::{Context, Result, bail};
use tokio::signal::unix::{SignalKind, signal};

use self::run::{Report, Settings};

#[tokio::main]
async fn main() -> ExitCode {
    let measured = tokio::select! {
        measured = measure() => measured,
        interrupted = interrupted() => interrupted,
    };
    match measured {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            output::error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn measure() -> Result<()> {
    let settings = Settings::from_env()?;
    let mut report = Report::new(&settings);
    for row in &settings.rows {
        match row.as_str() {
            clicks::NAME => clicks::measure(&settings, &mut report).await,
            orders::NAME => orders::measure(&settings, &mut report).await,
            folds::CLICKS => folds::measure_clicks(&settings, &mut report).await,
            folds::ORDERS => folds::measure_orders(&settings, &mut report).await,
            emit::NAME => emit::measure(&settings, &mut report).await,
            latency::NAME => latency::measure(&settings, &mut report).await,
            sale::REFUSALS => sale::refusals::measure(&settings, &mut report).await,
            sale::SETTLED => sale::settled::measure(&settings, &mut report).await,
            sale::START => sale::start::measure(&settings, &mut report).await,
            sale::MEMORY => sale::memory::measure(&settings, &mut report).await,
            sale::STAMPEDE => sale::stampede::measure(&settings, &mut report).await,
            other => bail!("BENCH has no row {other}: {}", run::ROWS.join(", ")),
        }
        .with_context(|| format!("row {row}"))?;
    }
    report.finish()
}

/// What was made on the servers goes when the world is dropped.
async fn interrupted() -> Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminate.recv() => {}
    }
    bail!("interrupted")
}
