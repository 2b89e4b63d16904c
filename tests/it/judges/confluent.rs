//! Confluent's Python client: its serializers, its registry client and its framing.

use producers::clock;
use serde_json::{Value, json};

use super::{file, said, tool};
use crate::{
    samples::{model, order, with},
    world::World,
};

/// Runs a script against the servers, and gives the lines that it printed.
async fn python(world: &World, script: &str, args: &[&str], stdin: &str) -> Vec<String> {
    let mut python = tool("python").await;
    python
        .arg(file(script))
        .args(args)
        .env("MILLRACE_BROKERS", &world.servers.brokers)
        .env("MILLRACE_REGISTRY_URL", &world.servers.registry_url);
    let printed = said(python, stdin).await;
    printed.lines().map(str::to_owned).collect()
}

/// All records of a topic, by Confluent's client, sorted by their keys.
async fn consume(world: &World, topic: &str) -> Vec<Value> {
    let count: i64 = world.ends(topic).await.iter().sum();
    let args = [&*world.topic(topic), &count.to_string()];
    let lines = python(world, "consume.py", &args, "").await;
    let mut records: Vec<Value> = lines
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    records.sort_by_key(|record| record["key"].to_string());
    records
}

/// Writes events with Confluent's client, and gives their positions.
async fn produce(world: &World, topic: &str, events: &[Value]) -> Vec<String> {
    let lines: String = events.iter().map(|event| format!("{event}\n")).collect();
    let positions = python(world, "produce.py", &[&world.topic(topic)], &lines).await;
    assert_eq!(positions.len(), events.len());
    positions
}

/// An order with everything that another encoder could get wrong.
fn peculiar(uid: &str) -> Value {
    let order = with(order(uid), "/delivery/name", json!("Zoë 🛒 \"Ж\" \\ \n"));
    let order = with(order, "/payment/amount", json!(i64::MAX));
    let order = with(order, "/sm_id", json!(i32::MAX));
    let items = json!([order["items"][0], order["items"][0], order["items"][0]]);
    with(order, "/items", items)
}

#[tokio::test]
async fn confluents_client_decodes_what_millrace_wrote() {
    let world = World::new("confluent_reads").await;
    let run = world.start(["run"]).await;
    let orders = [peculiar("a"), order("b"), model()];
    for order in &orders {
        assert_eq!(run.post("/v1/orders", order).await.status, 201);
    }
    let record = |order: &Value| json!({ "key": order["order_uid"], "value": order });
    assert_eq!(
        consume(&world, "orders").await,
        orders.each_ref().map(record)
    );

    let before = clock::now_ms();
    assert_eq!(run.get("/v1/banners/counter/7").await.status, 204);
    let after = clock::now_ms();
    let clicks = consume(&world, "clicks").await;
    let [click] = &clicks[..] else {
        panic!("not one click: {clicks:?}");
    };
    assert_eq!(click["key"], Value::Null);
    assert_eq!(click["value"]["banner_id"], 7);
    let received_at = click["value"]["received_at"].as_i64().unwrap();
    assert!((before..=after).contains(&received_at), "{clicks:?}");
}

#[tokio::test]
async fn millrace_serves_what_confluents_client_wrote() {
    let world = World::new("confluent_writes").await;
    let run = world.start(["run"]).await;
    let orders: Vec<_> = (0..20).map(|n| peculiar(&format!("python-{n}"))).collect();
    let events: Vec<_> = orders
        .iter()
        .map(|order| json!({ "key": order["order_uid"], "value": order }))
        .collect();
    // Reported a partition after the other: all of them together are what the read has to reflect.
    let position = produce(&world, "orders", &events).await.join(",");
    for order in &orders {
        let path = format!("/order?uid={}", order["order_uid"].as_str().unwrap());
        assert_eq!(run.get_at(&path, &position).await.json(), *order);
    }
    world.must_be_what_the_log_says().await;
    assert_eq!(
        world.sql("SELECT FROM millrace.dead_letters").await.len(),
        0
    );
}

#[tokio::test]
async fn millrace_counts_what_confluents_client_wrote() {
    let world = World::new("confluent_clicks").await;
    let run = world.start(["run"]).await;
    // 2024-01-01T00:00:30Z and a minute later.
    let click = |received_at: i64| json!({ "key": null, "value": { "banner_id": 7, "received_at": received_at } });
    let clicks = [1_704_067_230_000, 1_704_067_230_000, 1_704_067_290_000].map(click);
    let position = produce(&world, "clicks", &clicks).await.join(",");
    let path = "/v1/banners/stats/7?from=2024-01-01T00:00:00Z&to=2024-01-02T00:00:00Z";
    let stats = run.get_at(path, &position).await.json();
    let wanted = json!({ "stats": [
        { "ts": "2024-01-01T00:00:00Z", "v": 2 },
        { "ts": "2024-01-01T00:01:00Z", "v": 1 },
    ] });
    assert_eq!(stats, wanted);
    world.must_be_what_the_log_says().await;
}
