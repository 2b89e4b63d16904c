//! Requests to the segments on their way to an answer: each goes to the log, the projection decides it, and whoever
//! sent it reads its verdict from the tables. Before this: `processors/src/segments.rs`; next:
//! `api/src/routes/segments.rs`.
//!
//! The record says where it stands; once the checkpoint has passed that place, its key has a verdict, whichever process
//! has folded it. A key that came before has that of its first request: then the answer is told again, if it was the same
//! request.

mod queue;
mod reader;
pub mod tasks;
pub mod transfer;

use std::{
    sync::atomic::{AtomicI64, AtomicUsize, Ordering},
    time::Duration,
};

use processors::{
    segments::{counts, digest},
    watermarks::Watermarks,
};
use producers::{
    append::Stamped,
    writer::{AppendError, Context, EventWriter},
};
use projections::segments::{Decided, PROJECTION, Verdict};
use schemas::{position::Position, segments::SegmentEvent};
use tokio::time::{Instant, sleep, timeout_at};

pub use self::{
    queue::Queue,
    reader::{READ_MAX, Verdicts},
};
use crate::reading::Reader;

/// How long a request waits for its verdict; longer than an append may take.
const DEADLINE: Duration = Duration::from_secs(6);
/// The most requests that wait for their verdict; more are refused before the log.
const WAITERS_MAX: usize = 20_000;
/// Between attempts to read a verdict that is there.
const READ_AGAIN: Duration = Duration::from_millis(50);

/// The way to the segments, shared by all threads.
pub struct Segments {
    writer: EventWriter<SegmentEvent>,
    waiting: AtomicUsize,
    /// Time of the log as far as this process has read it, milliseconds since 1970-01-01T00:00:00Z.
    last_ms: AtomicI64,
}

/// A request that was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What was decided.
    pub verdict: Verdict,
    /// Whether this is the answer of an earlier request with the same key.
    pub is_replayed: bool,
    /// Where the request stands.
    pub position: Position,
}

/// Why a request has no verdict.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unsettled {
    /// Postgres is away, as far as is known. Nothing was sent.
    #[error("the database does not answer: nothing was sent")]
    NoDatabase,
    /// Nothing was sent.
    #[error("too many requests wait for their verdict: try again")]
    Overloaded,
    /// Not on the log.
    #[error(transparent)]
    NotApplied(AppendError),
    /// On the log, and it counts for nothing.
    #[error("the times of the request and of its record are too far apart")]
    Void,
    /// The key came with another request before.
    #[error("this Idempotency-Key came with another request before: take another key")]
    KeyReused,
    /// Perhaps on the log, perhaps decided already.
    #[error("there was no verdict in time: ask again with the same Idempotency-Key")]
    Unknown,
}

impl Segments {
    /// Segments whose requests are written by this writer.
    pub fn new(writer: EventWriter<SegmentEvent>) -> Self {
        Self {
            writer,
            waiting: AtomicUsize::new(0),
            last_ms: AtomicI64::new(0),
        }
    }

    /// Hears of a record that was stamped then.
    pub fn note(&self, event: &SegmentEvent, appended_at_ms: i64) {
        if counts(event, appended_at_ms) {
            self.last_ms.fetch_max(appended_at_ms, Ordering::Relaxed);
        }
    }

    /// The time at which memberships are over, milliseconds since 1970-01-01T00:00:00Z: that of a clock, or that of the
    /// log, if it is later.
    pub fn time(&self, now_ms: i64) -> i64 {
        now_ms.max(self.last_ms.load(Ordering::Relaxed))
    }

    /// The writer to their topic.
    pub fn writer(&self) -> &EventWriter<SegmentEvent> {
        &self.writer
    }

    /// How many wait for a verdict.
    pub fn waiters(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// Sends a request to the log, and waits until it is decided.
    ///
    /// # Errors
    /// [`Unsettled`]; all but `Unknown` say for certain that it changed nothing.
    pub async fn settle(
        &self,
        way: Way<'_>,
        event: SegmentEvent,
        context: Context,
    ) -> Result<Settled, Unsettled> {
        let _waiter = Waiter::among(&self.waiting)?;
        let deadline = Instant::now() + DEADLINE;
        let asked = (event.clone(), context);
        let stamp = match timeout_at(deadline, way.queue.append(asked)).await {
            Ok(appended) => appended.map_err(not_applied)?,
            Err(_) => return Err(Unsettled::Unknown),
        };
        if !counts(&event, stamp.appended_at_ms) {
            return Err(Unsettled::Void);
        }
        let place = [(0, stamp.offset)];
        if !way.watermarks.reached(&PROJECTION, &place, deadline).await {
            return Err(Unsettled::Unknown);
        }
        let decided = read(way.reader, event.idempotency_key(), deadline).await;
        self.verdict_on(&event, stamp, decided)
    }

    fn verdict_on(
        &self,
        event: &SegmentEvent,
        stamp: Stamped,
        decided: Option<Decided>,
    ) -> Result<Settled, Unsettled> {
        // A key is forgotten after a day: what is there then is of a later request, or nothing.
        let of_ours = decided.filter(|decided| decided.moment.offset <= stamp.offset);
        let decided = of_ours.ok_or(Unsettled::Unknown)?;
        if decided.digest != digest(event) {
            return Err(Unsettled::KeyReused);
        }
        Ok(Settled {
            is_replayed: decided.moment.offset != stamp.offset,
            verdict: decided.verdict,
            position: Position {
                topic: self.writer.topic().to_owned(),
                partition: 0,
                offset: stamp.offset,
            },
        })
    }
}

/// What a thread has for its requests.
#[derive(Clone, Copy)]
pub struct Way<'w> {
    /// To the log.
    pub queue: &'w Queue,
    /// How far the projection has come.
    pub watermarks: &'w Watermarks,
    /// From the tables.
    pub reader: &'w Reader<Verdicts>,
}

/// Reads the verdict on a key, however often Postgres has to be asked; none if there is none, or at the deadline.
async fn read(reader: &Reader<Verdicts>, key: &str, deadline: Instant) -> Option<Decided> {
    loop {
        let reading = timeout_at(deadline, reader.read(key.to_owned())).await;
        if let Ok(decided) = reading.ok()? {
            return decided;
        }
        timeout_at(deadline, sleep(READ_AGAIN)).await.ok()?;
    }
}

fn not_applied(error: AppendError) -> Unsettled {
    match error {
        AppendError::Overloaded => Unsettled::Overloaded,
        AppendError::Unknown(_) => Unsettled::Unknown,
        error => Unsettled::NotApplied(error),
    }
}

/// Somebody who waits for a verdict.
struct Waiter<'w>(&'w AtomicUsize);

impl<'w> Waiter<'w> {
    fn among(waiting: &'w AtomicUsize) -> Result<Self, Unsettled> {
        let waiter = Self(waiting);
        if waiting.fetch_add(1, Ordering::Relaxed) >= WAITERS_MAX {
            return Err(Unsettled::Overloaded);
        }
        Ok(waiter)
    }
}

impl Drop for Waiter<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
