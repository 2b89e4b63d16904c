//! Records that could not be decoded or folded: where they lie and why. Their bytes stay in the log.

use sqlx::{FromRow, PgConnection, PgExecutor, Row, postgres::PgRow};

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

/// Which dead letters are meant; what is not said does not matter.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Filter<'a> {
    /// Whose fold gave up on them.
    pub projection: Option<&'a str>,
    /// The topic's full name.
    pub topic: Option<&'a str>,
    /// One word for the kind of fault.
    pub reason: Option<&'a str>,
    /// Records of this time or later, milliseconds since 1970-01-01T00:00:00Z.
    pub since_ms: Option<i64>,
    /// Records of an earlier time.
    pub until_ms: Option<i64>,
}

/// Dead letters of one kind.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Group {
    /// Whose fold gave up on them.
    pub projection: String,
    /// The topic's full name.
    pub topic: String,
    /// One word for the kind of fault.
    pub reason: String,
    /// How many.
    pub count: i64,
    /// Time of the oldest record, milliseconds since 1970-01-01T00:00:00Z.
    pub oldest_ms: i64,
    /// Time of the newest record.
    pub newest_ms: i64,
}

macro_rules! is_meant {
    () => {
        r#" AND ($1::text IS NULL OR d.projection = $1)
            AND ($2::text IS NULL OR d.topic = $2)
            AND ($3::text IS NULL OR d.reason = $3)
            AND ($4::bigint IS NULL OR d.record_at >= to_timestamp($4::bigint / 1000.0))
            AND ($5::bigint IS NULL OR d.record_at < to_timestamp($5::bigint / 1000.0))"#
    };
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

/// The dead letters of the live generations that are meant, newest first, at most `limit`.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list(
    executor: impl PgExecutor<'_>,
    filter: &Filter<'_>,
    limit: i64,
) -> sqlx::Result<Vec<Stored>> {
    let rows = sqlx::query(concat!(
        select_live!(),
        is_meant!(),
        r#" ORDER BY d.found_at DESC, d.projection, d.partition, d."offset" DESC
           LIMIT $6"#,
    ))
    .bind(filter.projection)
    .bind(filter.topic)
    .bind(filter.reason)
    .bind(filter.since_ms)
    .bind(filter.until_ms)
    .bind(limit)
    .fetch_all(executor)
    .await?;
    rows.iter().map(stored).collect()
}

/// The same in the order of the log, from after a place (partition and offset) on.
///
/// # Errors
/// If Postgres does not answer.
pub async fn list_after(
    executor: impl PgExecutor<'_>,
    filter: &Filter<'_>,
    place: (i32, i64),
    limit: i64,
) -> sqlx::Result<Vec<Stored>> {
    let rows = sqlx::query(concat!(
        select_live!(),
        is_meant!(),
        r#" AND (d.partition, d."offset") > ($6, $7)
           ORDER BY d.partition, d."offset"
           LIMIT $8"#,
    ))
    .bind(filter.projection)
    .bind(filter.topic)
    .bind(filter.reason)
    .bind(filter.since_ms)
    .bind(filter.until_ms)
    .bind(place.0)
    .bind(place.1)
    .bind(limit)
    .fetch_all(executor)
    .await?;
    rows.iter().map(stored).collect()
}

/// How many of those that are meant there are of each kind, the most first.
///
/// # Errors
/// If Postgres does not answer.
pub async fn groups(
    executor: impl PgExecutor<'_>,
    filter: &Filter<'_>,
) -> sqlx::Result<Vec<Group>> {
    sqlx::query_as(concat!(
        "SELECT d.projection, d.topic, d.reason, count(*) AS count,
             (extract(epoch FROM min(d.record_at)) * 1000)::bigint AS oldest_ms,
             (extract(epoch FROM max(d.record_at)) * 1000)::bigint AS newest_ms
         FROM millrace.dead_letters AS d
         JOIN millrace.generations AS g USING (projection, generation)
         WHERE g.live",
        is_meant!(),
        " GROUP BY 1, 2, 3 ORDER BY 4 DESC, 1, 2, 3",
    ))
    .bind(filter.projection)
    .bind(filter.topic)
    .bind(filter.reason)
    .bind(filter.since_ms)
    .bind(filter.until_ms)
    .fetch_all(executor)
    .await
}

/// What became of the attempt to take a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// It is ours to fold, in this transaction and nowhere else.
    Yes,
    /// It is no dead letter any more: somebody else has folded it.
    Gone,
    /// Another generation is live.
    NotLive,
}

/// Takes a dead letter out, to fold its record after all in the same transaction. Until that ends the generation stays
/// live, and no batch of the record's partition is applied; the checkpoint stays where it is.
///
/// # Errors
/// If Postgres does not do it.
pub async fn take(
    transaction: &mut PgConnection,
    generation: &Generation,
    letter: &Stored,
) -> sqlx::Result<Taken> {
    // Generations before checkpoints, as whoever makes another one live locks them. Not more than it takes: batches that
    // have locked their checkpoints refer to the generation.
    let live = sqlx::query(
        "SELECT FROM millrace.generations
         WHERE projection = $1 AND generation = $2 AND live FOR NO KEY UPDATE",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .execute(&mut *transaction)
    .await?;
    if live.rows_affected() != 1 {
        return Ok(Taken::NotLive);
    }
    sqlx::query(
        "SELECT FROM millrace.checkpoints
         WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = $4 FOR UPDATE",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(&letter.topic)
    .bind(letter.partition)
    .execute(&mut *transaction)
    .await?;
    let taken = sqlx::query(
        r#"DELETE FROM millrace.dead_letters
           WHERE projection = $1 AND generation = $2 AND topic = $3 AND partition = $4
               AND "offset" = $5 AND version = $6"#,
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(&letter.topic)
    .bind(letter.partition)
    .bind(letter.offset)
    .bind(letter.version)
    .execute(transaction)
    .await?;
    Ok(match taken.rows_affected() {
        0 => Taken::Gone,
        _ => Taken::Yes,
    })
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
