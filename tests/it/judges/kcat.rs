//! kcat: a producer and consumer on librdkafka.

use producers::partition;
use serde_json::Value;
use tokio::process::Command;

use super::{said, tool};
use crate::{
    samples::order,
    world::{World, eventually},
};

/// What stands between key and value, and between records, on kcat's standard input.
const AFTER_KEY: &str = "<after-key>";
const AFTER_RECORD: &str = "<after-record>";

async fn kcat(world: &World, args: &[&str]) -> Command {
    let mut kcat = tool("kcat").await;
    kcat.args(["-b", &world.servers.brokers]).args(args);
    kcat
}

/// Orders as kcat takes them, with their uids as keys.
async fn records(world: &World, uids: &[String]) -> Vec<u8> {
    let writer = world.writer("orders").await;
    let mut input = Vec::new();
    for uid in uids {
        input.extend_from_slice(uid.as_bytes());
        input.extend_from_slice(AFTER_KEY.as_bytes());
        input.extend(writer.value(&order(uid)));
        input.extend_from_slice(AFTER_RECORD.as_bytes());
    }
    input
}

/// Writes them with kcat, and with these settings of its own.
async fn produce(world: &World, topic: &str, input: &[u8], settings: &[&str]) {
    let topic = world.topic(topic);
    let mut kcat = kcat(world, &["-P", "-t", &topic]).await;
    kcat.args(["-K", AFTER_KEY, "-D", AFTER_RECORD])
        .args(settings);
    said(kcat, input).await;
}

#[tokio::test]
async fn kcat_finds_the_topics_and_reads_keys_headers_and_frames() {
    let world = World::new("kcat_reads").await;
    for topic in ["clicks", "orders"].map(|name| world.topic(name)) {
        let listed = said(kcat(&world, &["-L", "-J", "-t", &topic]).await, "").await;
        let listed: Value = serde_json::from_str(&listed).unwrap();
        let partitions = listed["topics"][0]["partitions"].as_array();
        assert_eq!(partitions.map(Vec::len), Some(8), "{listed}");
    }
    let run = world.start(["run"]).await;
    let placed = run.post("/v1/orders", &order("kcat")).await;
    let topic = world.topic("orders");
    // A byte and a big-endian number, printed with nothing between them; what follows is skipped.
    let frame = ["-s", "value=>BI", "-f", "%t/%p@%o|%k|%h|%s"];
    let mut consumer = kcat(&world, &["-C", "-e", "-q", "-t", &topic]).await;
    consumer.args(frame);
    let read = said(consumer, "").await;
    let [position, key, headers, value] = read.split('|').collect::<Vec<_>>()[..] else {
        panic!("not one record: {read}");
    };
    assert_eq!(position, placed.position());
    assert_eq!(key, "kcat");
    assert!(
        headers.contains("ce_type=millrace.orders.OrderPlaced"),
        "{headers}"
    );
    assert_eq!(value, format!("0{}", world.writer("orders").await.id));
}

#[tokio::test]
async fn an_order_that_kcat_writes_with_javas_partitioner_is_served() {
    let world = World::new("kcat_murmur").await;
    let run = world.start(["run"]).await;
    let uids: Vec<_> = (0..20).map(|n| format!("kcat-{n}")).collect();
    let input = records(&world, &uids).await;
    produce(
        &world,
        "orders",
        &input,
        &["-X", "partitioner=murmur2_random"],
    )
    .await;
    world.must_be_what_the_log_says().await;
    for uid in uids {
        let path = format!("/order?uid={uid}");
        let served = eventually(&path, async || {
            let answer = run.get(&path).await;
            (answer.status == 200).then(|| answer.json())
        });
        assert_eq!(served.await, order(&uid));
    }
}

#[tokio::test]
async fn an_order_that_kcat_writes_with_its_own_partitioner_is_a_dead_letter_that_says_so() {
    let world = World::new("kcat_crc").await;
    let _run = world.start(["run"]).await;
    let uids: Vec<_> = (0..20).map(|n| format!("kcat-{n}")).collect();
    let input = records(&world, &uids).await;
    produce(&world, "orders", &input, &[]).await;
    world.must_be_what_the_log_says().await;
    let astray = world.read_topic("orders").await;
    let astray = astray.iter().filter(|record| {
        let key = record.key.as_deref().unwrap();
        record.partition != partition::of_key(key, 8)
    });
    let astray = astray.count();
    assert!(astray > 0, "two partitioners that agree on twenty keys");
    let letters = world.millrace(&["dead-letters", "--json"], "").await.stdout;
    assert_eq!(letters.lines().count(), astray);
    for line in letters.lines() {
        let letter: Value = serde_json::from_str(line).unwrap();
        assert_eq!(letter["reason"], "wrong_partition", "{letter}");
    }
}

#[tokio::test]
async fn garbage_that_kcat_writes_is_a_dead_letter_and_stops_nothing() {
    let world = World::new("kcat_junk").await;
    let run = world.start(["run"]).await;
    for topic in ["clicks", "orders"] {
        let junk = format!("k{AFTER_KEY}hello from kcat{AFTER_RECORD}");
        produce(&world, topic, junk.as_bytes(), &[]).await;
    }
    assert_eq!(run.post("/v1/orders", &order("after")).await.status, 201);
    world.must_be_what_the_log_says().await;
    let letters = world.millrace(&["dead-letters", "--json"], "").await.stdout;
    let letters: Vec<Value> = letters
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    for letter in letters {
        assert_eq!(letter["reason"], "not_framed", "{letter}");
    }
    assert_eq!(run.get("/order?uid=after").await.json(), order("after"));
}
