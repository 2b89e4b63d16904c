//! Connections for queries, shared by many. A server that has gone silent, as a machine without power does, must not
//! keep them for longer than the queries that wait for it.

use std::{
    ops::{Deref, DerefMut},
    time::Duration,
};

use sqlx::{
    Connection, PgConnection, PgPool, Postgres,
    pool::PoolConnection,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// A connection that was not used for so long is tried before it is used.
const AT_REST: Duration = Duration::from_secs(1);

/// A pool of connections.
#[derive(Debug, Clone)]
pub struct Pool(PgPool);

/// A connection on loan. Unless it is given back, it is closed: its query may never end.
#[derive(Debug)]
#[must_use]
pub struct Loan {
    connection: PoolConnection<Postgres>,
    is_given_back: bool,
}

impl Pool {
    /// A pool that connects when first used. `acquire_timeout` bounds the wait for a connection.
    pub(crate) fn new(
        options: PgConnectOptions,
        connections_max: u32,
        acquire_timeout: Duration,
    ) -> Self {
        let pool = PgPoolOptions::new()
            .max_connections(connections_max)
            .acquire_timeout(acquire_timeout)
            // A ping for each query would double the way; a connection that was at rest may be broken.
            .test_before_acquire(false)
            .before_acquire(|connection, rest| {
                Box::pin(
                    async move { Ok(rest.idle_for < AT_REST || connection.ping().await.is_ok()) },
                )
            })
            .connect_lazy_with(options);
        Self(pool)
    }

    /// Borrows a connection.
    ///
    /// # Errors
    /// If Postgres does not answer, or all connections are on loan for too long.
    pub async fn borrow(&self) -> sqlx::Result<Loan> {
        Ok(Loan {
            connection: self.0.acquire().await?,
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

impl Deref for Loan {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.connection
    }
}

impl DerefMut for Loan {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.connection
    }
}

impl Drop for Loan {
    fn drop(&mut self) {
        // The pool would wait for the end of the query, without limit.
        if !self.is_given_back {
            self.connection.close_on_drop();
        }
    }
}
