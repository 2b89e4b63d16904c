//! How fast a number grows, over the last seconds.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// A number as it was seen, over the last seconds.
pub(crate) struct Pace {
    over: Duration,
    seen: VecDeque<(Instant, i64)>,
}

impl Pace {
    /// Nothing is seen yet; it will be measured over so long.
    pub(crate) fn over(over: Duration) -> Self {
        Self {
            over,
            seen: VecDeque::new(),
        }
    }

    /// What was seen last, and when.
    pub(crate) fn last(&self) -> Option<(Instant, i64)> {
        self.seen.back().copied()
    }

    /// Begins anew: the number was so large then, if that is known.
    pub(crate) fn begin(&mut self, known: Option<(Instant, i64)>) {
        self.seen.clear();
        self.seen.extend(known);
    }

    /// Growth a second, to one decimal.
    pub(crate) fn per_second(&mut self, number: i64, now: Instant) -> f64 {
        self.seen.push_back((now, number));
        let over = self.over;
        let is_old = |(at, _): &(Instant, i64)| now - *at >= over;
        while self.seen.get(1).is_some_and(is_old) {
            self.seen.pop_front();
        }
        let (since, before) = self.seen[0];
        let seconds = (now - since).as_secs_f64().max(1.0);
        let grown = (number - before).max(0) as f64;
        (grown / seconds * 10.0).round() / 10.0
    }
}
