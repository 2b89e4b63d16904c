//! Where a fold begins that does not read the whole log: guessed from the time of the newest record, and proved by the
//! time that the fold has come to. See `processors/src/sales/window.rs`.

use super::{HOUR_MS, window_start_ms};

/// A time to begin at: with the first record that was stamped then or later.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub(super) from_ms: i64,
    step_ms: i64,
}

impl Start {
    /// Right if the newest record counts, and no clock was ahead before.
    pub(super) fn guessed(newest_ms: i64) -> Self {
        Self {
            from_ms: window_start_ms(newest_ms),
            step_ms: HOUR_MS,
        }
    }

    /// Whether the state is the log's, when the fold from here has come to this time of the log.
    pub(super) fn is_legal(self, last_ms: Option<i64>) -> bool {
        last_ms.is_some_and(|last_ms| self.from_ms <= window_start_ms(last_ms))
    }

    /// An earlier one, where this is not legal: the fold has come to `last_ms`, and the record before the first that it
    /// has read was stamped at `before_ms`.
    pub(super) fn earlier(self, last_ms: Option<i64>, before_ms: Option<i64>) -> Self {
        if let Some(last_ms) = last_ms {
            // More records do not make it earlier: this one is legal.
            return Self {
                from_ms: window_start_ms(last_ms),
                ..self
            };
        }
        // Nothing counted so far. A clock that was ahead is passed at once, many hours of it by ever larger steps.
        let back_ms = self.from_ms - self.step_ms;
        let before_ms = before_ms.map_or(back_ms, window_start_ms);
        Self {
            from_ms: back_ms.min(before_ms),
            step_ms: self.step_ms * 2,
        }
    }
}
