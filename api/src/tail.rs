//! The log's end of a cache: every API process reads all partitions of a cached topic itself, from where the log
//! ends when it starts, and folds each record into the cache, or drops what it changes. `TAILS` has a line for each cached domain.

use std::{marker::PhantomData, pin::Pin, sync::Arc, time::Duration};

use bytes::Bytes;
use processors::{
    consumer::{Consumer, Delivered, Partitions, Reading, Start},
    interpret::{Learns, interpret_learning},
    record::{Batch, Raw},
    status::Doing,
};
use projections::projection::Projection;
use rdkafka::consumer::Consumer as _;
use schemas::{codec::Decoder, codec::LearnError, event::Event};
use tokio::time::Instant;

use crate::{
    app::App,
    cache::Coherent,
    lookup::{Asked, Cached, Touched, look_up},
    routes::{orders::Orders, segments::SegmentsOfUsers, users::Users},
};

/// Every tail, one line a cached domain.
pub(crate) static TAILS: &[TailOf] = &[
    TailOf::of::<Orders>(),
    TailOf::of::<Users>(),
    TailOf::of::<SegmentsOfUsers>(),
];

/// The tail of a domain.
pub(crate) struct TailOf {
    /// The part of the process, as `/readyz` names it.
    pub(crate) part: &'static str,
    /// The tables that have the same.
    pub(crate) projection: &'static Projection,
    /// What it keeps fresh.
    pub(crate) cache: fn(&App) -> &Coherent<Bytes>,
    /// Keeps it fresh for as long as it is polled.
    pub(crate) follow: fn(Arc<App>) -> Following,
}

type Following = Pin<Box<dyn Future<Output = ()> + Send>>;

impl TailOf {
    const fn of<D: Cached>() -> Self {
        Self {
            part: D::PART,
            projection: D::PROJECTION,
            cache: D::cache,
            follow: |app| Box::pin(follow::<D>(app)),
        }
    }
}

/// The newest records of each partition, whose keys are read ahead at start.
const WARM_RECORDS: i64 = 500;
/// How long reading one of them may take.
const WARM_WITHIN: Duration = Duration::from_millis(100);
const BATCH_MAX: usize = 1_000;
/// Records are shown at once.
const BATCH_AGE: Duration = Duration::ZERO;
const RETRY: Duration = Duration::from_millis(200);
const END_TIMEOUT: Duration = Duration::from_secs(2);

async fn follow<D: Cached>(app: Arc<App>) {
    let mut tail = Tail::<D> {
        decoder: Decoder::new(&app.topic(D::Event::TOPIC)),
        warm: Vec::new(),
        app,
    };
    let _guard = Guard::<D>(Arc::clone(&tail.app), PhantomData);
    tail.run().await;
}

/// A tail that panics must not leave behind what it does not keep fresh.
struct Guard<D: Cached>(Arc<App>, PhantomData<D>);

impl<D: Cached> Drop for Guard<D> {
    fn drop(&mut self) {
        drop(self.0.services.status.guard(D::PART));
        D::cache(&self.0).stop();
    }
}

struct Tail<D: Cached> {
    app: Arc<App>,
    decoder: Decoder<D::Event>,
    /// Keys of records before the start, to read ahead.
    warm: Vec<String>,
}

impl<D: Cached> Tail<D> {
    async fn run(&mut self) {
        let app = Arc::clone(&self.app);
        let topic = app.topic(D::Event::TOPIC);
        loop {
            let end = tokio::select! {
                end = self.follow() => end,
                why = app.history.lost(&topic) => End::Halted(why),
            };
            match end {
                End::Again(why) => {
                    self.doing(Doing::Waiting(why));
                    tokio::time::sleep(RETRY).await;
                }
                End::Halted(why) => {
                    self.cache().stop();
                    self.doing(Doing::Halted(why));
                    return std::future::pending().await;
                }
            }
        }
    }

    fn cache(&self) -> &Coherent<Bytes> {
        D::cache(&self.app)
    }

    fn doing(&self, doing: Doing) {
        self.app.services.status.set(D::PART, doing);
    }

    async fn follow(&mut self) -> End {
        let reading = Reading {
            topic: self.app.topic(D::Event::TOPIC),
            partitions: Partitions::All(D::Event::TOPIC.partitions),
            batch_max: BATCH_MAX,
            batch_age: BATCH_AGE,
            fetch_wait: None,
        };
        let start = starting_points::<D>(Arc::clone(&self.app));
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
                Delivered::Trouble(what) => {
                    tracing::warn!(part = D::PART, what, "has trouble with the broker");
                }
                Delivered::Halted(why) => return End::Halted(why),
                Delivered::Broken(why) => return End::Again(why),
            }
        }
        End::Again("the reading thread has ended".to_owned())
    }

    async fn observe(&mut self, batch: &Batch) -> Result<(), End> {
        // What the registry did not have last time it may have now, and the fold asks it again, too.
        self.decoder.forget_refusals();
        for raw in batch.iter() {
            if !D::Event::TOPIC.keyed {
                self.drop_touched(&raw).await?;
                continue;
            }
            let Some(key) = raw.key.and_then(|key| std::str::from_utf8(key).ok()) else {
                continue;
            };
            if self.is_old(&raw) {
                self.warm.push(key.to_owned());
                continue;
            }
            if !self.cache().begin(key, raw.partition, raw.offset) {
                continue;
            }
            // A dead letter changes no row.
            if let Ok(record) = interpret_learning(self, &raw).await? {
                let fold = |known| D::fold(known, &record.event);
                // An event that was read has the key of its record.
                self.cache().observe(key, raw.offset, fold);
            }
        }
        if !self.warm.is_empty() {
            self.read_ahead();
        }
        let reached = batch.spans.iter().map(|span| (span.partition, span.to));
        self.cache().pass(reached);
        Ok(())
    }

    /// Drops what a record without a key changes.
    async fn drop_touched(&mut self, raw: &Raw<'_>) -> Result<(), End> {
        // A dead letter changes no row.
        let Ok(record) = interpret_learning(self, raw).await? else {
            return Ok(());
        };
        let event = record.event;
        D::note(&self.app, &event, raw.timestamp_ms);
        let is_old = self.is_old(raw);
        match D::touched(&event) {
            Touched::Nothing => {}
            Touched::One(key) if is_old => self.warm.push(key),
            Touched::One(key) => {
                if self.cache().begin(&key, raw.partition, raw.offset) {
                    self.cache().drop_entry(&key, raw.offset);
                }
            }
            Touched::All if is_old => {}
            Touched::All => {
                self.cache().begin_all(raw.partition, raw.offset);
                self.cache().drop_all();
            }
        }
        Ok(())
    }

    /// Whether the record was there when the tail started.
    fn is_old(&self, raw: &Raw<'_>) -> bool {
        let next = self.cache().resume(raw.partition);
        next.is_none_or(|next| raw.offset < next)
    }

    /// Reads the newest keys into the cache, beside the work.
    fn read_ahead(&mut self) {
        let mut keys = std::mem::take(&mut self.warm);
        let app = Arc::clone(&self.app);
        tokio::spawn(async move {
            keys.sort_unstable();
            keys.dedup();
            for key in keys {
                let asked = Asked {
                    key: &key,
                    places: &[],
                    deadline: Instant::now() + WARM_WITHIN,
                    query_max: WARM_WITHIN,
                    read_again: false,
                };
                // If Postgres is away, there is nothing to read ahead; requests will say so.
                if look_up::<D>(&app, &app.pool, asked).await.is_err() {
                    return;
                }
            }
        });
    }
}

impl<D: Cached> Learns<D::Event> for Tail<D> {
    type End = End;

    fn decoder(&self) -> &Decoder<D::Event> {
        &self.decoder
    }

    async fn learn(&mut self, id: u32) -> Result<(), End> {
        let registry = &self.app.services.registry;
        match self.decoder.learn(registry, id).await {
            Ok(_) => self.doing(Doing::Running),
            Err(LearnError::Registry(error)) => {
                self.doing(Doing::Waiting(error.to_string()));
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => return Err(End::Halted(error.to_string())),
        }
        Ok(())
    }
}

/// Why following ended.
enum End {
    Again(String),
    Halted(String),
}

/// Where the tail goes on; at first, where each partition ends, less what is read ahead. Runs on the reading thread.
fn starting_points<D: Cached>(app: Arc<App>) -> Arc<Start> {
    Arc::new(move |partitions: &[i32]| {
        let topic = app.topic(D::Event::TOPIC);
        let consumer = processors::inspect::consumer(&app.services.kafka);
        let consumer = consumer.map_err(|error| error.to_string())?;
        let mut points = Vec::new();
        for &partition in partitions {
            if let Some(next) = D::cache(&app).resume(partition) {
                points.push((partition, next));
                continue;
            }
            let (first, end) = consumer
                .fetch_watermarks(&topic, partition, END_TIMEOUT)
                .map_err(|error| format!("cannot read the end of {topic}/{partition}: {error}"))?;
            D::cache(&app).start(partition, end);
            points.push((partition, first.max(end - WARM_RECORDS)));
        }
        Ok(points)
    })
}
