//! The fold of the refusals that needed no log: each is a row. Before this: `schemas/src/sale_attempts.rs`; next:
//! `projections/src/sale_attempts.rs`.

use std::time::Duration;

use projections::{
    projection::Projection,
    rows::Rows,
    sale_attempts::{PROJECTION, ROWS, Refused as Row, copy},
};
use schemas::sale_attempts::{CheckoutRefused, Refusal};
use sqlx::PgConnection;

use crate::{
    fold::{Fold, Folded, ROWS_BYTES, When, Whole},
    record::Record,
    sales::Refused,
};

/// The fold.
pub struct SaleAttempts;

impl Fold for SaleAttempts {
    type Event = CheckoutRefused;
    type Memory = ();
    type Prior = ();
    type Changes<'a> = Vec<Row>;

    const BATCH_MAX: usize = 10_000;
    const BATCH_AGE: Duration = Duration::from_millis(1);
    const FETCH_WAIT: Option<Duration> = Some(Duration::from_millis(20));
    const PROJECTION: &'static Projection = &PROJECTION;

    async fn load(_: &mut PgConnection, _: &[Record<CheckoutRefused>]) -> sqlx::Result<()> {
        Ok(())
    }

    fn fold((): &(), records: &[Record<CheckoutRefused>], _: &[()]) -> Folded<Vec<Row>> {
        let mut changes: Vec<Row> = records.iter().map(row).collect();
        // Sorted by key, so that two writers meet in the same order.
        changes.sort_unstable_by_key(|row| (row.partition, row.offset));
        Folded {
            changes,
            dead_letters: Vec::new(),
        }
    }

    fn whole() -> Option<Box<dyn Whole<CheckoutRefused>>> {
        Some(Box::new(Refusals(Rows::new(ROWS))))
    }
}

/// The refusals of a whole log: there is nothing to gather.
struct Refusals(Rows);

impl Whole<CheckoutRefused> for Refusals {
    fn fold(&mut self, record: Record<CheckoutRefused>) -> Option<Record<CheckoutRefused>> {
        copy(&mut self.0, &row(&record));
        None
    }

    fn memory(&self) -> usize {
        0
    }

    fn rows(&mut self, when: When) -> Vec<Rows> {
        if when == When::Passing && self.0.byte_len() < ROWS_BYTES {
            return Vec::new();
        }
        vec![self.0.take()]
    }
}

fn row(record: &Record<CheckoutRefused>) -> Row {
    let refused = &record.event;
    Row {
        partition: record.partition,
        offset: record.offset,
        sale_started_at_ms: refused.sale_started_at,
        user_id: refused.user_id,
        item_id: refused.item_id,
        verdict: verdict(refused.reason),
        at_ms: refused.requested_at,
        decided_at_offset: refused.decided_at_offset,
    }
}

/// The word that the log of the sale has for the same reason.
fn verdict(reason: Refusal) -> &'static str {
    match reason {
        Refusal::ItemReserved => Refused::ItemReserved.name(),
        Refusal::ItemSold => Refused::ItemSold.name(),
        Refusal::UserLimit => Refused::UserLimit.name(),
        Refusal::SoldOut => Refused::SoldOut.name(),
        Refusal::Other => "other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(partition: i32, offset: i64, reason: Refusal) -> Record<CheckoutRefused> {
        Record {
            partition,
            offset,
            timestamp_ms: 9,
            event: CheckoutRefused {
                user_id: 7,
                item_id: 3,
                reason,
                sale_started_at: 3_600_000,
                decided_at_offset: 41,
                requested_at: 3_600_005,
            },
        }
    }

    #[test]
    fn every_refusal_is_a_row_sorted_by_its_place() {
        let when = [
            refused(1, 0, Refusal::ItemSold),
            refused(0, 5, Refusal::SoldOut),
            refused(0, 4, Refusal::UserLimit),
        ];
        let rows = SaleAttempts::fold(&(), &when, &[]).changes;
        let places: Vec<_> = rows.iter().map(|row| (row.partition, row.offset)).collect();
        assert_eq!(places, [(0, 4), (0, 5), (1, 0)]);
        let then = Row {
            partition: 1,
            offset: 0,
            sale_started_at_ms: 3_600_000,
            user_id: 7,
            item_id: 3,
            verdict: "item_sold",
            at_ms: 3_600_005,
            decided_at_offset: 41,
        };
        assert_eq!(rows[2], then);
    }

    #[test]
    fn a_reason_has_the_word_of_its_event() {
        for reason in [
            Refusal::ItemReserved,
            Refusal::ItemSold,
            Refusal::UserLimit,
            Refusal::SoldOut,
            Refusal::Other,
        ] {
            let word = serde_json::to_value(reason).unwrap();
            assert_eq!(word, verdict(reason));
        }
    }
}
