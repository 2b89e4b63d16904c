//! Connections for queries, shared by many. A server that has gone silent, as a machine without power does, must not
//! keep them for longer than the queries that wait for it: sqlx's own pool asks a connection that comes back whether it
//! is well, and waits for the answer without limit.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use deadpool::{
    Runtime,
    managed::{self, Metrics, Object, PoolError, RecycleResult},
};
use sqlx::{ConnectOptions, Connection, PgConnection, postgres::PgConnectOptions};
use tokio::{runtime::Handle, time::timeout};

/// A connection that was not used for so long is tried before it is used.
const AT_REST: Duration = Duration::from_secs(1);
/// How long it may take to answer then.
const TRIAL_MAX: Duration = Duration::from_millis(250);
/// How long a query that nobody waits for any more keeps its place in the pool: Postgres does not know that it was given
/// up, and others in its place would be too many for it.
const LAST_WORDS: Duration = Duration::from_secs(3);

/// A pool of connections.
#[derive(Debug, Clone)]
pub struct Pool {
    connections: managed::Pool<Connections>,
    borrow_timeout: Duration,
}

/// Makes connections, and tries those that were at rest.
#[derive(Debug)]
struct Connections(PgConnectOptions);

impl managed::Manager for Connections {
    type Type = PgConnection;
    type Error = sqlx::Error;

    async fn create(&self) -> sqlx::Result<PgConnection> {
        self.0.connect().await
    }

    async fn recycle(
        &self,
        connection: &mut PgConnection,
        metrics: &Metrics,
    ) -> RecycleResult<sqlx::Error> {
        if metrics.last_used() >= AT_REST {
            connection.ping().await?;
        }
        Ok(())
    }
}

/// A connection on loan. Unless it is given back, it is closed if its query does not end soon.
#[must_use]
pub struct Loan {
    /// `None` only while it is dropped.
    connection: Option<Object<Connections>>,
    is_given_back: bool,
}

impl Pool {
    /// A pool that connects when first used. `borrow_timeout` bounds the wait for a connection.
    pub(crate) fn new(
        options: PgConnectOptions,
        connections_max: u32,
        borrow_timeout: Duration,
    ) -> Self {
        let connections = managed::Pool::builder(Connections(options))
            .max_size(usize::try_from(connections_max).expect("usize has 32 bits at least"))
            .recycle_timeout(Some(TRIAL_MAX))
            .runtime(Runtime::Tokio1)
            .build();
        Self {
            connections: connections.expect("a runtime is given for the time limits"),
            borrow_timeout,
        }
    }

    /// How many connections are open, and how many of them nobody uses.
    pub fn size(&self) -> (usize, usize) {
        let status = self.connections.status();
        (status.size, status.available)
    }

    /// Borrows a connection.
    ///
    /// # Errors
    /// If Postgres does not answer, or all connections are on loan for too long.
    pub async fn borrow(&self) -> sqlx::Result<Loan> {
        let borrowed = timeout(self.borrow_timeout, self.connections.get()).await;
        let connection = match borrowed {
            Ok(Ok(connection)) => connection,
            Ok(Err(PoolError::Backend(error))) => return Err(error),
            // Nobody closes the pool, and it has no hooks.
            Ok(Err(_)) | Err(_) => return Err(sqlx::Error::PoolTimedOut),
        };
        Ok(Loan {
            connection: Some(connection),
            is_given_back: false,
        })
    }
}

impl Loan {
    /// Gives the connection back, once its queries have ended.
    pub fn give_back(mut self) {
        self.is_given_back = true;
    }
}

const THERE: &str = "the connection is there until the loan ends";

impl Deref for Loan {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect(THERE)
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.connection.as_mut().expect(THERE)
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        let connection = self.connection.take().expect(THERE);
        if self.is_given_back {
            return;
        }
        match Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(rest(connection))),
            Err(_) => close(connection),
        }
    }
}

/// Waits for the end of a query that was given up.
async fn rest(mut connection: Object<Connections>) {
    if !matches!(timeout(LAST_WORDS, connection.ping()).await, Ok(Ok(()))) {
        close(connection);
    }
}

/// Takes it out of the pool, which may open another in its place.
fn close(connection: Object<Connections>) {
    drop(Object::take(connection));
}
