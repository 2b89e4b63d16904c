//! Refusals that needed no log: the event of the topic `sale-attempts`. Before this: [`crate::sales`].

use std::sync::LazyLock;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Fault},
    sales::{item_fault, time_fault, user_fault},
    topics::{Compatibility, Topic},
};

/// The topic. Refusals have no key: a batch goes to one partition.
pub static TOPIC: Topic = Topic {
    name: "sale-attempts",
    partitions: 8,
    keyed: false,
    log_append_time: false,
    compatibility: Compatibility::FullTransitive,
    avsc: AVSC,
    schema: || &SCHEMA,
};

const AVSC: &str = include_str!("../avro/sale-attempts.avsc");
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(AVSC).expect("sale-attempts.avsc is read by a test"));

/// Why a checkout was refused without the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// Somebody has reserved the item.
    ItemReserved,
    /// Somebody has bought the item.
    ItemSold,
    /// The user has bought as many as one may.
    UserLimit,
    /// Everything is bought.
    SoldOut,
    /// A reason that this build does not know.
    Other,
}

/// A checkout was refused without going to the log of the sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.sales"))]
pub struct CheckoutRefused {
    /// The user, at least 0.
    pub user_id: i64,
    /// The item.
    pub item_id: i32,
    /// The answer that was given.
    #[cfg_attr(test, avro(with = || tests::refusals("millrace.sales.Refusal")))]
    pub reason: Refusal,
    /// The sale, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub sale_started_at: i64,
    /// Next offset of `sales`: everything before it was known.
    pub decided_at_offset: i64,
    /// By the clock of the process that answered, milliseconds since 1970-01-01T00:00:00Z.
    #[cfg_attr(test, avro(with = || Schema::TimestampMillis))]
    pub requested_at: i64,
}

impl Event for CheckoutRefused {
    const TOPIC: &'static Topic = &TOPIC;

    fn kind(&self) -> &'static str {
        "CheckoutRefused"
    }

    fn key(&self) -> Option<&str> {
        None
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        faults.extend(user_fault(self.user_id));
        faults.extend(item_fault(self.item_id));
        faults.extend(time_fault("sale_started_at", self.sale_started_at));
        faults.extend(time_fault("requested_at", self.requested_at));
        if self.sale_started_at % 1_000 != 0 {
            faults.push(Fault::new("sale_started_at", "must be a whole second"));
        }
        if self.decided_at_offset < 0 {
            faults.push(Fault::new("decided_at_offset", "must not be negative"));
        }
        faults
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::AvroSchema;

    use super::*;

    /// What the derive macro, which wants variants without documentation, would say of [`Refusal`].
    pub(super) fn refusals(name: &str) -> Schema {
        let names = [
            Refusal::ItemReserved,
            Refusal::ItemSold,
            Refusal::UserLimit,
            Refusal::SoldOut,
            Refusal::Other,
        ]
        .map(|refusal| serde_json::to_value(refusal).unwrap());
        let schema =
            serde_json::json!({"type": "enum", "name": name, "symbols": names, "default": "other"});
        Schema::parse(&schema).unwrap()
    }

    #[test]
    fn the_struct_is_what_the_schema_says() {
        assert_eq!(
            CheckoutRefused::get_schema().canonical_form(),
            SCHEMA.canonical_form()
        );
    }
}
