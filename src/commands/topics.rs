//! `millrace topics`: the list of topics, what they are like, and how they come to be.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use processors::inspect::{self, Extent, Log, Seen};
use producers::{
    kafka::Kafka,
    topics::{self, Applied, Described},
};
use schemas::{
    inspect::millis,
    registry::Registry,
    topics::{TOPICS, subject},
};
use serde::Serialize;
use tokio::task::block_in_place;

use super::tail;
use crate::{
    cli::{ApplyArgs, Connection, Topics, TopicsArgs},
    output,
};

pub async fn topics(connection: &Connection, args: TopicsArgs) -> Result<()> {
    match args.command {
        None => list(connection, args.json).await,
        Some(Topics::Describe { topic }) => describe(connection, &topic, args.json).await,
        Some(Topics::Tail(tail)) => tail::tail(connection, &tail, args.json).await,
        Some(Topics::Get { position }) => tail::get(connection, &position, args.json).await,
        Some(Topics::Apply(apply_args)) => apply(connection, &apply_args, args.json).await,
    }
}

/// How long the first and last records may take to read.
const LOOK: Duration = Duration::from_secs(2);

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
    let registry = connection.registry()?;
    let mut lines = Vec::new();
    let mut missing = Vec::new();
    for topic in TOPICS {
        let name = topic.full_name(&kafka.prefix);
        let Some(described) = topics::describe(&kafka, &name).await? else {
            missing.push(name);
            continue;
        };
        let versions = versions(&registry, &name).await?;
        lines.push(Line {
            timestamp_type: described.setting("message.timestamp.type").to_owned(),
            schema_id: versions.last().map(|version| version.id),
            schema_versions: versions.len(),
            ..block_in_place(|| look(&kafka, &name))?
        });
    }
    if json {
        lines.iter().try_for_each(output::json)?;
    } else if !lines.is_empty() {
        print(&lines)?;
    }
    for name in missing {
        output::note(format_args!(
            "topic {name} does not exist: run `millrace topics apply`"
        ));
    }
    Ok(())
}

/// What the log itself tells of a topic.
fn look(kafka: &Kafka, name: &str) -> Result<Line> {
    let log = Log::with(&Arc::new(inspect::consumer(kafka)?), name)?;
    let extents = log.extents()?;
    let filled = || extents.iter().filter(|extent| extent.records() > 0);
    let firsts: Vec<_> = filled()
        .map(|extent| (extent.partition, extent.first_offset..extent.end_offset))
        .collect();
    let lasts: Vec<_> = filled()
        .map(|extent| (extent.partition, extent.end_offset - 1..extent.end_offset))
        .collect();
    let times = |seen: Vec<Seen>| seen.into_iter().filter_map(|seen| seen.timestamp_ms);
    Ok(Line {
        topic: name.to_owned(),
        partitions: log.partitions,
        records: extents.iter().map(Extent::records).sum(),
        first_at: times(log.first_in(&firsts, LOOK)?).min().and_then(millis),
        last_at: times(log.first_in(&lasts, LOOK)?).max().and_then(millis),
        timestamp_type: String::new(),
        schema_id: None,
        schema_versions: 0,
    })
}

fn print(lines: &[Line]) -> Result<()> {
    let head = [
        "topic",
        "partitions",
        "records",
        "first",
        "last",
        "timestamps",
        "schema id",
        "versions",
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
    output::align_right(&mut table, &[1, 2, 6, 7]);
    output::print(&table)
}

/// A version of a topic's schema.
#[derive(Serialize)]
struct Version {
    version: u32,
    id: u32,
    /// As it was registered.
    schema: String,
}

async fn versions(registry: &Registry, topic: &str) -> Result<Vec<Version>> {
    let subject = subject(topic);
    let mut found = Vec::new();
    for version in registry.versions(&subject).await? {
        let (id, schema) = registry.version(&subject, version).await?;
        found.push(Version {
            version,
            id,
            schema,
        });
    }
    Ok(found)
}

/// All about a topic.
#[derive(Serialize)]
struct Description {
    topic: String,
    partitions: Vec<Extent>,
    settings: BTreeMap<String, String>,
    differences: Vec<String>,
    compatibility: Option<String>,
    versions: Vec<Version>,
}

async fn describe(connection: &Connection, topic: &str, json: bool) -> Result<()> {
    let kafka = connection.kafka();
    let registry = connection.registry()?;
    let log = block_in_place(|| Log::open(&kafka, topic))?;
    let described = topics::describe(&kafka, &log.topic).await?;
    let Described {
        settings,
        differences,
        ..
    } = described.unwrap_or_default();
    let description = Description {
        partitions: block_in_place(|| log.extents())?,
        settings: settings.into_iter().collect(),
        differences,
        compatibility: registry.demanded(&subject(&log.topic)).await?,
        versions: versions(&registry, &log.topic).await?,
        topic: log.topic,
    };
    if json {
        return output::json(&description);
    }
    description.print()
}

impl Description {
    fn print(&self) -> Result<()> {
        let mut table = output::table(["partition", "first offset", "end offset", "records"]);
        for extent in &self.partitions {
            table.add_row([
                extent.partition.to_string(),
                extent.first_offset.to_string(),
                extent.end_offset.to_string(),
                output::grouped(extent.records().unsigned_abs()),
            ]);
        }
        output::align_right(&mut table, &[0, 1, 2, 3]);
        output::line(format_args!("topic {}", self.topic))?;
        output::print(&table)?;
        if self.differences.is_empty() {
            output::line("settings: as they have to be")?;
        }
        for difference in &self.differences {
            output::line(format_args!("setting differs: {difference}"))?;
        }
        let compatibility = self.compatibility.as_deref();
        let compatibility = compatibility.unwrap_or("the registry's general rule");
        output::line(format_args!("compatibility: {compatibility}"))?;
        if self.versions.is_empty() {
            output::line(format_args!("no schema under {}", subject(&self.topic)))?;
        }
        for Version {
            version,
            id,
            schema,
        } in &self.versions
        {
            output::line(format_args!(
                "schema version {version}, id {id}:\n{}",
                schema.trim_end()
            ))?;
        }
        Ok(())
    }
}

async fn apply(connection: &Connection, args: &ApplyArgs, json: bool) -> Result<()> {
    let ApplyArgs {
        replication,
        dry_run,
    } = *args;
    let (kafka, registry) = (connection.kafka(), connection.registry()?);
    let applied = topics::apply(&kafka, &registry, replication, dry_run).await?;
    let mut differing = 0;
    for (topic, applied) in applied {
        let (word, differences) = match applied {
            Applied::Created if dry_run => ("would be created", Vec::new()),
            Applied::Created => ("created", Vec::new()),
            Applied::Unchanged => ("as it has to be", Vec::new()),
            Applied::Differs(differences) => ("differs", differences),
        };
        differing += u64::from(!differences.is_empty());
        if json {
            output::json(
                &serde_json::json!({ "topic": topic, "outcome": word, "differences": differences }),
            )?;
            continue;
        }
        output::line(format_args!("{topic}: {word}"))?;
        for difference in differences {
            output::line(format_args!("{topic}: {difference}"))?;
        }
    }
    if differing > 0 {
        bail!(
            "{} not as it has to be; nothing was altered",
            output::count(differing, "topic")
        );
    }
    Ok(())
}
