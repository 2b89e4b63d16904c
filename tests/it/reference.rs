//! A second fold of the log, written from the contract and as simple as can be: what the tables have to hold. It
//! shares no code with the first.

pub mod sales;
pub mod segment_tables;

use std::collections::{BTreeMap, BTreeSet, HashMap};

use processors::runtime;
use serde_json::{Map, Value, json};

use crate::world::{World, avro::Reader, log::Record, topic_of};

const CLICKS: &str = include_str!("../../schemas/avro/clicks.avsc");
const ORDERS: &str = include_str!("../../schemas/avro/orders.avsc");
const USERS: &str = include_str!("../../schemas/avro/users.avsc");
/// How many differences are shown.
const SHOWN_MAX: usize = 12;
const YEAR_10000_MS: i64 = 253_402_300_800_000;

/// Rows of a table by their key, a list in JSON.
type Table = BTreeMap<String, Value>;

/// What the tables hold, or have to hold, by their names.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Tables(BTreeMap<&'static str, Table>);

/// The places of records that Postgres refused: the log alone does not tell.
pub type Refused = BTreeSet<(i32, i64)>;

impl World {
    /// Waits until everything is folded, and compares the tables with what the log says.
    ///
    /// # Panics
    /// If they differ.
    pub async fn must_be_what_the_log_says(&self) {
        self.must_be_what_the_log_says_but(&Refused::new()).await;
    }

    /// The same where Postgres refused these orders.
    pub async fn must_be_what_the_log_says_but(&self, refused: &Refused) {
        for projection in runtime::names() {
            self.caught_up(projection).await;
        }
        self.tables()
            .await
            .must_equal(&self.reference(refused).await);
    }

    /// What the tables have to hold.
    pub async fn reference(&self, refused: &Refused) -> Tables {
        let mut tables = Tables::default();
        self.fold_clicks(&mut tables).await;
        self.fold_orders(&mut tables, refused).await;
        self.fold_users(&mut tables).await;
        self.fold_sales(&mut tables).await;
        self.fold_sale_attempts(&mut tables).await;
        self.fold_segments(&mut tables).await;
        for projection in runtime::names() {
            let ends = self.ends(&topic_of(projection)).await;
            for (partition, end) in (0..).zip(ends).filter(|(_, end)| *end > 0) {
                let (key, row) = (
                    json!([projection, partition]),
                    json!({ "next_offset": end }),
                );
                tables.put("checkpoints", &key, &row);
            }
        }
        tables
    }

    async fn fold_clicks(&self, tables: &mut Tables) {
        let mut reader = Reader::new(self, "clicks", CLICKS);
        let mut counts: BTreeMap<(i64, i64, i32), i64> = BTreeMap::new();
        for record in self.read_topic("clicks").await {
            let event = reader.read(record.value.as_deref()).await;
            match event.and_then(|click| check_click(&click)) {
                Ok((banner, minute)) => {
                    *counts
                        .entry((banner, minute, record.partition))
                        .or_default() += 1;
                }
                Err(reason) => tables.dead("clicks", &record, reason),
            }
        }
        for ((banner_id, minute, partition), v) in counts {
            let key = json!([banner_id, minute, partition]);
            tables.put("clicks.stats", &key, &json!({ "v": v }));
        }
    }

    async fn fold_orders(&self, tables: &mut Tables, refused: &Refused) {
        let mut reader = Reader::new(self, "orders", ORDERS);
        let mut placed: HashMap<String, Value> = HashMap::new();
        for record in self.read_topic("orders").await {
            let event = reader.read(record.value.as_deref()).await;
            let order = match event.and_then(|order| check_order(order, &record)) {
                Ok(order) => order,
                Err(reason) => {
                    tables.dead("orders", &record, reason);
                    continue;
                }
            };
            let uid = order["order_uid"].as_str().unwrap();
            match placed.get(uid) {
                Some(first) if *first == order => {}
                Some(_) => tables.dead("orders", &record, "order_exists"),
                None if refused.contains(&(record.partition, record.offset)) => {
                    tables.dead("orders", &record, "not_storable");
                }
                None => {
                    tables.place(&order, &record);
                    placed.insert(uid.to_owned(), order);
                }
            }
        }
    }

    async fn fold_users(&self, tables: &mut Tables) {
        let mut reader = Reader::new(self, "users", USERS);
        for record in self.read_topic("users").await {
            let event = reader.read(record.value.as_deref()).await;
            match event.and_then(|event| check_user(event, &record)) {
                Ok(mut event) => {
                    let user_id = event["user_id"].take();
                    let row = json!({
                        "deeplink": event["deeplink"],
                        "promo_message": event["promo_message"],
                        "partition": record.partition,
                        "offset": record.offset,
                    });
                    tables.put("users.users", &json!([user_id]), &row);
                }
                Err(reason) => tables.dead("users", &record, reason),
            }
        }
    }

    /// What the tables hold.
    pub async fn tables(&self) -> Tables {
        let mut tables = Tables::default();
        let queries = QUERIES
            .iter()
            .chain(&sales::QUERIES)
            .chain(&segment_tables::QUERIES);
        for (table, query) in queries {
            for row in self.sql(query).await {
                tables.put(table, &row["key"], &row["row"]);
            }
        }
        tables
    }
}

const QUERIES: [(&str, &str); 8] = [
    (
        "clicks.stats",
        "SELECT json_build_array(banner_id, extract(epoch FROM ts)::bigint / 60, partition) AS key,
             json_build_object('v', v) AS row FROM clicks.stats",
    ),
    (
        "orders.orders",
        "SELECT json_build_array(order_uid) AS key, to_jsonb(o) - 'order_uid' - 'digest' AS row FROM orders.orders AS o",
    ),
    (
        "orders.deliveries",
        "SELECT json_build_array(order_uid) AS key, to_jsonb(d) - 'order_uid' AS row FROM orders.deliveries AS d",
    ),
    (
        "orders.payments",
        "SELECT json_build_array(order_uid) AS key, to_jsonb(p) - 'order_uid' AS row FROM orders.payments AS p",
    ),
    (
        "orders.items",
        "SELECT json_build_array(order_uid, item_index) AS key,
             to_jsonb(i) - 'order_uid' - 'item_index' AS row FROM orders.items AS i",
    ),
    (
        "users.users",
        "SELECT json_build_array(user_id) AS key, to_jsonb(u) - 'user_id' AS row FROM users.users AS u",
    ),
    (
        "dead letters",
        r#"SELECT json_build_array(projection, partition, "offset") AS key, json_build_object(
             'reason', reason, 'record_at_ms', (extract(epoch FROM record_at) * 1000)::bigint) AS row
           FROM millrace.dead_letters JOIN millrace.generations USING (projection, generation) WHERE live"#,
    ),
    (
        "checkpoints",
        "SELECT json_build_array(projection, partition) AS key,
             json_build_object('next_offset', next_offset) AS row
         FROM millrace.checkpoints WHERE live AND next_offset > 0",
    ),
];

impl Tables {
    fn put(&mut self, table: &'static str, key: &Value, row: &Value) {
        self.0
            .entry(table)
            .or_default()
            .insert(key.to_string(), row.clone());
    }

    fn row(&self, table: &str, key: &Value) -> Option<Value> {
        self.0.get(table)?.get(&key.to_string()).cloned()
    }

    fn dead(&mut self, projection: &str, record: &Record, reason: &str) {
        let key = json!([projection, record.partition, record.offset]);
        let row = json!({ "reason": reason, "record_at_ms": record.timestamp_ms });
        self.put("dead letters", &key, &row);
    }

    fn place(&mut self, order: &Value, record: &Record) {
        let mut head: Map<String, Value> = order.as_object().unwrap().clone();
        let uid = head.remove("order_uid").unwrap();
        let key = json!([uid]);
        self.put("orders.deliveries", &key, &head.remove("delivery").unwrap());
        self.put("orders.payments", &key, &head.remove("payment").unwrap());
        let items = head.remove("items").unwrap();
        for (index, item) in items.as_array().unwrap().iter().enumerate() {
            self.put("orders.items", &json!([uid, index]), item);
        }
        head.insert("partition".to_owned(), record.partition.into());
        head.insert("offset".to_owned(), record.offset.into());
        head.insert("record_at_ms".to_owned(), record.timestamp_ms.into());
        self.put("orders.orders", &key, &Value::Object(head));
    }

    /// How many rows a table has.
    pub fn len(&self, table: &str) -> usize {
        self.0.get(table).map_or(0, BTreeMap::len)
    }

    /// Panics with the first differences, if there are any.
    pub fn must_equal(&self, wanted: &Self) {
        let mut differences = Vec::new();
        let names: BTreeSet<_> = self.0.keys().chain(wanted.0.keys()).collect();
        let none = Table::new();
        for name in names {
            let found = self.0.get(name).unwrap_or(&none);
            let wanted = wanted.0.get(name).unwrap_or(&none);
            for key in found.keys().chain(wanted.keys()).collect::<BTreeSet<_>>() {
                let (found, wanted) = (found.get(key), wanted.get(key));
                if found != wanted {
                    let text =
                        |row: Option<&Value>| row.map_or("no row".to_owned(), Value::to_string);
                    differences.push(format!(
                        "{name} {key}\n  table: {}\n  log:   {}",
                        text(found),
                        text(wanted)
                    ));
                }
            }
        }
        let shown = differences.len().min(SHOWN_MAX);
        assert!(
            differences.is_empty(),
            "the tables are not what the log says: {} differences\n{}",
            differences.len(),
            differences[..shown].join("\n")
        );
    }
}

/// Banner and minute of a valid click.
fn check_click(click: &Value) -> Result<(i64, i64), &'static str> {
    let banner = click["banner_id"].as_i64().unwrap();
    let received_at = click["received_at"].as_i64().unwrap();
    if banner < 0 || !(0..YEAR_10000_MS).contains(&received_at) {
        return Err("invalid");
    }
    Ok((banner, received_at / 60_000))
}

fn check_order(order: Value, record: &Record) -> Result<Value, &'static str> {
    if !is_valid(&order) {
        return Err("invalid");
    }
    check_key(order["order_uid"].as_str().unwrap(), record)?;
    Ok(order)
}

/// A user's event: a removal has no texts.
fn check_user(event: Value, record: &Record) -> Result<Value, &'static str> {
    let user_id = event["user_id"].as_str().unwrap();
    let is_known = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let texts = ["deeplink", "promo_message"].map(|name| event[name].as_str().unwrap_or_default());
    if user_id.is_empty()
        || user_id.len() > 20
        || !user_id.chars().all(is_known)
        || texts.concat().len() > 65_536
        || texts.concat().contains('\0')
    {
        return Err("invalid");
    }
    check_key(user_id, record)?;
    Ok(event)
}

fn check_key(key: &str, record: &Record) -> Result<(), &'static str> {
    if record.key.as_deref() != Some(key.as_bytes()) {
        return Err("wrong_key");
    }
    if record.partition != murmur2_partition(key.as_bytes(), 8) {
        return Err("wrong_partition");
    }
    Ok(())
}

/// The rules of the contract.
fn is_valid(order: &Value) -> bool {
    let text = |path: &str| order.pointer(path).unwrap().as_str().unwrap();
    let number = |path: &str| order.pointer(path).unwrap().as_i64().unwrap();
    let present = [
        "/order_uid",
        "/track_number",
        "/delivery/name",
        "/delivery/phone",
        "/delivery/email",
        "/delivery/address",
    ];
    let amounts = [
        "/payment/amount",
        "/payment/delivery_cost",
        "/payment/goods_total",
        "/payment/custom_fee",
    ];
    let items = order["items"].as_array().unwrap();
    let uid = text("/order_uid");
    let currency = text("/payment/currency");
    present.iter().all(|path| !text(path).trim().is_empty())
        && amounts.iter().all(|path| number(path) >= 0)
        && uid.chars().count() <= 100
        && !uid.chars().any(char::is_control)
        && text("/delivery/email").contains('@')
        && currency.len() == 3
        && currency.chars().all(|c| c.is_ascii_alphabetic())
        && (1..=10_000).contains(&items.len())
        && items.iter().all(|item| {
            item["price"].as_i64() >= Some(0) && item["total_price"].as_i64() >= Some(0)
        })
        && !order.to_string().contains("\\u0000")
}

/// `BuiltInPartitioner.partitionForKey` of Kafka's Java client.
fn murmur2_partition(key: &[u8], partitions: u32) -> i32 {
    let m = 0x5bd1_e995_u32;
    let mut h = 0x9747_b28c_u32 ^ u32::try_from(key.len()).unwrap();
    let mut rest = key;
    while let [a, b, c, d, more @ ..] = rest {
        let mut k = u32::from_le_bytes([*a, *b, *c, *d]).wrapping_mul(m);
        k ^= k >> 24;
        h = h.wrapping_mul(m) ^ k.wrapping_mul(m);
        rest = more;
    }
    for (shift, byte) in [0, 8, 16].into_iter().zip(rest) {
        h ^= u32::from(*byte) << shift;
    }
    if !rest.is_empty() {
        h = h.wrapping_mul(m);
    }
    h ^= h >> 13;
    h = h.wrapping_mul(m);
    h ^= h >> 15;
    i32::try_from((h & 0x7fff_ffff) % partitions).unwrap()
}
