//! Bulk appends for the command line: many events, in batches, at a rate if one is wanted, stopping at the first
//! failure so that it can say what is on the log.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

use schemas::event::Event;
use tokio_util::sync::CancellationToken;

use crate::{
    append::{Outcome, Pending},
    writer::{Context, EventWriter},
};

/// Events in a batch.
const BATCH_MAX: usize = 1_000;
/// Batches on their way at once.
const UNDER_WAY_MAX: usize = 16;
/// How often a given rate is kept up with.
const PACE: Duration = Duration::from_millis(10);

/// What became of the events.
#[derive(Debug, Default)]
pub struct Emitted {
    /// Acknowledged: on the log for good.
    pub appended: u64,
    /// Certainly not on the log, among those that were sent.
    pub not_written: u64,
    /// Perhaps on the log.
    pub unknown: u64,
    /// Per partition, the largest offset.
    pub last: Vec<(i32, i64)>,
    /// What ended it early, in words.
    pub error: Option<String>,
}

/// Appends `events` in order, keyed ones with headers and `context`; `rate` is events a second. Ends early at the first
/// failure, or when `stop` is cancelled; what is on its way by then is waited for. `progress` hears how many are
/// acknowledged.
pub async fn emit<E: Event>(
    writer: &EventWriter<E>,
    mut events: impl ExactSizeIterator<Item = E>,
    context: &Context,
    rate: Option<f64>,
    stop: &CancellationToken,
    mut progress: impl FnMut(u64),
) -> Emitted {
    let mut emitted = Emitted::default();
    let mut under_way: VecDeque<Pending> = VecDeque::new();
    let mut pace = Pace::new(rate);
    let context = E::TOPIC.keyed.then_some(context);
    while events.len() > 0 && emitted.error.is_none() {
        // The pace first: an event is made when it is due, and stamped then.
        let Some(due) = stop.run_until_cancelled(pace.next_batch()).await else {
            break;
        };
        let batch: Vec<E> = events.by_ref().take(due).collect();
        match writer.send(&batch, context) {
            Ok(pending) => under_way.push_back(pending),
            Err(refusal) => {
                emitted.not_written += batch.len() as u64;
                emitted.error = Some(refusal.to_string());
            }
        }
        if under_way.len() >= UNDER_WAY_MAX || (rate.is_some() && under_way.len() > 1) {
            emitted.wait_for_one(&mut under_way, &mut progress).await;
        }
    }
    while !under_way.is_empty() {
        emitted.wait_for_one(&mut under_way, &mut progress).await;
    }
    emitted
}

impl Emitted {
    async fn wait_for_one(
        &mut self,
        under_way: &mut VecDeque<Pending>,
        progress: &mut impl FnMut(u64),
    ) {
        let Some(pending) = under_way.pop_front() else {
            return;
        };
        let outcome = pending.outcome().await;
        self.add(&outcome);
        progress(self.appended);
        // The counts tell what is on the log; this only has to tell why not all of it is.
        if let (Some(failure), None) = (outcome.error.or(outcome.refusal), &self.error) {
            self.error = Some(failure.to_string());
        }
    }

    fn add(&mut self, outcome: &Outcome) {
        self.appended += outcome.appended as u64;
        self.not_written += outcome.not_written as u64;
        self.unknown += outcome.unknown as u64;
        for &(partition, offset) in &outcome.last {
            match self.last.iter_mut().find(|(known, _)| *known == partition) {
                Some((_, largest)) => *largest = offset.max(*largest),
                None => self.last.push((partition, offset)),
            }
        }
    }
}

/// How many events are due.
struct Pace {
    rate: Option<f64>,
    started: Instant,
    given: f64,
}

impl Pace {
    fn new(rate: Option<f64>) -> Self {
        Self {
            rate,
            started: Instant::now(),
            given: 0.0,
        }
    }

    /// The size of the next batch; waits until one is due.
    async fn next_batch(&mut self) -> usize {
        let Some(rate) = self.rate else {
            return BATCH_MAX;
        };
        loop {
            let due = self.started.elapsed().as_secs_f64() * rate + 1.0 - self.given;
            if due >= 1.0 {
                let batch = due.floor().min(BATCH_MAX as f64);
                self.given += batch;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "between 1 and BATCH_MAX"
                )]
                return batch as usize;
            }
            let until_due = ((1.0 - due) / rate).min(PACE.as_secs_f64());
            tokio::time::sleep(Duration::from_secs_f64(until_due)).await;
        }
    }
}
