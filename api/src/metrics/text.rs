//! The text of `/metrics`, in the format that the caller reads: OpenMetrics, or the older format of Prometheus, in
//! which names of counters end in `_total` everywhere.

use std::collections::HashSet;

use producers::metrics::{Registry, encode};

const OPEN_METRICS: &str = "application/openmetrics-text";

/// The type of the text, and the text, for a caller that accepts this.
pub fn text(registry: &Registry, accept: &str) -> (&'static str, String) {
    let mut text = String::new();
    encode(&mut text, registry).expect("a String takes any text");
    if accept.contains(OPEN_METRICS) {
        return (
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
            text,
        );
    }
    ("text/plain; version=0.0.4; charset=utf-8", older(&text))
}

fn older(text: &str) -> String {
    let type_of = |line: &'_ str| {
        let (name, kind) = line.strip_prefix("# TYPE ")?.split_once(' ')?;
        (kind == "counter").then(|| name.to_owned())
    };
    let counters: HashSet<String> = text.lines().filter_map(type_of).collect();
    let mut older = String::with_capacity(text.len() + text.len() / 16);
    for line in text.lines() {
        match line.splitn(4, ' ').collect::<Vec<_>>()[..] {
            ["#", "EOF"] => {}
            ["#", what @ ("HELP" | "TYPE"), name, rest] if counters.contains(name) => {
                older.push_str(&format!("# {what} {name}_total {rest}\n"));
            }
            _ => {
                older.push_str(line);
                older.push('\n');
            }
        }
    }
    older
}

#[cfg(test)]
mod tests {
    use producers::metrics::{Counter, Gauge};

    use super::*;

    fn registry() -> Registry {
        let mut registry = Registry::default();
        registry.register("clicks", "Clicks of today", Counter::<u64>::default());
        registry.register("waiters", "Who waits", Gauge::<i64>::default());
        registry
    }

    #[test]
    fn prometheus_gets_what_it_asks_for() {
        let accept = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2";
        let (kind, text) = text(&registry(), accept);
        assert_eq!(
            kind,
            "application/openmetrics-text; version=1.0.0; charset=utf-8"
        );
        assert_eq!(
            text,
            "# HELP clicks Clicks of today.\n# TYPE clicks counter\nclicks_total 0\n\
             # HELP waiters Who waits.\n# TYPE waiters gauge\nwaiters 0\n# EOF\n"
        );
    }

    #[test]
    fn everybody_else_gets_the_older_format() {
        for accept in ["", "*/*", "text/plain"] {
            let (kind, text) = text(&registry(), accept);
            assert_eq!(kind, "text/plain; version=0.0.4; charset=utf-8");
            assert_eq!(
                text,
                "# HELP clicks_total Clicks of today.\n# TYPE clicks_total counter\nclicks_total 0\n\
                 # HELP waiters Who waits.\n# TYPE waiters gauge\nwaiters 0\n"
            );
        }
    }
}
