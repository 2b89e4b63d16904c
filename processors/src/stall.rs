//! Never stopped and green: a partition that is ours, is behind and does not move although its fold says that it is at
//! work is said in `/readyz`; if that lasts, or a thread of ours has gone, the process has to end, for its supervisor to
//! start it anew.
//!
//! Only time in which the fold is at work and the broker answers counts: whoever waits for Postgres, the registry or the
//! broker says so itself, and would wait again after a new start.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;
use producers::kafka::Kafka;
use projections::projection::PROJECTIONS;
use rdkafka::consumer::BaseConsumer;
use tokio::{task::spawn_blocking, time::sleep};
use tracing::error;

use crate::{
    inspect::{self, Log},
    runtime::part,
    status::{Doing, Status},
};

/// How long a partition may stand still before it is said.
pub const SAID_AFTER: Duration = Duration::from_secs(30);
/// How often it is looked.
const LOOK_EVERY: Duration = Duration::from_secs(3);
/// How long the broker may take to give a record that should be there.
const PATIENCE: Duration = Duration::from_secs(2);

/// A partition that stands still.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// The projection.
    pub projection: &'static str,
    /// The partition.
    pub partition: i32,
    /// Offset of the first record that is not applied.
    pub next_offset: i64,
}

impl fmt::Display for Stall {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "partition {} is behind and does not move: it stands at offset {}",
            self.partition, self.next_offset
        )
    }
}

/// Watches the folds of this process for as long as it is polled. Ends when the process should: `limit` after it was
/// said that something stands still or has gone. With no limit it only says so.
pub async fn watch(kafka: &Kafka, status: &Status, limit: Option<Duration>) {
    let mut watch = Watch::default();
    let mut gone_since = None;
    loop {
        sleep(LOOK_EVERY).await;
        let (now, stalls) = watch.look(kafka, status).await;
        show(status, &stalls);
        if let (Some(limit), Some((stall, since))) = (limit, longest(&stalls))
            && now - *since >= SAID_AFTER + limit
        {
            let Stall {
                projection,
                partition,
                next_offset,
            } = stall;
            error!(
                projection,
                partition,
                next_offset,
                "is behind and has not moved for {:?}: ends the process, to be started anew",
                SAID_AFTER + limit
            );
            return;
        }
        let Some(part) = status.gone() else { continue };
        let since = *gone_since.get_or_insert(now);
        if let Some(limit) = limit.filter(|limit| since.elapsed() >= *limit) {
            error!(
                part,
                "has been gone for {limit:?}: ends the process, to be started anew"
            );
            return;
        }
    }
}

/// Partitions that stand still, and since when.
type Stalls = Vec<(Stall, Instant)>;

fn longest(stalls: &Stalls) -> Option<&(Stall, Instant)> {
    stalls.iter().min_by_key(|(_, since)| *since)
}

/// Says in `/readyz` what stands still, and what does no more.
fn show(status: &Status, stalls: &Stalls) {
    for projection in PROJECTIONS {
        let part = format!("progress of {}", projection.name);
        let stall = stalls
            .iter()
            .find(|(stall, _)| stall.projection == projection.name);
        match stall {
            Some((stall, _)) => status.set(&part, Doing::Waiting(stall.to_string())),
            None if status.has(&part) => status.set(&part, Doing::Running),
            None => {}
        }
    }
}

/// A partition of a projection.
type Key = (&'static str, i32);
/// The next offsets of partitions that are behind, if the broker told.
type Behind = BTreeMap<Key, Option<i64>>;

/// Where each partition was when it was last seen to move, and since when it has been there.
#[derive(Default)]
struct Watch {
    places: BTreeMap<Key, Place>,
    looked: Option<Instant>,
    consumer: Option<Arc<BaseConsumer>>,
}

#[derive(Debug, Clone, Copy)]
struct Place {
    next_offset: i64,
    since: Instant,
}

impl Watch {
    /// The partitions that have been behind and at the same place for long enough to be said, and when that was known.
    async fn look(&mut self, kafka: &Kafka, status: &Status) -> (Instant, Stalls) {
        let is_at_work = |((projection, _), _): &(Key, i64)| status.is_running(&part(projection));
        let at_work: Vec<_> = status
            .moves()
            .all()
            .into_iter()
            .filter(is_at_work)
            .collect();
        let unknown = at_work.iter().map(|(key, _)| (*key, None)).collect();
        let behind = self.behind(kafka, at_work).await.unwrap_or(unknown);
        // The broker may have taken long: if it did not tell in the end, none of that counts.
        let now = Instant::now();
        self.note(&behind, now);
        let stalls = self.stalls(now);
        let stalls = match self.consumer.clone().filter(|_| !stalls.is_empty()) {
            Some(consumer) => confirm(consumer, kafka.clone(), stalls).await,
            None => stalls,
        };
        (now, stalls)
    }

    /// Notes the places that are behind now; of all others the time begins anew. Of what the broker does not tell
    /// nothing is known, and the time does not count.
    fn note(&mut self, behind: &Behind, now: Instant) {
        let since_looked = self
            .looked
            .replace(now)
            .map_or(Duration::ZERO, |at| now - at);
        self.places.retain(|key, _| behind.contains_key(key));
        for (key, next_offset) in behind {
            let Some(next_offset) = *next_offset else {
                self.places
                    .entry(*key)
                    .and_modify(|place| place.since += since_looked);
                continue;
            };
            let fresh = Place {
                next_offset,
                since: now,
            };
            let place = self.places.entry(*key).or_insert(fresh);
            if place.next_offset != next_offset {
                *place = fresh;
            }
        }
    }

    fn stalls(&self, now: Instant) -> Stalls {
        let places = self.places.iter();
        let stalls = places.filter(|(_, place)| now.duration_since(place.since) >= SAID_AFTER);
        let stall = |((projection, partition), place): (&Key, &Place)| {
            let stall = Stall {
                projection,
                partition: *partition,
                next_offset: place.next_offset,
            };
            (stall, place.since)
        };
        stalls.map(stall).collect()
    }

    /// Those of these places that have something after them, or of which the broker does not tell.
    async fn behind(&mut self, kafka: &Kafka, places: Vec<(Key, i64)>) -> Result<Behind> {
        let (kafka, consumer) = (kafka.clone(), self.consumer(kafka)?);
        let look = move || {
            let mut behind = Behind::new();
            for projection in PROJECTIONS {
                let log = Log::with(&consumer, &projection.topic(&kafka.prefix)).ok();
                let of_it = |((name, _), _): &&(Key, i64)| *name == projection.name;
                for (key, next_offset) in places.iter().filter(of_it) {
                    let extent = log.as_ref().and_then(|log| log.extent(key.1).ok());
                    if extent.is_none_or(|extent| extent.end_offset > *next_offset) {
                        behind.insert(*key, extent.map(|_| *next_offset));
                    }
                }
            }
            // What librdkafka says of the connection must not pile up.
            while consumer.poll(Duration::ZERO).is_some() {}
            behind
        };
        Ok(spawn_blocking(look).await?)
    }

    fn consumer(&mut self, kafka: &Kafka) -> Result<Arc<BaseConsumer>> {
        if let Some(consumer) = &self.consumer {
            return Ok(Arc::clone(consumer));
        }
        let consumer = Arc::new(inspect::consumer(kafka)?);
        Ok(Arc::clone(self.consumer.insert(consumer)))
    }
}

fn log(consumer: &Arc<BaseConsumer>, kafka: &Kafka, projection: &str) -> Result<Log> {
    let found = PROJECTIONS.iter().find(|known| known.name == projection);
    let projection = found.expect("every projection is in the list");
    Log::with(consumer, &projection.topic(&kafka.prefix))
}

/// Leaves out those for which there is nothing to be applied after all: offsets may have gaps.
async fn confirm(consumer: Arc<BaseConsumer>, kafka: Kafka, mut stalls: Stalls) -> Stalls {
    let confirm = move || {
        stalls.retain(|(stall, _)| !is_gap(&consumer, &kafka, stall).unwrap_or(false));
        stalls
    };
    spawn_blocking(confirm).await.unwrap_or_default()
}

/// Whether there is no record up to the end, although there are offsets.
fn is_gap(consumer: &Arc<BaseConsumer>, kafka: &Kafka, stall: &Stall) -> Result<bool> {
    let log = log(consumer, kafka, stall.projection)?;
    let end = log.extent(stall.partition)?.end_offset;
    let mut reading = log.read(&[(stall.partition, stall.next_offset)])?;
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let mut came = false;
        reading.visit(deadline - Instant::now(), |_, _| came = true)?;
        if came {
            return Ok(false);
        }
        if reading.reached(stall.partition) >= end {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(watch: &mut Watch, now: Instant, places: &[(i32, i64)]) -> Vec<(i32, i64)> {
        let places = places.iter();
        let behind = places.map(|(partition, next)| (("clicks", *partition), Some(*next)));
        watch.note(&behind.collect(), now);
        let stalls = watch.stalls(now).into_iter();
        stalls
            .map(|(stall, _)| (stall.partition, stall.next_offset))
            .collect()
    }

    #[test]
    fn who_is_behind_and_stands_still_for_long_enough_is_said() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let second = Duration::from_secs(1);
        assert_eq!(at(&mut watch, start, &[(3, 7), (4, 1)]), []);
        assert_eq!(at(&mut watch, start + 29 * second, &[(3, 7), (4, 2)]), []);
        assert_eq!(
            at(&mut watch, start + 30 * second, &[(3, 7), (4, 2)]),
            [(3, 7)]
        );
        assert_eq!(at(&mut watch, start + 31 * second, &[(3, 8), (4, 2)]), []);
        assert_eq!(
            at(&mut watch, start + 59 * second, &[(3, 8), (4, 2)]),
            [(4, 2)]
        );
    }

    #[test]
    fn while_nobody_knows_that_it_is_behind_no_time_counts() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let second = Duration::from_secs(1);
        at(&mut watch, start, &[(3, 7)]);
        // It waits for Postgres, or the broker is away.
        at(&mut watch, start + 20 * second, &[]);
        assert_eq!(at(&mut watch, start + 40 * second, &[(3, 7)]), []);
        assert_eq!(at(&mut watch, start + 70 * second, &[(3, 7)]), [(3, 7)]);
    }

    #[test]
    fn while_the_broker_does_not_tell_no_time_counts_and_none_is_lost() {
        let (mut watch, start) = (Watch::default(), Instant::now());
        let second = Duration::from_secs(1);
        at(&mut watch, start, &[(3, 7)]);
        assert_eq!(at(&mut watch, start + 20 * second, &[(3, 7)]), []);
        watch.note(
            &BTreeMap::from([(("clicks", 3), None)]),
            start + 50 * second,
        );
        assert_eq!(at(&mut watch, start + 59 * second, &[(3, 7)]), []);
        assert_eq!(at(&mut watch, start + 60 * second, &[(3, 7)]), [(3, 7)]);
    }
}
