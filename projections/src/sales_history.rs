//! What is asked of the tables of the sales and of the refusals beside them. Before this: `projections/src/sales.rs` and
//! `projections/src/sale_attempts.rs`; next: `api/src/routes/sales_history.rs`.

use schemas::{sale_rules::SaleRulesSet, sales::SaleId};
use sqlx::{PgConnection, Row, ValueRef, postgres::PgRow};

use crate::{pool::Pool, sales::SaleRow};

/// An answer, and how far the projections that it is taken from had come at that moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AsOf<T> {
    /// The answer.
    pub found: T,
    /// Projection, partition and the first offset that is not in.
    pub reached: Vec<(String, i32, i64)>,
}

/// How a sale stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Standing {
    /// After its newest request.
    pub sale: SaleRow,
    /// How many items are reserved.
    pub reserved: u32,
}

/// An item that was bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sold {
    /// The item.
    pub item_id: i32,
    /// Who bought it.
    pub purchased_by: i64,
    /// When, milliseconds since 1970-01-01T00:00:00Z.
    pub purchased_at_ms: i64,
    /// The record.
    pub purchased_offset: i64,
}

/// A request with its verdict, of either topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// Its place among the attempts of the sale.
    pub place: Place,
    /// `checkout` or `purchase`.
    pub kind: String,
    /// The user, if that is known.
    pub user_id: Option<i64>,
    /// The item, if that is known.
    pub item_id: Option<i32>,
    /// The verdict, in a word.
    pub verdict: String,
    /// End of the reservation, where it was reserved.
    pub expires_at_ms: Option<i64>,
    /// Whether this is the verdict of an earlier request with the same key.
    pub is_replayed: bool,
}

/// The order of attempts: by time, then by where they stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// When it was decided, milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// Whether it stands in the topic of those that needed no log.
    pub is_beside: bool,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
}

/// The first columns of every answer, then those of its rows: one statement, so that all are of one moment. If there
/// is no row, there is one without a row's columns.
macro_rules! as_of {
    ($projections:literal, $known:literal, $rows:expr, $order:literal) => {
        concat!(
            "SELECT c.projections, c.partitions, c.offsets, c.is_known, r.* FROM (
                 SELECT array_agg(projection) AS projections, array_agg(partition) AS partitions,
                     array_agg(next_offset) AS offsets, ",
            $known,
            " AS is_known
                 FROM millrace.checkpoints WHERE live AND projection IN (",
            $projections,
            ")) AS c LEFT JOIN (",
            $rows,
            ") AS r ON true ORDER BY ",
            $order
        )
    };
}

/// A sale with what is reserved at `$1`, or at the time of the log if that is later; a sale that is over has nothing
/// reserved.
macro_rules! standing {
    ($which:literal) => {
        concat!(
            r#"SELECT (extract(epoch FROM s.starts_at) * 1000)::bigint AS starts_at_ms,
                   (extract(epoch FROM s.ends_at) * 1000)::bigint, s.items, s."limit",
                   s.reservation_seconds, s.sold,
                   (extract(epoch FROM s.decided_at) * 1000)::bigint,
                   CASE WHEN s.ends_at > now.at THEN (
                       SELECT count(*) FROM sales.items AS i
                       WHERE i.sale_starts_at = s.starts_at AND i.purchased_by IS NULL
                           AND i.reserved_until > now.at)
                   ELSE 0 END
               FROM sales.sales AS s, (
                   SELECT greatest(to_timestamp($1 / 1000.0), (
                       SELECT decided_at FROM sales.sales ORDER BY starts_at DESC LIMIT 1)) AS at
               ) AS now WHERE "#,
            $which
        )
    };
}

/// The sale of this name as it stands at `now_ms`, or at the time of the log if that is later.
///
/// # Errors
/// If Postgres does not answer.
pub async fn sale(pool: &Pool, id: SaleId, now_ms: i64) -> sqlx::Result<AsOf<Option<Standing>>> {
    let mut connection = pool.borrow().await?;
    let found = sale_with(&mut connection, id, now_ms).await?;
    connection.give_back();
    Ok(found)
}

/// As [`sale`], with a connection of one's own.
///
/// # Errors
/// If Postgres does not answer.
pub async fn sale_with(
    connection: &mut PgConnection,
    id: SaleId,
    now_ms: i64,
) -> sqlx::Result<AsOf<Option<Standing>>> {
    let rows = sqlx::query(as_of!(
        "'sales'",
        "true",
        standing!("s.starts_at = to_timestamp($2 / 1000.0)"),
        "starts_at_ms"
    ))
    .bind(now_ms)
    .bind(id.starts_at_ms())
    .fetch_all(connection)
    .await?;
    let found = read(&rows, standing)?;
    Ok(AsOf {
        found: found.found.into_iter().flatten().next(),
        reached: found.reached,
    })
}

/// The newest sales as they stand at `now_ms`, newest first: those that started before `before`, at most `limit`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn sales(
    pool: &Pool,
    before: Option<SaleId>,
    limit: i64,
    now_ms: i64,
) -> sqlx::Result<AsOf<Vec<Standing>>> {
    let mut connection = pool.borrow().await?;
    let rows = sqlx::query(as_of!(
        "'sales'",
        "true",
        standing!(
            "$2::bigint IS NULL OR s.starts_at < to_timestamp($2 / 1000.0)
             ORDER BY s.starts_at DESC LIMIT $3"
        ),
        "starts_at_ms DESC"
    ))
    .bind(now_ms)
    .bind(before.map(SaleId::starts_at_ms))
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    connection.give_back();
    let AsOf { found, reached } = read(&rows, standing)?;
    let found = found.unwrap_or_default();
    Ok(AsOf { found, reached })
}

/// The items of a sale that were bought, by their ids: those after `after`, at most `limit`. None if there was no such
/// sale.
///
/// # Errors
/// If Postgres does not answer.
pub async fn sold(
    pool: &Pool,
    id: SaleId,
    after: i32,
    limit: i64,
) -> sqlx::Result<AsOf<Option<Vec<Sold>>>> {
    let mut connection = pool.borrow().await?;
    let found = sold_with(&mut connection, id, after, limit).await?;
    connection.give_back();
    Ok(found)
}

/// As [`sold`], with a connection of one's own.
///
/// # Errors
/// If Postgres does not answer.
pub async fn sold_with(
    connection: &mut PgConnection,
    id: SaleId,
    after: i32,
    limit: i64,
) -> sqlx::Result<AsOf<Option<Vec<Sold>>>> {
    let rows = sqlx::query(as_of!(
        "'sales'",
        "EXISTS (SELECT FROM sales.sales WHERE starts_at = to_timestamp($1 / 1000.0))",
        "SELECT item_id, purchased_by, (extract(epoch FROM purchased_at) * 1000)::bigint,
             purchased_offset
         FROM sales.items
         WHERE sale_starts_at = to_timestamp($1 / 1000.0) AND purchased_by IS NOT NULL
             AND item_id > $2
         ORDER BY item_id LIMIT $3",
        "item_id"
    ))
    .bind(id.starts_at_ms())
    .bind(after)
    .bind(limit)
    .fetch_all(connection)
    .await?;
    read(&rows, |row| sold_item(row, 4))
}

/// Reads an item whose columns begin there.
fn sold_item(row: &PgRow, first: usize) -> sqlx::Result<Sold> {
    Ok(Sold {
        item_id: row.try_get(first)?,
        purchased_by: row.try_get(first + 1)?,
        purchased_at_ms: row.try_get(first + 2)?,
        purchased_offset: row.try_get(first + 3)?,
    })
}

/// The items of a sale that were bought last, the newest first, at most `limit`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn last_sold(pool: &Pool, id: SaleId, limit: i64) -> sqlx::Result<Vec<Sold>> {
    let mut connection = pool.borrow().await?;
    let rows = sqlx::query(
        "SELECT item_id, purchased_by, (extract(epoch FROM purchased_at) * 1000)::bigint,
             purchased_offset
         FROM sales.items
         WHERE sale_starts_at = to_timestamp($1 / 1000.0) AND purchased_by IS NOT NULL
         ORDER BY purchased_offset DESC LIMIT $2",
    )
    .bind(id.starts_at_ms())
    .bind(limit)
    .fetch_all(&mut *connection)
    .await?;
    connection.give_back();
    rows.iter().map(|row| sold_item(row, 0)).collect()
}

/// The requests of a sale and what became of them, in the order of [`Place`]: those after `after`, at most `limit`. None
/// if there was no such sale.
///
/// # Errors
/// If Postgres does not answer.
pub async fn attempts(
    pool: &Pool,
    id: SaleId,
    after: Option<Place>,
    limit: i64,
) -> sqlx::Result<AsOf<Option<Vec<Attempt>>>> {
    let mut connection = pool.borrow().await?;
    // The time is compared twice: once for the index, once with the rest of the place.
    let rows = sqlx::query(as_of!(
        "'sales', 'sale_attempts'",
        "EXISTS (SELECT FROM sales.sales WHERE starts_at = to_timestamp($1 / 1000.0))",
        r#"SELECT (extract(epoch FROM at) * 1000)::bigint AS at_ms, is_beside, partition, "offset",
               kind, user_id, item_id, verdict, (extract(epoch FROM expires_at) * 1000)::bigint,
               is_replayed
           FROM (
               (SELECT at, false AS is_beside, 0 AS partition, "offset", kind, user_id, item_id,
                    verdict, expires_at, is_replayed
                FROM sales.attempts
                WHERE sale_starts_at = to_timestamp($1 / 1000.0) AND at >= to_timestamp($2 / 1000.0)
                    AND (at, false, 0, "offset") > (to_timestamp($2 / 1000.0), $3, $4, $5)
                ORDER BY at, "offset" LIMIT $6)
               UNION ALL
               (SELECT at, true, partition, "offset", 'checkout', user_id, item_id, verdict,
                    NULL, false
                FROM sale_attempts.attempts
                WHERE sale_starts_at = to_timestamp($1 / 1000.0) AND at >= to_timestamp($2 / 1000.0)
                    AND (at, true, partition, "offset") > (to_timestamp($2 / 1000.0), $3, $4, $5)
                ORDER BY at, partition, "offset" LIMIT $6)
           ) AS both_topics
           ORDER BY at, is_beside, partition, "offset" LIMIT $6"#,
        r#"at_ms, is_beside, partition, "offset""#
    ));
    // Before all others.
    let nowhere = Place {
        offset: -1,
        ..Place::default()
    };
    let after = after.unwrap_or(nowhere);
    let rows = rows
        .bind(id.starts_at_ms())
        .bind(after.at_ms)
        .bind(after.is_beside)
        .bind(after.partition)
        .bind(after.offset)
        .bind(limit)
        .fetch_all(&mut *connection)
        .await?;
    connection.give_back();
    read(&rows, attempt)
}

/// Reads what [`as_of`] selects; none if the sale is not known.
fn read<T>(
    rows: &[PgRow],
    each: impl Fn(&PgRow) -> sqlx::Result<T>,
) -> sqlx::Result<AsOf<Option<Vec<T>>>> {
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    let projections: Option<Vec<String>> = first.try_get(0)?;
    let partitions: Option<Vec<i32>> = first.try_get(1)?;
    let offsets: Option<Vec<i64>> = first.try_get(2)?;
    let is_known: bool = first.try_get(3)?;
    let places = partitions.into_iter().flatten();
    let places = places.zip(offsets.into_iter().flatten());
    let reached = projections.into_iter().flatten().zip(places);
    let has_row = first.try_get_raw(4).map(|value| !value.is_null())?;
    let found = if has_row { rows } else { &[] };
    let found: Vec<T> = found.iter().map(each).collect::<sqlx::Result<_>>()?;
    Ok(AsOf {
        found: is_known.then_some(found),
        reached: reached.map(|(name, (p, next))| (name, p, next)).collect(),
    })
}

fn standing(row: &PgRow) -> sqlx::Result<Standing> {
    let starts_at_ms: i64 = row.try_get(4)?;
    let ends_at_ms: i64 = row.try_get(5)?;
    let seconds = i32::try_from((ends_at_ms - starts_at_ms) / 1_000);
    let sold: i32 = row.try_get(9)?;
    Ok(Standing {
        sale: SaleRow {
            id: SaleId::starting_at_ms(starts_at_ms),
            ends_at_ms,
            rules: SaleRulesSet {
                items: row.try_get(6)?,
                limit: row.try_get(7)?,
                reservation_seconds: row.try_get(8)?,
                sale_seconds: seconds.map_err(|error| sqlx::Error::Decode(error.into()))?,
            },
            sold: sold.unsigned_abs(),
            decided_at_ms: row.try_get(10)?,
        },
        reserved: u32::try_from(row.try_get::<i64, _>(11)?).unwrap_or_default(),
    })
}

fn attempt(row: &PgRow) -> sqlx::Result<Attempt> {
    Ok(Attempt {
        place: Place {
            at_ms: row.try_get(4)?,
            is_beside: row.try_get(5)?,
            partition: row.try_get(6)?,
            offset: row.try_get(7)?,
        },
        kind: row.try_get(8)?,
        user_id: row.try_get(9)?,
        item_id: row.try_get(10)?,
        verdict: row.try_get(11)?,
        expires_at_ms: row.try_get(12)?,
        is_replayed: row.try_get(13)?,
    })
}
