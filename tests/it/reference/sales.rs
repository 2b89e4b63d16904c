//! The log of the sale judged a second time, and whether what callers were told agrees with it. It shares no code with
//! the first.

mod answers;
mod fold;
mod order;
mod tables;
mod tests;
mod totals;

use std::collections::HashMap;

use serde_json::Value;

use self::fold::Fold;
pub use self::{answers::Answer, fold::code, tables::QUERIES};
use super::YEAR_10000_MS;
use crate::world::{World, avro::Reader, log};

const SALES: &str = include_str!("../../../schemas/avro/sales.avsc");
const SALE_RULES: &str = include_str!("../../../schemas/avro/sale-rules.avsc");

/// What somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Request {
    /// To reserve an item.
    Checkout {
        /// The user.
        user_id: i64,
        /// The item.
        item_id: i64,
        /// The idempotency key.
        key: Option<String>,
    },
    /// To buy what is reserved.
    Purchase {
        /// The code, in lower case.
        code: String,
        /// The idempotency key.
        key: Option<String>,
    },
}

/// What the log says to a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is no request: a barrier, or no event at all.
    None,
    /// It does not count.
    Void,
    /// The item is reserved.
    Reserved {
        /// The code.
        code: String,
        /// The first millisecond at which it is free again, since 1970-01-01T00:00:00Z.
        expires_at_ms: i64,
    },
    /// The item is bought.
    Purchased {
        /// Who had reserved it.
        user_id: i64,
        /// The item.
        item_id: i64,
    },
    /// The reason why not.
    Refused(&'static str),
}

/// A request as it stands on the log.
#[derive(Debug, Clone)]
pub struct Asked {
    request: Request,
    requested_at: i64,
    rules_seen: i64,
    nonce: i64,
}

/// A record, and what was said to it.
#[derive(Debug, Clone)]
pub struct Judged {
    /// The offset.
    pub offset: i64,
    /// None for what is no request.
    pub request: Option<Request>,
    /// The verdict.
    pub verdict: Verdict,
    /// The start of the sale in which it was decided, if it was.
    pub sale: Option<i64>,
    /// Time of the log when it was decided; else its own.
    pub at_ms: i64,
    /// Whether the verdict was given before, to the same key.
    pub is_replayed: bool,
}

/// The rules of an hour.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    items: i64,
    limit: i64,
    reservation_seconds: i64,
    sale_seconds: i64,
}

/// The log of the sale from its start, judged.
#[derive(Debug, Clone)]
pub struct History {
    records: Vec<Record>,
    rules: Vec<(i64, Rules)>,
    judged: Vec<Judged>,
    /// The rules of each sale, by its start.
    rules_of_sales: HashMap<i64, Rules>,
}

/// A record before it is judged.
#[derive(Debug, Clone)]
pub struct Record {
    offset: i64,
    timestamp_ms: i64,
    /// None for what is no request.
    asked: Option<Asked>,
}

impl World {
    /// Reads and judges the log of the sale as it is now.
    pub async fn sale_history(&self) -> History {
        self.sale_history_showing(|_, _| ()).await
    }

    /// The same; `show` is shown each record, and why it is no event if it is none.
    async fn sale_history_showing(
        &self,
        mut show: impl FnMut(&log::Record, Option<&'static str>),
    ) -> History {
        let mut reader = Reader::new(self, "sales", SALES);
        let mut records = Vec::new();
        for record in self.read_topic("sales").await {
            let event = reader.read(record.value.as_deref()).await;
            let (asked, fault) = match &event {
                Err(reason) => (None, Some(*reason)),
                Ok(event) if is_barrier(event) => (None, None),
                Ok(event) => match asked(event) {
                    None => (None, Some("invalid")),
                    valid => (valid, None),
                },
            };
            show(&record, fault);
            records.push(Record {
                offset: record.offset,
                timestamp_ms: record.timestamp_ms,
                asked,
            });
        }
        // After the sales: what their appenders had seen is there.
        let mut reader = Reader::new(self, "sale-rules", SALE_RULES);
        let mut all_rules = Vec::new();
        for record in self.read_topic("sale-rules").await {
            let event = reader.read(record.value.as_deref()).await;
            let rules = event.ok().and_then(|event| rules(&event));
            all_rules.extend(rules.map(|rules| (record.offset, rules)));
        }
        History::of(records, all_rules)
    }
}

impl History {
    /// Judges records, given in their order, by rules and their offsets.
    pub fn of(records: Vec<Record>, rules: Vec<(i64, Rules)>) -> Self {
        let mut fold = Fold::new(&rules);
        let judged = records.iter().map(|record| fold.judge(record)).collect();
        let rules_of_sales = fold.rules_of_sales();
        Self {
            records,
            rules,
            judged,
            rules_of_sales,
        }
    }

    /// What the log says to the record at an offset; none if there is none.
    pub fn verdict(&self, offset: i64) -> Option<&Verdict> {
        self.judged(offset).map(|judged| &judged.verdict)
    }

    /// The requests, in their order.
    pub fn requests(&self) -> Vec<&Judged> {
        let judged = self.judged.iter();
        judged.filter(|judged| judged.request.is_some()).collect()
    }

    fn judged(&self, offset: i64) -> Option<&Judged> {
        let index = self
            .judged
            .binary_search_by_key(&offset, |judged| judged.offset);
        index.ok().map(|index| &self.judged[index])
    }
}

impl Verdict {
    /// The word for it.
    pub fn word(&self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Void => "void",
            Self::Reserved { .. } => "reserved",
            Self::Purchased { .. } => "purchased",
            Self::Refused(reason) => reason,
        }
    }

    /// The code of a reservation.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Reserved { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// The events of records of the log of the sale, in their order.
pub async fn events(world: &World, records: &[log::Record]) -> Vec<Value> {
    let mut reader = Reader::new(world, "sales", SALES);
    let mut events = Vec::new();
    for record in records {
        events.push(reader.read(record.value.as_deref()).await.unwrap());
    }
    events
}

fn is_barrier(event: &Value) -> bool {
    event["requested_at"].is_null()
}

/// The request of an event; none of a barrier, and of what no valid request says.
fn asked(event: &Value) -> Option<Asked> {
    let key = event["key"].as_str().map(str::to_owned);
    let request = if let Some(code) = event["code"].as_str() {
        let code = code.to_owned();
        Request::Purchase { code, key }
    } else {
        let (user_id, item_id) = (event["user_id"].as_i64()?, event["item_id"].as_i64()?);
        if user_id < 0 || !(0..10_000).contains(&item_id) {
            return None;
        }
        Request::Checkout {
            user_id,
            item_id,
            key,
        }
    };
    let asked = Asked {
        request,
        requested_at: event["requested_at"].as_i64()?,
        rules_seen: event["rules_seen"].as_i64()?,
        nonce: event["nonce"].as_i64()?,
    };
    let is_key = |key: &str| {
        (1..=255).contains(&key.len()) && key.bytes().all(|byte| (0x21..0x7f).contains(&byte))
    };
    let is_valid = (0..YEAR_10000_MS).contains(&asked.requested_at)
        && (0..=1_000_000).contains(&asked.rules_seen)
        && event["key"].as_str().is_none_or(is_key);
    is_valid.then_some(asked)
}

fn rules(event: &Value) -> Option<Rules> {
    let rules = Rules {
        items: event["items"].as_i64()?,
        limit: event["limit"].as_i64()?,
        reservation_seconds: event["reservation_seconds"].as_i64()?,
        sale_seconds: event["sale_seconds"].as_i64()?,
    };
    let is_valid = (1..=10_000).contains(&rules.items)
        && (1..=10_000).contains(&rules.limit)
        && (1..=3_600).contains(&rules.reservation_seconds)
        && (1..=3_600).contains(&rules.sale_seconds)
        && 3_600 % rules.sale_seconds == 0;
    is_valid.then_some(rules)
}
