//! The flash sale once more, from the contract: every sale is kept for ever, and looked through from end to end.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::{Tables, YEAR_10000_MS};
use crate::world::{World, avro::Reader, log::Record};

const SALES: &str = include_str!("../../../schemas/avro/sales.avsc");
const RULES: &str = include_str!("../../../schemas/avro/sale-rules.avsc");
const ATTEMPTS: &str = include_str!("../../../schemas/avro/sale-attempts.avsc");
const HOUR_MS: i64 = 3_600_000;
const DRIFT_MAX_MS: i64 = 30_000;

macro_rules! ms {
    ($column:literal) => {
        concat!("(extract(epoch FROM ", $column, ") * 1000)::bigint")
    };
}

pub(super) const QUERIES: [(&str, &str); 4] = [
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

/// A sale, with everything that was ever given in it.
#[derive(Debug, Default, Clone)]
struct Sale {
    ends_at: i64,
    rules: Value,
    /// By their codes.
    reservations: BTreeMap<String, Reservation>,
    /// Who wanted what under this key, and the verdict.
    keys: BTreeMap<String, (Value, Verdict)>,
}

#[derive(Debug, Clone)]
struct Reservation {
    user: i64,
    item: i64,
    until: i64,
    is_bought: bool,
}

/// The word, and what comes with it: user, item, and the end of a reservation.
#[derive(Debug, Clone)]
struct Verdict {
    word: &'static str,
    user: Option<i64>,
    item: Option<i64>,
    until: Option<i64>,
}

fn refused(word: &'static str) -> Verdict {
    Verdict {
        word,
        user: None,
        item: None,
        until: None,
    }
}

#[derive(Default)]
struct Shop {
    /// With their offsets.
    rules: Vec<(i64, Value)>,
    now: Option<i64>,
    /// The rules of each hour in which something was requested.
    hours: BTreeMap<i64, Value>,
    /// By their starts.
    sales: BTreeMap<i64, Sale>,
}

impl World {
    pub(super) async fn fold_sales(&self, tables: &mut Tables) {
        let mut shop = Shop {
            rules: self.rules_on_the_log().await,
            ..Shop::default()
        };
        let mut reader = Reader::new(self, "sales", SALES);
        for record in self.read_topic("sales").await {
            tables.covers("sales", &record);
            let event = reader.read(record.value.as_deref()).await;
            match event.and_then(checked) {
                Ok(event) => shop.request(tables, &record, &event),
                Err(reason) => tables.dead("sales", &record, reason),
            }
        }
    }

    async fn rules_on_the_log(&self) -> Vec<(i64, Value)> {
        let mut reader = Reader::new(self, "sale-rules", RULES);
        let mut rules = Vec::new();
        for record in self.read_topic("sale-rules").await {
            if let Ok(set) = reader.read(record.value.as_deref()).await {
                rules.push((record.offset, set));
            }
        }
        rules
    }

    pub(super) async fn fold_sale_attempts(&self, tables: &mut Tables) {
        let mut reader = Reader::new(self, "sale-attempts", ATTEMPTS);
        for record in self.read_topic("sale-attempts").await {
            tables.covers("sale_attempts", &record);
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

/// The rules that a single request has to keep.
fn checked(event: Value) -> Result<Value, &'static str> {
    let within = |field: &str, last: i64| {
        let number = event[field].as_i64();
        number.is_none_or(|number| (0..=last).contains(&number))
    };
    let key = event["key"].as_str().unwrap_or("-");
    let is_valid = within("user_id", i64::MAX)
        && within("item_id", 9_999)
        && within("requested_at", YEAR_10000_MS - 1)
        && within("rules_seen", 1_000_000)
        && (1..=255).contains(&key.len())
        && key.chars().all(|c| ('!'..='~').contains(&c));
    if is_valid { Ok(event) } else { Err("invalid") }
}

impl Shop {
    fn request(&mut self, tables: &mut Tables, record: &Record, event: &Value) {
        let Some(requested_at) = event["requested_at"].as_i64() else {
            return; // a barrier
        };
        let is_checkout = event["code"].is_null();
        let mut row = json!({
            "sale": null, "kind": if is_checkout { "checkout" } else { "purchase" },
            "user_id": event["user_id"], "item_id": event["item_id"], "verdict": "void",
            "at": record.timestamp_ms, "expires_at": null, "is_replayed": false,
            "has_key": !event["key"].is_null(),
        });
        if (record.timestamp_ms - requested_at).abs() <= DRIFT_MAX_MS {
            let now = record.timestamp_ms.max(self.now.unwrap_or(0));
            self.now = Some(now);
            let start = self.sale_at(now, event);
            let (verdict, is_replayed) = self.decide(start, now, record.offset, event);
            row["sale"] = start.into();
            row["verdict"] = verdict.word.into();
            row["at"] = now.into();
            row["expires_at"] = verdict.until.into();
            row["is_replayed"] = is_replayed.into();
            if verdict.word == "purchased" {
                row["user_id"] = verdict.user.into();
                row["item_id"] = verdict.item.into();
            }
            if !is_replayed {
                take(tables, start, now, record.offset, &verdict);
            }
            self.tell(tables, start, now);
        }
        tables.put("sales.attempts", &json!([record.offset]), &row);
    }

    /// The start of the sale that runs now.
    fn sale_at(&mut self, now: i64, event: &Value) -> i64 {
        let hour = now / HOUR_MS * HOUR_MS;
        let seen = event["rules_seen"].as_i64().unwrap();
        let newest = self.rules.iter().rev().find(|(offset, _)| *offset < seen);
        let usual =
            json!({"items": 10_000, "limit": 10, "reservation_seconds": 60, "sale_seconds": 3_600});
        let first = newest.map_or(usual, |(_, rules)| rules.clone());
        let rules = self.hours.entry(hour).or_insert(first).clone();
        let length = rules["sale_seconds"].as_i64().unwrap() * 1_000;
        let start = hour + (now - hour) / length * length;
        self.sales.entry(start).or_insert(Sale {
            ends_at: start + length,
            rules,
            ..Sale::default()
        });
        start
    }

    fn decide(&mut self, start: i64, now: i64, offset: i64, event: &Value) -> (Verdict, bool) {
        let code = event["code"].as_str();
        // A key of a purchase belongs to the sale of its code.
        let home = code.map_or(start, start_of_code);
        let key = event["key"].as_str().map(|key| match code {
            Some(code) => format!("{code} {key}"),
            None => format!("{} {key}", event["user_id"]),
        });
        let wanted = event["item_id"].clone();
        let before = |(_, sale): &(&i64, &Sale)| sale.ends_at == start;
        let previous = self.sales.iter().find(before).map(|(start, _)| *start);
        let is_remembered = home == start || Some(home) == previous;
        if let (Some(key), true) = (&key, is_remembered) {
            match self.sales[&home].keys.get(key) {
                Some((item, first)) if *item == wanted => return (first.clone(), true),
                Some(_) => return (refused("key_reused"), false),
                None => {}
            }
        }
        let verdict = match code {
            None => self
                .sales
                .get_mut(&start)
                .unwrap()
                .checkout(start, now, offset, event),
            Some(_) if home > start => refused("code_unknown"),
            Some(_) if !is_remembered => refused("code_expired"),
            Some(code) => self.sales.get_mut(&home).unwrap().purchase(code, now),
        };
        if let (Some(key), true) = (key, is_remembered) {
            let keys = &mut self.sales.get_mut(&home).unwrap().keys;
            keys.insert(key, (wanted, verdict.clone()));
        }
        (verdict, false)
    }

    fn tell(&self, tables: &mut Tables, start: i64, now: i64) {
        let sale = &self.sales[&start];
        let bought = |reservation: &&Reservation| reservation.is_bought;
        let row = json!({
            "ends_at": sale.ends_at, "items": sale.rules["items"], "limit": sale.rules["limit"],
            "reservation_seconds": sale.rules["reservation_seconds"],
            "sold": sale.reservations.values().filter(bought).count(), "decided_at": now,
        });
        tables.put("sales.sales", &json!([start]), &row);
    }
}

impl Sale {
    fn checkout(&mut self, start: i64, now: i64, offset: i64, event: &Value) -> Verdict {
        let rule = |name: &str| self.rules[name].as_i64().unwrap();
        let (user, item) = (
            event["user_id"].as_i64().unwrap(),
            event["item_id"].as_i64().unwrap(),
        );
        let all = || self.reservations.values();
        let holds = |reservation: &&Reservation| reservation.is_bought || reservation.until > now;
        let sold = all().filter(|r| r.is_bought).count();
        if item >= rule("items") {
            return refused("no_such_item");
        }
        if i64::try_from(sold).unwrap() == rule("items") {
            return refused("sold_out");
        }
        match all().filter(holds).find(|r| r.item == item) {
            Some(taken) if taken.is_bought => return refused("item_sold"),
            Some(_) => return refused("item_reserved"),
            None => {}
        }
        let has = all().filter(holds).filter(|r| r.user == user).count();
        if i64::try_from(has).unwrap() >= rule("limit") {
            return refused("user_limit");
        }
        let until = self.ends_at.min(now + rule("reservation_seconds") * 1_000);
        let code = code(start, offset, event["nonce"].as_i64().unwrap());
        let reservation = Reservation {
            user,
            item,
            until,
            is_bought: false,
        };
        self.reservations.insert(code, reservation);
        Verdict {
            word: "reserved",
            user: Some(user),
            item: Some(item),
            until: Some(until),
        }
    }

    fn purchase(&mut self, code: &str, now: i64) -> Verdict {
        match self.reservations.get_mut(code) {
            None => refused("code_unknown"),
            Some(reservation) if reservation.is_bought => refused("code_used"),
            Some(reservation) if reservation.until <= now => refused("code_expired"),
            Some(reservation) => {
                reservation.is_bought = true;
                Verdict {
                    word: "purchased",
                    user: Some(reservation.user),
                    item: Some(reservation.item),
                    until: None,
                }
            }
        }
    }
}

/// What a verdict changes in the row of its item.
fn take(tables: &mut Tables, start: i64, now: i64, offset: i64, verdict: &Verdict) {
    let key = json!([start, verdict.item]);
    let mut row = tables.row("sales.items", &key).unwrap_or_else(
        || json!({"purchased_by": null, "purchased_at": null, "purchased_offset": null}),
    );
    let (what, at) = match verdict.word {
        "reserved" => ("reserved", ("reserved_until", verdict.until.unwrap())),
        "purchased" => ("purchased", ("purchased_at", now)),
        _ => return,
    };
    row[format!("{what}_by")] = verdict.user.into();
    row[at.0] = at.1.into();
    row[format!("{what}_offset")] = offset.into();
    tables.put("sales.items", &key, &row);
}

/// The code of a reservation: 36 bits of the sale's start in seconds, 30 of the offset, 56 of the nonce, in a UUID of
/// version 8.
pub fn code(start_ms: i64, offset: i64, nonce: i64) -> String {
    let bits = |number: i64, count: u32| u128::try_from(number & ((1 << count) - 1)).unwrap();
    let all = bits(start_ms / 1_000, 36) << 86 | bits(offset, 30) << 56 | bits(nonce, 56);
    let (first, middle, last) = (all >> 74, all >> 62 & 0xfff, all & ((1 << 62) - 1));
    let uuid = format!(
        "{:032x}",
        first << 80 | 8 << 76 | middle << 64 | 2 << 62 | last
    );
    [
        &uuid[..8],
        &uuid[8..12],
        &uuid[12..16],
        &uuid[16..20],
        &uuid[20..],
    ]
    .join("-")
}

/// The start of the sale that a code names.
fn start_of_code(code: &str) -> i64 {
    let first = i64::from_str_radix(&code.replace('-', "")[..12], 16).unwrap();
    (first >> 12) * 1_000
}
