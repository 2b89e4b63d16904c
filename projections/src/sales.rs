//! The tables of the sales: how each stands, its items, and every request. Before this:
//! `processors/src/sales/history.rs`; next: `projections/src/sales_history.rs`.

use schemas::{
    sale_rules::SaleRulesSet,
    sales::{SaleId, TOPIC},
};
use sqlx::{PgConnection, postgres::PgArguments, query::Query};

use crate::projection::{self, Projection};

/// The projection.
pub static PROJECTION: Projection = Projection {
    name: "sales",
    of: &TOPIC,
    version: 1,
    tables: include_str!("../sql/sales.sql"),
    fold_settings: &[],
};

/// How a sale stands after its newest request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SaleRow {
    /// The sale.
    pub id: SaleId,
    /// The first millisecond after it, since 1970-01-01T00:00:00Z.
    pub ends_at_ms: i64,
    /// Its rules.
    pub rules: SaleRulesSet,
    /// How many items are bought.
    pub sold: u32,
    /// Time of the log at its newest request, milliseconds since 1970-01-01T00:00:00Z.
    pub decided_at_ms: i64,
}

/// What became of an item: a reservation, a purchase, or one after the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item {
    /// The sale.
    pub sale: SaleId,
    /// The item.
    pub item_id: i32,
    /// Its newest reservation, if there is a new one.
    pub reserved: Option<Taken>,
    /// Its purchase, if that is new.
    pub purchased: Option<Taken>,
}

/// A reservation or a purchase.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Taken {
    /// Who has it.
    pub user_id: i64,
    /// Until when it is reserved, or when it was bought; milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// The record.
    pub offset: i64,
}

/// A request with its verdict.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Attempt {
    /// The record.
    pub offset: i64,
    /// The sale; none if the request is void.
    pub sale: Option<SaleId>,
    /// `checkout` or `purchase`.
    pub kind: &'static str,
    /// The user, if that is known.
    pub user_id: Option<i64>,
    /// The item, if that is known.
    pub item_id: Option<i32>,
    /// The verdict, in a word.
    pub verdict: &'static str,
    /// Time of the log when it was decided, milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// End of the reservation, where it was reserved.
    pub expires_at_ms: Option<i64>,
    /// Whether this is the verdict of an earlier request with the same key.
    pub is_replayed: bool,
    /// Whether it came with an idempotency key.
    pub has_key: bool,
}

/// What a batch changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sorted by sale, one a sale.
    pub sales: Vec<SaleRow>,
    /// Sorted by sale and item, one an item.
    pub items: Vec<Item>,
    /// Sorted by offset.
    pub attempts: Vec<Attempt>,
}

impl projection::Changes for Changes {
    async fn apply(&self, transaction: &mut PgConnection) -> sqlx::Result<()> {
        if !self.sales.is_empty() {
            upsert_sales(&self.sales).execute(&mut *transaction).await?;
        }
        if !self.items.is_empty() {
            upsert_items(&self.items).execute(&mut *transaction).await?;
        }
        if !self.attempts.is_empty() {
            insert_attempts(&self.attempts).execute(transaction).await?;
        }
        Ok(())
    }
}

type Statement<'a> = Query<'a, sqlx::Postgres, PgArguments>;

fn column<R, T>(rows: &[R], get: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(get).collect()
}

fn upsert_sales(sales: &[SaleRow]) -> Statement<'_> {
    sqlx::query(
        r#"INSERT INTO sales AS s
               (starts_at, ends_at, items, "limit", reservation_seconds, sold, decided_at)
           SELECT to_timestamp(a.starts_at_ms / 1000.0), to_timestamp(a.ends_at_ms / 1000.0),
               a.items, a."limit", a.reservation_seconds, a.sold,
               to_timestamp(a.decided_at_ms / 1000.0)
           FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::int[], $5::int[], $6::int[],
               $7::bigint[]) AS a(starts_at_ms, ends_at_ms, items, "limit", reservation_seconds,
                   sold, decided_at_ms)
           ON CONFLICT (starts_at) DO UPDATE
               SET sold = excluded.sold, decided_at = excluded.decided_at"#,
    )
    .bind(column(sales, |sale| sale.id.starts_at_ms()))
    .bind(column(sales, |sale| sale.ends_at_ms))
    .bind(column(sales, |sale| sale.rules.items))
    .bind(column(sales, |sale| sale.rules.limit))
    .bind(column(sales, |sale| sale.rules.reservation_seconds))
    .bind(column(sales, |sale| sale.sold.cast_signed()))
    .bind(column(sales, |sale| sale.decided_at_ms))
}

fn upsert_items(items: &[Item]) -> Statement<'_> {
    let reserved = |get: fn(&Taken) -> i64| column(items, |item| item.reserved.as_ref().map(get));
    let purchased = |get: fn(&Taken) -> i64| column(items, |item| item.purchased.as_ref().map(get));
    // What is bought was reserved before, maybe in an earlier batch: then the reservation stays as it is.
    sqlx::query(
        "INSERT INTO items AS i (sale_starts_at, item_id, reserved_by, reserved_until,
             reserved_offset, purchased_by, purchased_at, purchased_offset)
         SELECT to_timestamp(a.sale_ms / 1000.0), a.item_id, coalesce(a.reserved_by, o.reserved_by),
             coalesce(to_timestamp(a.reserved_until_ms / 1000.0), o.reserved_until),
             coalesce(a.reserved_offset, o.reserved_offset), a.purchased_by,
             to_timestamp(a.purchased_at_ms / 1000.0), a.purchased_offset
         FROM unnest($1::bigint[], $2::int[], $3::bigint[], $4::bigint[], $5::bigint[],
             $6::bigint[], $7::bigint[], $8::bigint[])
             AS a(sale_ms, item_id, reserved_by, reserved_until_ms, reserved_offset, purchased_by,
                 purchased_at_ms, purchased_offset)
         LEFT JOIN items AS o
             ON o.sale_starts_at = to_timestamp(a.sale_ms / 1000.0) AND o.item_id = a.item_id
         ORDER BY a.sale_ms, a.item_id
         ON CONFLICT (sale_starts_at, item_id) DO UPDATE SET
             reserved_by = excluded.reserved_by, reserved_until = excluded.reserved_until,
             reserved_offset = excluded.reserved_offset, purchased_by = excluded.purchased_by,
             purchased_at = excluded.purchased_at, purchased_offset = excluded.purchased_offset",
    )
    .bind(column(items, |item| item.sale.starts_at_ms()))
    .bind(column(items, |item| item.item_id))
    .bind(reserved(|taken| taken.user_id))
    .bind(reserved(|taken| taken.at_ms))
    .bind(reserved(|taken| taken.offset))
    .bind(purchased(|taken| taken.user_id))
    .bind(purchased(|taken| taken.at_ms))
    .bind(purchased(|taken| taken.offset))
}

fn insert_attempts(attempts: &[Attempt]) -> Statement<'_> {
    sqlx::query(
        r#"INSERT INTO attempts ("offset", sale_starts_at, kind, user_id, item_id, verdict, at,
               expires_at, is_replayed, has_key)
           SELECT a."offset", to_timestamp(a.sale_ms / 1000.0), a.kind, a.user_id, a.item_id,
               a.verdict, to_timestamp(a.at_ms / 1000.0), to_timestamp(a.expires_at_ms / 1000.0),
               a.is_replayed, a.has_key
           FROM unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::int[], $6::text[],
               $7::bigint[], $8::bigint[], $9::bool[], $10::bool[])
               AS a("offset", sale_ms, kind, user_id, item_id, verdict, at_ms, expires_at_ms,
                   is_replayed, has_key)"#,
    )
    .bind(column(attempts, |attempt| attempt.offset))
    .bind(column(attempts, |a| a.sale.map(SaleId::starts_at_ms)))
    .bind(column(attempts, |attempt| attempt.kind))
    .bind(column(attempts, |attempt| attempt.user_id))
    .bind(column(attempts, |attempt| attempt.item_id))
    .bind(column(attempts, |attempt| attempt.verdict))
    .bind(column(attempts, |attempt| attempt.at_ms))
    .bind(column(attempts, |attempt| attempt.expires_at_ms))
    .bind(column(attempts, |attempt| attempt.is_replayed))
    .bind(column(attempts, |attempt| attempt.has_key))
}
