//! The dashboard and the alert rules: every query of them asks for what a running process shows.

mod queries;

use std::collections::{BTreeMap, BTreeSet};

use projections::{builds, orders};
use serde_json::Value;
use sqlx::{Connection, PgConnection};

use self::queries::{Metrics, labels_of};
use crate::{
    samples::order,
    world::{Process, Raw, World, eventually},
};

const DASHBOARD: &str = include_str!("../../docker/grafana/dashboard.json");
const ALERTS: &str = include_str!("../../docker/prometheus/alerts.yml");
/// How wide a dashboard of Grafana is.
const COLUMNS: u64 = 24;

fn panels() -> Vec<Value> {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    dashboard["panels"].as_array().unwrap().clone()
}

fn rules() -> Vec<Value> {
    let rules: Value = serde_saphyr::from_str(ALERTS).unwrap();
    rules["groups"][0]["rules"].as_array().unwrap().clone()
}

fn text<'v>(value: &'v Value, pointer: &str) -> &'v str {
    let text = value.pointer(pointer).and_then(Value::as_str);
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| panic!("no {pointer} in {value:#}"))
}

/// The metrics of a process that has met a bit of everything.
async fn of_a_busy_process(world: &World) -> (Process, String) {
    let run = world.start(["run"]).await;
    let placed = run.post("/v1/orders", &order("a")).await;
    for uid in ["a", "a", "none"] {
        let path = format!("/order?uid={uid}");
        run.get_at(&path, placed.position()).await;
    }
    run.get("/v1/banners/counter/1").await;
    run.get("/v1/banners/counter/x").await;
    let junk = Raw::value("junk").into_partition(0);
    world.append_raw("clicks", junk).await;
    world.caught_up("clicks").await;
    world.caught_up("orders").await;
    // As whoever verifies does.
    let mut builder = PgConnection::connect(&world.database_url()).await.unwrap();
    let held = builds::hold(&mut builder, &orders::PROJECTION, "verify", "somebody").await;
    held.unwrap().unwrap();
    let text = eventually("everything was looked at", async || {
        let text = run.get("/metrics").await.body;
        let is_all = [
            "millrace_projection_lag_records{",
            "millrace_projection_build_records{",
            "millrace_dead_letters_total{",
        ];
        is_all
            .iter()
            .all(|part| text.contains(part))
            .then_some(text)
    })
    .await;
    builder.close().await.unwrap();
    (run, text)
}

#[tokio::test]
async fn every_query_asks_for_what_a_running_process_shows() {
    let world = World::new("monitoring").await;
    let (_run, text) = of_a_busy_process(&world).await;
    let metrics = Metrics::read(&text);
    let mut queries = 0;
    for panel in panels() {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let shown = labels_of(self::text(target, "/expr"), &metrics);
            let legend = self::text(target, "/legendFormat");
            for label in words_between(legend, "{{", "}}") {
                assert!(shown.contains(&label), "{legend}: {target:#}");
            }
            queries += 1;
        }
    }
    for rule in rules() {
        let shown = labels_of(self::text(&rule, "/expr"), &metrics);
        for said in ["/annotations/summary", "/annotations/description"] {
            for label in words_between(self::text(&rule, said), "$labels.", " ") {
                assert!(shown.contains(&label), "{label}: {rule:#}");
            }
        }
        queries += 1;
    }
    assert!(queries > 40, "{queries}");
    // What it shows and nobody looks at would be forgotten.
    let asked = format!("{DASHBOARD}{ALERTS}");
    let looked_at = |name: &&String| !asked.contains(name.as_str());
    let forgotten: Vec<_> = metrics
        .families()
        .iter()
        .filter(looked_at)
        .cloned()
        .collect();
    assert_eq!(forgotten, ["process_virtual_memory_bytes"]);
}

/// What stands between these, each time.
fn words_between(text: &str, from: &str, to: &str) -> Vec<String> {
    let parts = text.split(from).skip(1);
    parts
        .map(|part| part.split(to).next().unwrap().trim().to_owned())
        .collect()
}

#[tokio::test]
async fn no_family_of_metrics_is_told_twice_in_either_format() {
    let world = World::new("families").await;
    let (run, _) = of_a_busy_process(&world).await;
    let open_metrics = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5";
    for accept in [open_metrics, "*/*"] {
        let request = run.request(reqwest::Method::GET, "/metrics");
        let answer = run.send(request.header("accept", accept)).await;
        let is_open = answer
            .header("content-type")
            .starts_with("application/openmetrics-text");
        assert_eq!(is_open, accept == open_metrics, "{answer:?}");
        assert_eq!(answer.body.ends_with("# EOF\n"), is_open);
        let mut told = BTreeSet::new();
        for line in answer
            .body
            .lines()
            .filter(|line| line.starts_with("# TYPE "))
        {
            assert!(told.insert(line), "twice: {line}");
            let name = line.split(' ').nth(2).unwrap();
            assert!(
                answer.body.contains(&format!("# HELP {name} ")),
                "no help: {name}"
            );
        }
    }
}

#[test]
fn the_dashboard_can_be_imported_and_read() {
    let panels = panels();
    let mut ids = BTreeSet::new();
    let mut taken = BTreeMap::new();
    for panel in &panels {
        let title = text(panel, "/title");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "id of {title}");
        let place = |side: &str| panel["gridPos"][side].as_u64().unwrap();
        assert!(place("x") + place("w") <= COLUMNS, "{title}");
        for cell in (place("y")..place("y") + place("h"))
            .flat_map(|y| (place("x")..place("x") + place("w")).map(move |x| (x, y)))
        {
            let other = taken.insert(cell, title);
            assert_eq!(other, None, "{title} at {cell:?}");
        }
        if panel["type"] == "row" {
            continue;
        }
        for pointer in ["/description", "/fieldConfig/defaults/unit"] {
            text(panel, pointer);
        }
        for target in panel["targets"].as_array().unwrap() {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    let rows: Vec<_> = panels
        .iter()
        .filter(|panel| panel["type"] == "row")
        .collect();
    let titles: Vec<_> = rows.iter().map(|row| text(row, "/title")).collect();
    assert_eq!(
        titles,
        [
            "Traffic", "Sale", "Segments", "Log", "Folds", "Cache", "Postgres", "Process"
        ]
    );
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    assert_eq!(dashboard["templating"]["list"][0]["type"], "datasource");
}

#[test]
fn every_alert_says_how_bad_it_is_and_what_to_do() {
    let mut names = BTreeSet::new();
    for rule in rules() {
        let name = text(&rule, "/alert");
        assert!(names.insert(name.to_owned()), "twice: {name}");
        text(&rule, "/for");
        text(&rule, "/annotations/summary");
        assert!(text(&rule, "/annotations/description").len() > 80, "{name}");
        let severity = text(&rule, "/labels/severity");
        assert!(["warning", "critical"].contains(&severity), "{name}");
    }
}
