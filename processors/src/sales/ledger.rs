//! The state of the sale together with its place on the log.

use schemas::sales::SaleEvent;

use super::{Passed, RuleBook, RulesMissing, Sales, Stock};
use crate::record::Record;

/// Rules that a record asked for and that were not there: it was folded as if they said nothing new.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Assumed {
    /// Time of the log then, milliseconds since 1970-01-01T00:00:00Z. The hour that it falls into may have other rules.
    pub at_ms: i64,
    /// What to read to be certain.
    pub missing: RulesMissing,
}

/// The state after everything before an offset of `sales`.
#[derive(Debug, Clone, Default)]
pub struct Ledger {
    /// The state.
    pub sales: Sales,
    /// The rules that were read so far.
    pub book: RuleBook,
    next_offset: i64,
}

impl Ledger {
    /// An empty state, to be folded from this offset on.
    pub fn starting_at(offset: i64, book: RuleBook) -> Self {
        Self {
            sales: Sales::default(),
            book,
            next_offset: offset,
        }
    }

    /// The next offset to fold.
    pub fn next_offset(&self) -> i64 {
        self.next_offset
    }

    /// Folds a record; none if that was done before.
    ///
    /// # Errors
    /// As [`Sales::fold`].
    pub fn fold(&mut self, record: &Record<SaleEvent>) -> Result<Option<Passed>, RulesMissing> {
        if record.offset < self.next_offset {
            return Ok(None);
        }
        let passed = self.sales.fold(record, &self.book)?;
        self.next_offset = record.offset + 1;
        Ok(Some(passed))
    }

    /// Folds a record whether or not the rules are there that it asks for; says if they were not.
    pub fn fold_assuming(
        &mut self,
        record: &Record<SaleEvent>,
    ) -> (Option<Passed>, Option<Assumed>) {
        let missing = match self.fold(record) {
            Ok(passed) => return (passed, None),
            Err(missing) => missing,
        };
        let mut book = self.book.clone();
        book.pass(missing.rules_seen);
        let passed = self.sales.fold(record, &book);
        self.next_offset = record.offset + 1;
        let assumed = self.sales.last_ms().map(|at_ms| Assumed { at_ms, missing });
        (Some(passed.expect("nothing is missing now")), assumed)
    }

    /// As [`Sales::stock`].
    pub fn stock(&self, now_ms: i64) -> Stock {
        self.sales.stock(now_ms, &self.book)
    }

    /// Passes what holds no event: gaps, and records that are none.
    pub fn pass(&mut self, next_offset: i64) {
        self.next_offset = self.next_offset.max(next_offset);
    }
}
