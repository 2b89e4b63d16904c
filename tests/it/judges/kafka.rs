//! Kafka's own command line tools, on the Java client.

use std::collections::{BTreeMap, BTreeSet};

use producers::partition;
use reqwest::Method;

use super::{path, said, tool};
use crate::{
    samples::order,
    world::{World, eventually},
};

const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

/// Runs one of the tools of `org.apache.kafka.tools`.
pub async fn kafka(world: &World, class: &str, args: &[&str], stdin: &str) -> String {
    let mut java = tool("java").await;
    java.args(["-XX:TieredStopAtLevel=1", "-cp"])
        .arg(format!("{}/*", path("kafka").await))
        // Its logs would stand among what it prints.
        .arg("-Dorg.apache.logging.log4j.level=OFF")
        .arg(format!("org.apache.kafka.tools.{class}"))
        .args(["--bootstrap-server", &world.servers.brokers])
        .args(args);
    said(java, stdin).await
}

/// A record as the console consumer prints it.
#[derive(Debug)]
struct Consumed {
    partition: i32,
    headers: BTreeMap<String, String>,
    key: String,
    /// Magic byte, schema id, datum.
    value: Vec<u8>,
}

/// Everything on a topic.
async fn consume(world: &World, topic: &str) -> Vec<Consumed> {
    let count: i64 = world.ends(topic).await.iter().sum();
    let (topic, count) = (world.topic(topic), count.to_string());
    let mut args = vec!["--topic", &topic, "--from-beginning"];
    args.extend(["--max-messages", &count, "--timeout-ms", "30000"]);
    for property in [
        "print.partition=true",
        "print.headers=true",
        "print.key=true",
        // Printable characters as they are, other bytes as \xHH: a record is a line.
        "value.deserializer=org.apache.kafka.common.serialization.BytesDeserializer",
    ] {
        args.extend(["--property", property]);
    }
    let printed = kafka(world, "consumer.ConsoleConsumer", &args, "").await;
    printed.lines().map(consumed).collect()
}

fn consumed(line: &str) -> Consumed {
    let fields: Vec<_> = line.split('\t').collect();
    let [partition, headers, key, value] = fields[..] else {
        panic!("not four fields: {line}");
    };
    let headers = headers.split(',').filter_map(|header| {
        let (name, value) = header.split_once(':')?;
        Some((name.to_owned(), value.to_owned()))
    });
    Consumed {
        partition: partition
            .strip_prefix("Partition:")
            .unwrap()
            .parse()
            .unwrap(),
        headers: headers.collect(),
        key: key.to_owned(),
        value: bytes(value),
    }
}

/// The bytes that Kafka's `Bytes` prints this way.
fn bytes(printed: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = printed;
    while let Some(first) = rest.bytes().next() {
        let (byte, length) = match rest.strip_prefix("\\x") {
            Some(hex) => (u8::from_str_radix(&hex[..2], 16).unwrap(), 4),
            None => (first, 1),
        };
        bytes.push(byte);
        rest = &rest[length..];
    }
    bytes
}

#[tokio::test]
async fn kafkas_console_consumer_reads_orders_with_their_keys_headers_and_frames() {
    let world = World::new("console_orders").await;
    let run = world.start(["run"]).await;
    let traced = run
        .request(Method::POST, "/v1/orders")
        .header("traceparent", TRACEPARENT)
        .json(&order("traced"));
    assert_eq!(run.send(traced).await.status, 201);
    let emit = ["emit", "order", "--sample", "40", "--seed", "7", "--json"];
    assert_eq!(world.millrace(&emit, "").await.status, 0);
    world.caught_up("orders").await;

    let records = consume(&world, "orders").await;
    assert_eq!(records.len(), 41);
    let rows = world.sql("SELECT order_uid FROM orders.orders").await;
    let placed: BTreeSet<_> = rows
        .iter()
        .map(|row| row["order_uid"].as_str().unwrap())
        .collect();
    let keys: BTreeSet<_> = records.iter().map(|record| record.key.as_str()).collect();
    assert_eq!(keys, placed);

    let id = world.writer("orders").await.id.to_be_bytes();
    let mut event_ids = BTreeSet::new();
    for record in &records {
        assert_eq!(record.value[..5], [&[0], &id[..]].concat(), "{record:?}");
        let uid = record.key.as_bytes();
        // The datum begins with the uid: its length, zigzag encoded, and its bytes.
        let length = u8::try_from(uid.len() * 2).unwrap();
        assert!(
            record.value[5..].starts_with(&[&[length], uid].concat()),
            "{record:?}"
        );
        for (header, value) in [
            ("ce_specversion", "1.0"),
            ("ce_source", "/millrace"),
            ("ce_type", "millrace.orders.OrderPlaced"),
            ("content-type", "application/vnd.confluent.avro"),
        ] {
            assert_eq!(
                record.headers.get(header).map(String::as_str),
                Some(value),
                "{record:?}"
            );
        }
        assert!(record.headers.contains_key("ce_time"), "{record:?}");
        event_ids.insert(&record.headers["ce_id"]);
    }
    assert_eq!(event_ids.len(), 41, "an event id for each");
    let traced = records
        .iter()
        .find(|record| record.key == "traced")
        .unwrap();
    // The same trace, in a step of its own.
    let steps = [TRACEPARENT, &traced.headers["traceparent"]];
    let [asked, written] = steps.map(|step| step.split('-').collect::<Vec<_>>());
    assert_eq!(written[1], asked[1]);
    assert_ne!(written[2], asked[2]);
}

#[tokio::test]
async fn kafkas_console_consumer_reads_clicks_without_keys() {
    let world = World::new("console_clicks").await;
    let run = world.start(["run"]).await;
    for banner in 0..30 {
        let path = format!("/v1/banners/counter/{banner}");
        assert_eq!(run.get(&path).await.status, 204);
    }
    let records = consume(&world, "clicks").await;
    assert_eq!(records.len(), 30);
    let id = world.writer("clicks").await.id.to_be_bytes();
    let mut banners = BTreeSet::new();
    for record in records {
        assert!((0..8).contains(&record.partition), "{record:?}");
        assert_eq!(record.key, "null");
        assert_eq!(record.headers, BTreeMap::new());
        assert_eq!(record.value[..5], [&[0], &id[..]].concat(), "{record:?}");
        // A long below 64, zigzag encoded.
        banners.insert(record.value[5] / 2);
    }
    assert_eq!(banners, (0..30).collect());
}

#[tokio::test]
async fn kafkas_group_command_sees_no_lag_when_all_is_folded() {
    let world = World::new("groups").await;
    let mut run = world.start(["run"]).await;
    let emit = ["emit", "order", "--sample", "60", "--seed", "3"];
    assert_eq!(world.millrace(&emit, "").await.status, 0);
    world.caught_up("orders").await;
    // Committed offsets are only a gauge; at the end they are what was folded.
    run.terminate().await;
    let ends = world.ends("orders").await;
    let group = world.topic("millrace-orders");
    let args = ["--describe", "--group", &group];
    let described = kafka(&world, "consumer.group.ConsumerGroupCommand", &args, "").await;
    // GROUP TOPIC PARTITION CURRENT-OFFSET LOG-END-OFFSET LAG …
    let mut seen = BTreeMap::new();
    for line in described.lines().filter(|line| line.starts_with(&group)) {
        let columns: Vec<_> = line.split_whitespace().collect();
        assert_eq!(columns[1], world.topic("orders"), "{described}");
        seen.insert(
            columns[2].parse::<usize>().unwrap(),
            (columns[3], columns[5]),
        );
    }
    for (partition, end) in ends.iter().enumerate() {
        if *end > 0 {
            let wanted = (end.to_string(), "0".to_owned());
            let (offset, lag) = seen[&partition];
            assert_eq!((offset.to_owned(), lag.to_owned()), wanted, "{described}");
        }
    }
}

#[tokio::test]
async fn a_key_lies_where_kafkas_own_producer_puts_it() {
    let world = World::new("partitioner").await;
    let keys: Vec<_> = (0..200)
        .map(|n| {
            "ключ-é-🛒"
                .chars()
                .cycle()
                .take(n % 17 + 1)
                .collect::<String>()
                + &n.to_string()
        })
        .collect();
    let lines: String = keys.iter().map(|key| format!("{key}\tjunk\n")).collect();
    let topic = world.topic("orders");
    let args = ["--topic", &topic, "--property", "parse.key=true"];
    kafka(&world, "ConsoleProducer", &args, &lines).await;
    let records = world.read_topic("orders").await;
    let mut wanted: Vec<_> = keys.iter().map(|key| key.as_bytes().to_vec()).collect();
    let mut found: Vec<_> = records
        .iter()
        .map(|record| record.key.clone().unwrap())
        .collect();
    wanted.sort_unstable();
    found.sort_unstable();
    assert_eq!(found, wanted);
    for record in records {
        let key = record.key.unwrap();
        assert_eq!(record.partition, partition::of_key(&key, 8), "{key:?}");
    }
    // What a Java client writes is judged by what it is, and not by where it lies.
    let _run = world.start(["run"]).await;
    let query = "SELECT reason, count(*) FROM millrace.dead_letters GROUP BY 1";
    let dead = eventually("all of it is a dead letter", async || {
        let rows = world.sql_or_none(query).await?;
        let all: i64 = rows.iter().filter_map(|row| row["count"].as_i64()).sum();
        (all == 200).then_some(rows)
    })
    .await;
    assert_eq!(dead[0]["reason"], "not_framed", "{dead:?}");
}
