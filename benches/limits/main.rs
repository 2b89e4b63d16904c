//! `make bench`: Millrace beside the limits of the machine that it runs on, in one run, as ratios.
//!
//! A rate alone says as much about the machine as about the program. So each row measures two things in turns, A B A B
//! …: what Millrace does (A), and what the same machine can do at most on the same way (B): the same HTTP server with an
//! empty answer, a bare Kafka client with the same settings, Postgres's COPY into the same tables. Printed are the
//! median of the pairs' ratios and their range. After each run what went in is compared with what came out; one event
//! lost or counted twice, and there is no result but an error.
//!
//! * [`clicks`], [`orders`], [`users`], [`segments`]: answers over HTTP; [`folds`], [`replay`]: from the log into Postgres;
//!   [`growth`]: the same with more of everything; [`emit`]: onto the log;
//!   [`latency`]: from sending to visible; [`sale`]: the flash sale; [`footprint`]: start and disk.
//! * `benches/common`: pairs, table, file and chart; load generators that others wrote.
//!
//! The environment says what to do: `BENCH=clicks,orders` picks rows, `BENCH=sale`, `BENCH=user` and `BENCH=growth` all
//! whose names begin so, `BENCH_PAIRS`, `BENCH_SECONDS` (of one side of a pair, over HTTP), `BENCH_QUICK=1` (a look whether
//! it works: less of everything, and three pairs of four rows unless others are picked), `BENCH_CHART=FILE.svg` (draws the
//! newest ratios of every row, also those of `make bench-peers`).

#![expect(clippy::unwrap_used, reason = "what is shared with the tests panics")]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: pub is what its other files use"
)]

mod bare;
mod clicks;
mod emit;
mod folds;
mod footprint;
mod growth;
mod latency;
mod orders;
mod replay;
mod sale;
mod segments;
mod users;

/// What both benches have.
#[path = "../common"]
mod common {
    pub mod chart;
    pub mod hits;
    pub mod run;
    pub mod tools;
}
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

use anyhow::{Result, bail};

use self::{
    common::{chart, hits, run, tools},
    run::{Bench, Report, Settings},
};

/// This program.
const BENCH: Bench = Bench {
    name: "limits",
    about: "Millrace, the load generator, Kafka and Postgres share these cores; a ratio says how near Millrace comes to what they can do at most.",
    // The latency takes its loads from the rates before it.
    rows: &[
        clicks::NAME,
        orders::NAME,
        folds::CLICKS,
        folds::ORDERS,
        replay::CLICKS,
        replay::ORDERS,
        replay::VERIFY,
        replay::BUSY,
        growth::EVENTS,
        growth::PARTITIONS,
        growth::PROCESSES,
        emit::NAME,
        users::HIT,
        users::IMPORT,
        users::MISS,
        segments::HIT,
        segments::CHANGES,
        segments::REPORT,
        latency::NAME,
        footprint::NAME,
        sale::REFUSALS,
        sale::SETTLED,
        sale::START,
        sale::MEMORY,
        sale::STAMPEDE,
    ],
    // Four in the table: the clicks are two.
    quick_rows: &[clicks::NAME, orders::NAME, emit::NAME],
};

#[tokio::main]
async fn main() -> ExitCode {
    run::until_done(measure()).await
}

async fn measure() -> Result<()> {
    let settings = Settings::from_env(&BENCH)?;
    let mut report = Report::new(&BENCH, &settings);
    for row in &settings.rows {
        let measured = match row.as_str() {
            clicks::NAME => clicks::measure(&settings, &mut report).await,
            orders::NAME => orders::measure(&settings, &mut report).await,
            folds::CLICKS => folds::measure_clicks(&settings, &mut report).await,
            folds::ORDERS => folds::measure_orders(&settings, &mut report).await,
            replay::CLICKS => replay::measure_clicks(&settings, &mut report).await,
            replay::ORDERS => replay::measure_orders(&settings, &mut report).await,
            replay::VERIFY => replay::measure_verify(&settings, &mut report).await,
            replay::BUSY => replay::measure_busy(&settings, &mut report).await,
            growth::EVENTS => growth::measure_events(&settings, &mut report).await,
            growth::PARTITIONS => growth::measure_partitions(&settings, &mut report).await,
            growth::PROCESSES => growth::measure_processes(&settings, &mut report).await,
            users::HIT => users::measure_hits(&settings, &mut report).await,
            users::IMPORT => users::import::measure(&settings, &mut report).await,
            users::MISS => users::measure_misses(&settings, &mut report).await,
            segments::HIT => segments::measure_hits(&settings, &mut report).await,
            segments::CHANGES => segments::measure_changes(&settings, &mut report).await,
            segments::REPORT => segments::measure_report(&settings, &mut report).await,
            emit::NAME => emit::measure(&settings, &mut report).await,
            latency::NAME => latency::measure(&settings, &mut report).await,
            footprint::NAME => footprint::measure(&settings, &mut report).await,
            sale::REFUSALS => sale::refusals::measure(&settings, &mut report).await,
            sale::SETTLED => sale::settled::measure(&settings, &mut report).await,
            sale::START => sale::start::measure(&settings, &mut report).await,
            sale::MEMORY => sale::memory::measure(&settings, &mut report).await,
            sale::STAMPEDE => sale::stampede::measure(&settings, &mut report).await,
            other => bail!("BENCH has no row {other}: {}", BENCH.rows.join(", ")),
        };
        report.row_ended(row, measured)?;
    }
    report.finish()
}
