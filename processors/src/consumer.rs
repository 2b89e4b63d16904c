//! Records from Kafka in batches. The client is driven from a thread of its own and hands batches over a bounded
//! channel; while that is full, batches grow, and then partitions are paused, but polling never stops, so the
//! process stays in its group.
//!
//! Where to read from is asked of the owner whenever partitions are assigned: Kafka's committed offsets are only a
//! gauge for lag tools.

mod assignment;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
        mpsc as commands,
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use producers::kafka::Kafka;
use projections::checkpoints::Span;
use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
};
use tokio::{sync::mpsc, task::spawn_blocking, time::timeout};
use tracing::{debug, warn};

use self::assignment::Context;
use crate::record::{Batch, Raw};

/// Batches in the channel, beside the one that grows and one that the owner may have taken but not joined.
const CHANNEL_BATCHES: usize = 1;
/// The most bytes of keys and values in a batch.
const BATCH_BYTES_MAX: usize = 8 << 20;
/// How long the channel may be full before partitions are paused.
const PATIENCE: Duration = Duration::from_millis(500);
/// How often a full channel is tried again. rdkafka waits in whole milliseconds, and spins for less.
const RETRY: Duration = Duration::from_millis(1);
/// How long a poll waits while a batch finds the channel full.
const FULL: Duration = Duration::from_millis(5);
/// How long a poll waits when there is nothing to do.
const IDLE_POLL: Duration = Duration::from_millis(50);
/// How often it is asked what was passed without a record, while none comes.
const PASSED_EVERY: Duration = Duration::from_millis(200);
/// How long a consumer may take to leave.
const GOODBYE: Duration = Duration::from_secs(6);
/// How many records are taken without a look at the clock and at the commands, which for each record would be a large
/// part of the work.
const AT_ONCE: usize = 256;

/// The most that is fetched of a partition at once, in bytes, unless the operator says otherwise. What is fetched together is
/// folded together, and many records that change one row cost one change.
const FETCH_BYTES_MAX: &str = "393216";
/// Once there is so much, in bytes, the broker answers a fetch that may wait for more.
const FETCH_BYTES_MIN: &str = "65536";
/// The most that is read ahead of a fold, of all its partitions together, before another fetch. A small record takes several
/// times its bytes, so this is memory while a fold catches up; ARCHITECTURE.md says what other sizes did.
const READ_AHEAD_KBYTES_MAX: &str = "8192";
/// The same in records.
const READ_AHEAD_RECORDS_MAX: &str = "2000";

/// From which offset to read each of these partitions; may take a bounded time. With none when they are given back.
pub type Start = dyn Fn(&[i32]) -> Result<Vec<(i32, i64)>, String> + Send + Sync;

/// What to read.
pub struct Reading {
    /// The topic's full name.
    pub topic: String,
    /// Which partitions.
    pub partitions: Partitions,
    /// The most records in a batch.
    pub batch_max: usize,
    /// How long a batch may wait for more records.
    pub batch_age: Duration,
    /// How long the broker may wait for more records before it answers a fetch; none: with the first it answers.
    pub fetch_wait: Option<Duration>,
}

/// How partitions are chosen.
pub enum Partitions {
    /// Spread over the processes of this group by Kafka.
    Shared {
        /// The group's id.
        group: String,
    },
    /// All of these, whoever else reads them.
    All(i32),
}

/// What a consumer hands over.
#[derive(Debug)]
pub enum Delivered {
    /// Partitions were assigned, maybe none, and reading begins.
    Started,
    /// Records, in order; maybe none, where the log goes on without.
    Batch(Box<Batch>),
    /// Something is wrong that may pass; reading goes on.
    Trouble(String),
    /// Reading has ended and cannot go on: what to do, in words.
    Halted(String),
    /// The thread has ended after an error that may pass: make a new consumer.
    Broken(String),
}

/// A consumer on its thread; ends when dropped.
pub struct Consumer {
    delivered: mpsc::Receiver<Delivered>,
    /// What came behind a batch and is not of it.
    behind: Option<Delivered>,
    /// The topic's full name.
    topic: String,
    /// The most records in one.
    batch_max: usize,
    commands: commands::Sender<Command>,
    epoch: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

enum Command {
    Restart,
    Applied(Vec<Span>),
    Stop,
}

impl Consumer {
    /// Starts reading.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's, or there is no thread to be had.
    pub fn start(kafka: &Kafka, reading: Reading, start: Arc<Start>) -> anyhow::Result<Self> {
        let (sender, delivered) = mpsc::channel(CHANNEL_BATCHES);
        let (commands, received) = commands::channel();
        let epoch = Arc::new(AtomicU64::new(0));
        let context = Context {
            topic: reading.topic.clone(),
            start,
            epoch: Arc::clone(&epoch),
            state: Mutex::default(),
        };
        let consumer: BaseConsumer<Context> = reading.config(kafka).create_with_context(context)?;
        let name = format!("read-{}", reading.topic);
        let (topic, batch_max) = (reading.topic.clone(), reading.batch_max);
        let thread = std::thread::Builder::new().name(name).spawn(move || {
            let reader = Reader {
                consumer,
                reading,
                sender,
                commands: received,
                batch: Batch::default(),
                since: None,
                asked: Instant::now(),
                has_started: false,
                stopping: false,
            };
            reader.run();
        })?;
        Ok(Self {
            delivered,
            behind: None,
            topic,
            batch_max,
            commands,
            epoch,
            thread: Some(thread),
        })
    }

    /// The next thing that happened; `None` when the thread has ended. May be dropped while waiting: nothing is lost.
    pub async fn next(&mut self) -> Option<Delivered> {
        let next = match self.behind.take() {
            Some(behind) => behind,
            None => self.delivered.recv().await?,
        };
        Some(match next {
            Delivered::Batch(batch) => Delivered::Batch(self.joined(batch)),
            other => other,
        })
    }

    /// A batch and those that wait behind it, as far as one may be as large: who is slower than the batches come takes more at
    /// a time, and does not let them queue.
    fn joined(&mut self, mut batch: Box<Batch>) -> Box<Batch> {
        while self.behind.is_none() && batch.len() < self.batch_max {
            match self.delivered.try_recv() {
                Ok(Delivered::Batch(next)) if self.may_join(&batch, &next) => batch.append(&next),
                Ok(other) => self.behind = Some(other),
                Err(_) => break,
            }
        }
        batch
    }

    /// Whether two batches are to be one. A checkpoint is compared where a batch begins, so there may be no gap between
    /// them.
    fn may_join(&self, batch: &Batch, next: &Batch) -> bool {
        batch.is_continued_by(next)
            && batch.len() + next.len() <= self.batch_max
            && batch.byte_len() + next.byte_len() <= BATCH_BYTES_MAX
    }

    /// Whether a batch belongs to the assignment that is in force.
    pub fn is_current(&self, batch: &Batch) -> bool {
        batch.epoch == self.epoch.load(Ordering::Acquire)
    }

    /// Reads again from where the owner says; batches handed over before are out of date.
    pub fn restart(&self) {
        self.epoch.fetch_add(1, Ordering::AcqRel);
        // An ended thread says so on the channel.
        let _ = self.commands.send(Command::Restart);
    }

    /// Tells Kafka, for lag tools, what has been applied.
    pub fn applied(&self, spans: &[Span]) {
        let _ = self.commands.send(Command::Applied(spans.to_vec()));
    }

    /// Ends the thread and waits for it, on a thread where waiting is allowed; but not for long: a broker that stands still lets
    /// nobody go.
    pub async fn stop(mut self) {
        let _ = self.commands.send(Command::Stop);
        self.delivered.close();
        if let Some(thread) = self.thread.take() {
            let joined = spawn_blocking(move || thread.join());
            if timeout(GOODBYE, joined).await.is_err() {
                warn!(
                    topic = self.topic,
                    "a consumer has not ended yet and is left alone"
                );
            }
        }
    }
}

impl Drop for Consumer {
    fn drop(&mut self) {
        let _ = self.commands.send(Command::Stop);
    }
}

impl Reading {
    fn config(&self, kafka: &Kafka) -> ClientConfig {
        let mut config = config(kafka, &self.partitions);
        let Some(wait) = self.fetch_wait else {
            return config;
        };
        let wait_ms = wait.as_millis().to_string();
        let settings = [
            ("fetch.wait.max.ms", &*wait_ms),
            ("fetch.min.bytes", FETCH_BYTES_MIN),
        ];
        // Each means something else without the other.
        if !says_any(&config, settings.map(|(key, _)| key)) {
            for (key, value) in settings {
                config.set(key, value);
            }
        }
        config
    }
}

/// The settings of a client that reads partitions chosen like this.
pub fn config(kafka: &Kafka, partitions: &Partitions) -> ClientConfig {
    let mut config = kafka.client();
    let group = match partitions {
        Partitions::Shared { group } => group.clone(),
        // Never joined; librdkafka wants a name all the same.
        Partitions::All(_) => format!("{}millrace-tail", kafka.prefix),
    };
    config
        .set("group.id", group)
        .set("session.timeout.ms", "10000")
        .set("heartbeat.interval.ms", "3000")
        .set("enable.auto.offset.store", "false")
        .set(
            "enable.auto.commit",
            matches!(partitions, Partitions::Shared { .. }).to_string(),
        )
        .set("auto.offset.reset", "error")
        .set("check.crcs", "true")
        // Whatever passes through: with the others, partitions are not assigned the way this consumer does it.
        .set("partition.assignment.strategy", "range")
        .set("group.protocol", "classic")
        .set("fetch.error.backoff.ms", "50")
        .set("fetch.queue.backoff.ms", "5")
        .set("queued.min.messages", READ_AHEAD_RECORDS_MAX)
        .set("queued.max.messages.kbytes", READ_AHEAD_KBYTES_MAX)
        .set("enable.partition.eof", "false");
    let sizes = ["fetch.message.max.bytes", "max.partition.fetch.bytes"];
    if !says_any(&config, sizes) {
        config.set(sizes[0], FETCH_BYTES_MAX);
    }
    config
}

/// Whether the operator has set one of these.
fn says_any(config: &ClientConfig, keys: [&str; 2]) -> bool {
    keys.iter().any(|key| config.get(key).is_some())
}

/// The reading thread.
struct Reader {
    consumer: BaseConsumer<Context>,
    reading: Reading,
    sender: mpsc::Sender<Delivered>,
    commands: commands::Receiver<Command>,
    batch: Batch,
    /// When the first of what the batch covers came.
    since: Option<Instant>,
    /// When it was asked last what was passed without a record.
    asked: Instant,
    /// Partitions were assigned, and the owner was not told yet.
    has_started: bool,
    stopping: bool,
}

impl Reader {
    fn run(mut self) {
        if let Err(failure) = self.begin() {
            self.end(Delivered::Broken(failure));
            return;
        }
        while !self.stopping {
            self.obey();
            let wait = self.since.map_or(IDLE_POLL, |since| {
                let left = self.reading.batch_age.saturating_sub(since.elapsed());
                // A batch that is due and still here waits for room in the channel.
                if left.is_zero() {
                    FULL
                } else {
                    left.max(RETRY)
                }
            });
            let taken = self.poll(wait).and_then(|()| self.take_what_is_there());
            if let Err(end) = taken.and_then(|()| self.hand_over()) {
                self.end(end);
                return;
            }
        }
    }

    fn begin(&self) -> Result<(), String> {
        match &self.reading.partitions {
            Partitions::Shared { .. } => {
                let subscribed = self.consumer.subscribe(&[&self.reading.topic]);
                subscribed.map_err(|error| error.to_string())
            }
            Partitions::All(count) => {
                let partitions: Vec<i32> = (0..*count).collect();
                self.consumer
                    .context()
                    .assign(&self.consumer, &partitions)?;
                // Nothing was sent before, so there is room.
                let _ = self.sender.try_send(Delivered::Started);
                Ok(())
            }
        }
    }

    fn obey(&mut self) {
        while let Ok(command) = self.commands.try_recv() {
            match command {
                Command::Stop => self.stopping = true,
                Command::Applied(spans) => self.store_offsets(&spans),
                Command::Restart => {
                    let context = self.consumer.context();
                    let partitions: Vec<i32> = context
                        .state()
                        .next
                        .iter()
                        .map(|(partition, _)| *partition)
                        .collect();
                    let outcome = context.assign(&self.consumer, &partitions);
                    if let Err(failure) = outcome {
                        context.state().failure = Some(failure);
                    }
                }
            }
        }
    }

    /// Takes more records as long as there are any, without waiting.
    fn take_what_is_there(&mut self) -> Result<(), Delivered> {
        for _ in 0..AT_ONCE {
            let had = self.batch.len();
            if had == 0 || self.is_full() {
                break;
            }
            self.poll(Duration::ZERO)?;
            if self.batch.len() == had {
                break;
            }
        }
        Ok(())
    }

    /// Takes what librdkafka has, for at most `wait`.
    fn poll(&mut self, wait: Duration) -> Result<(), Delivered> {
        let polled = self.consumer.poll(wait);
        let context = self.consumer.context();
        let mut state = context.state();
        if let Some(failure) = state.failure.take() {
            return Err(Delivered::Broken(failure));
        }
        if state.epoch != self.batch.epoch {
            self.batch = Batch::of_epoch(state.epoch);
            self.has_started |= std::mem::take(&mut state.is_new);
            self.since = None;
        }
        match polled {
            None => {
                drop(state);
                self.pass_what_is_no_record();
                Ok(())
            }
            Some(Ok(message)) => {
                let place = state
                    .next
                    .iter_mut()
                    .find(|(p, _)| *p == message.partition());
                // A record of a partition that has just been given back.
                let Some((_, next)) = place else {
                    return Ok(());
                };
                // A record that was on its way when reading began anew.
                if message.offset() < *next {
                    return Ok(());
                }
                let raw = Raw::of(&message);
                self.batch.push(raw, *next);
                *next = message.offset() + 1;
                self.since.get_or_insert_with(Instant::now);
                Ok(())
            }
            Some(Err(failure)) => {
                drop(state);
                self.weigh(&failure)
            }
        }
    }

    /// Covers what holds no record, as far as the client has come: markers of transactions and what was aborted, for
    /// which it says nothing. In the middle of a log the next record tells as much; at its end only the position does.
    fn pass_what_is_no_record(&mut self) {
        if self.asked.elapsed() < PASSED_EVERY {
            return;
        }
        self.asked = Instant::now();
        // Never that of an earlier assignment: librdkafka forgets it in the order of its own work, before it answers this.
        let Ok(positions) = self.consumer.position() else {
            return;
        };
        let mut state = self.consumer.context().state();
        for place in positions.elements() {
            let known = state
                .next
                .iter_mut()
                .find(|(partition, _)| *partition == place.partition());
            let (Offset::Offset(to), Some((partition, next))) = (place.offset(), known) else {
                continue;
            };
            if to > *next {
                self.batch.pass(*partition, *next, to);
                *next = to;
                self.since.get_or_insert_with(Instant::now);
            }
        }
    }

    /// Decides what an error of the consumer means.
    fn weigh(&self, failure: &KafkaError) -> Result<(), Delivered> {
        use RDKafkaErrorCode as Code;
        let topic = &self.reading.topic;
        match failure.rdkafka_error_code() {
            Some(Code::AutoOffsetReset | Code::OffsetOutOfRange | Code::NoOffset) => {
                Err(Delivered::Halted(format!(
                    "topic {topic} does not have the records at the checkpoint any more ({failure}): it was truncated, deleted or made anew; if that was meant, rebuild the projection"
                )))
            }
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                self.trouble(format!(
                    "topic {topic} does not exist: run `millrace topics apply`"
                ));
                Ok(())
            }
            _ if matches!(failure, KafkaError::MessageConsumptionFatal(_)) => {
                Err(Delivered::Broken(failure.to_string()))
            }
            _ => {
                self.trouble(format!("reading {topic}: {failure}"));
                Ok(())
            }
        }
    }

    /// Says what is wrong, unless the channel is full: then there is other work first.
    fn trouble(&self, what: String) {
        let _ = self.sender.try_send(Delivered::Trouble(what));
    }

    fn end(self, last: Delivered) {
        warn!(topic = self.reading.topic, ?last, "reading has ended");
        let _ = self.sender.blocking_send(last);
    }

    /// Hands the batch over once it is old or large enough. While the channel is full a batch grows; a full batch
    /// waits.
    fn hand_over(&mut self) -> Result<(), Delivered> {
        self.say_started();
        let Some(since) = self.since else {
            return Ok(());
        };
        let is_full = self.is_full();
        if !is_full && since.elapsed() < self.reading.batch_age {
            return Ok(());
        }
        if self.sent() || !is_full {
            return Ok(());
        }
        let full_since = Instant::now();
        while full_since.elapsed() < PATIENCE {
            std::thread::sleep(RETRY);
            self.obey();
            if self.stopping || self.sent() {
                return Ok(());
            }
        }
        self.wait_paused()
    }

    fn is_full(&self) -> bool {
        self.batch.len() >= self.reading.batch_max || self.batch.byte_len() >= BATCH_BYTES_MAX
    }

    /// With a full channel it is said later: until then the owner works off what is out of date.
    fn say_started(&mut self) {
        if self.has_started {
            let told = self.sender.try_send(Delivered::Started);
            self.has_started = matches!(told, Err(mpsc::error::TrySendError::Full(_)));
        }
    }

    /// Waits for room with partitions paused, so that polling can go on: rebalances must be answered.
    fn wait_paused(&mut self) -> Result<(), Delivered> {
        debug!(
            topic = self.reading.topic,
            "pauses reading: the fold is behind"
        );
        let assignment = self.consumer.assignment();
        let paused = assignment.and_then(|list| self.consumer.pause(&list).map(|()| list));
        let epoch = self.batch.epoch;
        let mut outcome = Ok(());
        while outcome.is_ok() && self.batch.epoch == epoch && !self.stopping && !self.sent() {
            outcome = self.poll(IDLE_POLL);
            self.obey();
        }
        if let Ok(list) = paused {
            // Fails for partitions that were given back meanwhile, which need it no more.
            let _ = self.consumer.resume(&list);
        }
        outcome
    }

    /// Hands the batch over if there is room.
    fn sent(&mut self) -> bool {
        match self.sender.try_reserve() {
            Ok(place) => {
                let fresh = Batch::of_epoch(self.batch.epoch);
                let mut batch = std::mem::replace(&mut self.batch, fresh);
                batch.seal();
                place.send(Delivered::Batch(Box::new(batch)));
                self.since = None;
                true
            }
            Err(mpsc::error::TrySendError::Closed(())) => {
                self.stopping = true;
                true
            }
            Err(mpsc::error::TrySendError::Full(())) => false,
        }
    }

    fn store_offsets(&self, spans: &[Span]) {
        let store = || -> KafkaResult<()> {
            let mut list = TopicPartitionList::with_capacity(spans.len());
            for span in spans {
                let offset = Offset::Offset(span.to);
                list.add_partition_offset(&self.reading.topic, span.partition, offset)?;
            }
            self.consumer.store_offsets(&list)
        };
        if let Err(error) = store() {
            debug!(%error, "cannot note offsets for lag tools");
        }
    }
}

#[cfg(test)]
mod tests;
