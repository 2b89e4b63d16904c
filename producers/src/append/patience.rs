//! The end of a producer's patience.
//!
//! A record that waits for too long has to be answered. librdkafka would see to that (`message.timeout.ms`), but it then
//! numbers what is left anew, and the broker takes a record for a new one that it has already and only did not
//! acknowledge (librdkafka#4953). So its limit is put out of reach. At ours the producer is given up as a whole:
//! another one takes over, and what the old one still holds is purged, which means never sent again.

use std::{
    collections::VecDeque,
    num::ParseIntError,
    sync::{Arc, Mutex, PoisonError, Weak, atomic::Ordering},
    thread,
    time::{Duration, Instant},
};

use rdkafka::{
    ClientConfig,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    producer::{Producer, PurgeConfig},
    types::RDKafkaConfRes,
};
use tracing::info;

use super::{Batch, Lifetime, Producers};

/// How long a record may wait for its acknowledgement, in milliseconds; the second is the same by another name.
const SETTINGS: [&str; 2] = ["message.timeout.ms", "delivery.timeout.ms"];
/// As good as none: three weeks, and less than librdkafka's largest number.
const NO_LIMIT_MS: u64 = 2_000_000_000;
/// How far librdkafka's own limit is behind ours.
const OUT_OF_REACH: Duration = Duration::from_secs(60);
const WATCH_EVERY: Duration = Duration::from_millis(25);

/// For how long a record may wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Patience(pub(super) Duration);

impl Patience {
    /// Takes the limit that is set over, and puts librdkafka's out of reach.
    ///
    /// # Errors
    /// If it is no number.
    pub(super) fn take(config: &mut ClientConfig) -> KafkaResult<Self> {
        let mut limit_ms = NO_LIMIT_MS;
        for setting in SETTINGS {
            let Some(text) = config.get(setting) else {
                continue;
            };
            let invalid = |error: ParseIntError| {
                KafkaError::ClientConfig(
                    RDKafkaConfRes::RD_KAFKA_CONF_INVALID,
                    error.to_string(),
                    setting.to_owned(),
                    text.to_owned(),
                )
            };
            // As in librdkafka, 0 is no limit.
            limit_ms = match text.parse::<u32>().map_err(invalid)? {
                0 => NO_LIMIT_MS,
                ms => u64::from(ms).min(NO_LIMIT_MS),
            };
            config.remove(setting);
        }
        let limit = Duration::from_millis(limit_ms);
        let beyond = limit + OUT_OF_REACH;
        config.set(SETTINGS[0], beyond.as_millis().to_string());
        Ok(Self(limit))
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
        waiting.front().map(|batch| batch.since())
    }
}

fn forget_decided(waiting: &mut VecDeque<Arc<Batch>>) {
    while waiting.front().is_some_and(|batch| batch.is_decided()) {
        waiting.pop_front();
    }
}

/// Watches over a producer on a thread of its own, until it is gone.
pub(super) fn watch(producers: &Arc<Producers>, lifetime: &Arc<Lifetime>) {
    let patience = producers.patience;
    let (producers, lifetime) = (Arc::downgrade(producers), Arc::downgrade(lifetime));
    thread::spawn(move || {
        while let Some(lifetime) = lifetime.upgrade() {
            if let Some(since) = lifetime.waiting.since() {
                lose_patience(&producers, &lifetime, since.elapsed(), patience);
            }
            drop(lifetime);
            thread::sleep(WATCH_EVERY);
        }
    });
}

/// Gives a producer up, but not before another is there: who appends is not to wait until it is made.
fn lose_patience(
    producers: &Weak<Producers>,
    lifetime: &Arc<Lifetime>,
    waited: Duration,
    patience: Patience,
) {
    if waited >= patience.of_others() && !lifetime.fatal.load(Ordering::Acquire) {
        info!(
            ?waited,
            "gives up a producer whose records are not acknowledged"
        );
        if let Some(producers) = producers.upgrade() {
            producers.replace(lifetime);
        }
        lifetime.fatal.store(true, Ordering::Release);
    }
    if waited >= patience.0 {
        let everything = PurgeConfig::default().queue().inflight();
        lifetime.producer.purge(everything);
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
