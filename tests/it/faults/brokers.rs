//! Of three brokers one is killed, then another, then two at once. A record is acknowledged when two have it: the loss
//! of one stops nobody for long, and that of two takes nothing back that was acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::OnceLock,
    time::Duration,
};

use processors::inspect::Log;
use rdkafka::{
    ClientConfig,
    consumer::{BaseConsumer, Consumer},
};
use serde_json::Value;
use tokio::{
    sync::{Mutex, MutexGuard},
    task::spawn_blocking,
};
use tokio_util::sync::CancellationToken;

use super::{
    RECOVERY, faults,
    load::{Fate, Load, acknowledged, answers_were_true},
    servers::{Set, run},
};
use crate::{
    judges::kafka::kafka,
    world::{COMMAND_MAX, Raw, Servers, World, eventually_within},
};

const BROKERS: u16 = 3;
const PARTITIONS: usize = 8;
const FIRST_ANSWER: Duration = Duration::from_secs(5);

static TURNS: Mutex<()> = Mutex::const_new(());
static SET: OnceLock<Set> = OnceLock::new();

/// Three brokers, and the right to kill them; registry and Postgres are those of everybody.
struct Cluster {
    set: &'static Set,
    _only_one: MutexGuard<'static, ()>,
}

impl Cluster {
    /// Waits for its turn, and for all three.
    async fn take() -> Self {
        let cluster = Self {
            _only_one: TURNS.lock().await,
            set: SET.get_or_init(|| Set::new(BROKERS)),
        };
        cluster.start().await;
        cluster
    }

    fn servers(&self) -> Servers {
        let address = |number| format!("127.0.0.1:{}", self.set.ports[0] + 2 * number);
        Servers {
            brokers: (0..BROKERS).map(address).collect::<Vec<_>>().join(","),
            ..Servers::default()
        }
    }

    /// `kill -9`.
    async fn kill(&self, broker: i32) {
        let name = format!("kafka{broker}");
        run(self.set, &["stop", "--only", &name, "--kill"]).await;
    }

    /// In good order: it hands over what it leads.
    async fn stop(&self, broker: i32) {
        let name = format!("kafka{broker}");
        run(self.set, &["stop", "--only", &name]).await;
    }

    /// Starts those that are dead, and waits until every record is on all three: another one may be killed then.
    async fn start(&self) {
        run(self.set, &["start", "--only", "kafka"]).await;
        eventually_within(
            RECOVERY,
            "every broker is in sync for every partition",
            async || {
                let partitions = self.partitions().await?;
                let is_whole = |partition: &Partition| partition.in_sync == usize::from(BROKERS);
                partitions.iter().all(is_whole).then_some(())
            },
        )
        .await;
    }

    /// All partitions of all topics; none if no broker answers.
    async fn partitions(&self) -> Option<Vec<Partition>> {
        let brokers = self.servers().brokers;
        spawn_blocking(move || partitions(&brokers)).await.unwrap()
    }

    /// The broker that decides about topics.
    async fn controller(&self, world: &World) -> i32 {
        let args = ["describe", "--status"];
        let told = kafka(world, "MetadataQuorumCommand", &args, "").await;
        let leader = told.lines().find_map(|line| line.strip_prefix("LeaderId:"));
        leader.unwrap().trim().parse().unwrap()
    }

    /// Waits until no broker knows a world's topics.
    async fn drop_topics(&self, world: &World) {
        eventually_within(RECOVERY, "the topics are gone", async || {
            world.drop_topics().await;
            let partitions = self.partitions().await?;
            let mut names = partitions.iter().map(|partition| &partition.topic);
            (!names.any(|name| name.starts_with(&world.prefix))).then_some(())
        })
        .await;
    }

    /// The broker that leads most partitions of a world's clicks.
    async fn busiest(&self, world: &World) -> i32 {
        let topic = world.topic("clicks");
        let mut led = BTreeMap::new();
        for partition in self.partitions().await.unwrap() {
            if partition.topic == topic {
                assert_eq!(partition.replicas, usize::from(BROKERS));
                *led.entry(partition.leader).or_insert(0) += 1;
            }
        }
        let (broker, _) = led.iter().max_by_key(|(_, count)| **count).unwrap();
        *broker
    }
}

struct Partition {
    topic: String,
    leader: i32,
    replicas: usize,
    in_sync: usize,
}

fn partitions(brokers: &str) -> Option<Vec<Partition>> {
    let client: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", brokers)
        .create()
        .unwrap();
    let metadata = client.fetch_metadata(None, FIRST_ANSWER).ok()?;
    let topics = metadata.topics().iter();
    let all = topics.flat_map(|topic| {
        topic.partitions().iter().map(|partition| Partition {
            topic: topic.name().to_owned(),
            leader: partition.leader(),
            replicas: partition.replicas().len(),
            in_sync: partition.isr().len(),
        })
    });
    Some(all.collect())
}

impl Load {
    /// Waits until requests that are yet to be sent are acknowledged in every partition.
    async fn acknowledged_everywhere(&self) {
        let sent = self.so_far().keys().next_back().copied();
        eventually_within(RECOVERY, "every partition is written to", async || {
            let fates = self.so_far();
            let later = fates.iter().filter(|(number, _)| Some(**number) > sent);
            let partitions = later.filter_map(|(_, fate)| match fate {
                Fate::Acknowledged(position) => Some(position.rsplit_once('@')?.0.to_owned()),
                _ => None,
            });
            (partitions.collect::<BTreeSet<_>>().len() == PARTITIONS).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn any_one_of_three_brokers_may_die_and_writes_go_on() {
    let cluster = Cluster::take().await;
    let world = World::on(cluster.servers(), "brokers").await;
    let mut run = world.start(["run"]).await;
    let clicks = Load::of_clicks(&run, 16);
    let orders = Load::of_orders(&run, 2);
    clicks.acknowledged_everywhere().await;
    for _ in 0..faults(2) {
        // Who comes back leads nothing at first, so this is another one each time.
        let busiest = cluster.busiest(&world).await;
        cluster.kill(busiest).await;
        clicks.acknowledged_everywhere().await;
        orders.acknowledged_more(5).await;
        run.ready_again().await;
        cluster.start().await;
        clicks.acknowledged_everywhere().await;
    }
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    answers_were_true(&world, &clicks, &orders).await;
    run.terminate().await;
}

#[tokio::test]
async fn where_a_topic_ends_is_told_while_others_come_to_lead_it() {
    let cluster = Cluster::take().await;
    let world = World::on(cluster.servers(), "leaders").await;
    let junk = (0..8).map(|partition| Raw::value("junk").into_partition(partition));
    world.append_all("clicks", junk.collect()).await;
    let stopping = CancellationToken::new();
    let (stop, kafka) = (stopping.clone(), world.kafka());
    // The same client all the time: what it knows of the leaders is out of date again and again.
    let asking = spawn_blocking(move || {
        let log = Log::open(&kafka, "clicks")?;
        let mut asked = 0;
        while !stop.is_cancelled() {
            let extents = log.extents()?;
            assert!(extents.iter().all(|extent| extent.records() == 1));
            asked += 1;
        }
        anyhow::Ok(asked)
    });
    let _stop = stopping.clone().drop_guard();
    for _ in 0..faults(3) {
        cluster.stop(cluster.busiest(&world).await).await;
        cluster.start().await;
    }
    stopping.cancel();
    let asked = asking.await.unwrap().unwrap();
    assert!(asked > 100, "{asked}");
}

#[tokio::test]
async fn with_two_of_three_brokers_dead_nothing_is_acknowledged_and_nothing_is_lost() {
    let cluster = Cluster::take().await;
    let world = World::on(cluster.servers(), "quorum").await;
    let mut run = world.start(["run"]).await;
    let clicks = Load::of_clicks(&run, 16);
    let orders = Load::of_orders(&run, 2);
    clicks.acknowledged_everywhere().await;
    orders.acknowledged_more(5).await;
    for broker in [1, 3] {
        cluster.kill(broker).await;
    }
    // Whoever was answered before is through with it now.
    clicks.failed_more(16).await;
    orders.failed_more(2).await;
    let count = || [&clicks, &orders].map(|load| acknowledged(&load.so_far()).count());
    let before = count();
    clicks.failed_more(16).await;
    orders.failed_more(2).await;
    assert_eq!(count(), before);
    cluster.start().await;
    clicks.acknowledged_everywhere().await;
    orders.acknowledged_more(5).await;
    run.ready_again().await;
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    answers_were_true(&world, &clicks, &orders).await;
    run.terminate().await;
}

#[tokio::test]
async fn topics_get_the_replicas_that_are_asked_for_or_three() {
    let cluster = Cluster::take().await;
    let world = World::without_topics(cluster.servers(), "replicas").await;
    let apply = async |more: &[&str]| {
        let args = [&["topics", "apply"], more].concat();
        world.millrace(&args, "").await
    };
    let four = apply(&["--replication", "4"]).await;
    four.failed(1, &["4 replicas need as many brokers"]);
    let two = apply(&["--replication", "2"]).await;
    assert_eq!(two.status, 0, "{two:?}");
    let three = apply(&[]).await;
    three.failed(1, &["nothing was altered"]);
    assert!(three.stdout.contains("has 2 of 3 replicas"), "{three:?}");
    for _ in 0..faults(1) {
        // One that is dead makes no difference, whichever it is.
        let controller = cluster.controller(&world).await;
        for broker in [controller, controller % i32::from(BROKERS) + 1] {
            cluster.drop_topics(&world).await;
            cluster.kill(broker).await;
            let created = apply(&[]).await;
            assert_eq!(created.status, 0, "{created:?}");
            cluster.start().await;
            let described = ["topics", "describe", &world.topic("clicks"), "--json"];
            let described = world.millrace(&described, "").await;
            let description: serde_json::Value = serde_json::from_str(&described.stdout).unwrap();
            assert_eq!(description["settings"]["min.insync.replicas"], "2");
            assert!(cluster.busiest(&world).await > 0);
        }
    }
    world.drop_topics().await;
}

#[tokio::test]
async fn topics_that_nobody_can_create_are_created_once_somebody_can() {
    let cluster = Cluster::take().await;
    let world = World::without_topics(cluster.servers(), "leaderless").await;
    // Of three, one cannot decide anything.
    let controller = cluster.controller(&world).await;
    cluster.kill(controller).await;
    cluster.kill(controller % i32::from(BROKERS) + 1).await;
    let mut apply = world.spawn(&["topics", "apply"], &[]);
    let topic = world.topic("clicks");
    let asks_again = |line: &Value| {
        let message = line["message"].as_str().unwrap_or_default();
        line["level"] == "WARN" && message.contains(&topic)
    };
    apply.logged("it asks again", asks_again).await;
    cluster.start().await;
    let status = apply.ended_within(COMMAND_MAX).await;
    assert_eq!(status.code(), Some(0), "{:?}", apply.logs());
    let told = apply.logs();
    for name in world.topics() {
        let of = |line: &&String| line.contains(&name);
        assert!(
            told.iter().filter(of).count() <= 1,
            "it says so once: {told:?}"
        );
    }
    assert!(cluster.busiest(&world).await > 0);
    world.drop_topics().await;
}
