//! JSON from people and programs, checked against the Avro schema of the event, so that every fault is named at once
//! and by its path: fields that are missing, unknown or of the wrong type, and the domain's own rules.

use apache_avro::{
    Schema,
    schema::{ArraySchema, RecordSchema},
};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

mod describe;

pub use self::describe::schema;
use crate::event::{Event, Fault};

/// The most faults that are named: a body of zeros where items belong would have half a million.
const FAULTS_MAX: usize = 100;

/// Reads one event.
///
/// # Errors
/// Every fault of the JSON, or the first hundred.
pub fn read<E: Event>(value: Value) -> Result<E, Vec<Fault>> {
    read_as(E::schema(), value, E::faults)
}

/// Reads what this schema describes and has these rules beyond its types.
///
/// # Errors
/// As [`read`].
pub fn read_as<T: DeserializeOwned>(
    schema: &Schema,
    value: Value,
    rules: impl Fn(&T) -> Vec<Fault>,
) -> Result<T, Vec<Fault>> {
    let mut faults = Vec::new();
    // What is missing or wrong is filled with an empty value, so that the rules can be asked about the rest.
    let filled = check(schema, Some(value), "", &mut faults);
    if faults.len() >= FAULTS_MAX {
        faults.truncate(FAULTS_MAX);
        return Err(faults);
    }
    let read: T = match serde_json::from_value(filled) {
        Ok(read) => read,
        Err(error) => {
            faults.push(Fault::new("", error.to_string()));
            return Err(faults);
        }
    };
    for fault in rules(&read) {
        if !faults
            .iter()
            .any(|known| covers(&known.field, &fault.field))
        {
            faults.push(fault);
        }
    }
    if faults.is_empty() {
        return Ok(read);
    }
    faults.truncate(FAULTS_MAX);
    Err(faults)
}

/// Whether `path` is `outer` or lies inside it.
fn covers(outer: &str, path: &str) -> bool {
    path.strip_prefix(outer)
        .is_some_and(|rest| outer.is_empty() || rest.is_empty() || rest.starts_with(['.', '[']))
}

/// Compares a value with its schema, notes what is wrong, and returns a value that fits.
fn check(schema: &Schema, value: Option<Value>, path: &str, faults: &mut Vec<Fault>) -> Value {
    let Some(value) = value else {
        faults.push(Fault::new(path, "is missing"));
        return empty(schema);
    };
    match (schema, value) {
        (Schema::Record(record), Value::Object(fields)) => {
            check_record(record, fields, path, faults)
        }
        (Schema::Array(array), Value::Array(items)) => check_list(array, items, path, faults),
        (Schema::String, value @ Value::String(_)) => value,
        (Schema::Long | Schema::TimestampMillis, Value::Number(number)) if number.is_i64() => {
            Value::Number(number)
        }
        (Schema::Boolean, value @ Value::Bool(_)) => value,
        (schema, value) => {
            faults.push(Fault::new(path, wanted(schema, &value)));
            empty(schema)
        }
    }
}

fn check_list(
    array: &ArraySchema,
    items: Vec<Value>,
    path: &str,
    faults: &mut Vec<Fault>,
) -> Value {
    let mut filled = Vec::new();
    for (index, item) in items.into_iter().enumerate() {
        if faults.len() >= FAULTS_MAX {
            break;
        }
        let path = format!("{path}[{index}]");
        filled.push(check(&array.items, Some(item), &path, faults));
    }
    Value::Array(filled)
}

fn check_record(
    record: &RecordSchema,
    mut fields: Map<String, Value>,
    path: &str,
    faults: &mut Vec<Fault>,
) -> Value {
    let inside = |name: &str| match path {
        "" => name.to_owned(),
        path => format!("{path}.{name}"),
    };
    let mut filled = Map::new();
    for field in &record.fields {
        let value = fields.remove(&field.name).or_else(|| field.default.clone());
        let value = check(&field.schema, value, &inside(&field.name), faults);
        filled.insert(field.name.clone(), value);
    }
    for name in fields.keys().take(FAULTS_MAX) {
        faults.push(Fault::new(inside(&quoted(name)), "is unknown"));
    }
    Value::Object(filled)
}

/// The name of an unknown field, in quotes if it could be taken for a path.
fn quoted(name: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || c == '_';
    if !name.is_empty() && name.chars().all(plain) {
        return name.to_owned();
    }
    format!("{name:?}")
}

fn wanted(schema: &Schema, found: &Value) -> String {
    let whole = matches!(schema, Schema::Long | Schema::TimestampMillis);
    if whole && found.is_number() {
        return "must be a whole number of 64 bits".to_owned();
    }
    let wanted = match schema {
        Schema::Record(_) => "an object",
        Schema::Array(_) => "an array",
        Schema::String => "a string",
        Schema::Long | Schema::TimestampMillis => "a whole number",
        Schema::Boolean => "true or false",
        _ => "something that JSON cannot give here",
    };
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "an array",
        Value::Object(_) => "an object",
    };
    format!("must be {wanted}, not {found}")
}

fn empty(schema: &Schema) -> Value {
    match schema {
        Schema::Record(record) => record
            .fields
            .iter()
            .map(|field| (field.name.clone(), empty(&field.schema)))
            .collect(),
        Schema::Array(_) => Value::Array(Vec::new()),
        Schema::String => Value::String(String::new()),
        Schema::Long | Schema::TimestampMillis => Value::from(0),
        Schema::Boolean => Value::Bool(false),
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{clicks::BannerClicked, orders::OrderPlaced};

    fn faults(value: Value) -> Vec<String> {
        read::<OrderPlaced>(value)
            .unwrap_err()
            .iter()
            .map(Fault::to_string)
            .collect()
    }

    fn model() -> Value {
        serde_json::from_str(include_str!("../../data/model.json")).unwrap()
    }

    #[test]
    fn the_model_order_comes_out_as_it_went_in() {
        let order: OrderPlaced = read(model()).unwrap();
        assert_eq!(serde_json::to_value(&order).unwrap(), model());
    }

    #[test]
    fn every_fault_is_named_at_once() {
        let mut order = model();
        order["payment"]["currency"] = json!("DOLLARS");
        order["payment"]["amount"] = json!(-1);
        order["payment"]["bank"] = json!(7);
        order["delivery"].as_object_mut().unwrap().remove("phone");
        order["items"][0]["price"] = json!(1.5);
        order["items"][0]["colour"] = json!("red");
        order["order_uid"] = json!(" ");
        assert_eq!(
            faults(order),
            [
                "delivery.phone is missing",
                "payment.bank must be a string, not a number",
                "items[0].price must be a whole number of 64 bits",
                "items[0].colour is unknown",
                "order_uid must not be empty",
                "payment.currency must be three letters, such as USD",
                "payment.amount must not be negative",
            ]
        );
    }

    #[test]
    fn a_fault_hides_only_what_lies_inside_it() {
        let mut order = model();
        order["items"] = json!("none");
        order["delivery"] = json!(null);
        order["locale"] = json!("e\u{0}n");
        assert_eq!(
            faults(order),
            [
                "delivery must be an object, not null",
                "items must be an array, not a string",
                "locale must not have the character U+0000",
            ]
        );
        assert_eq!(faults(json!([])), ["must be an object, not an array"]);
    }

    #[test]
    fn an_order_without_items_is_refused() {
        let mut order = model();
        order["items"] = json!([]);
        assert_eq!(faults(order), ["items must have at least one item"]);
    }

    #[test]
    fn a_click_of_a_negative_banner_is_refused() {
        let click = json!({"banner_id": -1, "received_at": 0});
        let faults = read::<BannerClicked>(click).unwrap_err();
        assert_eq!(faults, [Fault::new("banner_id", "must not be negative")]);
    }
}
