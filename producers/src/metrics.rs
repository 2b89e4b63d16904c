//! Counters for `/metrics`. Each layer keeps its own and registers them with the [`Registry`] of the process.

pub use prometheus_client::{
    encoding::{EncodeLabelSet, text::encode},
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::Registry,
};

/// Buckets for waits that are answered, 0.5 ms to 8 s.
pub fn latency_seconds() -> Histogram {
    Histogram::new((0..15).map(|power| 0.0005 * f64::from(1 << power)))
}

/// What became of appended records.
#[derive(Debug, Clone)]
pub struct AppendMetrics {
    /// Acknowledged by the broker.
    pub appended: Counter,
    /// Certainly not on the log.
    pub not_written: Counter,
    /// Perhaps on the log: the acknowledgement was lost.
    pub unknown: Counter,
    /// Producers that were replaced: they had died for good, or had waited for an acknowledgement for too long.
    pub replaced: Counter,
    /// From handing over a batch to its last acknowledgement.
    pub ack_seconds: Histogram,
}

impl Default for AppendMetrics {
    fn default() -> Self {
        Self {
            appended: Counter::default(),
            not_written: Counter::default(),
            unknown: Counter::default(),
            replaced: Counter::default(),
            ack_seconds: latency_seconds(),
        }
    }
}

impl AppendMetrics {
    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        for (name, help, counter) in [
            (
                "appends",
                "Records acknowledged by the broker",
                &self.appended,
            ),
            (
                "appends_not_written",
                "Records that are certainly not on the log",
                &self.not_written,
            ),
            (
                "appends_unknown",
                "Records that may be on the log, their acknowledgement lost",
                &self.unknown,
            ),
            (
                "producers_replaced",
                "Producers replaced: dead for good, or without an acknowledgement for too long",
                &self.replaced,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "append_ack_seconds",
            "Time from handing over a batch to its last acknowledgement",
            self.ack_seconds.clone(),
        );
    }
}
