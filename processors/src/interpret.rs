//! From the bytes of a record to a valid event, or the reason why it is none; for the fold and for the caches of the API.

use producers::partition::of_key;
use projections::dead_letters::DeadLetter;
use schemas::{
    codec::{DecodeError, Decoder},
    event::{Event, summary},
};

use crate::record::{Raw, Record};

const UNKNOWN_SCHEMA: &str = "unknown_schema";
const FOREIGN_SCHEMA: &str = "foreign_schema";

/// Why a record is not an event of its topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// One word for the kind of fault.
    pub reason: &'static str,
    /// What exactly.
    pub error: String,
}

/// The outcome of [`interpret`] for records that are no events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The decoder has to learn this schema id first.
    NotLearned(u32),
    /// For good.
    Rejected(Rejected),
}

/// Reads a record.
///
/// # Errors
/// [`Failure::NotLearned`] asks for [`Decoder::learn`].
pub fn interpret<E: Event>(decoder: &Decoder<E>, raw: &Raw<'_>) -> Result<Record<E>, Failure> {
    let rejected = |reason, error: String| Err(Failure::Rejected(Rejected { reason, error }));
    let Some(value) = raw.value else {
        return rejected("no_value", "the record has no value".to_owned());
    };
    let event = match decoder.decode(value) {
        Ok(event) => event,
        Err(DecodeError::NotLearned(id)) => return Err(Failure::NotLearned(id)),
        Err(error) => return rejected(reason(&error), error.to_string()),
    };
    let faults = event.faults();
    if !faults.is_empty() {
        return rejected("invalid", summary(&faults));
    }
    if let Some(key) = event.key() {
        if raw.key != Some(key.as_bytes()) {
            return rejected("wrong_key", format!("the record's key is not {key:?}"));
        }
        let wanted = of_key(key.as_bytes(), E::TOPIC.partitions);
        if raw.partition != wanted {
            let error = format!(
                "key {key:?} belongs into partition {wanted}: set the producer's partitioner to murmur2_random"
            );
            return rejected("wrong_partition", error);
        }
    }
    Ok(Record {
        partition: raw.partition,
        offset: raw.offset,
        timestamp_ms: raw.timestamp_ms,
        event,
    })
}

/// Who can ask the registry for what a decoder does not know yet.
pub trait Learns<E> {
    /// Why there is no asking any more.
    type End;

    /// The decoder.
    fn decoder(&self) -> &Decoder<E>;

    /// Asks what an id means, again and again if need be; the decoder knows it then, or is asked once more.
    ///
    /// # Errors
    /// If the record must not be passed over, and cannot be read.
    fn learn(&mut self, id: u32) -> impl Future<Output = Result<(), Self::End>>;
}

/// Reads a record, and learns what it takes for that.
///
/// # Errors
/// Those of [`Learns::learn`].
pub async fn interpret_learning<E: Event, L: Learns<E>>(
    learner: &mut L,
    raw: &Raw<'_>,
) -> Result<Result<Record<E>, Rejected>, L::End> {
    loop {
        match interpret(learner.decoder(), raw) {
            Ok(record) => return Ok(Ok(record)),
            Err(Failure::Rejected(rejected)) => return Ok(Err(rejected)),
            Err(Failure::NotLearned(id)) => learner.learn(id).await?,
        }
    }
}

fn reason(error: &DecodeError) -> &'static str {
    match error {
        DecodeError::Frame(_) => "not_framed",
        DecodeError::NotLearned(_) | DecodeError::NoSuchSchema(_) => UNKNOWN_SCHEMA,
        DecodeError::ForeignSchema { .. } => FOREIGN_SCHEMA,
        DecodeError::HostileSchema { .. } => "refused_schema",
        DecodeError::Malformed { .. } => "malformed",
    }
}

impl Rejected {
    /// Whether it is what the registry says that makes it no event: another registry may say otherwise.
    pub fn is_by_registry(&self) -> bool {
        matches!(self.reason, UNKNOWN_SCHEMA | FOREIGN_SCHEMA)
    }

    /// The dead letter for the record.
    pub fn into_letter(self, raw: &Raw<'_>) -> DeadLetter {
        DeadLetter {
            partition: raw.partition,
            offset: raw.offset,
            reason: self.reason,
            error: self.error,
            record_at_ms: raw.timestamp_ms,
        }
    }
}
