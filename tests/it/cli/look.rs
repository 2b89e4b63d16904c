//! `millrace topics`, `describe`, `get` and `tail`: the log as a person can look into it.

use serde_json::{Value, json};

use crate::{
    samples::{click, model},
    world::{Raw, World, avro::framed},
};

const UID: &str = "b563feb7b2b84b6test";

/// A world with one order; three clicks in partition 3, a second apart; and junk, nothing and a strange schema in the
/// next three partitions.
async fn filled(name: &str) -> World {
    let world = World::new(name).await;
    let order = ["emit", "order", "--file", "-"];
    world.millrace(&order, &model().to_string()).await.lines();
    let writer = world.writer("clicks").await;
    for (n, at) in (0..).zip([
        "2024-01-01T10:00:00Z",
        "2024-01-01T10:00:01Z",
        "2024-01-01T10:00:02Z",
    ]) {
        let at_ms = at.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        let raw = Raw::value(writer.value(&click(n, at))).at(at_ms);
        world.append_raw("clicks", raw.into_partition(3)).await;
    }
    for (partition, raw) in (4..).zip([
        Raw::value("junk").key("k"),
        Raw::no_value(),
        Raw::value(framed(987_654_321, b"x")),
    ]) {
        world
            .append_raw("clicks", raw.into_partition(partition))
            .await;
    }
    world
}

impl World {
    /// What a command says in JSON.
    async fn asked(&self, args: &[&str]) -> Vec<Value> {
        let args = [args, &["--json"]].concat();
        self.millrace(&args, "").await.json_lines()
    }

    /// What `millrace topics tail` says in JSON.
    async fn tailed(&self, args: &[&str]) -> Vec<Value> {
        self.asked(&[&["topics", "tail"], args].concat()).await
    }
}

#[tokio::test]
async fn topics_can_be_listed_and_described() {
    let world = filled("list").await;
    let topics = world.asked(&["topics"]).await;
    let of = |name: &str| {
        let mut lines = topics.iter();
        lines
            .find(|line| line["topic"] == world.topic(name))
            .unwrap()
    };
    assert_eq!(
        (&of("clicks")["records"], &of("orders")["records"]),
        (&json!(6), &json!(1))
    );
    assert_eq!(of("orders")["partitions"], 8);
    for name in ["orders", &world.topic("orders")] {
        let described = &world.asked(&["topics", "describe", name]).await[0];
        assert_eq!(described["topic"], world.topic("orders"));
        assert_eq!(described["differences"], json!([]));
        assert_eq!(described["compatibility"], "FULL_TRANSITIVE");
        assert_eq!(described["versions"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn a_record_can_be_got_by_its_position() {
    let world = filled("get").await;
    let tailed = &world.tailed(&["orders"]).await[0];
    let position = format!(
        "{}/{}@{}",
        world.topic("orders"),
        tailed["partition"],
        tailed["offset"]
    );
    let got = &world.asked(&["topics", "get", &position]).await[0];
    assert_eq!((&got["value"], &got["key"]), (&model(), &json!(UID)));
    let got = world.millrace(&["topics", "get", &position], "").await;
    assert!(
        got.stdout.contains("Kiryat Mozkin") && got.stdout.contains(&position),
        "{got:?}"
    );
    for (position, words) in [
        ("clicks/3@3", "has offsets 0 to 2"),
        ("clicks/9@0", "has partitions 0 to 7"),
        ("nothing/0@0", "does not exist"),
    ] {
        let refused = world.millrace(&["topics", "get", position], "").await;
        refused.failed(1, &[words]);
    }
}

#[tokio::test]
async fn a_topic_can_be_read_from_anywhere() {
    let world = filled("tail").await;
    for (args, records) in [
        (&["clicks"][..], 6),
        (&["clicks", "--from", "end"], 0),
        (&["clicks", "--from", "2"], 1),
        (&["clicks", "--from", "-1"], 4),
        (&["clicks", "--from", "-10m"], 3),
        (&["clicks", "--limit", "2"], 2),
        (&["orders", "--key", UID], 1),
        (&["orders", "--key", "other"], 0),
    ] {
        assert_eq!(world.tailed(args).await.len(), records, "{args:?}");
    }
    let since = world.tailed(&["clicks", "--from", "2024-01-01T10:00:01Z"]);
    let since = since.await;
    let of_the_clicks = since.iter().filter(|line| line["partition"] == 3);
    assert_eq!((of_the_clicks.count(), since.len()), (2, 5));
    let keyless = ["topics", "tail", "clicks", "--key", "k"];
    let refused = world.millrace(&keyless, "").await;
    refused.failed(1, &["have no keys"]);
    let people = world.millrace(&["topics", "tail", "clicks"], "").await;
    assert_eq!(people.lines().len(), 6);
}

#[tokio::test]
async fn what_is_no_event_is_shown_as_bytes() {
    let world = filled("bytes").await;
    let all = world.tailed(&["clicks"]).await;
    let junk = all.iter().find(|line| line["partition"] == 4).unwrap();
    assert_eq!(
        (&junk["value"], &junk["bytes"], &junk["key"]),
        (&json!(null), &json!("anVuaw=="), &json!("k"))
    );
    assert!(junk["error"].is_string(), "{junk}");
}
