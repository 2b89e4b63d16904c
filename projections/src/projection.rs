//! The list of projections, their tables and their generations.

use schemas::topics::Topic;
use sqlx::{
    Connection, FromRow, PgConnection, PgExecutor, Row,
    migrate::{MigrateError, Migration, Migrator},
};

use crate::{
    clicks,
    db::{Database, is_transient, is_unprepared},
    generations, orders, sale_attempts, sales, segments, users,
};

/// Every projection.
pub static PROJECTIONS: &[&Projection] = &[
    &clicks::PROJECTION,
    &orders::PROJECTION,
    &users::PROJECTION,
    &sales::PROJECTION,
    &sale_attempts::PROJECTION,
    &segments::PROJECTION,
];

static MIGRATOR: Migrator = sqlx::migrate!();

/// Any two processes may prepare the same database at once; one waits. The number only has to be our own.
const PREPARE_LOCK: i64 = 0x6d69_6c6c_7261_6365;

/// A projection: tables that are a fold of one topic.
#[derive(Debug)]
pub struct Projection {
    /// Its name, and that of its live Postgres schema: a word that SQL need not quote.
    pub name: &'static str,
    /// The topic that it is a fold of.
    pub of: &'static Topic,
    /// The version of the fold, raised whenever it would fold some log into other rows, or its tables change.
    pub version: i32,
    /// The statements that make its tables, run in an empty schema.
    pub tables: &'static str,
    /// Settings of Postgres for the sessions of its fold.
    pub fold_settings: &'static [(&'static str, &'static str)],
}

/// What a batch changes in the tables of a projection.
#[expect(
    async_fn_in_trait,
    reason = "a fold runs on a thread of its own; its futures need not move between threads"
)]
pub trait Changes {
    /// Writes the changes, with one statement a table.
    ///
    /// # Errors
    /// If Postgres does not do it.
    async fn apply(&self, transaction: &mut PgConnection) -> sqlx::Result<()>;
}

/// A build of a projection's tables, as it is written and read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Generation {
    /// The projection's name.
    pub projection: &'static str,
    /// From 1, rising.
    pub number: i32,
    /// Whether it is the one that is read; a batch for it goes nowhere when that has changed.
    pub is_live: bool,
}

/// Why a projection cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Postgres did not do it.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
    /// The shared tables are not those of this build.
    #[error("the tables of schema millrace cannot be brought up to date")]
    Migrate(#[source] MigrateError),
    /// Made by a build whose fold means something else.
    #[error(
        "projection {projection} was folded by version {found} and this build has version {wanted}: run a build of version {found}, or rebuild the projection with this one: `millrace replay {projection}`"
    )]
    OtherVersion {
        /// Which projection.
        projection: &'static str,
        /// The version of the tables.
        found: i32,
        /// The version of this build.
        wanted: i32,
    },
    /// Another installation lives in this database.
    #[error(
        "projection {projection} in this database is a fold of topic {found}, not {wanted}: give each topic prefix a database of its own"
    )]
    OtherTopic {
        /// Which projection.
        projection: &'static str,
        /// The topic of the tables.
        found: String,
        /// The topic of this installation.
        wanted: String,
    },
}

impl PrepareError {
    /// Postgres may go away in the middle of a migration as at any other time.
    fn of_migration(error: MigrateError) -> Self {
        match error {
            MigrateError::Execute(error) | MigrateError::ExecuteMigration(error, _)
                if is_transient(&error) =>
            {
                Self::Postgres(error)
            }
            other => Self::Migrate(other),
        }
    }
}

/// Brings the shared tables up to date and makes the first generation of every projection that has none. Idempotent.
///
/// # Errors
/// If Postgres is away, or the database was made by a newer build.
pub async fn prepare(database: &Database, prefix: &str) -> Result<(), PrepareError> {
    let mut connection = database.connect().await?;
    sqlx::query("SELECT pg_advisory_lock($1)")
        .bind(PREPARE_LOCK)
        .execute(&mut connection)
        .await?;
    // `run` takes any kind of connection, which the compiler cannot prove sendable between threads.
    let migrated = MIGRATOR.run_direct(None, &mut connection, false).await;
    migrated.map_err(PrepareError::of_migration)?;
    for projection in PROJECTIONS {
        projection.make_first(&mut connection, prefix).await?;
    }
    // Closing the connection gives the lock back.
    connection.close().await?;
    Ok(())
}

/// How the shared tables stand to this build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Migrated {
    /// As this build needs them.
    Fully,
    /// So many migrations are yet to come; the next process that starts brings them.
    Behind(usize),
    /// A build with other migrations was here; the first that this one does not have, or has otherwise.
    Otherwise(i64),
}

/// Compares the shared tables with this build, and changes nothing.
///
/// # Errors
/// If Postgres does not answer.
pub async fn migrated(connection: &mut PgConnection) -> sqlx::Result<Migrated> {
    let rows = sqlx::query("SELECT version, checksum FROM _sqlx_migrations ORDER BY version")
        .fetch_all(connection)
        .await;
    let rows = match rows {
        Err(error) if is_unprepared(&error) => Vec::new(),
        rows => rows?,
    };
    for row in &rows {
        let (version, checksum): (i64, Vec<u8>) = (row.try_get(0)?, row.try_get(1)?);
        let is_ours = |ours: &Migration| ours.version == version && *ours.checksum == checksum[..];
        if !MIGRATOR.iter().any(is_ours) {
            return Ok(Migrated::Otherwise(version));
        }
    }
    match MIGRATOR.iter().count() - rows.len() {
        0 => Ok(Migrated::Fully),
        missing => Ok(Migrated::Behind(missing)),
    }
}

impl Projection {
    /// The full name of the topic that it is a fold of.
    pub fn topic(&self, prefix: &str) -> String {
        self.of.full_name(prefix)
    }

    async fn make_first(&self, connection: &mut PgConnection, prefix: &str) -> sqlx::Result<()> {
        let mut transaction = connection.begin().await?;
        let made = sqlx::query(
            "INSERT INTO millrace.generations (projection, generation, version, topic, live)
             SELECT $1, 1, $2, $3, true
             WHERE NOT EXISTS (SELECT FROM millrace.generations WHERE projection = $1)",
        )
        .bind(self.name)
        .bind(self.version)
        .bind(self.topic(prefix))
        .execute(&mut *transaction)
        .await?;
        if made.rows_affected() == 1 {
            self.make_tables(&mut transaction, self.name).await?;
        }
        transaction.commit().await
    }

    /// Makes its tables, empty, in a new schema.
    pub(crate) async fn make_tables(
        &self,
        transaction: &mut PgConnection,
        schema: &str,
    ) -> sqlx::Result<()> {
        // Names of schemas cannot be parameters; ours are plain words of this crate.
        let statements = format!(
            "CREATE SCHEMA {schema}; SET LOCAL search_path = {schema}; {}",
            self.tables
        );
        sqlx::raw_sql(sqlx::AssertSqlSafe(statements))
            .execute(transaction)
            .await?;
        Ok(())
    }

    /// The live generation, if this build may write it as a fold of `topic`.
    ///
    /// # Errors
    /// [`PrepareError::OtherVersion`] and [`PrepareError::OtherTopic`] say what to do.
    pub async fn live(
        &self,
        connection: &mut PgConnection,
        topic: &str,
    ) -> Result<Generation, PrepareError> {
        let (number, found, made_of) = generations::live(connection, self).await?;
        if found != self.version {
            return Err(PrepareError::OtherVersion {
                projection: self.name,
                found,
                wanted: self.version,
            });
        }
        if made_of != topic {
            return Err(PrepareError::OtherTopic {
                projection: self.name,
                found: made_of,
                wanted: topic.to_owned(),
            });
        }
        Ok(Generation {
            projection: self.name,
            number,
            is_live: true,
        })
    }
}

/// A live generation, and what it could not fold.
#[derive(Debug, Clone, PartialEq, Eq, FromRow)]
pub struct Live {
    /// The projection's name.
    pub projection: String,
    /// The generation's number.
    pub generation: i32,
    /// The version of the fold that writes it.
    pub version: i32,
    /// How often rows changed behind its checkpoints.
    pub revision: i32,
    /// How many dead letters it has; [`DEAD_LETTERS_COUNTED_MAX`] stands for more, too.
    pub dead_letters: i64,
}

/// How many dead letters of a generation are counted at most.
pub const DEAD_LETTERS_COUNTED_MAX: i64 = 10_000;

/// The live generations.
///
/// # Errors
/// If Postgres does not answer.
pub async fn live_generations(executor: impl PgExecutor<'_>) -> sqlx::Result<Vec<Live>> {
    sqlx::query_as(
        "SELECT g.projection, g.generation, g.version, g.revision, (
             SELECT count(*) FROM (
                 SELECT FROM millrace.dead_letters AS d
                 WHERE d.projection = g.projection AND d.generation = g.generation LIMIT $1
             ) AS counted
         ) AS dead_letters
         FROM millrace.generations AS g WHERE g.live",
    )
    .bind(DEAD_LETTERS_COUNTED_MAX)
    .fetch_all(executor)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_migration_that_loses_its_connection_may_be_tried_again() {
        let lost = || sqlx::Error::WorkerCrashed;
        for error in [
            MigrateError::Execute(lost()),
            MigrateError::ExecuteMigration(lost(), 1),
        ] {
            let error = PrepareError::of_migration(error);
            assert!(matches!(error, PrepareError::Postgres(_)), "{error:?}");
        }
        let newer = PrepareError::of_migration(MigrateError::VersionMissing(9));
        assert!(matches!(newer, PrepareError::Migrate(_)), "{newer:?}");
    }
}
