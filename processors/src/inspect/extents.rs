//! Where partitions begin and end.

use std::{
    collections::HashMap,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rdkafka::{Offset, TopicPartitionList, consumer::Consumer};
use serde::Serialize;

use super::{Log, TIMEOUT, find_topic, passes};

/// Between two questions, while a partition gets another leader.
const PAUSE: Duration = Duration::from_millis(50);

/// The offsets that a partition has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// The partition.
    pub partition: i32,
    /// Offset of its first record.
    pub first_offset: i64,
    /// Offset after its last record.
    pub end_offset: i64,
}

impl Extent {
    /// How many offsets; as many records, unless the partition has gaps.
    pub fn records(&self) -> i64 {
        self.end_offset - self.first_offset
    }
}

impl Log {
    /// Where a partition begins and ends.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn extent(&self, partition: i32) -> Result<Extent> {
        let deadline = Instant::now() + TIMEOUT;
        loop {
            let asked = self
                .consumer
                .fetch_watermarks(&self.topic, partition, TIMEOUT);
            match asked {
                Ok((first_offset, end_offset)) => {
                    return Ok(Extent {
                        partition,
                        first_offset,
                        end_offset,
                    });
                }
                Err(error) if passes(&error) && Instant::now() < deadline => {
                    sleep(PAUSE);
                    // Tells the client who leads it by now. If nobody answers, the next attempt says so.
                    let _ = find_topic(&self.consumer, &self.topic);
                }
                Err(error) => {
                    return Err(error).with_context(|| {
                        format!("cannot read the end of {}/{partition}", self.topic)
                    });
                }
            }
        }
    }

    /// Where all partitions begin and end.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn extents(&self) -> Result<Vec<Extent>> {
        (0..self.partitions).map(|p| self.extent(p)).collect()
    }

    /// For each of these partitions, the offset of the first record at or after a time; none if there is none.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn offsets_at(
        &self,
        partitions: &[i32],
        time_ms: i64,
    ) -> Result<HashMap<i32, Option<i64>>> {
        let mut list = TopicPartitionList::new();
        for &partition in partitions {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(time_ms))?;
        }
        let found = self
            .consumer
            .offsets_for_times(list, TIMEOUT)
            .with_context(|| format!("cannot look up a time in {}", self.topic))?;
        let elements = found.elements();
        for place in &elements {
            place
                .error()
                .with_context(|| format!("cannot look up a time in {}", self.topic))?;
        }
        let offsets = elements.iter().map(|place| match place.offset() {
            Offset::Offset(offset) => (place.partition(), Some(offset)),
            _ => (place.partition(), None),
        });
        Ok(offsets.collect())
    }
}
