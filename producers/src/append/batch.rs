//! A batch on its way: counts what becomes of its records, and answers when the last is decided.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Instant,
};

use rdkafka::error::KafkaError;
use tokio::sync::oneshot;

use super::{Outcome, Stamped};
use crate::metrics::AppendMetrics;

/// What is known of a record whose delivery failed.
#[derive(Clone, Copy)]
pub(super) enum Fate {
    NotWritten,
    Unknown,
}

/// Beside its records a batch counts the handing over: it must not be done before all of it was handed over.
pub(super) const HANDING_OVER: usize = 1;

/// Counts the records of a batch and answers when the last is decided.
pub(super) struct Batch {
    records: usize,
    left: AtomicUsize,
    undecided: Arc<AtomicUsize>,
    started: Instant,
    tally: Mutex<Tally>,
}

pub(super) struct Tally {
    pub(super) outcome: Outcome,
    done: Option<oneshot::Sender<Outcome>>,
}

impl Batch {
    pub(super) fn new(
        records: usize,
        undecided: &Arc<AtomicUsize>,
    ) -> (Arc<Self>, oneshot::Receiver<Outcome>) {
        undecided.fetch_add(records, Ordering::AcqRel);
        let (done, outcome) = oneshot::channel();
        let batch = Self {
            records,
            left: AtomicUsize::new(records + HANDING_OVER),
            undecided: Arc::clone(undecided),
            started: Instant::now(),
            tally: Mutex::new(Tally {
                outcome: Outcome::default(),
                done: Some(done),
            }),
        };
        (Arc::new(batch), outcome)
    }

    /// Held for a few instructions, by librdkafka's thread and, while it hands over, by the appending one.
    pub(super) fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many records it has.
    pub(super) fn records(&self) -> usize {
        self.records
    }

    /// Since when it waits.
    pub(super) fn since(&self) -> Instant {
        self.started
    }

    pub(super) fn is_decided(&self) -> bool {
        self.left.load(Ordering::Acquire) == 0
    }

    /// So many more of the batch are decided; the last of them answers.
    pub(super) fn decided(&self, more: usize, metrics: &AppendMetrics) {
        if self.left.fetch_sub(more, Ordering::AcqRel) > more {
            return;
        }
        let mut tally = self.tally();
        let outcome = std::mem::take(&mut tally.outcome);
        metrics.appended.inc_by(outcome.appended as u64);
        metrics.not_written.inc_by(outcome.not_written as u64);
        metrics.unknown.inc_by(outcome.unknown as u64);
        metrics.batch_records.observe(self.records as f64);
        metrics
            .ack_seconds
            .observe(self.started.elapsed().as_secs_f64());
        if let Some(done) = tally.done.take() {
            // Nobody waits any more when a request was dropped; the records are on the log all the same.
            let _ = done.send(outcome);
        }
        self.undecided.fetch_sub(self.records, Ordering::AcqRel);
    }
}

impl Tally {
    pub(super) fn append(&mut self, partition: i32, offset: i64, appended_at_ms: Option<i64>) {
        self.outcome.appended += 1;
        if let Some(appended_at_ms) = appended_at_ms {
            self.outcome.stamps.push(Stamped {
                offset,
                appended_at_ms,
            });
        }
        let last = &mut self.outcome.last;
        match last.iter_mut().find(|(known, _)| *known == partition) {
            // The largest is not known if the broker did not tell one of them.
            Some((_, largest)) if offset < 0 || *largest < 0 => *largest = -1,
            Some((_, largest)) => *largest = offset.max(*largest),
            None => last.push((partition, offset)),
        }
    }

    pub(super) fn refuse(&mut self, records: usize, refusal: KafkaError) {
        self.outcome.refused = records;
        self.outcome.not_written += records;
        self.outcome.refusal = Some(refusal);
    }

    pub(super) fn fail(&mut self, fate: Fate, failure: KafkaError) {
        match fate {
            Fate::NotWritten => self.outcome.not_written += 1,
            Fate::Unknown => self.outcome.unknown += 1,
        }
        self.outcome.error.get_or_insert(failure);
    }
}
