//! The log seen with plain Kafka clients: nothing of the code under test takes part.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig, ClientContext, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    message::{DeliveryResult, Headers},
    producer::{BaseProducer, BaseRecord, Producer, ProducerContext},
};
use tokio::task::spawn_blocking;

use super::{PATIENCE, World, eventually};

/// Larger than what the broker takes by default.
const MESSAGE_BYTES_MAX: &str = "4000000";

/// A record as it stands on the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<Vec<u8>>,
    /// The value.
    pub value: Option<Vec<u8>>,
    /// The headers.
    pub headers: HashMap<String, String>,
}

/// A record to append as it is.
#[derive(Debug, Clone, Default)]
pub struct Raw {
    partition: Option<i32>,
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    timestamp_ms: Option<i64>,
}

impl Raw {
    /// A record with this value.
    pub fn value(value: impl Into<Vec<u8>>) -> Self {
        Self {
            value: Some(value.into()),
            ..Self::default()
        }
    }

    /// A record without a value (a tombstone).
    pub fn no_value() -> Self {
        Self::default()
    }

    /// With this key; librdkafka's `murmur2_random` chooses the partition unless one is given.
    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// Into this partition.
    pub fn into_partition(mut self, partition: i32) -> Self {
        self.partition = Some(partition);
        self
    }

    /// Written at this time.
    pub fn at(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }
}

/// A foreign producer that goes on, for who appends again and again: to make one takes many times as long as to append.
pub struct Appender {
    producer: Arc<BaseProducer<Deliveries>>,
    prefix: String,
}

impl Appender {
    /// As [`World::append_all`]; one after the other.
    pub async fn append_all(&self, topic: &str, records: Vec<Raw>) -> Vec<(i32, i64)> {
        let (producer, topic) = (
            Arc::clone(&self.producer),
            format!("{}{topic}", self.prefix),
        );
        spawn_blocking(move || deliver(&producer, &topic, &records))
            .await
            .unwrap()
    }
}

impl World {
    /// A producer to the topics of this world.
    pub fn appender(&self) -> Appender {
        Appender {
            producer: Arc::new(producer(&self.servers.brokers, &[])),
            prefix: self.prefix.clone(),
        }
    }

    /// Appends one record, and gives its partition and offset.
    pub async fn append_raw(&self, topic: &str, raw: Raw) -> (i32, i64) {
        self.append_all(topic, vec![raw]).await[0]
    }

    /// Appends records in this order, and gives their partitions and offsets.
    pub async fn append_all(&self, topic: &str, records: Vec<Raw>) -> Vec<(i32, i64)> {
        let topic = self.topic(topic);
        let brokers = self.servers.brokers.clone();
        // To make and to end a producer blocks, too.
        spawn_blocking(move || deliver(&producer(&brokers, &[]), &topic, &records))
            .await
            .unwrap()
    }

    /// Appends records in one transaction, as a foreign producer may, and commits or aborts it: either leaves a marker
    /// behind the records in each of their partitions.
    pub async fn append_in_transaction(&self, topic: &str, records: Vec<Raw>, commits: bool) {
        let name = self.topic(topic);
        let brokers = self.servers.brokers.clone();
        let append = move || {
            let producer = producer(&brokers, &[("transactional.id", &name)]);
            producer.init_transactions(PATIENCE).unwrap();
            producer.begin_transaction().unwrap();
            let places = deliver(&producer, &name, &records);
            match commits {
                true => producer.commit_transaction(PATIENCE).unwrap(),
                false => producer.abort_transaction(PATIENCE).unwrap(),
            }
            places
        };
        let places = spawn_blocking(append).await.unwrap();
        // The broker answers before all markers are there.
        eventually("the markers are there", async || {
            let ends = self.ends(topic).await;
            let has_marker = |(partition, offset): &(i32, i64)| {
                ends[usize::try_from(*partition).unwrap()] > offset + 1
            };
            places.iter().all(has_marker).then_some(())
        })
        .await;
    }

    /// Everything on a topic, by partition and offset.
    pub async fn read_topic(&self, topic: &str) -> Vec<Record> {
        let topic = self.topic(topic);
        let brokers = self.servers.brokers.clone();
        spawn_blocking(move || read_all(&brokers, &topic))
            .await
            .unwrap()
    }

    /// Where the partitions of a topic end, in their order.
    pub async fn ends(&self, topic: &str) -> Vec<i64> {
        let topic = self.topic(topic);
        let brokers = self.servers.brokers.clone();
        spawn_blocking(move || ends(&consumer(&brokers), &topic))
            .await
            .unwrap()
    }
}

#[derive(Default)]
struct Deliveries(Mutex<HashMap<usize, (i32, i64)>>);

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<usize>;

    fn delivery(&self, result: &DeliveryResult<'_>, index: Box<usize>) {
        let Ok(record) = result else {
            return; // missed by whoever counts them
        };
        self.0
            .lock()
            .unwrap()
            .insert(*index, (record.partition(), record.offset()));
    }
}

fn producer(brokers: &str, settings: &[(&str, &str)]) -> BaseProducer<Deliveries> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", brokers)
        .set("acks", "all")
        .set("enable.idempotence", "true")
        .set("partitioner", "murmur2_random")
        .set("message.max.bytes", MESSAGE_BYTES_MAX)
        .set("linger.ms", "5");
    for (name, value) in settings {
        config.set(*name, *value);
    }
    config.create_with_context(Deliveries::default()).unwrap()
}

fn deliver(producer: &BaseProducer<Deliveries>, topic: &str, records: &[Raw]) -> Vec<(i32, i64)> {
    for (index, raw) in records.iter().enumerate() {
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(topic, Box::new(index));
        record.partition = raw.partition;
        record.key = raw.key.as_deref();
        record.payload = raw.value.as_deref();
        record.timestamp = raw.timestamp_ms;
        let sent = producer.send(record).map_err(|(error, _)| error);
        sent.unwrap_or_else(|error| panic!("record {index} for {topic}: {error}"));
        producer.poll(Duration::ZERO);
    }
    let deadline = Instant::now() + PATIENCE;
    loop {
        producer.poll(Duration::from_millis(10));
        let mut delivered = producer.context().0.lock().unwrap();
        if delivered.len() == records.len() {
            let delivered = std::mem::take(&mut *delivered);
            return (0..records.len()).map(|index| delivered[&index]).collect();
        }
        assert!(
            Instant::now() < deadline && producer.in_flight_count() > 0,
            "only {} of {} records were delivered to {topic}",
            delivered.len(),
            records.len()
        );
    }
}

/// Belongs to no group and commits nothing; librdkafka wants a name all the same.
fn consumer(brokers: &str) -> BaseConsumer {
    ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .set("group.id", "millrace-it")
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("fetch.wait.max.ms", "50")
        .create()
        .unwrap()
}

fn ends(consumer: &BaseConsumer, topic: &str) -> Vec<i64> {
    (0..partitions(consumer, topic))
        .map(|partition| end(consumer, topic, partition))
        .collect()
}

/// Where a partition ends. A broker that has just become its leader, or has just ceased to be, may not know it yet.
fn end(consumer: &BaseConsumer, topic: &str, partition: i32) -> i64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match consumer.fetch_watermarks(topic, partition, PATIENCE) {
            Ok((_, end)) => return end,
            Err(error) => assert!(
                is_moving(&error) && Instant::now() < deadline,
                "{topic}/{partition}: {error}"
            ),
        }
        // Tells the client who leads it by now.
        partitions(consumer, topic);
    }
}

fn is_moving(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotLeaderForPartition
                | RDKafkaErrorCode::LeaderNotAvailable
                | RDKafkaErrorCode::UnknownTopicOrPartition
        )
    )
}

/// How many partitions a topic has. One that was made just now may be unknown to the broker for a moment.
fn partitions(consumer: &BaseConsumer, topic: &str) -> i32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let metadata = consumer.fetch_metadata(Some(topic), PATIENCE).unwrap();
        let partitions = metadata.topics()[0].partitions().len();
        if partitions > 0 {
            return i32::try_from(partitions).unwrap();
        }
        assert!(Instant::now() < deadline, "there is no topic {topic}");
    }
}

fn read_all(brokers: &str, topic: &str) -> Vec<Record> {
    let consumer = consumer(brokers);
    let ends = ends(&consumer, topic);
    let mut places = TopicPartitionList::new();
    for (partition, end) in (0..).zip(&ends) {
        if *end > 0 {
            places
                .add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
    }
    consumer.assign(&places).unwrap();
    let mut left: i64 = ends.iter().sum();
    let deadline = Instant::now() + PATIENCE;
    let mut records = Vec::new();
    while left > 0 {
        assert!(
            Instant::now() < deadline,
            "{left} records of {topic} could not be read"
        );
        let Some(message) = consumer.poll(Duration::from_millis(100)) else {
            // What is left may be markers of transactions, and what was aborted.
            if has_reached(&consumer, topic, &ends) {
                break;
            }
            continue;
        };
        let message = message.unwrap();
        if message.offset() < ends[usize::try_from(message.partition()).unwrap()] {
            left -= 1;
            records.push(record(&message));
        }
    }
    records.sort_by_key(|record| (record.partition, record.offset));
    records
}

fn has_reached(consumer: &BaseConsumer, topic: &str, ends: &[i64]) -> bool {
    let positions = consumer.position().unwrap();
    (0..).zip(ends).all(|(partition, end)| {
        let position = positions.find_partition(topic, partition);
        *end == 0 || position.is_some_and(|p| p.offset().to_raw() >= Some(*end))
    })
}

fn record(message: &impl Message) -> Record {
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let headers = message.headers().map(|headers| {
        headers
            .iter()
            .map(|header| (header.key.to_owned(), text(header.value)))
            .collect()
    });
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp_ms: message.timestamp().to_millis().unwrap_or_default(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers.unwrap_or_default(),
    }
}
