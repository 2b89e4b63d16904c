//! A second fold of the sale, for the tests: of one sale, by the words of the contract.

use std::collections::HashMap;

use serde_json::Value;

use crate::world::{World, avro::Reader, log::Record};

const AVSC: &str = include_str!("../../../schemas/avro/sales.avsc");
/// Further apart, the times of a record and of its request make it void.
const DRIFT_MS: u64 = 30_000;
const HOUR_MS: i64 = 3_600_000;

/// The rules of the sale, which lasts an hour.
#[derive(Clone, Copy)]
pub struct Rules {
    pub items: i64,
    pub limit: usize,
    pub reservation_ms: i64,
}

/// What was decided about a request.
#[derive(Debug, Clone)]
pub struct Wanted {
    pub verdict: &'static str,
    /// Of a reservation.
    pub code: Option<String>,
    pub is_replayed: bool,
}

struct Reservation {
    code: String,
    user: i64,
    item: i64,
    ends_ms: i64,
    is_bought: bool,
}

/// All reservations there ever were; nothing is counted or indexed that could be wrong.
struct Sale {
    rules: Rules,
    reservations: Vec<Reservation>,
    answers: HashMap<String, (Value, Wanted)>,
}

/// The events of records, in their order.
pub async fn events(world: &World, records: &[Record]) -> Vec<Value> {
    let mut reader = Reader::new(world, "sales", AVSC);
    let mut events = Vec::new();
    for record in records {
        events.push(reader.read(record.value.as_deref()).await.unwrap());
    }
    events
}

/// The verdict of every request on the log; barriers have none.
pub async fn verdicts(world: &World, rules: Rules) -> Vec<Wanted> {
    let records = world.read_topic("sales").await;
    let mut sale = Sale {
        rules,
        reservations: Vec::new(),
        answers: HashMap::new(),
    };
    let mut now_ms = 0;
    let mut verdicts = Vec::new();
    for (record, event) in records.iter().zip(events(world, &records).await) {
        let Some(requested_at) = event["requested_at"].as_i64() else {
            continue;
        };
        if record.timestamp_ms.abs_diff(requested_at) > DRIFT_MS {
            verdicts.push(wanted("void"));
            continue;
        }
        now_ms = record.timestamp_ms.max(now_ms);
        verdicts.push(sale.decide(&event, record.offset, now_ms));
    }
    verdicts
}

fn wanted(verdict: &'static str) -> Wanted {
    Wanted {
        verdict,
        code: None,
        is_replayed: false,
    }
}

impl Sale {
    fn decide(&mut self, event: &Value, offset: i64, now_ms: i64) -> Wanted {
        let decide = |sale: &mut Self| match event["code"].as_str() {
            Some(code) => wanted(sale.buy(code, now_ms)),
            None => sale.reserve(event, offset, now_ms),
        };
        if event["key"].is_null() {
            return decide(self);
        }
        let owner = event.get("code").unwrap_or(&event["user_id"]);
        let name = format!("{owner} {}", event["key"]);
        match self.answers.get(&name) {
            Some((item, first)) if *item == event["item_id"] => Wanted {
                is_replayed: true,
                ..first.clone()
            },
            Some(_) => wanted("key_reused"),
            None => {
                let first = decide(self);
                let answer = (event["item_id"].clone(), first.clone());
                self.answers.insert(name, answer);
                first
            }
        }
    }

    fn reserve(&mut self, event: &Value, offset: i64, now_ms: i64) -> Wanted {
        let number = |name: &str| event[name].as_i64().unwrap();
        let (user, item) = (number("user_id"), number("item_id"));
        let sold = self.reservations.iter().filter(|r| r.is_bought).count();
        let holds = |r: &&Reservation| r.is_bought || r.ends_ms > now_ms;
        let held: Vec<_> = self.reservations.iter().filter(holds).collect();
        let of_item = held.iter().find(|r| r.item == item);
        let of_user = held.iter().filter(|r| r.user == user).count();
        match of_item {
            _ if item >= self.rules.items => return wanted("no_such_item"),
            _ if sold as i64 == self.rules.items => return wanted("sold_out"),
            Some(held) if held.is_bought => return wanted("item_sold"),
            Some(_) => return wanted("item_reserved"),
            None if of_user >= self.rules.limit => return wanted("user_limit"),
            None => {}
        }
        let starts_ms = now_ms - now_ms % HOUR_MS;
        let code = code(starts_ms / 1_000, offset, number("nonce"));
        self.reservations.push(Reservation {
            code: code.clone(),
            user,
            item,
            ends_ms: (now_ms + self.rules.reservation_ms).min(starts_ms + HOUR_MS),
            is_bought: false,
        });
        Wanted {
            code: Some(code),
            ..wanted("reserved")
        }
    }

    fn buy(&mut self, code: &str, now_ms: i64) -> &'static str {
        let found = self.reservations.iter_mut().find(|r| r.code == code);
        match found {
            None => "code_unknown",
            Some(reservation) if reservation.is_bought => "code_used",
            Some(reservation) if reservation.ends_ms <= now_ms => "code_expired",
            Some(reservation) => {
                reservation.is_bought = true;
                "purchased"
            }
        }
    }
}

/// A UUID of version 8: 36 bits of the sale's start in seconds, 30 of the offset, 56 of the nonce.
fn code(starts_s: i64, offset: i64, nonce: i64) -> String {
    let bits = |number: i64, count: u32| format!("{number:064b}")[64 - count as usize..].to_owned();
    let all = bits(starts_s, 36) + &bits(offset, 30) + &bits(nonce, 56);
    let all = format!("{}1000{}10{}", &all[..48], &all[48..60], &all[60..]);
    let hex = format!("{:032x}", u128::from_str_radix(&all, 2).unwrap());
    let parts = [
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..],
    ];
    parts.join("-")
}
