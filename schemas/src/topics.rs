//! The list of topics: one line a topic, in the order in which people list them.

use apache_avro::Schema;

use crate::{clicks, orders, sale_attempts, sale_rules, sales, segments, users};

/// Every topic of the system.
pub static TOPICS: &[&Topic] = &[
    &clicks::TOPIC,
    &orders::TOPIC,
    &users::TOPIC,
    &segments::TOPIC,
    &sales::TOPIC,
    &sale_rules::TOPIC,
    &sale_attempts::TOPIC,
];

/// A topic as it has to be. Partition counts are final: another count would move keys.
#[derive(Debug)]
pub struct Topic {
    /// The name without the installation's prefix; also the name of the domain's schema file.
    pub name: &'static str,
    /// How many partitions.
    pub partitions: i32,
    /// Whether records have keys, and stand where Java's partitioner puts them.
    pub keyed: bool,
    /// Whether the broker stamps records (`LogAppendTime`); else the writer does.
    pub log_append_time: bool,
    /// What the registry demands of a new version.
    pub compatibility: Compatibility,
    /// The schema that this build writes, as its file has it: a registry tells versions apart by their text.
    pub avsc: &'static str,
    /// The same, parsed once.
    pub schema: fn() -> &'static Schema,
}

impl Topic {
    /// The name on the broker: the installation's prefix, then the name.
    pub fn full_name(&self, prefix: &str) -> String {
        format!("{prefix}{}", self.name)
    }
}

/// The subject under which the schemas of a topic are registered (Confluent's TopicNameStrategy).
pub fn subject(topic: &str) -> String {
    format!("{topic}-value")
}

/// Compatibility levels of the registry, by its own names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compatibility {
    /// For topics with one event: old and new readers read old and new records.
    FullTransitive,
    /// For topics with several events, a union: a new branch is never forward compatible, so readers are
    /// deployed before writers.
    BackwardTransitive,
}

impl Compatibility {
    /// The registry's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FullTransitive => "FULL_TRANSITIVE",
            Self::BackwardTransitive => "BACKWARD_TRANSITIVE",
        }
    }
}
