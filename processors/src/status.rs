//! What the folds of a process are doing: for `/readyz`, the logs and `/metrics`.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError},
};

use producers::metrics::{
    Counter, Family, Gauge, Histogram, Registry, batch_records, latency_seconds,
};
use tracing::{error, info, warn};

/// What a part of the process is doing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Doing {
    /// Getting ready.
    Starting,
    /// At work.
    Running,
    /// Held up by something that may pass: what, in words.
    Waiting(String),
    /// Stopped until somebody does what the words say.
    Halted(String),
}

/// What the parts of a process are doing, by name.
#[derive(Debug, Clone, Default)]
pub struct Status {
    parts: Arc<Mutex<BTreeMap<String, Doing>>>,
    gone: Arc<OnceLock<String>>,
    moves: Moves,
}

/// Where the folds of a process stand in the partitions that are theirs.
#[derive(Debug, Clone, Default)]
pub struct Moves(Arc<Mutex<Standing>>);

#[derive(Debug, Default)]
struct Standing {
    next_offsets: BTreeMap<(&'static str, i32), i64>,
    /// Projections that do something else first, which tells by itself when it cannot go on.
    busy: BTreeSet<&'static str>,
}

impl Moves {
    /// From now on these partitions of a projection are ours, and no others: with their next offsets.
    pub fn begin(&self, projection: &'static str, places: &[(i32, i64)]) {
        let all = &mut self.lock().next_offsets;
        all.retain(|(name, _), _| *name != projection);
        let places = places.iter();
        all.extend(places.map(|(partition, next)| ((projection, *partition), *next)));
    }

    /// A projection has gone on to these next offsets.
    pub fn note(&self, projection: &'static str, places: impl Iterator<Item = (i32, i64)>) {
        let all = &mut self.lock().next_offsets;
        for (partition, next_offset) in places {
            if let Some(known) = all.get_mut(&(projection, partition)) {
                *known = next_offset;
            }
        }
    }

    /// A projection need not move, until what is given is dropped.
    pub fn busy(&self, projection: &'static str) -> impl Drop {
        self.lock().busy.insert(projection);
        Busy(self.clone(), projection)
    }

    /// The next offset of each partition of the projections that have to move.
    pub fn all(&self) -> BTreeMap<(&'static str, i32), i64> {
        let standing = self.lock();
        let mut all = standing.next_offsets.clone();
        all.retain(|(name, _), _| !standing.busy.contains(name));
        all
    }

    fn lock(&self) -> MutexGuard<'_, Standing> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// See [`Moves::busy`].
struct Busy(Moves, &'static str);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.lock().busy.remove(self.1);
    }
}

impl Status {
    /// Notes what a part is doing, and logs a change.
    pub fn set(&self, part: &str, doing: Doing) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        if parts.get(part) == Some(&doing) {
            return;
        }
        match &doing {
            Doing::Starting => info!(part, "is starting"),
            Doing::Running => info!(part, "is running"),
            Doing::Waiting(why) => warn!(part, why, "is held up and tries again"),
            Doing::Halted(why) => error!(part, why, "has halted"),
        }
        parts.insert(part.to_owned(), doing);
    }

    /// Where the folds stand.
    pub fn moves(&self) -> &Moves {
        &self.moves
    }

    /// The first part whose thread or task has ended by a fault of ours, if there is one.
    pub fn gone(&self) -> Option<&str> {
        self.gone.get().map(String::as_str)
    }

    /// Whether anything was ever said of a part.
    pub fn has(&self, part: &str) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.contains_key(part)
    }

    /// Says so if the thread or task that holds this panics: it is gone, and nobody else would notice.
    pub fn guard(&self, part: impl Into<String>) -> PanicGuard {
        PanicGuard {
            status: self.clone(),
            part: part.into(),
        }
    }

    /// The parts of the process, and whether each is at work.
    pub fn parts(&self) -> Vec<(String, bool)> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let is_running = |doing: &Doing| *doing == Doing::Running;
        let parts = parts.iter();
        parts
            .map(|(part, doing)| (part.clone(), is_running(doing)))
            .collect()
    }

    /// Whether a part is at work.
    pub fn is_running(&self, part: &str) -> bool {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.get(part) == Some(&Doing::Running)
    }

    /// Why the process is not ready: a line a part that is not at work; empty if all is well.
    pub fn not_ready(&self) -> Vec<String> {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let lines = parts.iter().filter_map(|(part, doing)| match doing {
            Doing::Running => None,
            Doing::Starting => Some(format!("{part} is starting")),
            Doing::Waiting(why) => Some(format!("{part} waits: {why}")),
            Doing::Halted(why) => Some(format!("{part} has halted: {why}")),
        });
        lines.collect()
    }
}

/// See [`Status::guard`].
pub struct PanicGuard {
    status: Status,
    part: String,
}

impl Drop for PanicGuard {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "a fault of ours ended it: see the log, and start the process again";
            self.status.set(&self.part, Doing::Halted(why.to_owned()));
            // Of several that have gone, the first.
            let _ = self.status.gone.set(self.part.clone());
        }
    }
}

/// The label of a projection.
pub type OfProjection = [(&'static str, &'static str); 1];
/// The labels of a projection's partition.
pub type OfPartition = [(&'static str, String); 2];
/// The labels of a projection's dead letters: which projection, and one word for the kind of fault.
pub type OfReason = [(&'static str, &'static str); 2];

/// What the folds of a process have done.
#[derive(Debug, Clone)]
pub struct FoldMetrics {
    /// Records applied.
    pub records: Family<OfProjection, Counter>,
    /// Batches committed.
    pub batches: Family<OfProjection, Counter>,
    /// Batches that somebody else had applied.
    pub lost: Family<OfProjection, Counter>,
    /// Troubles with reading from the broker.
    pub troubles: Family<OfProjection, Counter>,
    /// Records that could not be folded.
    pub dead_letters: Family<OfReason, Counter>,
    /// 1 where dead letters are a flood (see [`crate::alarm`]), else 0.
    pub dead_letter_alarm: Family<OfPartition, Gauge>,
    /// Records in a batch.
    pub batch_records: Family<OfProjection, Histogram>,
    /// From the beginning of a transaction to its commit.
    pub apply_seconds: Family<OfProjection, Histogram>,
}

impl Default for FoldMetrics {
    fn default() -> Self {
        Self {
            records: Family::default(),
            batches: Family::default(),
            lost: Family::default(),
            troubles: Family::default(),
            dead_letters: Family::default(),
            dead_letter_alarm: Family::default(),
            batch_records: Family::new_with_constructor(batch_records),
            apply_seconds: Family::new_with_constructor(latency_seconds),
        }
    }
}

impl FoldMetrics {
    /// Shows the counters of a projection from the start, so that a first loss is a rise from 0.
    pub fn begin(&self, label: &OfProjection) {
        for counter in [&self.records, &self.batches, &self.lost, &self.troubles] {
            drop(counter.get_or_create(label));
        }
    }

    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register("fold_records", "Records applied", self.records.clone());
        registry.register("fold_batches", "Batches committed", self.batches.clone());
        registry.register(
            "fold_lost_batches",
            "Batches given up since somebody else had applied them",
            self.lost.clone(),
        );
        registry.register(
            "fold_broker_errors",
            "Troubles with the broker that the client of a fold told of",
            self.troubles.clone(),
        );
        registry.register(
            "dead_letters",
            "Records that could not be decoded or folded",
            self.dead_letters.clone(),
        );
        registry.register(
            "dead_letter_alarm",
            "1 where more than 100 of a partition's last 10,000 records are dead letters",
            self.dead_letter_alarm.clone(),
        );
        registry.register(
            "fold_batch_records",
            "Records in a batch",
            self.batch_records.clone(),
        );
        registry.register(
            "fold_apply_seconds",
            "Time from the beginning of a transaction to its commit",
            self.apply_seconds.clone(),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_panics_is_gone_and_says_so() {
        let status = Status::default();
        let panics = status.clone();
        let thread = std::thread::spawn(move || {
            let _guard = panics.guard("fold clicks");
            std::panic::resume_unwind(Box::new("on purpose"));
        });
        assert!(thread.join().is_err());
        assert_eq!(status.gone(), Some("fold clicks"));
        assert!(status.not_ready()[0].starts_with("fold clicks has halted"));
    }

    #[test]
    fn only_partitions_that_are_ours_and_have_to_move_are_watched() {
        let moves = Moves::default();
        moves.begin("clicks", &[(0, 5), (1, 0)]);
        moves.begin("sales", &[(0, 9)]);
        moves.note("clicks", [(0, 7), (2, 3)].into_iter());
        let all = [(("clicks", 0), 7), (("clicks", 1), 0), (("sales", 0), 9)];
        assert_eq!(moves.all(), all.into());
        let busy = moves.busy("clicks");
        assert_eq!(moves.all(), [(("sales", 0), 9)].into());
        drop(busy);
        assert_eq!(moves.all(), all.into());
        moves.begin("clicks", &[]);
        assert_eq!(moves.all(), [(("sales", 0), 9)].into());
    }
}
