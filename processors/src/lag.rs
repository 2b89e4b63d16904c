//! The distance of the projections to the end of their log, in records and in seconds.

use std::time::Duration;

use anyhow::{Context, Result};
use producers::kafka::Kafka;
use projections::{checkpoints, projection::PROJECTIONS};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use serde::Serialize;
use sqlx::PgPool;

use crate::inspect;

const TIMEOUT: Duration = Duration::from_secs(5);

/// How far a projection is behind in one partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lag {
    /// The projection.
    pub projection: &'static str,
    /// The partition.
    pub partition: i32,
    /// Offset of the first record that is not applied.
    pub next_offset: i64,
    /// Offset after the last record of the log.
    pub end_offset: i64,
    /// Records that are not applied.
    pub records: i64,
    /// Age of the oldest record that is not applied; 0 if there is none.
    pub seconds: f64,
}

/// Measures the lag of every projection and partition at `now_ms`. Blocks; run it where that is allowed.
pub struct Meter {
    consumer: BaseConsumer,
    prefix: String,
}

impl Meter {
    /// A meter for the broker.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's.
    pub fn new(kafka: &Kafka) -> Result<Self> {
        Ok(Self {
            consumer: inspect::consumer(kafka)?,
            prefix: kafka.prefix.clone(),
        })
    }

    /// The lag of a projection, given its checkpoints.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn measure(
        &self,
        projection: &'static str,
        next_offsets: &[(i32, i64)],
        now_ms: i64,
    ) -> Result<Vec<Lag>> {
        let topic = format!("{}{projection}", self.prefix);
        let partitions = inspect::partition_count(&self.consumer, &topic)?;
        (0..partitions)
            .map(|partition| {
                let known = next_offsets.iter().find(|(p, _)| *p == partition);
                let next_offset = known.map_or(0, |(_, next_offset)| *next_offset);
                let (_, end_offset) = self
                    .consumer
                    .fetch_watermarks(&topic, partition, TIMEOUT)
                    .with_context(|| format!("cannot read the end of {topic}/{partition}"))?;
                let records = (end_offset - next_offset).max(0);
                let seconds = if records == 0 {
                    0.0
                } else {
                    self.age_seconds(&topic, partition, next_offset, now_ms)?
                };
                Ok(Lag {
                    projection,
                    partition,
                    next_offset,
                    end_offset,
                    records,
                    seconds,
                })
            })
            .collect()
    }

    /// The age of the first record at or after an offset.
    fn age_seconds(&self, topic: &str, partition: i32, offset: i64, now_ms: i64) -> Result<f64> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))?;
        self.consumer.assign(&list)?;
        let polled = self.consumer.poll(TIMEOUT);
        let age_ms = match polled {
            Some(Ok(record)) => now_ms - record.timestamp().to_millis().unwrap_or(now_ms),
            // No record to be had there after all.
            Some(Err(_)) | None => 0,
        };
        self.consumer.unassign()?;
        Ok(age_ms.max(0) as f64 / 1000.0)
    }
}

/// The checkpoints of every projection, to measure with.
///
/// # Errors
/// If Postgres does not answer.
pub async fn next_offsets(pool: &PgPool) -> sqlx::Result<Vec<(&'static str, Vec<(i32, i64)>)>> {
    let mut all = Vec::new();
    for projection in PROJECTIONS {
        let found = checkpoints::live(pool, projection.name).await?;
        let offsets = found.iter().map(|c| (c.partition, c.next_offset)).collect();
        all.push((projection.name, offsets));
    }
    Ok(all)
}
