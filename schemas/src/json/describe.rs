//! The same in words that others read: JSON Schema of what [`super::read`] accepts.

use apache_avro::{Schema, schema::RecordSchema};
use serde_json::{Map, Value, json};

use crate::rules::Field;

/// Records by their names, and the rules of their fields.
type Rules<'a> = [(&'a str, &'a [Field<'a>])];

/// JSON Schema of an Avro schema, with the rules of its records.
pub fn schema(schema: &Schema, rules: &Rules<'_>) -> Value {
    match schema {
        Schema::Record(record) => of_record(record, rules),
        Schema::Array(array) => {
            json!({"type": "array", "items": self::schema(&array.items, rules)})
        }
        Schema::String => json!({"type": "string"}),
        Schema::Long | Schema::TimestampMillis => {
            json!({"type": "integer", "format": "int64", "minimum": i64::MIN, "maximum": i64::MAX})
        }
        Schema::Boolean => json!({"type": "boolean"}),
        // As `read` has it: no JSON can give it.
        _ => json!({"not": {}}),
    }
}

fn of_record(record: &RecordSchema, rules: &Rules<'_>) -> Value {
    let known = rules.iter().find(|(name, _)| *name == record.name.name());
    let known = known.map_or(&[][..], |(_, fields)| fields);
    let mut properties = Map::new();
    let mut required = Vec::new();
    for field in &record.fields {
        let mut described = schema(&field.schema, rules);
        if let Some((_, rule)) = known.iter().find(|(name, _)| *name == field.name) {
            merge(&mut described, rule.json_schema());
        }
        if let Some(doc) = &field.doc {
            described["description"] = json!(doc);
        }
        if field.default.is_none() {
            required.push(&*field.name);
        }
        properties.insert(field.name.clone(), described);
    }
    json!({
        "type": "object",
        "description": record.doc,
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// Puts the words of one schema into another.
fn merge(schema: &mut Value, more: Value) {
    if let (Value::Object(schema), Value::Object(more)) = (schema, more) {
        schema.extend(more);
    }
}
