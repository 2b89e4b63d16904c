//! Refusals that needed no log go to the topic of attempts, and nobody waits for that. A full queue drops and counts
//! them rather than slowing the sale.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use producers::{metrics::Counter, writer::EventWriter};
use schemas::sale_attempts::CheckoutRefused;
use tokio_util::sync::CancellationToken;

/// Refusals that wait; more are dropped.
const WAITING_MAX: usize = 50_000;
/// How often they are sent.
const EVERY: Duration = Duration::from_millis(20);
/// The most in a batch.
const BATCH_MAX: usize = 5_000;

/// The refusals of one thread on their way to their topic.
pub struct Attempts {
    writer: Arc<EventWriter<CheckoutRefused>>,
    waiting: Mutex<Vec<CheckoutRefused>>,
    dropped: Counter,
}

impl Attempts {
    /// A way to the writer's topic; [`Self::run`] has to run beside it. `dropped` counts what did not get there.
    pub fn new(writer: Arc<EventWriter<CheckoutRefused>>, dropped: Counter) -> Self {
        Self {
            writer,
            waiting: Mutex::default(),
            dropped,
        }
    }

    /// Notes a refusal.
    pub fn note(&self, refused: CheckoutRefused) {
        let mut waiting = self.waiting();
        if waiting.len() < WAITING_MAX {
            waiting.push(refused);
            return;
        }
        drop(waiting);
        self.dropped.inc();
    }

    /// Sends what is noted until `stop`, and then what is left.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(EVERY))
            .await
            .is_some()
        {
            self.send().await;
        }
        self.send().await;
    }

    /// Waits for the acknowledgement, so that what is refused meanwhile is one batch.
    async fn send(&self) {
        let noted = std::mem::take(&mut *self.waiting());
        for batch in noted.chunks(BATCH_MAX) {
            let lost = match self.writer.send(batch, None) {
                Ok(pending) => {
                    let outcome = pending.outcome().await;
                    outcome.not_written + outcome.unknown
                }
                Err(_) => batch.len(),
            };
            self.dropped.inc_by(lost as u64);
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<CheckoutRefused>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
