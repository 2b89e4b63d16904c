//! Builds of a projection's tables beside each other: the live one in the Postgres schema of the projection's name, each
//! other in one of its own. Written by `processors/src/replay.rs`.
//!
//! The switch is one transaction: [`take_over`] changes generations and checkpoints, so that no batch of the old
//! generation can be under way or begin; then the new one is folded to where the old one is; then [`rename`]. A query
//! that was planned before may still read the old tables with the checkpoints of the new generation. That is true as
//! long as nobody folds on: so whoever looks for the [`live`] generation waits until such queries have ended
//! ([`await_readers`]).

use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, postgres::PgRow};

use crate::{
    checkpoints::Checkpoint,
    projection::{Generation, Projection},
};

/// The lock of whoever switches, with the projection's name; shared by those who look for the live generation. The number
/// only has to be our own.
pub const SWITCH_LOCK: i32 = 0x6d69_6c6d;
/// What is locked in a switch must soon be free again, whatever becomes of the process that does it.
const SWITCH_SETTINGS: &str = "SET LOCAL synchronous_commit = on; SET LOCAL lock_timeout = '2s';
    SET LOCAL idle_in_transaction_session_timeout = '2s'; SET LOCAL statement_timeout = '5s'";

/// A generation as it stands in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Which.
    pub number: i32,
    /// Version of the fold that writes it.
    pub version: i32,
    /// Full name of the topic that it is a fold of.
    pub topic: String,
    /// Whether it is the one that is read.
    pub is_live: bool,
    /// Whether it was made to be compared and dropped.
    pub is_scratch: bool,
    /// Whether its tables have their keys.
    pub is_whole: bool,
    /// Whether it was live once.
    pub is_retired: bool,
}

/// The name of the Postgres schema of a generation.
pub fn schema(generation: &Generation) -> String {
    match generation.is_live {
        true => generation.projection.to_owned(),
        false => schema_beside(generation.projection, generation.number),
    }
}

fn schema_beside(projection: &str, number: i32) -> String {
    format!("{projection}_g{number}")
}

/// The generations of a projection, the live one first, then those that were live last.
///
/// # Errors
/// If Postgres does not answer.
pub async fn all(
    connection: &mut PgConnection,
    projection: &Projection,
) -> sqlx::Result<Vec<Stored>> {
    let rows = sqlx::query(
        "SELECT generation, version, topic, live, is_scratch, is_whole, retired_at IS NOT NULL
         FROM millrace.generations WHERE projection = $1
         ORDER BY live DESC, retired_at DESC NULLS LAST, generation DESC",
    )
    .bind(projection.name)
    .fetch_all(connection)
    .await?;
    let stored = |row: &PgRow| {
        Ok(Stored {
            number: row.try_get(0)?,
            version: row.try_get(1)?,
            topic: row.try_get(2)?,
            is_live: row.try_get(3)?,
            is_scratch: row.try_get(4)?,
            is_whole: row.try_get(5)?,
            is_retired: row.try_get(6)?,
        })
    };
    rows.iter().map(stored).collect()
}

/// Makes the next generation, with empty tables and a checkpoint at 0 for each partition. It is not whole yet.
///
/// # Errors
/// If Postgres does not do it.
pub async fn begin(
    connection: &mut PgConnection,
    projection: &'static Projection,
    topic: &str,
    partitions: i32,
    is_scratch: bool,
) -> sqlx::Result<Generation> {
    let mut transaction = connection.begin().await?;
    let number: i32 = sqlx::query_scalar(
        "INSERT INTO millrace.generations
             (projection, generation, version, topic, live, is_scratch, is_whole)
         SELECT $1, max(generation) + 1, $2, $3, false, $4, false
         FROM millrace.generations WHERE projection = $1
         RETURNING generation",
    )
    .bind(projection.name)
    .bind(projection.version)
    .bind(topic)
    .bind(is_scratch)
    .fetch_one(&mut *transaction)
    .await?;
    let generation = Generation {
        projection: projection.name,
        number,
        is_live: false,
    };
    sqlx::query(
        "INSERT INTO millrace.checkpoints (projection, generation, topic, partition, next_offset, live)
         SELECT $1, $2, $3, partition, 0, false FROM generate_series(0, $4 - 1) AS p(partition)",
    )
    .bind(projection.name)
    .bind(number)
    .bind(topic)
    .bind(partitions)
    .execute(&mut *transaction)
    .await?;
    projection
        .make_tables(&mut transaction, &schema(&generation))
        .await?;
    transaction.commit().await?;
    Ok(generation)
}

/// Says that the tables of a generation have their keys and hold what its checkpoints say.
///
/// # Errors
/// If Postgres does not do it.
pub async fn complete(transaction: &mut PgConnection, generation: &Generation) -> sqlx::Result<()> {
    sqlx::query(
        "UPDATE millrace.generations SET is_whole = true WHERE projection = $1 AND generation = $2",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .execute(transaction)
    .await?;
    Ok(())
}

/// Removes a generation that is not live, with its tables, checkpoints and dead letters.
///
/// # Errors
/// If Postgres does not do it.
pub async fn remove(
    connection: &mut PgConnection,
    projection: &Projection,
    number: i32,
) -> sqlx::Result<()> {
    let mut transaction = connection.begin().await?;
    let gone = sqlx::query(
        "DELETE FROM millrace.generations WHERE projection = $1 AND generation = $2 AND NOT live",
    )
    .bind(projection.name)
    .bind(number)
    .execute(&mut *transaction)
    .await?;
    if gone.rows_affected() == 1 {
        let schema = schema_beside(projection.name, number);
        run(
            &mut transaction,
            format!("DROP SCHEMA IF EXISTS {schema} CASCADE"),
        )
        .await?;
    }
    transaction.commit().await
}

/// How many bytes the tables of a schema take on disk, with their indexes.
///
/// # Errors
/// If Postgres does not answer.
pub async fn size(connection: &mut PgConnection, schema: &str) -> sqlx::Result<i64> {
    sqlx::query_scalar(
        "SELECT coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relkind = 'r'",
    )
    .bind(schema)
    .fetch_one(connection)
    .await
}

/// Where the server keeps its data; none if this user may not know.
///
/// # Errors
/// If Postgres does not answer.
pub async fn data_directory(connection: &mut PgConnection) -> sqlx::Result<Option<String>> {
    sqlx::query_scalar(
        // Nobody is shown settings that he may not know.
        "SELECT setting FROM pg_settings WHERE name = 'data_directory'",
    )
    .fetch_optional(connection)
    .await
}

/// Tells the planner what is in the tables of a schema.
///
/// # Errors
/// If Postgres does not do it.
pub async fn analyze(connection: &mut PgConnection, schema: &str) -> sqlx::Result<()> {
    let tables = tables(connection, schema).await?;
    run(connection, format!("ANALYZE {}", tables.join(", "))).await
}

/// The live generation: number, version of the fold that writes it, full name of its topic. Waits for a switch that is
/// under way. Lock and look are one message, so that whoever is paused on the way keeps no switch from beginning; not to
/// be sent within a transaction, which would keep the lock.
///
/// # Errors
/// If a switch takes longer than the connection's limit, or Postgres does not answer.
pub async fn live(
    connection: &mut PgConnection,
    projection: &Projection,
) -> sqlx::Result<(i32, i32, String)> {
    let name = projection.name;
    let look = format!(
        "SELECT pg_advisory_xact_lock_shared({SWITCH_LOCK}, hashtext('{name}'));
         SELECT generation, version, topic FROM millrace.generations WHERE projection = '{name}' AND live"
    );
    let rows = sqlx::raw_sql(AssertSqlSafe(look))
        .fetch_all(connection)
        .await?;
    let [_, live] = rows.as_slice() else {
        return Err(sqlx::Error::RowNotFound);
    };
    Ok((live.try_get(0)?, live.try_get(1)?, live.try_get(2)?))
}

/// Keeps everybody from looking for the live generation, until [`open`] or the end of the connection. Those who come
/// while it waits for those who look wait behind it: so it does not wait for long.
///
/// # Errors
/// If Postgres does not do it.
pub async fn close(connection: &mut PgConnection, projection: &Projection) -> sqlx::Result<()> {
    let name = projection.name;
    let lock = format!(
        "SET LOCAL lock_timeout = '2s'; SELECT pg_advisory_lock({SWITCH_LOCK}, hashtext('{name}'))"
    );
    run(connection, lock).await
}

/// Lets everybody look for it again.
///
/// # Errors
/// If Postgres does not do it.
pub async fn open(connection: &mut PgConnection, projection: &Projection) -> sqlx::Result<()> {
    sqlx::query("SELECT pg_advisory_unlock($1, hashtext($2))")
        .bind(SWITCH_LOCK)
        .bind(projection.name)
        .execute(connection)
        .await?;
    Ok(())
}

/// Where the old generation has come, and from which on the new one is live.
pub type TakenOver = Vec<Checkpoint>;

/// The first part of a switch: from here on, no batch of the old generation can be under way or begin. Gives the old
/// one's checkpoints; none if it is not live any more.
///
/// # Errors
/// If Postgres does not do it, for one as a batch takes too long.
pub async fn take_over(
    transaction: &mut PgConnection,
    old: &Generation,
    new: &Generation,
    topic: &str,
) -> sqlx::Result<Option<TakenOver>> {
    run(transaction, SWITCH_SETTINGS.to_owned()).await?;
    // Generations before checkpoints: see `checkpoints::start`.
    let retired = set_live(transaction, old, false).await?;
    if !retired || !set_live(transaction, new, true).await? {
        return Ok(None);
    }
    sqlx::query(
        "SELECT FROM millrace.checkpoints
         WHERE projection = $1 AND generation = ANY($2) AND topic = $3
         ORDER BY partition, generation FOR UPDATE",
    )
    .bind(old.projection)
    .bind([old.number, new.number])
    .bind(topic)
    .execute(&mut *transaction)
    .await?;
    // Changed, not only locked: whoever waits for a row finds another one afterwards.
    let rows = sqlx::query(
        "UPDATE millrace.checkpoints SET live = generation = $3
         WHERE projection = $1 AND generation IN ($2, $3) AND topic = $4
         RETURNING generation, partition, next_offset",
    )
    .bind(old.projection)
    .bind(old.number)
    .bind(new.number)
    .bind(topic)
    .fetch_all(transaction)
    .await?;
    let mut reached = Vec::new();
    for row in &rows {
        if row.try_get::<i32, _>(0)? == old.number {
            reached.push(Checkpoint {
                partition: row.try_get(1)?,
                next_offset: row.try_get(2)?,
            });
        }
    }
    Ok(Some(reached))
}

async fn set_live(
    transaction: &mut PgConnection,
    generation: &Generation,
    live: bool,
) -> sqlx::Result<bool> {
    let set = sqlx::query(
        "UPDATE millrace.generations
         SET live = $3, retired_at = CASE WHEN $3 THEN NULL ELSE now() END
         WHERE projection = $1 AND generation = $2 AND live <> $3",
    )
    .bind(generation.projection)
    .bind(generation.number)
    .bind(live)
    .execute(transaction)
    .await?;
    Ok(set.rows_affected() == 1)
}

/// The last part of a switch: from its commit on, the name of the projection means the new tables.
///
/// # Errors
/// If Postgres does not do it.
pub async fn rename(
    transaction: &mut PgConnection,
    old: &Generation,
    new: &Generation,
) -> sqlx::Result<()> {
    let live = old.projection;
    let (kept, built) = (
        schema_beside(live, old.number),
        schema_beside(live, new.number),
    );
    run(
        transaction,
        format!("ALTER SCHEMA {live} RENAME TO {kept}; ALTER SCHEMA {built} RENAME TO {live}"),
    )
    .await
}

/// After a switch: waits for queries that were planned before it and read the old tables. Nobody new comes to them.
///
/// # Errors
/// If there still are some after two seconds.
pub async fn await_readers(connection: &mut PgConnection, old: &Generation) -> sqlx::Result<()> {
    let tables = tables(connection, &schema_beside(old.projection, old.number)).await?;
    let mut transaction = connection.begin().await?;
    run(&mut transaction, SWITCH_SETTINGS.to_owned()).await?;
    let lock = format!("LOCK TABLE {} IN ACCESS EXCLUSIVE MODE", tables.join(", "));
    run(&mut transaction, lock).await?;
    transaction.commit().await
}

/// The full names of the tables of a schema.
async fn tables(connection: &mut PgConnection, schema: &str) -> sqlx::Result<Vec<String>> {
    sqlx::query_scalar(
        "SELECT format('%I.%I', n.nspname, c.relname)
         FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace
         WHERE n.nspname = $1 AND c.relkind = 'r' ORDER BY c.relname",
    )
    .bind(schema)
    .fetch_all(connection)
    .await
}

async fn run(connection: &mut PgConnection, statements: String) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(statements))
        .execute(connection)
        .await?;
    Ok(())
}
