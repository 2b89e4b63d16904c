//! Connections to Postgres: a pool for queries, a connection of its own for each fold.

use std::time::Duration;

use sqlx::{ConnectOptions, Connection, postgres::PgConnectOptions};

use crate::{pool::Pool, projection::Projection};

/// A connection, and what may go wrong with it, for callers that know nothing of sqlx.
pub use sqlx::{Error as SqlError, PgConnection};

/// A fold that is paused between two statements must not hold anybody up for longer than this.
const FOLD_SETTINGS: [(&str, &str); 4] = [
    ("idle_in_transaction_session_timeout", "2s"),
    ("lock_timeout", "5s"),
    ("statement_timeout", "30s"),
    // A reader must never see a position that a crash takes back.
    ("synchronous_commit", "on"),
];
/// For work at start, which others may have to wait for.
const ONE_OFF_SETTINGS: [(&str, &str); 3] = [
    ("lock_timeout", "20s"),
    ("idle_session_timeout", "10s"),
    // Pinned: a user may have the name of one of our schemas, which would come first then.
    ("search_path", "public"),
];
const QUERY_SETTINGS: [(&str, &str); 2] = [
    ("statement_timeout", "10s"),
    // Otherwise Postgres works on for somebody who has gone.
    ("client_connection_check_interval", "1s"),
];

/// A database address that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("DATABASE_URL is no Postgres address: write postgres://user@host:port/database")]
pub struct BadAddress(#[source] sqlx::Error);

/// The database by its address.
#[derive(Debug, Clone)]
pub struct Database {
    options: PgConnectOptions,
}

impl Database {
    /// The database at `postgres://user:password@host:port/name`; does not connect.
    ///
    /// # Errors
    /// [`BadAddress`].
    pub fn new(url: &str) -> Result<Self, BadAddress> {
        let options = url.parse::<PgConnectOptions>().map_err(BadAddress)?;
        Ok(Self {
            options: options.disable_statement_logging(),
        })
    }

    /// `host:port/name`, for messages.
    pub fn address(&self) -> String {
        format!(
            "{}:{}/{}",
            self.options.get_host(),
            self.options.get_port(),
            self.options.get_database().unwrap_or_default()
        )
    }

    /// A pool for queries; connects when first used. `acquire_timeout` bounds the wait for a connection.
    pub fn pool(&self, connections_max: u32, acquire_timeout: Duration) -> Pool {
        let options = self
            .options
            .clone()
            .application_name("millrace-api")
            .options(QUERY_SETTINGS);
        Pool::new(options, connections_max, acquire_timeout)
    }

    /// A connection for one-off work.
    ///
    /// # Errors
    /// If Postgres does not answer or refuses.
    pub async fn connect(&self) -> sqlx::Result<PgConnection> {
        let options = self
            .options
            .clone()
            .application_name("millrace")
            .options(ONE_OFF_SETTINGS);
        PgConnection::connect_with(&options).await
    }

    /// A connection for a fold that writes the generation in the Postgres schema `schema`: names in its statements
    /// mean that schema's tables.
    ///
    /// # Errors
    /// If Postgres does not answer or refuses.
    pub async fn connect_fold(
        &self,
        projection: &Projection,
        schema: &str,
    ) -> sqlx::Result<PgConnection> {
        let options = self
            .options
            .clone()
            .application_name(&format!("millrace-fold-{}", projection.name))
            .options(FOLD_SETTINGS)
            .options([("search_path", schema)]);
        PgConnection::connect_with(&options).await
    }
}

/// Whether the same statement may succeed on another connection or a little later: Postgres is away, starting,
/// stopping, or a lock could not be had.
pub fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            // Connection, transaction rollback, resources, operator intervention, lock not available.
            matches!(code.get(..2), Some("08" | "40" | "53" | "57"))
                || code == "55P03"
                || code == "25P03"
        }),
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::Protocol(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        _ => false,
    }
}

/// Whether the error lies in the data: no other connection and no later time would take it. Anything else may be mended
/// by whoever runs Postgres, and is no record's fault.
pub fn is_of_the_data(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else {
        return false;
    };
    // Data exception, integrity constraint, program limit.
    let code = error.code();
    code.is_some_and(|code| matches!(code.get(..2), Some("22" | "23" | "54")))
}

/// Whether the shared tables are missing: nothing has prepared this database yet.
pub fn is_unprepared(error: &sqlx::Error) -> bool {
    const UNDEFINED_TABLE: &str = "42P01";
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some(UNDEFINED_TABLE))
}
