//! What this process did about requests to the segments.

use producers::metrics::{Counter, Family, Histogram, Registry, latency_seconds};

/// Which request, and its verdict.
type OfVerdict = [(&'static str, &'static str); 2];

/// What this process did about requests to the segments.
#[derive(Debug, Clone)]
pub struct SegmentMetrics {
    verdicts: Family<OfVerdict, Counter>,
    /// From a request until its verdict.
    pub settle_seconds: Histogram,
}

impl Default for SegmentMetrics {
    fn default() -> Self {
        let metrics = Self {
            verdicts: Family::default(),
            settle_seconds: latency_seconds(),
        };
        // What should never be is shown as none: so the first is a rise.
        for request in ["create", "delete", "change"] {
            metrics.of(request, "void");
            metrics.of(request, "outcome_unknown");
        }
        metrics
    }
}

impl SegmentMetrics {
    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "segment_verdicts",
            "Answers to requests that change segments, by request and verdict",
            self.verdicts.clone(),
        );
        registry.register(
            "segment_settle_seconds",
            "From a request that changes segments until its verdict",
            self.settle_seconds.clone(),
        );
    }

    /// Counts an answer.
    pub fn count(&self, request: &'static str, verdict: &'static str) {
        self.of(request, verdict).inc();
    }

    fn of(&self, request: &'static str, verdict: &'static str) -> Counter {
        let label = [("request", request), ("verdict", verdict)];
        self.verdicts.get_or_create(&label).clone()
    }
}
