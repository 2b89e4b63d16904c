//! `make bench-peers`: Millrace beside what somebody would write or take instead, in one run, as ratios.
//!
//! Each row measures two programs in turns, A B A B …: Millrace (A) and a peer (B), which do the same work for the same
//! client. What Millrace does is measured and checked by the code of `make bench`. The peers are written as a good
//! programmer of their language would write them, with the settings that one has in production; each file below, and each
//! file in `go` and `streams`, says what a peer does and what it leaves out. Most leave out that nothing is lost when a
//! process dies: that is what Millrace pays for. After each run what went in is compared with what came out; one event
//! lost or counted twice, and there is no result but an error.
//!
//! * [`counter`], [`latency`]: clicks, counted in memory; [`lookup`]: users and orders, from Redis and Postgres; [`shop`]: the flash
//!   sale, in memory.
//! * [`streams`]: clicks folded by Kafka Streams; [`consumer`]: orders folded with a transaction each.
//! * [`peer`]: their processes; [`redis`]: a server of the bench's own.
//!
//! The environment says what to do, as for `make bench`: `BENCH=clicks-512,sale` picks rows, `BENCH_PAIRS`,
//! `BENCH_SECONDS`, `BENCH_QUICK=1`, `BENCH_CHART=FILE.svg`.

#![expect(clippy::unwrap_used, reason = "what is shared with the tests panics")]
#![expect(
    unreachable_pub,
    reason = "a program has no outside: pub is what its other files use"
)]

mod consumer;
mod counter;
mod latency;
mod lookup;
mod peer;
mod redis;
mod shop;
mod streams;

/// What both benches have.
#[expect(dead_code, reason = "`make bench` uses all of it")]
#[path = "../common"]
mod common {
    pub mod chart;
    pub mod hits;
    pub mod run;
    pub mod tools;
}
/// What Millrace does in each row, and how that is checked.
#[expect(dead_code, reason = "`make bench` uses all of it")]
#[path = "../limits"]
mod limits {
    pub mod bare;
    pub mod clicks;
    pub mod emit;
    pub mod folds;
    pub mod orders;
    pub mod sale;
    pub mod users;
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
    limits::{bare, clicks, emit, folds, orders, sale, users},
    run::{Bench, Report, Settings},
};

/// This program.
const BENCH: Bench = Bench {
    name: "peers",
    about: "Millrace, its peers, the load generator, Kafka, Postgres and Redis share these cores; above 1 Millrace is the faster one.",
    rows: &[
        counter::WIDE,
        counter::NARROW,
        latency::NAME,
        lookup::USER_HIT,
        lookup::USER_MISS,
        lookup::ORDER_HIT,
        shop::REFUSALS,
        shop::SETTLED,
        streams::NAME,
        consumer::NAME,
    ],
    quick_rows: &[counter::WIDE, lookup::USER_HIT, consumer::NAME],
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
            counter::WIDE => counter::measure_wide(&settings, &mut report).await,
            counter::NARROW => counter::measure_narrow(&settings, &mut report).await,
            latency::NAME => latency::measure(&settings, &mut report).await,
            lookup::USER_HIT => lookup::measure_user_hits(&settings, &mut report).await,
            lookup::USER_MISS => lookup::measure_user_misses(&settings, &mut report).await,
            lookup::ORDER_HIT => lookup::measure_order_hits(&settings, &mut report).await,
            shop::REFUSALS => shop::measure_refusals(&settings, &mut report).await,
            shop::SETTLED => shop::measure_settled(&settings, &mut report).await,
            streams::NAME => streams::measure(&settings, &mut report).await,
            consumer::NAME => consumer::measure(&settings, &mut report).await,
            other => bail!("BENCH has no row {other}: {}", BENCH.rows.join(", ")),
        };
        report.row_ended(row, measured)?;
    }
    report.finish()
}
