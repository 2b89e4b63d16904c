//! Records as they come from the log: a batch keeps all bytes in one buffer, so that a record costs no allocation.

use std::num::NonZeroU32;

use producers::{
    headers::headers,
    trace::{TRACEPARENT, TraceId},
    writer::SOURCE,
};
use projections::checkpoints::{Last, Span};
use rdkafka::{
    Message,
    message::{BorrowedMessage, Timestamp},
};
use sha2::{Digest as _, Sha256};

/// The end of the year 9999: a writer may stamp its records with anything, and Postgres has no times far beyond.
pub(crate) const TIME_MS_MAX: i64 = 253_402_300_799_999;

/// Records of one topic, in log order within each partition.
#[derive(Debug, Default)]
pub struct Batch {
    /// Counts the assignments of the consumer; a batch of an earlier one is out of date.
    pub epoch: u64,
    /// What the batch covers, a span a partition, sorted.
    pub spans: Vec<Span>,
    /// Of each span, the place of its last record, if it has one.
    lasts: Vec<Option<usize>>,
    bytes: Vec<u8>,
    records: Vec<Place>,
    /// Those that records name; as a rule many in a row name the same.
    traces: Vec<TraceId>,
}

/// A record within the buffer: kept small, since there are some hundred thousand of them.
#[derive(Debug)]
struct Place {
    offset: i64,
    timestamp_ms: i64,
    /// Where its key begins, and then its value.
    start: u32,
    key: Length,
    value: Length,
    partition: i32,
    /// The number of its trace, from one on.
    trace: Option<NonZeroU32>,
    is_ours: bool,
    is_stamped: bool,
}

/// The length of a key or value in bytes; `u32::MAX` is none, which is something else than empty.
#[derive(Debug, Clone, Copy)]
struct Length(u32);

impl Length {
    fn of(bytes: Option<&[u8]>) -> Self {
        Self(bytes.map_or(u32::MAX, |bytes| small(bytes.len())))
    }

    /// Splits what is there off the front.
    fn take<'b>(self, bytes: &mut &'b [u8]) -> Option<&'b [u8]> {
        if self.0 == u32::MAX {
            return None;
        }
        let (taken, rest) = bytes.split_at(self.0 as usize);
        *bytes = rest;
        Some(taken)
    }
}

/// A place in a batch, which takes some megabytes.
fn small(index: usize) -> u32 {
    u32::try_from(index).expect("a batch is far smaller than 4 GiB")
}

/// A record as it came: nothing is known of its bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// A time that Postgres has, too.
pub fn valid_time(time_ms: Option<i64>) -> i64 {
    time_ms.unwrap_or(0).clamp(0, TIME_MS_MAX)
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
        let time = record.timestamp();
        Self {
            partition: record.partition(),
            offset: record.offset(),
            timestamp_ms: valid_time(time.to_millis()),
            key: record.key(),
            value: record.payload(),
            trace: None,
            is_ours: false,
            is_stamped: matches!(time, Timestamp::LogAppendTime(_)),
        }
    }

    /// SHA-256 of what it says and where it lies, to know the log again by. Headers take no part: for many records
    /// they are not looked at.
    pub fn fingerprint(&self) -> [u8; 32] {
        let mut digest = Sha256::new();
        digest.update(self.partition.to_be_bytes());
        digest.update(self.offset.to_be_bytes());
        digest.update(self.timestamp_ms.to_be_bytes());
        for bytes in [self.key, self.value] {
            // The length first, so that no two records run into one another; none has another length than empty.
            let length = bytes.map_or(-1, |bytes| i64::try_from(bytes.len()).unwrap_or(i64::MAX));
            digest.update(length.to_be_bytes());
            digest.update(bytes.unwrap_or_default());
        }
        digest.finalize().into()
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

    /// Whether it covers nothing; offsets without a record count.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }

    /// How many bytes their keys and values take.
    pub fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// About how much memory it takes, in bytes.
    pub fn memory(&self) -> usize {
        size_of::<Self>()
            + self.spans.len() * (size_of::<Span>() + size_of::<Option<usize>>())
            + self.bytes.len()
            + self.records.len() * size_of::<Place>()
            + self.traces.len() * size_of::<TraceId>()
    }

    /// The records in the order in which they came.
    pub fn iter(&self) -> impl Iterator<Item = Raw<'_>> {
        self.records.iter().map(|place| self.raw(place))
    }

    fn raw(&self, place: &Place) -> Raw<'_> {
        let mut bytes = &self.bytes[place.start as usize..];
        Raw {
            partition: place.partition,
            offset: place.offset,
            timestamp_ms: place.timestamp_ms,
            key: place.key.take(&mut bytes),
            value: place.value.take(&mut bytes),
            trace: self.trace(place),
            is_ours: place.is_ours,
            is_stamped: place.is_stamped,
        }
    }

    fn trace(&self, place: &Place) -> Option<TraceId> {
        let number = place.trace?.get();
        Some(self.traces[number as usize - 1])
    }

    /// Notes the last record of each span, to know the log again by; once all records are here.
    pub fn seal(&mut self) {
        for index in 0..self.spans.len() {
            let Some(last) = self.lasts[index] else {
                continue;
            };
            let raw = self.raw(&self.records[last]);
            self.spans[index].last = Some(Last {
                offset: raw.offset,
                fingerprint: raw.fingerprint(),
            });
        }
    }

    /// The trace of a record, if the record is here and names one.
    pub fn trace_of(&self, partition: i32, offset: i64) -> Option<TraceId> {
        let is_it = |place: &&Place| (place.partition, place.offset) == (partition, offset);
        self.trace(self.records.iter().find(is_it)?)
    }

    /// Adds a record; `from` is where its partition goes on, at or before its offset (a log may have gaps).
    pub fn push(&mut self, record: Raw<'_>, from: i64) {
        let place = Place {
            partition: record.partition,
            offset: record.offset,
            timestamp_ms: record.timestamp_ms,
            start: small(self.bytes.len()),
            key: Length::of(record.key),
            value: Length::of(record.value),
            trace: record.trace.and_then(|trace| self.number_of(trace)),
            is_ours: record.is_ours,
            is_stamped: record.is_stamped,
        };
        for bytes in [record.key, record.value].into_iter().flatten() {
            self.bytes.extend_from_slice(bytes);
        }
        let index_of_record = self.records.len();
        self.records.push(place);
        let index = self.span_from(record.partition, from);
        self.lasts[index] = Some(index_of_record);
        let span = &mut self.spans[index];
        span.to = record.offset + 1;
        span.record_at_ms = span.record_at_ms.max(record.timestamp_ms);
    }

    /// Covers what follows in a partition up to before `to` and is no record, such as a marker of a transaction; `from`
    /// is where the partition goes on.
    pub fn pass(&mut self, partition: i32, from: i64, to: i64) {
        let index = self.span_from(partition, from);
        self.spans[index].to = to;
    }

    /// The index of the span of a partition; one that is new begins here.
    fn span_from(&mut self, partition: i32, from: i64) -> usize {
        let spans = &self.spans;
        let found = spans.binary_search_by_key(&partition, |span| span.partition);
        found.unwrap_or_else(|index| {
            let span = Span {
                partition,
                from,
                to: from,
                record_at_ms: 0,
                last: None,
            };
            self.spans.insert(index, span);
            self.lasts.insert(index, None);
            index
        })
    }

    /// Whether the other was read next under the same assignment.
    pub fn is_continued_by(&self, next: &Self) -> bool {
        let goes_on = |span: &Span| {
            self.span(span.partition)
                .is_none_or(|before| before.to == span.from)
        };
        self.epoch == next.epoch && next.spans.iter().all(goes_on)
    }

    /// Adds a batch that continues this one. The whole is sealed.
    pub fn append(&mut self, next: &Self) {
        for raw in next.iter() {
            let span = next.span(raw.partition).expect("every record has one");
            self.push(raw, span.from);
        }
        for span in &next.spans {
            self.pass(span.partition, span.from, span.to);
        }
        self.seal();
    }

    /// Cuts it in two: what lies before these offsets, one a partition, and what does not. Both are sealed.
    pub fn split(self, until: impl Fn(i32) -> i64) -> (Self, Self) {
        let nothing = Self::of_epoch(self.epoch);
        let mut spans = self.spans.iter();
        if spans.all(|span| span.to <= until(span.partition)) {
            return (self, nothing);
        }
        let mut spans = self.spans.iter();
        if spans.all(|span| span.from >= until(span.partition)) {
            return (nothing, self);
        }
        let mut before = Self::of_epoch(self.epoch);
        let mut after = Self::of_epoch(self.epoch);
        let middle = |span: &Span| until(span.partition).clamp(span.from, span.to);
        for raw in self.iter() {
            let span = self.span(raw.partition).expect("every record has one");
            if raw.offset < middle(span) {
                before.push(raw, span.from);
            } else {
                after.push(raw, middle(span));
            }
        }
        for span in &self.spans {
            if span.from < middle(span) {
                before.pass(span.partition, span.from, middle(span));
            }
            if middle(span) < span.to {
                after.pass(span.partition, middle(span), span.to);
            }
        }
        before.seal();
        after.seal();
        (before, after)
    }

    fn span(&self, partition: i32) -> Option<&Span> {
        self.spans.iter().find(|span| span.partition == partition)
    }

    /// The number of a trace, which is new or that of the record before.
    fn number_of(&mut self, trace: TraceId) -> Option<NonZeroU32> {
        if self.traces.last() != Some(&trace) {
            self.traces.push(trace);
        }
        NonZeroU32::new(small(self.traces.len()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn raw<'a>(partition: i32, offset: i64, key: Option<&'a str>, value: &'a str) -> Raw<'a> {
        Raw {
            partition,
            offset,
            timestamp_ms: 5,
            key: key.map(str::as_bytes),
            value: Some(value.as_bytes()),
            trace: None,
            is_ours: false,
            is_stamped: false,
        }
    }

    fn trace(number: u64) -> Option<TraceId> {
        TraceId::of_traceparent(format!("00-{number:032x}-{number:016x}-01").as_bytes())
    }

    #[test]
    fn a_batch_gives_records_as_they_came() {
        let mut batch = Batch::of_epoch(1);
        let texts = [None, Some(""), Some("ab")].map(|text| text.map(str::as_bytes));
        let mut came = Vec::new();
        for (n, trace) in (0..).zip([None, trace(1), trace(1), None, trace(2), trace(1)]) {
            for (key, value) in texts
                .iter()
                .flat_map(|key| texts.map(|value| (*key, value)))
            {
                came.push(Raw {
                    key,
                    value,
                    trace,
                    is_ours: n % 2 == 0,
                    is_stamped: n % 3 == 0,
                    ..raw(1, i64::try_from(came.len()).unwrap(), None, "")
                });
            }
        }
        for raw in &came {
            batch.push(*raw, raw.offset);
        }
        assert_eq!(batch.iter().collect::<Vec<_>>(), came);
        assert!(
            came.iter()
                .all(|raw| batch.trace_of(1, raw.offset) == raw.trace)
        );
    }

    #[test]
    fn another_record_has_another_fingerprint() {
        let known = raw(1, 7, Some("ab"), "c");
        assert_eq!(known.fingerprint(), known.fingerprint());
        let others = [
            raw(2, 7, Some("ab"), "c"),
            raw(1, 8, Some("ab"), "c"),
            raw(1, 7, Some("a"), "bc"),
            raw(1, 7, Some(""), "c"),
            raw(1, 7, None, "c"),
            Raw {
                timestamp_ms: 6,
                ..known
            },
            Raw {
                value: None,
                ..known
            },
        ];
        let mut all: Vec<_> = others.iter().map(Raw::fingerprint).collect();
        all.push(known.fingerprint());
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), others.len() + 1);
    }

    #[test]
    fn a_batch_knows_the_last_record_of_each_partition() {
        let mut batch = Batch::of_epoch(1);
        let records = [
            raw(3, 4, None, "a"),
            raw(0, 9, None, "b"),
            raw(3, 6, None, "c"),
            raw(1, 0, None, "d"),
            raw(0, 12, None, "e"),
        ];
        records.iter().for_each(|raw| batch.push(*raw, raw.offset));
        batch.seal();
        let lasts: Vec<_> = batch.spans.iter().map(|span| span.last.unwrap()).collect();
        let wanted = [&records[4], &records[3], &records[2]];
        let wanted = wanted.map(|raw| Last {
            offset: raw.offset,
            fingerprint: raw.fingerprint(),
        });
        assert_eq!(lasts, wanted);
    }

    proptest! {
        #[test]
        fn a_batch_that_is_cut_covers_the_same_and_can_be_joined_again(
            steps in prop::collection::vec((0..3, 1..3_i64), 1..40),
            passed in prop::array::uniform3(0..3_i64),
            until in prop::array::uniform3(0..40_i64),
        ) {
            let mut next = [0; 3];
            let (mut batch, mut count) = (Batch::of_epoch(7), 0);
            for (partition, step) in steps {
                let at = &mut next[usize::try_from(partition).unwrap()];
                // Offsets may have gaps.
                let offset = *at + step - 1;
                let (key, value) = (format!("{count}"), format!("{count}, {step}"));
                let record = Raw {
                    timestamp_ms: offset * 3,
                    trace: trace(u64::try_from(step).unwrap()),
                    is_ours: step == 1,
                    ..raw(partition, offset, (step == 2).then_some(&*key), &value)
                };
                batch.push(record, *at);
                (*at, count) = (offset + 1, count + 1);
            }
            for (partition, (from, more)) in (0..).zip(next.into_iter().zip(passed)) {
                if more > 0 {
                    batch.pass(partition, from, from + more);
                }
            }
            let of = |p: i32| until[usize::try_from(p).unwrap()];
            batch.seal();
            // Partitions may change places among one another.
            let told = |batch: &Batch| {
                let mut records: Vec<_> = batch.iter().map(|raw| format!("{raw:?}")).collect();
                records.sort_unstable();
                records
            };
            let records = told(&batch);
            let spans = batch.spans.clone();
            let (before, after) = batch.split(of);
            prop_assert_eq!(before.len() + after.len(), count);
            prop_assert!(before.iter().all(|raw| raw.offset < of(raw.partition)));
            prop_assert!(after.iter().all(|raw| raw.offset >= of(raw.partition)));
            for span in &spans {
                let part = |batch: &Batch| batch.span(span.partition).copied();
                let (first, second) = (part(&before), part(&after));
                prop_assert_eq!(first.or(second).map(|span| span.from), Some(span.from));
                prop_assert_eq!(second.or(first).map(|span| span.to), Some(span.to));
                if let (Some(first), Some(second)) = (first, second) {
                    prop_assert_eq!((first.to, second.from), (of(span.partition), of(span.partition)));
                }
            }
            let mut joined = before;
            prop_assert!(joined.is_continued_by(&after));
            joined.append(&after);
            prop_assert_eq!(told(&joined), records);
            for partition in 0..3 {
                let offsets = joined.iter().filter(|raw| raw.partition == partition);
                prop_assert!(offsets.map(|raw| raw.offset).is_sorted());
            }
            prop_assert_eq!(joined.spans, spans);
        }
    }
}
