//! What the handlers share: writers to the log, caches and queries behind them, and how far everything has come.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool},
    time::Duration,
};

use axum::http::HeaderValue;
use bytes::Bytes;
use processors::{lag::Meter, runtime::Services, status::Doing};
use producers::{
    append::{Appender, Profile},
    clock,
    lane::Lane,
    metrics::{AppendMetrics, Registry as MetricsRegistry},
    topics::Checker,
    writer::EventWriter,
};
use projections::{
    db::Database,
    pool::Pool,
    projection::{PROJECTIONS, PrepareError, prepare},
};
use schemas::{
    clicks::BannerClicked, event::Event, orders::OrderPlaced, registry::RegistryError,
    sale_attempts::CheckoutRefused, topics::Topic, users::UserEvent,
};
use tokio::sync::Semaphore;

use crate::{
    cache::{Bounds, Coherent, Weight},
    history::History,
    limiter::{Limiter, Rates},
    lookup::Cached,
    metrics::{Answered, ApiMetrics, ProcessMetrics},
    observer,
    overview::Overview,
    pages::sale_shelf::Shelf,
    positions::{self, LogEnds},
    reading::Reader,
    routes::{
        orders::Orders,
        segments::SegmentsOfUsers,
        users::{Users, UsersById},
    },
    sale::{self, Attempts, Queue, Sale, live::Live},
    segments::{self, Segments},
    tail::TAILS,
    trace::Failures,
};

/// How long a query waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Connections for what runs beside the requests: one that observes, one that reads ahead.
pub(crate) const BACKGROUND_CONNECTIONS: u32 = 2;
/// Long answers that are made at a time.
const LONG_ANSWERS_MAX: usize = 2;
/// Reports that are taken at a time; each has a connection to Postgres.
pub(crate) const REPORTS_MAX: usize = 2;
/// Between attempts to do what has to be done at start.
const TRY_AGAIN: Duration = Duration::from_secs(1);
/// Parts of the process, as `/readyz` names them.
const SCHEMAS: &str = "schemas";
const TABLES: &str = "tables";

/// What can be set about the API beside its address.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a read waits for the position that it asked for.
    pub wait: Duration,
    /// How long a look-up of a user waits for Postgres.
    pub query: Duration,
    /// The most connections to Postgres for queries.
    pub connections_max: u32,
    /// The most memory that the caches take, in bytes.
    pub cache_bytes_max: u64,
    /// For how long an entry of a cache may stay since it was written; as long as there is room without it.
    pub cache_ttl: Option<Duration>,
    /// How often callers may ask.
    pub rates: Rates,
    /// Whether there are the routes of [`crate::routes::bench`].
    pub bench_routes: bool,
}

/// What the handlers share.
pub struct App {
    /// The fold side of the process: addresses, watermarks, status.
    pub services: Services,
    /// Limits of waiting and memory.
    pub limits: Limits,
    /// Connections for what runs beside the requests.
    pub pool: Pool,
    /// Profiles on their way to the log.
    pub user_writer: Arc<EventWriter<UserEvent>>,
    /// Orders on their way to the log.
    pub order_writer: Arc<EventWriter<OrderPlaced>>,
    /// The flash sale.
    pub sale: Arc<Sale>,
    /// The flash sale for those who watch it.
    pub live: Live,
    /// What was bought last in it.
    pub shelf: Shelf,
    /// Requests to the segments, on their way to an answer.
    pub segments: Arc<Segments>,
    /// Counts requests, where they are counted.
    pub limiter: Limiter,
    /// Orders that were read, as the JSON of their answer.
    pub orders: Coherent<Bytes>,
    /// Profiles that were read, as part of the JSON of their answer.
    pub users: Coherent<Bytes>,
    /// The segments of users that were read, as the JSON of their answer and for how long it holds.
    pub segments_of_users: Coherent<Bytes>,
    /// Lets few long answers be in memory at a time, until they are sent.
    pub long_answers: Arc<Semaphore>,
    /// Lets few reports be taken at a time.
    pub reports: Arc<Semaphore>,
    /// How far the projections are behind.
    pub meter: Meter,
    /// How the log and the projections stand.
    pub overview: Overview,
    /// Where the log ends.
    pub log_ends: LogEnds,
    /// Whether the broker answers and has the topics.
    pub topics: Checker,
    /// Whether the topics are the same as before.
    pub history: History,
    /// What is counted.
    pub metrics: ApiMetrics,
    /// Keeps the log of failed requests short.
    pub failures: Arc<Failures>,
    /// All counters of the process.
    pub registry: MetricsRegistry,
    appender: Arc<Appender>,
    attempt_writer: Arc<EventWriter<CheckoutRefused>>,
    click_writer: Arc<EventWriter<BannerClicked>>,
    /// Those of all threads, to be measured.
    pools: Mutex<Vec<Pool>>,
    lanes: Mutex<Vec<Arc<ClickLane>>>,
}

/// Clicks on their way to the log. Whoever waits is told the place of the batch, as it goes into the answer.
type ClickLane = Lane<BannerClicked, HeaderValue>;

/// What a thread that serves has for itself, beside what all share.
pub struct Core {
    /// What all share.
    pub app: Arc<App>,
    /// Connections for queries: they belong to the runtime that opens them.
    pub pool: Pool,
    /// Requests on their way to the log of the sale.
    pub sale_queue: Arc<Queue>,
    /// Requests on their way to the log of the segments.
    pub segment_queue: Arc<segments::Queue>,
    /// Verdicts on their way from the tables of the segments.
    pub verdicts: Arc<Reader<segments::Verdicts>>,
    /// Users on their way from their table.
    pub users: Arc<Reader<UsersById>>,
    /// Refusals that needed no log.
    pub attempts: Arc<Attempts>,
    /// Its clicks.
    pub clicks: Arc<ClickLane>,
    /// What it has answered.
    pub answered: Arc<Answered>,
    /// From the signal to stop on, an answer is the last one of its connection.
    pub closing: AtomicBool,
}

impl Weight for Bytes {
    fn bytes(&self) -> usize {
        self.len()
    }
}

impl App {
    /// Puts the parts together; connects to nothing yet.
    ///
    /// # Errors
    /// If a Kafka setting is not one of librdkafka's.
    pub fn new(services: Services, limits: Limits) -> anyhow::Result<Self> {
        let metrics = ApiMetrics::default();
        let append_metrics = AppendMetrics::default();
        let mut registry = MetricsRegistry::default();
        registry.register_collector(Box::new(ProcessMetrics));
        let ours = registry.sub_registry_with_prefix("millrace");
        services.register(ours);
        append_metrics.register(ours);
        metrics.register(ours);
        let appender = Appender::new(&services.kafka, Profile::Interactive, append_metrics)?;
        let appender = Arc::new(appender);
        let prefix = &services.kafka.prefix;
        let click_writer = Arc::new(EventWriter::new(Arc::clone(&appender), prefix));
        // Said before anybody can ask: the process is not ready until each of these is at work.
        let parts = [
            SCHEMAS,
            TABLES,
            sale::tail::PART,
            sale::tail::RULES,
            observer::BROKER,
            observer::DATABASE,
        ];
        for part in parts.into_iter().chain(TAILS.iter().map(|tail| tail.part)) {
            services.status.set(part, Doing::Starting);
        }
        let room = Room {
            limits: &limits,
            metrics: &metrics,
        };
        let pool = services
            .database
            .pool(BACKGROUND_CONNECTIONS, ACQUIRE_TIMEOUT);
        Ok(Self {
            pools: Mutex::new(vec![pool.clone()]),
            lanes: Mutex::default(),
            pool,
            user_writer: Arc::new(EventWriter::new(Arc::clone(&appender), prefix)),
            order_writer: Arc::new(EventWriter::new(Arc::clone(&appender), prefix)),
            attempt_writer: Arc::new(EventWriter::new(Arc::clone(&appender), prefix)),
            sale: Arc::new(Sale::new(EventWriter::new(Arc::clone(&appender), prefix))),
            segments: Arc::new(Segments::new(EventWriter::new(
                Arc::clone(&appender),
                prefix,
            ))),
            limiter: Limiter::new(limits.rates),
            live: Live::default(),
            shelf: Shelf::default(),
            orders: room.of::<Orders>(),
            users: room.of::<Users>(),
            segments_of_users: room.of::<SegmentsOfUsers>(),
            long_answers: Arc::new(Semaphore::new(LONG_ANSWERS_MAX)),
            reports: Arc::new(Semaphore::new(REPORTS_MAX)),
            meter: Meter::new(&services.kafka)?,
            overview: Overview::default(),
            log_ends: LogEnds::new(&services.kafka)?,
            topics: Checker::new(&services.kafka)?,
            history: History::default(),
            metrics,
            failures: Arc::default(),
            registry,
            appender,
            click_writer,
            services,
            limits,
        })
    }

    /// Registers the schemas that this process writes, however long the registry is away.
    pub async fn register_schemas(self: Arc<Self>) {
        let status = &self.services.status;
        while let Err(error) = self.try_register().await {
            status.set(SCHEMAS, Doing::Waiting(error.to_string()));
            tokio::time::sleep(TRY_AGAIN).await;
        }
        status.set(SCHEMAS, Doing::Running);
    }

    async fn try_register(&self) -> Result<(), RegistryError> {
        let registry = &self.services.registry;
        self.click_writer.register(registry).await?;
        self.order_writer.register(registry).await?;
        self.user_writer.register(registry).await?;
        self.sale.writer().register(registry).await?;
        self.segments.writer().register(registry).await?;
        self.attempt_writer.register(registry).await
    }

    /// Makes the tables if there are none, however long Postgres is away.
    pub async fn prepare_tables(self: Arc<Self>) {
        let Services {
            database,
            kafka,
            status,
            ..
        } = &self.services;
        while let Err(error) = try_prepare(database, &kafka.prefix).await {
            let why = format!("Postgres at {}: {error}", database.address());
            status.set(TABLES, Doing::Waiting(why));
            tokio::time::sleep(TRY_AGAIN).await;
        }
        status.set(TABLES, Doing::Running);
    }

    /// Waits until everything that was accepted is decided; false if the time was not enough.
    pub async fn drained(&self, within: Duration) -> bool {
        self.appender
            .drained(std::time::Instant::now() + within)
            .await
    }

    /// Drops what is cached of a projection: its rows are others now.
    pub fn forget_rows_of(&self, projection: &str) {
        let tails = TAILS
            .iter()
            .filter(|tail| tail.projection.name == projection);
        tails.for_each(|tail| (tail.cache)(self).drop_all());
    }

    /// Brings up to date what is not counted as it happens.
    pub fn look_at_gauges(&self) {
        let metrics = &self.metrics;
        let tailed = TAILS.iter().map(|tail| (tail.cache)(self));
        let waiting = self.services.watermarks.waiters()
            + tailed
                .clone()
                .map(|cache| cache.passed().waiters())
                .sum::<usize>()
            + self.sale.progress().waiters();
        let in_lanes: usize = lock(&self.lanes).iter().map(|lane| lane.waiters()).sum();
        metrics.show_waiters("append", in_lanes + self.appender.in_flight());
        metrics.show_waiters("position", waiting);
        metrics.show_waiters("verdict", self.sale.waiters() + self.segments.waiters());
        let stock = self.sale.stock(clock::now_ms());
        metrics.sale.show(stock.as_ref(), self.live.listeners());
        tailed.for_each(Coherent::show_size);
        let pools = lock(&self.pools);
        let (all, idle) = pools.iter().map(Pool::size).fold((0, 0), add);
        metrics.show_connections("idle", idle);
        metrics.show_connections("used", all.saturating_sub(idle));
        metrics.show_parts(&self.services.status.parts());
    }

    /// The full name of a topic.
    pub fn topic(&self, topic: &Topic) -> String {
        topic.full_name(&self.services.kafka.prefix)
    }
}

impl Core {
    /// The part of the thread that this is called from, with at most so many connections to Postgres.
    pub fn new(app: Arc<App>, connections_max: u32) -> Self {
        let database = &app.services.database;
        let pool = database.pool(connections_max, ACQUIRE_TIMEOUT);
        let clicks = Arc::new(Lane::new(Arc::clone(&app.click_writer), positions::header));
        lock(&app.pools).push(pool.clone());
        lock(&app.lanes).push(Arc::clone(&clicks));
        Self {
            segment_queue: Arc::new(segments::Queue::new(Arc::clone(&app.segments))),
            verdicts: Arc::new(Reader::new(pool.clone(), segments::READ_MAX)),
            users: Arc::new(Reader::new(pool.clone(), app.limits.query)),
            pool,
            sale_queue: Arc::new(Queue::new(Arc::clone(&app.sale))),
            attempts: Arc::new(Attempts::new(
                Arc::clone(&app.attempt_writer),
                app.metrics.sale.attempts_dropped.clone(),
            )),
            clicks,
            answered: app.metrics.http.of_thread(),
            closing: AtomicBool::new(false),
            app,
        }
    }
}

/// The memory for caches, which the domains share alike.
struct Room<'a> {
    limits: &'a Limits,
    metrics: &'a ApiMetrics,
}

impl Room<'_> {
    fn of<D: Cached>(&self) -> Coherent<Bytes> {
        Coherent::new(
            D::Event::TOPIC.partitions,
            Bounds {
                bytes_max: self.limits.cache_bytes_max / TAILS.len() as u64,
                ttl: self.limits.cache_ttl,
            },
            self.metrics.caches.of(D::PROJECTION.name),
        )
    }
}

fn lock<T>(all: &Mutex<Vec<T>>) -> MutexGuard<'_, Vec<T>> {
    all.lock().unwrap_or_else(PoisonError::into_inner)
}

fn add(one: (usize, usize), other: (usize, usize)) -> (usize, usize) {
    (one.0 + other.0, one.1 + other.1)
}

/// Makes the tables if there are none, and sees that those that are there belong to this build and these topics.
async fn try_prepare(database: &Database, prefix: &str) -> Result<(), PrepareError> {
    prepare(database, prefix).await?;
    let mut connection = database.connect().await?;
    for projection in PROJECTIONS {
        projection
            .live(&mut connection, &projection.topic(prefix))
            .await?;
    }
    Ok(())
}
