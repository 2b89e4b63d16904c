//! The least that a request can take which the log decides: a record is appended, and a consumer of the same process has it.

use std::{
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use processors::consumer::{Partitions, config};
use producers::{
    append::{self, Profile},
    kafka::Kafka,
};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseRecord, DefaultProducerContext, ThreadedProducer},
};

use crate::it::world::World;

/// As long as the event of a purchase.
const RECORD_BYTES: usize = 64;
/// How long the last record may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Appends to a topic of one partition, where nobody else does, at this rate; how long each record took from when it was
/// due until it was read. Nobody may read these records as events.
///
/// # Errors
/// If a record was lost.
pub async fn append_and_tail(
    world: &World,
    topic: &str,
    rate: f64,
    lasting: Duration,
) -> Result<Vec<Duration>> {
    let end = world.ends(topic).await[0];
    let (kafka, topic) = (world.kafka(), world.topic(topic));
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive, small number"
    )]
    let count = (rate * lasting.as_secs_f64()) as u32;
    let between = Duration::from_secs_f64(1.0 / rate);
    let measuring = move || measure(&kafka, &topic, end, count, between);
    tokio::task::spawn_blocking(measuring).await?
}

fn measure(
    kafka: &Kafka,
    topic: &str,
    end: i64,
    count: u32,
    between: Duration,
) -> Result<Vec<Duration>> {
    let producer: ThreadedProducer<DefaultProducerContext> =
        append::config(kafka, Profile::Interactive).create()?;
    // Before anything is timed: both have met the broker.
    send(&producer, topic, u32::MAX)?;
    let consumer: BaseConsumer = config(kafka, &Partitions::All(1)).create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(topic, 0, Offset::Offset(end))?;
    consumer.assign(&list)?;
    next(&consumer)?;
    let began = Instant::now();
    let reading = thread::spawn(move || read(&consumer, began, count, between));
    for number in 0..count {
        let due = began + between * number;
        thread::sleep(due.saturating_duration_since(Instant::now()));
        send(&producer, topic, number)?;
    }
    let read = reading.join();
    read.unwrap_or_else(|_| anyhow::bail!("the consumer panicked"))
}

fn send(
    producer: &ThreadedProducer<DefaultProducerContext>,
    topic: &str,
    number: u32,
) -> Result<()> {
    let mut value = [0; RECORD_BYTES];
    value[..4].copy_from_slice(&number.to_be_bytes());
    let record = BaseRecord::<(), [u8]>::to(topic)
        .partition(0)
        .payload(&value);
    producer
        .send(record)
        .map_err(|(error, _)| anyhow::Error::from(error))
}

/// The number of the next record.
fn next(consumer: &BaseConsumer) -> Result<u32> {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        if let Some(message) = consumer.poll(Duration::from_millis(100)) {
            let message = message?;
            let number = message.payload().and_then(|value| value.first_chunk());
            return Ok(number.copied().map_or(u32::MAX, u32::from_be_bytes));
        }
    }
    anyhow::bail!("a record was lost")
}

fn read(
    consumer: &BaseConsumer,
    began: Instant,
    count: u32,
    between: Duration,
) -> Result<Vec<Duration>> {
    let mut times = Vec::new();
    for number in 0..count {
        let found = next(consumer)?;
        ensure!(found == number, "record {found} came instead of {number}");
        times.push((began + between * number).elapsed());
    }
    Ok(times)
}
