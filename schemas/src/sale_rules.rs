//! The rules of the sales: the event of the topic `sale-rules`. Before this: [`crate::sales`].

use std::sync::LazyLock;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Fault},
    sales::ITEMS_MAX,
    topics::{Compatibility, Topic},
};

/// The topic: one partition, since the newest rules below an offset are meant.
pub static TOPIC: Topic = Topic {
    name: "sale-rules",
    partitions: 1,
    keyed: false,
    log_append_time: true,
    compatibility: Compatibility::FullTransitive,
    avsc: AVSC,
    schema: || &SCHEMA,
};

const AVSC: &str = include_str!("../avro/sale-rules.avsc");
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(AVSC).expect("sale-rules.avsc is read by a test"));

/// Seconds of an hour.
const HOUR_S: i32 = 3_600;

/// Rules of the sales, for whole UTC hours.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.sales"))]
pub struct SaleRulesSet {
    /// How many items a sale has: those from 0 on.
    pub items: i32,
    /// How many a user may have bought and reserved together in a sale.
    pub limit: i32,
    /// How long a reservation holds.
    pub reservation_seconds: i32,
    /// How long a sale lasts.
    pub sale_seconds: i32,
}

impl Default for SaleRulesSet {
    /// The rules where none were ever set: ten thousand items an hour, ten a user, a minute to pay.
    fn default() -> Self {
        Self {
            items: ITEMS_MAX,
            limit: 10,
            reservation_seconds: 60,
            sale_seconds: HOUR_S,
        }
    }
}

impl Event for SaleRulesSet {
    const TOPIC: &'static Topic = &TOPIC;

    fn kind(&self) -> &'static str {
        "SaleRulesSet"
    }

    fn key(&self) -> Option<&str> {
        None
    }

    fn faults(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        let mut within = |field: &str, number: i32, max: i32| {
            if !(1..=max).contains(&number) {
                faults.push(Fault::new(field, format!("must be 1 to {max}")));
            }
        };
        within("items", self.items, ITEMS_MAX);
        within("limit", self.limit, ITEMS_MAX);
        within("reservation_seconds", self.reservation_seconds, HOUR_S);
        within("sale_seconds", self.sale_seconds, HOUR_S);
        if self.sale_seconds > 0 && HOUR_S % self.sale_seconds != 0 {
            faults.push(Fault::new("sale_seconds", "must divide 3600"));
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
            SaleRulesSet::get_schema().canonical_form(),
            SCHEMA.canonical_form()
        );
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        let faults_of = |change: fn(&mut SaleRulesSet)| {
            let mut rules = SaleRulesSet::default();
            change(&mut rules);
            let faults = rules.faults();
            faults.iter().map(Fault::to_string).collect::<Vec<_>>()
        };
        assert_eq!(faults_of(|_| {}), [""; 0]);
        assert_eq!(faults_of(|r| r.items = 0), ["items must be 1 to 10000"]);
        assert_eq!(
            faults_of(|r| r.limit = 10_001),
            ["limit must be 1 to 10000"]
        );
        assert_eq!(
            faults_of(|r| r.reservation_seconds = -1),
            ["reservation_seconds must be 1 to 3600"]
        );
        assert_eq!(
            faults_of(|r| r.sale_seconds = 7),
            ["sale_seconds must divide 3600"]
        );
    }
}
