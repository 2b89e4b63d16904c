//! What every event has: a topic, a schema, maybe a key, and rules beyond its types.

use std::fmt;

use apache_avro::Schema;
use serde::{Serialize, de::DeserializeOwned};

use crate::{datum::Datum, topics::Topic};

/// An event as it stands on the log: one record of [`Event::TOPIC`].
pub trait Event: Serialize + DeserializeOwned + Clone + Send + Sync + 'static {
    /// The topic that holds these events.
    const TOPIC: &'static Topic;

    /// The name of the event, past tense: the CloudEvents `type` after the topic's name.
    fn kind(&self) -> &'static str;

    /// What decides the partition; none for topics without keys.
    fn key(&self) -> Option<&str>;

    /// Every rule of the domain that this event breaks; empty for a valid event. Checked before an append and
    /// again when folding, since others write to the topic too.
    fn faults(&self) -> Vec<Fault>;

    /// The event of a datum of this build's own schema, without apache-avro, for topics where it matters; none where
    /// that does not tell, or where it is none.
    fn read(_datum: Datum<'_>) -> Option<Self> {
        None
    }

    /// The schema that this build writes.
    fn schema() -> &'static Schema {
        (Self::TOPIC.schema)()
    }
}

/// One field that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Fault {
    /// Where: a path such as `payment.currency` or `items[2].price`.
    pub field: String,
    /// What is wrong, ending the sentence that the field begins: `must not be empty`.
    pub message: String,
}

impl Fault {
    /// A fault of `field`.
    pub fn new(field: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            message: message.into(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.field.is_empty() {
            return out.write_str(&self.message);
        }
        write!(out, "{} {}", self.field, self.message)
    }
}

/// All faults in one line, for logs and dead letters; at most the first ten.
pub fn summary(faults: &[Fault]) -> String {
    const SHOWN_MAX: usize = 10;
    let mut text = faults
        .iter()
        .take(SHOWN_MAX)
        .map(Fault::to_string)
        .collect::<Vec<_>>()
        .join("; ");
    if faults.len() > SHOWN_MAX {
        text.push_str(&format!("; and {} more", faults.len() - SHOWN_MAX));
    }
    text
}
