//! What happened to memberships, as CSV, however much it is. Before this: `projections/src/segments.rs`; next:
//! `api/src/routes/segment_reports.rs`.
//!
//! A report is the tables as of a position: each row says which record began and which ended it, and so the same report is
//! the same bytes, whenever and wherever it is made. The end of a time is no record; so a report has a time, too.

use std::{future::poll_fn, time::Duration};

use bytes::{Bytes, BytesMut};
use sqlx::{Connection, Executor, PgConnection, Row};
use tokio::sync::mpsc::Sender;

use crate::{db::Database, pool::Pool};

/// How large a piece is, in bytes.
const PIECE_BYTES: usize = 64 << 10;
/// From so many on it is sent: a row more may not fit.
const PIECE_FULL: usize = PIECE_BYTES - 256;
/// How long Postgres may take for a report.
pub const REPORT_MAX: Duration = Duration::from_secs(15 * 60);

/// Which report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Report {
    /// From when on, milliseconds since 1970-01-01T00:00:00Z.
    pub from_ms: i64,
    /// Only of this user.
    pub user_id: Option<i64>,
    /// The first offset that is not in it.
    pub next_offset: i64,
    /// Until when times have run out, milliseconds since 1970-01-01T00:00:00Z.
    pub until_ms: i64,
}

/// What is known where reports are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Office {
    /// What reports are signed with.
    pub secret: Vec<u8>,
    /// The checkpoint of the tables.
    pub next_offset: i64,
}

/// Why there is no report, or no more of it.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    /// The tables are yet to come to its position.
    #[error("the tables are at {next_offset}")]
    NotYet {
        /// Where they are.
        next_offset: i64,
    },
    /// Whoever reads it has gone.
    #[error("nobody reads the report any more")]
    Unread,
    /// Postgres.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
}

const NEXT_OFFSET: &str = "coalesce((SELECT next_offset FROM millrace.checkpoints
    WHERE projection = 'segments' AND live AND partition = 0), 0)";

/// Reads what is needed to tell of reports.
///
/// # Errors
/// If Postgres does not answer.
pub async fn office(pool: &Pool) -> sqlx::Result<Office> {
    let mut connection = pool.borrow().await?;
    let select =
        format!("SELECT secret, {NEXT_OFFSET} FROM millrace.secrets WHERE name = 'reports'");
    let row = sqlx::query(sqlx::AssertSqlSafe(select))
        .fetch_one(&mut *connection)
        .await?;
    connection.give_back();
    Ok(Office {
        secret: row.try_get(0)?,
        next_offset: row.try_get(1)?,
    })
}

/// A report whose snapshot is taken.
pub struct Opened {
    connection: PgConnection,
    statement: String,
}

impl Report {
    /// Takes a snapshot, on a connection of its own.
    ///
    /// # Errors
    /// [`ReportError::NotYet`], [`ReportError::Postgres`].
    pub async fn open(&self, database: &Database) -> Result<Opened, ReportError> {
        let mut connection = database.connect_report(REPORT_MAX).await?;
        // The checkpoint is of the same snapshot: it says what is in the rows.
        connection
            .execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            .await?;
        let select = format!("SELECT {NEXT_OFFSET}");
        let next_offset: i64 = sqlx::query_scalar(sqlx::AssertSqlSafe(select))
            .fetch_one(&mut connection)
            .await?;
        if next_offset < self.next_offset {
            return Err(ReportError::NotYet { next_offset });
        }
        Ok(Opened {
            connection,
            statement: self.statement(),
        })
    }
}

impl Opened {
    /// Sends the report piece by piece, no faster than they are taken.
    ///
    /// # Errors
    /// [`ReportError::Unread`], [`ReportError::Postgres`]; what was sent by then is not all of it.
    pub async fn send(mut self, pieces: &Sender<Bytes>) -> Result<(), ReportError> {
        let mut rows = self.connection.copy_out_raw(&self.statement).await?;
        let mut piece = BytesMut::with_capacity(PIECE_BYTES);
        while let Some(row) = poll_fn(|context| rows.as_mut().poll_next(context)).await {
            piece.extend_from_slice(&row?);
            if piece.len() >= PIECE_FULL {
                send(pieces, &mut piece).await?;
            }
        }
        send(pieces, &mut piece).await?;
        drop(rows);
        Ok(self.connection.close().await?)
    }
}

async fn send(pieces: &Sender<Bytes>, piece: &mut BytesMut) -> Result<(), ReportError> {
    let bytes = piece.split().freeze();
    piece.reserve(PIECE_BYTES);
    pieces.send(bytes).await.map_err(|_| ReportError::Unread)
}

impl Report {
    /// The statement has no parameters, as `COPY` takes none: it is made of numbers.
    fn statement(&self) -> String {
        let Self {
            from_ms,
            next_offset: end,
            until_ms,
            ..
        } = self;
        let from = format!("to_timestamp({from_ms}::bigint / 1000.0)");
        let until = format!("to_timestamp({until_ms}::bigint / 1000.0)");
        let of_user = self
            .user_id
            .map_or_else(String::new, |user_id| format!("AND m.user_id = {user_id}"));
        // A cell that begins with - would be a formula to a spreadsheet; other such signs are in no slug.
        format!(
            r#"COPY (
                SELECT user_id, CASE WHEN slug LIKE '-%' THEN '''' || slug ELSE slug END AS segment,
                    operation, to_char(at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') AS at
                FROM (
                    SELECT m.user_id, s.slug, 'added' AS operation, m.added_at AS at,
                        m."offset" AS by_offset
                    FROM segments.memberships AS m JOIN segments.segments AS s USING (life)
                    WHERE m."offset" < {end} AND NOT m.is_renewal AND m.added_at >= {from} {of_user}
                UNION ALL
                    SELECT m.user_id, s.slug, 'removed', m.ended_at, m.ended_offset
                    FROM segments.memberships AS m JOIN segments.segments AS s USING (life)
                    WHERE m.ended_offset < {end} AND m.ending = 'removed' AND m.ended_at >= {from}
                        {of_user}
                UNION ALL
                    SELECT m.user_id, s.slug, 'expired', m.expires_at, m."offset"
                    FROM segments.memberships AS m JOIN segments.segments AS s USING (life)
                    WHERE m."offset" < {end} AND m.expires_at BETWEEN {from} AND {until} {of_user}
                        AND (m.ended_offset IS NULL OR m.ended_offset >= {end} OR m.ending = 'expired')
                        AND (s.deleted_offset IS NULL OR s.deleted_offset >= {end}
                            OR m.expires_at <= s.deleted_at)
                UNION ALL
                    SELECT m.user_id, s.slug, 'segment_deleted', s.deleted_at, s.deleted_offset
                    FROM segments.memberships AS m JOIN segments.segments AS s USING (life)
                    WHERE s.deleted_offset < {end} AND s.deleted_at >= {from} {of_user}
                        AND m.ended_offset IS NULL
                        AND (m.expires_at IS NULL OR m.expires_at > s.deleted_at)
                ) AS happened
                ORDER BY happened.at, by_offset, user_id, slug COLLATE "C"
            ) TO STDOUT (FORMAT csv, DELIMITER ';', HEADER)"#
        )
    }
}
