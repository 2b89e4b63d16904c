//! Records of any topic and schema as JSON, for people and programs that look into the log.

use std::collections::{BTreeMap, HashMap};

use apache_avro::{Schema, types::Value};
use jiff::{SignedDuration, Timestamp, civil::DateTime, tz::TimeZone};
use serde::{
    Serialize, Serializer,
    ser::{SerializeMap, SerializeSeq},
};

use crate::{
    codec::{decode_any, unframe},
    registry::{Registry, RegistryError},
};

/// Decodes record values by the schemas that they name; asks the registry once for each.
pub struct Inspector {
    registry: Registry,
    schemas: HashMap<u32, Result<Schema, String>>,
}

/// What a record value holds.
#[derive(Debug)]
pub struct Inspected {
    /// The id of its schema, if it is framed.
    pub schema_id: Option<u32>,
    /// The datum, none for a record without a value; or why it cannot be read.
    pub datum: Result<Option<Datum>, String>,
}

/// A datum that serializes as JSON: fields in the schema's order, numbers as numbers, times as RFC 3339, unions as
/// what they hold, bytes as Avro's own JSON has them (each the character of that number).
#[derive(Debug, Clone, PartialEq)]
pub struct Datum(Value);

impl Inspector {
    /// An inspector that asks this registry.
    pub fn new(registry: Registry) -> Self {
        Self {
            registry,
            schemas: HashMap::new(),
        }
    }

    /// Decodes a record value, none being a record without one.
    ///
    /// # Errors
    /// If the registry does not answer. A value that cannot be read is no error.
    pub async fn inspect(&mut self, value: Option<&[u8]>) -> Result<Inspected, RegistryError> {
        let Some(value) = value else {
            return Ok(Inspected {
                schema_id: None,
                datum: Ok(None),
            });
        };
        let (id, bytes) = match unframe(value) {
            Ok(framed) => framed,
            Err(error) => {
                return Ok(Inspected {
                    schema_id: None,
                    datum: Err(error.to_string()),
                });
            }
        };
        let datum = match self.schema(id).await? {
            Ok(schema) => decode_any(schema, bytes)
                .map(|datum| Some(Datum(datum)))
                .map_err(|why| format!("not what schema id {id} says: {why}")),
            Err(why) => Err(why.clone()),
        };
        Ok(Inspected {
            schema_id: Some(id),
            datum,
        })
    }

    async fn schema(&mut self, id: u32) -> Result<&Result<Schema, String>, RegistryError> {
        if !self.schemas.contains_key(&id) {
            let known = match self.registry.schema(id).await? {
                None => Err(format!("the registry has no schema with id {id}")),
                Some(text) => Schema::parse_str(&text)
                    .map_err(|error| format!("schema id {id} is no Avro schema: {error}")),
            };
            self.schemas.insert(id, known);
        }
        Ok(&self.schemas[&id])
    }
}

impl Serialize for Datum {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        Json(&self.0).serialize(out)
    }
}

struct Json<'a>(&'a Value);

impl Serialize for Json<'_> {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Null => out.serialize_unit(),
            Value::Boolean(truth) => out.serialize_bool(*truth),
            Value::Int(number) => out.serialize_i32(*number),
            Value::Long(number) => out.serialize_i64(*number),
            Value::Float(number) if number.is_finite() => out.serialize_f32(*number),
            Value::Double(number) if number.is_finite() => out.serialize_f64(*number),
            // JSON has no numbers for these.
            Value::Float(number) => out.collect_str(number),
            Value::Double(number) => out.collect_str(number),
            Value::String(text) | Value::Enum(_, text) => out.serialize_str(text),
            Value::Bytes(bytes) | Value::Fixed(_, bytes) => out.serialize_str(&latin(bytes)),
            Value::Decimal(number) => match Vec::try_from(number) {
                Ok(bytes) => out.serialize_str(&latin(&bytes)),
                Err(error) => Err(serde::ser::Error::custom(error)),
            },
            Value::BigDecimal(number) => out.collect_str(number),
            Value::Uuid(id) => out.collect_str(id),
            Value::Union(_, value) => Json(value).serialize(out),
            Value::Array(items) => {
                let mut list = out.serialize_seq(Some(items.len()))?;
                items
                    .iter()
                    .try_for_each(|item| list.serialize_element(&Json(item)))?;
                list.end()
            }
            Value::Map(entries) => {
                let sorted: BTreeMap<_, _> = entries.iter().map(|(k, v)| (k, Json(v))).collect();
                out.collect_map(sorted)
            }
            Value::Record(fields) => {
                let mut object = out.serialize_map(Some(fields.len()))?;
                for (name, value) in fields {
                    object.serialize_entry(name, &Json(value))?;
                }
                object.end()
            }
            value => time(value, out),
        }
    }
}

/// Times and dates; a number that is out of the calendar's range stays one.
fn time<S: Serializer>(value: &Value, out: S) -> Result<S::Ok, S::Error> {
    let (number, text) = match *value {
        Value::Date(days) => {
            let at = utc(SignedDuration::from_hours(i64::from(days) * 24));
            (i64::from(days), at.map(|at| at.date().to_string()))
        }
        Value::TimeMillis(ms) => {
            let at = utc(SignedDuration::from_millis(i64::from(ms)));
            (i64::from(ms), at.map(|at| format!("{:.3}", at.time())))
        }
        Value::TimeMicros(us) => {
            let at = utc(SignedDuration::from_micros(us));
            (us, at.map(|at| format!("{:.6}", at.time())))
        }
        Value::TimestampMillis(ms) => (ms, millis(ms)),
        Value::TimestampMicros(us) => (us, zoned(SignedDuration::from_micros(us), 6)),
        Value::TimestampNanos(ns) => (ns, zoned(SignedDuration::from_nanos(ns), 9)),
        Value::LocalTimestampMillis(ms) => (ms, local(SignedDuration::from_millis(ms), 3)),
        Value::LocalTimestampMicros(us) => (us, local(SignedDuration::from_micros(us), 6)),
        Value::LocalTimestampNanos(ns) => (ns, local(SignedDuration::from_nanos(ns), 9)),
        Value::Duration(duration) => {
            let mut object = out.serialize_map(Some(3))?;
            object.serialize_entry("months", &u32::from(duration.months()))?;
            object.serialize_entry("days", &u32::from(duration.days()))?;
            object.serialize_entry("millis", &u32::from(duration.millis()))?;
            return object.end();
        }
        ref value => return Err(serde::ser::Error::custom(format!("no JSON for {value:?}"))),
    };
    match text {
        Some(text) => out.serialize_str(&text),
        None => out.serialize_i64(number),
    }
}

/// A time in RFC 3339 with milliseconds, such as `2026-01-02T03:04:05.678Z`; none beyond the year 9999.
pub fn millis(ms: i64) -> Option<String> {
    zoned(SignedDuration::from_millis(ms), 3)
}

fn zoned(since_1970: SignedDuration, digits: usize) -> Option<String> {
    let at = Timestamp::from_duration(since_1970).ok()?;
    Some(format!("{at:.digits$}"))
}

fn local(since_1970: SignedDuration, digits: usize) -> Option<String> {
    Some(format!("{:.digits$}", utc(since_1970)?))
}

fn utc(since_1970: SignedDuration) -> Option<DateTime> {
    let at = Timestamp::from_duration(since_1970).ok()?;
    Some(at.to_zoned(TimeZone::UTC).datetime())
}

fn latin(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use apache_avro::{Days, Millis};
    use apache_avro::{Decimal, Duration, Months, writer::datum::GenericDatumWriter};

    use super::*;

    fn json(value: Value) -> String {
        serde_json::to_string(&Datum(value)).unwrap()
    }

    #[test]
    fn values_become_the_json_that_one_expects() {
        for (value, text) in [
            (Value::Null, "null"),
            (Value::Boolean(true), "true"),
            (Value::Int(-7), "-7"),
            (Value::Long(i64::MAX), "9223372036854775807"),
            (Value::Double(1.5), "1.5"),
            (Value::Double(f64::NAN), "\"NaN\""),
            (Value::Float(f32::NEG_INFINITY), "\"-inf\""),
            (Value::String("a\"b".to_owned()), r#""a\"b""#),
            (Value::Enum(1, "RED".to_owned()), "\"RED\""),
            (Value::Bytes(vec![65, 255]), "\"Aÿ\""),
            (Value::Fixed(2, vec![65, 66]), "\"AB\""),
            (Value::Decimal(Decimal::from([1, 0])), "\"\\u0001\\u0000\""),
            (Value::Union(1, Box::new(Value::Long(3))), "3"),
            (Value::Union(0, Box::new(Value::Null)), "null"),
        ] {
            assert_eq!(json(value.clone()), text, "{value:?}");
        }
    }

    #[test]
    fn times_are_rfc_3339_and_stay_numbers_beyond_the_calendar() {
        for (value, text) in [
            (Value::TimestampMillis(0), "\"1970-01-01T00:00:00.000Z\""),
            (Value::TimestampMillis(-1), "\"1969-12-31T23:59:59.999Z\""),
            (Value::TimestampMillis(i64::MAX), "9223372036854775807"),
            (Value::TimestampMicros(1), "\"1970-01-01T00:00:00.000001Z\""),
            (
                Value::TimestampNanos(1),
                "\"1970-01-01T00:00:00.000000001Z\"",
            ),
            (
                Value::LocalTimestampMillis(1),
                "\"1970-01-01T00:00:00.001\"",
            ),
            (Value::Date(20_000), "\"2024-10-04\""),
            (Value::Date(i32::MAX), "2147483647"),
            (Value::TimeMillis(3_600_001), "\"01:00:00.001\""),
            (
                Value::Duration(Duration::new(Months::new(1), Days::new(2), Millis::new(3))),
                r#"{"months":1,"days":2,"millis":3}"#,
            ),
        ] {
            assert_eq!(json(value.clone()), text, "{value:?}");
        }
    }

    #[test]
    fn records_keep_the_order_of_their_fields_and_maps_are_sorted() {
        let map = HashMap::from([
            ("b".to_owned(), Value::Int(2)),
            ("a".to_owned(), Value::Int(1)),
        ]);
        let record = Value::Record(vec![
            ("z".to_owned(), Value::Array(vec![Value::Map(map)])),
            (
                "a".to_owned(),
                Value::Record(vec![("inner".to_owned(), Value::Null)]),
            ),
        ]);
        assert_eq!(json(record), r#"{"z":[{"a":1,"b":2}],"a":{"inner":null}}"#);
    }

    #[test]
    fn a_written_datum_reads_as_json() {
        let schema = Schema::parse_str(
            r#"{"type":"record","name":"R","fields":[
                {"name":"id","type":"long"},
                {"name":"note","type":["null","string"]},
                {"name":"at","type":{"type":"long","logicalType":"timestamp-millis"}}]}"#,
        )
        .unwrap();
        let value = Value::Record(vec![
            ("id".to_owned(), Value::Long(7)),
            (
                "note".to_owned(),
                Value::Union(1, Box::new(Value::String("hi".to_owned()))),
            ),
            ("at".to_owned(), Value::TimestampMillis(5)),
        ]);
        let writer = GenericDatumWriter::builder(&schema).build().unwrap();
        let mut bytes = Vec::new();
        writer.write_value(&mut bytes, value).unwrap();
        let datum = Datum(decode_any(&schema, &bytes).unwrap());
        assert_eq!(
            serde_json::to_string(&datum).unwrap(),
            r#"{"id":7,"note":"hi","at":"1970-01-01T00:00:00.005Z"}"#
        );
    }
}
