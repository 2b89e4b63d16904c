//! What the verdicts make of the tables.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{History, Judged, Request, Rules, Verdict};
use crate::{
    reference::Tables,
    world::{World, avro::Reader},
};

const ATTEMPTS: &str = include_str!("../../../../schemas/avro/sale-attempts.avsc");

macro_rules! ms {
    ($column:literal) => {
        concat!("(extract(epoch FROM ", $column, ") * 1000)::bigint")
    };
}

pub const QUERIES: [(&str, &str); 4] = [
    (
        "sales.sales",
        concat!(
            "SELECT json_build_array(",
            ms!("starts_at"),
            ") AS key, json_build_object('ends_at', ",
            ms!("ends_at"),
            r#", 'items', items, 'limit', "limit", 'reservation_seconds',
            reservation_seconds, 'sold', sold, 'decided_at', "#,
            ms!("decided_at"),
            ") AS row FROM sales.sales"
        ),
    ),
    (
        "sales.items",
        concat!(
            "SELECT json_build_array(",
            ms!("sale_starts_at"),
            ", item_id) AS key,
             json_build_object('reserved_by', reserved_by, 'reserved_until', ",
            ms!("reserved_until"),
            ", 'reserved_offset', reserved_offset, 'purchased_by', purchased_by, 'purchased_at', ",
            ms!("purchased_at"),
            ", 'purchased_offset', purchased_offset) AS row FROM sales.items"
        ),
    ),
    (
        "sales.attempts",
        concat!(
            r#"SELECT json_build_array("offset") AS key, json_build_object('sale', "#,
            ms!("sale_starts_at"),
            ", 'kind', kind, 'user_id', user_id, 'item_id', item_id,
            'verdict', verdict, 'at', ",
            ms!("at"),
            ", 'expires_at', ",
            ms!("expires_at"),
            ", 'is_replayed', is_replayed, 'has_key', has_key) AS row FROM sales.attempts"
        ),
    ),
    (
        "sale_attempts.attempts",
        concat!(
            r#"SELECT json_build_array(partition, "offset") AS key, json_build_object('sale', "#,
            ms!("sale_starts_at"),
            ", 'user_id', user_id, 'item_id', item_id, 'verdict', verdict,
            'at', ",
            ms!("at"),
            ", 'decided_at_offset', decided_at_offset) AS row
            FROM sale_attempts.attempts"
        ),
    ),
];

impl World {
    pub(in crate::reference) async fn fold_sales(&self, tables: &mut Tables) {
        let history = self
            .sale_history_showing(|record, fault| {
                if let Some(reason) = fault {
                    tables.dead("sales", record, reason);
                }
            })
            .await;
        let mut sold = BTreeMap::new();
        for judged in history.requests() {
            tables.put("sales.attempts", &json!([judged.offset]), &attempt(judged));
            let Some(sale) = judged.sale else {
                continue;
            };
            if !judged.is_replayed {
                take(tables, sale, judged);
            }
            let sold: &mut i64 = sold.entry(sale).or_default();
            let is_bought = matches!(judged.verdict, Verdict::Purchased { .. });
            *sold += i64::from(is_bought && !judged.is_replayed);
            let row = history.stands(sale, *sold, judged.at_ms);
            tables.put("sales.sales", &json!([sale]), &row);
        }
    }

    pub(in crate::reference) async fn fold_sale_attempts(&self, tables: &mut Tables) {
        let mut reader = Reader::new(self, "sale-attempts", ATTEMPTS);
        for record in self.read_topic("sale-attempts").await {
            let event = match reader.read(record.value.as_deref()).await {
                Ok(event) if event["user_id"].as_i64() >= Some(0) => event,
                Ok(_) => {
                    tables.dead("sale_attempts", &record, "invalid");
                    continue;
                }
                Err(reason) => {
                    tables.dead("sale_attempts", &record, reason);
                    continue;
                }
            };
            let row = json!({
                "sale": event["sale_started_at"], "user_id": event["user_id"],
                "item_id": event["item_id"], "verdict": event["reason"],
                "at": event["requested_at"], "decided_at_offset": event["decided_at_offset"],
            });
            let key = json!([record.partition, record.offset]);
            tables.put("sale_attempts.attempts", &key, &row);
        }
    }
}

impl History {
    /// The row of a sale.
    fn stands(&self, sale: i64, sold: i64, decided_at_ms: i64) -> Value {
        let Rules {
            items,
            limit,
            reservation_seconds,
            sale_seconds,
        } = self.rules_of_sales[&sale];
        json!({
            "ends_at": sale + sale_seconds * 1_000, "items": items, "limit": limit,
            "reservation_seconds": reservation_seconds, "sold": sold, "decided_at": decided_at_ms,
        })
    }
}

fn attempt(judged: &Judged) -> Value {
    let (kind, mut user_id, mut item_id, key) = match judged.request.as_ref().unwrap() {
        Request::Checkout {
            user_id,
            item_id,
            key,
        } => ("checkout", Some(*user_id), Some(*item_id), key),
        Request::Purchase { key, .. } => ("purchase", None, None, key),
    };
    let mut expires_at = None;
    match judged.verdict {
        Verdict::Reserved { expires_at_ms, .. } => expires_at = Some(expires_at_ms),
        Verdict::Purchased {
            user_id: buyer,
            item_id: bought,
        } => (user_id, item_id) = (Some(buyer), Some(bought)),
        _ => {}
    }
    json!({
        "sale": judged.sale, "kind": kind, "user_id": user_id, "item_id": item_id,
        "verdict": judged.verdict.word(), "at": judged.at_ms, "expires_at": expires_at,
        "is_replayed": judged.is_replayed, "has_key": key.is_some(),
    })
}

/// What a verdict changes in the row of its item.
fn take(tables: &mut Tables, sale: i64, judged: &Judged) {
    let (what, user_id, item_id, at) = match (&judged.request, &judged.verdict) {
        (
            Some(Request::Checkout {
                user_id, item_id, ..
            }),
            Verdict::Reserved { expires_at_ms, .. },
        ) => (
            "reserved",
            *user_id,
            *item_id,
            ("reserved_until", *expires_at_ms),
        ),
        (_, Verdict::Purchased { user_id, item_id }) => (
            "purchased",
            *user_id,
            *item_id,
            ("purchased_at", judged.at_ms),
        ),
        _ => return,
    };
    let key = json!([sale, item_id]);
    let mut row = tables.row("sales.items", &key).unwrap_or_else(
        || json!({"purchased_by": null, "purchased_at": null, "purchased_offset": null}),
    );
    row[format!("{what}_by")] = user_id.into();
    row[at.0] = at.1.into();
    row[format!("{what}_offset")] = judged.offset.into();
    tables.put("sales.items", &key, &row);
}
