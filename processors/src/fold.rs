//! What a fold is: a pure function from what the records touch to what changes, and what it needs to know before.

use producers::kafka::Kafka;
use projections::{
    checkpoints::Span,
    dead_letters::DeadLetter,
    projection::{Changes, Projection},
};
use schemas::{event::Event, registry::Registry};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::record::Record;

/// The fold of one topic into one projection.
#[expect(
    async_fn_in_trait,
    reason = "a fold runs on a thread of its own; its futures need not move between threads"
)]
pub trait Fold: Send + 'static {
    /// What stands on the topic.
    type Event: Event;
    /// What it has to know of earlier records that no table has; `()` for a fold that needs nothing of the kind.
    type Memory: Memory<Self::Event>;
    /// The rows that the records of a batch touch.
    type Prior;
    /// The rows that a batch changes; may borrow from its records.
    type Changes<'a>: Changes;

    /// The most records in a batch.
    const BATCH_MAX: usize;

    /// The tables, and the version of this fold.
    const PROJECTION: &'static Projection;

    /// Reads the rows that the records touch, with one statement a table.
    async fn load(
        transaction: &mut PgConnection,
        records: &[Record<Self::Event>],
    ) -> sqlx::Result<Self::Prior>;

    /// From the rows that the records touch to what changes; `verdicts` has what the memory made of each record. Pure:
    /// the only time is the records'.
    fn fold<'a>(
        prior: &Self::Prior,
        records: &'a [Record<Self::Event>],
        verdicts: &'a [VerdictOf<Self>],
    ) -> Folded<Self::Changes<'a>>;
}

/// What the memory of a fold makes of a record.
pub type VerdictOf<F> = <<F as Fold>::Memory as Memory<<F as Fold>::Event>>::Verdict;

/// What a fold knows of the log beside its tables: a state after everything before some place. It is a function of the
/// log alone, and is lost with its process; so it can be made anew at any place, by reading.
///
/// It passes each batch once, before the transaction, however often that is tried.
#[expect(
    async_fn_in_trait,
    reason = "a fold runs on a thread of its own; its futures need not move between threads"
)]
pub trait Memory<E>: Send + 'static {
    /// What it makes of a record.
    type Verdict;

    /// A memory of nothing, for the topics of this installation; what it reads, it reads until `stop`.
    fn new(kafka: &Kafka, registry: &Registry, stop: &CancellationToken) -> Self;

    /// Whether it has passed everything before these spans, as far as it matters, and nothing after.
    fn stands_before(&self, spans: &[Span]) -> bool;

    /// Reads from the log what has to be known before these spans.
    ///
    /// # Errors
    /// If broker or registry do not answer; it may be tried again.
    async fn warm_up(&mut self, spans: &[Span]) -> anyhow::Result<()>;

    /// Passes the valid records of these spans, before which it stands: a verdict a record.
    ///
    /// # Errors
    /// If something has to be read first and cannot be. It may be tried again, after warming up if it does not stand
    /// before the spans any more.
    async fn judge(
        &mut self,
        spans: &[Span],
        records: &[Record<E>],
    ) -> anyhow::Result<Vec<Self::Verdict>>;

    /// Waits until it reads no more, after `stop`.
    async fn ended(&self);
}

impl<E> Memory<E> for () {
    type Verdict = ();

    fn new(_: &Kafka, _: &Registry, _: &CancellationToken) -> Self {}

    fn stands_before(&self, _: &[Span]) -> bool {
        true
    }

    async fn warm_up(&mut self, _: &[Span]) -> anyhow::Result<()> {
        Ok(())
    }

    async fn judge(&mut self, _: &[Span], records: &[Record<E>]) -> anyhow::Result<Vec<()>> {
        Ok(vec![(); records.len()])
    }

    async fn ended(&self) {}
}

/// What a fold makes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded<C> {
    /// What changes in the tables.
    pub changes: C,
    /// Records that are well-formed but contradict what is there.
    pub dead_letters: Vec<DeadLetter>,
}
