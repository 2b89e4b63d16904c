//! Banner clicks: the event of the topic `clicks`. Next in the story: `producers/src/clicks.rs`.

use std::sync::LazyLock;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Fault},
    topics::{Compatibility, Topic},
};

/// The topic. Clicks have no key: a batch goes to one partition, as Java's sticky partitioner does it.
pub static TOPIC: Topic = Topic {
    name: "clicks",
    partitions: 8,
    keyed: false,
    log_append_time: false,
    compatibility: Compatibility::FullTransitive,
    avsc: AVSC,
    schema: || &SCHEMA,
};

const AVSC: &str = include_str!("../avro/clicks.avsc");
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(AVSC).expect("clicks.avsc is read by a test"));

/// The first millisecond that a click may not have: the year 10000, beyond which RFC 3339 has no name for a time.
const RECEIVED_BEFORE_MS: i64 = 253_402_300_800_000;

/// Somebody clicked a banner.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.clicks"))]
pub struct BannerClicked {
    /// The banner, at least 0.
    pub banner_id: i64,
    /// When the click was received, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub received_at: i64,
}

impl Event for BannerClicked {
    const TOPIC: &'static Topic = &TOPIC;

    fn kind(&self) -> &'static str {
        "BannerClicked"
    }

    fn key(&self) -> Option<&str> {
        None
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if self.banner_id < 0 {
            faults.push(Fault::new("banner_id", "must not be negative"));
        }
        if !(0..RECEIVED_BEFORE_MS).contains(&self.received_at) {
            faults.push(Fault::new(
                "received_at",
                "must be a time from 1970 to 9999, in milliseconds",
            ));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::AvroSchema;

    use super::*;

    #[test]
    fn the_struct_is_what_the_schema_says() {
        assert_eq!(
            BannerClicked::get_schema().canonical_form(),
            SCHEMA.canonical_form()
        );
    }
}
