//! `millrace emit`: orders and clicks, from files and from nowhere.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    samples::{model, order, with},
    world::World,
};

#[tokio::test]
async fn orders_come_from_files_of_any_shape_and_all_of_them_arrive() {
    let world = World::new("files").await;
    let (a, b) = (order("a"), order("b"));
    for (text, count) in [
        (a.to_string(), "1 order"),
        (json!([a, b]).to_string(), "2 orders"),
        (format!("{a}\n{b}\n"), "2 orders"),
        (serde_json::to_string_pretty(&a).unwrap(), "1 order"),
    ] {
        let emitted = world
            .millrace(&["emit", "order", "--file", "-"], &text)
            .await;
        assert!(
            emitted.lines()[0].starts_with(&format!("{count} appended")),
            "{emitted:?}"
        );
    }
    let emitted = world
        .millrace(&["emit", "order", "--sample", "500", "--json"], "")
        .await;
    let outcome = &emitted.json_lines()[0];
    assert_eq!(
        (&outcome["appended"], &outcome["unknown"]),
        (&json!(500), &json!(0))
    );
    let ends = world.ends("orders").await;
    assert_eq!(ends.iter().sum::<i64>(), 506);
    let wanted = ends
        .iter()
        .enumerate()
        .map(|(p, end)| format!("{}/{p}@{}", world.topic("orders"), end - 1));
    assert_eq!(outcome["positions"], wanted.collect::<Value>());
    let clicked = world
        .millrace(&["emit", "click", "--banner", "9", "--count", "1000"], "")
        .await;
    assert!(
        clicked.lines()[0].starts_with("1,000 clicks appended"),
        "{clicked:?}"
    );

    let _folds = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    let rows = world.sql("SELECT count(*) FROM orders.orders").await;
    assert_eq!(rows[0]["count"], 502);
}

#[tokio::test]
async fn a_rate_is_kept() {
    let world = World::new("rate").await;
    let began = Instant::now();
    let args = [
        "emit", "click", "--banner", "1", "--count", "60", "--rate", "30",
    ];
    let emitted = world.millrace(&args, "").await;
    emitted.lines();
    let took = began.elapsed();
    assert!(took > Duration::from_millis(1_900), "{took:?}");
    let records = world.read_topic("clicks").await;
    assert_eq!(records.len(), 60);
    let times = records.iter().map(|record| record.timestamp_ms);
    let span = times.clone().max().unwrap() - times.min().unwrap();
    assert!(
        (1_700..10_000).contains(&span),
        "{span} ms from first to last"
    );
}

#[tokio::test]
async fn a_file_with_a_bad_order_is_told_by_line_and_field_and_none_of_it_is_sent() {
    let world = World::new("badfile").await;
    let bad = with(order("b"), "/items", json!([]));
    let worse = with(order("c"), "/payment/amount", json!("much"));
    let emit = async |text: &str| {
        world
            .millrace(&["emit", "order", "--file", "-"], text)
            .await
    };
    let lines = format!("{}\n{bad}\n{}\n{worse}\n", order("a"), order("d"));
    emit(&lines).await.failed(
        1,
        &[
            "stdin:2: items must have at least one item",
            "stdin:4: payment.amount must be a whole number, not a string",
            "2 bad orders; nothing was sent",
        ],
    );
    emit(&format!("{}\n{{\"order_uid\": ", order("a")))
        .await
        .failed(1, &["stdin:2", "nothing was sent"]);
    emit("nonsense")
        .await
        .failed(1, &["stdin:1", "nothing was sent"]);
    emit("").await.failed(1, &["stdin has no orders"]);
    emit("[]").await.failed(1, &["stdin has no orders"]);
    let mut unknown = model();
    unknown["colour"] = json!("red");
    emit(&unknown.to_string())
        .await
        .failed(1, &["colour is unknown"]);
    let missing = world
        .millrace(&["emit", "order", "--file", "/does/not/exist.json"], "")
        .await;
    missing.failed(1, &["cannot read /does/not/exist.json"]);
    assert_eq!(world.ends("orders").await, [0; 8]);
}

#[tokio::test]
async fn a_dry_run_sends_nothing() {
    let world = World::new("dry").await;
    let file = world
        .millrace(
            &["emit", "order", "--file", "-", "--dry-run"],
            &model().to_string(),
        )
        .await;
    assert_eq!(file.lines(), ["1 order would be sent"]);
    let sample = world
        .millrace(
            &["emit", "order", "--sample", "3", "--seed", "1", "--dry-run"],
            "",
        )
        .await;
    assert_eq!(sample.json_lines().len(), 3);
    let clicks = world
        .millrace(
            &[
                "emit",
                "click",
                "--banner",
                "1",
                "--count",
                "7",
                "--dry-run",
            ],
            "",
        )
        .await;
    assert_eq!(clicks.lines(), ["7 clicks would be sent"]);
    assert_eq!(
        (world.ends("orders").await, world.ends("clicks").await),
        (vec![0; 8], vec![0; 8])
    );
    // What a dry run prints can be sent.
    let sent = world
        .millrace(&["emit", "order", "--file", "-"], &sample.stdout)
        .await;
    sent.lines();
    let records = world.read_topic("orders").await;
    assert_eq!(records.len(), 3);
}
