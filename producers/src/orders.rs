//! Orders from files, and sample orders. Before this: `schemas/src/orders.rs`; next: `processors/src/orders.rs`.

use std::collections::HashMap;

use jiff::Timestamp;
use rand::{Rng, RngExt, seq::IndexedRandom};
use schemas::{
    codec::Encoder,
    event::Fault,
    json,
    orders::{Delivery, Item, OrderPlaced, Payment},
};
use serde_json::value::RawValue;

/// The most bad orders of a file that are named.
pub const NAMED_MAX: usize = 20;

/// A bad order in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BadOrder {
    /// The line on which it begins, from 1.
    pub line: usize,
    /// What is wrong with it.
    pub faults: Vec<Fault>,
}

/// Reads orders from JSON text: an object, an array of them, or one after the other (NDJSON). Each has to be one that
/// could be appended, and no two of them may have the same uid and differ: the fold would keep the first.
///
/// # Errors
/// The bad ones, at most [`NAMED_MAX`]; then none is returned.
pub fn read(text: &str) -> Result<Vec<OrderPlaced>, Vec<BadOrder>> {
    let encoder = Encoder::new(0).expect("a test builds the encoder of every event");
    let mut orders = Vec::new();
    let mut lines = Vec::new();
    let mut bad = Vec::new();
    for value in values(text.trim_start_matches('\u{feff}')) {
        match value.and_then(|(line, value)| Ok((line, read_one(&encoder, line, value)?))) {
            Ok((line, order)) => {
                orders.push(order);
                lines.push(line);
            }
            Err(order) => bad.push(order),
        }
        if bad.len() == NAMED_MAX {
            return Err(bad);
        }
    }
    bad.extend(contradictions(&orders, &lines));
    if bad.is_empty() {
        return Ok(orders);
    }
    bad.sort_by_key(|order| order.line);
    bad.truncate(NAMED_MAX);
    Err(bad)
}

fn read_one(
    encoder: &Encoder<OrderPlaced>,
    line: usize,
    value: &str,
) -> Result<OrderPlaced, BadOrder> {
    let parsed = serde_json::from_str(value).map_err(|error| broken(&error, line))?;
    let order = json::read(parsed).map_err(|faults| BadOrder { line, faults })?;
    match encoder.encode(&order, &mut Vec::new()) {
        Ok(()) => Ok(order),
        Err(error) => Err(BadOrder {
            line,
            faults: vec![Fault::new("", error.to_string())],
        }),
    }
}

/// Orders whose uid an earlier one has that differs.
fn contradictions(orders: &[OrderPlaced], lines: &[usize]) -> Vec<BadOrder> {
    let mut first: HashMap<&str, usize> = HashMap::new();
    let mut bad = Vec::new();
    for (index, order) in orders.iter().enumerate() {
        let earlier = *first.entry(&order.order_uid).or_insert(index);
        if orders[earlier] != *order {
            let message = format!("is that of line {}, and the orders differ", lines[earlier]);
            bad.push(BadOrder {
                line: lines[index],
                faults: vec![Fault::new("order_uid", message)],
            });
        }
    }
    bad
}

/// What is wrong with text that is not JSON; `first_line` is the line on which the text begins.
fn broken(error: &serde_json::Error, first_line: usize) -> BadOrder {
    let text = error.to_string();
    // The library counts from the beginning of its text.
    let reason = text.split(" at line ").next().unwrap_or_default();
    BadOrder {
        line: (first_line + error.line()).saturating_sub(1).max(1),
        faults: vec![Fault::new(
            "",
            format!("is not JSON: {reason}, column {}", error.column()),
        )],
    }
}

/// The JSON values of a text, each with the line on which it begins.
fn values(text: &str) -> Vec<Result<(usize, &str), BadOrder>> {
    let mut lines = Lines {
        text,
        seen: 0,
        line: 1,
    };
    if text.trim_start().starts_with('[') {
        return match serde_json::from_str::<Vec<&RawValue>>(text) {
            Ok(values) => values
                .into_iter()
                .map(|value| Ok((lines.line_of(value.get()), value.get())))
                .collect(),
            Err(error) => vec![Err(broken(&error, 1))],
        };
    }
    serde_json::Deserializer::from_str(text)
        .into_iter::<&RawValue>()
        .map(|value| match value {
            Ok(value) => Ok((lines.line_of(value.get()), value.get())),
            Err(error) => Err(broken(&error, 1)),
        })
        .collect()
}

/// Counts lines up to slices of a text, which come in order.
struct Lines<'a> {
    text: &'a str,
    seen: usize,
    line: usize,
}

impl Lines<'_> {
    fn line_of(&mut self, slice: &str) -> usize {
        let start = slice.as_ptr().addr() - self.text.as_ptr().addr();
        let breaks = self.text[self.seen..start].bytes().filter(|b| *b == b'\n');
        self.line += breaks.count();
        self.seen = start;
        self.line
    }
}

/// A plausible order of one to five items, placed at `now`.
pub fn sample(chance: &mut impl Rng, now: Timestamp) -> OrderPlaced {
    let order_uid = format!("{:016x}sample", chance.random::<u64>());
    let track_number = format!("MR{:010}", chance.random_range(0..10_000_000_000_u64));
    let items: Vec<_> = (0..chance.random_range(1..=5))
        .map(|_| sample_item(chance, &track_number))
        .collect();
    let (locale, currency) = *pick(chance, &LOCALES);
    let goods_total = items.iter().map(|item| item.total_price).sum();
    let delivery_cost = chance.random_range(0..20) * 100;
    OrderPlaced {
        delivery: sample_delivery(chance),
        payment: Payment {
            transaction: order_uid.clone(),
            request_id: String::new(),
            currency: currency.to_owned(),
            provider: (*pick(chance, &["wbpay", "paygate", "cardlink"])).to_owned(),
            amount: goods_total + delivery_cost,
            payment_dt: now.as_second(),
            bank: (*pick(chance, &["alpha", "north", "meridian", "harbour"])).to_owned(),
            delivery_cost,
            goods_total,
            custom_fee: 0,
        },
        track_number,
        entry: "WBIL".to_owned(),
        items,
        locale: locale.to_owned(),
        internal_signature: String::new(),
        customer_id: format!("customer{}", chance.random_range(1..100_000)),
        delivery_service: (*pick(chance, &["meest", "parcelo", "quickship"])).to_owned(),
        shardkey: chance.random_range(0..10).to_string(),
        sm_id: chance.random_range(1..200),
        date_created: format!("{now:.0}"),
        oof_shard: chance.random_range(1..3).to_string(),
        order_uid,
    }
}

fn sample_delivery(chance: &mut impl Rng) -> Delivery {
    let first = *pick(chance, &FIRST_NAMES);
    let last = *pick(chance, &LAST_NAMES);
    let (city, region) = *pick(chance, &CITIES);
    let street = *pick(chance, &STREETS);
    Delivery {
        name: format!("{first} {last}"),
        phone: format!(
            "+{}",
            chance.random_range(10_000_000_000_u64..99_999_999_999)
        ),
        zip: format!("{:05}", chance.random_range(1_000..99_999)),
        city: city.to_owned(),
        address: format!("{street} {}", chance.random_range(1..200)),
        region: region.to_owned(),
        email: format!("{first}.{last}@example.com").to_lowercase(),
    }
}

fn sample_item(chance: &mut impl Rng, track_number: &str) -> Item {
    let (name, brand, cheapest) = *pick(chance, &GOODS);
    let price = cheapest + chance.random_range(0..cheapest);
    let sale = *pick(chance, &[0, 0, 0, 10, 15, 30, 50]);
    Item {
        chrt_id: chance.random_range(1_000_000..10_000_000),
        track_number: track_number.to_owned(),
        price,
        rid: format!("{:016x}", chance.random::<u64>()),
        name: name.to_owned(),
        sale,
        size: (*pick(chance, &["0", "S", "M", "L", "XL", "42"])).to_owned(),
        total_price: price - price * sale / 100,
        nm_id: chance.random_range(1_000_000..3_000_000),
        brand: brand.to_owned(),
        status: *pick(chance, &[202, 202, 202, 200, 201]),
    }
}

fn pick<'a, T>(chance: &mut impl Rng, from: &'a [T]) -> &'a T {
    from.choose(chance).expect("the lists below are not empty")
}

const LOCALES: [(&str, &str); 6] = [
    ("en", "USD"),
    ("en", "GBP"),
    ("de", "EUR"),
    ("fr", "EUR"),
    ("he", "ILS"),
    ("pl", "PLN"),
];
const FIRST_NAMES: [&str; 12] = [
    "Ada", "Boris", "Chen", "Dalia", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jonas", "Keiko",
    "Lior",
];
const LAST_NAMES: [&str; 10] = [
    "Abel", "Brandt", "Cohen", "Dubois", "Evans", "Fischer", "Garcia", "Haddad", "Ito", "Kowalski",
];
const CITIES: [(&str, &str); 8] = [
    ("Kiryat Motzkin", "Haifa"),
    ("Berlin", "Berlin"),
    ("Lyon", "Rhône"),
    ("Kraków", "Lesser Poland"),
    ("Leeds", "Yorkshire"),
    ("Porto", "Norte"),
    ("Graz", "Styria"),
    ("Turku", "Southwest Finland"),
];
const STREETS: [&str; 8] = [
    "Mill Lane",
    "Station Road",
    "Hauptstraße",
    "Rue du Port",
    "Harbour Street",
    "Long Row",
    "Garden Square",
    "Ploshad Mira",
];
/// Name, brand, and the least price in minor units.
const GOODS: [(&str, &str, i64); 12] = [
    ("Mascara", "Vivienne Sabo", 400),
    ("Running shoes", "Fleet", 5_900),
    ("Rain jacket", "Norrland", 8_900),
    ("Coffee mug", "Clayworks", 900),
    ("Desk lamp", "Lumen", 3_400),
    ("Notebook", "Paperhouse", 450),
    ("Headphones", "Resona", 7_900),
    ("Cotton shirt", "Weft", 2_200),
    ("Backpack", "Carry", 4_900),
    ("Water bottle", "Spring", 1_500),
    ("Kitchen knife", "Edge", 3_900),
    ("Board game", "Tableround", 2_900),
];

#[cfg(test)]
mod tests {
    use schemas::event::Event;

    use super::*;
    use crate::clock;

    const MODEL: &str = include_str!("../../data/model.json");

    #[test]
    fn samples_are_valid_and_varied() {
        let mut chance = clock::generator(Some(7));
        let orders: Vec<_> = (0..1_000)
            .map(|_| sample(&mut chance, Timestamp::UNIX_EPOCH))
            .collect();
        assert!(orders.iter().all(|order| order.faults().is_empty()));
        for count in 1..=5 {
            assert!(orders.iter().any(|order| order.items.len() == count));
        }
        let mut uids: Vec<_> = orders.iter().map(|order| &order.order_uid).collect();
        uids.sort();
        uids.dedup();
        assert_eq!(uids.len(), orders.len());
    }

    #[test]
    fn an_object_an_array_and_lines_are_read_alike() {
        let one_line = serde_json::from_str::<serde_json::Value>(MODEL)
            .unwrap()
            .to_string();
        let model = read(MODEL).unwrap();
        assert_eq!(model.len(), 1);
        assert_eq!(
            read(&format!("[{MODEL},\n{MODEL}]")).unwrap(),
            [model[0].clone(), model[0].clone()]
        );
        assert_eq!(read(&format!("{one_line}\n{one_line}\n")).unwrap().len(), 2);
        assert_eq!(read("").unwrap(), []);
    }

    #[test]
    fn bad_orders_are_named_by_line_and_field() {
        let good = serde_json::from_str::<serde_json::Value>(MODEL)
            .unwrap()
            .to_string();
        let bad = good.replace("\"USD\"", "\"dollars\"");
        let found = read(&format!("{good}\n{bad}\n{good}\n{{\"order_uid\":1}}")).unwrap_err();
        let lines: Vec<_> = found.iter().map(|order| order.line).collect();
        assert_eq!(lines, [2, 4]);
        assert_eq!(found[0].faults[0].field, "payment.currency");
        let broken = read(&format!("{good}\n{{\"order_uid\": oops}}\n")).unwrap_err();
        assert_eq!(broken[0].line, 2);
        assert_eq!(read("[{},\n]").unwrap_err()[0].line, 2);
    }

    fn lines(orders: &[OrderPlaced]) -> String {
        let lines = orders
            .iter()
            .map(|order| serde_json::to_string(order).unwrap() + "\n");
        lines.collect()
    }

    #[test]
    fn what_could_not_be_appended_or_folded_is_a_bad_order() {
        let model = read(MODEL).unwrap().remove(0);
        let mut other = model.clone();
        other.locale.push('x');
        assert_eq!(
            read(&lines(&[model.clone(), model.clone()])).unwrap().len(),
            2
        );
        let found = read(&lines(&[model.clone(), other, model.clone()])).unwrap_err();
        assert_eq!(found.len(), 1);
        assert_eq!(
            (found[0].line, found[0].faults[0].to_string().as_str()),
            (2, "order_uid is that of line 1, and the orders differ")
        );
        let mut large = model;
        large.entry = "x".repeat(1 << 20);
        assert!(
            read(&lines(&[large])).unwrap_err()[0].faults[0]
                .message
                .contains("bytes")
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_fault() {
        assert_eq!(read(&format!("\u{feff}{MODEL}")).unwrap().len(), 1);
    }

    #[test]
    fn broken_json_is_named_by_line_and_column() {
        let found = read("\n\n{\"order_uid\": oops}").unwrap_err();
        assert_eq!(found[0].line, 3);
        assert_eq!(
            found[0].faults[0].to_string(),
            "is not JSON: expected value, column 15"
        );
        let found = read("\n{\n\"order_uid\": 1e999}").unwrap_err();
        assert_eq!((found.len(), found[0].line), (1, 3));
    }
}
