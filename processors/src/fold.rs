//! What a fold is: a pure function from what the records touch to what changes, and what it needs to know before.

use projections::{
    dead_letters::DeadLetter,
    projection::{Changes, Projection},
};
use schemas::event::Event;
use sqlx::PgConnection;

use crate::record::Record;

/// The fold of one topic into one projection.
#[expect(
    async_fn_in_trait,
    reason = "a fold runs on a thread of its own; its futures need not move between threads"
)]
pub trait Fold: Send + 'static {
    /// What stands on the topic.
    type Event: Event;
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

    /// From the rows that the records touch to what changes. Pure: the only time is the records'.
    fn fold<'a>(
        prior: &Self::Prior,
        records: &'a [Record<Self::Event>],
    ) -> Folded<Self::Changes<'a>>;
}

/// What a fold makes of a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Folded<C> {
    /// What changes in the tables.
    pub changes: C,
    /// Records that are well-formed but contradict what is there.
    pub dead_letters: Vec<DeadLetter>,
}
