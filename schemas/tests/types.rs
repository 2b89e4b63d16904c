//! What reading JSON into the types promises: it never panics, what it accepts can go to the log and comes back, and
//! what it refuses is named by a path that the sender finds in what was sent.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

use std::{collections::BTreeSet, fmt::Debug, sync::LazyLock};

use proptest::{collection, prelude::*, sample::Index};
use schemas::{
    clicks::BannerClicked,
    codec::{Decoder, Encoder, RECORD_BYTES_MAX},
    event::{Event, Fault},
    json,
    orders::{OrderPlaced, json_schema},
};
use serde_json::{Value, json};

const ID: u32 = 1;

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "(?s).{0,12}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            collection::btree_map(any_name(), inner, 0..6)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

fn any_name() -> impl Strategy<Value = String> {
    let known = prop::sample::select(vec![
        "banner_id",
        "received_at",
        "items",
        "payment",
        "delivery",
        "order_uid",
        "price",
        // Names that look like paths.
        "",
        "payment.currency",
        "items[0]",
        "items[0].price",
    ]);
    prop_oneof![known.prop_map(str::to_owned), "(?s).{0,6}"]
}

fn model() -> Value {
    serde_json::from_str(include_str!("../../data/model.json")).unwrap()
}

/// One change of a JSON text, at a place that is chosen by chance.
#[derive(Debug, Clone)]
enum Change {
    Replace(Index, Value),
    Remove(Index),
    Add(Index, String, Value),
    /// Another value of the same type: such changes are often accepted.
    Vary(Index, String, i64),
}

fn any_change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<Index>(), any_json()).prop_map(|(at, value)| Change::Replace(at, value)),
        any::<Index>().prop_map(Change::Remove),
        (any::<Index>(), any_name(), any_json()).prop_map(|(at, name, v)| Change::Add(at, name, v)),
        (any::<Index>(), "(?s).{0,12}", any::<i64>()).prop_map(|(at, t, n)| Change::Vary(at, t, n)),
    ]
}

fn change(value: &mut Value, change: Change) {
    let pointers = pointers(value);
    let pick = |at: Index| at.get(&pointers).as_str();
    match change {
        Change::Replace(at, new) => *value.pointer_mut(pick(at)).unwrap() = new,
        Change::Remove(at) => {
            let Some((parent, name)) = pick(at).rsplit_once('/') else {
                return;
            };
            match value.pointer_mut(parent).unwrap() {
                Value::Object(fields) => drop(fields.remove(name)),
                Value::Array(items) => drop(items.pop()),
                _ => {}
            }
        }
        Change::Add(at, name, new) => match value.pointer_mut(pick(at)).unwrap() {
            Value::Object(fields) => drop(fields.insert(name, new)),
            Value::Array(items) => items.push(new),
            _ => {}
        },
        Change::Vary(at, text, number) => match value.pointer_mut(pick(at)).unwrap() {
            Value::String(old) => *old = text,
            old @ Value::Number(_) => *old = number.into(),
            Value::Array(items) => items.extend_from_within(..),
            _ => {}
        },
    }
}

/// Every place in a value, as a JSON pointer.
fn pointers(value: &Value) -> Vec<String> {
    let escape = |name: &str| name.replace('~', "~0").replace('/', "~1");
    let inside = |name: String, value: &Value| {
        let below = pointers(value).into_iter();
        below
            .map(|rest| format!("/{name}{rest}"))
            .collect::<Vec<_>>()
    };
    let mut all = vec![String::new()];
    match value {
        Value::Object(fields) => {
            all.extend(fields.iter().flat_map(|(n, v)| inside(escape(n), v)));
        }
        Value::Array(items) => {
            let items = items.iter().enumerate();
            all.extend(items.flat_map(|(i, v)| inside(i.to_string(), v)));
        }
        _ => {}
    }
    all
}

/// Every place in a value, as faults name it: names that could be taken for paths are in quotes.
fn paths(value: &Value, path: &str, found: &mut BTreeSet<String>) {
    found.insert(path.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, value) in fields {
                let plain = |c: char| c.is_alphanumeric() || c == '_';
                let name = if !name.is_empty() && name.chars().all(plain) {
                    name.clone()
                } else {
                    format!("{name:?}")
                };
                let dot = if path.is_empty() { "" } else { "." };
                paths(value, &format!("{path}{dot}{name}"), found);
            }
        }
        Value::Array(items) => {
            for (index, value) in items.iter().enumerate() {
                paths(value, &format!("{path}[{index}]"), found);
            }
        }
        _ => {}
    }
}

/// Reads `value` and checks every promise.
fn read_and_check<E: Event + PartialEq + Debug>(value: &Value) {
    match json::read::<E>(value.clone()) {
        Ok(event) => {
            assert_eq!(serde_json::to_value(&event).unwrap(), *value);
            comes_back(&event);
        }
        Err(faults) => {
            assert!(!faults.is_empty(), "refused without a reason");
            let mut found = BTreeSet::new();
            paths(value, "", &mut found);
            for fault in &faults {
                assert!(points_somewhere(fault, &found), "{fault:?} in {value}");
            }
        }
    }
}

/// Whether the field of the fault is there, or is missing in an object that is there.
fn points_somewhere(fault: &Fault, found: &BTreeSet<String>) -> bool {
    if fault.message != "is missing" {
        return found.contains(&fault.field);
    }
    let parent = fault
        .field
        .rsplit_once('.')
        .map_or("", |(parent, _)| parent);
    found.contains(parent) && !found.contains(&fault.field)
}

fn comes_back<E: Event + PartialEq + Debug>(event: &E) {
    let mut bytes = Vec::new();
    Encoder::new(ID).unwrap().encode(event, &mut bytes).unwrap();
    let mut decoder = Decoder::<E>::new(E::TOPIC.name);
    let schema = serde_json::to_string(E::schema()).unwrap();
    decoder.accept(ID, Some(&schema), true).unwrap();
    assert_eq!(decoder.decode(&bytes).as_ref(), Ok(event));
}

proptest! {
    #[test]
    fn random_json_is_refused_with_paths_that_exist(value in any_json()) {
        read_and_check::<OrderPlaced>(&value);
        read_and_check::<BannerClicked>(&value);
    }

    #[test]
    fn a_changed_order_comes_back_from_the_log_or_is_refused_with_paths_that_exist(
        changes in collection::vec(any_change(), 1..5),
    ) {
        let mut order = model();
        for one in changes {
            change(&mut order, one);
        }
        read_and_check::<OrderPlaced>(&order);
    }

    #[test]
    fn an_order_is_accepted_if_its_description_in_json_schema_says_so(
        changes in collection::vec(any_change(), 0..3),
    ) {
        let mut order = model();
        for one in changes {
            change(&mut order, one);
        }
        described_as_accepted(&order);
    }

    #[test]
    fn every_click_within_the_rules_comes_back(id in 0..i64::MAX, at in 0..253_402_300_800_000_i64) {
        let click = json!({"banner_id": id, "received_at": at});
        read_and_check::<BannerClicked>(&click);
        let read = json::read::<BannerClicked>(click);
        prop_assert_eq!(read, Ok(BannerClicked { banner_id: id, received_at: at }));
    }
}

/// Compares what JSON Schema says of an order with what happens to it.
fn described_as_accepted(order: &Value) {
    static DESCRIBED: LazyLock<jsonschema::Validator> =
        LazyLock::new(|| jsonschema::validator_for(&json_schema()).unwrap());
    let read = json::read::<OrderPlaced>(order.clone());
    let places = pointers(order);
    let mut values = places.iter().filter_map(|place| order.pointer(place));
    // To JSON Schema 1.0 is a whole number as well; here it is not.
    let accepted = DESCRIBED.is_valid(order) && !values.any(Value::is_f64);
    assert_eq!(accepted, read.is_ok(), "{read:?}: {order}");
}

#[test]
fn every_rule_of_a_text_is_described() {
    let fields = [
        "/order_uid",
        "/track_number",
        "/entry",
        "/delivery/email",
        "/payment/currency",
    ];
    let blocks = [0..=0x2ff, 0x1600..=0x16ff, 0x2000..=0x20ff, 0x3000..=0x30ff];
    let odd = blocks.into_iter().flatten().chain([0xfeff, 0x1_f6d2]);
    let odd = odd.filter_map(char::from_u32);
    let mut texts: Vec<String> = odd
        .flat_map(|c| [format!("{c}"), format!("a@{c}")])
        .collect();
    texts.extend(["", "  ", "USD", "usd", "USDT", "US1", "USD\n"].map(str::to_owned));
    texts.extend([99, 100, 101].map(|length| "ü".repeat(length)));
    for field in fields {
        let mut order = model();
        for text in &texts {
            *order.pointer_mut(field).unwrap() = json!(text);
            described_as_accepted(&order);
        }
    }
}

#[test]
fn the_number_of_items_is_described() {
    let mut order = model();
    for length in [0, 1, 10_000, 10_001] {
        order["items"] = vec![model()["items"][0].clone(); length].into();
        described_as_accepted(&order);
    }
}

#[test]
fn numbers_beyond_64_bits_are_refused_and_the_outermost_are_read() {
    let read = |amount: &str| {
        let text = model().to_string().replace("1637907727", amount);
        json::read::<OrderPlaced>(serde_json::from_str(&text).unwrap())
    };
    for (text, number) in [
        ("9223372036854775807", i64::MAX),
        ("-9223372036854775808", i64::MIN),
    ] {
        let order = read(text).unwrap();
        assert_eq!(order.payment.payment_dt, number);
        comes_back(&order);
    }
    for text in ["9223372036854775808", "-9223372036854775809", "1e3", "1.0"] {
        let faults = read(text).unwrap_err();
        let fault = Fault::new("payment.payment_dt", "must be a whole number of 64 bits");
        assert_eq!(faults, [fault], "{text}");
    }
}

#[test]
fn a_name_that_looks_like_a_path_hides_no_other_fault() {
    let mut order = model();
    order["payment"]["currency"] = json!("DOLLARS");
    order[""] = json!(1);
    order["payment.currency"] = json!("USD");
    let faults = json::read::<OrderPlaced>(order).unwrap_err();
    assert_eq!(
        faults,
        [
            Fault::new("\"\"", "is unknown"),
            Fault::new("\"payment.currency\"", "is unknown"),
            Fault::new("payment.currency", "must be three letters, such as USD"),
        ]
    );
}

#[test]
fn no_json_of_a_records_size_has_more_than_a_hundred_faults() {
    let zeros = vec![json!(0); RECORD_BYTES_MAX / 2];
    let objects = vec![json!({}); RECORD_BYTES_MAX / 3];
    let unknown: serde_json::Map<_, _> = (0..RECORD_BYTES_MAX / 10)
        .map(|number| (format!("x{number}"), json!(0)))
        .collect();
    let mut negative = vec![model()["items"][0].clone(); 4_000];
    for item in &mut negative {
        item["price"] = json!(-1);
    }
    for (field, value) in [
        ("items", json!(zeros)),
        ("items", json!(objects)),
        ("items", json!(negative)),
        ("delivery", json!(unknown)),
    ] {
        let mut order = model();
        order[field] = value;
        let faults = json::read::<OrderPlaced>(order).unwrap_err();
        assert_eq!(faults.len(), 100, "{field}");
    }
}
