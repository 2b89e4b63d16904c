//! How the log and the projections stand, as it was seen last. Before this: `api/src/observer.rs`; next:
//! `api/src/routes/log.rs` and `api/src/pages/log.rs`.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwapOption;
use jiff::Timestamp;
use processors::{inspect::Extent, lag::Lag};
use producers::clock;
use projections::{
    builds::Building,
    projection::{DEAD_LETTERS_COUNTED_MAX, Live, Projection},
};
use schemas::topics::Topic;
use serde::Serialize;
use utoipa::ToSchema;

use crate::{pace::Pace, sale::stands::time};

/// Over how long it is measured how fast a topic grows.
const RATE_OVER: Duration = Duration::from_secs(10);

/// What was seen last; nothing before the first look.
#[derive(Default)]
pub struct Overview(ArcSwapOption<LogStands>);

/// What the broker tells of a topic.
pub struct TopicSeen {
    /// The topic.
    pub topic: &'static Topic,
    /// When it was seen how far it goes.
    pub at: Instant,
    /// Where its partitions begin and end.
    pub extents: Vec<Extent>,
    /// How far each of its projections is behind.
    pub lags: Vec<(&'static Projection, Vec<Lag>)>,
}

/// What is asked of Postgres.
pub struct Tables {
    /// The live generations.
    pub live: Vec<Live>,
    /// What is built beside them.
    pub builds: Vec<Building>,
}

/// How the log and the projections stand.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = Log)]
pub struct LogStands {
    /// When this was so: it is looked every few seconds, as long as Kafka and Postgres answer.
    #[schema(value_type = String, format = DateTime)]
    pub observed_at: Timestamp,
    /// Every topic.
    pub topics: Vec<TopicStands>,
    /// Every projection.
    pub projections: Vec<ProjectionStands>,
    /// What is replayed or verified just now.
    pub builds: Vec<BuildStands>,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LogTopic)]
pub struct TopicStands {
    /// Its full name.
    #[schema(examples("orders"))]
    pub topic: String,
    /// How many partitions it has.
    pub partitions: usize,
    /// How many records it has; as many as offsets.
    #[schema(minimum = 0)]
    pub records: i64,
    /// How many came in a second, over the last seconds.
    #[schema(minimum = 0)]
    pub records_per_second: f64,
}

/// A projection: tables that are a fold of a topic.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LogProjection)]
pub struct ProjectionStands {
    /// Its name, and that of its schema in Postgres.
    #[schema(examples("orders"))]
    pub projection: &'static str,
    /// The full name of the topic that it is a fold of.
    pub topic: String,
    /// Which build of the tables is live, from 1.
    #[schema(minimum = 1)]
    pub generation: i32,
    /// The version of the fold that writes it.
    #[schema(minimum = 1)]
    pub version: i32,
    /// How many records are not applied yet.
    #[schema(minimum = 0)]
    pub records_behind: i64,
    /// The age of the oldest of them, in seconds; 0 if there is none.
    #[schema(minimum = 0)]
    pub seconds_behind: f64,
    /// How many records could not be folded.
    #[schema(minimum = 0)]
    pub dead_letters: i64,
    /// Whether they are more, and only so many were counted.
    pub dead_letters_more: bool,
    /// Its partitions.
    pub partitions: Vec<PartitionStands>,
}

/// A partition of a projection.
#[derive(Debug, Clone, PartialEq, Serialize, ToSchema)]
#[schema(as = LogPartition)]
pub struct PartitionStands {
    /// The partition.
    #[schema(minimum = 0)]
    pub partition: i32,
    /// Offset of the first record that is not applied.
    #[schema(minimum = 0)]
    pub next_offset: i64,
    /// Offset after the last record of the log.
    #[schema(minimum = 0)]
    pub end_offset: i64,
    /// How many records are not applied yet.
    #[schema(minimum = 0)]
    pub records_behind: i64,
    /// The age of the oldest of them, in seconds; 0 if there is none.
    #[schema(minimum = 0)]
    pub seconds_behind: f64,
}

/// Tables of a projection that are made anew beside the live ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
#[schema(as = LogBuild)]
pub struct BuildStands {
    /// The projection.
    #[schema(examples("orders"))]
    pub projection: String,
    /// The command that does it.
    #[schema(examples("replay"))]
    pub command: String,
    /// The process that does it, and its host.
    pub by_whom: String,
    /// What it does just now.
    #[schema(examples("folds"))]
    pub phase: String,
    /// How many records it has folded.
    #[schema(minimum = 0)]
    pub records: i64,
    /// How many it has to fold.
    #[schema(minimum = 0)]
    pub records_total: i64,
    /// For how long it has been under way, in seconds.
    #[schema(minimum = 0)]
    pub seconds: i64,
}

impl From<Building> for BuildStands {
    fn from(build: Building) -> Self {
        Self {
            projection: build.projection,
            command: build.what,
            by_whom: build.by_whom,
            phase: build.phase,
            records: build.records,
            records_total: build.records_total,
            seconds: build.seconds,
        }
    }
}

impl Overview {
    /// What was seen last; none before the first look.
    pub fn seen(&self) -> Option<Arc<LogStands>> {
        self.0.load_full()
    }

    /// Shows what was seen now, of the topics with this prefix.
    pub(crate) fn show(&self, prefix: &str, seen: &[TopicSeen], tables: Tables, rates: &mut Rates) {
        let topics = seen.iter().map(|seen| {
            let end = seen.extents.iter().map(|extent| extent.end_offset).sum();
            TopicStands {
                topic: seen.topic.full_name(prefix),
                partitions: seen.extents.len(),
                records: seen.extents.iter().map(Extent::records).sum(),
                records_per_second: rates.per_second(seen.topic.name, end, seen.at),
            }
        });
        let lags = seen.iter().flat_map(|seen| &seen.lags);
        let projections = lags.filter_map(|(projection, lags)| {
            let mut live = tables.live.iter();
            let live = live.find(|live| live.projection == projection.name)?;
            let topic = projection.topic(prefix);
            Some(projection_stands(projection, topic, live, lags))
        });
        self.0.store(Some(Arc::new(LogStands {
            observed_at: time(clock::now_ms()),
            topics: topics.collect(),
            projections: projections.collect(),
            builds: tables.builds.into_iter().map(Into::into).collect(),
        })));
    }
}

fn projection_stands(
    projection: &'static Projection,
    topic: String,
    live: &Live,
    lags: &[Lag],
) -> ProjectionStands {
    let partition = |lag: &Lag| PartitionStands {
        partition: lag.partition,
        next_offset: lag.next_offset,
        end_offset: lag.end_offset,
        records_behind: lag.records,
        seconds_behind: lag.seconds,
    };
    ProjectionStands {
        projection: projection.name,
        topic,
        generation: live.generation,
        version: live.version,
        records_behind: lags.iter().map(|lag| lag.records).sum(),
        seconds_behind: lags.iter().map(|lag| lag.seconds).fold(0.0, f64::max),
        dead_letters: live.dead_letters,
        dead_letters_more: live.dead_letters >= DEAD_LETTERS_COUNTED_MAX,
        partitions: lags.iter().map(partition).collect(),
    }
}

/// How fast topics grow: of each, the sum of its end offsets.
#[derive(Default)]
pub struct Rates(HashMap<&'static str, Pace>);

impl Rates {
    /// Records a second, to one decimal; `end` is the sum of the end offsets.
    fn per_second(&mut self, topic: &'static str, end: i64, now: Instant) -> f64 {
        let rate = self.0.entry(topic);
        let rate = rate.or_insert_with(|| Pace::over(RATE_OVER));
        // A topic that was made anew.
        if rate.last().is_some_and(|(_, before)| before > end) {
            rate.begin(None);
        }
        rate.per_second(end, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rate_is_that_of_the_last_seconds() {
        let mut rates = Rates::default();
        let began = Instant::now();
        let mut after = |seconds: u64, topic, end| {
            rates.per_second(topic, end, began + Duration::from_secs(seconds))
        };
        assert_eq!(after(0, "orders", 1_000), 0.0);
        assert_eq!(after(0, "clicks", 0), 0.0);
        assert_eq!(after(2, "orders", 1_030), 15.0);
        assert_eq!(after(10, "orders", 1_030), 3.0);
        assert_eq!(after(12, "orders", 1_030), 0.0);
        assert_eq!(after(14, "orders", 1_090), 5.0);
        assert_eq!(after(14, "clicks", 28), 2.0);
        // Made anew.
        assert_eq!(after(16, "orders", 5), 0.0);
        assert_eq!(after(18, "orders", 25), 10.0);
    }
}
