//! wrk: a load generator for HTTP, which counts the answers itself.

use std::ops::RangeInclusive;

use producers::clock;
use serde_json::Value;

use super::{file, said, tool};
use crate::world::{Process, World};

const CONNECTIONS: i64 = 32;
const SECONDS: &str = "3";
/// The banners of clicks.lua.
const BANNERS: RangeInclusive<i64> = 1..=5;

/// What the API says of all banners together.
async fn counted(run: &Process) -> Vec<i64> {
    let at = |ms| jiff::Timestamp::from_millisecond(ms).unwrap();
    let now = clock::now_ms();
    let range = format!("from={}&to={}", at(now - 3_600_000), at(now + 3_600_000));
    let mut counted = Vec::new();
    for banner in BANNERS {
        let path = format!("/v1/banners/stats/{banner}?{range}");
        let stats = run.get(&path).await.json();
        let steps = stats["stats"].as_array().unwrap();
        counted.push(steps.iter().map(|step| step["v"].as_i64().unwrap()).sum());
    }
    counted
}

#[tokio::test]
async fn every_click_that_wrk_saw_answered_is_counted_once() {
    let world = World::new("wrk").await;
    let mut run = world.start(["run"]).await;
    let mut wrk = tool("wrk").await;
    wrk.args(["--threads", "2", "--connections", &CONNECTIONS.to_string()])
        .args(["--duration", SECONDS, "--timeout", "30s"])
        .args(["--script", &file("clicks.lua")])
        .arg(format!("http://{}", run.address()));
    let report = said(wrk, "").await;
    let summary = report.lines().find(|line| line.starts_with('{'));
    let summary: Value = serde_json::from_str(summary.unwrap()).unwrap();
    assert_eq!(
        (&summary["other"], &summary["broken"]),
        (&0.into(), &0.into()),
        "{report}"
    );
    let answered = summary["counted"].as_i64().unwrap();
    assert!(answered > CONNECTIONS, "{report}");

    // At the end wrk cuts the connections, each with at most one request under way: that click may have been taken, and
    // its answer not seen. Once the process has stopped, nothing is under way.
    run.terminate().await;
    let run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    let counted = counted(&run).await;
    let sum: i64 = counted.iter().sum();
    assert!(
        (answered..=answered + CONNECTIONS).contains(&sum),
        "{sum} counted, {answered} answered"
    );
    assert_eq!(sum, world.ends("clicks").await.iter().sum::<i64>());
    // Each thread goes round the banners.
    assert!(counted.iter().all(|count| *count > 0), "{counted:?}");
}
