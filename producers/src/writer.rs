//! Writing the events of one topic: validated event, its partition as Java would choose it, its record, its position.

use std::{
    marker::PhantomData,
    ptr,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use rdkafka::{
    error::{KafkaError, RDKafkaErrorCode},
    message::{Header, OwnedHeaders},
};
use schemas::{
    codec::{EncodeError, Encoder},
    event::{Event, Fault, summary},
    position::Position,
    registry::{Registry, RegistryError},
    topics::subject,
};
use uuid::Uuid;

use crate::{
    append::{Appender, Outcome, Outgoing, Pending},
    clock,
    partition::of_key,
    trace::{TRACEPARENT, TRACESTATE, Trace},
    turns::{Turn, Turns},
};

/// The header of records that are ours, and what it says (CloudEvents 1.0).
pub const SOURCE: (&str, &str) = ("ce_source", "/millrace");

/// Appends the events of one topic.
pub struct EventWriter<E> {
    appender: Arc<Appender>,
    topic: String,
    encoder: OnceLock<Encoder<E>>,
    /// Counts the batches without keys, for their partitions.
    round: AtomicUsize,
    turns: Arc<Turns>,
    event: PhantomData<fn(E)>,
}

/// Why an event was not acknowledged.
#[derive(Debug, Clone, thiserror::Error)]
pub enum AppendError {
    /// It breaks rules of its domain. Nothing was sent.
    #[error("the event is not valid: {}", summary(.0))]
    Invalid(Vec<Fault>),
    /// It does not fit into a record. Nothing was sent.
    #[error("{0}")]
    TooLarge(String),
    /// Too much is on its way already. Nothing was sent.
    #[error("too many appends are on their way: try again")]
    Overloaded,
    /// The schema is not registered since the registry could not be reached. Nothing was sent.
    #[error("the schema of {0} is yet to be registered: is the schema registry running?")]
    NotRegistered(String),
    /// Certainly not on the log.
    #[error("not written: {0}")]
    NotWritten(String),
    /// The acknowledgement is missing: it may be on the log, now or later.
    #[error("it is not known whether it was written: {0}")]
    Unknown(String),
}

impl AppendError {
    /// What to tell about a record that is certainly not on the log.
    pub fn of_refusal(error: &KafkaError) -> Self {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::QueueFull) => Self::Overloaded,
            Some(RDKafkaErrorCode::MessageSizeTooLarge) => Self::TooLarge(error.to_string()),
            _ => Self::NotWritten(error.to_string()),
        }
    }
}

/// Where an event comes from.
#[derive(Debug, Clone, Default)]
pub struct Context {
    /// The step of a trace that appends it.
    pub trace: Option<Trace>,
}

impl<E: Event> EventWriter<E> {
    /// A writer to the topic of `E` under this prefix. It writes once [`Self::register`] has succeeded.
    pub fn new(appender: Arc<Appender>, prefix: &str) -> Self {
        Self {
            appender,
            topic: E::TOPIC.full_name(prefix),
            encoder: OnceLock::new(),
            round: AtomicUsize::new(0),
            turns: Arc::default(),
            event: PhantomData,
        }
    }

    /// Registers the schema, or finds it registered; after that, events can be written.
    ///
    /// # Errors
    /// If the registry is away or refuses the schema.
    pub async fn register(&self, registry: &Registry) -> Result<(), RegistryError> {
        if self.encoder.get().is_some() {
            return Ok(());
        }
        let id = registry
            .register(&subject(&self.topic), E::TOPIC.avsc)
            .await?;
        let encoder = Encoder::new(id).expect("a test builds the encoder of every event");
        // Somebody else may have been quicker; the id is the same.
        let _ = self.encoder.set(encoder);
        Ok(())
    }

    /// Like [`Self::new`], writing from the start, with this id for its schema.
    #[cfg(test)]
    pub(crate) fn with_schema(appender: Arc<Appender>, prefix: &str, id: u32) -> Self {
        let writer = Self::new(appender, prefix);
        let _ = writer.encoder.set(Encoder::new(id).expect("a schema"));
        writer
    }

    /// Whether events can be written.
    pub fn is_registered(&self) -> bool {
        self.encoder.get().is_some()
    }

    /// The topic's full name.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// Waits until those who gather batches for this topic may send the next.
    pub async fn turn(&self) -> Turn {
        self.turns.next().await
    }

    /// Appends one event and waits for its place; `None` if the broker has it but did not tell where.
    ///
    /// # Errors
    /// [`AppendError`]; all but `Unknown` say that it is not on the log.
    pub async fn append(
        &self,
        event: &E,
        context: &Context,
    ) -> Result<Option<Position>, AppendError> {
        let pending = self.send(std::slice::from_ref(event), Some(context))?;
        self.position(pending.outcome().await)
    }

    /// Hands over events, in order. Keyed ones go to the partition of their key; a batch without keys goes to one
    /// partition, the next in turn. With a context, the records carry CloudEvents headers.
    ///
    /// # Errors
    /// If one of them cannot be written; then none was sent.
    pub fn send(&self, events: &[E], context: Option<&Context>) -> Result<Pending, AppendError> {
        events.iter().try_for_each(|event| self.check(event))?;
        self.hand_over(events.iter().map(|event| (event, context)))
    }

    /// Hands over events that each have a context of their own, in order.
    ///
    /// # Errors
    /// As [`Self::send`].
    pub fn send_each(&self, events: &[(E, Context)]) -> Result<Pending, AppendError> {
        events.iter().try_for_each(|(event, _)| self.check(event))?;
        self.hand_over(events.iter().map(|(event, context)| (event, Some(context))))
    }

    /// Like [`Self::send`] without a context, for events that [`Self::check`] has let through.
    pub(crate) fn send_checked(&self, events: &[E]) -> Result<Pending, AppendError> {
        self.hand_over(events.iter().map(|event| (event, None)))
    }

    fn hand_over<'e>(
        &self,
        events: impl ExactSizeIterator<Item = (&'e E, Option<&'e Context>)> + Clone,
    ) -> Result<Pending, AppendError> {
        let Some(encoder) = self.encoder.get() else {
            return Err(AppendError::NotRegistered(self.topic.clone()));
        };
        let mut values = Vec::new();
        let mut ends = Vec::with_capacity(events.len());
        for (event, _) in events.clone() {
            encoder.encode(event, &mut values).map_err(refused)?;
            ends.push(values.len());
        }
        let next = self.next_partition();
        let mut headers = Headers::new(E::TOPIC.name);
        let records = events.enumerate().map(|(index, (event, context))| {
            let start = if index == 0 { 0 } else { ends[index - 1] };
            let key = event.key().map(str::as_bytes);
            Outgoing {
                topic: &self.topic,
                partition: key.map_or(next, |key| of_key(key, E::TOPIC.partitions)),
                key,
                value: &values[start..ends[index]],
                headers: context.map(|context| headers.of(event.kind(), context)),
            }
        });
        Ok(self.appender.append(records))
    }

    /// Whether an event can be appended at all, as far as it can be said now.
    ///
    /// # Errors
    /// [`AppendError::NotRegistered`], [`AppendError::Invalid`].
    pub fn check(&self, event: &E) -> Result<(), AppendError> {
        if !self.is_registered() {
            return Err(AppendError::NotRegistered(self.topic.clone()));
        }
        let faults = event.faults();
        if faults.is_empty() {
            return Ok(());
        }
        Err(AppendError::Invalid(faults))
    }

    /// The place of the last record of a batch that went to one partition.
    ///
    /// # Errors
    /// If any record of it failed; `Unknown` also if others of the batch are on the log.
    pub fn position(&self, outcome: Outcome) -> Result<Option<Position>, AppendError> {
        if let Some(error) = outcome.error.or(outcome.refusal) {
            if outcome.unknown > 0 || outcome.appended > 0 {
                return Err(AppendError::Unknown(error.to_string()));
            }
            return Err(AppendError::of_refusal(&error));
        }
        let (partition, offset) = outcome.last.last().copied().unwrap_or((0, -1));
        Ok((offset >= 0).then(|| Position {
            topic: self.topic.clone(),
            partition,
            offset,
        }))
    }

    fn next_partition(&self) -> i32 {
        let partitions = usize::try_from(E::TOPIC.partitions).expect("topics have partitions");
        let next = self.round.fetch_add(1, Ordering::Relaxed) % partitions;
        i32::try_from(next).expect("fewer than the partitions")
    }
}

/// The headers of a batch: CloudEvents 1.0, Kafka binding in binary mode. From one record to the next little but its id
/// changes; what does not is written once.
struct Headers<'c> {
    topic: &'static str,
    /// What the last record had, but for its id, with its context and kind.
    alike: Option<(&'c Context, &'static str, OwnedHeaders)>,
}

impl<'c> Headers<'c> {
    fn new(topic: &'static str) -> Self {
        Self { topic, alike: None }
    }

    /// Those of an event of this kind.
    fn of(&mut self, kind: &'static str, context: &'c Context) -> OwnedHeaders {
        let alike = match &self.alike {
            Some((of, named, headers)) if ptr::eq(*of, context) && *named == kind => {
                headers.clone()
            }
            _ => {
                let headers = self.without_id(kind, context);
                self.alike = Some((context, kind, headers.clone()));
                headers
            }
        };
        let mut buffer = Uuid::encode_buffer();
        let id = clock::event_id().hyphenated().encode_lower(&mut buffer);
        alike.insert(Header {
            key: "ce_id",
            value: Some(&*id),
        })
    }

    fn without_id(&self, kind: &str, context: &Context) -> OwnedHeaders {
        let kind = format!("millrace.{}.{kind}", self.topic);
        let time = jiff::Timestamp::from_millisecond(clock::now_ms())
            .unwrap_or_default()
            .to_string();
        let trace = context.trace.as_ref();
        let traceparent = trace.map(Trace::traceparent);
        let headers = [
            ("ce_specversion", Some("1.0")),
            (SOURCE.0, Some(SOURCE.1)),
            ("ce_type", Some(kind.as_str())),
            ("ce_time", Some(time.as_str())),
            ("content-type", Some("application/vnd.confluent.avro")),
            (TRACEPARENT, traceparent.as_deref()),
            (TRACESTATE, trace.and_then(Trace::tracestate)),
        ];
        let present = headers.iter().filter(|(_, value)| value.is_some());
        present.fold(
            OwnedHeaders::new_with_capacity(headers.len() + 1),
            |headers, &(key, value)| headers.insert(Header { key, value }),
        )
    }
}

fn refused(error: EncodeError) -> AppendError {
    match error {
        EncodeError::TooLarge { .. } => AppendError::TooLarge(error.to_string()),
        EncodeError::Schema(error) => AppendError::NotWritten(error.to_string()),
    }
}
