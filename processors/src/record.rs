//! Records as they come from the log: a batch keeps all bytes in one buffer, so that a record costs no allocation.

use std::ops::Range;

use producers::{
    headers::headers,
    trace::{TRACEPARENT, TraceId},
    writer::SOURCE,
};
use projections::checkpoints::Span;
use rdkafka::{
    Message,
    message::{BorrowedMessage, Timestamp},
};

/// The end of the year 9999: a writer may stamp its records with anything, and Postgres has no times far beyond.
const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// Records of one topic, in log order within each partition.
#[derive(Debug, Default)]
pub struct Batch {
    /// Counts the assignments of the consumer; a batch of an earlier one is out of date.
    pub epoch: u64,
    /// What the batch covers, a span a partition, sorted.
    pub spans: Vec<Span>,
    bytes: Vec<u8>,
    records: Vec<Place>,
}

/// A record within the buffer.
#[derive(Debug)]
struct Place {
    partition: i32,
    offset: i64,
    timestamp_ms: i64,
    key: Option<Range<usize>>,
    value: Option<Range<usize>>,
    trace: Option<TraceId>,
    is_ours: bool,
    is_stamped: bool,
}

/// A record as it came: nothing is known of its bytes.
#[derive(Debug, Clone, Copy)]
pub struct Raw<'a> {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// When it was written, by the clock that the topic goes by; milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
    /// The key.
    pub key: Option<&'a [u8]>,
    /// The value.
    pub value: Option<&'a [u8]>,
    /// The trace that its headers name.
    pub trace: Option<TraceId>,
    /// Whether its headers say that it is one of ours.
    pub is_ours: bool,
    /// Whether its time is that of the broker.
    pub is_stamped: bool,
}

/// A record with its event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<E> {
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// When it was written, milliseconds since 1970-01-01T00:00:00Z.
    pub timestamp_ms: i64,
    /// What it says.
    pub event: E,
}

impl<'a> Raw<'a> {
    /// A record as the client has it.
    pub fn of(record: &'a BorrowedMessage<'_>) -> Self {
        let mut raw = Self::without_headers(record);
        raw.look_at_headers(record);
        raw
    }

    /// Notes what the headers say: for many records that is half of the work, and few need it.
    pub fn look_at_headers(&mut self, record: &BorrowedMessage<'_>) {
        for (name, value) in headers(record) {
            if name == TRACEPARENT.as_bytes() {
                self.trace = self.trace.or_else(|| TraceId::of_traceparent(value?));
            }
            self.is_ours |= name == SOURCE.0.as_bytes() && value == Some(SOURCE.1.as_bytes());
        }
    }

    /// A record as the client has it, but for what its headers say.
    pub fn without_headers(record: &'a BorrowedMessage<'_>) -> Self {
        Self {
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: record
                .timestamp()
                .to_millis()
                .unwrap_or(0)
                .clamp(0, TIME_MS_MAX),
            key: record.key(),
            value: record.payload(),
            trace: None,
            is_ours: false,
            is_stamped: matches!(record.timestamp(), Timestamp::LogAppendTime(_)),
        }
    }
}

impl Batch {
    /// An empty batch of this assignment.
    pub fn of_epoch(epoch: u64) -> Self {
        Self {
            epoch,
            ..Self::default()
        }
    }

    /// How many records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// How many bytes their keys and values take.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// The records in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = Raw<'_>> {
        let bytes = |range: &Option<Range<usize>>| range.clone().map(|range| &self.bytes[range]);
        self.records.iter().map(move |place| Raw {
            partition: place.partition,
            offset: place.offset,
            timestamp_ms: place.timestamp_ms,
            key: bytes(&place.key),
            value: bytes(&place.value),
            trace: place.trace,
            is_ours: place.is_ours,
            is_stamped: place.is_stamped,
        })
    }

    /// The trace of a record, if the record is here and names one.
    pub fn trace_of(&self, partition: i32, offset: i64) -> Option<TraceId> {
        let is_it = |place: &&Place| (place.partition, place.offset) == (partition, offset);
        self.records.iter().find(is_it)?.trace
    }

    /// Adds a record; `from` is where its partition goes on, at or before its offset (a log may have gaps).
    pub fn push(&mut self, record: Raw<'_>, from: i64) {
        let place = Place {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            key: self.copy(record.key),
            value: self.copy(record.value),
            trace: record.trace,
            is_ours: record.is_ours,
            is_stamped: record.is_stamped,
        };
        self.records.push(place);
        let to = record.offset + 1;
        match self
            .spans
            .binary_search_by_key(&record.partition, |span| span.partition)
        {
            Ok(index) => {
                let span = &mut self.spans[index];
                span.to = to;
                span.record_at_ms = span.record_at_ms.max(record.timestamp_ms);
            }
            Err(index) => self.spans.insert(
                index,
                Span {
                    partition: record.partition,
                    from,
                    to,
                    record_at_ms: record.timestamp_ms,
                },
            ),
        }
    }

    fn copy(&mut self, bytes: Option<&[u8]>) -> Option<Range<usize>> {
        let bytes = bytes?;
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        Some(start..self.bytes.len())
    }
}
