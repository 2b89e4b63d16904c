//! Counters for `/metrics`. Each layer keeps its own and registers them with the [`Registry`] of the process.

pub use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric, NoLabelSet, text::encode},
    metrics::{
        MetricType,
        counter::{ConstCounter, Counter},
        family::Family,
        gauge::{ConstGauge, Gauge},
        histogram::Histogram,
    },
    registry::Registry,
};

/// Buckets for waits that are answered, 0.5 ms to 8 s.
pub fn latency_seconds() -> Histogram {
    Histogram::new((0..15).map(|power| 0.0005 * f64::from(1 << power)))
}

/// Buckets for the records of a batch, 1 to 32,768.
pub fn batch_records() -> Histogram {
    Histogram::new((0..16).map(|power| f64::from(1 << power)))
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
    /// Troubles with the broker that the producers' client told of.
    pub troubles: Counter,
    /// Records in a batch.
    pub batch_records: Histogram,
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
            troubles: Counter::default(),
            batch_records: batch_records(),
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
            (
                "producer_broker_errors",
                "Troubles with the broker that the client of the producers told of",
                &self.troubles,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
        registry.register(
            "append_batch_records",
            "Records in a batch that is appended",
            self.batch_records.clone(),
        );
        registry.register(
            "append_ack_seconds",
            "Time from handing over a batch to its last acknowledgement",
            self.ack_seconds.clone(),
        );
    }
}
