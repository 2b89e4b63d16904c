//! The tables of the segments: what the fold needs and changes, verdicts, and who is in which segment. Before this:
//! `processors/src/segments.rs`; next: `projections/src/segment_reports.rs`.

use std::collections::HashMap;

use schemas::segments::TOPIC;
use sqlx::{
    PgConnection, Row,
    postgres::{PgArguments, PgRow},
    query::Query,
};

use crate::{
    pool::Pool,
    projection::{self, Projection},
};

/// The projection.
pub static PROJECTION: Projection = Projection {
    name: "segments",
    of: &TOPIC,
    version: 1,
    tables: include_str!("../sql/segments.sql"),
    fold_settings: &[],
};

/// For how long a key keeps its verdict, in milliseconds of log time.
pub const KEY_MS: i64 = 86_400_000;

/// A life of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// The offset of the record that created it.
    pub life: i64,
    /// Its name.
    pub slug: String,
    /// When it was created, milliseconds since 1970-01-01T00:00:00Z.
    pub created_at_ms: i64,
    /// Where and when it was deleted.
    pub deleted: Option<Moment>,
}

/// A record and its time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Moment {
    /// The record.
    pub offset: i64,
    /// Time of the log then, milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
}

/// A stay of a user in a segment, from where it began or was renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Membership {
    /// The user.
    pub user_id: i64,
    /// The segment's life.
    pub life: i64,
    /// Where and when the user was put in.
    pub added: Moment,
    /// Whether the user was in already.
    pub is_renewal: bool,
    /// The first moment at which the user is not in any more, milliseconds since 1970-01-01T00:00:00Z.
    pub expires_at_ms: Option<i64>,
    /// Which record ended it, and how.
    pub ended: Option<(Moment, Ending)>,
}

/// How a record ends a membership.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It takes the user out.
    Removed,
    /// It gives the user another time.
    Renewed,
    /// The time was over, and it puts the user in again.
    Expired,
}

impl Ending {
    /// As the table has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Renewed => "renewed",
            Self::Expired => "expired",
        }
    }
}

/// SHA-256 of what a request asks for.
pub type Digest = [u8; 32];

/// What was decided about a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// There is a new segment.
    Created,
    /// There was one of this name.
    Exists,
    /// The segment is no more.
    Deleted,
    /// The user is in other segments; these are those that really changed, sorted.
    Changed {
        /// The user was not in these.
        added: Vec<String>,
        /// The user was in these.
        removed: Vec<String>,
    },
    /// Nothing was done since there are no segments of these names, sorted.
    Unknown(Vec<String>),
}

impl Verdict {
    /// As tables and metrics have it.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Exists => "exists",
            Self::Deleted => "deleted",
            Self::Changed { .. } => "changed",
            Self::Unknown(_) => "unknown",
        }
    }

    /// As the table has it: its word, and the segments that were added, removed, unknown.
    fn columns(&self) -> (&'static str, [&[String]; 3]) {
        let lists: [&[String]; 3] = match self {
            Self::Created | Self::Exists | Self::Deleted => [&[], &[], &[]],
            Self::Changed { added, removed } => [added, removed, &[]],
            Self::Unknown(unknown) => [&[], &[], unknown],
        };
        (self.name(), lists)
    }

    fn of_columns(name: &str, [added, removed, unknown]: [Vec<String>; 3]) -> Option<Self> {
        Some(match name {
            "created" => Self::Created,
            "exists" => Self::Exists,
            "deleted" => Self::Deleted,
            "changed" => Self::Changed { added, removed },
            "unknown" => Self::Unknown(unknown),
            _ => return None,
        })
    }
}

/// The verdict on the first request with a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decided {
    /// Where and when.
    pub moment: Moment,
    /// What that request asked for.
    pub digest: Digest,
    /// The verdict.
    pub verdict: Verdict,
}

/// What the records of a batch touch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Prior {
    /// Time of the log; none before the first request that counts.
    pub last_ms: Option<i64>,
    /// Segments that are not deleted, by slug.
    pub segments: HashMap<String, Segment>,
    /// Memberships in them that no record has ended, by user and life.
    pub memberships: HashMap<(i64, i64), Membership>,
    /// Verdicts, by key.
    pub decided: HashMap<String, Decided>,
}

/// What a batch changes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// Sorted by life.
    pub segments: Vec<Segment>,
    /// Sorted by user, life and offset.
    pub memberships: Vec<Membership>,
    /// Sorted by key, one a key.
    pub decided: Vec<(String, Decided)>,
    /// Time of the log, if there were requests that count.
    pub last_ms: Option<i64>,
}

/// Loads what these users, slugs and keys touch.
///
/// # Errors
/// If Postgres does not answer.
pub async fn load(
    transaction: &mut PgConnection,
    users: &[i64],
    slugs: &[&str],
    keys: &[&str],
) -> sqlx::Result<Prior> {
    // What is waited for is one answer after the other: so there are few of them. Without anything else to tell, there
    // still is the time of the log.
    let rows = sqlx::query(
        r#"SELECT (SELECT (extract(epoch FROM last_at) * 1000)::bigint FROM log_time),
               s.slug, s.life, (extract(epoch FROM s.created_at) * 1000)::bigint,
               m.user_id, m."offset", (extract(epoch FROM m.added_at) * 1000)::bigint, m.is_renewal,
               (extract(epoch FROM m.expires_at) * 1000)::bigint
           FROM (VALUES (true)) AS always
               LEFT JOIN segments AS s ON s.slug = ANY($2) AND s.deleted_offset IS NULL
               LEFT JOIN memberships AS m
                   ON m.life = s.life AND m.user_id = ANY($1) AND m.ended_offset IS NULL"#,
    )
    .bind(users)
    .bind(slugs)
    .fetch_all(&mut *transaction)
    .await?;
    let mut prior = Prior {
        decided: decided_in(transaction, "verdicts", keys).await?,
        ..Prior::default()
    };
    for row in &rows {
        prior.last_ms = row.try_get(0)?;
        let Some(slug) = row.try_get::<Option<String>, _>(1)? else {
            continue;
        };
        let segment = Segment {
            life: row.try_get(2)?,
            slug: slug.clone(),
            created_at_ms: row.try_get(3)?,
            deleted: None,
        };
        if let Some(user_id) = row.try_get(4)? {
            let membership = membership(row, user_id, segment.life)?;
            prior
                .memberships
                .insert((user_id, segment.life), membership);
        }
        prior.segments.insert(slug, segment);
    }
    Ok(prior)
}

fn membership(row: &PgRow, user_id: i64, life: i64) -> sqlx::Result<Membership> {
    Ok(Membership {
        user_id,
        life,
        added: Moment {
            offset: row.try_get(5)?,
            at_ms: row.try_get(6)?,
        },
        is_renewal: row.try_get(7)?,
        expires_at_ms: row.try_get(8)?,
        ended: None,
    })
}

/// The verdicts that these keys have.
///
/// # Errors
/// If Postgres does not answer.
pub async fn decided(pool: &Pool, keys: &[&str]) -> sqlx::Result<HashMap<String, Decided>> {
    let mut connection = pool.borrow().await?;
    let decided = decided_by(&mut connection, keys).await?;
    connection.give_back();
    Ok(decided)
}

/// The same, asked on one connection.
///
/// # Errors
/// If Postgres does not answer.
pub async fn decided_by(
    connection: &mut PgConnection,
    keys: &[&str],
) -> sqlx::Result<HashMap<String, Decided>> {
    decided_in(connection, "segments.verdicts", keys).await
}

/// `table` is how this connection calls the table: a word of this file.
async fn decided_in(
    connection: &mut PgConnection,
    table: &'static str,
    keys: &[&str],
) -> sqlx::Result<HashMap<String, Decided>> {
    let select = format!(
        r#"SELECT key, "offset", (extract(epoch FROM at) * 1000)::bigint, digest, verdict, added,
               removed, unknown
           FROM {table} WHERE key = ANY($1)"#
    );
    let rows = sqlx::query(sqlx::AssertSqlSafe(select))
        .bind(keys)
        .fetch_all(connection)
        .await?;
    rows.iter()
        .map(|row| {
            let lists = [row.try_get(5)?, row.try_get(6)?, row.try_get(7)?];
            let name: String = row.try_get(4)?;
            let unreadable = || sqlx::Error::Decode(format!("no verdict is called {name}").into());
            let decided = Decided {
                moment: Moment {
                    offset: row.try_get(1)?,
                    at_ms: row.try_get(2)?,
                },
                digest: row.try_get(3)?,
                verdict: Verdict::of_columns(&name, lists).ok_or_else(unreadable)?,
            };
            Ok((row.try_get(0)?, decided))
        })
        .collect()
}

impl projection::Changes for Changes {
    async fn apply(&self, transaction: &mut PgConnection) -> sqlx::Result<()> {
        let Some(last_ms) = self.last_ms else {
            return Ok(());
        };
        if !self.segments.is_empty() {
            upsert_segments(&self.segments)
                .execute(&mut *transaction)
                .await?;
        }
        self.upsert_and_forget(last_ms).execute(transaction).await?;
        Ok(())
    }
}

/// Memberships, verdicts and the time of the log. One statement, since each answer of Postgres is waited for by whoever has
/// asked for a change.
const UPSERT_AND_FORGET: &str = r#"
    WITH changed AS (
        INSERT INTO memberships (user_id, life, "offset", is_renewal, added_at, expires_at,
            ended_offset, ended_at, ending)
        SELECT a.user_id, a.life, a."offset", a.is_renewal, to_timestamp(a.added_at_ms / 1000.0),
            to_timestamp(a.expires_at_ms / 1000.0), a.ended_offset,
            to_timestamp(a.ended_at_ms / 1000.0), a.ending
        FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bool[], $5::bigint[],
            $6::bigint[], $7::bigint[], $8::bigint[], $9::text[])
            AS a(user_id, life, "offset", is_renewal, added_at_ms, expires_at_ms, ended_offset,
                ended_at_ms, ending)
        ON CONFLICT (user_id, life, "offset") DO UPDATE SET
            ended_offset = excluded.ended_offset, ended_at = excluded.ended_at,
            ending = excluded.ending
    ), decided AS (
        INSERT INTO verdicts (key, "offset", digest, verdict, added, removed, unknown, at)
        SELECT a.key, a."offset", a.digest, a.verdict, string_to_array(a.added, ','),
            string_to_array(a.removed, ','), string_to_array(a.unknown, ','),
            to_timestamp(a.at_ms / 1000.0)
        FROM unnest($10::text[], $11::bigint[], $12::bytea[], $13::text[], $14::text[],
            $15::text[], $16::text[], $17::bigint[])
            AS a(key, "offset", digest, verdict, added, removed, unknown, at_ms)
        ON CONFLICT (key) DO UPDATE SET
            "offset" = excluded."offset", digest = excluded.digest, verdict = excluded.verdict,
            added = excluded.added, removed = excluded.removed, unknown = excluded.unknown,
            at = excluded.at
    ), forgotten AS (
        -- All parts see the rows as they were before: a key that is decided anew stays.
        DELETE FROM verdicts AS v
        WHERE v.at <= to_timestamp($18::bigint / 1000.0)
            AND NOT EXISTS (SELECT FROM unnest($10::text[]) AS anew(key) WHERE anew.key = v.key)
    )
    INSERT INTO log_time (last_at) VALUES (to_timestamp($19::bigint / 1000.0))
    ON CONFLICT (is_only) DO UPDATE SET last_at = excluded.last_at"#;

type Statement<'a> = Query<'a, sqlx::Postgres, PgArguments>;

fn column<R, T>(rows: &[R], get: impl Fn(&R) -> T) -> Vec<T> {
    rows.iter().map(get).collect()
}

fn upsert_segments(segments: &[Segment]) -> Statement<'_> {
    // A life ends before the next of its name begins: so the order matters.
    sqlx::query(
        "INSERT INTO segments (life, slug, created_at, deleted_offset, deleted_at)
         SELECT a.life, a.slug, to_timestamp(a.created_at_ms / 1000.0), a.deleted_offset,
             to_timestamp(a.deleted_at_ms / 1000.0)
         FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
             AS a(life, slug, created_at_ms, deleted_offset, deleted_at_ms)
         ORDER BY a.life
         ON CONFLICT (life) DO UPDATE SET
             deleted_offset = excluded.deleted_offset, deleted_at = excluded.deleted_at",
    )
    .bind(column(segments, |segment| segment.life))
    .bind(column(segments, |segment| segment.slug.clone()))
    .bind(column(segments, |segment| segment.created_at_ms))
    .bind(column(segments, |s| s.deleted.map(|moment| moment.offset)))
    .bind(column(segments, |s| s.deleted.map(|moment| moment.at_ms)))
}

impl Changes {
    fn upsert_and_forget(&self, last_ms: i64) -> Statement<'_> {
        let memberships = &self.memberships;
        let ended =
            |get: fn(Moment) -> i64| column(memberships, |m| m.ended.map(|(at, _)| get(at)));
        // By the time of the log: which verdicts there are follows from what was folded, however it was cut.
        let forgotten_ms = last_ms - KEY_MS;
        let decided = self.decided.iter();
        let decided: Vec<_> = decided
            .filter(|(_, decided)| decided.moment.at_ms > forgotten_ms)
            .collect();
        // A slug has no comma.
        let list = |index: usize| {
            column(&decided, |(_, decided)| {
                decided.verdict.columns().1[index].join(",")
            })
        };
        sqlx::query(UPSERT_AND_FORGET)
            .bind(column(memberships, |membership| membership.user_id))
            .bind(column(memberships, |membership| membership.life))
            .bind(column(memberships, |membership| membership.added.offset))
            .bind(column(memberships, |membership| membership.is_renewal))
            .bind(column(memberships, |membership| membership.added.at_ms))
            .bind(column(memberships, |membership| membership.expires_at_ms))
            .bind(ended(|moment| moment.offset))
            .bind(ended(|moment| moment.at_ms))
            .bind(column(memberships, |m| m.ended.map(|(_, how)| how.name())))
            .bind(column(&decided, |(key, _)| key.clone()))
            .bind(column(&decided, |(_, decided)| decided.moment.offset))
            .bind(column(&decided, |(_, decided)| decided.digest.to_vec()))
            .bind(column(&decided, |(_, d)| d.verdict.columns().0))
            .bind(list(0))
            .bind(list(1))
            .bind(list(2))
            .bind(column(&decided, |(_, decided)| decided.moment.at_ms))
            .bind(forgotten_ms)
            .bind(last_ms)
    }
}

/// The segments that a user is in at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Slugs and ends (milliseconds since 1970-01-01T00:00:00Z), sorted by slug; some may be over.
    pub segments: Vec<(String, Option<i64>)>,
    /// Time of the log at that moment, milliseconds since 1970-01-01T00:00:00Z.
    pub last_ms: i64,
    /// The checkpoint at that moment: everything before it is in.
    pub next_offset: i64,
}

/// Reads the segments of a user, and the checkpoint.
///
/// # Errors
/// If Postgres does not answer.
pub async fn find(pool: &Pool, user_id: i64) -> sqlx::Result<Found> {
    let mut connection = pool.borrow().await?;
    // One statement, so that segments and checkpoint are of one moment.
    let row = sqlx::query(
        r#"SELECT coalesce((SELECT next_offset FROM millrace.checkpoints
                   WHERE projection = 'segments' AND live AND partition = 0), 0),
               coalesce((SELECT (extract(epoch FROM last_at) * 1000)::bigint
                   FROM segments.log_time), 0),
               coalesce(array_agg(s.slug ORDER BY s.slug COLLATE "C"), '{}'),
               coalesce(array_agg((extract(epoch FROM m.expires_at) * 1000)::bigint
                   ORDER BY s.slug COLLATE "C"), '{}')
           FROM segments.memberships AS m JOIN segments.segments AS s USING (life)
           WHERE m.user_id = $1 AND m.ended_offset IS NULL AND s.deleted_offset IS NULL"#,
    )
    .bind(user_id)
    .fetch_one(&mut *connection)
    .await?;
    connection.give_back();
    let (slugs, ends): (Vec<String>, Vec<Option<i64>>) = (row.try_get(2)?, row.try_get(3)?);
    Ok(Found {
        segments: slugs.into_iter().zip(ends).collect(),
        last_ms: row.try_get(1)?,
        next_offset: row.try_get(0)?,
    })
}
