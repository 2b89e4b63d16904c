//! A log, a registry or a database that is not the one that was there before: the fold halts and says what to do.

use crate::{
    samples::click,
    world::{Process, Raw, World, eventually},
};

impl Process {
    /// Waits until it says that a part has halted, and gives its words.
    async fn halted(&mut self, part: &str) -> String {
        self.listening().await;
        let beginning = format!("{part} has halted: ");
        eventually(&beginning, async || {
            let answer = self.get("/readyz").await;
            let problem = answer.json();
            let reasons = problem["reasons"].as_array()?;
            let mut reasons = reasons.iter().filter_map(|reason| reason.as_str());
            let why = reasons.find_map(|reason| reason.strip_prefix(&beginning))?;
            assert_eq!(answer.status, 503);
            Some(why.to_owned())
        })
        .await
    }
}

#[tokio::test]
async fn a_log_that_lost_records_halts_its_projection_and_says_so() {
    let world = World::new("lost").await;
    let writer = world.writer("clicks").await;
    let value = writer.value(&click(7, "2026-01-01T00:00:00Z"));
    world
        .append_raw("clicks", Raw::value(value.clone()).into_partition(3))
        .await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    run.terminate().await;
    let beyond = "UPDATE millrace.checkpoints SET next_offset = 1000 WHERE projection = 'clicks' AND partition = 3";
    world.execute(beyond).await;
    let mut run = world.spawn(&["run"], &[]);
    let why = run.halted("fold clicks").await;
    let topic = world.topic("clicks");
    assert!(why.contains(&topic) && why.contains("rebuild"), "{why}");
    // Nothing moves any more, and the others go on.
    world
        .append_raw("clicks", Raw::value(value).into_partition(4))
        .await;
    let placed = run.post("/v1/orders", &crate::samples::model()).await;
    assert_eq!(placed.status, 201, "{placed:?}");
    world.caught_up("orders").await;
    let checkpoints = world
        .sql("SELECT partition, next_offset FROM millrace.checkpoints WHERE projection = 'clicks' AND next_offset > 0")
        .await;
    assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
    assert_eq!(checkpoints[0]["next_offset"], 1_000);
    run.terminate().await;
}

#[tokio::test]
async fn a_registry_that_says_something_else_of_an_id_halts_the_projection_and_says_so() {
    let world = World::new("fingerprint").await;
    let value = world
        .writer("clicks")
        .await
        .value(&click(7, "2026-01-01T00:00:00Z"));
    let record = Raw::value(value).into_partition(0);
    world.append_raw("clicks", record.clone()).await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    run.terminate().await;
    // As if another schema had been met under this id.
    let other = "UPDATE millrace.schema_ids SET fingerprint = 'another'";
    world.execute(other).await;
    world.append_raw("clicks", record).await;
    let mut run = world.spawn(&["run"], &[]);
    let why = run.halted("fold clicks").await;
    assert!(why.contains("MILLRACE_REGISTRY_URL"), "{why}");
    let rows = world.sql("SELECT v FROM clicks.stats").await;
    assert_eq!(
        rows[0]["v"], 1,
        "read with a schema that may be the wrong one"
    );
    run.terminate().await;
}

#[tokio::test]
async fn another_topic_prefix_on_the_same_database_halts_and_says_what_to_do() {
    let world = World::new("prefix").await;
    let mut run = world.start(["run"]).await;
    run.terminate().await;
    let other = World::new("other").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_TOPIC_PREFIX", &other.prefix)]);
    for part in ["fold clicks", "fold orders"] {
        let why = run.halted(part).await;
        assert!(why.contains("a database of its own"), "{why}");
        assert!(
            why.contains(&world.prefix) && why.contains(&other.prefix),
            "{why}"
        );
    }
    run.terminate().await;
}
