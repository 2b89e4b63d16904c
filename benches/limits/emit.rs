//! Onto the log: `millrace emit click`, beside a bare producer.
//!
//! The producer has the settings of the command, sends as many records of the same bytes, a thousand in turn to each of
//! the same partitions, and waits for all acknowledgements, too. The command's whole time counts, with the start of a
//! process, its connections and the registration of its schema; of the producer, from its creation on.
//!
//! Checked after each run: exactly so many records more are on the log.

use std::{
    iter::repeat_n,
    sync::atomic::{AtomicUsize, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use producers::{
    append::{self, Profile},
    clock,
    kafka::Kafka,
};
use rdkafka::{
    ClientContext,
    config::FromClientConfigAndContext,
    error::{KafkaError, RDKafkaErrorCode},
    message::DeliveryResult,
    producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer},
};
use schemas::{clicks::BannerClicked, event::Event};
use serde_json::json;

use crate::{
    clicks::on_log,
    it::world::World,
    output,
    run::{Report, Row, Settings},
};

/// The row.
pub const NAME: &str = "emit";

const COUNT: usize = 2_000_000;
/// Records that go to one partition before it is the next one's turn, as in `millrace emit`.
const TURN: usize = 1_000;
const BANNER: i64 = 7;
/// How long the last acknowledgements may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether the queue has room, and whether all is acknowledged.
const POLL: Duration = Duration::from_millis(1);

/// Measures the row.
///
/// # Errors
/// If a record was lost or written twice.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_emit").await;
    let count = settings.amount(COUNT);
    output::note(format_args!("{NAME}: warms up"));
    command(&world, count / 10).await?;
    bare(&world, count / 10).await?;
    let row = Row::new(
        NAME,
        "clicks of `millrace emit`",
        "bare producer",
        Some(0.7),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || command(&world, count).await,
            async || bare(&world, count).await,
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Clicks a second of `millrace emit click`.
///
/// # Errors
/// If the log has not grown by as many.
pub async fn command(world: &World, count: usize) -> Result<f64> {
    let before = on_log(world).await;
    let (banner, wanted) = (BANNER.to_string(), count.to_string());
    let began = Instant::now();
    let emitted = world
        .millrace(
            &["emit", "click", "--banner", &banner, "--count", &wanted],
            "",
        )
        .await;
    let took = began.elapsed();
    ensure!(emitted.status == 0, "emit click: {emitted:?}");
    must_have_grown(world, before, count).await?;
    Ok(count as f64 / took.as_secs_f64())
}

async fn bare(world: &World, count: usize) -> Result<f64> {
    let before = on_log(world).await;
    let click = json!({ "banner_id": BANNER, "received_at": clock::now_ms() });
    let value = world.writer(BannerClicked::TOPIC.name).await.value(&click);
    let (kafka, topic) = (world.kafka(), world.topic(BannerClicked::TOPIC.name));
    let partitions = BannerClicked::TOPIC.partitions;
    let sending = move || send(&kafka, &topic, partitions, repeat_n(&value, count));
    let rate = tokio::task::spawn_blocking(sending).await??;
    must_have_grown(world, before, count).await?;
    Ok(rate)
}

/// Sends values in turn to the first so many partitions of a topic, and waits for all acknowledgements; gives records a
/// second.
///
/// # Errors
/// If one of them is not acknowledged.
pub fn send<V: AsRef<[u8]>>(
    kafka: &Kafka,
    topic: &str,
    partitions: i32,
    values: impl ExactSizeIterator<Item = V>,
) -> Result<f64> {
    let (began, count) = (Instant::now(), values.len());
    let config = append::config(kafka, Profile::Bulk);
    let producer = ThreadedProducer::from_config_and_context(&config, Reports::default())?;
    for (number, value) in values.enumerate() {
        let partition = i32::try_from(number / TURN)? % partitions;
        let mut record = BaseRecord::<(), [u8]>::to(topic)
            .partition(partition)
            .payload(value.as_ref());
        while let Err((refusal, refused)) = producer.send(record) {
            ensure!(is_full(&refusal), "record {number}: {refusal}");
            thread::sleep(POLL);
            record = refused;
        }
    }
    let reports: &Reports = producer.context();
    while reports.written.load(Ordering::Relaxed) < count {
        let failed = reports.failed.load(Ordering::Relaxed);
        ensure!(
            failed == 0 && began.elapsed() < PATIENCE,
            "{failed} of {count} records failed"
        );
        thread::sleep(POLL);
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

fn is_full(refusal: &KafkaError) -> bool {
    refusal.rdkafka_error_code() == Some(RDKafkaErrorCode::QueueFull)
}

/// Counts the delivery reports.
#[derive(Default)]
struct Reports {
    written: AtomicUsize,
    failed: AtomicUsize,
}

impl ClientContext for Reports {}

impl ProducerContext for Reports {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        let counter = match result {
            Ok(_) => &self.written,
            Err(_) => &self.failed,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

async fn must_have_grown(world: &World, before: i64, count: usize) -> Result<()> {
    let grown = on_log(world).await - before;
    ensure!(
        usize::try_from(grown)? == count,
        "the log has grown by {grown} records, not by {count}"
    );
    Ok(())
}
