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

/// For who builds a generation beside the live one, or compares two. What a crash takes from it is built again.
const BUILD_SETTINGS: [(&str, &str); 9] = [
    ("synchronous_commit", "off"),
    // Whatever others are allowed here: a build takes as long as it takes.
    ("statement_timeout", "0"),
    ("idle_in_transaction_session_timeout", "0"),
    ("maintenance_work_mem", "256MB"),
    ("work_mem", "64MB"),
    ("lock_timeout", "20s"),
    // Of times and dates as text.
    ("TimeZone", "UTC"),
    ("DateStyle", "ISO"),
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
        self.connect_as("millrace", ONE_OFF_SETTINGS, []).await
    }

    /// A connection for an answer that takes long, in one statement of at most `statement_max`.
    ///
    /// # Errors
    /// If Postgres does not answer or refuses.
    pub async fn connect_report(&self, statement_max: Duration) -> sqlx::Result<PgConnection> {
        let limit = format!("{}s", statement_max.as_secs());
        let limit = [("statement_timeout", limit.as_str())];
        self.connect_as("millrace-report", QUERY_SETTINGS, limit)
            .await
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
        let name = format!("millrace-fold-{}", projection.name);
        let settings = FOLD_SETTINGS.iter().chain(projection.fold_settings);
        self.connect_as(&name, settings.copied(), [("search_path", schema)])
            .await
    }

    /// A connection for who builds a generation of a projection: names in its statements mean the tables of the Postgres
    /// schema `schema`.
    ///
    /// # Errors
    /// If Postgres does not answer or refuses.
    pub async fn connect_build(
        &self,
        projection: &Projection,
        schema: &str,
    ) -> sqlx::Result<PgConnection> {
        let name = format!("millrace-replay-{}", projection.name);
        self.connect_as(&name, BUILD_SETTINGS, [("search_path", schema)])
            .await
    }

    async fn connect_as<const N: usize>(
        &self,
        name: &str,
        settings: impl IntoIterator<Item = (&'static str, &'static str)>,
        more: [(&str, &str); N],
    ) -> sqlx::Result<PgConnection> {
        let options = self.options.clone().application_name(name);
        let options = options.options(settings).options(more);
        PgConnection::connect_with(&options).await
    }

    /// Whether the server is on this machine, as far as its address tells.
    pub fn is_local(&self) -> bool {
        matches!(self.options.get_host(), "127.0.0.1" | "localhost" | "::1")
            || self.options.get_host().starts_with('/')
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
