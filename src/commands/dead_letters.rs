//! `millrace dead-letters`: the records that could not be folded, and why.

mod retry;

use anyhow::{Result, bail};
use processors::inspect::{Seen, base64, hex_dump};
use producers::clock;
use projections::dead_letters::{self, Filter, Stored};
use schemas::{
    inspect::{Inspected, Inspector, millis},
    position::Position,
    topics::TOPICS,
};
use serde::Serialize;
use tokio::task::block_in_place;

use super::{connect, of_postgres, tail};
use crate::{
    cli::{Connection, DeadLetters, DeadLettersArgs, Start},
    output,
};

pub async fn dead_letters(connection: &Connection, args: DeadLettersArgs) -> Result<()> {
    match &args.command {
        None if args.summary => summary(connection, &args).await,
        None => list(connection, &args).await,
        Some(DeadLetters::Show { position }) => show(connection, position, args.json).await,
        Some(DeadLetters::Retry(retried)) => retry::retry(connection, retried, args.json).await,
    }
}

/// The full name of a topic: of one of ours by its plain name, too.
fn full_name(connection: &Connection, topic: &str) -> String {
    let ours = TOPICS.iter().find(|ours| ours.name == topic);
    ours.map_or_else(
        || topic.to_owned(),
        |ours| ours.full_name(&connection.topic_prefix),
    )
}

/// A time or an age, in milliseconds since 1970-01-01T00:00:00Z.
fn time_ms(moment: Start) -> Option<i64> {
    match moment {
        Start::Time(ms) => Some(ms),
        Start::Ago(ms) => Some(clock::now_ms().saturating_sub(ms)),
        _ => None,
    }
}

/// What was asked for, given the topic's full name.
fn filter<'a>(args: &'a DeadLettersArgs, topic: Option<&'a str>) -> Filter<'a> {
    Filter {
        projection: args.projection.as_deref(),
        topic,
        reason: args.reason.as_deref(),
        since_ms: args.since.and_then(time_ms),
        until_ms: args.until.and_then(time_ms),
    }
}

/// Dead letters of one kind, as programs get them.
#[derive(Serialize)]
struct Summed<'a> {
    projection: &'a str,
    topic: &'a str,
    reason: &'a str,
    count: i64,
    oldest: Option<String>,
    newest: Option<String>,
}

async fn summary(connection: &Connection, args: &DeadLettersArgs) -> Result<()> {
    let database = connection.database()?;
    let mut postgres = connect(&database).await?;
    let topic = args.topic.as_deref().map(|t| full_name(connection, t));
    let found = dead_letters::groups(&mut postgres, &filter(args, topic.as_deref())).await;
    let found = of_postgres(&database, found)?;
    if args.json {
        return found.iter().try_for_each(|group| {
            output::json(&Summed {
                projection: &group.projection,
                topic: &group.topic,
                reason: &group.reason,
                count: group.count,
                oldest: millis(group.oldest_ms),
                newest: millis(group.newest_ms),
            })
        });
    }
    if found.is_empty() {
        output::note("no dead letters");
        return Ok(());
    }
    let now_ms = clock::now_ms();
    let age = |at_ms| output::age((now_ms - at_ms) / 1_000);
    let mut table = output::table([
        "projection",
        "topic",
        "reason",
        "records",
        "oldest",
        "newest",
    ]);
    for group in &found {
        table.add_row([
            group.projection.clone(),
            group.topic.clone(),
            group.reason.clone(),
            output::grouped(u64::try_from(group.count)?),
            age(group.oldest_ms),
            age(group.newest_ms),
        ]);
    }
    output::align_right(&mut table, &[3]);
    output::print(&table)
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
    let topic = args.topic.as_deref().map(|t| full_name(connection, t));
    let limit = i64::try_from(args.limit)?;
    let meant = filter(args, topic.as_deref());
    let found = dead_letters::list(&mut postgres, &meant, limit).await;
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
