//! Where partitions begin and end.

use std::{
    collections::HashMap,
    thread::sleep,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use rdkafka::{
    Offset, TopicPartitionList, consumer::Consumer, error::KafkaResult,
    topic_partition_list::TopicPartitionListElem,
};
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
        // The topic may have been made anew between the two questions.
        (self.end_offset - self.first_offset).max(0)
    }
}

impl Log {
    /// Where a partition begins and ends.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn extent(&self, partition: i32) -> Result<Extent> {
        Ok(self.extents_of(&[partition])?[0])
    }

    /// Where all partitions begin and end.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn extents(&self) -> Result<Vec<Extent>> {
        let all: Vec<_> = (0..self.partitions).collect();
        self.extents_of(&all)
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
        let deadline = Instant::now() + TIMEOUT;
        self.look_up(partitions, Offset::Offset(time_ms), deadline)
            .with_context(|| format!("cannot look up a time in {}", self.topic))
    }

    /// Where these partitions begin and end, in this order.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn extents_of(&self, partitions: &[i32]) -> Result<Vec<Extent>> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let deadline = Instant::now() + TIMEOUT;
        let look_up = |which| {
            let found = self.look_up(partitions, which, deadline);
            found.with_context(|| match partitions {
                [one] => format!("cannot read where {}/{one} begins and ends", self.topic),
                _ => format!("cannot read where {} begins and ends", self.topic),
            })
        };
        // In this order: an end that was read later is never before the beginning.
        let (first, end) = (look_up(Offset::Beginning)?, look_up(Offset::End)?);
        let offset = |of: &Offsets, partition| -> Result<i64> {
            let found = of.get(partition).copied().flatten();
            found.with_context(|| format!("nobody knows {}/{partition}", self.topic))
        };
        let extents = partitions.iter().map(|partition| {
            Ok(Extent {
                partition: *partition,
                first_offset: offset(&first, partition)?,
                end_offset: offset(&end, partition)?,
            })
        });
        extents.collect()
    }

    /// Offsets with one request for each broker: where a partition begins or ends, or its first record at or after a time
    /// in milliseconds; none if there is none.
    fn look_up(&self, partitions: &[i32], at: Offset, deadline: Instant) -> Result<Offsets> {
        let mut list = TopicPartitionList::with_capacity(partitions.len());
        for &partition in partitions {
            list.add_partition_offset(&self.topic, partition, at)?;
        }
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            // The client hands on what stands there, and -2 and -1 are the beginning and the end in the protocol, too.
            let asked = self
                .consumer
                .offsets_for_times(list.clone(), left.max(PAUSE));
            match asked.and_then(|found| offsets(&found)) {
                Ok(found) => return Ok(found),
                Err(error) if passes(&error) && Instant::now() < deadline => {
                    sleep(PAUSE);
                    // Tells the client who leads it by now. If nobody answers, the next attempt says so.
                    let _ = find_topic(&self.consumer, &self.topic);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// Offsets by partition.
type Offsets = HashMap<i32, Option<i64>>;

fn offsets(found: &TopicPartitionList) -> KafkaResult<Offsets> {
    let offset = |place: TopicPartitionListElem<'_>| {
        place.error()?;
        let offset = match place.offset() {
            Offset::Offset(offset) => Some(offset),
            _ => None,
        };
        Ok((place.partition(), offset))
    };
    found.elements().into_iter().map(offset).collect()
}
