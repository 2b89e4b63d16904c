//! Records that could not be decoded or folded: where they lie and why. Their bytes stay in the log.

use sqlx::{PgConnection, PgExecutor, Row, postgres::PgRow};

use crate::projection::{Generation, Projection};

/// A record that could not be folded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// Where it lies.
    pub partition: i32,
    /// Where it lies.
    pub offset: i64,
    /// One word for the kind of fault, such as `invalid` or `not_framed`.
    pub reason: &'static str,
    /// What exactly.
    pub error: String,
    /// The record's time, milliseconds since 1970-01-01T00:00:00Z.
    pub record_at_ms: i64,
}

/// A dead letter as it stands in the table.
#[derive(Debug, Clone)]
pub struct Stored {
    /// Whose fold gave up on it.
    pub projection: String,
    /// The topic's full name.
    pub topic: String,
    /// Where it lies.
    pub partition: i32,
    /// Where it lies.
    pub offset: i64,
    /// One word for the kind of fault.
    pub reason: String,
    /// What exactly.
    pub error: String,
    /// Version of the fold that gave up on it.
    pub version: i32,
    /// The record's time, milliseconds since 1970-01-01T00:00:00Z.
    pub record_at_ms: i64,
}

/// Stores the dead letters of a batch, in its transaction.
///
/// # Errors
/// If Postgres does not do it.
pub async fn store(
    transaction: &mut PgConnection,
    projection: &Projection,
    generation: &Generation,
    topic: &str,
    letters: &[DeadLetter],
) -> sqlx::Result<()> {
    if letters.is_empty() {
        return Ok(());
    }
    let partitions: Vec<_> = letters.iter().map(|letter| letter.partition).collect();
    let offsets: Vec<_> = letters.iter().map(|letter| letter.offset).collect();
    let reasons: Vec<_> = letters.iter().map(|letter| letter.reason).collect();
    // Postgres has no text with U+0000, and a message may quote anything.
    let errors: Vec<_> = letters
        .iter()
        .map(|letter| letter.error.replace('\0', "\u{fffd}"))
        .collect();
    let times: Vec<_> = letters.iter().map(|letter| letter.record_at_ms).collect();
    sqlx::query(
        r#"INSERT INTO millrace.dead_letters
               (projection, generation, topic, partition, "offset", reason, error, version, record_at)
           SELECT $1, $2, $3, l.partition, l."offset", l.reason, l.error, $4,
               to_timestamp(l.record_at_ms / 1000.0)
           FROM unnest($5::int[], $6::bigint[], $7::text[], $8::text[], $9::bigint[])
               AS l(partition, "offset", reason, error, record_at_ms)
           ORDER BY 4, 5
           ON CONFLICT DO NOTHING"#,
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(topic)
    .bind(projection.version)
    .bind(partitions)
    .bind(offsets)
    .bind(reasons)
    .bind(errors)
    .bind(times)
    .execute(transaction)
    .await?;
    Ok(())
}

macro_rules! select_live {
    () => {
        r#"SELECT d.projection, d.topic, d.partition, d."offset", d.reason, d.error, d.version,
               (extract(epoch FROM d.record_at) * 1000)::bigint
           FROM millrace.dead_letters AS d
           JOIN millrace.generations AS g USING (projection, generation)
           WHERE g.live"#
    };
}

/// The dead letters of the live generations, newest first: of one projection or all, at most `limit`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    executor: impl PgExecutor<'_>,
    projection: Option<&str>,
    limit: i64,
) -> sqlx::Result<Vec<Stored>> {
    let rows = sqlx::query(concat!(
        select_live!(),
        r#" AND ($1::text IS NULL OR d.projection = $1)
           ORDER BY d.found_at DESC, d.projection, d.partition, d."offset" DESC
           LIMIT $2"#,
    ))
    .bind(projection)
    .bind(limit)
    .fetch_all(executor)
    .await?;
    rows.iter().map(stored).collect()
}

/// How many dead letters the live generation of a projection has.
///
/// # Errors
/// If Postgres does not answer.
pub async fn count(executor: impl PgExecutor<'_>, projection: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT count(*) FROM millrace.dead_letters AS d
         JOIN millrace.generations AS g USING (projection, generation)
         WHERE g.live AND d.projection = $1",
    )
    .bind(projection)
    .fetch_one(executor)
    .await
}

/// The dead letters of the live generations for one record; more than one if several projections fold its topic.
///
/// # Errors
/// If Postgres does not answer.
pub async fn of_record(
    executor: impl PgExecutor<'_>,
    topic: &str,
    partition: i32,
    offset: i64,
) -> sqlx::Result<Vec<Stored>> {
    let rows = sqlx::query(concat!(
        select_live!(),
        r#" AND d.topic = $1 AND d.partition = $2 AND d."offset" = $3 ORDER BY d.projection"#,
    ))
    .bind(topic)
    .bind(partition)
    .bind(offset)
    .fetch_all(executor)
    .await?;
    rows.iter().map(stored).collect()
}

fn stored(row: &PgRow) -> sqlx::Result<Stored> {
    Ok(Stored {
        projection: row.try_get(0)?,
        topic: row.try_get(1)?,
        partition: row.try_get(2)?,
        offset: row.try_get(3)?,
        reason: row.try_get(4)?,
        error: row.try_get(5)?,
        version: row.try_get(6)?,
        record_at_ms: row.try_get(7)?,
    })
}
