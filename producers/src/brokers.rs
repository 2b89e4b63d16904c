//! The brokers as they are, for whoever looks whether all is well. Changes nothing.

use anyhow::{Context, Result};
use rdkafka::{
    admin::{AdminClient, AdminOptions, ResourceSpecifier},
    client::DefaultClientContext,
};

use crate::{
    kafka::Kafka,
    topics::{FIRST_ANSWER, no_broker, settings_of},
};

/// All brokers of a cluster.
#[derive(Debug, Clone)]
pub struct Cluster {
    /// The id that the cluster got when it was made.
    pub id: String,
    /// Its brokers, by their ids.
    pub brokers: Vec<Broker>,
}

/// A broker.
#[derive(Debug, Clone)]
pub struct Broker {
    /// Its number in the cluster.
    pub id: i32,
    /// Where clients find it, `host:port`.
    pub address: String,
    /// Its settings, or why it does not tell them.
    pub settings: Result<Vec<(String, String)>, String>,
}

/// Asks every broker of the cluster.
///
/// # Errors
/// If none answers.
pub async fn cluster(kafka: &Kafka) -> Result<Cluster> {
    let admin: AdminClient<DefaultClientContext> = kafka.client().create()?;
    let client = admin.inner();
    let metadata = client
        .fetch_metadata(None, FIRST_ANSWER)
        .with_context(|| no_broker(kafka))?;
    let id = client.fetch_cluster_id(FIRST_ANSWER).unwrap_or_default();
    let options = AdminOptions::new().request_timeout(Some(FIRST_ANSWER));
    let mut brokers = Vec::new();
    for found in metadata.brokers() {
        let whose = ResourceSpecifier::Broker(found.id());
        let settings = settings_of(&admin, &whose, &options).await;
        brokers.push(Broker {
            id: found.id(),
            address: format!("{}:{}", found.host(), found.port()),
            settings: settings.map_err(|error| format!("{error:#}")),
        });
    }
    brokers.sort_unstable_by_key(|broker| broker.id);
    Ok(Cluster { id, brokers })
}
