//! The distance of the projections to the end of their log, in records and in seconds.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use producers::kafka::Kafka;
use projections::{
    checkpoints,
    projection::{PROJECTIONS, Projection},
};
use rdkafka::consumer::BaseConsumer;
use schemas::topics::Topic;
use serde::Serialize;
use sqlx::PgConnection;

use crate::inspect::{self, Extent, Log};

/// How long the oldest records may take to read; without them the age is unknown, and 0.
const PATIENCE: Duration = Duration::from_secs(2);

/// How far a projection is behind in one partition.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Lag {
    /// The projection.
    pub projection: &'static str,
    /// The partition.
    pub partition: i32,
    /// Offset of the first record of the log; beyond the next one if records were deleted before they were applied.
    pub first_offset: i64,
    /// Offset of the first record that is not applied.
    pub next_offset: i64,
    /// Offset after the last record of the log.
    pub end_offset: i64,
    /// Records that are not applied.
    pub records: i64,
    /// Age of the oldest record that is not applied; 0 if there is none to be had.
    pub seconds: f64,
}

/// Measures the lag of projections. Blocks; run it where that is allowed.
pub struct Meter {
    /// One measurement at a time.
    consumer: Mutex<Arc<BaseConsumer>>,
    prefix: String,
}

impl Meter {
    /// A meter for the broker.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's.
    pub fn new(kafka: &Kafka) -> Result<Self> {
        Ok(Self {
            consumer: Mutex::new(Arc::new(inspect::consumer(kafka)?)),
            prefix: kafka.prefix.clone(),
        })
    }

    /// Where the partitions of a topic begin and end.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn extents(&self, topic: &Topic) -> Result<Vec<Extent>> {
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        Log::with(&consumer, &topic.full_name(&self.prefix))?.extents()
    }

    /// The lag of a projection at `now_ms`, given its checkpoints as partitions and next offsets.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn measure(
        &self,
        projection: &'static Projection,
        next_offsets: &[(i32, i64)],
        now_ms: i64,
    ) -> Result<Vec<Lag>> {
        let extents = self.extents(projection.of)?;
        self.measure_within(&extents, projection, next_offsets, now_ms)
    }

    /// As [`Self::measure`], where it is known how far the partitions of the topic go.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn measure_within(
        &self,
        extents: &[Extent],
        projection: &'static Projection,
        next_offsets: &[(i32, i64)],
        now_ms: i64,
    ) -> Result<Vec<Lag>> {
        let lag_of = |extent: &Extent| {
            let known = next_offsets.iter().find(|(p, _)| *p == extent.partition);
            let next_offset = known.map_or(0, |(_, next_offset)| *next_offset);
            Lag {
                projection: projection.name,
                partition: extent.partition,
                first_offset: extent.first_offset,
                next_offset,
                end_offset: extent.end_offset,
                records: (extent.end_offset - next_offset).max(0),
                seconds: 0.0,
            }
        };
        let mut lags: Vec<_> = extents.iter().map(lag_of).collect();
        let oldest: Vec<_> = lags
            .iter()
            .map(|lag| (lag, lag.next_offset.max(lag.first_offset)))
            .filter(|(lag, oldest)| *oldest < lag.end_offset)
            .map(|(lag, oldest)| (lag.partition, oldest..lag.end_offset))
            .collect();
        if oldest.is_empty() {
            return Ok(lags);
        }
        let consumer = self.consumer.lock().unwrap_or_else(PoisonError::into_inner);
        let log = Log::with(&consumer, &projection.topic(&self.prefix))?;
        for record in log.first_in(&oldest, PATIENCE)? {
            let age_ms = now_ms - record.timestamp_ms.unwrap_or(now_ms);
            let lag = lags
                .iter_mut()
                .find(|lag| lag.partition == record.partition);
            if let Some(lag) = lag {
                lag.seconds = age_ms.max(0) as f64 / 1000.0;
            }
        }
        Ok(lags)
    }
}

/// The checkpoints of every projection, to measure with.
///
/// # Errors
/// If Postgres does not answer.
pub async fn next_offsets(
    connection: &mut PgConnection,
) -> sqlx::Result<Vec<(&'static Projection, Vec<(i32, i64)>)>> {
    let mut all = Vec::new();
    for &projection in PROJECTIONS {
        let found = checkpoints::live(&mut *connection, projection.name).await?;
        let offsets = found.iter().map(|c| (c.partition, c.next_offset)).collect();
        all.push((projection, offsets));
    }
    Ok(all)
}
