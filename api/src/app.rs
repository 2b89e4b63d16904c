//! What the handlers share: writers to the log, caches and queries behind them, and how far everything has come.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use processors::{lag::Meter, runtime::Services, status::Doing};
use producers::{
    append::{Appender, Profile},
    lane::Lane,
    metrics::{AppendMetrics, Registry as MetricsRegistry},
    topics::Checker,
    writer::EventWriter,
};
use projections::{
    db::Database,
    projection::{PROJECTIONS, PrepareError, prepare},
};
use schemas::{
    clicks::BannerClicked, event::Event, orders::OrderPlaced, registry::RegistryError,
    topics::Topic,
};
use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::{
    cache::{Coherent, Weight},
    metrics::ApiMetrics,
    observer,
    positions::LogEnds,
    tail,
};

/// How long a query waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Long answers that are made at a time.
const LONG_ANSWERS_MAX: usize = 2;
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
    /// The most connections to Postgres for queries.
    pub connections_max: u32,
    /// The most memory that the caches take, in bytes.
    pub cache_bytes_max: u64,
    /// Whether there are the routes of [`crate::routes::bench`].
    pub bench_routes: bool,
}

/// What the handlers share.
pub struct App {
    /// The fold side of the process: addresses, watermarks, status.
    pub services: Services,
    /// Limits of waiting and memory.
    pub limits: Limits,
    /// Connections for queries.
    pub pool: PgPool,
    /// Clicks on their way to the log.
    pub clicks: Arc<Lane<BannerClicked>>,
    /// Orders on their way to the log.
    pub order_writer: Arc<EventWriter<OrderPlaced>>,
    /// Orders that were read, as the JSON of their answer.
    pub orders: Coherent<Bytes>,
    /// Lets few long answers be made at a time.
    pub long_answers: Semaphore,
    /// How far the projections are behind.
    pub meter: Meter,
    /// Where the log ends.
    pub log_ends: LogEnds,
    /// Whether the broker answers and has the topics.
    pub topics: Checker,
    /// What is counted.
    pub metrics: ApiMetrics,
    /// All counters of the process.
    pub registry: MetricsRegistry,
    appender: Arc<Appender>,
    click_writer: Arc<EventWriter<BannerClicked>>,
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
        let mut registry = MetricsRegistry::with_prefix("millrace");
        services.register(&mut registry);
        append_metrics.register(&mut registry);
        metrics.register(&mut registry);
        let appender = Appender::new(&services.kafka, Profile::Interactive, append_metrics)?;
        let appender = Arc::new(appender);
        let prefix = &services.kafka.prefix;
        let click_writer = Arc::new(EventWriter::new(Arc::clone(&appender), prefix));
        // Said before anybody can ask: the process is not ready until each of these is at work.
        for part in [
            SCHEMAS,
            TABLES,
            tail::PART,
            observer::BROKER,
            observer::DATABASE,
        ] {
            services.status.set(part, Doing::Starting);
        }
        Ok(Self {
            pool: services
                .database
                .pool(limits.connections_max, ACQUIRE_TIMEOUT),
            clicks: Arc::new(Lane::new(Arc::clone(&click_writer))),
            order_writer: Arc::new(EventWriter::new(Arc::clone(&appender), prefix)),
            orders: Coherent::new(
                OrderPlaced::TOPIC.partitions,
                limits.cache_bytes_max,
                metrics.orders.clone(),
            ),
            long_answers: Semaphore::new(LONG_ANSWERS_MAX),
            meter: Meter::new(&services.kafka)?,
            log_ends: LogEnds::new(&services.kafka)?,
            topics: Checker::new(&services.kafka)?,
            metrics,
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
        self.order_writer.register(registry).await
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

    /// The full name of a topic.
    pub fn topic(&self, topic: &Topic) -> String {
        topic.full_name(&self.services.kafka.prefix)
    }
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
