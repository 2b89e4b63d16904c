//! Reading one's own writes, in the same process and in others.

use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    samples::{click, order},
    world::{Process, Raw, World, http::MIN_POSITION},
};

const STATS: &str = "/v1/banners/stats/1?from=2024-01-01T00:00:00Z&to=2024-01-02T00:00:00Z";
const ORDER: &str = "/order?uid=a";

#[tokio::test]
async fn a_position_that_cannot_be_is_refused() {
    let world = World::new("nowhere").await;
    let run = world.start(["run"]).await;
    assert_eq!(run.post("/v1/orders", &order("a")).await.status, 201);
    let (clicks, orders) = (world.topic("clicks"), world.topic("orders"));
    for wrong in [
        "orders".to_owned(),
        String::new(),
        format!("{orders}/0"),
        format!("{orders}/0@-1"),
        format!("{orders}/0@1;"),
        format!("{orders}/0@99999999999999999999"),
        // Unknown: without the prefix, another topic, a partition too many.
        "orders/0@0".to_owned(),
        format!("{}/0@0", world.topic("nothing")),
        format!("{orders}/8@0"),
        format!("{orders}/99999999999@0"),
        format!("{clicks}/0@0,{orders}/8@0"),
        vec![format!("{orders}/0@0"); 257].join(","),
    ] {
        for path in [STATS, ORDER] {
            run.get_at_once(path, &wrong)
                .await
                .problem(400, "bad_request");
        }
    }
    let bytes = run
        .request(Method::GET, ORDER)
        .header(MIN_POSITION, &b"\xff"[..]);
    run.send(bytes).await.problem(400, "bad_request");
    // Past the end, by one and by far. The order's partition is the one that its look-up depends on.
    let place = world.read_topic("orders").await.remove(0);
    for offset in [1, i64::MAX] {
        let beyond = format!("{orders}/{}@{offset}", place.partition);
        run.get_at_once(ORDER, &beyond)
            .await
            .problem(400, "bad_request");
        run.get_at_once(STATS, &format!("{clicks}/0@{offset}"))
            .await
            .problem(400, "bad_request");
    }
    run.get_at_once(STATS, &format!("{clicks}/0@0"))
        .await
        .problem(400, "bad_request");
}

#[tokio::test]
async fn a_position_that_nobody_folds_ends_the_wait_in_time() {
    const WAIT_MS: u64 = 300;
    let world = World::new("behind").await;
    let mut api = world.spawn(&["api"], &[("MILLRACE_WAIT_MS", &WAIT_MS.to_string())]);
    api.ready().await;
    // Not by way of the API, which would know it from its cache.
    let emitted = world
        .millrace(
            &["emit", "order", "--file", "-", "--json"],
            &order("a").to_string(),
        )
        .await;
    let emitted: Value = serde_json::from_str(&emitted.stdout).unwrap();
    let placed = emitted["positions"][0].as_str().unwrap();
    let clicked = api.get("/v1/banners/counter/1").await;
    for (path, position) in [(ORDER, placed), (STATS, clicked.position())] {
        let began = Instant::now();
        let answer = api.get_at_once(path, position).await;
        let took = began.elapsed();
        answer.problem(503, "not_caught_up");
        assert!(
            answer
                .header("retry-after")
                .parse::<u32>()
                .is_ok_and(|seconds| seconds > 0)
        );
        let wait = Duration::from_millis(WAIT_MS);
        assert!(took >= wait && took < wait * 6, "{path} took {took:?}");
    }
    // The position of a topic that an answer does not depend on is nothing to wait for.
    assert_eq!(api.get_at_once(STATS, placed).await.body, r#"{"stats":[]}"#);
    api.get_at_once(ORDER, clicked.position())
        .await
        .problem(404, "not_found");

    let _folds = world.start(["process"]).await;
    world.caught_up("orders").await;
    world.caught_up("clicks").await;
    let both = format!("{},{}", placed, clicked.position());
    assert_eq!(api.get_at_once(ORDER, &both).await.json(), order("a"));
    assert_eq!(api.get_at_once(STATS, &both).await.status, 200);
    let twice = api.request(Method::GET, ORDER).header(MIN_POSITION, placed);
    assert_eq!(
        api.send(twice.header(MIN_POSITION, clicked.position()))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn a_position_is_reached_once_its_record_is_counted_and_not_before() {
    let world = World::new("next").await;
    let mut fold = world.start(["process", "--only", "clicks"]).await;
    let clicked = click(1, "2024-01-01T10:00:00Z");
    let value = world.writer("clicks").await.value(&clicked);
    let record = Raw::value(value).into_partition(0);
    world.append_raw("clicks", record.clone()).await;
    world.caught_up("clicks").await;
    fold.terminate().await;
    world.append_raw("clicks", record).await;
    let mut api = world.spawn(&["api"], &[("MILLRACE_WAIT_MS", "300")]);
    api.ready().await;
    let at = |offset: i64| format!("{}/0@{offset}", world.topic("clicks"));
    let counted = api.get_at_once(STATS, &at(0)).await.json();
    assert_eq!(counted["stats"][0]["v"], 1);
    let next = api.get_at_once(STATS, &at(1)).await;
    next.problem(503, "not_caught_up");
}

#[tokio::test]
async fn a_write_is_read_back_through_a_process_that_does_not_fold() {
    let world = World::new("apart").await;
    let _orders = world.start(["process", "--only", "orders"]).await;
    let _others = world
        .start(["process", "--only", "clicks,sales,sale_attempts"])
        .await;
    let api = world.start(["api"]).await;
    let run = world.start(["api"]).await;
    for (writer, reader) in [(&api, &run), (&run, &api), (&api, &api)] {
        read_back(&world, writer, reader).await;
    }
    world.must_be_what_the_log_says().await;
}

async fn read_back(world: &World, writer: &Process, reader: &Process) {
    for n in 0..10 {
        let uid = format!("{}-{}-{n}", writer.id(), reader.id());
        let placed = writer.post("/v1/orders", &order(&uid)).await;
        let path = format!("/order?uid={uid}");
        let found = reader.get_at_once(&path, placed.position()).await;
        assert_eq!(
            (found.status, found.json()),
            (200, order(&uid)),
            "{}",
            world.prefix
        );
        let clicked = writer.get(&format!("/v1/banners/counter/{n}")).await;
        let body = json!({ "from": "2020-01-01T00:00:00Z", "to": "2100-01-01T00:00:00Z" });
        let count = async |process: &Process| {
            let request = process
                .request(Method::POST, &format!("/v1/banners/stats/{n}"))
                .json(&body);
            let stats = process
                .send(request.header(MIN_POSITION, clicked.position()))
                .await
                .json();
            stats["stats"]
                .as_array()
                .unwrap()
                .iter()
                .map(|step| step["v"].as_i64().unwrap())
                .sum::<i64>()
        };
        let (there, here) = (count(reader).await, count(writer).await);
        assert!(
            there >= 1 && there == here,
            "banner {n}: {there} there, {here} here"
        );
    }
}
