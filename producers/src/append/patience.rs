//! The end of a producer's patience.
//!
//! A record that waits for too long has to be answered. librdkafka would see to that (`message.timeout.ms`), but it then
//! numbers what is left anew, and the broker takes a record for a new one that it has already and only did not
//! acknowledge (librdkafka#4953). So its limit is put out of reach. At ours the producer is given up as a whole:
//! another one takes over, and what the old one still holds is purged, which means never sent again.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    error::{KafkaError, RDKafkaErrorCode},
    producer::{Producer, PurgeConfig},
};
use tracing::info;

use super::{Batch, Lifetime};

const SETTING: &str = "message.timeout.ms";
/// How far librdkafka's own limit is behind ours.
const OUT_OF_REACH: Duration = Duration::from_secs(60);
const WATCH_EVERY: Duration = Duration::from_millis(25);

/// For how long a record may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience(pub(super) Duration);

impl Patience {
    /// Takes the limit that is set over, and puts librdkafka's out of reach.
    pub(super) fn take(config: &mut ClientConfig) -> Self {
        let set = config.get(SETTING).and_then(|text| text.parse().ok());
        // 0 is no limit.
        let limit = Duration::from_millis(set.filter(|ms| *ms > 0).unwrap_or(u64::from(u32::MAX)));
        let beyond = (limit + OUT_OF_REACH).as_millis();
        let most = u128::from(i32::MAX.unsigned_abs());
        config.set(SETTING, beyond.min(most).to_string());
        Self(limit)
    }

    /// After that, new records go to another producer, while this one may still bring its own to an end.
    fn of_others(self) -> Duration {
        self.0 * 4 / 5
    }
}

/// Batches in the order in which they came, from the oldest that is not decided.
#[derive(Default)]
pub(super) struct Waiting(Mutex<VecDeque<Arc<Batch>>>);

impl Waiting {
    pub(super) fn add(&self, batch: Arc<Batch>) {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forget_decided(&mut waiting);
        waiting.push_back(batch);
    }

    /// Since when the oldest waits.
    fn since(&self) -> Option<Instant> {
        let mut waiting = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        forget_decided(&mut waiting);
        waiting.front().map(|batch| batch.started)
    }
}

fn forget_decided(waiting: &mut VecDeque<Arc<Batch>>) {
    let is_decided = |batch: &Arc<Batch>| batch.left.load(Ordering::Acquire) == 0;
    while waiting.front().is_some_and(is_decided) {
        waiting.pop_front();
    }
}

/// Watches over a producer on a thread of its own, until it is gone.
pub(super) fn watch(lifetime: Weak<Lifetime>, patience: Patience) {
    thread::spawn(move || {
        while let Some(lifetime) = lifetime.upgrade() {
            if let Some(since) = lifetime.waiting.since() {
                lifetime.lose_patience(since.elapsed(), patience);
            }
            drop(lifetime);
            thread::sleep(WATCH_EVERY);
        }
    });
}

impl Lifetime {
    fn lose_patience(&self, waited: Duration, patience: Patience) {
        if waited >= patience.of_others() && !self.fatal.swap(true, Ordering::AcqRel) {
            info!(
                ?waited,
                "gave up a producer whose records are not acknowledged"
            );
        }
        if waited >= patience.0 {
            let everything = PurgeConfig::default().queue().inflight();
            self.producer.purge(everything);
        }
    }
}

/// A failure as it is told: what was purged had waited for too long.
pub(super) fn told(failure: &KafkaError) -> KafkaError {
    match failure.rdkafka_error_code() {
        Some(RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight) => {
            KafkaError::MessageProduction(RDKafkaErrorCode::MessageTimedOut)
        }
        _ => failure.clone(),
    }
}
