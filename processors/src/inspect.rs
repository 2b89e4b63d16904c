//! Looking into the log: where topics begin and end, and single records. Belongs to no group and commits nothing.
//! Everything here blocks, for a bounded time; run it where that is allowed.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use base64::{Engine, prelude::BASE64_STANDARD};
use producers::kafka::Kafka;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::KafkaError,
    message::{BorrowedMessage, Headers},
    types::RDKafkaErrorCode,
};
use schemas::{
    inspect::{Datum, Inspected, millis},
    position::Position,
};
use serde::{Serialize, Serializer};

const TIMEOUT: Duration = Duration::from_secs(5);
/// The most records that are handed over at once.
const CHUNK_MAX: usize = 1_000;

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

/// A record as it stands on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    /// The topic's full name.
    pub topic: String,
    /// Where it stands.
    pub partition: i32,
    /// Where it stands.
    pub offset: i64,
    /// When it was written, milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: Option<i64>,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The headers.
    pub headers: Vec<(String, Option<Vec<u8>>)>,
    /// The value.
    pub value: Option<Vec<u8>>,
}

impl Log {
    /// The log of a topic, named with this installation's prefix or without.
    ///
    /// # Errors
    /// If the broker does not answer or has no such topic.
    pub fn open(kafka: &Kafka, topic: &str) -> Result<Self> {
        let consumer = Arc::new(consumer(kafka)?);
        let with_prefix = format!("{}{topic}", kafka.prefix);
        for name in [with_prefix.as_str(), topic] {
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

    /// Where a partition begins and ends.
    ///
    /// # Errors
    /// If the broker does not answer.
    pub fn extent(&self, partition: i32) -> Result<Extent> {
        let (first_offset, end_offset) = self
            .consumer
            .fetch_watermarks(&self.topic, partition, TIMEOUT)
            .with_context(|| format!("cannot read the end of {}/{partition}", self.topic))?;
        Ok(Extent {
            partition,
            first_offset,
            end_offset,
        })
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
        let offsets = elements.iter().map(|place| match place.offset() {
            Offset::Offset(offset) => (place.partition(), Some(offset)),
            _ => (place.partition(), None),
        });
        Ok(offsets.collect())
    }

    /// The first record at or after each of these places (partition and offset), as far as there is one to be had
    /// within `patience`.
    ///
    /// # Errors
    /// If the client refuses.
    pub fn first_at(&self, places: &[(i32, i64)], patience: Duration) -> Result<Vec<Seen>> {
        let mut reading = self.read(places)?;
        let mut first: HashMap<i32, Seen> = HashMap::new();
        let deadline = Instant::now() + patience;
        while first.len() < places.len() && Instant::now() < deadline {
            for seen in reading.next(deadline - Instant::now())? {
                let partition = seen.partition;
                if first.contains_key(&partition) {
                    continue;
                }
                reading.pause(partition)?;
                first.insert(partition, seen);
            }
        }
        let mut first: Vec<_> = first.into_values().collect();
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
            reached: places.iter().copied().collect(),
        })
    }
}

/// Records of some partitions, in order within each; ends when dropped.
pub struct Reading<'a> {
    log: &'a Log,
    reached: HashMap<i32, i64>,
}

impl Reading<'_> {
    /// The records that have come; waits for the first, for at most `wait`.
    ///
    /// # Errors
    /// If records were deleted meanwhile, or the broker refuses.
    pub fn next(&mut self, wait: Duration) -> Result<Vec<Seen>> {
        let mut seen = Vec::new();
        let mut wait = wait;
        while seen.len() < CHUNK_MAX {
            match self.log.consumer.poll(wait) {
                None => break,
                Some(Ok(record)) => {
                    self.reached.insert(record.partition(), record.offset() + 1);
                    seen.push(Seen::new(&record));
                }
                Some(Err(error)) if passes(&error) => {}
                Some(Err(error)) => {
                    return Err(error).with_context(|| format!("cannot read {}", self.log.topic));
                }
            }
            wait = Duration::ZERO;
        }
        if seen.is_empty() {
            self.ask_position()?;
        }
        Ok(seen)
    }

    /// How far a partition was read: every record before this offset has come.
    pub fn reached(&self, partition: i32) -> i64 {
        self.reached.get(&partition).copied().unwrap_or(0)
    }

    /// Offsets may have gaps, at the end too: the client knows what it has passed.
    fn ask_position(&mut self) -> Result<()> {
        for place in self.log.consumer.position()?.elements() {
            if let (Offset::Offset(next), Some(reached)) =
                (place.offset(), self.reached.get_mut(&place.partition()))
            {
                *reached = next.max(*reached);
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
        )
    )
}

impl Seen {
    fn new(record: &BorrowedMessage<'_>) -> Self {
        let headers = record.headers().map(|headers| {
            let owned = headers.iter().map(|header| {
                let value = header.value.map(<[u8]>::to_vec);
                (header.key.to_owned(), value)
            });
            owned.collect()
        });
        Self {
            topic: record.topic().to_owned(),
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: record.timestamp().to_millis(),
            key: record.key().map(<[u8]>::to_vec),
            headers: headers.unwrap_or_default(),
            value: record.payload().map(<[u8]>::to_vec),
        }
    }

    /// Where it stands.
    pub fn position(&self) -> Position {
        Position {
            topic: self.topic.clone(),
            partition: self.partition,
            offset: self.offset,
        }
    }

    /// When it was written, in RFC 3339.
    pub fn time(&self) -> Option<String> {
        self.timestamp_ms.and_then(millis)
    }

    /// The record for programs, to be serialized: with its decoded value, or the reason and the bytes.
    pub fn for_programs<'a>(&'a self, inspected: &'a Inspected) -> ForPrograms<'a> {
        let (value, error) = match &inspected.datum {
            Ok(datum) => (datum.as_ref(), None),
            Err(error) => (None, Some(error.as_str())),
        };
        let base64 = |bytes: &Vec<u8>| BASE64_STANDARD.encode(bytes);
        let key = self.key.as_deref().map(str::from_utf8);
        ForPrograms {
            topic: &self.topic,
            partition: self.partition,
            offset: self.offset,
            timestamp: self.time(),
            key: key.and_then(Result::ok),
            key_bytes: match key {
                Some(Err(_)) => self.key.as_ref().map(base64),
                _ => None,
            },
            headers: HeaderMap(&self.headers),
            schema_id: inspected.schema_id,
            value,
            error,
            bytes: match error {
                Some(_) => self.value.as_ref().map(base64),
                None => None,
            },
        }
    }
}

/// A record as programs get it.
#[derive(Serialize)]
pub struct ForPrograms<'a> {
    topic: &'a str,
    partition: i32,
    offset: i64,
    timestamp: Option<String>,
    key: Option<&'a str>,
    /// A key that is no text.
    #[serde(skip_serializing_if = "Option::is_none")]
    key_bytes: Option<String>,
    headers: HeaderMap<'a>,
    schema_id: Option<u32>,
    value: Option<&'a Datum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes: Option<String>,
}

struct HeaderMap<'a>(&'a [(String, Option<Vec<u8>>)]);

impl Serialize for HeaderMap<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_map(self.0.iter().map(|(name, value)| {
            let text = value.as_deref().map(String::from_utf8_lossy);
            (name, text)
        }))
    }
}

/// Bytes as base64.
pub fn base64(bytes: &[u8]) -> String {
    BASE64_STANDARD.encode(bytes)
}

/// Bytes for people: sixteen a line, their offset, hexadecimal and as text.
pub fn hex_dump(bytes: &[u8]) -> String {
    let mut text = String::new();
    for (index, line) in bytes.chunks(16).enumerate() {
        let hex: Vec<_> = line.iter().map(|byte| format!("{byte:02x}")).collect();
        let plain: String = line
            .iter()
            .map(|byte| match byte {
                b' '..=b'~' => char::from(*byte),
                _ => '.',
            })
            .collect();
        text.push_str(&format!(
            "{:08x}  {:<47}  {plain}\n",
            index * 16,
            hex.join(" ")
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen() -> Seen {
        Seen {
            topic: "orders".to_owned(),
            partition: 3,
            offset: 41,
            timestamp_ms: Some(5),
            key: Some(b"uid".to_vec()),
            headers: vec![
                ("ce_id".to_owned(), Some(b"x".to_vec())),
                ("n".to_owned(), None),
            ],
            value: Some(b"hello".to_vec()),
        }
    }

    #[test]
    fn an_undecodable_record_keeps_its_bytes() {
        let inspected = Inspected {
            schema_id: None,
            datum: Err("no frame".to_owned()),
        };
        assert_eq!(
            serde_json::to_string(&seen().for_programs(&inspected)).unwrap(),
            r#"{"topic":"orders","partition":3,"offset":41,"timestamp":"1970-01-01T00:00:00.005Z","key":"uid","headers":{"ce_id":"x","n":null},"schema_id":null,"value":null,"error":"no frame","bytes":"aGVsbG8="}"#
        );
    }

    #[test]
    fn a_key_that_is_no_text_is_base64() {
        let inspected = Inspected {
            schema_id: None,
            datum: Ok(None),
        };
        let seen = Seen {
            key: Some(vec![0xff]),
            value: None,
            ..seen()
        };
        let json = serde_json::to_value(seen.for_programs(&inspected)).unwrap();
        assert_eq!(json["key"], serde_json::Value::Null);
        assert_eq!(json["key_bytes"], "/w==");
        assert_eq!(json.get("bytes"), None);
    }

    #[test]
    fn bytes_are_dumped_sixteen_a_line() {
        assert_eq!(
            hex_dump(b"\0\x01abcdefghijklmnop"),
            "00000000  00 01 61 62 63 64 65 66 67 68 69 6a 6b 6c 6d 6e  ..abcdefghijklmn\n\
             00000010  6f 70                                            op\n"
        );
    }
}
