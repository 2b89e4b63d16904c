//! Requests by route and class of status, and how long they took. Counting one is two additions: no lock, and no
//! allocation but at the first request of a route.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use axum::http::StatusCode;
use producers::metrics::{
    Collector, ConstCounter, DescriptorEncoder, EncodeMetric, MetricType, NoLabelSet,
};

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

/// What was answered.
#[derive(Debug, Clone, Default)]
pub struct HttpMetrics {
    /// Replaced when a route is met for the first time.
    routes: Arc<ArcSwap<BTreeMap<String, Arc<Route>>>>,
}

type Route = [Answers; CLASSES.len()];

/// The answers of a route and class.
#[derive(Debug, Default)]
struct Answers {
    /// One more than there are bounds: the last has all that is longer.
    by_duration: [AtomicU64; BOUNDS_US.len() + 1],
    sum_us: AtomicU64,
}

impl HttpMetrics {
    /// Counts an answer of the route with this template.
    pub fn observe(&self, route: &str, status: StatusCode, took: Duration) {
        let routes = self.routes.load();
        let class = usize::from(status.as_u16() / 100 - 1).min(CLASSES.len() - 1);
        match routes.get(route) {
            Some(answers) => answers[class].observe(took),
            None => self.add(route)[class].observe(took),
        }
    }

    fn add(&self, route: &str) -> Arc<Route> {
        self.routes.rcu(|routes| {
            let mut routes = BTreeMap::clone(routes);
            routes.entry(route.to_owned()).or_default();
            routes
        });
        Arc::clone(&self.routes.load()[route])
    }
}

impl Answers {
    fn observe(&self, took: Duration) {
        let us = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_US.partition_point(|bound| *bound < us);
        self.by_duration[bucket].fetch_add(1, Relaxed);
        self.sum_us.fetch_add(us, Relaxed);
    }

    fn count(&self) -> u64 {
        self.by_duration
            .iter()
            .map(|count| count.load(Relaxed))
            .sum()
    }
}

impl Collector for HttpMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let routes = self.routes.load();
        let all = || {
            routes.iter().flat_map(|(route, answers)| {
                let by_class = CLASSES.iter().zip(answers.iter());
                by_class.map(move |(class, answers)| {
                    ([("route", route.as_str()), ("class", *class)], answers)
                })
            })
        };
        let help = "Requests, by route and class of their answer's status.";
        let mut counters =
            encoder.encode_descriptor("http_requests", help, None, MetricType::Counter)?;
        for (labels, answers) in all() {
            let count = answers.count();
            if count > 0 || ALWAYS_SHOWN.contains(&labels[1].1) {
                ConstCounter::new(count).encode(counters.encode_family(&labels)?)?;
            }
        }
        let help = "Time from a request's head to the head of its answer.";
        let name = "http_request_duration_seconds";
        let mut histograms = encoder.encode_descriptor(name, help, None, MetricType::Histogram)?;
        for (labels, answers) in all() {
            let counts = answers.by_duration.iter().map(|count| count.load(Relaxed));
            let bounds = BOUNDS_US.iter().map(|us| *us as f64 / 1e6);
            let buckets: Vec<_> = bounds.chain([f64::INFINITY]).zip(counts).collect();
            let count = buckets.iter().map(|(_, count)| count).sum();
            if count > 0 {
                let sum = answers.sum_us.load(Relaxed) as f64 / 1e6;
                histograms
                    .encode_family(&labels)?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use producers::metrics::{Registry, encode};

    use super::*;

    #[test]
    fn requests_are_counted_by_route_class_and_duration() {
        let metrics = HttpMetrics::default();
        for (route, status, ms) in [
            ("/order", 200, 0),
            ("/order", 200, 1),
            ("/order", 503, 60_000),
            (UNMATCHED, 404, 2),
            ("/order", 999, 2),
        ] {
            let status = StatusCode::from_u16(status).unwrap();
            metrics.observe(route, status, Duration::from_millis(ms));
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
        ] {
            assert!(
                text.lines().any(|other| other == line),
                "no {line} in\n{text}"
            );
        }
        assert!(!text.contains("1xx") && !text.contains("3xx"), "{text}");
    }
}
