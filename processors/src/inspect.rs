//! Looking into the log.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use producers::kafka::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};

const TIMEOUT: Duration = Duration::from_secs(5);

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
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true");
    Ok(config.create()?)
}

/// How many partitions a topic has.
///
/// # Errors
/// If the broker does not answer or has no such topic.
pub fn partition_count(consumer: &BaseConsumer, topic: &str) -> Result<i32> {
    let metadata = consumer
        .fetch_metadata(Some(topic), TIMEOUT)
        .context("no Kafka broker answers: check MILLRACE_BROKERS and that it runs")?;
    let found = metadata.topics().iter().find(|found| found.name() == topic);
    match found {
        Some(found) if !found.partitions().is_empty() => {
            Ok(i32::try_from(found.partitions().len())?)
        }
        _ => bail!("topic {topic} does not exist: run `millrace topics apply`"),
    }
}
