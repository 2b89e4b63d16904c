//! How far the projections have come, for those who wait for a position. A watermark is only ever what a checkpoint
//! row said: the folds of this process announce what they have committed, and while somebody waits, the rows are
//! read, since other processes write them too.

use std::{collections::HashMap, sync::Arc, time::Duration};

use projections::{
    checkpoints::{self, Checkpoint},
    projection::PROJECTIONS,
};
use sqlx::PgPool;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};
use tokio_util::sync::CancellationToken;

/// How often the rows are read while somebody waits.
const POLL: Duration = Duration::from_millis(5);
/// The same after a failure.
const POLL_AFTER_FAILURE: Duration = Duration::from_millis(200);

/// The next offset of each partition, as far as it is known.
type Offsets = HashMap<i32, i64>;

/// The watermarks of a process.
#[derive(Debug, Clone)]
pub struct Watermarks {
    projections: Arc<HashMap<&'static str, Watched>>,
    wanted: Arc<Notify>,
}

#[derive(Debug)]
struct Watched {
    offsets: watch::Sender<Offsets>,
}

impl Default for Watermarks {
    fn default() -> Self {
        let watched = |name| {
            let offsets = watch::Sender::new(Offsets::new());
            (name, Watched { offsets })
        };
        Self {
            projections: Arc::new(PROJECTIONS.iter().map(|p| watched(p.name)).collect()),
            wanted: Arc::new(Notify::new()),
        }
    }
}

impl Watermarks {
    /// Says what the checkpoints of a projection are; they never go back.
    pub fn announce(&self, projection: &str, reached: impl Iterator<Item = (i32, i64)>) {
        let Some(watched) = self.projections.get(projection) else {
            return;
        };
        watched.offsets.send_if_modified(|offsets| {
            let mut risen = false;
            for (partition, next_offset) in reached {
                let known = offsets.entry(partition).or_insert(0);
                risen |= next_offset > *known;
                *known = next_offset.max(*known);
            }
            risen
        });
    }

    /// Forgets what is known of a projection, as when the connection that said it is lost.
    pub fn forget(&self, projection: &str) {
        if let Some(watched) = self.projections.get(projection) {
            watched.offsets.send_modify(Offsets::clear);
        }
    }

    /// Waits until the projection has applied the records at all these places; false at the deadline.
    pub async fn reached(
        &self,
        projection: &str,
        places: &[(i32, i64)],
        deadline: Instant,
    ) -> bool {
        let Some(watched) = self.projections.get(projection) else {
            return false;
        };
        let mut offsets = watched.offsets.subscribe();
        let passed = |offsets: &Offsets| {
            places
                .iter()
                .all(|(partition, offset)| offsets.get(partition).is_some_and(|next| next > offset))
        };
        if passed(&offsets.borrow()) {
            return true;
        }
        self.wanted.notify_one();
        let waited = timeout_at(deadline, offsets.wait_for(passed)).await;
        waited.is_ok_and(|reached| reached.is_ok())
    }

    /// Reads the checkpoints while somebody waits for them; runs beside everything else until `stop`.
    pub async fn follow(self, pool: PgPool, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let waited_for: Vec<_> = self
                .projections
                .iter()
                .filter(|(_, watched)| watched.offsets.receiver_count() > 0)
                .map(|(name, _)| *name)
                .collect();
            if waited_for.is_empty() {
                tokio::select! {
                    () = self.wanted.notified() => continue,
                    () = stop.cancelled() => return,
                }
            }
            let mut pause = POLL;
            for projection in waited_for {
                match checkpoints::live(&pool, projection).await {
                    Ok(found) => self.announce(projection, found.iter().map(place)),
                    Err(_) => {
                        self.forget(projection);
                        pause = POLL_AFTER_FAILURE;
                    }
                }
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = stop.cancelled() => return,
            }
        }
    }
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
        let watermarks = Watermarks::default();
        watermarks.announce("clicks", [(0, 5)].into_iter());
        assert!(watermarks.reached("clicks", &[(0, 4)], soon()).await);
        assert!(!watermarks.reached("clicks", &[(0, 5)], soon()).await);
        let waiting = {
            let watermarks = watermarks.clone();
            tokio::spawn(async move {
                let deadline = Instant::now() + Duration::from_secs(30);
                watermarks
                    .reached("clicks", &[(0, 5), (1, 0)], deadline)
                    .await
            })
        };
        watermarks.announce("clicks", [(0, 6)].into_iter());
        watermarks.announce("clicks", [(1, 1), (0, 2)].into_iter());
        assert!(waiting.await.unwrap());
    }

    #[tokio::test]
    async fn what_was_forgotten_has_to_be_said_again() {
        let watermarks = Watermarks::default();
        watermarks.announce("orders", [(3, 9)].into_iter());
        watermarks.forget("orders");
        assert!(!watermarks.reached("orders", &[(3, 1)], soon()).await);
        watermarks.announce("orders", [(3, 2)].into_iter());
        assert!(watermarks.reached("orders", &[(3, 1)], soon()).await);
    }
}
