//! Who builds generations of a projection just now, and how far that is: one at a time.

use sqlx::{FromRow, PgConnection, PgExecutor};

use crate::projection::Projection;

/// The lock of whoever builds, with the projection's name. The number only has to be our own.
const BUILD_LOCK: i32 = 0x6d69_6c6c;

/// What somebody builds just now.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Building {
    /// The projection's name.
    pub projection: String,
    /// The command.
    pub what: String,
    /// Process and host.
    pub by_whom: String,
    /// What it does just now, in a word or two.
    pub phase: String,
    /// How many records it has folded.
    pub records: i64,
    /// How many it has to fold.
    pub records_total: i64,
    /// For how long, in seconds.
    pub seconds: i64,
}

/// Keeps everybody else from building, rolling back or dropping generations of this projection, until the connection
/// ends; or says who does.
///
/// # Errors
/// If Postgres does not answer.
pub async fn hold(
    connection: &mut PgConnection,
    projection: &Projection,
    what: &str,
    by_whom: &str,
) -> sqlx::Result<Result<(), Option<Building>>> {
    let is_mine: bool = sqlx::query_scalar("SELECT pg_try_advisory_lock($1, hashtext($2))")
        .bind(BUILD_LOCK)
        .bind(projection.name)
        .fetch_one(&mut *connection)
        .await?;
    if !is_mine {
        let mut under_way = under_way(connection).await?.into_iter();
        return Ok(Err(under_way.find(|it| it.projection == projection.name)));
    }
    sqlx::query(
        "INSERT INTO millrace.builds (projection, what, by_whom, phase, records, records_total)
         VALUES ($1, $2, $3, 'begins', 0, 0)
         ON CONFLICT (projection) DO UPDATE SET what = excluded.what, by_whom = excluded.by_whom,
             phase = excluded.phase, records = 0, records_total = 0, started_at = now(),
             seen_at = now()",
    )
    .bind(projection.name)
    .bind(what)
    .bind(by_whom)
    .execute(connection)
    .await?;
    Ok(Ok(()))
}

/// What is built just now, by processes that still live; at most one build of a projection.
///
/// # Errors
/// If Postgres does not answer.
pub async fn under_way(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Building>> {
    sqlx::query_as(
        "SELECT projection, what, by_whom, phase, records, records_total,
             extract(epoch FROM now() - started_at)::bigint AS seconds
         FROM millrace.builds JOIN pg_locks ON locktype = 'advisory' AND granted
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND classid::bigint = $1 AND objid = hashtext(projection)::oid
         ORDER BY projection",
    )
    .bind(i64::from(BUILD_LOCK))
    .fetch_all(executor)
    .await
}

/// Says how far a build has come, for [`under_way`].
///
/// # Errors
/// If Postgres does not do it.
pub async fn tell(
    connection: &mut PgConnection,
    projection: &Projection,
    phase: &str,
    records: i64,
    records_total: i64,
) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE millrace.builds SET phase = $2, records = $3, records_total = $4, seen_at = now()
         WHERE projection = $1",
    )
    .bind(projection.name)
    .bind(phase)
    .bind(records)
    .bind(records_total)
    .execute(connection)
    .await?;
    Ok(())
}

/// Says that nothing is built any more.
///
/// # Errors
/// If Postgres does not do it.
pub async fn told(connection: &mut PgConnection, projection: &Projection) -> sqlx::Result<()> {
    sqlx::query("DELETE FROM millrace.builds WHERE projection = $1")
        .bind(projection.name)
        .execute(connection)
        .await?;
    Ok(())
}
