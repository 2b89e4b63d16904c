//! What goes wrong in earnest: processes and servers are killed, paused and started again under load. Whatever
//! happens, in the end the tables hold what the log says, and the log holds what was acknowledged.

mod acknowledgements;
mod broker;
mod brokers;
mod disk;
mod held;
mod history;
mod kills;
pub mod load;
mod postgres;
mod registry;
pub mod replay;
mod sale;
mod schedule;
mod segments;
pub mod servers;
mod shutdown;
mod silence;
mod stall;
mod users;
mod witness;

use std::{env, time::Duration};

use producers::clock;
use rand::{RngExt, rngs::StdRng};
use serde_json::Value;

use crate::world::{Process, World, eventually_within};

/// A dead member of a group is missed after ten seconds, a broker that was killed is back after some.
const RECOVERY: Duration = Duration::from_secs(120);
/// Between two looks at what is under way.
const PAUSE: Duration = Duration::from_millis(10);

/// How often a test kills what it is about; `MILLRACE_FAULTS` sets it.
fn faults(unless_told: usize) -> usize {
    let told = env::var("MILLRACE_FAULTS").ok();
    told.map_or(unless_told, |told| told.parse().unwrap())
}

/// Says what is done, for whoever has to understand a failure: shown only then.
#[expect(clippy::print_stderr, reason = "what was done explains a failure")]
fn tell(what: &str) {
    eprintln!("{what}");
}

/// Random numbers from `MILLRACE_SEED`, or from a seed that is printed if the test fails.
fn random(test: &str) -> StdRng {
    let told = env::var("MILLRACE_SEED").ok();
    let seed = told.map_or_else(
        || clock::generator(None).random_range(0..1_000_000),
        |told| told.parse().unwrap(),
    );
    tell(&format!("{test}: MILLRACE_SEED={seed}"));
    clock::generator(Some(seed))
}

/// Random numbers for a part of a test that goes its own way.
fn fork(random: &mut StdRng) -> StdRng {
    clock::generator(Some(random.random()))
}

impl Process {
    /// Waits until it is not ready, with this among the reasons.
    pub async fn not_ready_since(&self, reason: &str) {
        eventually_within(RECOVERY, &format!("it says {reason:?}"), async || {
            let answer = self.get("/readyz").await;
            (answer.status == 503 && answer.body.contains(reason)).then_some(())
        })
        .await;
    }

    /// How many lines of its logs have all of these words.
    pub fn said(&self, words: &[&str]) -> usize {
        let has = |line: &&String| words.iter().all(|word| line.contains(word));
        self.logs().iter().filter(has).count()
    }

    /// The partitions of a topic that it was assigned last, if it ever was and has not given them back.
    fn assigned(&self, topic: &str) -> Option<Vec<i32>> {
        let logs = self.logs();
        let lines = logs.iter().rev();
        let mut lines = lines.filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let last = lines.find(|line| line["topic"] == topic && line["partitions"].is_string())?;
        let partitions = last["partitions"].as_str()?;
        (last["message"] == "was assigned partitions")
            .then(|| serde_json::from_str(partitions).unwrap())
    }
}

impl World {
    /// How many records all projections have applied; 0 while there are no tables or no Postgres.
    pub async fn applied(&self) -> i64 {
        let query =
            "SELECT sum(next_offset)::bigint AS applied FROM millrace.checkpoints WHERE live";
        let rows = self.sql_or_none(query).await.unwrap_or_default();
        rows.first()
            .and_then(|row| row["applied"].as_i64())
            .unwrap_or(0)
    }

    /// Partitions and next offsets of a projection, in their order.
    async fn checkpoints(&self, projection: &str) -> Vec<(i32, i64)> {
        let query = format!(
            "SELECT json_build_array(partition, next_offset) AS checkpoint FROM millrace.checkpoints
             WHERE live AND projection = '{projection}' ORDER BY partition"
        );
        let rows = self.sql(&query).await;
        rows.into_iter()
            .map(|mut row| serde_json::from_value(row["checkpoint"].take()).unwrap())
            .collect()
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
