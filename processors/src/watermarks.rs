//! How far the projections have come, for those who wait for a position. A watermark is only ever what a checkpoint
//! row said: the folds of this process announce what they have committed, and while somebody waits, the rows are
//! read, since other processes write them too.

use std::{collections::HashMap, sync::Arc, time::Duration};

use projections::{
    checkpoints::{self, Checkpoint},
    pool::Pool,
    projection::{PROJECTIONS, Projection},
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout, timeout_at},
};

/// How often the rows are read while somebody waits.
const POLL: Duration = Duration::from_millis(5);
/// How long a read may take.
const READ_TIMEOUT: Duration = Duration::from_secs(5);
/// The same after a failure.
const POLL_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// The next offset of each partition, as far as it is known.
type Offsets = HashMap<i32, i64>;

/// How far something has come in each partition of a topic.
#[derive(Debug, Default)]
pub struct Progress(watch::Sender<Offsets>);

impl Progress {
    /// Says how far it has come, as partitions and next offsets; it never goes back.
    pub fn announce(&self, reached: impl Iterator<Item = (i32, i64)>) {
        self.0.send_if_modified(|offsets| {
            let mut risen = false;
            for (partition, next_offset) in reached {
                let known = offsets.entry(partition).or_insert(0);
                risen |= next_offset > *known;
                *known = next_offset.max(*known);
            }
            risen
        });
    }

    /// Forgets what is known, as when the connection that said it is lost.
    pub fn forget(&self) {
        self.0.send_modify(Offsets::clear);
    }

    /// Whether the records at all these places (partition and offset) have been passed.
    pub fn has_reached(&self, places: &[(i32, i64)]) -> bool {
        passed(&self.0.borrow(), places)
    }

    /// Waits until the records at all these places have been passed; false at the deadline.
    pub fn reached(&self, places: &[(i32, i64)], deadline: Instant) -> impl Future<Output = bool> {
        // At once, not at the first poll: whoever reads checkpoints looks for subscribers.
        let mut offsets = self.0.subscribe();
        async move {
            let waited = timeout_at(
                deadline,
                offsets.wait_for(|offsets| passed(offsets, places)),
            );
            waited.await.is_ok_and(|reached| reached.is_ok())
        }
    }
}

fn passed(offsets: &Offsets, places: &[(i32, i64)]) -> bool {
    let is_passed = |(partition, offset)| offsets.get(partition).is_some_and(|next| next > offset);
    places.iter().map(|(p, o)| (p, o)).all(is_passed)
}

/// The watermarks of a process: the progress of every projection.
#[derive(Debug, Clone)]
pub struct Watermarks {
    projections: Arc<HashMap<&'static str, Progress>>,
    wanted: Arc<Notify>,
}

impl Default for Watermarks {
    fn default() -> Self {
        let names = PROJECTIONS.iter().map(|projection| projection.name);
        Self {
            projections: Arc::new(names.map(|name| (name, Progress::default())).collect()),
            wanted: Arc::new(Notify::new()),
        }
    }
}

impl Watermarks {
    /// The progress of a projection.
    pub fn of(&self, projection: &Projection) -> &Progress {
        self.projections
            .get(projection.name)
            .expect("every projection is in the list")
    }

    /// Waits until the projection has applied the records at all these places; false at the deadline.
    pub async fn reached(
        &self,
        projection: &Projection,
        places: &[(i32, i64)],
        deadline: Instant,
    ) -> bool {
        let progress = self.of(projection);
        if progress.has_reached(places) {
            return true;
        }
        let waiting = progress.reached(places, deadline);
        self.wanted.notify_one();
        waiting.await
    }

    /// Reads the checkpoints while somebody waits for them, for as long as it is polled.
    pub async fn follow(self, pool: Pool) {
        loop {
            let is_waited_for = |p: &&&Projection| self.of(p).0.receiver_count() > 0;
            let waited_for: Vec<_> = PROJECTIONS.iter().filter(is_waited_for).collect();
            if waited_for.is_empty() {
                self.wanted.notified().await;
                continue;
            }
            let mut pause = POLL;
            for projection in waited_for {
                let reading = read(&pool, projection);
                match timeout(READ_TIMEOUT, reading)
                    .await
                    .unwrap_or(Err(sqlx::Error::PoolTimedOut))
                {
                    Ok(found) => self.of(projection).announce(found.iter().map(place)),
                    Err(_) => {
                        self.of(projection).forget();
                        pause = POLL_AFTER_FAILURE;
                    }
                }
            }
            tokio::time::sleep(pause).await;
        }
    }
}

async fn read(pool: &Pool, projection: &Projection) -> sqlx::Result<Vec<Checkpoint>> {
    let mut connection = pool.borrow().await?;
    let found = checkpoints::live(&mut *connection, projection.name).await?;
    connection.give_back();
    Ok(found)
}

fn place(checkpoint: &Checkpoint) -> (i32, i64) {
    (checkpoint.partition, checkpoint.next_offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn soon() -> Instant {
        Instant::now() + Duration::from_millis(20)
    }

    #[tokio::test]
    async fn who_waits_is_woken_when_all_places_are_passed() {
        let progress = Arc::new(Progress::default());
        progress.announce([(0, 5)].into_iter());
        assert!(progress.reached(&[(0, 4)], soon()).await);
        assert!(!progress.reached(&[(0, 5)], soon()).await);
        let waiting = {
            let progress = Arc::clone(&progress);
            tokio::spawn(async move {
                let deadline = Instant::now() + Duration::from_secs(30);
                progress.reached(&[(0, 5), (1, 0)], deadline).await
            })
        };
        progress.announce([(0, 6)].into_iter());
        progress.announce([(1, 1), (0, 2)].into_iter());
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn what_was_forgotten_has_to_be_said_again() {
        let progress = Progress::default();
        progress.announce([(3, 9)].into_iter());
        progress.forget();
        assert!(!progress.reached(&[(3, 1)], soon()).await);
        progress.announce([(3, 2)].into_iter());
        assert!(progress.reached(&[(3, 1)], soon()).await);
    }
}
