//! The harness keeps its own promises.

use crate::world::{Raw, World};

#[tokio::test]
async fn a_world_has_topics_a_database_and_processes_of_its_own() {
    let world = World::new("harness").await;
    let mut run = world.start(["run"]).await;
    let place = world
        .append_raw("orders", Raw::value("junk").key("k").into_partition(3))
        .await;
    assert_eq!(place, (3, 0));
    let records = world.read_topic("orders").await;
    assert_eq!(records[0].value.as_deref(), Some(&b"junk"[..]));
    world.caught_up("orders").await;
    assert_eq!(
        world.sql("SELECT reason FROM millrace.dead_letters").await[0]["reason"],
        "not_framed"
    );
    run.pause();
    run.resume();
    assert_eq!(run.get("/livez").await.status, 200);
    world.must_be_what_the_log_says().await;
    run.terminate().await;
    let mut process = world.start(["process", "--only", "orders"]).await;
    process.kill();
}
