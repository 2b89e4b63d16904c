//! What a query asks for, compared with what there is.

use std::collections::{BTreeMap, BTreeSet};

use promql_parser::{
    label::Matcher,
    parser::{Expr, LabelModifier, VectorSelector, parse},
};

/// Labels that Prometheus adds to everything that it scrapes.
const OF_PROMETHEUS: [&str; 2] = ["instance", "job"];
/// What Prometheus itself says of a target.
const UP: &str = "up";

type Labels = BTreeMap<String, String>;

/// The series that a process shows, by name.
pub struct Metrics {
    series: BTreeMap<String, Vec<Labels>>,
    families: BTreeSet<String>,
}

impl Metrics {
    /// Reads the text of `/metrics`.
    pub fn read(text: &str) -> Self {
        let mut series: BTreeMap<String, Vec<Labels>> = BTreeMap::new();
        series.insert(UP.to_owned(), vec![Labels::new()]);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let (what, _value) = line.rsplit_once(' ').unwrap();
            let (name, labels) = what.split_once('{').unwrap_or((what, "}"));
            let labels = labels.strip_suffix('}').unwrap();
            let labels = labels
                .split_terminator("\",")
                .filter(|label| !label.is_empty());
            let label = |label: &str| {
                let (name, value) = label.split_once("=\"").unwrap();
                (name.to_owned(), value.trim_end_matches('"').to_owned())
            };
            let labels = labels.map(label).collect();
            series.entry(name.to_owned()).or_default().push(labels);
        }
        let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let families = types.map(|line| line.split(' ').next().unwrap().to_owned());
        Self {
            series,
            families: families.collect(),
        }
    }

    /// The names that are told with a type.
    pub fn families(&self) -> &BTreeSet<String> {
        &self.families
    }

    /// The labels of the series that a selector asks for, each part of which has to find some.
    fn select(&self, selector: &VectorSelector) -> BTreeSet<String> {
        let name = selector.name.as_ref().unwrap();
        let series = self.series.get(name);
        let series = series.unwrap_or_else(|| panic!("no metric {name}: {selector}"));
        assert!(selector.matchers.or_matchers.is_empty(), "{selector}");
        let theirs = |m: &&Matcher| !OF_PROMETHEUS.contains(&m.name.as_str());
        let matchers: Vec<_> = selector.matchers.matchers.iter().filter(theirs).collect();
        let is_asked_for = |labels: &&Labels| {
            let fits = |m: &&Matcher| labels.get(&m.name).is_some_and(|value| m.is_match(value));
            matchers.iter().all(fits)
        };
        let found: Vec<_> = series.iter().filter(is_asked_for).collect();
        assert!(
            !found.is_empty(),
            "nothing fits {selector} among {series:?}"
        );
        let names = found.iter().flat_map(|labels| labels.keys().cloned());
        names.chain(OF_PROMETHEUS.map(str::to_owned)).collect()
    }
}

/// The labels that the answer to a query has.
///
/// # Panics
/// If it is no query, or asks for what is not there.
pub fn labels_of(query: &str, metrics: &Metrics) -> BTreeSet<String> {
    // What Grafana puts in.
    let query = query
        .replace("$__rate_interval", "1m")
        .replace("$instance", ".*");
    let query = parse(&query).unwrap_or_else(|error| panic!("{error}: {query}"));
    labels(&query, metrics)
}

fn labels(query: &Expr, metrics: &Metrics) -> BTreeSet<String> {
    match query {
        Expr::VectorSelector(selector) => metrics.select(selector),
        Expr::MatrixSelector(range) => metrics.select(&range.vs),
        Expr::Paren(inner) => labels(&inner.expr, metrics),
        Expr::Unary(inner) => labels(&inner.expr, metrics),
        Expr::Subquery(inner) => labels(&inner.expr, metrics),
        Expr::Binary(both) => {
            let right = labels(&both.rhs, metrics);
            let left = labels(&both.lhs, metrics);
            // The answer has the labels of the left, unless that is a number.
            if left.is_empty() { right } else { left }
        }
        Expr::Call(call) => {
            let of_arguments = call
                .args
                .args
                .iter()
                .map(|argument| labels(argument, metrics));
            of_arguments.flatten().collect()
        }
        Expr::Aggregate(aggregate) => {
            let inner = labels(&aggregate.expr, metrics);
            match &aggregate.modifier {
                None => BTreeSet::new(),
                Some(LabelModifier::Include(by)) => {
                    let by: BTreeSet<_> = by.labels.iter().cloned().collect();
                    assert!(by.is_subset(&inner), "{query}: there are {inner:?}");
                    by
                }
                Some(LabelModifier::Exclude(without)) => {
                    let is_left = |label: &String| !without.labels.contains(label);
                    inner.into_iter().filter(is_left).collect()
                }
            }
        }
        Expr::NumberLiteral(_) | Expr::StringLiteral(_) => BTreeSet::new(),
        Expr::Extension(_) => panic!("not a query of Prometheus: {query}"),
    }
}
