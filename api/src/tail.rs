//! The log's end of a cache: every API process reads all partitions of a cached topic itself, from where the log
//! ends when it starts, and folds each record into the cache.

use std::{sync::Arc, time::Duration};

use processors::{
    consumer::{Consumer, Delivered, Partitions, Reading, Start},
    interpret::{Failure, interpret},
    record::{Batch, Raw},
    status::Doing,
};
use rdkafka::consumer::Consumer as _;
use schemas::{codec::Decoder, codec::LearnError, event::Event, orders::OrderPlaced};

use crate::{
    app::App,
    routes::orders::{self, Patience},
};

/// The newest records of each partition, whose keys are read ahead at start.
const WARM_RECORDS: i64 = 500;
/// The part of the process, as `/readyz` names it.
pub(crate) const PART: &str = "cache of orders";
const BATCH_MAX: usize = 1_000;
/// Records are shown at once.
const BATCH_AGE: Duration = Duration::ZERO;
const RETRY: Duration = Duration::from_millis(200);
const END_TIMEOUT: Duration = Duration::from_secs(2);

/// Keeps the cache of the orders fresh for as long as it is polled.
pub async fn follow_orders(app: Arc<App>) {
    let mut tail = Tail {
        decoder: Decoder::new(&app.topic(OrderPlaced::TOPIC)),
        warm: Vec::new(),
        app,
    };
    let _guard = Guard(Arc::clone(&tail.app));
    tail.run().await;
}

/// A tail that panics must not leave behind what it does not keep fresh.
struct Guard(Arc<App>);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.services.status.guard(PART));
        self.0.orders.stop();
    }
}

struct Tail {
    app: Arc<App>,
    decoder: Decoder<OrderPlaced>,
    /// Keys of records before the start, to read ahead.
    warm: Vec<String>,
}

impl Tail {
    async fn run(&mut self) {
        loop {
            match self.follow().await {
                End::Again(why) => {
                    self.doing(Doing::Waiting(why));
                    tokio::time::sleep(RETRY).await;
                }
                End::Halted(why) => {
                    self.app.orders.stop();
                    self.doing(Doing::Halted(why));
                    return std::future::pending().await;
                }
            }
        }
    }

    fn doing(&self, doing: Doing) {
        self.app.services.status.set(PART, doing);
    }

    async fn follow(&mut self) -> End {
        let reading = Reading {
            topic: self.app.topic(OrderPlaced::TOPIC),
            partitions: Partitions::All(OrderPlaced::TOPIC.partitions),
            batch_max: BATCH_MAX,
            batch_age: BATCH_AGE,
        };
        let start = starting_points(Arc::clone(&self.app));
        let mut consumer = match Consumer::start(&self.app.services.kafka, reading, start) {
            Ok(consumer) => consumer,
            Err(error) => return End::Halted(format!("{error:#}")),
        };
        while let Some(delivered) = consumer.next().await {
            match delivered {
                Delivered::Batch(batch) => {
                    if let Err(end) = self.observe(&batch).await {
                        return end;
                    }
                }
                Delivered::Started => {
                    self.doing(Doing::Running);
                    self.read_ahead();
                }
                Delivered::Trouble(what) => tracing::warn!(part = PART, what),
                Delivered::Halted(why) => return End::Halted(why),
                Delivered::Broken(why) => return End::Again(why),
            }
        }
        End::Again("the reading thread has ended".to_owned())
    }

    async fn observe(&mut self, batch: &Batch) -> Result<(), End> {
        for raw in batch.iter() {
            let Some(key) = raw.key.and_then(|key| std::str::from_utf8(key).ok()) else {
                continue;
            };
            if self.is_old(&raw) {
                self.warm.push(key.to_owned());
                continue;
            }
            let orders = &self.app.orders;
            if !orders.begin(key, raw.partition, raw.offset) {
                continue;
            }
            if let Some(order) = self.read(&raw).await? {
                let key = order.order_uid.as_str();
                // Like the projection: the first order of a uid stands.
                self.app.orders.observe(key, raw.offset, |known| {
                    known.or_else(|| Some(orders::body(&order)))
                });
            }
        }
        if !self.warm.is_empty() {
            self.read_ahead();
        }
        let reached = batch.spans.iter().map(|span| (span.partition, span.to));
        self.app.orders.pass(reached);
        Ok(())
    }

    /// Whether the record was there when the tail started.
    fn is_old(&self, raw: &Raw<'_>) -> bool {
        let next = self.app.orders.resume(raw.partition);
        next.is_none_or(|next| raw.offset < next)
    }

    /// The order of a record, if it is one.
    async fn read(&mut self, raw: &Raw<'_>) -> Result<Option<OrderPlaced>, End> {
        loop {
            match interpret(&self.decoder, raw) {
                Ok(record) => return Ok(Some(record.event)),
                // A dead letter changes no row.
                Err(Failure::Rejected(_)) => return Ok(None),
                Err(Failure::NotLearned(id)) => {
                    let registry = &self.app.services.registry;
                    match self.decoder.learn(registry, id).await {
                        Ok(_) => self.doing(Doing::Running),
                        Err(LearnError::Registry(error)) => {
                            self.doing(Doing::Waiting(error.to_string()));
                            tokio::time::sleep(RETRY).await;
                        }
                        Err(error) => return Err(End::Halted(error.to_string())),
                    }
                }
            }
        }
    }

    /// Reads the newest orders into the cache, beside the work.
    fn read_ahead(&mut self) {
        let mut uids = std::mem::take(&mut self.warm);
        let app = Arc::clone(&self.app);
        tokio::spawn(async move {
            uids.sort_unstable();
            uids.dedup();
            for uid in uids {
                // If Postgres is away, there is nothing to read ahead; requests will say so.
                if orders::find(&app, &app.pool, &uid, &[], Patience::Courtesy)
                    .await
                    .is_err()
                {
                    return;
                }
            }
        });
    }
}

/// Why following ended.
enum End {
    Again(String),
    Halted(String),
}

/// Where the tail goes on; at first, where each partition ends, less what is read ahead. Runs on the reading thread.
fn starting_points(app: Arc<App>) -> Arc<Start> {
    Arc::new(move |partitions: &[i32]| {
        let topic = app.topic(OrderPlaced::TOPIC);
        let consumer = processors::inspect::consumer(&app.services.kafka);
        let consumer = consumer.map_err(|error| error.to_string())?;
        let mut points = Vec::new();
        for &partition in partitions {
            if let Some(next) = app.orders.resume(partition) {
                points.push((partition, next));
                continue;
            }
            let (first, end) = consumer
                .fetch_watermarks(&topic, partition, END_TIMEOUT)
                .map_err(|error| format!("cannot read the end of {topic}/{partition}: {error}"))?;
            app.orders.start(partition, end);
            points.push((partition, first.max(end - WARM_RECORDS)));
        }
        Ok(points)
    })
}
