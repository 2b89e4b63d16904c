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

#[cfg(test)]
mod tests {
    use producers::{
        append::{Appender, Profile},
        kafka::Kafka,
        metrics::AppendMetrics,
    };
    use schemas::sale_attempts::Refusal;

    use super::*;

    /// On their way to a broker that does not answer; what gets nowhere is counted.
    fn attempts() -> Arc<Attempts> {
        let kafka = Kafka {
            brokers: "127.0.0.1:1".to_owned(),
            prefix: String::new(),
            properties: Vec::new(),
        };
        let appender = Appender::new(&kafka, Profile::Interactive, AppendMetrics::default());
        let writer = EventWriter::new(Arc::new(appender.unwrap()), "");
        Arc::new(Attempts::new(Arc::new(writer), Counter::default()))
    }

    fn refused(user_id: i64) -> CheckoutRefused {
        CheckoutRefused {
            user_id,
            item_id: 3,
            reason: Refusal::ItemSold,
            sale_started_at: 0,
            decided_at_offset: 0,
            requested_at: 1,
        }
    }

    #[tokio::test]
    async fn what_is_noted_before_the_end_is_sent_with_the_end() {
        let attempts = attempts();
        for user_id in 0..3 {
            attempts.note(refused(user_id));
        }
        let stop = CancellationToken::new();
        stop.cancel();
        Arc::clone(&attempts).run(stop).await;
        assert!(attempts.waiting().is_empty());
        assert_eq!(attempts.dropped.get(), 3);
    }

    #[test]
    fn more_than_can_wait_are_dropped_and_counted() {
        let attempts = attempts();
        for user_id in 0..50_002 {
            attempts.note(refused(user_id));
        }
        assert_eq!(attempts.waiting().len(), WAITING_MAX);
        assert_eq!(attempts.dropped.get(), 2);
    }
}
