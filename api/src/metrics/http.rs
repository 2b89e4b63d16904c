//! Requests by route and class of status, how long they took, and why some were refused. Each thread that serves counts
//! for itself, and what all have counted is summed up when somebody asks: so counting is two additions, where no other
//! thread writes, without a lock and without looking for a name.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::http::StatusCode;
use producers::metrics::{
    Collector, ConstCounter, DescriptorEncoder, EncodeMetric, MetricType, NoLabelSet,
};

use crate::error::Reason;

/// Upper bounds of the durations that are told apart, 0.5 ms to 8 s, as of every other wait.
const BOUNDS_US: [u64; 15] = {
    let mut bounds = [0; 15];
    let mut power = 0;
    while power < bounds.len() {
        bounds[power] = 500 << power;
        power += 1;
    }
    bounds
};
/// Classes of status, from 1xx on.
const CLASSES: [&str; 5] = ["1xx", "2xx", "3xx", "4xx", "5xx"];
/// Those of our answers, shown from the first request of a route on, so that a first failure is a rise from 0.
const ALWAYS_SHOWN: [&str; 3] = ["2xx", "4xx", "5xx"];
/// Where no route matched: addresses are not counted apart, as anybody can make up more of them.
pub const UNMATCHED: &str = "unmatched";
/// More than there are reasons.
const REASONS_MAX: usize = 64;

/// What was answered, by all threads.
#[derive(Debug, Clone, Default)]
pub struct HttpMetrics(Arc<Mutex<Vec<Arc<Answered>>>>);

/// What one thread has answered.
#[derive(Debug)]
pub struct Answered {
    /// Locked when a route is met for the first time, and by whoever sums up.
    routes: Mutex<BTreeMap<String, Arc<OfRoute>>>,
    refusals: [Refusals; REASONS_MAX],
}

/// What one thread has answered on one route, by class.
#[derive(Debug, Default)]
pub struct OfRoute([OfClass; CLASSES.len()]);

/// Answers of one class.
#[derive(Debug, Default)]
struct OfClass {
    /// One more than there are bounds: the last has all that is longer.
    by_duration: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

/// Refusals for one reason.
#[derive(Debug, Default)]
struct Refusals {
    /// Known from the first on.
    reason: OnceLock<&'static str>,
    count: AtomicU64,
}

impl HttpMetrics {
    /// What one more thread counts.
    pub fn of_thread(&self) -> Arc<Answered> {
        let answered = Arc::new(Answered::default());
        lock(&self.0).push(Arc::clone(&answered));
        answered
    }
}

impl Default for Answered {
    fn default() -> Self {
        Self {
            routes: Mutex::default(),
            refusals: std::array::from_fn(|_| Refusals::default()),
        }
    }
}

impl Answered {
    /// What is counted of the route with this template.
    pub fn on(&self, route: &str) -> Arc<OfRoute> {
        let mut routes = lock(&self.routes);
        Arc::clone(routes.entry(route.to_owned()).or_default())
    }

    /// Counts a refusal.
    pub fn refuse(&self, reason: Reason) {
        let refusals = &self.refusals[reason as usize];
        refusals.reason.get_or_init(|| reason.name());
        refusals.count.fetch_add(1, Relaxed);
    }
}

impl OfRoute {
    /// Counts an answer.
    pub fn observe(&self, status: StatusCode, took: Duration) {
        let class = usize::from(status.as_u16() / 100 - 1).min(CLASSES.len() - 1);
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        let answers = &self.0[class];
        answers.by_duration[bucket].fetch_add(1, Relaxed);
        answers.sum_us.fetch_add(us, Relaxed);
    }
}

fn lock<T>(counted: &Mutex<T>) -> MutexGuard<'_, T> {
    counted.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What all threads have counted.
#[derive(Default)]
struct Sums {
    routes: BTreeMap<String, [Sum; CLASSES.len()]>,
    refusals: BTreeMap<&'static str, u64>,
}

/// The answers of a route and class.
#[derive(Default)]
struct Sum {
    by_duration: [u64; BOUNDS_US.len() + 1],
    us: u64,
}

impl Sums {
    fn add(&mut self, answered: &Answered) {
        for (route, counted) in &*lock(&answered.routes) {
            let sums = self.routes.entry(route.clone()).or_default();
            sums.iter_mut()
                .zip(&counted.0)
                .for_each(|(sum, more)| sum.add(more));
        }
        for refusals in &answered.refusals {
            if let Some(reason) = refusals.reason.get() {
                *self.refusals.entry(reason).or_default() += refusals.count.load(Relaxed);
            }
        }
    }

    /// With their labels.
    fn by_class(&self) -> impl Iterator<Item = ([(&'static str, &str); 2], &Sum)> {
        self.routes.iter().flat_map(|(route, sums)| {
            let by_class = CLASSES.iter().zip(sums);
            by_class.map(move |(class, sum)| ([("route", route.as_str()), ("class", *class)], sum))
        })
    }
}

impl Sum {
    fn add(&mut self, more: &OfClass) {
        for (count, more) in self.by_duration.iter_mut().zip(&more.by_duration) {
            *count += more.load(Relaxed);
        }
        self.us += more.sum_us.load(Relaxed);
    }

    fn count(&self) -> u64 {
        self.by_duration.iter().sum()
    }
}

impl Collector for HttpMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sums = Sums::default();
        lock(&self.0).iter().for_each(|answered| sums.add(answered));
        encode_counts(&sums, &mut encoder)?;
        encode_durations(&sums, &mut encoder)?;
        encode_refusals(&sums, &mut encoder)
    }
}

fn encode_counts(sums: &Sums, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Requests, by route and class of their answer's status.";
    let mut counters =
        encoder.encode_descriptor("http_requests", help, None, MetricType::Counter)?;
    for (labels, sum) in sums.by_class() {
        if sum.count() > 0 || ALWAYS_SHOWN.contains(&labels[1].1) {
            ConstCounter::new(sum.count()).encode(counters.encode_family(&labels)?)?;
        }
    }
    Ok(())
}

fn encode_durations(sums: &Sums, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Time from a request's head to the head of its answer.";
    let name = "http_request_duration_seconds";
    let mut histograms = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
    let bounds = || BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
    for (labels, sum) in sums.by_class().filter(|(_, sum)| sum.count() > 0) {
        let bounds = bounds().chain([f64::INFINITY]);
        let buckets: Vec<_> = bounds.zip(sum.by_duration).collect();
        histograms
            .encode_family(&labels)?
            .encode_histogram::<NoLabelSet>(sum.us as f64 / 1e6, sum.count(), &buckets, None)?;
    }
    Ok(())
}

fn encode_refusals(sums: &Sums, encoder: &mut DescriptorEncoder<'_>) -> fmt::Result {
    let help = "Requests that were refused or failed, by the reason of their problem.";
    let mut counters = encoder.encode_descriptor("refusals", help, None, MetricType::Counter)?;
    for (reason, count) in &sums.refusals {
        ConstCounter::new(*count).encode(counters.encode_family(&[("reason", *reason)])?)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use producers::metrics::{Registry, encode};

    use super::*;

    #[test]
    fn requests_are_counted_by_route_class_and_duration_over_all_threads() {
        let metrics = HttpMetrics::default();
        let threads = [metrics.of_thread(), metrics.of_thread()];
        for (thread, route, status, ms) in [
            (0, "/order", 200, 0),
            (1, "/order", 200, 1),
            (0, "/order", 503, 60_000),
            (1, UNMATCHED, 404, 2),
            (1, "/order", 999, 2),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            threads[thread]
                .on(route)
                .observe(status, Duration::from_millis(ms));
        }
        for thread in &threads {
            thread.refuse(Reason::NotFound);
        }
        let mut registry = Registry::default();
        registry.register_collector(Box::new(metrics));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        for line in [
            r#"http_requests_total{route="/order",class="2xx"} 2"#,
            r#"http_requests_total{route="/order",class="4xx"} 0"#,
            r#"http_requests_total{route="/order",class="5xx"} 2"#,
            r#"http_requests_total{route="unmatched",class="4xx"} 1"#,
            r#"http_request_duration_seconds_bucket{le="0.0005",route="/order",class="2xx"} 1"#,
            r#"http_request_duration_seconds_bucket{le="0.001",route="/order",class="2xx"} 2"#,
            r#"http_request_duration_seconds_bucket{le="8.192",route="/order",class="5xx"} 1"#,
            r#"http_request_duration_seconds_bucket{le="+Inf",route="/order",class="5xx"} 2"#,
            r#"http_request_duration_seconds_sum{route="/order",class="2xx"} 0.001"#,
            r#"http_request_duration_seconds_count{route="unmatched",class="4xx"} 1"#,
            r#"refusals_total{reason="not_found"} 2"#,
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "no {line} in\n{text}"
            );
        }
        assert!(!text.contains("1xx") && !text.contains("3xx"), "{text}");
    }
}
