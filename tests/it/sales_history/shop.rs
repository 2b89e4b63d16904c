//! A shop to be stormed: requests of the flash sale, written as any client would write them.

use rand::{RngExt, rngs::StdRng};
use serde_json::{Value, json};

use crate::{
    reference::sales::code,
    world::{Raw, World, avro::Writer},
};

const HOUR_MS: i64 = 3_600_000;
/// Requests in a round of a crowd.
const ROUND: usize = 60;

/// Writes requests for the sales of one world.
pub struct Shop<'w> {
    world: &'w World,
    checkouts: Writer,
    purchases: Writer,
    rules_seen: i64,
    sale_ms: i64,
}

/// A record on the log of the sale.
#[derive(Debug, Clone, Copy)]
pub struct Placed {
    /// Its offset.
    pub offset: i64,
    /// The start of the sale that its time falls into.
    pub sale: i64,
}

impl<'w> Shop<'w> {
    /// With the usual rules.
    pub async fn open(world: &'w World) -> Self {
        let sales = world.writer("sales").await;
        Self {
            world,
            checkouts: sales.of("CheckoutRequested"),
            purchases: sales.of("PurchaseRequested"),
            rules_seen: 0,
            sale_ms: HOUR_MS,
        }
    }

    /// With these rules.
    pub async fn with(world: &'w World, rules: [i64; 4]) -> Self {
        let [items, limit, reservation_seconds, sale_seconds] = rules;
        let rules = json!({
            "items": items, "limit": limit, "reservation_seconds": reservation_seconds,
            "sale_seconds": sale_seconds,
        });
        let value = world.writer("sale-rules").await.value(&rules);
        let (_, offset) = world.append_raw("sale-rules", Raw::value(value)).await;
        let mut shop = Self::open(world).await;
        shop.rules_seen = offset + 1;
        shop.sale_ms = sale_seconds * 1_000;
        shop
    }

    /// A user wants to reserve an item, now.
    pub fn checkout(&self, user: i64, item: i64) -> Raw {
        self.checkout_with(user, item, &json!({}))
    }

    /// The same with other values for some fields.
    pub fn checkout_with(&self, user: i64, item: i64, others: &Value) -> Raw {
        let event = json!({
            "user_id": user, "item_id": item, "requested_at": producers::clock::now_ms(),
            "rules_seen": self.rules_seen, "nonce": nonce(user, item), "key": null,
        });
        Raw::value(self.checkouts.value(&changed(event, others)))
    }

    /// Somebody wants to buy with a code, now.
    pub fn purchase(&self, code: &str, others: &Value) -> Raw {
        let event = json!({
            "code": code, "requested_at": producers::clock::now_ms(),
            "rules_seen": self.rules_seen, "nonce": 1, "key": null,
        });
        Raw::value(self.purchases.value(&changed(event, others)))
    }

    /// Appends requests in this order.
    pub async fn append(&self, records: Vec<Raw>) -> Vec<Placed> {
        let places = self.world.append_all("sales", records).await;
        let log = self.world.read_topic("sales").await;
        let placed = |(_, offset): &(i32, i64)| {
            let record = log.iter().find(|record| record.offset == *offset).unwrap();
            Placed {
                offset: *offset,
                sale: record.timestamp_ms / self.sale_ms * self.sale_ms,
            }
        };
        places.iter().map(placed).collect()
    }

    /// The code of the reservation of a checkout, if it was reserved.
    pub fn code(&self, placed: Placed, user: i64, item: i64) -> String {
        code(placed.sale, placed.offset, nonce(user, item))
    }

    /// Reserves an item and buys it.
    pub async fn sell(&self, user: i64, item: i64) -> Placed {
        let placed = self.append(vec![self.checkout(user, item)]).await[0];
        let code = self.code(placed, user, item);
        self.append(vec![self.purchase(&code, &json!({}))]).await;
        placed
    }

    /// One round of a crowd: everything that people do, and what they should not. `codes` has those of earlier rounds.
    pub async fn round(&self, random: &mut StdRng, items: i64, codes: &mut Vec<String>) {
        let mut records = Vec::new();
        let mut wanted = Vec::new();
        for _ in 0..ROUND {
            let (user, item) = (random.random_range(0..9), random.random_range(0..=items));
            let others = match random.random_range(0..10) {
                0 => json!({"key": format!("k{}", random.random_range(0..3))}),
                1 => json!({"requested_at": producers::clock::now_ms() - 60_000}),
                2 => json!({"user_id": -1}),
                _ => json!({}),
            };
            match random.random_range(0..10) {
                0 => records.push(Raw::value("junk")),
                1..=4 if !codes.is_empty() => {
                    let code = &codes[random.random_range(0..codes.len())];
                    let mut others = others;
                    others.as_object_mut().unwrap().remove("user_id");
                    records.push(self.purchase(code, &others));
                }
                _ => {
                    wanted.push((records.len(), user, item));
                    records.push(self.checkout_with(user, item, &others));
                }
            }
        }
        let placed = self.append(records).await;
        for (index, user, item) in wanted {
            codes.push(self.code(placed[index], user, item));
        }
        // The newest alone can still be bought with; a few are kept for those who come too late.
        let old = codes.len().saturating_sub(ROUND + 5);
        codes.drain(..old);
    }
}

/// The name of the sale with this start.
pub fn name(sale: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(sale).unwrap();
    let format = if sale % 60_000 == 0 {
        "%Y%m%dT%H%MZ"
    } else {
        "%Y%m%dT%H%M%SZ"
    };
    at.strftime(format).to_string()
}

fn nonce(user: i64, item: i64) -> i64 {
    user * 1_000_003 + item
}

fn changed(mut event: Value, others: &Value) -> Value {
    for (field, value) in others.as_object().unwrap() {
        event[field] = value.clone();
    }
    event
}
