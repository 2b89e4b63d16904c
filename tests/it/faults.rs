//! What goes wrong in earnest: processes and servers are killed, paused and started again under load. Whatever
//! happens, in the end the tables hold what the log says, and the log holds what was acknowledged.

mod broker;
mod brokers;
mod history;
mod kills;
mod load;
mod postgres;
mod registry;
mod servers;
mod shutdown;

use std::{env, time::Duration};

use producers::clock;
use rand::{RngExt, rngs::StdRng};

use crate::world::{Process, World, eventually_within};

/// A dead member of a group is missed after ten seconds, a broker that was killed is back after some.
const RECOVERY: Duration = Duration::from_secs(60);
/// Between two looks at what is under way.
const PAUSE: Duration = Duration::from_millis(10);

/// How often a test kills what it is about; `MILLRACE_FAULTS` sets it.
fn faults(unless_told: usize) -> usize {
    let told = env::var("MILLRACE_FAULTS").ok();
    told.map_or(unless_told, |told| told.parse().unwrap())
}

/// Random numbers from `MILLRACE_SEED`, or from a seed that is printed if the test fails.
#[expect(clippy::print_stderr, reason = "the seed repeats the failure")]
fn random(test: &str) -> StdRng {
    let told = env::var("MILLRACE_SEED").ok();
    let seed = told.map_or_else(
        || clock::generator(None).random_range(0..1_000_000),
        |told| told.parse().unwrap(),
    );
    eprintln!("{test}: MILLRACE_SEED={seed}");
    clock::generator(Some(seed))
}

impl Process {
    /// How many lines of its logs have all of these words.
    fn said(&self, words: &[&str]) -> usize {
        let has = |line: &&String| words.iter().all(|word| line.contains(word));
        self.logs().iter().filter(has).count()
    }
}

impl World {
    /// How many records all projections have applied; 0 while there are no tables or no Postgres.
    async fn applied(&self) -> i64 {
        let query =
            "SELECT sum(next_offset)::bigint AS applied FROM millrace.checkpoints WHERE live";
        let rows = self.sql_or_none(query).await.unwrap_or_default();
        rows.first()
            .and_then(|row| row["applied"].as_i64())
            .unwrap_or(0)
    }

    /// Waits until so many more records are applied.
    async fn applied_more(&self, records: i64) {
        let wanted = self.applied().await + records;
        let what = format!("{wanted} records are applied");
        eventually_within(RECOVERY, &what, async || {
            (self.applied().await >= wanted).then_some(())
        })
        .await;
    }
}
