//! What the API counts, and the text of `/metrics`.

mod builds;
mod http;
mod process;
mod sale;
mod segments;
mod text;

use std::sync::atomic::AtomicU64;

use processors::status::OfPartition;
use producers::metrics::{Counter, Family, Gauge, Registry};

pub use self::{
    builds::BuildMetrics,
    http::{Answered, HttpMetrics, OfRoute, UNMATCHED},
    process::ProcessMetrics,
    sale::SaleMetrics,
    segments::SegmentMetrics,
    text::text,
};

/// The label of a family whose members are told apart by one fixed word.
type OfWord = [(&'static str, &'static str); 1];
/// The labels of look-ups: which cache, and their outcome.
type OfLookup = [(&'static str, &'static str); 2];

/// What a cache did, and how large it is.
#[derive(Debug, Clone, Default)]
pub struct CacheMetrics {
    /// Answered from memory.
    pub hits: Counter,
    /// Read from Postgres.
    pub misses: Counter,
    /// Answered by a read that somebody else had begun.
    pub shared: Counter,
    /// Dropped for want of room.
    pub evictions: Counter,
    /// How many entries it has.
    pub entries: Gauge,
    /// How much memory they take, in bytes.
    pub bytes: Gauge,
}

/// What all caches did.
#[derive(Debug, Clone, Default)]
pub struct CachesMetrics {
    reads: Family<OfLookup, Counter>,
    evictions: Family<OfWord, Counter>,
    entries: Family<OfWord, Gauge>,
    bytes: Family<OfWord, Gauge>,
}

/// What the API counts.
#[derive(Debug, Clone, Default)]
pub struct ApiMetrics {
    /// Requests by route and class, how long they took, and why some were refused.
    pub http: HttpMetrics,
    /// Open connections of callers.
    pub http_connections: Gauge,
    /// The caches.
    pub caches: CachesMetrics,
    /// The flash sale.
    pub sale: SaleMetrics,
    /// The segments.
    pub segments: SegmentMetrics,
    /// Records that a projection has yet to apply.
    pub lag_records: Family<OfPartition, Gauge>,
    /// Age of the oldest record that a projection has yet to apply, in seconds.
    pub lag_seconds: Family<OfPartition, Gauge<f64, AtomicU64>>,
    /// Offset of the first record that a projection has yet to apply.
    pub next_offset: Family<OfPartition, Gauge>,
    /// The generation that is live.
    pub generation: Family<[(&'static str, String); 1], Gauge>,
    /// What is replayed or verified just now.
    pub builds: BuildMetrics,
    waiters: Family<OfWord, Gauge>,
    connections: Family<OfWord, Gauge>,
    parts: Family<[(&'static str, String); 1], Gauge>,
}

impl ApiMetrics {
    /// Makes these counters part of `/metrics`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register_collector(Box::new(self.http.clone()));
        registry.register(
            "http_connections",
            "Open connections of callers",
            self.http_connections.clone(),
        );
        registry.register(
            "waiters",
            "Requests that wait: for their append, or for a position to be reached",
            self.waiters.clone(),
        );
        registry.register(
            "postgres_connections",
            "Connections to Postgres for queries",
            self.connections.clone(),
        );
        registry.register(
            "part_up",
            "1 where a part of the process is at work, 0 where it waits or has halted: /readyz says why",
            self.parts.clone(),
        );
        self.caches.register(registry);
        self.sale.register(registry);
        self.segments.register(registry);
        self.register_projections(registry);
        self.builds.register(registry);
        let version = [("version", env!("CARGO_PKG_VERSION"))];
        let build = Family::<OfWord, Gauge>::default();
        build.get_or_create(&version).set(1);
        registry.register("build_info", "1; the version is its label", build);
    }

    fn register_projections(&self, registry: &mut Registry) {
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
            "projection_next_offset",
            "Offset of the first record that a projection has yet to apply",
            self.next_offset.clone(),
        );
        registry.register(
            "projection_generation",
            "Number of the live generation",
            self.generation.clone(),
        );
    }

    /// Shows how many requests wait for this: `append` or `position`.
    pub fn show_waiters(&self, kind: &'static str, count: usize) {
        set(&self.waiters, ("kind", kind), count);
    }

    /// Shows how many connections to Postgres are in this state: `idle` or `used`.
    pub fn show_connections(&self, state: &'static str, count: usize) {
        set(&self.connections, ("state", state), count);
    }

    /// Shows which parts of the process are at work.
    pub fn show_parts(&self, parts: &[(String, bool)]) {
        for (part, is_up) in parts {
            let label = [("part", part.clone())];
            self.parts.get_or_create(&label).set(i64::from(*is_up));
        }
    }
}

fn set(gauges: &Family<OfWord, Gauge>, label: (&'static str, &'static str), count: usize) {
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    gauges.get_or_create(&[label]).set(count);
}

impl CachesMetrics {
    /// What the cache of this name does.
    pub fn of(&self, cache: &'static str) -> CacheMetrics {
        let label = [("cache", cache)];
        let reads = |outcome| {
            let label = [("cache", cache), ("outcome", outcome)];
            self.reads.get_or_create(&label).clone()
        };
        CacheMetrics {
            hits: reads("hit"),
            misses: reads("miss"),
            shared: reads("shared"),
            evictions: self.evictions.get_or_create(&label).clone(),
            entries: self.entries.get_or_create(&label).clone(),
            bytes: self.bytes.get_or_create(&label).clone(),
        }
    }

    fn register(&self, registry: &mut Registry) {
        registry.register(
            "cache_reads",
            "Look-ups in a cache, by outcome",
            self.reads.clone(),
        );
        registry.register(
            "cache_evictions",
            "Entries dropped from a cache for want of room",
            self.evictions.clone(),
        );
        registry.register("cache_entries", "Entries of a cache", self.entries.clone());
        registry.register(
            "cache_bytes",
            "Memory that the entries of a cache take",
            self.bytes.clone(),
        );
    }
}
