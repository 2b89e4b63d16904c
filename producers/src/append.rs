//! Appending records: from bytes to their place on the log.
//!
//! A batch of records is handed to an idempotent producer at once and answered at once, when the broker has
//! acknowledged the last of them: one wake for many. A failure tells what is certainly not written from what may be.
//! Whoever appends neither waits nor sleeps: a full queue is an error straight away. What it does not take is the end
//! of a batch, so that what is written is its beginning.

mod batch;
mod patience;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, DeliveryResult, Message, OwnedHeaders, Timestamp},
    producer::{BaseRecord, Producer, ProducerContext, ThreadedProducer},
};
use tokio::sync::oneshot;
use tracing::{error, info};

use self::{
    batch::{Batch, Fate, HANDING_OVER},
    patience::{Patience, Waiting},
};
use crate::{kafka::Kafka, metrics::AppendMetrics};

/// The most records that wait for their acknowledgement; more are refused at once.
const QUEUE_RECORDS_MAX: &str = "500000";
const QUEUE_KBYTES_MAX: &str = "262144";
/// How often a closing appender looks whether its last acknowledgements have come.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// For how long a producer that died may still report what became of its records, at least.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// What the records of an appender are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Profile {
    /// Somebody waits for the answer: no lingering, and an end to the wait after 5 s.
    Interactive,
    /// Many records of a command: larger requests, more patience.
    Bulk,
}

/// One record to append.
pub struct Outgoing<'a> {
    /// The topic's full name.
    pub topic: &'a str,
    /// Chosen by the caller: librdkafka's own choice differs from Java's.
    pub partition: i32,
    /// The key, for topics that have one.
    pub key: Option<&'a [u8]>,
    /// The framed event.
    pub value: &'a [u8],
    /// CloudEvents and trace headers.
    pub headers: Option<OwnedHeaders>,
}

/// What became of a batch.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// How many records the broker has acknowledged.
    pub appended: usize,
    /// How many are certainly not on the log.
    pub not_written: usize,
    /// Of those not written, how many were refused at once, as by a full queue: the last of the batch.
    pub refused: usize,
    /// How many may be on the log.
    pub unknown: usize,
    /// Per partition that was written to, the largest offset; negative if the broker did not tell.
    pub last: Vec<(i32, i64)>,
    /// Where the broker has put each of the acknowledged records, in the order in which they were given, and the time
    /// that it gave them; only of a topic whose records it stamps.
    pub stamps: Vec<Stamped>,
    /// The first failure of a record that was taken.
    pub error: Option<KafkaError>,
    /// Why the rest was refused.
    pub refusal: Option<KafkaError>,
}

/// What the broker says of a record that it has stamped (`LogAppendTime`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamped {
    /// Its offset.
    pub offset: i64,
    /// Its time, milliseconds since 1970-01-01T00:00:00Z.
    pub appended_at_ms: i64,
}

/// A batch on its way. Dropping it does not take the records back.
pub struct Pending(oneshot::Receiver<Outcome>);

impl Pending {
    /// Waits until every record of the batch has been decided on.
    pub async fn outcome(self) -> Outcome {
        self.0
            .await
            .expect("the last record of a batch sends its outcome")
    }
}

/// Appends records to the log.
pub struct Appender {
    producers: Arc<Producers>,
    /// Records of batches that have no outcome yet, whichever producer has them.
    undecided: Arc<AtomicUsize>,
}

/// One producer after the other.
struct Producers {
    config: ClientConfig,
    patience: Patience,
    metrics: AppendMetrics,
    current: ArcSwap<Lifetime>,
    replacing: Mutex<()>,
}

/// One producer, from its creation until it dies for good.
struct Lifetime {
    producer: ThreadedProducer<Acknowledgements>,
    fatal: Arc<AtomicBool>,
    waiting: Waiting,
}

impl Appender {
    /// An appender for the broker; connects in the background.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's.
    pub fn new(kafka: &Kafka, profile: Profile, metrics: AppendMetrics) -> KafkaResult<Self> {
        let mut config = config(kafka, profile);
        let patience = Patience::take(&mut config)?;
        let producers = Arc::new(Producers {
            current: ArcSwap::new(Lifetime::start(&config, &metrics)?),
            config,
            patience,
            metrics,
            replacing: Mutex::new(()),
        });
        patience::watch(&producers, &producers.current.load());
        Ok(Self {
            producers,
            undecided: Arc::default(),
        })
    }

    /// Hands over `records`, all at once; they go out in the order given, per partition. From the first that is refused
    /// none is taken.
    pub fn append<'a>(&self, mut records: impl ExactSizeIterator<Item = Outgoing<'a>>) -> Pending {
        let lifetime = self.producers.alive();
        let (batch, outcome) = Batch::new(records.len(), &self.undecided);
        let mut refused = 0;
        while let Some(record) = records.next() {
            let outgoing = BaseRecord {
                topic: record.topic,
                partition: Some(record.partition),
                payload: Some(record.value),
                key: record.key,
                timestamp: None,
                headers: record.headers,
                delivery_opaque: Arc::clone(&batch),
            };
            if let Err((refusal, _)) = lifetime.producer.send(outgoing) {
                lifetime.note(&refusal);
                refused = 1 + records.len();
                batch.tally().refuse(refused, refusal);
                break;
            }
        }
        if refused < batch.records() {
            lifetime.waiting.add(Arc::clone(&batch));
        }
        batch.decided(refused + HANDING_OVER, &self.producers.metrics);
        Pending(outcome)
    }

    /// How many records belong to batches that have no outcome yet.
    pub fn in_flight(&self) -> usize {
        self.undecided.load(Ordering::Acquire)
    }

    /// Waits until every batch has its outcome, at most until `deadline`; false if one has none. Nothing may be
    /// appended meanwhile.
    pub async fn drained(&self, deadline: Instant) -> bool {
        while self.in_flight() > 0 {
            if Instant::now() >= deadline {
                return false;
            }
            tokio::time::sleep(DRAIN_POLL).await;
        }
        true
    }
}

impl Producers {
    /// The producer to use, a new one if the last has died for good.
    fn alive(self: &Arc<Self>) -> arc_swap::Guard<Arc<Lifetime>> {
        let current = self.current.load();
        if current.fatal.load(Ordering::Acquire) {
            // It takes a moment, in which the one who appends waits; to be refused instead would be no better.
            self.replace(&current);
            return self.current.load();
        }
        current
    }

    /// Puts a new producer in the place of this one, unless somebody else has.
    fn replace(self: &Arc<Self>, old: &Arc<Lifetime>) {
        let _only_one = self
            .replacing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&self.current.load(), old) {
            return;
        }
        match Lifetime::start(&self.config, &self.metrics) {
            Ok(lifetime) => {
                patience::watch(self, &lifetime);
                let dead = self.current.swap(lifetime);
                self.metrics.replaced.inc();
                info!("replaced a producer that had died or been given up");
                let patience = self.patience.0;
                std::thread::spawn(move || Lifetime::bury(dead, patience));
            }
            Err(failure) => error!(error = %failure, "cannot make a new producer"),
        }
    }
}

/// The settings of a client that appends for this purpose.
pub fn config(kafka: &Kafka, profile: Profile) -> ClientConfig {
    let (linger_ms, message_timeout_ms, request_timeout_ms) = match profile {
        Profile::Interactive => ("0", "5000", "3000"),
        Profile::Bulk => ("5", "30000", "10000"),
    };
    let mut config = kafka.client();
    for (key, value) in [
        ("linger.ms", linger_ms),
        ("message.timeout.ms", message_timeout_ms),
        ("request.timeout.ms", request_timeout_ms),
        ("queue.buffering.max.messages", QUEUE_RECORDS_MAX),
        ("queue.buffering.max.kbytes", QUEUE_KBYTES_MAX),
        ("batch.num.messages", "100000"),
        ("topic.metadata.propagation.max.ms", message_timeout_ms),
    ] {
        // What the operator has set goes through as it is.
        if config.get(key).is_none() {
            config.set(key, value);
        }
    }
    // What it means that a record was appended is nobody's choice.
    config.set("acks", "all").set("enable.idempotence", "true");
    config
}

impl Lifetime {
    fn start(config: &ClientConfig, metrics: &AppendMetrics) -> KafkaResult<Arc<Self>> {
        let fatal = Arc::new(AtomicBool::new(false));
        let acknowledgements = Acknowledgements {
            fatal: Arc::clone(&fatal),
            metrics: metrics.clone(),
        };
        Ok(Arc::new(Self {
            producer: ThreadedProducer::from_config_and_context(config, acknowledgements)?,
            fatal,
            waiting: Waiting::default(),
        }))
    }

    /// A refusal may tell of the death before the error does.
    fn note(&self, refusal: &KafkaError) {
        if is_fatal(refusal) {
            self.fatal.store(true, Ordering::Release);
        }
    }

    /// Drops a dead producer once nobody hands anything to it any more and it has reported on all it had; what it
    /// still holds then is purged, and reported so. Dropping takes up to half a second.
    fn bury(dead: Arc<Self>, patience: Duration) {
        let until = Instant::now() + patience.max(LAST_WORDS);
        while Arc::strong_count(&dead) > 1
            || (dead.producer.in_flight_count() > 0 && Instant::now() < until)
        {
            std::thread::sleep(DRAIN_POLL);
        }
        drop(dead);
    }
}

fn is_fatal(failure: &KafkaError) -> bool {
    failure.rdkafka_error_code() == Some(RDKafkaErrorCode::Fatal)
}

/// Takes the delivery reports, on librdkafka's thread.
struct Acknowledgements {
    fatal: Arc<AtomicBool>,
    metrics: AppendMetrics,
}

impl ClientContext for Acknowledgements {
    fn error(&self, failure: KafkaError, reason: &str) {
        self.metrics.troubles.inc();
        if is_fatal(&failure) {
            error!(error = %failure, reason, "the producer died for good; the next append makes a new one");
            self.fatal.store(true, Ordering::Release);
            return;
        }
        info!(error = %failure, reason, "the producer has trouble with the broker and goes on trying");
    }
}

impl ProducerContext for Acknowledgements {
    type DeliveryOpaque = Arc<Batch>;

    fn delivery(&self, result: &DeliveryResult<'_>, batch: Arc<Batch>) {
        match result {
            Ok(record) => {
                let stamp = match record.timestamp() {
                    Timestamp::LogAppendTime(at_ms) => Some(at_ms),
                    Timestamp::CreateTime(_) | Timestamp::NotAvailable => None,
                };
                batch
                    .tally()
                    .append(record.partition(), record.offset(), stamp);
            }
            Err((failure, record)) => {
                if is_fatal(failure) {
                    self.fatal.store(true, Ordering::Release);
                }
                batch.tally().fail(fate(record), patience::told(failure));
            }
        }
        batch.decided(1, &self.metrics);
    }
}

/// Librdkafka knows whether a failed record ever left this machine.
fn fate(record: &BorrowedMessage<'_>) -> Fate {
    use rdkafka_sys::rd_kafka_msg_status_t::RD_KAFKA_MSG_STATUS_NOT_PERSISTED;
    #[expect(
        unsafe_code,
        reason = "rdkafka does not wrap this call; the pointer is valid as long as the message is borrowed"
    )]
    let status = unsafe { rdkafka_sys::rd_kafka_message_status(record.ptr()) };
    match status {
        RD_KAFKA_MSG_STATUS_NOT_PERSISTED => Fate::NotWritten,
        _ => Fate::Unknown,
    }
}

#[cfg(test)]
pub(crate) mod mock;
#[cfg(test)]
mod tests;
