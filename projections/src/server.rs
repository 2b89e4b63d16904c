//! Postgres as it is, for whoever looks whether all is well. Changes nothing.

use sqlx::{PgConnection, Row};

/// The server, and its settings as far as Millrace depends on them.
#[derive(Debug, Clone)]
pub struct Server {
    /// Its version, such as `17.2`.
    pub version: String,
    /// The same as a number: `170002`.
    pub version_number: i32,
    /// How the database encodes text.
    pub encoding: String,
    /// Whether it waits until the disk has what it commits.
    pub fsync: bool,
    /// Whether a page that was half written in a crash can be mended.
    pub full_page_writes: bool,
    /// How many more connections it takes from users who are no superusers.
    pub connections_free: i64,
    /// What time it has, milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: i64,
}

/// Asks the server.
///
/// # Errors
/// If Postgres does not answer.
pub async fn look(connection: &mut PgConnection) -> sqlx::Result<Server> {
    let row = sqlx::query(
        "SELECT current_setting('server_version'), current_setting('server_version_num')::int,
             pg_encoding_to_char(encoding), current_setting('fsync')::bool,
             current_setting('full_page_writes')::bool,
             current_setting('max_connections')::bigint
                 - current_setting('superuser_reserved_connections')::bigint
                 - (SELECT sum(numbackends) FROM pg_stat_database)::bigint,
             (extract(epoch FROM clock_timestamp()) * 1000)::bigint
         FROM pg_database WHERE datname = current_database()",
    )
    .fetch_one(connection)
    .await?;
    Ok(Server {
        version: row.try_get(0)?,
        version_number: row.try_get(1)?,
        encoding: row.try_get(2)?,
        fsync: row.try_get(3)?,
        full_page_writes: row.try_get(4)?,
        connections_free: row.try_get(5)?,
        now_ms: row.try_get(6)?,
    })
}
