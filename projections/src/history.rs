//! What a generation knows of the log that it was made from, to notice when another one is in its place. Before this:
//! `processors/src/guard.rs`.

use sqlx::{PgConnection, PgExecutor, Row, postgres::PgRow};

use crate::{checkpoints::Last, projection::Generation};

/// What a generation knows of its log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Known {
    /// The ids of its cluster and its topic, once a fold has asked for them.
    pub log: Option<(String, String)>,
    /// What it has applied, by partition.
    pub applied: Vec<Applied>,
}

/// What a generation has applied of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The partition.
    pub partition: i32,
    /// Offset of the first record that is not applied.
    pub next_offset: i64,
    /// The last record that is.
    pub last: Option<Last>,
}

/// What a generation knows of its log.
///
/// # Errors
/// If Postgres does not answer.
pub async fn known(connection: &mut PgConnection, generation: &Generation) -> sqlx::Result<Known> {
    let rows = sqlx::query(
        "SELECT g.cluster_id, g.topic_id, c.partition, c.next_offset, c.last_offset, c.last_fingerprint
         FROM millrace.generations AS g
         LEFT JOIN millrace.checkpoints AS c
             USING (projection, generation, topic)
         WHERE g.projection = $1 AND g.generation = $2
         ORDER BY c.partition",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .fetch_all(connection)
    .await?;
    let mut known = Known::default();
    for row in &rows {
        let ids: (Option<String>, Option<String>) = (row.try_get(0)?, row.try_get(1)?);
        known.log = ids.0.zip(ids.1);
        known.applied.extend(applied(row)?);
    }
    Ok(known)
}

/// Of a generation without checkpoints there is one row, and no partition in it.
fn applied(row: &PgRow) -> sqlx::Result<Option<Applied>> {
    let Some(partition) = row.try_get(2)? else {
        return Ok(None);
    };
    let (offset, fingerprint): (Option<i64>, Option<Vec<u8>>) = (row.try_get(4)?, row.try_get(5)?);
    let fingerprint = fingerprint.and_then(|bytes| bytes.try_into().ok());
    let last = offset.zip(fingerprint).map(|(offset, fingerprint)| Last {
        offset,
        fingerprint,
    });
    Ok(Some(Applied {
        partition,
        next_offset: row.try_get(3)?,
        last,
    }))
}

/// Notes of which log a generation is, unless that is noted already.
///
/// # Errors
/// If Postgres does not do it.
pub async fn note(
    connection: &mut PgConnection,
    generation: &Generation,
    cluster_id: &str,
    topic_id: &str,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE millrace.generations SET cluster_id = $3, topic_id = $4
         WHERE projection = $1 AND generation = $2 AND cluster_id IS NULL",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(cluster_id)
    .bind(topic_id)
    .execute(connection)
    .await?;
    Ok(())
}

/// Says that rows of a generation changed behind its checkpoints: whoever has them in a cache forgets them.
///
/// # Errors
/// If Postgres does not do it.
pub async fn revise(transaction: &mut PgConnection, generation: &Generation) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE millrace.generations SET revision = revision + 1
         WHERE projection = $1 AND generation = $2",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .execute(transaction)
    .await?;
    Ok(())
}

/// The log of a live generation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogOf {
    /// The projection's name.
    pub projection: String,
    /// The topic's full name.
    pub topic: String,
    /// The cluster's id; empty if it is not known.
    pub cluster_id: String,
    /// The topic's id; empty if it is not known.
    pub topic_id: String,
}

/// The logs of the live generations, as far as they have been noted.
///
/// # Errors
/// If Postgres does not answer.
pub async fn of_live(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<LogOf>> {
    let rows = sqlx::query(
        "SELECT projection, topic, cluster_id, topic_id FROM millrace.generations
         WHERE live AND cluster_id IS NOT NULL ORDER BY projection",
    )
    .fetch_all(executor)
    .await?;
    let log_of = |row: &PgRow| {
        Ok(LogOf {
            projection: row.try_get(0)?,
            topic: row.try_get(1)?,
            cluster_id: row.try_get(2)?,
            topic_id: row.try_get(3)?,
        })
    };
    rows.iter().map(log_of).collect()
}
