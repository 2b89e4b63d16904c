//! What the API counts, and the text of `/metrics`.

use std::sync::atomic::AtomicU64;

use processors::status::OfPartition;
use producers::metrics::{Counter, Family, Gauge, Registry, encode};

/// What a cache did.
#[derive(Debug, Clone, Default)]
pub struct CacheMetrics {
    /// Answered from memory.
    pub hits: Counter,
    /// Read from Postgres.
    pub misses: Counter,
    /// Answered by a read that somebody else had begun.
    pub shared: Counter,
}

/// What the API counts.
#[derive(Debug, Clone, Default)]
pub struct ApiMetrics {
    /// Answers by class of their status.
    pub answers: Family<[(&'static str, &'static str); 1], Counter>,
    /// The cache of the orders.
    pub orders: CacheMetrics,
    /// Records that a projection has yet to apply.
    pub lag_records: Family<OfPartition, Gauge>,
    /// Age of the oldest record that a projection has yet to apply, in seconds.
    pub lag_seconds: Family<OfPartition, Gauge<f64, AtomicU64>>,
    /// The generation that is live.
    pub generation: Family<[(&'static str, String); 1], Gauge>,
}

impl ApiMetrics {
    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_answers",
            "Answers by class of status",
            self.answers.clone(),
        );
        for (what, counter) in [
            ("hit", &self.orders.hits),
            ("miss", &self.orders.misses),
            ("shared", &self.orders.shared),
        ] {
            let labels = [
                ("cache".into(), "orders".into()),
                ("outcome".into(), what.into()),
            ];
            registry
                .sub_registry_with_labels(labels.into_iter())
                .register(
                    "cache_reads",
                    "Look-ups in a cache, by outcome",
                    counter.clone(),
                );
        }
        registry.register(
            "projection_lag_records",
            "Records that a projection has yet to apply",
            self.lag_records.clone(),
        );
        registry.register(
            "projection_lag_seconds",
            "Age of the oldest record that a projection has yet to apply",
            self.lag_seconds.clone(),
        );
        registry.register(
            "projection_generation",
            "Number of the live generation",
            self.generation.clone(),
        );
    }
}

/// All counters of the process as text (OpenMetrics).
pub fn text(registry: &Registry) -> String {
    let mut text = String::new();
    encode(&mut text, registry).expect("a String takes any text");
    text
}
