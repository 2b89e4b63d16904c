//! What the handlers share: writers to the log, caches and queries behind them, and how far everything has come.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use bytes::Bytes;
use processors::{runtime::Services, status::Doing};
use producers::{
    append::{Appender, Profile},
    lane::Lane,
    metrics::{AppendMetrics, Registry as MetricsRegistry},
    writer::EventWriter,
};
use schemas::{clicks::BannerClicked, event::Event, orders::OrderPlaced, topics::Topic};
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::{
    cache::{Coherent, Weight},
    metrics::ApiMetrics,
    positions::LogEnds,
};

/// How long a query waits for a connection.
const ACQUIRE_TIMEOUT: Duration = Duration::from_millis(1_000);
/// Between attempts to register a schema.
const REGISTER_AGAIN: Duration = Duration::from_secs(1);

/// What can be set about the API beside its address.
#[derive(Debug, Clone)]
pub struct Limits {
    /// How long a read waits for the position that it asked for.
    pub wait: Duration,
    /// The most connections to Postgres for queries.
    pub connections_max: u32,
    /// The most memory that the caches take, in bytes.
    pub cache_bytes_max: u64,
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
    /// Where the log ends.
    pub log_ends: LogEnds,
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
    pub fn new(services: Services, limits: Limits) -> Result<Self> {
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
            log_ends: LogEnds::new(&services.kafka)?,
            metrics,
            registry,
            appender,
            click_writer,
            services,
            limits,
        })
    }

    /// Registers the schemas that this process writes, however long the registry is away.
    pub async fn register_schemas(self: Arc<Self>, stop: CancellationToken) {
        let keep_at_it = async {
            keep_registering(&self, &self.click_writer).await;
            keep_registering(&self, &self.order_writer).await;
        };
        tokio::select! {
            () = keep_at_it => {}
            () = stop.cancelled() => {}
        }
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

async fn keep_registering<E: Event>(app: &App, writer: &EventWriter<E>) {
    let part = format!("schema of {}", writer.topic());
    app.services.status.set(&part, Doing::Starting);
    while let Err(error) = writer.register(&app.services.registry).await {
        app.services
            .status
            .set(&part, Doing::Waiting(error.to_string()));
        tokio::time::sleep(REGISTER_AGAIN).await;
    }
    app.services.status.set(&part, Doing::Running);
}
