//! What the folds of a process are doing: for `/readyz`, the logs and `/metrics`.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
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
