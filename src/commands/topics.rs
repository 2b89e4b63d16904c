//! `millrace topics`: the list of topics, what they are like, and how they come to be.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use comfy_table::CellAlignment;
use processors::inspect::{self, Extent, Log, Seen};
use producers::{
    kafka::Kafka,
    topics::{self, Applied, Described},
};
use schemas::{
    inspect::millis,
    registry::{Registry, RegistryError},
    topics::{TOPICS, subject},
};
use serde::Serialize;
use serde_json::{Value, value::RawValue};
use tokio::task::block_in_place;

use super::tail;
use crate::{
    cli::{Connection, Topics, TopicsArgs},
    output,
};

pub async fn topics(connection: &Connection, args: TopicsArgs) -> Result<()> {
    match args.command {
        None => list(connection, args.json).await,
        Some(Topics::Describe { topic }) => describe(connection, &topic, args.json).await,
        Some(Topics::Tail(tail)) => tail::tail(connection, &tail, args.json).await,
        Some(Topics::Get { position }) => tail::get(connection, &position, args.json).await,
        Some(Topics::Apply { dry_run }) => apply(connection, dry_run, args.json).await,
    }
}

/// A topic in a line.
#[derive(Serialize)]
struct Line {
    topic: String,
    partitions: i32,
    records: i64,
    first_at: Option<String>,
    last_at: Option<String>,
    timestamp_type: String,
    schema_id: Option<u32>,
    schema_versions: usize,
}

async fn list(connection: &Connection, json: bool) -> Result<()> {
    let kafka = connection.kafka();
    let names: Vec<_> = TOPICS.iter().map(|topic| topic.full_name(&kafka.prefix)).collect();
    let there = block_in_place(|| topics::existing(&kafka, &names))?;
    let registry = connection.registry()?;
    let mut lines = Vec::new();
    for name in names.iter().filter(|name| there.contains(name)) {
        let mut line = block_in_place(|| look(&kafka, name))?;
        let settings = topics::describe(&kafka, name).await?.settings;
        line.timestamp_type = setting(&settings, "message.timestamp.type");
        let versions = versions(&registry, name).await?;
        line.schema_versions = versions.len();
        line.schema_id = versions.last().map(|version| version.id);
        lines.push(line);
    }
    if json {
        lines.iter().try_for_each(output::json)?;
    } else if !lines.is_empty() {
        print(&lines)?;
    }
    for name in names.iter().filter(|name| !there.contains(name)) {
        output::note(format_args!("topic {name} does not exist: run `millrace topics apply`"));
    }
    Ok(())
}

/// What the log itself tells of a topic.
fn look(kafka: &Kafka, name: &str) -> Result<Line> {
    let log = Log::with(&Arc::new(inspect::consumer(kafka)?), name)?;
    let extents = log.extents()?;
    let filled = || extents.iter().filter(|extent| extent.records() > 0);
    let firsts: Vec<_> = filled().map(|extent| (extent.partition, extent.first_offset)).collect();
    let lasts: Vec<_> = filled().map(|extent| (extent.partition, extent.end_offset - 1)).collect();
    let times = |seen: Vec<Seen>| seen.into_iter().filter_map(|seen| seen.timestamp_ms);
    Ok(Line {
        topic: name.to_owned(),
        partitions: log.partitions,
        records: extents.iter().map(Extent::records).sum(),
        first_at: times(log.first_at(&firsts, LOOK)?).min().and_then(millis),
        last_at: times(log.first_at(&lasts, LOOK)?).max().and_then(millis),
        timestamp_type: String::new(),
        schema_id: None,
        schema_versions: 0,
    })
}

/// How long the first and last records may take to read.
const LOOK: std::time::Duration = std::time::Duration::from_secs(2);

fn print(lines: &[Line]) -> Result<()> {
    let head = [
        "topic", "partitions", "records", "first", "last", "timestamps", "schema id", "versions",
    ];
    let mut table = output::table(head);
    let none = || "-".to_owned();
    for line in lines {
        table.add_row([
            line.topic.clone(),
            line.partitions.to_string(),
            output::grouped(line.records.unsigned_abs()),
            line.first_at.clone().unwrap_or_else(none),
            line.last_at.clone().unwrap_or_else(none),
            line.timestamp_type.clone(),
            line.schema_id.map_or_else(none, |id| id.to_string()),
            line.schema_versions.to_string(),
        ]);
    }
    output::align(&mut table, CellAlignment::Right, &[1, 2, 6, 7]);
    output::print(&table)
}

/// A version of a topic's schema.
#[derive(Serialize)]
struct Version {
    version: u32,
    id: u32,
    schema: Box<RawValue>,
}

async fn versions(registry: &Registry, topic: &str) -> Result<Vec<Version>> {
    let subject = subject(topic);
    let mut found = Vec::new();
    for version in registry.versions(&subject).await? {
        let (id, schema) = registry.version(&subject, version).await?;
        let schema = RawValue::from_string(schema)
            .with_context(|| format!("version {version} of {subject} is not JSON"))?;
        found.push(Version { version, id, schema });
    }
    Ok(found)
}

/// All about a topic.
#[derive(Serialize)]
struct Description {
    topic: String,
    partitions: Vec<Extent>,
    settings: Value,
    differences: Vec<String>,
    compatibility: Option<String>,
    versions: Vec<Version>,
}

async fn describe(connection: &Connection, topic: &str, json: bool) -> Result<()> {
    let kafka = connection.kafka();
    let registry = connection.registry()?;
    let log = block_in_place(|| Log::open(&kafka, topic))?;
    let Described { settings, differences } = topics::describe(&kafka, &log.topic).await?;
    let description = Description {
        partitions: block_in_place(|| log.extents())?,
        settings: settings.into_iter().collect(),
        differences,
        compatibility: demanded(&registry, &log.topic).await?,
        versions: versions(&registry, &log.topic).await?,
        topic: log.topic,
    };
    if json {
        return output::json(&description);
    }
    description.print()
}
