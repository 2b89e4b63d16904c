//! The history guard: whether the log is still the one that a projection was made from. A log has no name of its own
//! that would tell: an address may lead to another cluster, a topic may be deleted and made anew, a broker may lose what
//! it had. So each generation notes the ids of its cluster and its topic, and each checkpoint the last record before it.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result, bail};
use producers::{
    kafka::Kafka,
    log_id::{LogId, log_ids},
};
use projections::{
    checkpoints::Last,
    history::{Applied, Known},
    schema_ids::Met,
};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use schemas::{codec::fingerprint_of, registry::Registry};
use tokio::{
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::inspect::{self, Extent, Log, Seen};

/// How long the broker may take to give the records.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the registry may take to say what an id means: who waits for it says so elsewhere.
const REGISTRY_TIMEOUT: Duration = Duration::from_secs(2);

/// What is found wrong has to be found twice, so far apart: a partition that gets another leader may end too early for a
/// moment.
pub(crate) const CONFIRM: Duration = Duration::from_secs(1);

/// What a look at the log has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// What was applied is there. Which log it is.
    Same(LogId),
    /// Another log: what was expected and what is there instead, in words.
    Another(String),
}

/// Compares a topic, by its full name, with what a projection has applied of it. Blocks, for a bounded time.
///
/// # Errors
/// If the broker does not answer: nothing is known then.
pub fn look_back(kafka: &Kafka, topic: &str, known: &Known) -> Result<Found> {
    // A new client, which finds its way from the addresses that were given.
    let consumer = Arc::new(inspect::consumer(kafka)?);
    let id = log_id(&consumer, topic)?;
    if let Some((cluster, topic_id)) = &known.log {
        let noted = LogId {
            cluster: cluster.clone(),
            topic: topic_id.clone(),
        };
        if !noted.may_be(&id) {
            return Ok(Found::Another(differs(topic, &kafka.brokers, &noted, &id)));
        }
    }
    let log = Log::with(&consumer, topic)?;
    match contradiction(&log, &led(&consumer, topic)?, &id, known)? {
        Some(what) => Ok(Found::Another(what)),
        None => Ok(Found::Same(id)),
    }
}

/// How the log is another one than what a projection has applied, in words; none if it is the same. Whatever is found
/// wrong has to be found twice.
///
/// # Errors
/// As [`look_back`].
pub async fn other_log(kafka: &Kafka, topic: &str, known: &Known) -> Result<Option<String>> {
    if let Found::Same(_) = look_beside(kafka, topic, known).await? {
        return Ok(None);
    }
    sleep(CONFIRM).await;
    Ok(match look_beside(kafka, topic, known).await? {
        Found::Same(_) => None,
        Found::Another(what) => Some(what),
    })
}

/// As [`look_back`], where waiting is not allowed.
pub(crate) async fn look_beside(kafka: &Kafka, topic: &str, known: &Known) -> Result<Found> {
    let (kafka, topic, known) = (kafka.clone(), topic.to_owned(), known.clone());
    spawn_blocking(move || look_back(&kafka, &topic, &known)).await?
}

/// Which log a topic is, by its full name; asked with a client that is new.
///
/// # Errors
/// If the broker does not answer or has no such topic.
pub fn log_id(consumer: &BaseConsumer, topic: &str) -> Result<LogId> {
    let mut ids = log_ids(consumer, &[topic.to_owned()])?;
    ids.pop().context("the cluster describes no topic")
}

/// How a log differs from the one that was noted, in words.
pub fn differs(topic: &str, brokers: &str, noted: &LogId, found: &LogId) -> String {
    if noted.cluster != found.cluster && !noted.cluster.is_empty() && !found.cluster.is_empty() {
        return format!(
            "MILLRACE_BROKERS ({brokers}) leads to Kafka cluster {}, and {topic} was read from cluster {} before",
            found.cluster, noted.cluster
        );
    }
    format!(
        "topic {topic} was deleted and made anew: its id is {}, and was {}",
        found.topic, noted.topic
    )
}

/// What to do about it.
pub fn what_to_do(projection: &str) -> String {
    format!(
        "let MILLRACE_BROKERS lead to the log that was there before, or restore that log; if this one is meant to take its place, rebuild the projection from it (`millrace replay --new-log {projection}`) and start the processes again"
    )
}

/// The first of these schema ids that means something else than when it was first met, in words. If the registry does
/// not answer, none is known to.
pub async fn other_meaning(registry: &Registry, met: &[Met]) -> Option<String> {
    for Met {
        subject,
        schema_id,
        fingerprint,
    } in met
    {
        let asked = timeout(REGISTRY_TIMEOUT, registry.schema(*schema_id)).await;
        let text = asked.ok()?.ok()?;
        let found = text.as_deref().and_then(fingerprint_of);
        if found.as_ref() != Some(fingerprint) {
            let found = found.as_deref().unwrap_or("none");
            return Some(format!(
                "schema id {schema_id} of {subject} has fingerprint {found} and had {fingerprint}: the registry lost its data or is another one; point MILLRACE_REGISTRY_URL at the one that wrote this log"
            ));
        }
    }
    None
}

/// The partitions that have a leader. Of the others nothing can be read, and nothing folded: they are looked at when
/// they are there again.
fn led(consumer: &BaseConsumer, topic: &str) -> Result<Vec<i32>> {
    let metadata = consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let partitions = metadata
        .topics()
        .iter()
        .flat_map(|found| found.partitions());
    let led = partitions.filter(|partition| partition.leader() >= 0);
    Ok(led.map(|partition| partition.id()).collect())
}

/// What the log says otherwise than what was applied of it.
fn contradiction(log: &Log, led: &[i32], id: &LogId, known: &Known) -> Result<Option<String>> {
    let partitions = known.applied.iter().map(|applied| applied.partition);
    let there: Vec<_> = partitions.filter(|of| led.contains(of)).collect();
    let extents = log.extents_of(&there)?;
    let mut lasts = Vec::new();
    for applied in &known.applied {
        if applied.next_offset == 0 {
            continue;
        }
        if applied.partition >= log.partitions {
            return Ok(Some(format!(
                "topic {} has {} partitions, and records of partition {} were applied",
                log.topic, log.partitions, applied.partition
            )));
        }
        let mut extents = extents.iter();
        let Some(extent) = extents.find(|extent| extent.partition == applied.partition) else {
            continue;
        };
        if let Some(what) = lost(&log.topic, *extent, applied) {
            return Ok(Some(what));
        }
        let Some(last) = applied.last else { continue };
        if last.offset >= extent.first_offset {
            lasts.push((applied.partition, last, extent.end_offset));
        } else if id.topic.is_empty() {
            return Ok(Some(format!(
                "topic {} begins at offset {} in partition {}, and the last record that was applied is not there any more",
                log.topic, extent.first_offset, applied.partition
            )));
        }
        // Else it was deleted after it was applied, from the same topic: nothing that is to be read is missing.
    }
    compare(log, &lasts)
}

/// Whether the partition ends before what was applied of it.
fn lost(topic: &str, extent: Extent, applied: &Applied) -> Option<String> {
    let Applied {
        partition,
        next_offset,
        ..
    } = applied;
    (extent.end_offset < *next_offset).then(|| {
        format!(
            "topic {topic} ends at offset {} in partition {partition}, and everything before offset {next_offset} was applied: it lost records, or was made anew",
            extent.end_offset
        )
    })
}

/// Compares records with those that were applied, given by partition, with its end.
fn compare(log: &Log, lasts: &[(i32, Last, i64)]) -> Result<Option<String>> {
    if lasts.is_empty() {
        return Ok(None);
    }
    let ranges = lasts.iter().map(|(p, last, end)| (*p, last.offset..*end));
    let found = log.first_in(&ranges.collect::<Vec<_>>(), PATIENCE)?;
    for (partition, last, _) in lasts {
        let Some(seen) = found.iter().find(|seen| seen.partition == *partition) else {
            bail!(
                "{} does not give the record at offset {} of partition {partition}: is the broker well?",
                log.topic,
                last.offset
            );
        };
        if !is_it(seen, last) {
            return Ok(Some(format!(
                "topic {} has another record at offset {} of partition {partition} than the one that was applied: it was made anew, or lost records and got others",
                log.topic, last.offset
            )));
        }
    }
    Ok(None)
}

fn is_it(seen: &Seen, last: &Last) -> bool {
    seen.offset == last.offset && seen.raw().fingerprint() == last.fingerprint
}
