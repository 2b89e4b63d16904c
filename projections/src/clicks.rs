//! The tables of the clicks: counts per banner, minute and partition. Before this: `processors/src/clicks.rs`; next:
//! `api/src/routes/clicks.rs`.

use schemas::clicks::TOPIC;
use sqlx::{PgConnection, Row};

use crate::{
    pool::Pool,
    projection::{Changes, Projection},
    rows::Rows,
};

/// The projection.
pub static PROJECTION: Projection = Projection {
    name: "clicks",
    of: &TOPIC,
    version: 1,
    tables: include_str!("../sql/clicks.sql"),
    fold_settings: &LOOKUPS,
};

/// Each row of a batch is looked up by its key. While the table is small it would be cheaper to read all of it, and the plan
/// would be kept while it grows.
const LOOKUPS: [(&str, &str); 3] = [
    ("enable_seqscan", "off"),
    ("enable_hashjoin", "off"),
    ("enable_mergejoin", "off"),
];

/// Clicks to add to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Added {
    /// The banner.
    pub banner_id: i64,
    /// The minute, counted from 1970-01-01T00:00Z.
    pub minute: i64,
    /// The partition of the clicks.
    pub partition: i32,
    /// How many.
    pub clicks: i64,
}

impl Changes for Vec<Added> {
    /// Adds the clicks; the rows have to be sorted by key, one row a key. Nobody else may write to their partitions meanwhile: a
    /// fold has locked their checkpoints. So it need not be an upsert, which takes a fifth longer.
    async fn apply(&self, transaction: &mut PgConnection) -> sqlx::Result<()> {
        if self.is_empty() {
            return Ok(());
        }
        let column = |get: fn(&Added) -> i64| self.iter().map(get).collect::<Vec<_>>();
        let partitions: Vec<_> = self.iter().map(|row| row.partition).collect();
        sqlx::query(
            "MERGE INTO stats AS s
             USING (
                 SELECT banner_id, to_timestamp(minute * 60) AS ts, partition, clicks
                 FROM unnest($1::bigint[], $2::bigint[], $3::int[], $4::bigint[])
                     AS a(banner_id, minute, partition, clicks)
             ) AS a
             ON s.banner_id = a.banner_id AND s.ts = a.ts AND s.partition = a.partition
             WHEN MATCHED THEN UPDATE SET v = s.v + a.clicks
             WHEN NOT MATCHED THEN INSERT (banner_id, ts, partition, v)
                 VALUES (a.banner_id, a.ts, a.partition, a.clicks)",
        )
        .bind(column(|row| row.banner_id))
        .bind(column(|row| row.minute))
        .bind(partitions)
        .bind(column(|row| row.clicks))
        .execute(transaction)
        .await?;
        Ok(())
    }
}

/// Where [`copy`] puts counts that are final.
pub const FINAL: &str = "stats (banner_id, ts, partition, v)";
/// Where it puts counts that have to be added up, between [`BEGIN_PARTIAL`] and [`END_PARTIAL`].
pub const PARTIAL: &str = "partial_stats (banner_id, ts, partition, v)";
/// Makes room for partial counts.
pub const BEGIN_PARTIAL: &str = "CREATE UNLOGGED TABLE partial_stats (LIKE stats)";
/// Adds partial counts up, if there are any.
pub const END_PARTIAL: &str = "INSERT INTO stats (banner_id, ts, partition, v)
     SELECT banner_id, ts, partition, sum(v)::bigint FROM partial_stats
     GROUP BY banner_id, ts, partition;
     DROP TABLE partial_stats";

/// Adds a count to rows for COPY.
pub fn copy(rows: &mut Rows, added: &Added) {
    rows.row(4)
        .bigint(added.banner_id)
        .time(added.minute * 60_000)
        .integer(added.partition)
        .bigint(added.clicks);
}

/// How long the steps of a statistic are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// A UTC minute.
    Minute,
    /// A UTC hour.
    Hour,
    /// A UTC day.
    Day,
}

impl Step {
    fn seconds(self) -> i64 {
        match self {
            Self::Minute => 60,
            Self::Hour => 3_600,
            Self::Day => 86_400,
        }
    }
}

/// What to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatsQuery {
    /// The banner.
    pub banner_id: i64,
    /// The first minute that counts, from 1970-01-01T00:00Z.
    pub from_minute: i64,
    /// The first minute that counts no more.
    pub to_minute: i64,
    /// How long the steps are.
    pub step: Step,
    /// The most steps to return.
    pub limit: i64,
}

/// Counts as they were at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Beginning of a step (seconds since 1970-01-01T00:00:00Z) and its clicks, ascending; only steps with clicks.
    pub steps: Vec<(i64, i64)>,
    /// The checkpoints at that moment: partition and the first offset that is not counted.
    pub checkpoints: Vec<(i32, i64)>,
}

/// Counts the clicks of a banner.
///
/// # Errors
/// If Postgres does not answer.
pub async fn stats(pool: &Pool, query: StatsQuery) -> sqlx::Result<Stats> {
    let mut connection = pool.borrow().await?;
    // One statement, so that rows and checkpoints are of one moment.
    let row = sqlx::query(
        "SELECT c.partitions, c.offsets, s.starts, s.clicks
         FROM (
             SELECT array_agg(partition) AS partitions, array_agg(next_offset) AS offsets
             FROM millrace.checkpoints WHERE projection = 'clicks' AND live
         ) AS c, (
             SELECT array_agg(start ORDER BY start) AS starts, array_agg(v ORDER BY start) AS clicks
             FROM (
                 SELECT extract(epoch FROM ts)::bigint / $4 * $4 AS start, sum(v)::bigint AS v
                 FROM clicks.stats
                 WHERE banner_id = $1 AND ts >= to_timestamp($2 * 60) AND ts < to_timestamp($3 * 60)
                 GROUP BY 1 ORDER BY 1 LIMIT $5
             ) AS steps
         ) AS s",
    )
    .bind(query.banner_id)
    .bind(query.from_minute)
    .bind(query.to_minute)
    .bind(query.step.seconds())
    .bind(query.limit)
    .fetch_one(&mut *connection)
    .await?;
    connection.give_back();
    let numbers = |index| -> sqlx::Result<Vec<i64>> {
        Ok(row
            .try_get::<Option<Vec<i64>>, _>(index)?
            .unwrap_or_default())
    };
    let partitions: Option<Vec<i32>> = row.try_get(0)?;
    let partitions = partitions.unwrap_or_default();
    Ok(Stats {
        steps: numbers(2)?.into_iter().zip(numbers(3)?).collect(),
        checkpoints: partitions.into_iter().zip(numbers(1)?).collect(),
    })
}
