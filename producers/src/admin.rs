//! What the cluster is asked besides records: which topics it has, its settings, and to make a topic. While it misses a
//! broker or chooses another controller it does not answer, or by an error that passes: then it is asked again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use rdkafka::{
    admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier},
    client::DefaultClientContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    metadata::Metadata,
};
use tokio::time::sleep;
use tracing::warn;

use crate::kafka::Kafka;

/// How long the cluster may take to find itself again, counted from when it did not do what it was asked. Unless told
/// otherwise, Kafka misses a dead broker after nine seconds and a dead controller after two; on a busy machine it takes
/// longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);
/// How long one attempt may take.
const ATTEMPT: Duration = Duration::from_secs(10);
/// How long a broker may take to answer at all.
pub(crate) const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Between two attempts.
const PAUSE: Duration = Duration::from_millis(200);

/// Fewer brokers than replicas, says the controller.
pub(crate) const TOO_FEW_BROKERS: KafkaError =
    KafkaError::AdminOp(RDKafkaErrorCode::InvalidReplicationFactor);

/// Settings by name.
pub(crate) type Settings = Vec<(String, String)>;

/// Whoever asks the cluster.
pub(crate) struct Admin {
    client: AdminClient<DefaultClientContext>,
    kafka: Kafka,
}

impl Admin {
    /// Connects when it first asks.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's.
    pub(crate) fn new(kafka: &Kafka) -> Result<Self> {
        Ok(Self {
            client: kafka.client().create()?,
            kafka: kafka.clone(),
        })
    }

    /// The brokers, and a topic or all of them. Any broker can tell, so nobody is waited for.
    ///
    /// # Errors
    /// If no broker answers.
    pub(crate) fn metadata(&self, topic: Option<&str>) -> Result<Metadata> {
        let asked = self.client.inner().fetch_metadata(topic, ATTEMPT);
        asked.with_context(|| no_broker(&self.kafka))
    }

    /// The id that the cluster got when it was made; empty if it does not tell.
    pub(crate) fn cluster_id(&self) -> String {
        let asked = self.client.inner().fetch_cluster_id(FIRST_ANSWER);
        asked.unwrap_or_default()
    }

    /// Makes a topic. That it exists already may be the work of an attempt that was not answered. If there ought
    /// to be enough brokers and the controller says there are not, it has not heard of them for a while, as on a busy
    /// machine or just after its own start: it is asked again.
    ///
    /// # Errors
    /// The cluster's refusal, or what it said when patience ran out.
    pub(crate) async fn create(
        &self,
        topic: &NewTopic<'_>,
        has_enough_brokers: bool,
    ) -> KafkaResult<()> {
        let options = options(ATTEMPT).operation_timeout(Some(ATTEMPT));
        let create = async || {
            let created = self.client.create_topics([topic], &options).await?;
            created.into_iter().try_for_each(|one| match one {
                Ok(_) => Ok(()),
                Err((_, code)) => Err(KafkaError::AdminOp(code)),
            })
        };
        let what = format!("create topic {}", topic.name);
        let passes =
            |error: &KafkaError| passes(error) || has_enough_brokers && *error == TOO_FEW_BROKERS;
        self.persist(&what, create, passes).await
    }

    /// The settings of a topic.
    ///
    /// # Errors
    /// If it has none to tell, or patience ran out.
    pub(crate) async fn topic_settings(&self, topic: &str) -> Result<Settings> {
        let what = format!("describe topic {topic}");
        let resource = ResourceSpecifier::Topic(topic);
        let describe = async || self.settings(&resource, ATTEMPT).await;
        let described = self.persist(&what, describe, passes).await;
        described.map_err(|error| does_not(&what, error))
    }

    /// The settings of a broker. It alone can tell them, so this is one attempt: it may be dead.
    ///
    /// # Errors
    /// If it does not answer, or has none to tell.
    pub(crate) async fn broker_settings(&self, broker: i32) -> KafkaResult<Settings> {
        let resource = ResourceSpecifier::Broker(broker);
        self.settings(&resource, FIRST_ANSWER).await
    }

    /// How many brokers there are, and the settings of the first that tells them: one that has just died is listed still.
    ///
    /// # Errors
    /// A broker's refusal, or what the last said when patience ran out.
    pub(crate) async fn brokers_and_settings(&self) -> Result<(usize, Settings)> {
        let ask = async || {
            let metadata = self.client.inner().fetch_metadata(None, ATTEMPT)?;
            let mut told = Err(KafkaError::AdminOp(RDKafkaErrorCode::BrokerNotAvailable));
            for broker in metadata.brokers() {
                told = self.broker_settings(broker.id()).await;
                if !told.as_ref().is_err_and(passes) {
                    break;
                }
            }
            Ok((metadata.brokers().len(), told?))
        };
        let what = "tell its settings";
        let told = self.persist(what, ask, passes).await;
        told.map_err(|error| does_not(what, error))
    }

    async fn settings(
        &self,
        resource: &ResourceSpecifier<'_>,
        limit: Duration,
    ) -> KafkaResult<Settings> {
        let options = options(limit);
        let described = self.client.describe_configs([resource], &options).await?;
        let mut settings = Vec::new();
        for one in described {
            let entries = one.map_err(KafkaError::AdminOp)?.entries;
            settings.extend(
                entries
                    .into_iter()
                    .map(|entry| (entry.name, entry.value.unwrap_or_default())),
            );
        }
        Ok(settings)
    }

    /// Asks until the answer is one that will stay, or patience runs out.
    async fn persist<T>(
        &self,
        what: &str,
        ask: impl AsyncFn() -> KafkaResult<T>,
        passes: impl Fn(&KafkaError) -> bool,
    ) -> KafkaResult<T> {
        let mut first_failure = None;
        loop {
            let error = match ask().await {
                Err(error) if passes(&error) => error,
                settled => return settled,
            };
            let since = *first_failure.get_or_insert_with(|| {
                warn!(%error, "the cluster does not {what} just now, asking again for up to {PATIENCE:?}");
                Instant::now()
            });
            if since.elapsed() >= PATIENCE {
                return Err(error);
            }
            sleep(PAUSE).await;
            // So that the client learns who is there now. If nobody answers, the next attempt will tell.
            let _ = self.metadata(None);
        }
    }
}

fn options(limit: Duration) -> AdminOptions {
    AdminOptions::new().request_timeout(Some(limit))
}

/// Whether this is how a cluster speaks that is missing a broker, or choosing another controller.
fn passes(error: &KafkaError) -> bool {
    use RDKafkaErrorCode as Code;
    let code = match error {
        KafkaError::AdminOp(code) => Some(*code),
        other => other.rdkafka_error_code(),
    };
    matches!(
        code,
        Some(
            Code::AllBrokersDown
                | Code::BrokerNotAvailable
                | Code::BrokerTransportFailure
                | Code::CoordinatorLoadInProgress
                | Code::CoordinatorNotAvailable
                | Code::LeaderNotAvailable
                | Code::NetworkException
                | Code::NotController
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::ThrottlingQuotaExceeded
                // Of a topic that another broker has just named.
                | Code::UnknownTopicOrPartition
        )
    )
}

/// The error for whoever asked.
pub(crate) fn does_not(what: &str, error: KafkaError) -> anyhow::Error {
    let mut text = format!("the cluster does not {what}");
    if passes(&error) {
        text += &format!(
            ", asked for {PATIENCE:?}: let `millrace doctor` tell which brokers are away, start them, and do this again"
        );
    }
    anyhow::Error::new(error).context(text)
}

pub(crate) fn no_broker(kafka: &Kafka) -> String {
    format!(
        "no Kafka broker answers at {}: check MILLRACE_BROKERS and that it runs",
        kafka.brokers
    )
}
