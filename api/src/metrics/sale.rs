//! What the sale of this process did.

use producers::metrics::{Counter, Family, Histogram, Registry, latency_seconds};

/// Which request, its verdict, and who gave it.
type OfVerdict = [(&'static str, &'static str); 3];

/// What the sale of this process did.
#[derive(Debug, Clone)]
pub struct SaleMetrics {
    verdicts: Family<OfVerdict, Counter>,
    /// From a request until its verdict by the log.
    pub settle_seconds: Histogram,
    /// Refusals that did not get to the topic of attempts.
    pub attempts_dropped: Counter,
}

impl Default for SaleMetrics {
    fn default() -> Self {
        Self {
            verdicts: Family::default(),
            settle_seconds: latency_seconds(),
            attempts_dropped: Counter::default(),
        }
    }
}

impl SaleMetrics {
    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "sale_verdicts",
            "Answers to requests of the sale, by request, verdict, and whether the log gave it or what is known here",
            self.verdicts.clone(),
        );
        registry.register(
            "sale_settle_seconds",
            "From a request of the sale until its verdict by the log",
            self.settle_seconds.clone(),
        );
        registry.register(
            "sale_attempts_dropped",
            "Refusals that needed no log and did not get to the topic of attempts",
            self.attempts_dropped.clone(),
        );
    }

    /// Counts an answer.
    pub fn count(&self, request: &'static str, verdict: &'static str, by: &'static str) {
        let label = [("request", request), ("verdict", verdict), ("by", by)];
        self.verdicts.get_or_create(&label).inc();
    }
}
