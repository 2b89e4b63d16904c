//! `millrace dead-letters`: the records that could not be folded, and why.

use anyhow::{Result, bail};
use processors::inspect::{Seen, base64, hex_dump};
use producers::clock;
use projections::dead_letters::{self, Stored};
use schemas::{
    inspect::{Inspected, Inspector, millis},
    position::Position,
};
use serde::Serialize;
use tokio::task::block_in_place;

use super::{connect, of_postgres, tail};
use crate::{
    cli::{Connection, DeadLetters, DeadLettersArgs},
    output,
};

pub async fn dead_letters(connection: &Connection, args: DeadLettersArgs) -> Result<()> {
    match &args.command {
        None => list(connection, &args).await,
        Some(DeadLetters::Show { position }) => show(connection, position, args.json).await,
    }
}

/// A dead letter as programs get it.
#[derive(Serialize)]
struct Letter<'a> {
    position: String,
    projection: &'a str,
    reason: &'a str,
    error: &'a str,
    version: i32,
    timestamp: Option<String>,
}

impl<'a> From<&'a Stored> for Letter<'a> {
    fn from(stored: &'a Stored) -> Self {
        Self {
            position: format!("{}/{}@{}", stored.topic, stored.partition, stored.offset),
            projection: &stored.projection,
            reason: &stored.reason,
            error: &stored.error,
            version: stored.version,
            timestamp: millis(stored.record_at_ms),
        }
    }
}

async fn list(connection: &Connection, args: &DeadLettersArgs) -> Result<()> {
    let database = connection.database()?;
    let mut postgres = connect(&database).await?;
    let projection = args.projection.as_deref();
    let limit = i64::try_from(args.limit)?;
    let found = dead_letters::list(&mut postgres, projection, limit).await;
    let found = of_postgres(&database, found)?;
    if args.json {
        return found
            .iter()
            .try_for_each(|stored| output::json(&Letter::from(stored)));
    }
    if found.is_empty() {
        output::note("no dead letters");
        return Ok(());
    }
    let now_ms = clock::now_ms();
    let mut table = output::table(["position", "age", "reason", "error"]);
    for stored in &found {
        table.add_row([
            Letter::from(stored).position,
            output::age((now_ms - stored.record_at_ms) / 1_000),
            stored.reason.clone(),
            stored.error.escape_debug().to_string(),
        ]);
    }
    output::print(&table)?;
    if found.len() == args.limit {
        output::note(format_args!(
            "the newest {}; --limit shows more",
            args.limit
        ));
    }
    Ok(())
}

/// A dead letter with its record, as programs get it.
#[derive(Serialize)]
struct Shown<'a> {
    dead_letters: Vec<Letter<'a>>,
    record: processors::inspect::ForPrograms<'a>,
    key_bytes: Option<String>,
    value_bytes: Option<String>,
}

async fn show(connection: &Connection, position: &Position, json: bool) -> Result<()> {
    let seen = block_in_place(|| tail::find(connection, position))?;
    let database = connection.database()?;
    let mut postgres = connect(&database).await?;
    let letters = dead_letters::of_record(&mut postgres, &seen.topic, seen.partition, seen.offset);
    let letters = of_postgres(&database, letters.await)?;
    if letters.is_empty() {
        bail!(
            "{} is no dead letter; `millrace topics get {0}` shows the record",
            seen.position()
        );
    }
    let inspected = inspect(connection, &seen).await?;
    if json {
        return output::json(&Shown {
            dead_letters: letters.iter().map(Letter::from).collect(),
            record: seen.for_programs(&inspected),
            key_bytes: seen.key.as_deref().map(base64),
            value_bytes: seen.value.as_deref().map(base64),
        });
    }
    for letter in &letters {
        output::line(format_args!(
            "projection {} (version {})",
            letter.projection, letter.version
        ))?;
        output::line(format_args!("reason     {}", letter.reason))?;
        output::line(format_args!("error      {}", letter.error.escape_debug()))?;
    }
    tail::show(&seen, &inspected)?;
    match &seen.value {
        None => output::line("the record has no value"),
        Some(value) => output::lines(&format!(
            "{}:\n{}",
            output::count(value.len() as u64, "byte"),
            hex_dump(value)
        )),
    }
}

/// Decodes what can be decoded; without the registry, the rest is still worth showing.
async fn inspect(connection: &Connection, seen: &Seen) -> Result<Inspected> {
    let inspected = Inspector::new(connection.registry()?)
        .inspect(seen.value.as_deref())
        .await;
    Ok(inspected.unwrap_or_else(|error| Inspected {
        schema_id: None,
        datum: Err(error.to_string()),
    }))
}
