use super::*;
use crate::record::Raw;

const BATCH_MAX: usize = 10;

/// A batch of one record.
fn batch(epoch: u64, partition: i32, offset: i64, value: &[u8]) -> Batch {
    let mut batch = Batch::of_epoch(epoch);
    let record = Raw {
        partition,
        offset,
        timestamp_ms: offset,
        key: None,
        value: Some(value),
        trace: None,
        is_ours: false,
        is_stamped: true,
    };
    batch.push(record, offset);
    batch.seal();
    batch
}

/// What a consumer gives whose thread has left this, each batch by its epoch, partitions and offsets.
async fn given(left: Vec<Delivered>) -> Vec<String> {
    let (sender, delivered) = mpsc::channel(left.len());
    for one in left {
        sender.try_send(one).unwrap();
    }
    drop(sender);
    let mut consumer = Consumer {
        delivered,
        behind: None,
        topic: "clicks".to_owned(),
        batch_max: BATCH_MAX,
        commands: commands::channel().0,
        epoch: Arc::default(),
        thread: None,
    };
    let mut given = Vec::new();
    while let Some(one) = consumer.next().await {
        given.push(match one {
            Delivered::Batch(batch) => {
                let spans = batch.spans.iter();
                let spans = spans.map(|span| (span.partition, span.from..span.to));
                format!("{} {:?}", batch.epoch, spans.collect::<Vec<_>>())
            }
            other => format!("{other:?}"),
        });
    }
    given
}

fn small(epoch: u64, partition: i32, offset: i64) -> Delivered {
    Delivered::Batch(Box::new(batch(epoch, partition, offset, b"x")))
}

#[tokio::test]
async fn batches_that_wait_are_joined_where_one_continues_the_other() {
    let left = vec![
        small(1, 0, 4),
        small(1, 0, 5),
        small(1, 2, 9),
        Delivered::Started,
        small(1, 0, 6),
        small(2, 0, 7),
        small(2, 0, 9),
        Delivered::Broken("gone".to_owned()),
    ];
    let given = given(left).await;
    assert_eq!(
        given,
        [
            "1 [(0, 4..6), (2, 9..10)]",
            "Started",
            "1 [(0, 6..7)]",
            "2 [(0, 7..8)]",
            "2 [(0, 9..10)]",
            "Broken(\"gone\")",
        ]
    );
}

#[tokio::test]
async fn what_would_be_too_large_is_not_joined() {
    let value = vec![0; BATCH_BYTES_MAX / 2 + 1];
    let large = |offset| Delivered::Batch(Box::new(batch(1, 0, offset, &value)));
    let by_bytes = given(vec![large(0), large(1), small(1, 0, 2)]).await;
    assert_eq!(by_bytes, ["1 [(0, 0..1)]", "1 [(0, 1..3)]"]);
    let by_records = given((0..13).map(|offset| small(1, 0, offset)).collect()).await;
    assert_eq!(by_records, ["1 [(0, 0..10)]", "1 [(0, 10..13)]"]);
}

#[test]
fn the_broker_waits_for_more_where_it_is_told_to_and_as_the_operator_says() {
    let settings = |fetch_wait, properties: &[&str]| {
        let kafka = Kafka {
            brokers: "127.0.0.1:1".to_owned(),
            prefix: String::new(),
            properties: properties.iter().map(|p| p.parse().unwrap()).collect(),
        };
        let reading = Reading {
            topic: "clicks".to_owned(),
            partitions: Partitions::All(1),
            batch_max: BATCH_MAX,
            batch_age: Duration::ZERO,
            fetch_wait,
        };
        let config = reading.config(&kafka);
        ["fetch.wait.max.ms", "fetch.min.bytes"]
            .map(|key| config.get(key).map(str::to_owned).unwrap_or_default())
    };
    let wait = Some(Duration::from_millis(20));
    assert_eq!(settings(None, &[]), ["", ""]);
    assert_eq!(settings(wait, &[]), ["20", FETCH_BYTES_MIN]);
    assert_eq!(settings(wait, &["fetch.min.bytes=1"]), ["", "1"]);
}
