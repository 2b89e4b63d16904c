//! Appending records: from bytes to their place on the log.
//!
//! A batch of records is handed to an idempotent producer at once and answered at once, when the broker has
//! acknowledged the last of them: one wake for many. A failure tells what is certainly not written from what may be.
//! Whoever appends neither waits nor sleeps: a full queue is an error straight away. What it does not take is the end
//! of a batch, so that what is written is its beginning.
//!
//! What waits for too long is given up here and not by librdkafka. When a record of its own times out, librdkafka
//! numbers all that is left anew and sends it again, also what the broker has written already without being able to
//! say so: it would be there twice. So its records never time out; a producer that has a batch for too long is
//! replaced, and everything that it has is given up at once.

mod batch;

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use arc_swap::ArcSwap;
use rdkafka::{
    ClientConfig, ClientContext,
    config::FromClientConfigAndContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::{BorrowedMessage, DeliveryResult, Message, OwnedHeaders},
    producer::{BaseRecord, Producer, ProducerContext, PurgeConfig, ThreadedProducer},
};
use tokio::sync::oneshot;
use tracing::{error, info};

use self::batch::{Batch, Fate, HANDING_OVER};
use crate::{kafka::Kafka, metrics::AppendMetrics};

/// The most records that wait for their acknowledgement; more are refused at once.
const QUEUE_RECORDS_MAX: &str = "500000";
const QUEUE_KBYTES_MAX: &str = "262144";
/// How long a batch may wait for its acknowledgement; the second is the same by another name.
const PATIENCE: [&str; 2] = ["message.timeout.ms", "delivery.timeout.ms"];
/// What librdkafka takes for "never".
const NEVER: &str = "0";
/// How often it is looked whether a batch waits for too long.
const OVERDUE_POLL: Duration = Duration::from_millis(50);
/// How often a closing appender looks whether its last acknowledgements have come.
const DRAIN_POLL: Duration = Duration::from_millis(5);
/// For how long a producer that died may still report what became of its records.
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
    /// The first failure of a record that was taken.
    pub error: Option<KafkaError>,
    /// Why the rest was refused.
    pub refusal: Option<KafkaError>,
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
    metrics: AppendMetrics,
    /// Records of batches that have no outcome yet, whichever producer has them.
    undecided: Arc<AtomicUsize>,
}

/// One producer after the other.
struct Producers {
    config: ClientConfig,
    /// How long a batch may wait for its acknowledgement.
    patience: Duration,
    metrics: AppendMetrics,
    current: ArcSwap<Lifetime>,
    replacing: Mutex<()>,
}

/// One producer, from its creation until it dies for good or is given up.
struct Lifetime {
    producer: ThreadedProducer<Acknowledgements>,
    fatal: Arc<AtomicBool>,
    /// Its batches in their order; those at the head are decided, or were when somebody looked.
    batches: Mutex<VecDeque<Weak<Batch>>>,
}

/// Why a producer is replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    /// It died, and may still have something to say.
    Died,
    /// A batch waits for too long.
    Overdue,
}

impl Appender {
    /// An appender for the broker; connects in the background.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's, or there is no thread to be had.
    pub fn new(kafka: &Kafka, profile: Profile, metrics: AppendMetrics) -> anyhow::Result<Self> {
        let (linger_ms, patience_ms, request_timeout_ms) = match profile {
            Profile::Interactive => ("0", "5000", "3000"),
            Profile::Bulk => ("5", "30000", "10000"),
        };
        let mut config = kafka.client();
        let told = PATIENCE.iter().find_map(|key| config.get(key));
        let patience_ms = told.unwrap_or(patience_ms).to_owned();
        for (key, value) in [
            ("linger.ms", linger_ms),
            ("request.timeout.ms", request_timeout_ms),
            ("queue.buffering.max.messages", QUEUE_RECORDS_MAX),
            ("queue.buffering.max.kbytes", QUEUE_KBYTES_MAX),
            ("batch.num.messages", "100000"),
            ("topic.metadata.propagation.max.ms", &patience_ms),
        ] {
            // What the operator has set goes through as it is.
            if config.get(key).is_none() {
                config.set(key, value);
            }
        }
        // What it means that a record was appended is nobody's choice.
        config.set("acks", "all").set("enable.idempotence", "true");
        for key in PATIENCE {
            config.remove(key);
        }
        config.set(PATIENCE[0], NEVER);
        let patience_ms = patience_ms.parse().with_context(|| {
            format!(
                "{}: {patience_ms:?} is no number of milliseconds",
                PATIENCE[0]
            )
        })?;
        let current = ArcSwap::from_pointee(Lifetime::start(&config, &metrics)?);
        let producers = Arc::new(Producers {
            config,
            patience: Duration::from_millis(patience_ms),
            metrics: metrics.clone(),
            current,
            replacing: Mutex::new(()),
        });
        let watched = Arc::downgrade(&producers);
        thread::Builder::new()
            .name("append-overdue".to_owned())
            .spawn(move || Producers::watch(&watched))?;
        Ok(Self {
            producers,
            metrics,
            undecided: Arc::default(),
        })
    }

    /// Hands over `records`, all at once; they go out in the order given, per partition. From the first that is refused
    /// none is taken.
    pub fn append<'a>(&self, mut records: impl ExactSizeIterator<Item = Outgoing<'a>>) -> Pending {
        let lifetime = self.producers.alive();
        let (batch, outcome) = Batch::new(records.len(), &self.undecided);
        lifetime.take_note(&batch);
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
        batch.decided(refused + HANDING_OVER, &self.metrics);
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
    fn alive(&self) -> arc_swap::Guard<Arc<Lifetime>> {
        let current = self.current.load();
        if current.is_dead() {
            drop(current);
            self.replace(Lifetime::is_dead, End::Died);
            return self.current.load();
        }
        current
    }

    /// Replaces a producer that has had a batch for too long, for as long as there is an appender.
    fn watch(producers: &Weak<Self>) {
        while let Some(producers) = producers.upgrade() {
            let is_overdue = |current: &Lifetime| current.is_overdue(producers.patience);
            if is_overdue(&producers.current.load()) {
                producers.replace(is_overdue, End::Overdue);
            }
            drop(producers);
            thread::sleep(OVERDUE_POLL);
        }
    }

    /// Makes a new producer unless somebody else has done so.
    fn replace(&self, is_needed: impl Fn(&Lifetime) -> bool, end: End) {
        let _only_one = self
            .replacing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if !is_needed(&self.current.load()) {
            return;
        }
        match Lifetime::start(&self.config, &self.metrics) {
            Ok(lifetime) => {
                let dead = self.current.swap(Arc::new(lifetime));
                self.metrics.replaced.inc();
                info!(?end, "replaced a producer");
                thread::spawn(move || Lifetime::bury(dead, end));
            }
            Err(failure) => error!(error = %failure, "cannot make a new producer"),
        }
    }
}

impl Lifetime {
    fn start(config: &ClientConfig, metrics: &AppendMetrics) -> KafkaResult<Self> {
        let fatal = Arc::new(AtomicBool::new(false));
        let acknowledgements = Acknowledgements {
            fatal: Arc::clone(&fatal),
            metrics: metrics.clone(),
        };
        Ok(Self {
            producer: ThreadedProducer::from_config_and_context(config, acknowledgements)?,
            fatal,
            batches: Mutex::default(),
        })
    }

    fn is_dead(&self) -> bool {
        self.fatal.load(Ordering::Acquire)
    }

    fn batches(&self) -> MutexGuard<'_, VecDeque<Weak<Batch>>> {
        self.batches.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_note(&self, batch: &Arc<Batch>) {
        self.batches().push_back(Arc::downgrade(batch));
    }

    /// Whether its oldest batch has waited for longer than this.
    fn is_overdue(&self, patience: Duration) -> bool {
        let mut batches = self.batches();
        while let Some(oldest) = batches.front() {
            match oldest.upgrade() {
                Some(batch) if !batch.is_decided() => return batch.is_overdue(patience),
                _ => batches.pop_front(),
            };
        }
        false
    }

    /// A refusal may tell of the death before the error does.
    fn note(&self, refusal: &KafkaError) {
        if is_fatal(refusal) {
            self.fatal.store(true, Ordering::Release);
        }
    }

    /// Drops a producer that was replaced, once nobody hands anything to it any more and it has reported on all it
    /// had: at once what it is to give up, in time what it had sent. What it still holds then is purged, and reported
    /// so. Dropping takes up to half a second.
    fn bury(dead: Arc<Self>, end: End) {
        while Arc::strong_count(&dead) > 1 {
            thread::sleep(DRAIN_POLL);
        }
        if end == End::Overdue {
            dead.producer
                .purge(PurgeConfig::default().queue().inflight());
        }
        let until = Instant::now() + LAST_WORDS;
        while dead.producer.in_flight_count() > 0 && Instant::now() < until {
            thread::sleep(DRAIN_POLL);
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
            Ok(record) => batch.tally().append(record.partition(), record.offset()),
            Err((failure, record)) => {
                if is_fatal(failure) {
                    self.fatal.store(true, Ordering::Release);
                }
                batch.tally().fail(fate(record), failure.clone());
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
