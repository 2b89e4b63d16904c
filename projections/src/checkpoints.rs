//! How far a projection has applied each partition. A batch moves its checkpoints in the transaction that writes its
//! rows, and only from where it begins: so a batch counts once, whoever else applies it too.

use sqlx::{PgConnection, PgExecutor, Row};

use crate::projection::Generation;

/// The part of a partition that a batch covers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// The partition.
    pub partition: i32,
    /// Offset of the first record that the batch covers.
    pub from: i64,
    /// Offset after the last record that the batch covers.
    pub to: i64,
    /// Time of its newest record, milliseconds since 1970-01-01T00:00:00Z; 0 if it has none.
    pub record_at_ms: i64,
    /// Its last record; without one, what is known of an earlier one stays.
    pub last: Option<Last>,
}

/// A record that was applied, to know the log again by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Last {
    /// Where it lies.
    pub offset: i64,
    /// SHA-256 of all that it says.
    pub fingerprint: [u8; 32],
}

/// A checkpoint as it stands in the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpoint {
    /// The partition.
    pub partition: i32,
    /// Offset of the first record that is not applied.
    pub next_offset: i64,
}

/// Why checkpoints did not move.
#[derive(Debug, thiserror::Error)]
pub enum AdvanceError {
    /// Somebody else has applied these records, or another generation is live now.
    #[error(
        "checkpoints of {projection} generation {generation} are not where the batch begins: somebody else was here"
    )]
    Lost {
        /// Which projection.
        projection: &'static str,
        /// Which generation the batch was for.
        generation: i32,
    },
    /// Postgres did not do it.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
}

/// Moves the checkpoints of a batch; the first statements of its transaction.
///
/// # Errors
/// [`AdvanceError::Lost`]: roll back and start again from the stored checkpoints.
pub async fn advance(
    transaction: &mut PgConnection,
    generation: &Generation,
    topic: &str,
    spans: &[Span],
) -> Result<(), AdvanceError> {
    let column = |get: fn(&Span) -> i64| spans.iter().map(get).collect::<Vec<_>>();
    let partitions: Vec<i32> = spans.iter().map(|span| span.partition).collect();
    let (last_offsets, last_fingerprints) = lasts(spans);
    if spans.len() > 1 {
        lock(transaction, generation, topic, &partitions).await?;
    }
    let moved = sqlx::query(
        "UPDATE millrace.checkpoints AS c
         SET next_offset = s.next_offset,
             record_at = greatest(c.record_at, to_timestamp(nullif(s.record_at_ms, 0) / 1000.0)),
             last_offset = coalesce(s.last_offset, c.last_offset),
             last_fingerprint = coalesce(s.last_fingerprint, c.last_fingerprint)
         FROM unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bigint[], $9::bytea[])
             AS s(partition, first_offset, next_offset, record_at_ms, last_offset, last_fingerprint)
         WHERE c.projection = $1 AND c.generation = $2 AND c.topic = $3 AND c.live = $10
             AND c.partition = s.partition AND c.next_offset = s.first_offset",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(topic)
    .bind(&partitions)
    .bind(column(|span| span.from))
    .bind(column(|span| span.to))
    .bind(column(|span| span.record_at_ms))
    .bind(last_offsets)
    .bind(last_fingerprints)
    .bind(generation.is_live)
    .execute(transaction)
    .await?;
    if moved.rows_affected() == spans.len() as u64 {
        return Ok(());
    }
    Err(AdvanceError::Lost {
        projection: generation.projection,
        generation: generation.number,
    })
}

/// Offsets and fingerprints of the last records.
fn lasts(spans: &[Span]) -> (Vec<Option<i64>>, Vec<Option<&[u8]>>) {
    let lasts = spans.iter().map(|span| span.last.as_ref());
    let columns = lasts.map(|last| (last.map(|l| l.offset), last.map(|l| &l.fingerprint[..])));
    columns.unzip()
}

/// Locks checkpoints in order, so that two writers wait for each other instead of meeting crosswise.
async fn lock(
    transaction: &mut PgConnection,
    generation: &Generation,
    topic: &str,
    partitions: &[i32],
) -> sqlx::Result<()> {
    sqlx::query(
        "SELECT FROM millrace.checkpoints
         WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($4)
         ORDER BY partition FOR UPDATE",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(topic)
    .bind(partitions)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Where a fold goes on in these partitions; a partition that is new starts at 0.
///
/// # Errors
/// If Postgres does not answer.
pub async fn start(
    connection: &mut PgConnection,
    generation: &Generation,
    topic: &str,
    partitions: &[i32],
) -> sqlx::Result<Vec<Checkpoint>> {
    // A switch changes the generation first: whoever reads that it is live keeps it so until the new checkpoint is there.
    sqlx::query(
        "INSERT INTO millrace.checkpoints
             (projection, generation, topic, partition, next_offset, live)
         SELECT $1, $2, $3, p.partition, 0, g.live
         FROM unnest($4::int[]) AS p(partition), millrace.generations AS g
         WHERE g.projection = $1 AND g.generation = $2
         FOR SHARE OF g
         ON CONFLICT DO NOTHING",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(topic)
    .bind(partitions)
    .execute(&mut *connection)
    .await?;
    let rows = sqlx::query(
        "SELECT partition, next_offset
         FROM millrace.checkpoints
         WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = ANY($4)
         ORDER BY partition",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(topic)
    .bind(partitions)
    .fetch_all(connection)
    .await?;
    rows.iter().map(checkpoint).collect()
}

/// The checkpoints of a generation, live or not.
///
/// # Errors
/// If Postgres does not answer.
pub async fn of(
    executor: impl PgExecutor<'_>,
    generation: &Generation,
) -> sqlx::Result<Vec<Checkpoint>> {
    let rows = sqlx::query(
        "SELECT partition, next_offset
         FROM millrace.checkpoints WHERE projection = $1 AND generation = $2 ORDER BY partition",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .fetch_all(executor)
    .await?;
    rows.iter().map(checkpoint).collect()
}

/// Says how far a generation has come that nobody reads yet: a span a partition, from its first record on.
///
/// # Errors
/// If Postgres does not do it.
pub async fn set(
    transaction: &mut PgConnection,
    generation: &Generation,
    topic: &str,
    spans: &[Span],
) -> sqlx::Result<()> {
    let column = |get: fn(&Span) -> i64| spans.iter().map(get).collect::<Vec<_>>();
    let partitions: Vec<i32> = spans.iter().map(|span| span.partition).collect();
    let (last_offsets, last_fingerprints) = lasts(spans);
    sqlx::query(
        "UPDATE millrace.checkpoints AS c
         SET next_offset = s.next_offset, record_at = to_timestamp(nullif(s.record_at_ms, 0) / 1000.0),
             last_offset = s.last_offset, last_fingerprint = s.last_fingerprint
         FROM unnest($4::int[], $5::bigint[], $6::bigint[], $7::bigint[], $8::bytea[])
             AS s(partition, next_offset, record_at_ms, last_offset, last_fingerprint)
         WHERE c.projection = $1 AND c.generation = $2 AND c.topic = $3 AND NOT c.live
             AND c.partition = s.partition",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(topic)
    .bind(partitions)
    .bind(column(|span| span.to))
    .bind(column(|span| span.record_at_ms))
    .bind(last_offsets)
    .bind(last_fingerprints)
    .execute(transaction)
    .await?;
    Ok(())
}

/// The checkpoints of the live generation of a projection; none before its first batch.
///
/// # Errors
/// If Postgres does not answer.
pub async fn live(
    executor: impl PgExecutor<'_>,
    projection: &str,
) -> sqlx::Result<Vec<Checkpoint>> {
    let rows = sqlx::query(
        "SELECT partition, next_offset
         FROM millrace.checkpoints WHERE projection = $1 AND live ORDER BY partition",
    )
    .bind(projection)
    .fetch_all(executor)
    .await?;
    rows.iter().map(checkpoint).collect()
}

fn checkpoint(row: &sqlx::postgres::PgRow) -> sqlx::Result<Checkpoint> {
    Ok(Checkpoint {
        partition: row.try_get(0)?,
        next_offset: row.try_get(1)?,
    })
}
