//! `millrace emit sale-rules`: sets rules, and says from when they hold.

use anyhow::{Context, Result};
use processors::sales::HOUR_MS;
use producers::{append::Profile, clock, trace::Trace, writer::Context as Origin};
use schemas::{
    event::{Event, summary},
    sale_rules::SaleRulesSet,
};
use serde_json::json;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Connection, EmitSaleRules, WrongUse},
    output,
};

pub(super) async fn set(connection: &Connection, args: &EmitSaleRules) -> Result<()> {
    let rules = SaleRulesSet {
        items: args.items,
        limit: args.limit,
        reservation_seconds: args.reservation_seconds,
        sale_seconds: args.sale_seconds,
    };
    let faults = rules.faults();
    if !faults.is_empty() {
        return Err(WrongUse(format!("{}; nothing was sent", summary(&faults))).into());
    }
    if args.dry_run {
        return output::json(&rules);
    }
    let writer = super::writer::<SaleRulesSet>(connection, Profile::Interactive).await?;
    let last_ms = time_of_the_log(connection).await?;
    let origin = Origin {
        trace: Some(Trace::start()),
    };
    let appended = writer.append(&rules, &origin).await;
    let position =
        appended.context("the rules may not be set; to set them once more does no harm")?;
    let position = position.map(|position| position.to_string());
    let holds = Holds::from_now(clock::now_ms(), last_ms);
    if args.json {
        return output::json(&json!({
            "rules": rules,
            "position": position,
            "holds_from": output::time(holds.earliest_ms),
            "holds_at_the_latest_from": output::time(holds.latest_ms),
        }));
    }
    let place = position.map_or_else(String::new, |position| format!(", position {position}"));
    output::line(format_args!("rules set{place}"))?;
    output::line(holds.told())
}

/// Time of the sales' log; none before its first request that counts.
async fn time_of_the_log(connection: &Connection) -> Result<Option<i64>> {
    let mut window = super::window(connection, CancellationToken::new())?;
    let reading = spawn_blocking(move || {
        let end = window.end()?;
        let ledger = window.ledger_at(end)?;
        anyhow::Ok(ledger.sales.last_ms())
    });
    reading.await?
}

/// From when rules hold that are on the log now. Both are starts of hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Holds {
    earliest_ms: i64,
    latest_ms: i64,
}

impl Holds {
    /// An hour keeps the rules that its first request had seen, and time never goes back on the log.
    fn from_now(now_ms: i64, last_ms: Option<i64>) -> Self {
        let hour_of = |at_ms: i64| at_ms - at_ms.rem_euclid(HOUR_MS);
        let hour = hour_of(now_ms.max(last_ms.unwrap_or(0)));
        let is_decided = last_ms.is_some_and(|last_ms| hour_of(last_ms) == hour);
        Self {
            earliest_ms: if is_decided { hour + HOUR_MS } else { hour },
            latest_ms: hour + HOUR_MS,
        }
    }

    fn told(self) -> String {
        let latest = output::time(self.latest_ms);
        if self.earliest_ms == self.latest_ms {
            return format!(
                "they hold from {latest} on: the hour that runs keeps its rules, since there were requests in it"
            );
        }
        format!(
            "they hold from the next request on, since nobody has asked for anything in this hour yet; at the latest from {latest}, if somebody does who has not seen them"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: i64 = HOUR_MS;

    fn holds(now_ms: i64, last_ms: Option<i64>) -> (i64, i64) {
        let holds = Holds::from_now(now_ms, last_ms);
        (holds.earliest_ms, holds.latest_ms)
    }

    #[test]
    fn rules_hold_from_the_next_hour_on_where_this_one_has_requests() {
        assert_eq!(holds(5 * HOUR + 7, Some(5 * HOUR)), (6 * HOUR, 6 * HOUR));
        // The log is ahead of this machine's clock.
        assert_eq!(holds(5 * HOUR - 7, Some(5 * HOUR)), (6 * HOUR, 6 * HOUR));
    }

    #[test]
    fn rules_hold_at_once_where_nobody_has_asked_for_anything() {
        assert_eq!(holds(5 * HOUR + 7, None), (5 * HOUR, 6 * HOUR));
        let before = Some(5 * HOUR - 1);
        assert_eq!(holds(5 * HOUR, before), (5 * HOUR, 6 * HOUR));
    }
}
