//! Which schemas of others are refused: those whose data could take more memory or stack than its own size suggests.
//! Called by the codec before a byte of such data is read.

use std::collections::HashMap;

use apache_avro::{
    Schema,
    schema::{DecimalSchema, InnerDecimalSchema, Name, RecordSchema, UuidSchema},
};

use crate::codec::RECORD_BYTES_MAX;

/// How deep the types of a writer's schema may be nested.
const DEPTH_MAX: usize = 32;
/// How many lists of a writer's schema may lie in each other: each that is open may announce [`RECORD_BYTES_MAX`].
const LISTS_MAX: usize = 3;
/// The longest name of a field or symbol in a writer's schema: values repeat it.
const NAME_BYTES_MAX: usize = 128;

/// Why data of this schema could take more memory or stack than its own size suggests: types that hold themselves
/// (a record of a few bytes could be nested a million deep), things that take no bytes (a few bytes could announce a
/// million of them; only a branch of a union may be such a thing), and sizes that the schema itself makes large.
pub fn hostile(schema: &Schema) -> Option<&'static str> {
    Types::default().shape(schema).err()
}

/// What matters of a type.
#[derive(Clone, Copy, Default)]
struct Shape {
    takes_no_bytes: bool,
    depth: usize,
    lists: usize,
}

/// The named types of a schema that are complete; one that is still being looked at is not among them.
#[derive(Default)]
struct Types<'s>(HashMap<&'s Name, Shape>);

impl<'s> Types<'s> {
    fn shape(&mut self, schema: &'s Schema) -> Result<Shape, &'static str> {
        let shape = match schema {
            Schema::Ref { name } => self.0.get(name).copied().ok_or("a type holds itself")?,
            Schema::Record(record) => self.record(record)?,
            Schema::Array(array) => self.list(&array.items)?,
            Schema::Map(map) => self.list(&map.types)?,
            Schema::Union(union) => {
                let mut shape = Shape::default();
                for variant in union.variants() {
                    shape.put_around(self.shape(variant)?);
                }
                shape
            }
            Schema::Enum(symbols) => {
                symbols.symbols.iter().try_for_each(|name| check(name))?;
                Shape::default()
            }
            schema => Shape {
                takes_no_bytes: matches!(schema, Schema::Null) || fixed_size(schema) == Some(0),
                ..Shape::default()
            },
        };
        if fixed_size(schema).is_some_and(|bytes| bytes > RECORD_BYTES_MAX) {
            return Err("a value of fixed size is larger than a record");
        }
        if shape.depth > DEPTH_MAX {
            return Err("its types are nested too deep");
        }
        if shape.lists > LISTS_MAX {
            return Err("its lists are nested too deep");
        }
        if let Some(name) = schema.name() {
            self.0.insert(name, shape);
        }
        Ok(shape)
    }

    fn record(&mut self, record: &'s RecordSchema) -> Result<Shape, &'static str> {
        let mut shape = Shape {
            takes_no_bytes: record.fields.is_empty(),
            ..Shape::default()
        };
        for field in &record.fields {
            check(&field.name)?;
            let inner = self.shape(&field.schema)?;
            if inner.takes_no_bytes {
                return Err("a field that takes no bytes");
            }
            shape.put_around(inner);
        }
        Ok(shape)
    }

    fn list(&mut self, items: &'s Schema) -> Result<Shape, &'static str> {
        let inner = self.shape(items)?;
        if inner.takes_no_bytes {
            return Err("a list of things that take no bytes");
        }
        let mut shape = Shape::default();
        shape.put_around(inner);
        shape.lists += 1;
        Ok(shape)
    }
}

impl Shape {
    fn put_around(&mut self, inner: Self) {
        self.depth = self.depth.max(inner.depth + 1);
        self.lists = self.lists.max(inner.lists);
    }
}

fn check(name: &str) -> Result<(), &'static str> {
    if name.len() > NAME_BYTES_MAX {
        return Err("a name is too long");
    }
    Ok(())
}

fn fixed_size(schema: &Schema) -> Option<usize> {
    match schema {
        Schema::Fixed(fixed)
        | Schema::Duration(fixed)
        | Schema::Uuid(UuidSchema::Fixed(fixed))
        | Schema::Decimal(DecimalSchema {
            inner: InnerDecimalSchema::Fixed(fixed),
            ..
        }) => Some(fixed.size),
        _ => None,
    }
}
