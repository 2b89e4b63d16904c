//! Orders: the event of the topic `orders`. Next in the story: `producers/src/orders.rs`.

use std::sync::LazyLock;

use apache_avro::Schema;
use serde::{Deserialize, Serialize};

use crate::{
    event::{Event, Fault},
    json,
    rules::{
        Field,
        Rule::{Currency, Email, Filled, Items, Key, NotNegative, Number, Text},
        check, key_fault,
    },
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

/// The most items: lists of this length are read whatever the version of the schema, see [`crate::codec`].
const ITEMS_MAX: usize = 10_000;

/// A buyer placed an order. Field by field what `avro/orders.avsc` says; amounts in minor units.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
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
        let mut faults = Vec::new();
        check(&self.fields(), str::to_owned, &mut faults);
        let inside = |record| move |name: &str| format!("{record}.{name}");
        check(&self.delivery.fields(), inside("delivery"), &mut faults);
        check(&self.payment.fields(), inside("payment"), &mut faults);
        for (index, item) in self.items.iter().enumerate() {
            let path = |name: &str| format!("items[{index}].{name}");
            check(&item.fields(), path, &mut faults);
        }
        faults
    }
}

/// What keeps a text from being the uid of an order; no order of such a uid is stored.
pub fn uid_fault(uid: &str) -> Option<&'static str> {
    key_fault(uid)
}

/// What an order is, in JSON Schema: the types and sentences of `orders.avsc`, and the rules by which orders are checked.
pub fn json_schema() -> serde_json::Value {
    let (order, item) = (OrderPlaced::default(), Item::default());
    let rules: &[(&str, &[Field<'_>])] = &[
        ("OrderPlaced", &order.fields()),
        ("Delivery", &order.delivery.fields()),
        ("Payment", &order.payment.fields()),
        ("Item", &item.fields()),
    ];
    json::schema(&SCHEMA, rules)
}

impl OrderPlaced {
    fn fields(&self) -> [Field<'_>; 12] {
        [
            ("order_uid", Key(&self.order_uid)),
            ("track_number", Filled(&self.track_number)),
            ("entry", Text(&self.entry)),
            (
                "items",
                Items {
                    length: self.items.len(),
                    max: ITEMS_MAX,
                },
            ),
            ("locale", Text(&self.locale)),
            ("internal_signature", Text(&self.internal_signature)),
            ("customer_id", Text(&self.customer_id)),
            ("delivery_service", Text(&self.delivery_service)),
            ("shardkey", Text(&self.shardkey)),
            ("sm_id", Number(self.sm_id)),
            ("date_created", Text(&self.date_created)),
            ("oof_shard", Text(&self.oof_shard)),
        ]
    }
}

impl Delivery {
    fn fields(&self) -> [Field<'_>; 7] {
        [
            ("name", Filled(&self.name)),
            ("phone", Filled(&self.phone)),
            ("zip", Text(&self.zip)),
            ("city", Text(&self.city)),
            ("address", Filled(&self.address)),
            ("region", Text(&self.region)),
            ("email", Email(&self.email)),
        ]
    }
}

impl Payment {
    fn fields(&self) -> [Field<'_>; 10] {
        [
            ("transaction", Text(&self.transaction)),
            ("request_id", Text(&self.request_id)),
            ("currency", Currency(&self.currency)),
            ("provider", Text(&self.provider)),
            ("amount", NotNegative(self.amount)),
            ("payment_dt", Number(self.payment_dt)),
            ("bank", Text(&self.bank)),
            ("delivery_cost", NotNegative(self.delivery_cost)),
            ("goods_total", NotNegative(self.goods_total)),
            ("custom_fee", NotNegative(self.custom_fee)),
        ]
    }
}

impl Item {
    fn fields(&self) -> [Field<'_>; 11] {
        [
            ("chrt_id", Number(self.chrt_id)),
            ("track_number", Text(&self.track_number)),
            ("price", NotNegative(self.price)),
            ("rid", Text(&self.rid)),
            ("name", Text(&self.name)),
            ("sale", Number(self.sale)),
            ("size", Text(&self.size)),
            ("total_price", NotNegative(self.total_price)),
            ("nm_id", Number(self.nm_id)),
            ("brand", Text(&self.brand)),
            ("status", Number(self.status)),
        ]
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
