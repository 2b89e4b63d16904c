//! The brokers as they are, for whoever looks whether all is well. Changes nothing.

use anyhow::Result;

use crate::{admin::Admin, kafka::Kafka};

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
    let admin = Admin::new(kafka)?;
    let metadata = admin.metadata(None)?;
    let mut brokers = Vec::new();
    for found in metadata.brokers() {
        let settings = admin.broker_settings(found.id()).await;
        brokers.push(Broker {
            id: found.id(),
            address: format!("{}:{}", found.host(), found.port()),
            settings: settings.map_err(|error| error.to_string()),
        });
    }
    brokers.sort_unstable_by_key(|broker| broker.id);
    Ok(Cluster {
        id: admin.cluster_id(),
        brokers,
    })
}
