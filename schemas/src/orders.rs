//! Orders: the event of the topic `orders`. Next in the story: `producers/src/orders.rs`.

use std::sync::LazyLock;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Fault},
    topics::{Compatibility, Topic},
};

/// The topic; the key is the order's uid.
pub static TOPIC: Topic = Topic {
    name: "orders",
    partitions: 8,
    keyed: true,
    log_append_time: false,
    compatibility: Compatibility::FullTransitive,
    avsc: AVSC,
    schema: || &SCHEMA,
};

const AVSC: &str = include_str!("../avro/orders.avsc");
static SCHEMA: LazyLock<Schema> =
    LazyLock::new(|| Schema::parse_str(AVSC).expect("orders.avsc is read by a test"));

/// The longest uid: it is a key in Postgres, whose index pages hold no long ones.
const UID_CHARS_MAX: usize = 100;

/// The most items: lists of this length are read whatever the version of the schema, see [`crate::codec`].
const ITEMS_MAX: usize = 10_000;

/// A buyer placed an order. Field by field what `avro/orders.avsc` says; amounts in minor units.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.orders"))]
#[expect(missing_docs, reason = "the fields are documented in avro/orders.avsc")]
pub struct OrderPlaced {
    pub order_uid: String,
    pub track_number: String,
    pub entry: String,
    pub delivery: Delivery,
    pub payment: Payment,
    pub items: Vec<Item>,
    pub locale: String,
    pub internal_signature: String,
    pub customer_id: String,
    pub delivery_service: String,
    pub shardkey: String,
    pub sm_id: i64,
    pub date_created: String,
    pub oof_shard: String,
}

/// Where the goods go.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.orders"))]
#[expect(missing_docs, reason = "the fields are documented in avro/orders.avsc")]
pub struct Delivery {
    pub name: String,
    pub phone: String,
    pub zip: String,
    pub city: String,
    pub address: String,
    pub region: String,
    pub email: String,
}

/// How an order was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.orders"))]
#[expect(missing_docs, reason = "the fields are documented in avro/orders.avsc")]
pub struct Payment {
    pub transaction: String,
    pub request_id: String,
    pub currency: String,
    pub provider: String,
    pub amount: i64,
    pub payment_dt: i64,
    pub bank: String,
    pub delivery_cost: i64,
    pub goods_total: i64,
    pub custom_fee: i64,
}

/// One line of an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(apache_avro::AvroSchema))]
#[cfg_attr(test, avro(namespace = "millrace.orders"))]
#[expect(missing_docs, reason = "the fields are documented in avro/orders.avsc")]
pub struct Item {
    pub chrt_id: i64,
    pub track_number: String,
    pub price: i64,
    pub rid: String,
    pub name: String,
    pub sale: i64,
    pub size: String,
    pub total_price: i64,
    pub nm_id: i64,
    pub brand: String,
    pub status: i64,
}

impl Event for OrderPlaced {
    const TOPIC: &'static Topic = &TOPIC;

    fn kind(&self) -> &'static str {
        "OrderPlaced"
    }

    fn key(&self) -> Option<&str> {
        Some(&self.order_uid)
    }

    fn faults(&self) -> Vec<Fault> {
        let mut rules = Rules::default();
        self.check_head(&mut rules);
        self.delivery.check(&mut rules);
        self.payment.check(&mut rules);
        if self.items.is_empty() {
            rules.fault("items".into(), "must have at least one item");
        }
        if self.items.len() > ITEMS_MAX {
            rules.fault("items".into(), "must have at most 10000 items");
        }
        for (index, item) in self.items.iter().enumerate() {
            item.check(index, &mut rules);
        }
        rules.faults
    }
}

/// What keeps a text from being the uid of an order; no order of such a uid is stored.
pub fn uid_fault(uid: &str) -> Option<&'static str> {
    if uid.trim().is_empty() {
        return Some("must not be empty");
    }
    if uid.chars().count() > UID_CHARS_MAX {
        return Some("must have at most 100 characters");
    }
    if uid.chars().any(char::is_control) {
        return Some("must not have control characters");
    }
    None
}

impl OrderPlaced {
    fn check_head(&self, rules: &mut Rules) {
        if let Some(message) = uid_fault(&self.order_uid) {
            rules.fault("order_uid".into(), message);
        }
        rules.present("track_number", &self.track_number);
        for (field, text) in [
            ("entry", &self.entry),
            ("locale", &self.locale),
            ("internal_signature", &self.internal_signature),
            ("customer_id", &self.customer_id),
            ("delivery_service", &self.delivery_service),
            ("shardkey", &self.shardkey),
            ("date_created", &self.date_created),
            ("oof_shard", &self.oof_shard),
        ] {
            rules.text(field, text);
        }
    }
}

impl Delivery {
    fn check(&self, rules: &mut Rules) {
        rules.present("delivery.name", &self.name);
        rules.present("delivery.phone", &self.phone);
        rules.text("delivery.zip", &self.zip);
        rules.text("delivery.city", &self.city);
        rules.present("delivery.address", &self.address);
        rules.text("delivery.region", &self.region);
        rules.present("delivery.email", &self.email);
        if !self.email.is_empty() && !self.email.contains('@') {
            rules.fault("delivery.email".into(), "must have an @");
        }
    }
}

impl Payment {
    fn check(&self, rules: &mut Rules) {
        for (field, text) in [
            ("payment.transaction", &self.transaction),
            ("payment.request_id", &self.request_id),
            ("payment.provider", &self.provider),
            ("payment.bank", &self.bank),
        ] {
            rules.text(field, text);
        }
        if self.currency.len() != 3 || !self.currency.bytes().all(|b| b.is_ascii_alphabetic()) {
            rules.fault(
                "payment.currency".into(),
                "must be three letters, such as USD",
            );
        }
        for (field, amount) in [
            ("payment.amount", self.amount),
            ("payment.delivery_cost", self.delivery_cost),
            ("payment.goods_total", self.goods_total),
            ("payment.custom_fee", self.custom_fee),
        ] {
            rules.not_negative(field.into(), amount);
        }
    }
}

impl Item {
    fn check(&self, index: usize, rules: &mut Rules) {
        let path = |field: &str| format!("items[{index}].{field}");
        for (field, text) in [
            ("track_number", &self.track_number),
            ("rid", &self.rid),
            ("name", &self.name),
            ("size", &self.size),
            ("brand", &self.brand),
        ] {
            if text.contains('\0') {
                rules.fault(path(field), NO_NUL);
            }
        }
        if self.price < 0 {
            rules.fault(path("price"), NOT_NEGATIVE);
        }
        if self.total_price < 0 {
            rules.fault(path("total_price"), NOT_NEGATIVE);
        }
    }
}

const NOT_NEGATIVE: &str = "must not be negative";
/// Postgres has no text with this character.
const NO_NUL: &str = "must not have the character U+0000";

/// Collects the faults of one order.
#[derive(Default)]
struct Rules {
    faults: Vec<Fault>,
}

impl Rules {
    fn fault(&mut self, field: String, message: &str) {
        self.faults.push(Fault::new(field, message));
    }

    fn present(&mut self, field: &str, text: &str) {
        if text.trim().is_empty() {
            self.fault(field.to_owned(), "must not be empty");
        }
        self.text(field, text);
    }

    fn text(&mut self, field: &str, text: &str) {
        if text.contains('\0') {
            self.fault(field.to_owned(), NO_NUL);
        }
    }

    fn not_negative(&mut self, field: String, amount: i64) {
        if amount < 0 {
            self.fault(field, NOT_NEGATIVE);
        }
    }
}

#[cfg(test)]
mod tests {
    use apache_avro::AvroSchema;

    use super::*;

    #[test]
    fn the_structs_are_what_the_schema_says() {
        assert_eq!(
            OrderPlaced::get_schema().canonical_form(),
            SCHEMA.canonical_form()
        );
    }
}
