//! `millrace dead-letters retry`: what is folded late counts as if it had been read at its place, and once.

use serde_json::{Value, json};
use sqlx::Connection as _;
use tokio::join;

use crate::{
    samples::{click, order, with},
    together::{lock, wait_for_a_lock},
    world::{Output, Raw, World, avro::Writer, eventually},
};

const CLICKS: &str = include_str!("../../schemas/avro/clicks.avsc");
const ORDERS: &str = include_str!("../../schemas/avro/orders.avsc");
const MINUTE: &str = "2026-01-01T00:00:00Z";
const OF_CLICKS: [&str; 7] = [
    "dead-letters",
    "retry",
    "--projection",
    "clicks",
    "--reason",
    "foreign_schema",
    "--json",
];

/// A schema of a topic with one more field, as a newer writer has it.
fn newer(schema: &str) -> Value {
    let mut schema: Value = serde_json::from_str(schema).unwrap();
    let field = json!({ "name": "campaign", "type": "string", "default": "" });
    schema["fields"].as_array_mut().unwrap().push(field);
    schema
}

fn with_campaign(mut event: Value) -> Value {
    event["campaign"] = json!("spring");
    event
}

impl World {
    /// Clicks with a schema that is not registered for their topic yet, one in each partition; not counted.
    async fn clicks_ahead_of_their_schema(&self) -> Writer {
        let writer = self.register("elsewhere", &newer(CLICKS)).await;
        let value = writer.value(&with_campaign(click(7, MINUTE)));
        let records = (0..8).map(|p| Raw::value(value.clone()).into_partition(p));
        self.append_all("clicks", records.collect()).await;
        self.caught_up("clicks").await;
        writer
    }

    async fn letters(&self) -> usize {
        self.sql("SELECT FROM millrace.dead_letters").await.len()
    }

    async fn counted(&self) -> i64 {
        let rows = self
            .sql("SELECT coalesce(sum(v), 0)::bigint AS clicks FROM clicks.stats")
            .await;
        rows[0]["clicks"].as_i64().unwrap()
    }

    async fn at(&self, topic: &str, (partition, offset): (i32, i64)) -> String {
        format!("{}/{partition}@{offset}", self.topic(topic))
    }
}

impl Output {
    /// How often a retry said this word.
    fn said(&self, word: &str) -> usize {
        let lines = self.stdout.lines();
        let lines = lines.map(|line| serde_json::from_str::<Value>(line).unwrap());
        lines.filter(|line| line["outcome"] == word).count()
    }
}

#[tokio::test]
async fn a_record_whose_schema_comes_later_counts_after_a_retry_and_every_cache_knows() {
    let world = World::new("comes_later").await;
    let (run, api) = (world.start(["run"]).await, world.start(["api"]).await);
    let writer = world.register("elsewhere", &newer(ORDERS)).await;
    let early = writer.value(&with_campaign(order("early")));
    let place = world
        .append_raw("orders", Raw::value(early).key("early"))
        .await;
    let position = world.at("orders", place).await;
    for process in [&run, &api] {
        let asked = process.get_at("/order?uid=early", &position).await;
        asked.problem(404, "not_found");
    }
    let checkpoints =
        "SELECT * FROM millrace.checkpoints WHERE projection = 'orders' ORDER BY partition";
    let before = world.sql(checkpoints).await;

    let retry = ["dead-letters", "retry", &position, "--json"];
    let tried = world.millrace(&retry, "").await;
    assert_eq!((tried.status, tried.said("stays")), (1, 1), "{tried:?}");
    world.register("orders", &newer(ORDERS)).await;
    let dry = world
        .millrace(&[&retry[..], &["--dry-run"]].concat(), "")
        .await;
    assert_eq!((dry.status, dry.said("would_be_folded")), (0, 1), "{dry:?}");
    assert_eq!(world.letters().await, 1);

    let done = world.millrace(&retry, "").await;
    assert_eq!((done.status, done.said("folded")), (0, 1), "{done:?}");
    assert_eq!(
        (world.letters().await, world.sql(checkpoints).await),
        (0, before)
    );
    for process in [&run, &api] {
        eventually("the order is there for everybody", async || {
            let found = process.get("/order?uid=early").await;
            (found.status == 200).then_some(())
        })
        .await;
    }
    world.must_be_what_the_log_says().await;
    let again = world.millrace(&retry, "").await;
    again.failed(1, &["is no dead letter"]);
}

#[tokio::test]
async fn of_two_orders_the_earlier_stands_also_if_it_is_folded_late() {
    let world = World::new("earlier").await;
    let _process = world.start(["process", "--only", "orders"]).await;
    let writer = world.register("elsewhere", &newer(ORDERS)).await;
    let early = Raw::value(writer.value(&with_campaign(order("a")))).key("a");
    let early = world.append_raw("orders", early).await;
    let other = with(order("a"), "/locale", json!("ru"));
    let later = world.writer("orders").await.value(&other);
    let later = world.append_raw("orders", Raw::value(later).key("a")).await;
    world.caught_up("orders").await;
    world.register("orders", &newer(ORDERS)).await;
    let position = world.at("orders", early).await;
    let done = world
        .millrace(&["dead-letters", "retry", &position], "")
        .await;
    assert_eq!(done.lines(), [format!("{position} folded")]);
    world.must_be_what_the_log_says().await;
    let letters = world
        .sql(r#"SELECT partition, "offset", reason FROM millrace.dead_letters"#)
        .await;
    let displaced = json!({ "partition": later.0, "offset": later.1, "reason": "order_exists" });
    assert_eq!(letters, [displaced]);
    // It contradicts the one that stands, whoever tries.
    let position = world.at("orders", later).await;
    let tried = world
        .millrace(&["dead-letters", "retry", &position], "")
        .await;
    assert!(tried.stdout.contains("stays: order_exists"), "{tried:?}");
    assert_eq!(tried.status, 1);
}

#[tokio::test]
async fn a_dead_letter_that_two_retry_at_once_counts_once() {
    let world = World::new("twice").await;
    let mut process = world.start(["process", "--only", "clicks"]).await;
    world.clicks_ahead_of_their_schema().await;
    process.terminate().await;
    world.register("clicks", &newer(CLICKS)).await;
    // Both have looked the dead letters up before either of them can do anything about them.
    let live = "SELECT FROM millrace.generations WHERE projection = 'clicks' FOR UPDATE";
    let held_up = lock(&world, live).await;
    let release = async {
        wait_for_a_lock(&world, "millrace-fold-clicks", 2).await;
        held_up.close().await.unwrap();
    };
    let (one, other, ()) = join!(
        world.millrace(&OF_CLICKS, ""),
        world.millrace(&OF_CLICKS, ""),
        release
    );
    let folded = [&one, &other].map(|output| output.said("folded"));
    assert_eq!(folded.iter().sum::<usize>(), 8, "{one:?} {other:?}");
    assert_eq!((world.letters().await, world.counted().await), (0, 8));
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn retries_and_folds_at_work_do_not_harm_one_another() {
    let world = World::new("beside_folds").await;
    let _process = world.start(["process", "--only", "clicks"]).await;
    let value = world.writer("clicks").await.value(&click(7, MINUTE));
    for _ in 0..3 {
        world.clicks_ahead_of_their_schema().await;
    }
    world.register("clicks", &newer(CLICKS)).await;
    let load = async {
        for _ in 0..20 {
            let clicks = (0..400).map(|n| Raw::value(value.clone()).into_partition(n % 8));
            let junk = (0..8).map(|p| Raw::value("junk").into_partition(p));
            let records = clicks.chain(junk).collect();
            world.append_all("clicks", records).await;
        }
    };
    let (one, other, ()) = join!(
        world.millrace(&OF_CLICKS, ""),
        world.millrace(&OF_CLICKS, ""),
        load
    );
    world.caught_up("clicks").await;
    let folded = [&one, &other].map(|output| output.said("folded"));
    assert_eq!(folded.iter().sum::<usize>(), 24, "{one:?} {other:?}");
    assert_eq!((world.letters().await, world.counted().await), (160, 8_024));
    world.must_be_what_the_log_says().await;
}

#[tokio::test]
async fn what_may_not_be_folded_late_says_why_and_stays() {
    let world = World::new("never").await;
    let _process = world.start(["process"]).await;
    let junk = || Raw::value("junk").into_partition(0);
    let click = world.append_raw("clicks", junk()).await;
    let request = world.append_raw("sales", junk()).await;
    for projection in ["clicks", "sales"] {
        world.caught_up(projection).await;
    }
    let request = world.at("sales", request).await;
    let tried = world
        .millrace(&["dead-letters", "retry", &request], "")
        .await;
    assert!(tried.stdout.contains("its verdict is given"), "{tried:?}");
    assert_eq!(tried.status, 1);
    // Another version gave it up, and might have meant something else.
    let older = "UPDATE millrace.dead_letters SET version = 0 WHERE projection = 'clicks'";
    world.execute(older).await;
    let click = world.at("clicks", click).await;
    let tried = world.millrace(&["dead-letters", "retry", &click], "").await;
    assert!(tried.stdout.contains("millrace replay clicks"), "{tried:?}");
    assert_eq!((tried.status, world.letters().await), (1, 2));
}

#[tokio::test]
async fn dead_letters_can_be_listed_by_reason_topic_and_age_and_be_summed() {
    let world = World::new("listed").await;
    let _process = world.start(["process"]).await;
    let old_ms = "2026-01-01T00:00:00Z"
        .parse::<jiff::Timestamp>()
        .unwrap()
        .as_millisecond();
    let records = vec![
        Raw::value("junk").into_partition(0).at(old_ms),
        Raw::value("junk").into_partition(1),
        Raw::no_value().into_partition(2),
    ];
    world.append_all("clicks", records).await;
    world.append_raw("orders", Raw::value("junk")).await;
    for projection in ["clicks", "orders"] {
        world.caught_up(projection).await;
    }
    let listed = async |args: &[&str]| {
        let args = [&["dead-letters", "--json"], args].concat();
        world.millrace(&args, "").await.json_lines()
    };
    for (args, count) in [
        (&[][..], 4),
        (&["--reason", "not_framed"], 3),
        (&["--topic", "clicks"], 3),
        (&["--topic", &world.topic("orders")], 1),
        (&["--since", "-1h"], 3),
        (&["--until", "-1h"], 1),
        (&["--until", "2026-01-01T00:00:00Z"], 0),
        (&["--until", "2026-01-01T00:00:01Z"], 1),
        (
            &[
                "--reason",
                "not_framed",
                "--topic",
                "clicks",
                "--since",
                "-1h",
            ],
            1,
        ),
    ] {
        assert_eq!(listed(args).await.len(), count, "{args:?}");
    }
    let summed = listed(&["--summary"]).await;
    assert_eq!(summed.len(), 3, "{summed:?}");
    let most = &summed[0];
    assert_eq!(
        (
            &most["projection"],
            &most["reason"],
            &most["count"],
            &most["oldest"]
        ),
        (
            &json!("clicks"),
            &json!("not_framed"),
            &json!(2),
            &json!("2026-01-01T00:00:00.000Z")
        )
    );
    assert_ne!(most["newest"], most["oldest"]);
    let people = world.millrace(&["dead-letters", "--summary"], "").await;
    assert_eq!(people.lines().len(), 4, "{people:?}");
}
