//! Appending to the real broker: what is told is what lies on the log.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use producers::{
    append::{Appender, Outcome, Profile},
    kafka::Kafka,
    lane::Lane,
    metrics::AppendMetrics,
    partition::of_key,
    topics,
    writer::{AppendError, Context, EventWriter},
};
use proptest::prelude::*;
use rdkafka::{
    Message, Offset, TopicPartitionList,
    admin::{AdminClient, AdminOptions},
    client::DefaultClientContext,
    consumer::{BaseConsumer, Consumer},
};
use schemas::{
    clicks::BannerClicked, codec::Decoder, event::Event, orders::OrderPlaced, position::Position,
    registry::Registry, topics::TOPICS,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Long enough that it never decides a test.
const LONG: Duration = Duration::from_secs(60);

/// The servers, and topics of a test's own.
struct Log {
    kafka: Kafka,
    registry: Registry,
}

impl Log {
    async fn new() -> Self {
        let address =
            |name: &str, default: &str| std::env::var(name).unwrap_or_else(|_| default.to_owned());
        let url = address(
            "MILLRACE_REGISTRY_URL",
            "http://127.0.0.1:18081/apis/ccompat/v7",
        );
        let log = Self {
            kafka: Kafka {
                brokers: address("MILLRACE_BROKERS", "127.0.0.1:19092"),
                prefix: format!("append-{}-", producers::clock::event_id().simple()),
                properties: Vec::new(),
            },
            registry: Registry::new(&url).expect("a registry"),
        };
        topics::apply(&log.kafka, &log.registry, None, false)
            .await
            .expect("topics");
        log
    }

    async fn writer<E: Event>(&self) -> Arc<EventWriter<E>> {
        let metrics = AppendMetrics::default();
        let appender = Appender::new(&self.kafka, Profile::Interactive, metrics);
        let appender = Arc::new(appender.expect("an appender"));
        let writer = EventWriter::new(appender, &self.kafka.prefix);
        writer.register(&self.registry).await.expect("a schema");
        Arc::new(writer)
    }

    /// Every event on the log, by its place.
    async fn read<E: Event>(&self) -> BTreeMap<(i32, i64), (Option<String>, E)> {
        let topic = E::TOPIC.full_name(&self.kafka.prefix);
        let mut config = self.kafka.client();
        config.set("group.id", &topic);
        let consumer: BaseConsumer = config.create().expect("a consumer");
        let mut list = TopicPartitionList::new();
        let mut left = 0;
        for partition in 0..E::TOPIC.partitions {
            list.add_partition_offset(&topic, partition, Offset::Offset(0))
                .expect("an offset");
            let ends = consumer.fetch_watermarks(&topic, partition, LONG);
            left += ends.expect("the broker answers").1;
        }
        consumer.assign(&list).expect("an assignment");
        let mut decoder = Decoder::<E>::new(&topic);
        let mut events = BTreeMap::new();
        while left > 0 {
            let polled = consumer.poll(LONG).expect("a record in time");
            let record = polled.expect("a record");
            let value = record.payload().expect("a value");
            let id = u32::from_be_bytes(value[1..5].try_into().expect("four bytes"));
            if events.is_empty() {
                let learned = decoder.learn(&self.registry, id).await;
                learned.expect("a schema");
            }
            let key = record.key().map(|key| String::from_utf8_lossy(key).into());
            let event = decoder.decode(value).expect("an event");
            events.insert((record.partition(), record.offset()), (key, event));
            left -= 1;
        }
        events
    }

    async fn delete(self) {
        let admin: AdminClient<DefaultClientContext> =
            self.kafka.client().create().expect("a client");
        let names: Vec<_> = TOPICS
            .iter()
            .map(|topic| topic.full_name(&self.kafka.prefix))
            .collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let deleted = admin.delete_topics(&names, &AdminOptions::new()).await;
        deleted.expect("the broker deletes them");
    }
}

fn click(banner_id: i64) -> BannerClicked {
    BannerClicked {
        banner_id,
        received_at: 1,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_append_is_told_its_own_place() {
    let log = Log::new().await;
    let writer = log.writer::<BannerClicked>().await;
    let mut appends = JoinSet::new();
    for banner in 0..2_000 {
        let writer = Arc::clone(&writer);
        appends.spawn(async move {
            let position = writer.append(&click(banner), &Context::default()).await;
            let position = position.expect("appended").expect("told where");
            ((position.partition, position.offset), banner)
        });
    }
    let told: BTreeMap<_, _> = appends.join_all().await.into_iter().collect();
    let read = log.read::<BannerClicked>().await;
    let read = read
        .into_iter()
        .map(|(at, (_, event))| (at, event.banner_id));
    assert!(read.eq(told));
    log.delete().await;
}

#[tokio::test]
async fn a_batch_is_told_the_last_place_of_each_partition() {
    let log = Log::new().await;
    let writer = log.writer::<OrderPlaced>().await;
    let mut chance = producers::clock::generator(Some(7));
    let orders: Vec<_> = (0..1_000)
        .map(|number| {
            let mut order = producers::orders::sample(&mut chance, jiff::Timestamp::UNIX_EPOCH);
            order.order_uid = format!("order-{number}");
            order
        })
        .collect();
    let outcome = writer.send(&orders, None).expect("handed over");
    let outcome: Outcome = outcome.outcome().await;
    assert_eq!((outcome.appended, outcome.error), (1_000, None));
    let read = log.read::<OrderPlaced>().await;
    let mut last = BTreeMap::new();
    for (&(partition, offset), (key, order)) in &read {
        assert_eq!(key.as_deref(), Some(order.order_uid.as_str()));
        assert_eq!(partition, of_key(order.order_uid.as_bytes(), 8));
        last.insert(partition, offset);
    }
    assert_eq!(outcome.last.into_iter().collect::<BTreeMap<_, _>>(), last);
    // In each partition in the order given.
    let place = |order: &OrderPlaced| order.order_uid["order-".len()..].parse::<usize>().ok();
    let of_partition = |wanted| {
        let here = read
            .iter()
            .filter(move |((partition, _), _)| *partition == wanted);
        here.map(|(_, (_, order))| place(order))
    };
    assert!((0..8).all(|partition| of_partition(partition).is_sorted()));
    log.delete().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_appends_share_a_batch_and_lie_at_or_before_the_place_they_are_told() {
    let log = Log::new().await;
    let writer = log.writer::<BannerClicked>().await;
    let lane = Arc::new(Lane::new(writer, Position::clone));
    let stop = CancellationToken::new();
    let running = tokio::spawn(Arc::clone(&lane).run(stop.clone()));
    let mut appends = JoinSet::new();
    for banner in 0..5_000 {
        let lane = Arc::clone(&lane);
        appends.spawn(async move { (banner, lane.append(click(banner)).await) });
    }
    let told = appends.join_all().await;
    stop.cancel();
    running.await.expect("the lane ends");
    let read = log.read::<BannerClicked>().await;
    assert_eq!(read.len(), 5_000);
    let lies: BTreeMap<_, _> = read
        .into_iter()
        .map(|(at, (_, event))| (event.banner_id, at))
        .collect();
    let mut places = BTreeSet::new();
    for (banner, answer) in told {
        let position = answer.expect("appended").expect("told where");
        let (partition, offset) = lies[&banner];
        assert_eq!(partition, position.partition);
        assert!(offset <= position.offset);
        places.insert((position.partition, position.offset));
    }
    assert!(places.len() < 1_000, "{} batches", places.len());
    // The places are of last records: together they cover the log.
    assert!(lies.values().all(|at| places.range(at..).next().is_some()));
    log.delete().await;
}

#[tokio::test]
async fn an_invalid_event_sends_nothing_of_its_batch() {
    let log = Log::new().await;
    let writer = log.writer::<BannerClicked>().await;
    let refused = writer.send(&[click(1), click(-1), click(2)], None).err();
    assert!(
        matches!(refused, Some(AppendError::Invalid(_))),
        "{refused:?}"
    );
    assert!(log.read::<BannerClicked>().await.is_empty());
    log.delete().await;
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn keys_go_where_librdkafkas_murmur2_random_puts_them(
        key in prop::collection::vec(any::<u8>(), 0..80),
        partitions in 1..200_i32,
    ) {
        #[expect(
            unsafe_code,
            reason = "rdkafka does not wrap the partitioner, which looks at nothing but key and count"
        )]
        let theirs = unsafe {
            rdkafka_sys::rd_kafka_msg_partitioner_murmur2_random(
                std::ptr::null(),
                key.as_ptr().cast(),
                key.len(),
                partitions,
                std::ptr::null_mut(),
                std::ptr::null_mut(),
            )
        };
        prop_assert_eq!(of_key(&key, partitions), theirs);
    }
}
