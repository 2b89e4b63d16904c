//! What the clock of the broker shows, as far as acknowledgements tell.

use std::sync::atomic::{AtomicI64, Ordering};

/// For how long an acknowledgement tells how clocks differ: they may be set.
const TOLD_MS: i64 = 10_000;

/// A moment by the two clocks of this process: one that is set, and one that stands still with the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::sale) struct Moment {
    /// Milliseconds since 1970-01-01T00:00:00Z, right or wrong.
    pub(in crate::sale) wall_ms: i64,
    /// Milliseconds of this process.
    pub(in crate::sale) elapsed_ms: i64,
}

/// How far the broker's clock is ahead of each of ours at most. A record is stamped after it was sent, so what is its
/// stamp less the time at which it was sent is too much rather than too little.
#[derive(Debug)]
pub(super) struct BrokerClock {
    ahead_of_wall_ms: AtomicI64,
    ahead_of_elapsed_ms: AtomicI64,
    /// When the record was sent that told it, in milliseconds of this process.
    told_at_ms: AtomicI64,
}

impl Default for BrokerClock {
    fn default() -> Self {
        Self {
            ahead_of_wall_ms: AtomicI64::new(0),
            ahead_of_elapsed_ms: AtomicI64::new(0),
            told_at_ms: AtomicI64::new(i64::MIN / 2),
        }
    }
}

impl BrokerClock {
    /// A record of this process was stamped. Who writes at the same time has found as much: one may win in part.
    pub(super) fn tell(&self, sent: Moment, stamped_at_ms: i64) {
        self.ahead_of_wall_ms
            .store(stamped_at_ms - sent.wall_ms, Ordering::Relaxed);
        self.ahead_of_elapsed_ms
            .store(stamped_at_ms - sent.elapsed_ms, Ordering::Relaxed);
        self.told_at_ms.store(sent.elapsed_ms, Ordering::Release);
    }

    /// What it shows at most, milliseconds since 1970-01-01T00:00:00Z; none if no record told of late. If only one of our
    /// clocks was set or stood still since, that goes by the other one.
    pub(super) fn at_most(&self, now: Moment) -> Option<i64> {
        let told_at_ms = self.told_at_ms.load(Ordering::Acquire);
        if now.elapsed_ms - told_at_ms >= TOLD_MS {
            return None;
        }
        let by_wall = now.wall_ms + self.ahead_of_wall_ms.load(Ordering::Relaxed);
        let by_elapsed = now.elapsed_ms + self.ahead_of_elapsed_ms.load(Ordering::Relaxed);
        Some(by_wall.max(by_elapsed))
    }
}
