//! Looking into the log: where topics begin and end, and single records. Belongs to no group and commits nothing.
//! Everything here blocks, for a bounded time; run it where that is allowed.

mod extents;
mod seen;

use std::{
    collections::HashMap,
    ops::Range,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use producers::kafka::Kafka;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::BorrowedMessage,
    types::RDKafkaErrorCode,
};
use schemas::topics::TOPICS;

pub use self::{
    extents::Extent,
    seen::{ForPrograms, Seen, base64, hex_dump},
};
use crate::record::Raw;

/// How long the cluster may take for an answer; on a busy machine it takes seconds.
const TIMEOUT: Duration = Duration::from_secs(10);
/// The most records that are handed over at once.
const CHUNK_MAX: usize = 1_000;
/// How often it is asked what was passed without a record, while records of other partitions come.
const PASSED_EVERY: Duration = Duration::from_millis(100);

/// A consumer that belongs to no group and commits nothing.
///
/// # Errors
/// If a client setting is not one of librdkafka's.
pub fn consumer(kafka: &Kafka) -> Result<BaseConsumer> {
    let mut config = kafka.client();
    config
        // Never joined; librdkafka wants a name all the same.
        .set("group.id", format!("{}millrace-inspect", kafka.prefix))
        .set("enable.auto.commit", "false")
        .set("enable.auto.offset.store", "false")
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        .set("fetch.wait.max.ms", "100")
        .set("fetch.error.backoff.ms", "50")
        .set("queued.max.messages.kbytes", "16384");
    Ok(config.create()?)
}

/// How many partitions a topic has.
///
/// # Errors
/// If the broker does not answer or has no such topic.
pub fn partition_count(consumer: &BaseConsumer, topic: &str) -> Result<i32> {
    match find_topic(consumer, topic)? {
        Some(partitions) => Ok(partitions),
        None => bail!("topic {topic} does not exist: run `millrace topics apply`"),
    }
}

fn find_topic(consumer: &BaseConsumer, topic: &str) -> Result<Option<i32>> {
    let metadata = consumer
        .fetch_metadata(Some(topic), TIMEOUT)
        .context("no Kafka broker answers: check MILLRACE_BROKERS and that it runs")?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    let partitions = found.map_or(0, |found| found.partitions().len());
    Ok((partitions > 0).then_some(i32::try_from(partitions)?))
}

/// The log of one topic.
pub struct Log {
    consumer: Arc<BaseConsumer>,
    /// The topic's full name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: i32,
}

impl Log {
    /// The log of a topic: one of ours by its plain or its full name, or any other.
    ///
    /// # Errors
    /// If the broker does not answer or has no such topic.
    pub fn open(kafka: &Kafka, topic: &str) -> Result<Self> {
        let consumer = Arc::new(consumer(kafka)?);
        let with_prefix = format!("{}{topic}", kafka.prefix);
        let mut names = vec![with_prefix.as_str()];
        // The plain name of one of our topics means this installation's, never another's.
        if TOPICS.iter().all(|ours| ours.name != topic) {
            names.push(topic);
        }
        for name in names {
            let found = find_topic(&consumer, name).with_context(|| {
                format!(
                    "no Kafka broker answers at {}: check MILLRACE_BROKERS and that it runs",
                    kafka.brokers
                )
            })?;
            if let Some(partitions) = found {
                return Ok(Self {
                    topic: name.to_owned(),
                    partitions,
                    consumer,
                });
            }
        }
        bail!(
            "topic {with_prefix} does not exist: `millrace topics` lists them, `millrace topics apply` creates them"
        )
    }

    /// The log of a topic by its full name, read with a consumer that nobody else uses until this is dropped.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn with(consumer: &Arc<BaseConsumer>, topic: &str) -> Result<Self> {
        Ok(Self {
            topic: topic.to_owned(),
            partitions: partition_count(consumer, topic)?,
            consumer: Arc::clone(consumer),
        })
    }

    /// The first record in each of these ranges of offsets, given by partition, as far as there is one and it is to be
    /// had within `patience`.
    ///
    /// # Errors
    /// If the client refuses.
    pub fn first_in(&self, ranges: &[(i32, Range<i64>)], patience: Duration) -> Result<Vec<Seen>> {
        let places: Vec<_> = ranges.iter().map(|(p, range)| (*p, range.start)).collect();
        let mut reading = self.read(&places)?;
        let mut first: HashMap<i32, Seen> = HashMap::new();
        let deadline = Instant::now() + patience;
        let is_read = |reading: &Reading<'_>, first: &HashMap<i32, Seen>| {
            ranges.iter().all(|(partition, range)| {
                first.contains_key(partition) || reading.reached(*partition) >= range.end
            })
        };
        while !is_read(&reading, &first) && Instant::now() < deadline {
            let wait = PASSED_EVERY.min(deadline - Instant::now());
            for seen in reading.next(wait)? {
                let partition = seen.partition;
                if first.contains_key(&partition) {
                    continue;
                }
                reading.pause(partition)?;
                first.insert(partition, seen);
            }
        }
        let is_within = |seen: &Seen| {
            let mut ranges = ranges.iter();
            ranges.any(|(p, range)| *p == seen.partition && range.contains(&seen.offset))
        };
        let mut first: Vec<_> = first.into_values().filter(is_within).collect();
        first.sort_unstable_by_key(|seen| seen.partition);
        Ok(first)
    }

    /// Reads from these places on, given as partitions and offsets.
    ///
    /// # Errors
    /// If the client refuses.
    pub fn read(&self, places: &[(i32, i64)]) -> Result<Reading<'_>> {
        let mut list = TopicPartitionList::with_capacity(places.len());
        for &(partition, offset) in places {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))?;
        }
        self.consumer.assign(&list)?;
        // What an earlier reading paused stays paused, whoever assigns it anew.
        self.consumer.resume(&list)?;
        Ok(Reading {
            log: self,
            reached: places.to_vec(),
            asked: Instant::now(),
        })
    }
}

/// Records of some partitions, in order within each; ends when dropped.
pub struct Reading<'a> {
    log: &'a Log,
    /// Next offsets by partition.
    reached: Vec<(i32, i64)>,
    /// When it was asked last what was passed without a record.
    asked: Instant,
}

impl<'a> Reading<'a> {
    /// The records that have come; waits for the first, for at most `wait`.
    ///
    /// # Errors
    /// If records were deleted meanwhile, or the broker refuses.
    pub fn next(&mut self, wait: Duration) -> Result<Vec<Seen>> {
        Ok(self.chunk(wait)?.iter().map(Seen::new).collect())
    }

    /// The records that have come, a thousand at most, as the client has them: nothing is copied. Waits for the
    /// first, for at most `wait`.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn chunk(&mut self, mut wait: Duration) -> Result<Vec<BorrowedMessage<'a>>> {
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK_MAX {
            match self.log.consumer.poll(wait) {
                None => break,
                Some(Ok(record)) => {
                    self.pass(record.partition(), record.offset() + 1);
                    chunk.push(record);
                }
                Some(Err(error)) if passes(&error) => {}
                Some(Err(error)) => {
                    return Err(error).with_context(|| format!("cannot read {}", self.log.topic));
                }
            }
            wait = Duration::ZERO;
        }
        if chunk.is_empty() || self.asked.elapsed() >= PASSED_EVERY {
            self.ask_position()?;
        }
        Ok(chunk)
    }

    /// Shows the records that have come, but for what their headers say; waits for the first, for at most `wait`.
    ///
    /// # Errors
    /// As [`Self::next`].
    pub fn visit(
        &mut self,
        wait: Duration,
        mut visit: impl FnMut(Raw<'_>, &BorrowedMessage<'_>),
    ) -> Result<()> {
        for record in self.chunk(wait)? {
            visit(Raw::without_headers(&record), &record);
        }
        Ok(())
    }

    /// How far a partition was read: every record before this offset has come.
    pub fn reached(&self, partition: i32) -> i64 {
        let mut places = self.reached.iter();
        places
            .find(|place| place.0 == partition)
            .map_or(0, |place| place.1)
    }

    fn pass(&mut self, partition: i32, next_offset: i64) {
        let mut places = self.reached.iter_mut();
        if let Some((_, reached)) = places.find(|place| place.0 == partition) {
            *reached = next_offset.max(*reached);
        }
    }

    /// Offsets may have gaps, at the end too: the client knows what it has passed.
    fn ask_position(&mut self) -> Result<()> {
        self.asked = Instant::now();
        for place in self.log.consumer.position()?.elements() {
            if let Offset::Offset(next) = place.offset() {
                self.pass(place.partition(), next);
            }
        }
        Ok(())
    }

    fn pause(&self, partition: i32) -> Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.log.topic, partition);
        Ok(self.log.consumer.pause(&list)?)
    }
}

impl Drop for Reading<'_> {
    fn drop(&mut self) {
        // The next reading assigns anew whatever comes of this.
        let _ = self.log.consumer.unassign();
    }
}

/// Trouble on the way to the broker, that the client gets over by itself.
fn passes(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::BrokerTransportFailure
                | RDKafkaErrorCode::AllBrokersDown
                | RDKafkaErrorCode::Resolve
                | RDKafkaErrorCode::OperationTimedOut
                | RDKafkaErrorCode::RequestTimedOut
                | RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::FencedLeaderEpoch
                | RDKafkaErrorCode::UnknownLeaderEpoch
                | RDKafkaErrorCode::OffsetNotAvailable
        )
    )
}
