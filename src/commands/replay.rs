//! `millrace replay`: tables made anew from the log, which take over from those that are live.

use std::{fs, process, time::Duration};

use anyhow::Result;
use indicatif::{ProgressBar, ProgressStyle};
use processors::replay::{self, Asked, Outcome, Progress, What};
use projections::compare::{Difference, Example};
use serde::Serialize;
use serde_json::{Map, Value, json};

use super::serve::services;
use crate::{
    cli::{Building, Connection, ReplayArgs},
    output,
};

/// How often the progress bar is brought up to date.
const LOOK_EVERY: Duration = Duration::from_millis(100);
const STYLE: &str = "{bar:40} {human_pos}/{human_len} records, {per_sec}, {eta} left, {msg}";

pub async fn replay(connection: &Connection, args: &ReplayArgs) -> Result<()> {
    let what = args.what();
    let outcome = build(connection, &args.projection, what, args.manner).await?;
    if args.manner.json {
        return output::json(&Report::of(&args.projection, &outcome));
    }
    tell(&args.projection, what, &outcome)
}

/// Does it, and shows how far it is to whoever watches.
pub(super) async fn build(
    connection: &Connection,
    projection: &str,
    what: What,
    manner: Building,
) -> Result<Outcome> {
    let services = services(connection)?;
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let asked = Asked {
        what,
        memory_bytes: usize::try_from(manner.memory)? << 20,
        by_whom: format!("process {} on {}", process::id(), host.trim()),
    };
    let progress = Progress::default();
    let bar = progress_bar();
    let building = replay::run(projection, &services, &asked, &progress);
    tokio::pin!(building);
    let outcome = loop {
        tokio::select! {
            outcome = &mut building => break outcome,
            () = tokio::time::sleep(LOOK_EVERY) => show(&bar, projection, &progress),
        }
    };
    bar.finish_and_clear();
    outcome
}

/// Drawn on a terminal only.
fn progress_bar() -> ProgressBar {
    let style = ProgressStyle::with_template(STYLE).expect("the template is well-formed");
    ProgressBar::new(0).with_style(style)
}

fn show(bar: &ProgressBar, projection: &str, progress: &Progress) {
    let (phase, records, total) = progress.look();
    bar.set_length(total.unsigned_abs());
    bar.set_position(records.min(total).unsigned_abs());
    bar.set_message(format!("{projection} {phase}"));
}

fn tell(projection: &str, what: What, outcome: &Outcome) -> Result<()> {
    let (before, now) = (outcome.before, outcome.generation.unwrap_or(outcome.before));
    match what {
        What::DropOld if outcome.removed.is_empty() => {
            output::note(format_args!("{projection} has no earlier generations"));
        }
        What::DropOld => {
            let numbers: Vec<_> = outcome.removed.iter().map(ToString::to_string).collect();
            output::line(format_args!(
                "{projection}: removed generation {}",
                numbers.join(", ")
            ))?;
        }
        What::Replay | What::Rollback => {
            let number = outcome.records.unsigned_abs();
            output::line(format_args!(
                "{projection}: generation {now} is live, from {}",
                output::count(number, "record")
            ))?;
            output::line(format_args!(
                "generation {before} is kept: `millrace replay --rollback {projection}` goes back to it, `--drop-old` removes it"
            ))?;
        }
        What::Adopt => {
            let records = output::count(outcome.records.unsigned_abs(), "record");
            output::line(format_args!(
                "{projection}: generation {now} is live, from {records} of another log; start the processes again"
            ))?;
            output::line(format_args!(
                "generation {before} is kept; `millrace replay --drop-old {projection}` removes it"
            ))?;
        }
        What::DryRun | What::Verify => output::line(format_args!(
            "{projection}: built from {}, and dropped again",
            output::count(outcome.records.unsigned_abs(), "record")
        ))?,
    }
    for table in &outcome.tables {
        tell_table(table, outcome)?;
    }
    Ok(())
}

/// A line a table, and some of its rows that are different.
pub(super) fn tell_table(table: &Difference, outcome: &Outcome) -> Result<()> {
    let rows = output::count(table.rows, "row");
    if table.count() == 0 {
        return output::line(format_args!("{:<24} {rows}, the same", table.table));
    }
    let columns: Vec<_> = table
        .columns
        .iter()
        .map(|(column, count)| format!("{column} in {}", output::grouped(*count)))
        .collect();
    let columns = match columns.len() {
        0 => String::new(),
        _ => format!(" ({})", columns.join(", ")),
    };
    output::line(format_args!(
        "{:<24} {rows}: {} added, {} removed, {} changed{columns}",
        table.table,
        output::grouped(table.added),
        output::grouped(table.removed),
        output::grouped(table.changed),
    ))?;
    for example in &table.examples {
        output::line(format_args!("  {}", described(example)))?;
        if let Some(records) = records(table, example, outcome) {
            output::line(format_args!("    from {records}"))?;
        }
    }
    let more = table.count() - table.examples.len() as u64;
    if more > 0 {
        output::line(format_args!("  and {} more", output::grouped(more)))?;
    }
    Ok(())
}

/// A row in words: its key, and what is there in place of what should be.
fn described(example: &Example) -> String {
    let key: Vec<_> = example
        .key
        .iter()
        .map(|(column, cell)| format!("{column} {}", cell.escape_debug()))
        .collect();
    let key = key.join(", ");
    let (Some(first), Some(second)) = (&example.first, &example.second) else {
        let missing = example.first.is_none();
        return match missing {
            true => format!("{key}: is not there, and should be"),
            false => format!("{key}: is there, and should not be"),
        };
    };
    let cell = |cell: Option<&Option<String>>| match cell {
        Some(Some(text)) => text.escape_debug().to_string(),
        _ => "null".to_owned(),
    };
    let columns = second
        .iter()
        .filter(|(name, cell)| first.get(*name) != Some(cell));
    let columns = columns.map(|(name, should)| {
        let is = cell(first.get(name));
        format!("{name} is {is}, and should be {}", cell(Some(should)))
    });
    format!("{key}: {}", columns.collect::<Vec<_>>().join("; "))
}

/// The places of the records that should have made a row.
fn records(table: &Difference, example: &Example, outcome: &Outcome) -> Option<String> {
    let blamed = outcome
        .blamed
        .iter()
        .find(|blamed| blamed.table == table.table && blamed.key == example.key)?;
    let named = blamed.records.iter();
    let named: Vec<_> = named
        .map(|(partition, offset)| format!("{}/{partition}@{offset}", outcome.topic))
        .collect();
    Some(match blamed.count - named.len() as u64 {
        _ if named.is_empty() => "no single record".to_owned(),
        0 => named.join(", "),
        more => format!("{} and {more} more", named.join(", ")),
    })
}

/// The outcome as programs get it.
#[derive(Serialize)]
pub(super) struct Report<'a> {
    projection: &'a str,
    /// The generation that was built, or took over.
    generation: Option<i32>,
    /// The generation that was live before.
    before: i32,
    removed: &'a [i32],
    records: i64,
    tables: Vec<Value>,
    seconds: Map<String, Value>,
}

impl<'a> Report<'a> {
    pub(super) fn of(projection: &'a str, outcome: &'a Outcome) -> Self {
        let tables = outcome
            .tables
            .iter()
            .map(|table| table_json(table, outcome));
        let seconds = outcome.seconds.iter();
        Self {
            projection,
            generation: outcome.generation,
            before: outcome.before,
            removed: &outcome.removed,
            records: outcome.records,
            tables: tables.collect(),
            seconds: seconds
                .map(|(what, seconds)| ((*what).to_owned(), json!(seconds)))
                .collect(),
        }
    }
}

fn table_json(table: &Difference, outcome: &Outcome) -> Value {
    let examples = table.examples.iter().map(|example| {
        let key: Map<_, _> = example
            .key
            .iter()
            .map(|(column, cell)| (column.clone(), json!(cell)))
            .collect();
        json!({
            "key": key,
            "is": example.first,
            "should_be": example.second,
            "from": records(table, example, outcome),
        })
    });
    json!({
        "table": table.table,
        "rows": table.rows,
        "added": table.added,
        "removed": table.removed,
        "changed": table.changed,
        "columns": table.columns,
        "examples": examples.collect::<Vec<_>>(),
    })
}
