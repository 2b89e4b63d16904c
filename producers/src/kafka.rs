//! Where the broker is, and the client settings that every producer and consumer shares.

use std::str::FromStr;

use rdkafka::ClientConfig;

/// How to reach Kafka, and under which names the topics of this installation stand there.
#[derive(Debug, Clone)]
pub struct Kafka {
    /// Addresses to start from, `host:port[,…]`.
    pub brokers: String,
    /// What every topic's name begins with; may be empty.
    pub prefix: String,
    /// Settings of librdkafka that go through as they are: TLS, SASL and the like.
    pub properties: Vec<Property>,
}

/// A setting of librdkafka: `key=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property {
    key: String,
    value: String,
}

/// A text that is no `key=value`.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is no setting: write key=value, such as security.protocol=SASL_SSL")]
pub struct NotAProperty(String);

impl FromStr for Property {
    type Err = NotAProperty;

    fn from_str(text: &str) -> Result<Self, NotAProperty> {
        match text.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => Ok(Self {
                key: key.trim().to_owned(),
                value: value.to_owned(),
            }),
            _ => Err(NotAProperty(text.to_owned())),
        }
    }
}

impl Kafka {
    /// The settings that every client starts from. librdkafka's own defaults recover slowly: ten seconds between
    /// attempts to connect, a minute until a dead connection is noticed.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "millrace")
            .set("allow.auto.create.topics", "false")
            .set("reconnect.backoff.ms", "50")
            .set("reconnect.backoff.max.ms", "500")
            .set("retry.backoff.ms", "20")
            .set("retry.backoff.max.ms", "500")
            .set("socket.timeout.ms", "10000")
            .set("socket.connection.setup.timeout.ms", "5000")
            .set("socket.keepalive.enable", "true")
            .set("socket.nagle.disable", "true");
        for Property { key, value } in &self.properties {
            config.set(key, value);
        }
        config
    }
}
