//! Topics as they have to be: creates what is missing, tells what differs, alters nothing.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use rdkafka::{
    admin::{NewTopic, TopicReplication},
    consumer::{BaseConsumer, Consumer},
    error::{KafkaError, RDKafkaErrorCode},
    metadata::{Metadata, MetadataPartition, MetadataTopic},
};
use schemas::{
    registry::{Registry, RegistryError},
    topics::{TOPICS, Topic, subject},
};
use tracing::warn;

use crate::{
    admin::{Admin, FIRST_ANSWER, PATIENCE, Settings, TOO_FEW_BROKERS, does_not, no_broker},
    kafka::Kafka,
};

/// How often the broker is asked for a new topic.
const VISIBLE_POLL: Duration = Duration::from_millis(20);
/// With so many replicas any one of them can be lost, and what was acknowledged is still on two.
const REPLICAS_SAFE: usize = 3;

/// What `apply` found or did with a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// It was missing and is there now (or would be, on a dry run).
    Created,
    /// It is as it has to be.
    Unchanged,
    /// It differs, each difference in words; nothing was altered.
    Differs(Vec<String>),
}

/// Creates the topics that are missing, registers their schemas and what the registry demands of new versions.
/// Compares those that are there. With `dry_run`, only looks.
///
/// `replicas`: of each partition; unless told, as many as the brokers' `default.replication.factor`, but three where
/// there are three brokers, since Kafka's own default is one.
///
/// # Errors
/// If broker or registry are away, or refuse.
pub async fn apply(
    kafka: &Kafka,
    registry: &Registry,
    replicas: Option<usize>,
    dry_run: bool,
) -> Result<Vec<(String, Applied)>> {
    let admin = Admin::new(kafka)?;
    let mut results = Vec::new();
    let metadata = admin.metadata(None)?;
    let (replicas, has_enough_brokers) = match replicas {
        Some(told) => (told, metadata.brokers().len() >= told),
        // The brokers' own setting asks for no more than there ought to be.
        None => (usual_replicas(&admin).await?, true),
    };
    for topic in TOPICS {
        let name = topic.full_name(&kafka.prefix);
        let applied = match find(&metadata, &name) {
            Some(found) => {
                let settings = admin.topic_settings(&name).await?;
                compare(topic, replicas, &Shape::of(found), &settings)
            }
            None if dry_run => Applied::Created,
            None => create(&admin, topic, &name, replicas, has_enough_brokers).await?,
        };
        if !dry_run {
            let asked_since = Instant::now();
            while let Err(error) = register(registry, topic, &name).await {
                if !error.is_slow() || asked_since.elapsed() >= PATIENCE {
                    return Err(error.into());
                }
                warn!(%error, "the schema registry is slow, asking again");
            }
        }
        results.push((name, applied));
    }
    Ok(results)
}

/// Registers the schema of a topic, and what the registry demands of new versions: this first, as a registry may have a
/// laxer rule by default. Done again, it changes nothing.
async fn register(registry: &Registry, topic: &Topic, name: &str) -> Result<(), RegistryError> {
    let subject = subject(name);
    registry.demand(&subject, topic.compatibility).await?;
    registry.register(&subject, topic.avsc).await?;
    Ok(())
}

/// A topic on the broker, and in words how it differs from what it has to be.
#[derive(Debug, Clone, Default)]
pub struct Described {
    /// Its partitions.
    pub copies: Vec<Copies>,
    /// Its settings on the broker.
    pub settings: Settings,
    /// What differs; empty if all is well.
    pub differences: Vec<String>,
}

/// The copies of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copies {
    /// The partition.
    pub partition: i32,
    /// How many there have to be.
    pub wanted: usize,
    /// How many have everything that was acknowledged.
    pub in_sync: usize,
    /// Whether one of them takes and gives records.
    pub has_leader: bool,
}

impl Copies {
    fn of(partition: &MetadataPartition) -> Self {
        Self {
            partition: partition.id(),
            wanted: partition.replicas().len(),
            in_sync: partition.isr().len(),
            has_leader: partition.leader() >= 0,
        }
    }
}

impl Described {
    /// A setting; empty if the broker does not have it.
    pub fn setting(&self, name: &str) -> &str {
        let found = self.settings.iter().find(|(known, _)| known == name);
        found.map_or("", |(_, value)| value)
    }
}

/// Describes a topic by its full name; none if it does not exist. Only topics of this system have to be anything.
///
/// # Errors
/// If the broker does not answer.
pub async fn describe(kafka: &Kafka, name: &str) -> Result<Option<Described>> {
    let admin = Admin::new(kafka)?;
    let metadata = admin.metadata(Some(name))?;
    let found = metadata.topics().first();
    let Some(found) = found.filter(|found| !found.partitions().is_empty()) else {
        return Ok(None);
    };
    let settings = admin.topic_settings(name).await?;
    let known = TOPICS
        .iter()
        .find(|topic| topic.full_name(&kafka.prefix) == name);
    let shape = Shape::of(found);
    let applied = known.map(|topic| compare(topic, shape.replicas, &shape, &settings));
    Ok(Some(Described {
        copies: found.partitions().iter().map(Copies::of).collect(),
        settings,
        differences: match applied {
            Some(Applied::Differs(differences)) => differences,
            _ => Vec::new(),
        },
    }))
}

/// Asks the broker whether it has the topics of this installation.
pub struct Checker {
    client: BaseConsumer,
    kafka: Kafka,
}

impl Checker {
    /// A checker that keeps its connection; connects when first used.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's.
    pub fn new(kafka: &Kafka) -> Result<Self> {
        Ok(Self {
            client: kafka.client().create()?,
            kafka: kafka.clone(),
        })
    }

    /// Checks that the broker answers and has these topics. Blocks, for a bounded time.
    ///
    /// # Errors
    /// If the broker does not answer, or a topic is missing; each says what to do.
    pub fn check(&self, topics: &[&Topic]) -> Result<()> {
        let checked = topics.iter().try_for_each(|topic| self.check_one(topic));
        // What librdkafka says of the connection is of no interest here, but must not pile up.
        while self.client.poll(Duration::ZERO).is_some() {}
        checked
    }

    fn check_one(&self, topic: &Topic) -> Result<()> {
        let name = topic.full_name(&self.kafka.prefix);
        let metadata = self
            .client
            .fetch_metadata(Some(&name), FIRST_ANSWER)
            .with_context(|| no_broker(&self.kafka))?;
        let found = metadata
            .topics()
            .iter()
            .find(|found| found.name() == name && found.error().is_none());
        let Some(found) = found else {
            bail!("topic {name} does not exist: run `millrace topics apply`");
        };
        let partitions = usize::try_from(topic.partitions).expect("topics have partitions");
        if found.partitions().len() != partitions {
            bail!(
                "topic {name} has {} partitions where {partitions} are needed: keys would lie elsewhere; use another prefix",
                found.partitions().len()
            );
        }
        Ok(())
    }
}

/// The settings that a topic has to have.
fn settings(topic: &Topic, replicas: usize) -> Vec<(&'static str, &'static str)> {
    let time = if topic.log_append_time {
        "LogAppendTime"
    } else {
        "CreateTime"
    };
    let mut settings = vec![
        ("cleanup.policy", "delete"),
        ("retention.ms", "-1"),
        ("retention.bytes", "-1"),
        ("message.timestamp.type", time),
    ];
    if replicas >= REPLICAS_SAFE {
        settings.push(("min.insync.replicas", "2"));
    }
    if topic.log_append_time && replicas == 1 {
        // Without replicas an acknowledgement means the page cache; commands must survive a power loss too.
        settings.push(("flush.messages", "1"));
    }
    settings
}

/// Creates a topic. If it is there by then, the brokers have heard of it late, or it is somebody else's, or the work of
/// an attempt that was not answered: then it is compared. `has_enough_brokers`: there ought to be as many as replicas.
async fn create(
    admin: &Admin,
    topic: &Topic,
    name: &str,
    replicas: usize,
    has_enough_brokers: bool,
) -> Result<Applied> {
    let replication = i32::try_from(replicas).context("too many replicas")?;
    let mut new = NewTopic::new(name, topic.partitions, TopicReplication::Fixed(replication));
    for (key, value) in settings(topic, replicas) {
        new = new.set(key, value);
    }
    match admin.create(&new, has_enough_brokers).await {
        Ok(()) => {
            wait_until_visible(admin, name).await?;
            Ok(Applied::Created)
        }
        Err(KafkaError::AdminOp(RDKafkaErrorCode::TopicAlreadyExists)) => {
            let shape = wait_until_visible(admin, name).await?;
            let settings = admin.topic_settings(name).await?;
            Ok(compare(topic, replicas, &shape, &settings))
        }
        Err(TOO_FEW_BROKERS) => bail!(
            "the broker refuses to create topic {name}: {replicas} replicas need as many brokers"
        ),
        Err(error) => Err(does_not(&format!("create topic {name}"), error)),
    }
}

/// The controller has created it; the brokers hear of it a little later, and whoever comes now would not find it.
async fn wait_until_visible(admin: &Admin, name: &str) -> Result<Shape> {
    let created = Instant::now();
    while created.elapsed() < PATIENCE {
        let metadata = admin.metadata(Some(name));
        let found = metadata.as_ref().ok().and_then(|all| find(all, name));
        let is_led = |partition: &MetadataPartition| partition.leader() >= 0;
        if let Some(found) = found.filter(|found| found.partitions().iter().all(is_led)) {
            return Ok(Shape::of(found));
        }
        tokio::time::sleep(VISIBLE_POLL).await;
    }
    bail!(
        "topic {name} was created, but the broker does not show it: look into the broker's log, and do this again"
    )
}

/// A topic that is there.
fn find<'a>(metadata: &'a Metadata, name: &str) -> Option<&'a MetadataTopic> {
    let mut topics = metadata.topics().iter();
    topics.find(|found| found.name() == name && found.error().is_none())
}

/// How many replicas a topic gets if nobody says it.
async fn usual_replicas(admin: &Admin) -> Result<usize> {
    let told = admin.brokers_and_settings().await;
    let (brokers, settings) =
        told.context("say with --replication how many replicas there have to be")?;
    let found = settings
        .iter()
        .find(|(name, _)| name == "default.replication.factor");
    let by_default = found
        .and_then(|(_, value)| value.parse().ok())
        .unwrap_or(1_usize);
    // Two brokers may be three of which one is away: what is made now would stay at two.
    if brokers < REPLICAS_SAFE {
        return Ok(by_default);
    }
    Ok(by_default.max(REPLICAS_SAFE))
}

/// How many partitions a topic has, and how many replicas each of them has at least.
struct Shape {
    partitions: usize,
    replicas: usize,
}

impl Shape {
    fn of(found: &MetadataTopic) -> Self {
        let partitions = found.partitions();
        let replicas = partitions.iter().map(|found| found.replicas().len());
        Self {
            partitions: partitions.len(),
            replicas: replicas.min().unwrap_or(0),
        }
    }
}

fn compare(topic: &Topic, replicas: usize, shape: &Shape, config: &[(String, String)]) -> Applied {
    let mut differences = Vec::new();
    if i32::try_from(shape.partitions) != Ok(topic.partitions) {
        differences.push(format!(
            "has {} partitions, needs {}: this cannot be mended, use another prefix",
            shape.partitions, topic.partitions
        ));
    }
    if shape.replicas < replicas {
        differences.push(format!(
            "has {} of {replicas} replicas: Kafka's own kafka-reassign-partitions adds some",
            shape.replicas
        ));
    }
    for (key, wanted) in settings(topic, shape.replicas) {
        let found = config.iter().find(|(name, _)| name == key);
        let found = found.map_or("", |(_, value)| value.as_str());
        if found != wanted {
            differences.push(format!("{key} is {found:?}, should be {wanted:?}"));
        }
    }
    if differences.is_empty() {
        return Applied::Unchanged;
    }
    Applied::Differs(differences)
}
