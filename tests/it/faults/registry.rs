//! The schema registry is killed and comes back.

use serde_json::{Value, json};

use super::{faults, servers::servers_to_kill};
use crate::{
    samples::{click, model},
    world::{Raw, World, avro::Writer, eventually},
};

const CLICKS: &str = include_str!("../../../schemas/avro/clicks.avsc");

/// The schema of clicks with one more field.
fn clicks_with(field: &str) -> Value {
    let mut schema: Value = serde_json::from_str(CLICKS).unwrap();
    let field = json!({ "name": field, "type": "string", "default": "" });
    schema["fields"].as_array_mut().unwrap().push(field);
    schema
}

impl World {
    async fn register_with(&self, field: &str) -> Writer {
        self.register("clicks", &clicks_with(field)).await
    }
}

#[tokio::test]
async fn an_id_that_the_registry_gave_outlives_its_death() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "ids").await;
    let mut given = Vec::new();
    for round in 0..faults(2) {
        for field in ["a", "b", "c"] {
            let field = format!("{field}{round}");
            given.push((world.register_with(&field).await.id, field));
        }
        turn.kill("registry").await;
        turn.start("registry").await;
        for (id, field) in &given {
            let url = format!("{}/schemas/ids/{id}", turn.servers().registry_url);
            let found: Value = reqwest::get(url).await.unwrap().json().await.unwrap();
            let schema: Value = serde_json::from_str(found["schema"].as_str().unwrap()).unwrap();
            assert_eq!(schema, clicks_with(field), "id {id}");
            assert_eq!(world.register_with(field).await.id, *id);
        }
    }
}

#[tokio::test]
async fn while_the_registry_is_dead_what_is_known_goes_on_and_the_rest_waits() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "registry").await;
    let mut run = world.start(["run"]).await;
    assert_eq!(run.get("/v1/banners/counter/1").await.status, 204);
    assert_eq!(run.post("/v1/orders", &model()).await.status, 201);
    world.caught_up("clicks").await;
    world.caught_up("orders").await;
    let writer = world.register_with("campaign").await;
    turn.kill("registry").await;

    assert_eq!(run.get("/v1/banners/counter/2").await.status, 204);
    world.caught_up("clicks").await;
    let mut late = world.spawn(&["api"], &[]);
    late.listening().await;
    late.not_ready_since("schemas waits: the schema registry")
        .await;
    late.get("/v1/banners/counter/3")
        .await
        .problem(503, "not_applied");
    late.post("/v1/orders", &crate::samples::order("late"))
        .await
        .problem(503, "not_applied");
    let stats = "/v1/banners/stats/1?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z";
    assert_eq!(late.get(stats).await.json()["stats"][0]["v"], 1);
    let placed = model();
    let uid = placed["order_uid"].as_str().unwrap();
    assert_eq!(late.get(&format!("/order?uid={uid}")).await.json(), placed);

    let mut event = click(4, "2026-01-01T00:00:00Z");
    event["campaign"] = json!("spring");
    world
        .append_raw("clicks", Raw::value(writer.value(&event)).into_partition(0))
        .await;
    run.not_ready_since("fold clicks waits: the schema registry")
        .await;
    assert_eq!(run.get("/v1/banners/counter/5").await.status, 204);

    turn.start("registry").await;
    run.ready_again().await;
    late.ready_again().await;
    assert_eq!(late.get("/v1/banners/counter/6").await.status, 204);
    world.must_be_what_the_log_says().await;
    let rows = world
        .sql("SELECT banner_id FROM clicks.stats ORDER BY banner_id")
        .await;
    let banners: Vec<_> = rows
        .iter()
        .map(|row| row["banner_id"].as_i64().unwrap())
        .collect();
    assert_eq!(banners, [1, 2, 4, 5, 6]);
    assert!(
        world
            .sql("SELECT * FROM millrace.dead_letters")
            .await
            .is_empty()
    );
    late.terminate().await;
    run.terminate().await;
}

#[tokio::test]
async fn an_order_of_an_unknown_schema_waits_for_the_registry_in_fold_and_cache() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "unlearned").await;
    let writer = world.writer("orders").await;
    turn.kill("registry").await;
    // It has seen no record, so it knows no schema.
    let mut run = world.spawn(&["run"], &[]);
    run.listening().await;
    eventually("all that needs no new schema is at work", async || {
        let health = run.get("/readyz").await.json();
        let reasons = health["reasons"].as_array()?;
        let is_of_schemas = |reason: &Value| reason.as_str().unwrap().contains("schema");
        reasons.iter().all(is_of_schemas).then_some(())
    })
    .await;
    let order = model();
    let uid = order["order_uid"].as_str().unwrap();
    // Whoever asked is told of the order when it comes, so the cache has to read it too.
    let path = format!("/order?uid={uid}");
    assert_eq!(run.get(&path).await.status, 404);
    let record = Raw::value(writer.value(&order)).key(uid);
    let (partition, offset) = world.append_raw("orders", record).await;
    run.not_ready_since("fold orders waits: the schema registry")
        .await;
    run.not_ready_since("cache of orders waits: the schema registry")
        .await;
    turn.start("registry").await;
    run.ready_again().await;
    world.must_be_what_the_log_says().await;
    let position = format!("{}/{partition}@{offset}", world.topic("orders"));
    let found = run.get_at(&path, &position).await;
    assert_eq!(found.status, 200, "{found:?}");
    assert_eq!(found.json(), order);
    let told = run.said(&["cache of orders", "is held up"]);
    assert!(told <= 3, "it said {told} times that it waits");
    run.terminate().await;
}
