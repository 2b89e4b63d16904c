//! The table of the refusals that needed no log. Before this: `processors/src/sale_attempts.rs`; next:
//! `projections/src/sales_history.rs`.

use schemas::sale_attempts::TOPIC;
use sqlx::PgConnection;

use crate::{
    projection::{Changes, Projection},
    rows::Rows,
};

/// The projection.
pub static PROJECTION: Projection = Projection {
    name: "sale_attempts",
    of: &TOPIC,
    version: 1,
    tables: include_str!("../sql/sale_attempts.sql"),
    fold_settings: &[],
};

/// A refusal to store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refused {
    /// The record.
    pub partition: i32,
    /// The record.
    pub offset: i64,
    /// When the sale started, milliseconds since 1970-01-01T00:00:00Z.
    pub sale_started_at_ms: i64,
    /// Who asked.
    pub user_id: i64,
    /// For what.
    pub item_id: i32,
    /// The reason.
    pub verdict: &'static str,
    /// When, milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// Next offset of `sales` that was known.
    pub decided_at_offset: i64,
}

/// Where [`copy`] puts refusals.
pub const ROWS: &str = r#"attempts (partition, "offset", sale_starts_at, user_id, item_id, verdict, at,
    decided_at_offset)"#;

/// Adds a refusal to rows for COPY.
pub fn copy(rows: &mut Rows, refused: &Refused) {
    rows.row(8)
        .integer(refused.partition)
        .bigint(refused.offset)
        .time(refused.sale_started_at_ms)
        .bigint(refused.user_id)
        .integer(refused.item_id)
        .text(refused.verdict)
        .time(refused.at_ms)
        .bigint(refused.decided_at_offset);
}

impl Changes for Vec<Refused> {
    /// Adds the refusals; they have to be sorted by partition and offset.
    async fn apply(&self, transaction: &mut PgConnection) -> sqlx::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let column = |get: fn(&Refused) -> i64| self.iter().map(get).collect::<Vec<_>>();
        let partitions: Vec<_> = self.iter().map(|row| row.partition).collect();
        let items: Vec<_> = self.iter().map(|row| row.item_id).collect();
        let verdicts: Vec<_> = self.iter().map(|row| row.verdict).collect();
        sqlx::query(
            r#"INSERT INTO attempts (partition, "offset", sale_starts_at, user_id, item_id, verdict,
                   at, decided_at_offset)
               SELECT a.partition, a."offset", to_timestamp(a.sale_ms / 1000.0), a.user_id,
                   a.item_id, a.verdict, to_timestamp(a.at_ms / 1000.0), a.decided_at_offset
               FROM unnest($1::int[], $2::bigint[], $3::bigint[], $4::bigint[], $5::int[],
                   $6::text[], $7::bigint[], $8::bigint[])
                   AS a(partition, "offset", sale_ms, user_id, item_id, verdict, at_ms,
                       decided_at_offset)"#,
        )
        .bind(partitions)
        .bind(column(|row| row.offset))
        .bind(column(|row| row.sale_started_at_ms))
        .bind(column(|row| row.user_id))
        .bind(items)
        .bind(verdicts)
        .bind(column(|row| row.at_ms))
        .bind(column(|row| row.decided_at_offset))
        .execute(transaction)
        .await?;
        Ok(())
    }
}
