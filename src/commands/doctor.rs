//! `millrace doctor`: looks whether brokers, topics, schemas, database and clocks are as they have to be, and writes
//! nothing. A line a check, in the order in which a person would mend things.

mod broker;
mod database;
mod process;
mod registry;

use std::ops::RangeInclusive;

use anyhow::Result;
use producers::clock;

use super::report::Report;
use crate::cli::{Connection, DoctorArgs};

/// What two clocks may differ by.
const SKEW_MAX_MS: i64 = 2_000;

pub async fn doctor(connection: &Connection, args: &DoctorArgs) -> Result<()> {
    let mut report = Report::new(args.json);
    process::check(&mut report)?;
    let kafka = connection.kafka();
    let broker_answers = broker::check(&kafka, &mut report).await?;
    let registry = connection.registry()?;
    let registry_answers = registry::check(&registry, &kafka.prefix, &mut report).await?;
    let log = broker_answers.then_some(&kafka);
    let database = connection.database()?;
    let met = database::check(&database, &kafka.prefix, log, &mut report).await?;
    if let (true, Some(met)) = (registry_answers, met) {
        registry::check_ids(&registry, &met, &mut report).await?;
    }
    report.end()
}

impl Report {
    /// Compares a clock with ours: we asked and had the answer at `asked_ms`, and it said that it was `said_ms`.
    fn clock(
        &mut self,
        whose: &str,
        asked_ms: RangeInclusive<i64>,
        said_ms: RangeInclusive<i64>,
    ) -> Result<()> {
        let check = format_args!("clock of {whose}");
        let skew_ms = skew_ms(asked_ms, said_ms);
        if skew_ms.abs() <= SKEW_MAX_MS {
            return self.ok(check, "agrees with ours");
        }
        let seconds = skew_ms.abs() as f64 / 1000.0;
        let word = if skew_ms > 0 { "ahead of" } else { "behind" };
        self.warning(
            check,
            format_args!(
                "is {seconds:.1} s {word} ours: have both set by NTP; clicks count in the minute that our clock says"
            ),
        )
    }
}

/// How far a clock is ahead of ours at least, in milliseconds; negative if it is behind.
fn skew_ms(asked_ms: RangeInclusive<i64>, said_ms: RangeInclusive<i64>) -> i64 {
    let ahead = said_ms.start() - asked_ms.end();
    let behind = asked_ms.start() - said_ms.end();
    ahead.max(0) - behind.max(0)
}

/// The time before and after asking, and the answer.
async fn timed<T>(asking: impl Future<Output = T>) -> (RangeInclusive<i64>, T) {
    let before = clock::now_ms();
    let answer = asking.await;
    (before..=clock::now_ms(), answer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_answer_is_no_skew() {
        assert_eq!(skew_ms(1_000..=9_000, 5_000..=5_000), 0);
        assert_eq!(skew_ms(1_500..=1_600, 1_000..=1_999), 0);
        assert_eq!(skew_ms(1_000..=2_000, 5_000..=5_999), 3_000);
        assert_eq!(skew_ms(9_000..=9_100, 5_000..=5_999), -3_001);
    }
}
