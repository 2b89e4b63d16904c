//! The command line: what it does, and what it says when that cannot be done.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    samples::{click, model, order, with},
    world::{Output, Raw, Servers, World, avro::framed},
};

const CLOSED: &str = "127.0.0.1:1";
const CLOSED_REGISTRY: &str = "http://127.0.0.1:1/apis/ccompat/v7";
const CLOSED_DATABASE: &str = "postgres://millrace@127.0.0.1:1/none";

impl Output {
    /// Asserts that it failed with this code and said all of these, in few words.
    pub fn failed(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        for words in words {
            assert!(
                self.stderr.contains(words),
                "does not say {words:?}: {self:?}"
            );
        }
        assert!(self.stderr.lines().count() <= 30, "{self:?}");
    }

    /// Asserts that it did what it was told, and gives the lines that it printed.
    fn lines(&self) -> Vec<&str> {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout.lines().collect()
    }

    /// The same for lines of JSON.
    fn json_lines(&self) -> Vec<Value> {
        let read =
            |line: &&str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        self.lines().iter().map(read).collect()
    }
}

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

#[tokio::test]
async fn a_wrong_use_is_told_before_anything_is_done() {
    let world = World::new("wrong").await;
    for (args, words) in [
        (
            &["emit", "click", "--banner", "-1"][..],
            "must be a whole number from 0",
        ),
        (
            &["emit", "click", "--banner", "abc"],
            "must be a whole number from 0",
        ),
        (
            &["emit", "click", "--banner", "1", "--count", "0"],
            "from 1",
        ),
        (
            &["emit", "click", "--banner", "1", "--rate", "-5"],
            "larger than 0",
        ),
        (&["emit", "order"], "--file"),
        (&["emit", "orders"], "unrecognized subcommand"),
        (
            &["topics", "get", "orders/1"],
            "write topic/partition@offset",
        ),
        (
            &["topics", "tail", "orders", "--from", "yesterday"],
            "write beginning, end",
        ),
        (&["process", "--only", "everything"], "clicks, orders"),
        (&["dead-letters", "--projection", "none"], "clicks, orders"),
        (&["--topic-prefix", "a b", "topics"], "names of topics"),
        (&["api", "--listen", "nowhere"], "--listen"),
        (&[], "Usage"),
    ] {
        world.millrace(args, "").await.failed(2, &[words]);
    }
    assert_eq!(
        (world.ends("orders").await, world.ends("clicks").await),
        (vec![0; 8], vec![0; 8])
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_named_with_what_to_do() {
    let world = World::new("away").await;
    let began = Instant::now();
    let click = ["emit", "click", "--banner", "1"];
    let no_broker = world
        .millrace_with(&click, "", &[("MILLRACE_BROKERS", CLOSED)])
        .await;
    no_broker.failed(1, &[CLOSED, "MILLRACE_BROKERS"]);
    let no_registry = world
        .millrace_with(&click, "", &[("MILLRACE_REGISTRY_URL", CLOSED_REGISTRY)])
        .await;
    no_registry.failed(1, &[CLOSED_REGISTRY, "MILLRACE_REGISTRY_URL"]);
    let no_registry = world
        .millrace_with(
            &["topics", "apply"],
            "",
            &[("MILLRACE_REGISTRY_URL", CLOSED_REGISTRY)],
        )
        .await;
    no_registry.failed(1, &[CLOSED_REGISTRY, "MILLRACE_REGISTRY_URL"]);
    for args in [&["lag"][..], &["dead-letters"]] {
        let no_database = world
            .millrace_with(args, "", &[("DATABASE_URL", CLOSED_DATABASE)])
            .await;
        no_database.failed(1, &["127.0.0.1:1/none", "DATABASE_URL"]);
        let unprepared = world.millrace(args, "").await;
        unprepared.failed(1, &[&world.database, "millrace run"]);
        let no_address = world
            .millrace_with(args, "", &[("DATABASE_URL", "nonsense")])
            .await;
        no_address.failed(1, &["postgres://user@host:port/database"]);
    }
    for args in [
        &["topics"][..],
        &["topics", "tail", "orders"],
        &["topics", "describe", "orders"],
    ] {
        let no_broker = world
            .millrace_with(args, "", &[("MILLRACE_BROKERS", CLOSED)])
            .await;
        no_broker.failed(1, &[CLOSED, "MILLRACE_BROKERS"]);
    }
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.ends("clicks").await, [0; 8]);
}

#[tokio::test]
async fn topics_that_are_missing_are_named_with_what_to_do() {
    let world = World::without_topics(Servers::default(), "missing").await;
    let apply = "run `millrace topics apply`";
    let (clicks, orders) = (world.topic("clicks"), world.topic("orders"));
    let click = world
        .millrace(&["emit", "click", "--banner", "1"], "")
        .await;
    click.failed(1, &[&format!("topic {clicks} does not exist"), apply]);
    let order = world
        .millrace(&["emit", "order", "--file", "-"], &model().to_string())
        .await;
    order.failed(1, &[&format!("topic {orders} does not exist"), apply]);
    // By its full name: `orders` may be the topic of an installation without a prefix.
    let tail = world.millrace(&["topics", "tail", &orders], "").await;
    tail.failed(1, &[&orders, "millrace topics apply"]);

    let dry = world.millrace(&["topics", "apply", "--dry-run"], "").await;
    assert_eq!(
        dry.lines(),
        [
            format!("{clicks}: would be created"),
            format!("{orders}: would be created")
        ]
    );
    let applied = world.millrace(&["topics", "apply"], "").await;
    assert_eq!(
        applied.lines(),
        [format!("{clicks}: created"), format!("{orders}: created")]
    );
    let again = world.millrace(&["topics", "apply"], "").await;
    assert_eq!(
        again.lines(),
        [
            format!("{clicks}: as it has to be"),
            format!("{orders}: as it has to be")
        ]
    );
    assert_eq!(world.ends("orders").await, [0; 8]);
    world.drop_topics().await;
}

#[tokio::test]
async fn a_topic_that_is_not_as_it_has_to_be_is_told_and_left_alone() {
    let world = World::without_topics(Servers::default(), "differs").await;
    world.create_topic("clicks", 3, &[]).await;
    let applied = world.millrace(&["topics", "apply"], "").await;
    applied.failed(1, &["nothing was altered"]);
    assert!(
        applied.stdout.contains("has 3 partitions, needs 8"),
        "{applied:?}"
    );
    assert_eq!(world.ends("clicks").await, [0; 3]);
    let click = world
        .millrace(&["emit", "click", "--banner", "1"], "")
        .await;
    click.failed(1, &["has 3 partitions where 8 are needed"]);
    world.drop_topics().await;
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_told() {
    let world = World::new("port").await;
    let api = world.start(["api"]).await;
    let address = api.address().to_owned();
    for command in ["api", "run"] {
        let second = world.millrace(&[command, "--listen", &address], "").await;
        second.failed(1, &["cannot listen on", &address, "MILLRACE_LISTEN"]);
    }
    let open = world.millrace(&["api", "--listen", "0.0.0.0:0"], "").await;
    open.failed(1, &["--behind-proxy"]);
    assert_eq!(api.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_database_belongs_to_one_prefix() {
    let world = World::new("prefix").await;
    world.start(["run"]).await.terminate().await;
    let other = World::new("other").await;
    let mut run = other.spawn(&["run"], &[("DATABASE_URL", &world.database_url())]);
    let halted = run
        .logged("it halts", |line| line["message"] == "has halted")
        .await;
    let why = halted["why"].as_str().unwrap();
    assert!(
        why.contains("give each topic prefix a database of its own"),
        "{why}"
    );
    run.listening().await;
    assert_eq!(run.get("/readyz").await.status, 503);
    run.terminate().await;
    let lag = other
        .millrace_with(&["lag"], "", &[("DATABASE_URL", &world.database_url())])
        .await;
    lag.failed(1, &["give each topic prefix a database of its own"]);
}

#[tokio::test]
async fn the_log_can_be_looked_into() {
    let world = World::new("look").await;
    let emitted = world
        .millrace(
            &["emit", "order", "--file", "-", "--json"],
            &model().to_string(),
        )
        .await;
    let position = emitted.json_lines()[0]["positions"][0]
        .as_str()
        .unwrap()
        .to_owned();
    let writer = world.writer("clicks").await;
    for (n, at) in (0..).zip([
        "2024-01-01T10:00:00Z",
        "2024-01-01T10:00:01Z",
        "2024-01-01T10:00:02Z",
    ]) {
        let at_ms = at.parse::<jiff::Timestamp>().unwrap().as_millisecond();
        world
            .append_raw(
                "clicks",
                Raw::value(writer.value(&click(n, at)))
                    .into_partition(3)
                    .at(at_ms),
            )
            .await;
    }
    world
        .append_raw("clicks", Raw::value("junk").key("k").into_partition(4))
        .await;
    world
        .append_raw("clicks", Raw::no_value().into_partition(5))
        .await;
    world
        .append_raw(
            "clicks",
            Raw::value(framed(987_654_321, b"x")).into_partition(6),
        )
        .await;

    let topics = world.millrace(&["topics", "--json"], "").await.json_lines();
    let topics = if topics.len() == 1 && topics[0].is_array() {
        topics[0].as_array().unwrap().clone()
    } else {
        topics
    };
    let of = |name: &str| {
        topics
            .iter()
            .find(|line| line["topic"] == world.topic(name))
            .unwrap()
    };
    assert_eq!(
        (&of("clicks")["records"], &of("orders")["records"]),
        (&json!(6), &json!(1))
    );
    assert_eq!(of("orders")["partitions"], 8);

    for name in ["orders", &world.topic("orders")] {
        let described = world
            .millrace(&["topics", "describe", name, "--json"], "")
            .await
            .json_lines()
            .remove(0);
        assert_eq!(described["topic"], world.topic("orders"));
        assert_eq!(described["differences"], json!([]));
        assert_eq!(described["compatibility"], "FULL_TRANSITIVE");
        assert_eq!(described["versions"].as_array().unwrap().len(), 1);
    }

    let got = world
        .millrace(&["topics", "get", &position, "--json"], "")
        .await
        .json_lines()
        .remove(0);
    assert_eq!(
        (&got["value"], &got["key"]),
        (&model(), &json!("b563feb7b2b84b6test"))
    );
    let got = world.millrace(&["topics", "get", &position], "").await;
    assert!(
        got.stdout.contains("Kiryat Mozkin") && got.stdout.contains(&position),
        "{got:?}"
    );
    let beyond = world.millrace(&["topics", "get", "clicks/3@3"], "").await;
    beyond.failed(1, &["has offsets 0 to 2"]);
    world
        .millrace(&["topics", "get", "clicks/9@0"], "")
        .await
        .failed(1, &["has partitions 0 to 7"]);
    world
        .millrace(&["topics", "get", "nothing/0@0"], "")
        .await
        .failed(1, &["does not exist"]);

    let tail = async |args: &[&str]| {
        let args = [&["topics", "tail", "--json"], args].concat();
        world.millrace(&args, "").await.json_lines()
    };
    assert_eq!(tail(&["clicks"]).await.len(), 6);
    let junk = tail(&["clicks"])
        .await
        .into_iter()
        .find(|line| line["partition"] == 4)
        .unwrap();
    assert_eq!(
        (&junk["value"], &junk["bytes"], &junk["key"]),
        (&json!(null), &json!("anVuaw=="), &json!("k"))
    );
    assert!(junk["error"].is_string(), "{junk}");
    assert_eq!(tail(&["clicks", "--from", "end"]).await.len(), 0);
    assert_eq!(tail(&["clicks", "--from", "2"]).await.len(), 1);
    assert_eq!(tail(&["clicks", "--from", "-1"]).await.len(), 4);
    assert_eq!(tail(&["clicks", "--limit", "2"]).await.len(), 2);
    let since = tail(&["clicks", "--from", "2024-01-01T10:00:01Z"]).await;
    assert_eq!(
        since.iter().filter(|line| line["partition"] == 3).count(),
        2
    );
    assert_eq!(since.len(), 5);
    assert_eq!(tail(&["clicks", "--from", "-10m"]).await.len(), 3);
    assert_eq!(
        tail(&["orders", "--key", "b563feb7b2b84b6test"])
            .await
            .len(),
        1
    );
    assert_eq!(tail(&["orders", "--key", "other"]).await.len(), 0);
    world
        .millrace(&["topics", "tail", "clicks", "--key", "k"], "")
        .await
        .failed(1, &["have no keys"]);
    let people = world.millrace(&["topics", "tail", "clicks"], "").await;
    assert_eq!(people.lines().len(), 6);
}

#[tokio::test]
async fn what_could_not_be_folded_and_what_is_behind_can_be_seen() {
    let world = World::new("letters").await;
    world.start(["process"]).await.terminate().await;
    let lag = world
        .millrace(&["lag", "--json"], "")
        .await
        .json_lines()
        .remove(0);
    assert_eq!(lag["total"]["records"], 0);
    let (partition, offset) = world
        .append_raw("clicks", Raw::value("junk\u{1b}[31m").into_partition(4))
        .await;
    world
        .millrace(&["emit", "click", "--banner", "1", "--count", "500"], "")
        .await
        .lines();
    let lag = world
        .millrace(&["lag", "--json"], "")
        .await
        .json_lines()
        .remove(0);
    assert_eq!(lag["total"]["records"], 501, "{lag}");
    let none = world.millrace(&["dead-letters", "--json"], "").await;
    assert_eq!(none.lines(), [""; 0]);

    let _folds = world.start(["process"]).await;
    world.caught_up("clicks").await;
    let lag = world
        .millrace(&["lag", "--json"], "")
        .await
        .json_lines()
        .remove(0);
    assert_eq!(
        (&lag["total"]["records"], &lag["total"]["seconds"]),
        (&json!(0), &json!(0.0))
    );
    assert!(world.millrace(&["lag"], "").await.lines().len() > 8);
    let position = format!("{}/{partition}@{offset}", world.topic("clicks"));
    let letters = world
        .millrace(&["dead-letters", "--json"], "")
        .await
        .json_lines();
    assert_eq!(letters.len(), 1);
    assert_eq!(
        (&letters[0]["position"], &letters[0]["reason"]),
        (&json!(position), &json!("not_framed"))
    );
    let others = world
        .millrace(&["dead-letters", "--projection", "orders", "--json"], "")
        .await;
    assert_eq!(others.lines().len(), 0);
    let listed = world.millrace(&["dead-letters"], "").await;
    assert!(
        listed.stdout.contains(&position) && listed.stdout.contains("not_framed"),
        "{listed:?}"
    );
    let shown = world
        .millrace(&["dead-letters", "show", &position], "")
        .await;
    assert!(
        shown.stdout.contains("not_framed") && shown.stdout.contains("junk"),
        "{shown:?}"
    );
    assert!(
        !shown.stdout.contains('\u{1b}'),
        "junk reaches the terminal: {shown:?}"
    );
    let good = format!("{}/0@0", world.topic("clicks"));
    let good = world.millrace(&["dead-letters", "show", &good], "").await;
    assert_eq!(good.status, 1, "{good:?}");
}
