//! Prometheus' own checker on its configuration, the alert rules and the text of `/metrics`.

use super::{said, tool};
use crate::{samples::order, world::World};

const FOLDER: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/prometheus");

async fn promtool<const N: usize>(args: [&str; N], stdin: &str) -> String {
    let mut command = tool("promtool").await;
    command.current_dir(FOLDER).args(args);
    said(command, stdin).await
}

#[tokio::test]
async fn prometheus_takes_the_configuration_and_each_alert_fires_when_it_should() {
    let checked = promtool(["check", "config", "prometheus.yml"], "").await;
    assert!(checked.contains("rules found"), "{checked}");
    promtool(["test", "rules", "alerts_test.yml"], "").await;
}

#[tokio::test]
async fn prometheus_finds_no_fault_with_the_metrics() {
    let world = World::new("promtool").await;
    let run = world.start(["run"]).await;
    run.post("/v1/orders", &order("a")).await;
    run.get("/v1/banners/counter/1").await;
    let text = run.get("/metrics").await.body;
    assert_eq!(promtool(["check", "metrics"], &text).await, "");
}
