//! Postgres, and the tables in it.

use std::{ops::RangeInclusive, time::Duration};

use anyhow::{Context, Result};
use processors::lag::{Lag, Meter, next_offsets};
use producers::{clock, kafka::Kafka};
use projections::{
    db::{Database, PgConnection, SqlError},
    dead_letters,
    projection::{self, Generation, Migrated, PROJECTIONS, PrepareError, Projection},
    schema_ids::{self, Met},
    server::{self, Server},
};
use tokio::{task::block_in_place, time::timeout};

use super::{Report, timed};
use crate::{
    commands::{connect, of_postgres, serve::connections_needed},
    output,
};

/// How long all questions to Postgres may take together.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most schema ids that are compared.
const IDS_MAX: i64 = 100;
const VERSION_MIN: i32 = 140_000;
/// A fold that is farther behind needs a look.
const BEHIND_MAX_SECONDS: f64 = 60.0;

/// The schema ids that folds have met; none if Postgres cannot tell. `log` is where the log can be asked, if it can.
pub(super) async fn check(
    database: &Database,
    prefix: &str,
    log: Option<&Kafka>,
    report: &mut Report,
) -> Result<Option<Vec<Met>>> {
    let answers = async {
        let mut postgres = connect(database).await?;
        let answers = timeout(PATIENCE, ask(&mut postgres, prefix)).await;
        let answers = answers.with_context(|| {
            let address = database.address();
            format!("no answer from {address} within {PATIENCE:?}: look for locks and load")
        })?;
        of_postgres(database, answers)
    };
    let answers = match answers.await {
        Ok(answers) => answers,
        Err(error) => {
            report.failed("database", output::with_cause(&error))?;
            return Ok(None);
        }
    };
    judge_server(database, &answers.server, report)?;
    let now_ms = answers.server.now_ms;
    report.clock("Postgres", answers.asked_ms, now_ms..=now_ms)?;
    judge_tables(answers.migrated, report)?;
    for (projection, live, dead) in answers.projections {
        judge_projection(projection.name, live, dead, report)?;
    }
    if let Some(kafka) = log {
        check_lag(kafka, &answers.next_offsets, report)?;
    }
    Ok(answers.met)
}

fn check_lag(kafka: &Kafka, next_offsets: &[NextOffsets], report: &mut Report) -> Result<()> {
    let meter = Meter::new(kafka)?;
    for (projection, offsets) in next_offsets {
        let check = format!("projection {}, lag", projection.name);
        match block_in_place(|| meter.measure(projection, offsets, clock::now_ms())) {
            Ok(lags) => judge_lag(&check, &lags, report)?,
            Err(error) => report.failed(check, output::with_cause(&error))?,
        }
    }
    Ok(())
}

/// Everything that Postgres has to say.
struct Answers {
    asked_ms: RangeInclusive<i64>,
    server: Server,
    migrated: Migrated,
    /// Each with its live generation and the number of its dead letters; none while the tables are not this build's.
    projections: Vec<(&'static Projection, Result<Generation, PrepareError>, i64)>,
    next_offsets: Vec<NextOffsets>,
    /// The schema ids that folds have met; none while the tables are not this build's.
    met: Option<Vec<Met>>,
}

/// The checkpoints of a projection: partitions and next offsets.
type NextOffsets = (&'static Projection, Vec<(i32, i64)>);

async fn ask(postgres: &mut PgConnection, prefix: &str) -> Result<Answers, SqlError> {
    let (asked_ms, server) = timed(server::look(postgres)).await;
    let mut answers = Answers {
        asked_ms,
        server: server?,
        migrated: projection::migrated(postgres).await?,
        projections: Vec::new(),
        next_offsets: Vec::new(),
        met: None,
    };
    if answers.migrated != Migrated::Fully {
        return Ok(answers);
    }
    for projection in PROJECTIONS {
        let live = match projection.live(postgres, &projection.topic(prefix)).await {
            Err(PrepareError::Postgres(error)) => return Err(error),
            live => live,
        };
        let dead = dead_letters::count(&mut *postgres, projection.name).await?;
        answers.projections.push((projection, live, dead));
    }
    answers.next_offsets = next_offsets(postgres).await?;
    answers.met = Some(schema_ids::newest(postgres, None, IDS_MAX).await?);
    Ok(answers)
}

fn judge_server(database: &Database, server: &Server, report: &mut Report) -> Result<()> {
    let mut faults = Vec::new();
    if server.version_number < VERSION_MIN {
        faults.push("Millrace needs version 14 or newer");
    }
    if server.encoding != "UTF8" {
        faults.push("its encoding should be UTF8: create the database anew with `ENCODING 'UTF8'`");
    }
    if !server.fsync {
        faults.push("fsync is off, a crash may destroy it: set fsync = on");
    }
    if !server.full_page_writes {
        faults.push("full_page_writes is off, a crash may destroy it: set full_page_writes = on");
    }
    let what = format!(
        "PostgreSQL {} at {}, {}",
        server.version,
        database.address(),
        server.encoding
    );
    if faults.is_empty() {
        report.ok(
            "database",
            format_args!("{what}, fsync and full_page_writes are on"),
        )?;
    } else {
        report.failed("database", format_args!("{what}; {}", faults.join("; ")))?;
    }
    let free = server.connections_free;
    let needed = connections_needed();
    if free >= needed {
        return report.ok(
            "connections",
            format_args!("{free} are free, a `millrace run` takes {needed}"),
        );
    }
    report.warning(
        "connections",
        format_args!(
            "{free} are free and another `millrace run` takes {needed}: raise max_connections, or lower its --pg-max-conns and --threads"
        ),
    )
}

fn judge_tables(migrated: Migrated, report: &mut Report) -> Result<()> {
    const CHECK: &str = "tables";
    match migrated {
        Migrated::Fully => report.ok(CHECK, "as this build needs them"),
        Migrated::Behind(missing) => {
            let missing = output::count(missing as u64, "migration");
            report.warning(
                CHECK,
                format_args!("{missing} to come: the next `millrace run` or `process` brings them"),
            )
        }
        Migrated::Otherwise(version) => report.failed(
            CHECK,
            format_args!(
                "migration {version} is not of this build: run the build that made them, or a newer one"
            ),
        ),
    }
}

fn judge_projection(
    name: &str,
    live: Result<Generation, PrepareError>,
    dead: i64,
    report: &mut Report,
) -> Result<()> {
    let check = format!("projection {name}");
    match live {
        Ok(generation) => report.ok(
            &check,
            format_args!("generation {}, of this build's version", generation.number),
        )?,
        Err(error) => report.failed(&check, error)?,
    }
    let check = format!("{check}, dead letters");
    if dead == 0 {
        return report.ok(check, "none");
    }
    report.warning(
        check,
        format_args!("{dead}: `millrace dead-letters --projection {name}` says why"),
    )
}

fn judge_lag(check: &str, lags: &[Lag], report: &mut Report) -> Result<()> {
    let mut faults = Vec::new();
    for lag in lags {
        let Lag {
            partition,
            first_offset,
            next_offset,
            end_offset,
            ..
        } = lag;
        if next_offset > end_offset {
            faults.push(format!("{partition} has less than was applied: it ends at {end_offset} and {next_offset} is next"));
        }
        if next_offset < first_offset {
            faults.push(format!(
                "{partition} begins at {first_offset} and {next_offset} was yet to be applied"
            ));
        }
    }
    if !faults.is_empty() {
        return report.failed(
            check,
            format_args!(
                "partition {}: the log was truncated or made anew; if that was meant, rebuild the projection",
                faults.join(", ")
            ),
        );
    }
    let records: i64 = lags.iter().map(|lag| lag.records).sum();
    let seconds = lags.iter().map(|lag| lag.seconds).fold(0.0, f64::max);
    let found = format!(
        "{} and {seconds:.1} seconds behind",
        output::count(records.unsigned_abs(), "record")
    );
    if seconds <= BEHIND_MAX_SECONDS {
        return report.ok(check, found);
    }
    report.warning(
        check,
        format_args!(
            "{found}: does a `millrace run` or `process` run, and what does its /readyz say?"
        ),
    )
}
