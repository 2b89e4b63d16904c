//! What a fold is: a pure function from what the records touch to what changes, and what it needs to know before.

use std::{collections::BTreeMap, time::Duration};

use producers::kafka::Kafka;
use projections::{
    checkpoints::Span,
    dead_letters::DeadLetter,
    projection::{Changes, Projection},
    rows::Rows,
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
    /// How long a batch waits for more records, from its first on. What comes while another is applied is one anyway.
    const BATCH_AGE: Duration = Duration::from_millis(5);
    /// How long the broker waits for more records before it answers a fetch; none: it answers with the first. For topics with
    /// many small records whose fold may be that much later: else each batch of the API's is fetched alone, which costs the
    /// broker as much as the batch did. What comes with a fetch comes at once, so that the batch itself need not wait for long.
    const FETCH_WAIT: Option<Duration> = None;

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

    /// A faster way to make the tables from the first record on; without one they are made batch by batch.
    fn whole() -> Option<Box<dyn Whole<Self::Event>>> {
        None
    }

    /// Whether a record may have had a part in a row, which is given by its cells as text. Unless told otherwise, a row
    /// names the records that it comes from.
    fn touches(record: &Record<Self::Event>, row: &Cells) -> bool {
        names(row, record.partition, record.offset)
    }
}

/// The cells of a row as text, by column.
pub type Cells = BTreeMap<String, Option<String>>;

/// Whether a row has this place in its columns `partition` and `offset`, or in those that end in `_offset`.
pub(crate) fn names(row: &Cells, partition: i32, offset: i64) -> bool {
    let is = |column: &str, number: i64| {
        let cell = row.get(column).and_then(Option::as_ref);
        cell.is_some_and(|cell| cell.parse() == Ok(number))
    };
    if row.contains_key("partition") && !is("partition", i64::from(partition)) {
        return false;
    }
    if row.contains_key("offset") {
        return is("offset", offset);
    }
    let offsets = row.keys().filter(|column| column.ends_with("_offset"));
    offsets.into_iter().any(|column| is(column, offset))
}

/// A fold of a whole log, from its first record on, into tables that have no keys yet: what can be gathered in memory is,
/// and rows are written by COPY, once. Pure, like a fold.
pub trait Whole<E>: Send {
    /// Folds a record that comes next in its partition. Gives it back if it takes the rows of earlier records to fold it:
    /// that is done in the usual way, in the same order, once the tables have their keys.
    fn fold(&mut self, record: Record<E>) -> Option<Record<E>>;

    /// How much memory it takes, in bytes, beside rows that can be written.
    fn memory(&self) -> usize;

    /// Gives rows to be written.
    fn rows(&mut self, when: When) -> Vec<Rows>;

    /// Statements to run before the first rows are written.
    fn begin(&self) -> &'static str {
        ""
    }

    /// Statements to run after the last, before the tables have their keys.
    fn end(&self) -> &'static str {
        ""
    }
}

/// When a whole is asked for its rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum When {
    /// Now and then: it gives them if they are many enough to be worth it.
    Passing,
    /// It takes more memory than it may: it gives what it can.
    Full,
    /// There are no more records: it gives all.
    End,
}

/// How many bytes of rows are worth being written.
pub const ROWS_BYTES: usize = 4 << 20;

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_names_the_records_that_it_comes_from() {
        let row = |cells: &[(&str, Option<&str>)]| -> Cells {
            let owned =
                |(name, cell): &(&str, Option<&str>)| ((*name).to_owned(), cell.map(str::to_owned));
            cells.iter().map(owned).collect()
        };
        let order = row(&[("partition", Some("3")), ("offset", Some("7"))]);
        assert!(names(&order, 3, 7));
        assert!(!names(&order, 2, 7) && !names(&order, 3, 8));
        let item = row(&[("reserved_offset", Some("7")), ("purchased_offset", None)]);
        assert!(names(&item, 0, 7) && !names(&item, 0, 8));
        // What is decided at an offset of another topic does not come from it.
        let refused = row(&[("offset", Some("1")), ("decided_at_offset", Some("7"))]);
        assert!(names(&refused, 0, 1) && !names(&refused, 0, 7));
        assert!(!names(&row(&[("banner_id", Some("7"))]), 0, 7));
    }
}
