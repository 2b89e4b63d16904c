//! The loop from batch to commit, for every fold alike. One transaction a batch: first the compare-and-set of the
//! checkpoints, then the rows, then the commit; the watermark is announced after it. Whatever goes wrong, the stored
//! checkpoint says where to go on.

mod looking;
mod reading;
pub(crate) mod step;

use std::{sync::Arc, thread, time::Duration};

use producers::{clock, kafka::Kafka, metrics::Registry as MetricsRegistry, trace::TraceId};
use projections::{
    checkpoints::{self, AdvanceError},
    db::{Database, is_of_the_data, is_unprepared},
    dead_letters::DeadLetter,
    projection::{Generation, PrepareError, Projection, prepare},
};
use rand::RngExt;
use schemas::{codec::Decoder, event::Event, registry::Registry};
use sqlx::PgConnection;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::{looking::Looking, step::StepError};
use crate::{
    alarm::Alarm,
    clicks::Clicks,
    consumer::{Consumer, Delivered, Partitions, Reading, Start},
    fold::{Fold, Memory as _, VerdictOf},
    orders::Orders,
    record::{Batch, Record},
    replay::{self, Rebuild},
    sale_attempts::SaleAttempts,
    sales::history::History,
    segments::Segments,
    status::{Doing, FoldMetrics, OfProjection, Status},
    users::Users,
    watermarks::Watermarks,
};

/// Every fold.
static FOLDS: &[Entry] = &[
    Entry::of::<Clicks>(),
    Entry::of::<Orders>(),
    Entry::of::<Users>(),
    Entry::of::<History>(),
    Entry::of::<SaleAttempts>(),
    Entry::of::<Segments>(),
];

/// What can be done with a fold.
pub(crate) struct Entry {
    pub(crate) projection: &'static Projection,
    run: Run,
    pub(crate) rebuild: Rebuild,
}

impl Entry {
    const fn of<F: Fold>() -> Self {
        Self {
            projection: F::PROJECTION,
            run: run_fold::<F>,
            rebuild: replay::rebuild::<F>,
        }
    }
}

/// Pauses between attempts, doubled from the first to the second.
const RETRY_FIRST: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(2);
/// How long the checkpoints may take to read while Kafka waits for the end of a rebalance.
const START_TIMEOUT: Duration = Duration::from_secs(5);
/// What Postgres is given on this side, where its own limits do not reach: the connection may have died unnoticed.
const STEP_TIMEOUT: Duration = Duration::from_secs(40);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is looked whether it is time to look back.
const LOOK_POLL: Duration = Duration::from_secs(1);
/// The most dead letters of a batch that are logged one by one.
const LOGGED_MAX: usize = 10;
/// After a lost batch, how long at most the assignment may take to settle.
const SETTLE_MAX_MS: u64 = 500;

type Run = fn(Services, &CancellationToken);

/// What a fold needs of the world around it.
#[derive(Clone)]
pub struct Services {
    /// The broker.
    pub kafka: Kafka,
    /// The schema registry.
    pub registry: Registry,
    /// Postgres.
    pub database: Database,
    /// Where commits are announced.
    pub watermarks: Watermarks,
    /// Where it is said what goes on.
    pub status: Status,
    /// What is counted.
    pub metrics: FoldMetrics,
}

impl Services {
    /// Makes the counters part of `/metrics`.
    pub fn register(&self, registry: &mut MetricsRegistry) {
        self.metrics.register(registry);
    }
}

/// The names of all folds.
pub fn names() -> impl Iterator<Item = &'static str> {
    FOLDS.iter().map(|fold| fold.projection.name)
}

/// The fold of this projection.
pub(crate) fn entry(name: &str) -> Option<&'static Entry> {
    FOLDS.iter().find(|fold| fold.projection.name == name)
}

/// The folds of this process, each on a thread of its own.
pub struct Running(Vec<thread::JoinHandle<()>>);

impl Running {
    /// Waits until all folds have ended, after they were told to stop.
    pub async fn ended(self) {
        let join = || self.0.into_iter().for_each(|fold| drop(fold.join()));
        // Only fails if a fold panicked, which has been said then.
        let _ = tokio::task::spawn_blocking(join).await;
    }
}

/// Runs the folds with these names, or all, until `stop`.
///
/// # Errors
/// If there is no thread to be had.
pub fn run(
    only: &[String],
    services: &Services,
    stop: &CancellationToken,
) -> std::io::Result<Running> {
    let wanted = |name: &str| only.is_empty() || only.iter().any(|wanted| wanted == name);
    let folds = FOLDS.iter().filter(|fold| wanted(fold.projection.name));
    let threads = folds.map(|fold| {
        let (name, run) = (fold.projection.name, fold.run);
        services.status.set(&part(name), Doing::Starting);
        let (services, stop) = (services.clone(), stop.clone());
        thread::Builder::new()
            .name(format!("fold-{name}"))
            .spawn(move || run(services, &stop))
    });
    threads.collect::<std::io::Result<_>>().map(Running)
}

/// The part of the process, as `/readyz` names it.
pub(crate) fn part(projection: &str) -> String {
    format!("fold {projection}")
}

fn run_fold<F: Fold>(services: Services, stop: &CancellationToken) {
    let _guard = services.status.guard(part(F::PROJECTION.name));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            let part = part(F::PROJECTION.name);
            services.status.set(&part, Doing::Halted(error.to_string()));
            return;
        }
    };
    runtime.block_on(async {
        let mut runner = Runner::<F>::new(services, stop.clone());
        // Stopping drops it at its next await: a transaction that is open is rolled back.
        tokio::select! {
            () = runner.run() => {}
            () = stop.cancelled() => {}
        }
        // Nothing may be left that needs this runtime.
        runner.memory.ended().await;
        if let Some(consumer) = runner.consumer.take() {
            consumer.stop().await;
        }
    });
    // Whoever looks back into the log now looks for nobody, and a consumer that was left alone is not waited for here.
    runtime.shutdown_background();
}

/// One fold at work.
struct Runner<F: Fold> {
    services: Services,
    stop: CancellationToken,
    topic: String,
    part: String,
    label: OfProjection,
    decoder: Decoder<F::Event>,
    memory: F::Memory,
    connection: Option<PgConnection>,
    generation: Option<Generation>,
    consumer: Option<Consumer>,
    alarm: Alarm,
    looking: Looking,
}

/// What ends the work of a fold for good: what to do, in words.
struct Halt(String);

/// A batch with its events read.
pub(crate) struct Read<E> {
    pub(crate) batch: Batch,
    pub(crate) records: Vec<Record<E>>,
    pub(crate) rejected: Vec<DeadLetter>,
}

impl<F: Fold> Runner<F> {
    fn new(services: Services, stop: CancellationToken) -> Self {
        let topic = F::Event::TOPIC.full_name(&services.kafka.prefix);
        let name = F::PROJECTION.name;
        services.metrics.begin(&[("projection", name)]);
        Self {
            decoder: Decoder::new(&topic),
            memory: F::Memory::new(&services.kafka, &services.registry, &stop),
            topic,
            part: part(name),
            label: [("projection", name)],
            connection: None,
            generation: None,
            consumer: None,
            alarm: Alarm::default(),
            looking: Looking::default(),
            services,
            stop,
        }
    }

    async fn run(&mut self) {
        let Err(Halt(why)) = self.work().await;
        self.services.status.set(&self.part, Doing::Halted(why));
        if let Some(consumer) = self.consumer.take() {
            consumer.stop().await;
        }
        self.stop.cancelled().await;
    }

    async fn work(&mut self) -> Result<std::convert::Infallible, Halt> {
        loop {
            self.connect().await?;
            self.consume().await?;
            while let Some(delivered) = self.next().await? {
                match delivered {
                    Delivered::Started => self.started().await?,
                    Delivered::Batch(batch) => self.apply(*batch).await?,
                    // Goes on by itself; whether the broker is well is watched elsewhere.
                    Delivered::Trouble(what) => {
                        tracing::warn!(part = self.part, what, "has trouble with the broker");
                        self.services
                            .metrics
                            .troubles
                            .get_or_create(&self.label)
                            .inc();
                    }
                    Delivered::Halted(why) => return Err(self.explain(why).await),
                    Delivered::Broken(why) => {
                        self.doing(Doing::Waiting(why));
                        // It may have been Postgres, or another generation: both are looked for again.
                        self.connection = None;
                        break;
                    }
                }
            }
            self.consumer = None;
            tokio::time::sleep(RETRY_FIRST).await;
        }
    }

    /// What the consumer has for us; looks back now and then, also while it has nothing.
    async fn next(&mut self) -> Result<Option<Delivered>, Halt> {
        loop {
            self.look_back_now_and_then().await?;
            let Some(consumer) = &mut self.consumer else {
                return Ok(None);
            };
            if let Ok(delivered) = tokio::time::timeout(LOOK_POLL, consumer.next()).await {
                return Ok(delivered);
            }
        }
    }

    fn doing(&self, doing: Doing) {
        self.services.status.set(&self.part, doing);
    }

    /// Connects to Postgres, makes the tables if there are none, and finds the generation to write; keeps at it
    /// until Postgres answers.
    async fn connect(&mut self) -> Result<(), Halt> {
        let mut pause = RETRY_FIRST;
        while self.connection.is_none() {
            match within(CONNECT_TIMEOUT, self.try_connect()).await {
                Ok(connection) => self.connection = Some(connection),
                Err(PrepareError::Postgres(error)) => {
                    if is_unprepared(&error) {
                        // The database was made anew: its tables have to be, too.
                        self.generation = None;
                    }
                    let address = self.services.database.address();
                    let why = format!("Postgres at {address}: {error}");
                    self.doing(Doing::Waiting(why));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                // A switch may bring what this build folds, or take it away.
                Err(error @ PrepareError::OtherVersion { .. }) => {
                    self.doing(Doing::Waiting(error.to_string()));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error) => return Err(Halt(chain(&error))),
            }
        }
        Ok(())
    }

    async fn try_connect(&mut self) -> Result<PgConnection, PrepareError> {
        let database = &self.services.database;
        if self.generation.is_none() {
            prepare(database, &self.services.kafka.prefix).await?;
        }
        let mut connection = database
            .connect_fold(F::PROJECTION, F::PROJECTION.name)
            .await?;
        let generation = F::PROJECTION.live(&mut connection, &self.topic).await?;
        if self.generation.as_ref() != Some(&generation) {
            // It may be of another log.
            self.looking = Looking::default();
        }
        self.generation = Some(generation);
        // What was said on the lost connection has to be said again.
        let reached = checkpoints::live(&mut connection, F::PROJECTION.name).await?;
        let reached = reached.iter().map(|c| (c.partition, c.next_offset));
        self.services.watermarks.of(F::PROJECTION).announce(reached);
        Ok(connection)
    }

    async fn consume(&mut self) -> Result<(), Halt> {
        let reading = Reading {
            topic: self.topic.clone(),
            partitions: Partitions::Shared {
                group: format!(
                    "{}millrace-{}",
                    self.services.kafka.prefix,
                    F::PROJECTION.name
                ),
            },
            batch_max: F::BATCH_MAX,
            batch_age: F::BATCH_AGE,
            fetch_wait: F::FETCH_WAIT,
        };
        let consumer = Consumer::start(&self.services.kafka, reading, self.starting_points());
        let consumer = consumer.map_err(|error| Halt(format!("{error:#}")))?;
        self.consumer = Some(consumer);
        Ok(())
    }

    /// Reads the stored checkpoints, on the thread of the consumer.
    fn starting_points(&self) -> Arc<Start> {
        let database = self.services.database.clone();
        let topic = self.topic.clone();
        let moves = self.services.status.moves().clone();
        Arc::new(move |partitions: &[i32]| {
            if partitions.is_empty() {
                moves.begin(F::PROJECTION.name, &[]);
                return Ok(Vec::new());
            }
            let read = async {
                let mut connection = database
                    .connect_fold(F::PROJECTION, F::PROJECTION.name)
                    .await?;
                let generation = F::PROJECTION.live(&mut connection, &topic).await?;
                let found =
                    checkpoints::start(&mut connection, &generation, &topic, partitions).await?;
                Ok::<_, PrepareError>(found)
            };
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|error| error.to_string())?;
            match runtime.block_on(async { tokio::time::timeout(START_TIMEOUT, read).await }) {
                Ok(Ok(found)) => {
                    let places: Vec<_> =
                        found.iter().map(|c| (c.partition, c.next_offset)).collect();
                    moves.begin(F::PROJECTION.name, &places);
                    Ok(places)
                }
                Ok(Err(error)) => Err(format!("cannot read checkpoints: {}", chain(&error))),
                Err(_) => Err("Postgres took too long to give the checkpoints".to_owned()),
            }
        })
    }

    /// Applies a batch, however often Postgres has to be asked, unless it is out of date.
    async fn apply(&mut self, batch: Batch) -> Result<(), Halt> {
        if !self.is_current(&batch) {
            return Ok(());
        }
        self.look_back_before_the_first().await?;
        let read = self.read(batch).await?;
        let Some(verdicts) = self.judge(&read).await else {
            return Ok(());
        };
        let mut pause = RETRY_FIRST;
        let mut one_by_one = false;
        while self.is_current(&read.batch) {
            self.connect().await?;
            self.look_back_before_the_first().await?;
            let started = Instant::now();
            let step = self.step(&read, &verdicts, one_by_one);
            match within(STEP_TIMEOUT, step).await {
                Ok(letters) => {
                    self.committed(&read, &letters, started);
                    return Ok(());
                }
                Err(StepError::Lost(error)) => {
                    self.lost(&error).await;
                    return Ok(());
                }
                Err(StepError::Postgres(error)) => {
                    self.connection = None;
                    self.services.watermarks.of(F::PROJECTION).forget();
                    self.doing(Doing::Waiting(format!("Postgres: {error}")));
                    // An error that will not pass lies in a record: then each is tried alone.
                    one_by_one = is_of_the_data(&error);
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
        Ok(())
    }

    fn is_current(&self, batch: &Batch) -> bool {
        self.consumer
            .as_ref()
            .is_some_and(|consumer| consumer.is_current(batch))
    }

    fn committed(&mut self, read: &Read<F::Event>, letters: &[DeadLetter], started: Instant) {
        let reached = read
            .batch
            .spans
            .iter()
            .map(|span| (span.partition, span.to));
        let moves = self.services.status.moves();
        moves.note(F::PROJECTION.name, reached.clone());
        self.services.watermarks.of(F::PROJECTION).announce(reached);
        if let Some(consumer) = &self.consumer {
            consumer.applied(&read.batch.spans);
        }
        let metrics = &self.services.metrics;
        let records = read.batch.len();
        metrics
            .records
            .get_or_create(&self.label)
            .inc_by(records as u64);
        metrics.batches.get_or_create(&self.label).inc();
        metrics
            .batch_records
            .get_or_create(&self.label)
            .observe(records as f64);
        let took = started.elapsed().as_secs_f64();
        metrics
            .apply_seconds
            .get_or_create(&self.label)
            .observe(took);
        self.log(read, letters);
        for letter in letters {
            let [projection] = self.label;
            let label = [projection, ("reason", letter.reason)];
            metrics.dead_letters.get_or_create(&label).inc();
        }
        for (partition, is_flood) in self.alarm.note(&read.batch.spans, letters) {
            self.show_alarm(partition, is_flood);
        }
        self.doing(Doing::Running);
    }

    /// Says what became of the records, by their traces where they have one.
    fn log(&self, read: &Read<F::Event>, letters: &[DeadLetter]) {
        let topic = &self.topic;
        let named = |trace: Option<TraceId>| trace.map(tracing::field::display);
        if tracing::enabled!(tracing::Level::DEBUG) {
            for raw in read.batch.iter() {
                let (partition, offset, trace_id) = (raw.partition, raw.offset, named(raw.trace));
                tracing::debug!(topic, partition, offset, trace_id, "passed a record");
            }
        }
        for letter in letters.iter().take(LOGGED_MAX) {
            tracing::warn!(
                topic,
                partition = letter.partition,
                offset = letter.offset,
                trace_id = named(read.batch.trace_of(letter.partition, letter.offset)),
                reason = letter.reason,
                error = letter.error,
                "sent a record to the dead letters"
            );
        }
        if letters.len() > LOGGED_MAX {
            let more = letters.len() - LOGGED_MAX;
            tracing::warn!(topic, more, "sent more records to the dead letters");
        }
    }

    /// Other partitions may be ours now: what was known of the old ones is somebody else's.
    async fn started(&mut self) -> Result<(), Halt> {
        let watched: Vec<_> = self.alarm.reset().collect();
        for partition in watched {
            self.show_alarm(partition, false);
        }
        self.look_back().await?;
        self.doing(Doing::Running);
        Ok(())
    }

    fn show_alarm(&self, partition: i32, is_flood: bool) {
        let name = F::PROJECTION.name.to_owned();
        let label = [("projection", name), ("partition", partition.to_string())];
        let alarm = &self.services.metrics.dead_letter_alarm;
        alarm.get_or_create(&label).set(i64::from(is_flood));
    }

    /// Somebody else was here: lets the assignment settle, then reads from the stored checkpoints.
    async fn lost(&mut self, error: &AdvanceError) {
        tracing::info!(topic = self.topic, %error, "starts again from the stored checkpoints");
        self.services.metrics.lost.get_or_create(&self.label).inc();
        // The transaction is rolled back with its connection; the generation is looked up anew.
        self.connection = None;
        let jitter = clock::generator(None).random_range(1..=SETTLE_MAX_MS);
        tokio::time::sleep(Duration::from_millis(jitter)).await;
        if let Some(consumer) = &self.consumer {
            consumer.restart();
        }
    }
}

/// Bounds a talk with Postgres on this side.
async fn within<T, E: From<sqlx::Error>>(
    limit: Duration,
    talk: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let late = || sqlx::Error::Io(std::io::ErrorKind::TimedOut.into());
    tokio::time::timeout(limit, talk)
        .await
        .unwrap_or_else(|_| Err(late().into()))
}

/// An error with its causes, in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(&format!(": {error}"));
        cause = error.source();
    }
    text
}
