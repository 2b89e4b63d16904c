//! Bytes to events and back: Avro in the Confluent wire format (a zero byte, the schema's id in four bytes,
//! big-endian, then the datum).
//!
//! Decoding goes straight into the event's struct when the writer's schema is this build's own. Older schemas go
//! through [`Value`] and schema resolution. Nothing here waits: an id that is new to a [`Decoder`] is learned from
//! the registry first ([`Decoder::learn`]).
//!
//! Bytes may be hostile. A schema is taken from the registry only if data written with it cannot grow in memory
//! beyond its own size: see [`hostile`].

use std::{
    collections::BTreeMap,
    fmt,
    io::{self, Read},
    marker::PhantomData,
};

use apache_avro::{
    Schema, from_value,
    rabin::Rabin,
    reader::datum::GenericDatumReader,
    schema_compatibility::{Compatibility, SchemaCompatibility},
    types::Value,
    util::max_allocation_bytes,
    writer::datum::GenericDatumWriter,
};

use crate::{
    datum::Datum,
    event::Event,
    hostile::hostile,
    registry::{Registry, RegistryError},
    topics::{Topic, subject},
};

/// The largest value of a record that is read, in bytes, with its frame: no broker takes more by default.
pub const RECORD_BYTES_MAX: usize = 1 << 20;
/// The largest that is written: librdkafka's limit for a record (`message.max.bytes`, 1,000,000), less room for key and
/// headers.
pub const EVENT_BYTES_MAX: usize = 990_000;

const MAGIC: u8 = 0;
const FRAME_BYTES: usize = 5;
/// How much of a library's reason is kept: some print whole schemas.
const WHY_CHARS_MAX: usize = 500;

/// Writes events of one topic as record values.
pub struct Encoder<E> {
    frame: [u8; FRAME_BYTES],
    writer: GenericDatumWriter<'static>,
    event: PhantomData<fn(E)>,
}

/// An event that cannot be written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// More than [`EVENT_BYTES_MAX`].
    #[error("the event takes {bytes} bytes; a record holds at most {EVENT_BYTES_MAX}")]
    TooLarge {
        /// Size of the record's value.
        bytes: usize,
    },
    /// The struct does not fit its own schema; a test keeps this from happening.
    #[error("the event does not fit its schema")]
    Schema(#[from] apache_avro::Error),
}

impl<E: Event> Encoder<E> {
    /// An encoder for records that refer to this build's schema by `schema_id`.
    ///
    /// # Errors
    /// If the schema refers to types that it does not define.
    pub fn new(schema_id: u32) -> Result<Self, EncodeError> {
        let mut frame = [MAGIC; FRAME_BYTES];
        frame[1..].copy_from_slice(&schema_id.to_be_bytes());
        let writer = GenericDatumWriter::builder(E::schema())
            .human_readable(false)
            .build()?;
        Ok(Self {
            frame,
            writer,
            event: PhantomData,
        })
    }

    /// Appends the record value of `event` to `out`, which keeps what it had if this fails.
    ///
    /// # Errors
    /// [`EncodeError::TooLarge`].
    pub fn encode(&self, event: &E, out: &mut Vec<u8>) -> Result<(), EncodeError> {
        let start = out.len();
        out.extend_from_slice(&self.frame);
        let written = self.writer.write_ser(out, event);
        let bytes = out.len() - start;
        if let Err(error) = written {
            out.truncate(start);
            return Err(error.into());
        }
        if bytes > EVENT_BYTES_MAX {
            out.truncate(start);
            return Err(EncodeError::TooLarge { bytes });
        }
        Ok(())
    }
}

/// Reads the record values of one topic.
pub struct Decoder<E> {
    subject: String,
    /// By their ids, of which there are a handful.
    readers: BTreeMap<u32, Reader>,
    event: PhantomData<fn() -> E>,
}

/// What is known of a schema id.
enum Reader {
    /// Written with this build's schema: straight into the struct.
    Current(GenericDatumReader<'static>),
    /// Written with another version: through a value, resolved to this build's schema.
    Resolved(GenericDatumReader<'static>),
    /// The registry does not have the id.
    Missing,
    /// The id belongs to another subject.
    Foreign,
    /// Registered, but data written with it could do harm.
    Hostile(&'static str),
}

/// A record value that is not an event.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Not in the wire format.
    #[error("not in the Confluent wire format: {0}")]
    Frame(&'static str),
    /// This decoder has not seen the id: call [`Decoder::learn`] and try again.
    #[error("schema id {0} is yet to be read from the registry")]
    NotLearned(u32),
    /// The registry does not know the id.
    #[error("the registry has no schema with id {0}")]
    NoSuchSchema(u32),
    /// The schema belongs to something else.
    #[error("schema id {id} is not registered under {subject}")]
    ForeignSchema {
        /// The id in the record.
        id: u32,
        /// The subject of the topic.
        subject: String,
    },
    /// The schema allows data that could exhaust memory or stack.
    #[error("schema id {id} is refused: {why}")]
    HostileSchema {
        /// The id in the record.
        id: u32,
        /// What about it.
        why: &'static str,
    },
    /// The bytes are not what the schema says.
    #[error("not what schema id {id} says: {why}")]
    Malformed {
        /// The id in the record.
        id: u32,
        /// Where reading failed.
        why: String,
    },
}

/// Why a schema id could not be learned.
#[derive(Debug, thiserror::Error)]
pub enum LearnError {
    /// The registry did not answer: wait and try again; nothing is wrong with the record.
    #[error(transparent)]
    Registry(#[from] RegistryError),
    /// A schema of this topic that this build cannot read: it must not go on.
    #[error(
        "schema id {id} of {subject} cannot be read with this build's schema ({why}): deploy the build that wrote it, then start again"
    )]
    NewerBuildNeeded {
        /// The id in the record.
        id: u32,
        /// The subject of the topic.
        subject: String,
        /// What does not fit.
        why: String,
    },
}

impl<E: Event> Decoder<E> {
    /// A decoder for the topic with this full name.
    pub fn new(topic: &str) -> Self {
        // The first caller in a process decides; nothing here needs more than a record holds.
        max_allocation_bytes(RECORD_BYTES_MAX);
        Self {
            subject: subject(topic),
            readers: BTreeMap::new(),
            event: PhantomData,
        }
    }

    /// Reads the value of a record.
    ///
    /// # Errors
    /// [`DecodeError::NotLearned`] asks for [`Self::learn`]; every other error is final for these bytes.
    pub fn decode(&self, value: &[u8]) -> Result<E, DecodeError> {
        let (id, mut datum) = unframe(value)?;
        let malformed = |error: apache_avro::Error| DecodeError::Malformed {
            id,
            why: brief(error),
        };
        let event = match self.readers.get(&id) {
            None => return Err(DecodeError::NotLearned(id)),
            Some(Reader::Current(reader)) => {
                if let Some(event) = E::read(Datum::new(datum)) {
                    return Ok(event);
                }
                reader.read_deser(&mut datum).map_err(malformed)?
            }
            Some(Reader::Resolved(reader)) => {
                let value = read_value(reader, &mut datum)
                    .map_err(|why| DecodeError::Malformed { id, why })?;
                from_value(&value).map_err(malformed)?
            }
            Some(Reader::Missing) => return Err(DecodeError::NoSuchSchema(id)),
            Some(Reader::Foreign) => {
                return Err(DecodeError::ForeignSchema {
                    id,
                    subject: self.subject.clone(),
                });
            }
            Some(Reader::Hostile(why)) => return Err(DecodeError::HostileSchema { id, why }),
        };
        if datum.is_empty() {
            return Ok(event);
        }
        Err(DecodeError::Malformed {
            id,
            why: format!("{} bytes are left over", datum.len()),
        })
    }

    /// Whether the value is written with a schema that this decoder can read.
    pub fn reads(&self, value: &[u8]) -> bool {
        let reader = unframe(value)
            .ok()
            .and_then(|(id, _)| self.readers.get(&id));
        matches!(reader, Some(Reader::Current(_) | Reader::Resolved(_)))
    }

    /// Asks the registry what `id` means and remembers it. Returns a fingerprint of the answer, which must be the
    /// same for ever: the caller keeps it and compares.
    ///
    /// # Errors
    /// [`LearnError`]; then nothing is remembered.
    pub async fn learn(&mut self, registry: &Registry, id: u32) -> Result<String, LearnError> {
        let text = registry.schema(id).await?;
        let registered_here = text.is_some() && registry.is_registered(&self.subject, id).await?;
        self.accept(id, text.as_deref(), registered_here)
    }

    /// Remembers what the registry said of `id`: the schema's text, if there is one, and whether it is registered
    /// under this topic's subject. Returns the fingerprint of the answer.
    ///
    /// # Errors
    /// [`LearnError::NewerBuildNeeded`].
    pub fn accept(
        &mut self,
        id: u32,
        text: Option<&str>,
        registered_here: bool,
    ) -> Result<String, LearnError> {
        let (reader, fingerprint) = match text {
            None => (Reader::Missing, "none".to_owned()),
            Some(text) => self.reader(id, text, registered_here)?,
        };
        self.readers.insert(id, reader);
        Ok(fingerprint)
    }

    /// Forgets ids that the registry did not have or that belonged elsewhere: what it has not given out today it may
    /// give out tomorrow, so each batch asks again.
    pub fn forget_refusals(&mut self) {
        self.readers
            .retain(|_, reader| !matches!(reader, Reader::Missing | Reader::Foreign));
    }

    fn reader(
        &self,
        id: u32,
        text: &str,
        registered_here: bool,
    ) -> Result<(Reader, String), LearnError> {
        let unreadable = |why: String| LearnError::NewerBuildNeeded {
            id,
            subject: self.subject.clone(),
            why,
        };
        let writer = match Schema::parse_str(text) {
            Ok(writer) => writer,
            Err(_) if !registered_here => return Ok((Reader::Foreign, "foreign".to_owned())),
            Err(error) => return Err(unreadable(brief(error))),
        };
        let fingerprint = fingerprint(&writer);
        let own = E::schema();
        let current = writer.canonical_form() == own.canonical_form();
        if !registered_here {
            return Ok((Reader::Foreign, fingerprint));
        }
        if let Some(why) = hostile(&writer) {
            return Ok((Reader::Hostile(why), fingerprint));
        }
        check_readable::<E>(&writer).map_err(unreadable)?;
        if current {
            let reader = GenericDatumReader::builder(own)
                .human_readable(false)
                .build()
                .map_err(|error| unreadable(brief(error)))?;
            return Ok((Reader::Current(reader), fingerprint));
        }
        // Kept for the life of the process; there are as many as versions of the schema.
        let writer: &'static Schema = Box::leak(Box::new(writer));
        let reader = GenericDatumReader::builder(writer)
            .reader_schema(own)
            .build()
            .map_err(|error| unreadable(brief(error)))?;
        Ok((Reader::Resolved(reader), fingerprint))
    }
}

/// The fingerprint that a [`Decoder`] gives for the schema of this text; none if the text is no schema.
pub fn fingerprint_of(text: &str) -> Option<String> {
    Schema::parse_str(text).ok().as_ref().map(fingerprint)
}

fn fingerprint(schema: &Schema) -> String {
    schema.fingerprint::<Rabin>().to_string()
}

/// Whether this build can read what was written to `topic` with the schema of this text; and if so, whether it is the
/// very schema that this build writes.
///
/// # Errors
/// Why it cannot.
pub fn is_own(topic: &Topic, text: &str) -> Result<bool, String> {
    let writer = Schema::parse_str(text).map_err(brief)?;
    if let Some(why) = hostile(&writer) {
        return Err(why.to_owned());
    }
    let own = (topic.schema)();
    resolve_zeros(&writer, own)?;
    Ok(writer.canonical_form() == own.canonical_form())
}

/// Whether every record of `writer` can be read as this build's event, not only some of them.
fn check_readable<E: Event>(writer: &Schema) -> Result<(), String> {
    match resolve_zeros(writer, E::schema())? {
        Some(resolved) => from_value::<E>(&resolved).map(drop).map_err(brief),
        None => Ok(()),
    }
}

/// Resolves the datum of zeros from one schema to the other; none if there is no such datum.
fn resolve_zeros(writer: &Schema, own: &Schema) -> Result<Option<Value>, String> {
    if SchemaCompatibility::can_read(writer, own).map_err(brief)? == Compatibility::Partial {
        return Err("some of its branches or symbols are unknown here".to_owned());
    }
    // What is compatible by the book may be more than resolution does: aliases and units of time.
    let reader = GenericDatumReader::builder(writer).build().map_err(brief)?;
    let Ok(zeros) = reader.read_value(&mut io::repeat(0)) else {
        return Ok(None);
    };
    zeros.resolve(own).map(Some).map_err(brief)
}

/// The beginning of an error's text.
fn brief(error: impl fmt::Display) -> String {
    error.to_string().chars().take(WHY_CHARS_MAX).collect()
}

/// Splits a record value into the id of its schema and the datum.
///
/// # Errors
/// [`DecodeError::Frame`].
pub fn unframe(value: &[u8]) -> Result<(u32, &[u8]), DecodeError> {
    let Some((frame, datum)) = value.split_first_chunk::<FRAME_BYTES>() else {
        return Err(DecodeError::Frame("shorter than five bytes"));
    };
    let [magic, id @ ..] = *frame;
    if magic != MAGIC {
        return Err(DecodeError::Frame("the first byte is not zero"));
    }
    if value.len() > RECORD_BYTES_MAX {
        return Err(DecodeError::Frame("larger than a record may be"));
    }
    Ok((u32::from_be_bytes(id), datum))
}

/// Reads a datum of any schema, for people who look into the log.
///
/// # Errors
/// If the schema cannot be parsed or is [`hostile`], or the datum is not what it says.
pub fn decode_any(schema: &Schema, mut datum: &[u8]) -> Result<Value, String> {
    max_allocation_bytes(RECORD_BYTES_MAX);
    if let Some(why) = hostile(schema) {
        return Err(why.to_owned());
    }
    let reader = GenericDatumReader::builder(schema).build().map_err(brief)?;
    let value = read_value(&reader, &mut datum)?;
    if datum.is_empty() {
        return Ok(value);
    }
    Err(format!("{} bytes are left over", datum.len()))
}

/// Reads a value. A datum that ends too early is an error: apache-avro takes a text that ends early for a null, which
/// goes unnoticed in a field that is dropped.
fn read_value(reader: &GenericDatumReader<'_>, datum: &mut &[u8]) -> Result<Value, String> {
    let mut bytes = Bytes {
        rest: datum,
        ran_out: false,
    };
    let value = reader.read_value(&mut bytes).map_err(brief)?;
    if bytes.ran_out {
        return Err("the bytes end too early".to_owned());
    }
    *datum = bytes.rest;
    Ok(value)
}

/// Bytes that remember whether more was wanted than there was.
struct Bytes<'a> {
    rest: &'a [u8],
    ran_out: bool,
}

impl Read for Bytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        self.ran_out |= out.len() > self.rest.len();
        self.rest.read(out)
    }
}
