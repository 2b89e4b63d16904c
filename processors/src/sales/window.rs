//! Reading the part of the log that the state of the sale depends on. Everything here blocks, for a bounded time; run
//! it where that is allowed.
//!
//! A fold may start anywhere before the window of its own time: see [`window_start_ms`]. Where that is cannot be known
//! before reading. So it is guessed from the time of the newest record, never from a clock of this machine, and proved
//! afterwards: a start is legal if a request that counts was read, and reading began at or before the window of the
//! time that it led to. Else it begins earlier, at the beginning of the log at worst.

use std::{
    collections::{HashMap, hash_map::Entry},
    panic::resume_unwind,
    sync::{
        Arc,
        mpsc::{self, SyncSender},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, anyhow, bail};
use producers::kafka::Kafka;
use rdkafka::{consumer::BaseConsumer, message::BorrowedMessage};
use schemas::{
    codec::Decoder,
    event::Event,
    registry::Registry,
    sale_rules::SaleRulesSet,
    sales::{SaleEvent, SaleId},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::{
    Assumed, HOUR_MS, Ledger, Passed, RuleBook, RulesMissing, start::Start, window_start_ms,
};
use crate::{
    inspect::{self, Log},
    interpret::{Failure, Learns, Rejected, interpret, interpret_learning},
    record::{Raw, Record},
};

/// How long the broker may stay silent while there is more to read.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often it is looked whether to stop.
const WAIT: Duration = Duration::from_millis(100);
/// Chunks of records that were polled and are not folded yet.
const CHUNKS_MAX: usize = 8;
/// Looked back for the newest record: offsets may have gaps at their end.
const LOOK_BACK: [i64; 3] = [1, 1_000, 1_000_000];
/// A time is looked up this much earlier: reading too much is always legal.
const MARGIN_MS: i64 = 1_000;

/// Reads the topics of the sale.
pub struct Window {
    kafka: Kafka,
    registry: Registry,
    runtime: Handle,
    stop: CancellationToken,
    events: Decoder<SaleEvent>,
    rules: Decoder<SaleRulesSet>,
    /// By the names of their topics. To make one and to meet the broker takes longer than to read a few records.
    consumers: HashMap<&'static str, Arc<BaseConsumer>>,
}

impl Window {
    /// A reader of this installation's topics, until `stop`. The runtime is for what is asked of the registry.
    pub fn new(
        kafka: &Kafka,
        registry: &Registry,
        runtime: Handle,
        stop: CancellationToken,
    ) -> Self {
        Self {
            events: Decoder::new(&SaleEvent::TOPIC.full_name(&kafka.prefix)),
            rules: Decoder::new(&SaleRulesSet::TOPIC.full_name(&kafka.prefix)),
            kafka: kafka.clone(),
            registry: registry.clone(),
            runtime,
            stop,
            consumers: HashMap::new(),
        }
    }

    /// Leaves the broker until the next reading.
    pub fn leave(&mut self) {
        self.consumers.clear();
    }

    /// Where the log of the sale ends.
    ///
    /// # Errors
    /// If the broker does not answer or has no such topic.
    pub fn end(&mut self) -> Result<i64> {
        Ok(self.log::<SaleEvent>()?.extent(0)?.end_offset)
    }

    /// What has to be read to know a sale, as offsets: from where a fold may begin that is to decide it, until where a
    /// record was stamped after its end, if there is one, or else until the end of the log.
    ///
    /// # Errors
    /// As [`Self::end`].
    pub fn of_sale(&mut self, sale: SaleId) -> Result<(i64, i64)> {
        let log = self.log::<SaleEvent>()?;
        let extent = log.extent(0)?;
        let at = |at_ms| offset_at(&log, at_ms, extent.first_offset, extent.end_offset);
        // No sale is longer than an hour.
        let over_ms = sale.starts_at_ms() + HOUR_MS + 2 * MARGIN_MS;
        Ok((at(window_start_ms(sale.starts_at_ms()))?, at(over_ms)?))
    }

    /// The state after everything before the offset `until`, which the log has.
    ///
    /// # Errors
    /// If broker or registry do not answer, or the log is not what it has to be.
    pub fn ledger_at(&mut self, until: i64) -> Result<Ledger> {
        let log = self.log::<SaleEvent>()?;
        let first_offset = log.extent(0)?.first_offset;
        let truncated = || {
            anyhow!(
                "{} begins at offset {first_offset}: what was sold before is lost, and would be sold again",
                log.topic
            )
        };
        let Some(newest_ms) = stamp_before(&log, first_offset, until)? else {
            if first_offset > 0 {
                return Err(truncated());
            }
            return self.fold(0, until, |_, _| ());
        };
        let mut start = Start::guessed(newest_ms);
        loop {
            let from_offset = offset_at(&log, start.from_ms, first_offset, until)?;
            let (ledger, assumed) = self.fold_assuming(from_offset, until)?;
            let last_ms = ledger.sales.last_ms();
            if from_offset == 0 || start.is_legal(last_ms) {
                let needed_ms = last_ms.map_or(i64::MIN, window_start_ms);
                match assumed.filter(|assumed| assumed.at_ms >= needed_ms) {
                    None => return Ok(ledger),
                    Some(assumed) => {
                        let mut book = ledger.book;
                        self.read_missing_rules(&mut book, assumed.missing)?;
                    }
                }
                continue;
            }
            if from_offset == first_offset {
                return Err(truncated());
            }
            let before_ms = stamp_before(&log, first_offset, from_offset)?;
            start = start.earlier(last_ms, before_ms);
        }
    }

    /// Folds what lies from one offset up to before the other, into an empty state. Of the rules that were missing,
    /// those for the latest time: a record from before the window may ask for some that nobody ever set.
    fn fold_assuming(&mut self, from: i64, until: i64) -> Result<(Ledger, Option<Assumed>)> {
        let mut ledger = self.empty_ledger(from)?;
        let mut assumed = None;
        self.visit(ledger.next_offset(), until, |window, raw| {
            if let Some(record) = window.event(raw)? {
                assumed = ledger.fold_assuming(&record).1.or(assumed);
            }
            Ok(())
        })?;
        ledger.pass(until);
        Ok((ledger, assumed))
    }

    /// Folds what lies from one offset up to before the other, into an empty state; `seen` is shown every event.
    ///
    /// # Errors
    /// As [`Self::ledger_at`].
    pub fn fold(
        &mut self,
        from: i64,
        until: i64,
        seen: impl FnMut(&Record<SaleEvent>, Passed),
    ) -> Result<Ledger> {
        let mut ledger = self.empty_ledger(from)?;
        self.go_on(&mut ledger, until, seen)?;
        Ok(ledger)
    }

    /// An empty state, with all rules that there are.
    fn empty_ledger(&mut self, from: i64) -> Result<Ledger> {
        let mut book = RuleBook::default();
        self.read_rules(&mut book)?;
        Ok(Ledger::starting_at(from, book))
    }

    /// Folds what comes next, up to before the offset `until`; `seen` is shown every event.
    ///
    /// # Errors
    /// As [`Self::ledger_at`].
    pub fn go_on(
        &mut self,
        ledger: &mut Ledger,
        until: i64,
        mut seen: impl FnMut(&Record<SaleEvent>, Passed),
    ) -> Result<()> {
        self.visit(ledger.next_offset(), until, |window, raw| {
            if let Some((record, passed)) = window.fold_next(ledger, raw)? {
                seen(&record, passed);
            }
            Ok(())
        })?;
        ledger.pass(until);
        Ok(())
    }

    /// Shows the records of the log of the sale that lie from one offset up to before the other.
    fn visit(
        &mut self,
        from: i64,
        until: i64,
        mut each: impl FnMut(&mut Self, &Raw<'_>) -> Result<()>,
    ) -> Result<()> {
        let log = self.log::<SaleEvent>()?;
        self.read(&log, from, until, &mut |window, raw| {
            if raw.offset < until {
                each(window, raw)?;
            }
            Ok(())
        })
    }

    /// Folds the next record; its event and what became of it, unless it holds none or was folded before.
    ///
    /// # Errors
    /// As [`Self::event`] and [`Self::read_missing_rules`].
    pub fn fold_next(
        &mut self,
        ledger: &mut Ledger,
        raw: &Raw<'_>,
    ) -> Result<Option<(Record<SaleEvent>, Passed)>> {
        let Some(record) = self.event(raw)? else {
            ledger.pass(raw.offset + 1);
            return Ok(None);
        };
        loop {
            match ledger.fold(&record) {
                Ok(passed) => return Ok(passed.map(|passed| (record, passed))),
                Err(missing) => self.read_missing_rules(&mut ledger.book, missing)?,
            }
        }
    }

    /// Reads the rules that were set since.
    ///
    /// # Errors
    /// As [`Self::ledger_at`].
    pub fn read_rules(&mut self, book: &mut RuleBook) -> Result<()> {
        let log = self.log::<SaleRulesSet>()?;
        let end = log.extent(0)?.end_offset;
        let from = book.next_offset();
        self.read(&log, from, end, &mut |window, raw| {
            if let Some(record) = window.rules(raw)? {
                book.set(record.offset, record.event);
            }
            book.pass(raw.offset + 1);
            Ok(())
        })?;
        book.pass(end);
        Ok(())
    }

    /// Reads rules until those are there that a record names.
    ///
    /// # Errors
    /// As [`Self::ledger_at`]; and if they do not come.
    pub fn read_missing_rules(
        &mut self,
        book: &mut RuleBook,
        RulesMissing { rules_seen }: RulesMissing,
    ) -> Result<()> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            self.read_rules(book)?;
            if book.next_offset() >= rules_seen {
                return Ok(());
            }
            if self.stop.is_cancelled() {
                bail!("told to stop");
            }
            if Instant::now() >= deadline {
                bail!(
                    "a request of the sale names rules up to offset {rules_seen}, and {} ends at {}: it was truncated or made anew, or whoever wrote the request is not one of ours",
                    SaleRulesSet::TOPIC.full_name(&self.kafka.prefix),
                    book.next_offset()
                );
            }
            thread::sleep(WAIT);
        }
    }

    /// The event of a record; none if it is no valid one.
    ///
    /// # Errors
    /// If the registry does not answer, or a newer build is needed.
    pub fn event(&mut self, raw: &Raw<'_>) -> Result<Option<Record<SaleEvent>>> {
        must_be_stamped(raw)?;
        let mut reader = Reader {
            decoder: &mut self.events,
            registry: &self.registry,
            stop: &self.stop,
        };
        reader.event(&self.runtime, raw)
    }

    fn rules(&mut self, raw: &Raw<'_>) -> Result<Option<Record<SaleRulesSet>>> {
        let mut reader = Reader {
            decoder: &mut self.rules,
            registry: &self.registry,
            stop: &self.stop,
        };
        reader.event(&self.runtime, raw)
    }

    fn log<E: Event>(&mut self) -> Result<Log> {
        let consumer = match self.consumers.entry(E::TOPIC.name) {
            Entry::Occupied(known) => Arc::clone(known.get()),
            Entry::Vacant(place) => {
                Arc::clone(place.insert(Arc::new(inspect::consumer(&self.kafka)?)))
            }
        };
        Log::with(&consumer, &E::TOPIC.full_name(&self.kafka.prefix))
    }

    fn read(
        &mut self,
        log: &Log,
        from: i64,
        until: i64,
        each: &mut impl FnMut(&mut Self, &Raw<'_>) -> Result<()>,
    ) -> Result<()> {
        if from >= until {
            return Ok(());
        }
        // What the registry did not have last time it may have now.
        self.events.forget_refusals();
        self.rules.forget_refusals();
        let stop = self.stop.clone();
        thread::scope(|scope| {
            let (sender, chunks) = mpsc::sync_channel(CHUNKS_MAX);
            let polling = thread::Builder::new()
                .name("poll-window".to_owned())
                .spawn_scoped(scope, move || poll(log, from, until, &stop, &sender))?;
            let mut records = chunks.into_iter().flatten();
            let outcome = records.try_for_each(|record| {
                let mut raw = Raw::without_headers(&record);
                if !raw.value.is_some_and(|value| self.events.reads(value)) {
                    raw.look_at_headers(&record);
                }
                each(self, &raw)
            });
            // Who polls notices that nobody takes anything any more.
            drop(records);
            let polled = polling.join().unwrap_or_else(|panic| resume_unwind(panic));
            outcome.and(polled)
        })
    }
}

/// Reads up to before the offset `until`, for as long as somebody takes the records. Waiting for them to be taken does
/// not count.
fn poll<'l>(
    log: &'l Log,
    from: i64,
    until: i64,
    stop: &CancellationToken,
    taker: &SyncSender<Vec<BorrowedMessage<'l>>>,
) -> Result<()> {
    let mut reading = log.read(&[(0, from)])?;
    let (mut reached, mut since) = (from, Instant::now());
    while reached < until {
        if stop.is_cancelled() {
            bail!("told to stop");
        }
        let chunk = reading.chunk(WAIT)?;
        if !chunk.is_empty() && taker.send(chunk).is_err() {
            return Ok(());
        }
        if reading.reached(0) > reached {
            (reached, since) = (reading.reached(0), Instant::now());
        }
        if since.elapsed() > PATIENCE {
            bail!(
                "{} gives no more records at offset {reached} of {until}: is the broker well?",
                log.topic
            );
        }
    }
    Ok(())
}

/// A decoder with the way to the registry, until it is told to stop.
struct Reader<'w, E> {
    decoder: &'w mut Decoder<E>,
    registry: &'w Registry,
    stop: &'w CancellationToken,
}

impl<E: Event> Learns<E> for Reader<'_, E> {
    type End = anyhow::Error;

    fn decoder(&self) -> &Decoder<E> {
        self.decoder
    }

    async fn learn(&mut self, id: u32) -> Result<()> {
        tokio::select! {
            // First: a runtime that shuts down after that has no timers for the question any more.
            biased;
            () = self.stop.cancelled() => bail!("told to stop"),
            learned = self.decoder.learn(self.registry, id) => learned.map(drop).map_err(Into::into),
        }
    }
}

impl<E: Event> Reader<'_, E> {
    /// The event of a record, if it is one; waits for the registry if it has to.
    fn event(&mut self, runtime: &Handle, raw: &Raw<'_>) -> Result<Option<Record<E>>> {
        let read = match interpret(self.decoder, raw) {
            Ok(record) => return Ok(Some(record)),
            Err(Failure::Rejected(rejected)) => Err(rejected),
            Err(Failure::NotLearned(_)) => runtime.block_on(interpret_learning(self, raw))?,
        };
        match read {
            Ok(record) => Ok(Some(record)),
            Err(rejected) => no_event(raw, &rejected),
        }
    }
}

/// What to do about a record that is no event: it is passed over, unless it may be one after all.
///
/// # Errors
/// If it is one of ours: who does not count what the others have counted would decide otherwise.
pub fn no_event<T>(raw: &Raw<'_>, rejected: &Rejected) -> Result<Option<T>> {
    if raw.is_ours && rejected.is_by_registry() {
        bail!(
            "offset {} of the log of the sale is one of ours, and cannot be read: {}; the registry lost its data or is another one: point MILLRACE_REGISTRY_URL at the one that wrote this log",
            raw.offset,
            rejected.error
        );
    }
    Ok(None)
}

/// Demands that the broker has stamped a record.
///
/// # Errors
/// If its writer has: then the sale would go by the clocks of callers.
pub fn must_be_stamped(raw: &Raw<'_>) -> Result<()> {
    if raw.is_stamped {
        return Ok(());
    }
    bail!(
        "offset {} of the log of the sale has the time of its writer: the topic needs message.timestamp.type=LogAppendTime, and `millrace doctor` tells what else",
        raw.offset
    );
}

/// The time of the newest record before an offset; none if there is none.
fn stamp_before(log: &Log, first_offset: i64, until: i64) -> Result<Option<i64>> {
    for back in LOOK_BACK {
        let from = first_offset.max(until - back);
        if from >= until {
            return Ok(None);
        }
        let mut newest = None;
        let mut reading = log.read(&[(0, from)])?;
        let deadline = Instant::now() + PATIENCE;
        while reading.reached(0) < until {
            for record in reading.chunk(WAIT)? {
                let raw = Raw::without_headers(&record);
                if raw.offset < until {
                    newest = Some(raw.timestamp_ms);
                }
            }
            if Instant::now() >= deadline {
                bail!(
                    "{} does not give its newest record: is the broker well?",
                    log.topic
                );
            }
        }
        if newest.is_some() {
            return Ok(newest);
        }
    }
    Ok(None)
}

/// The offset of the first record that is not older than a time.
fn offset_at(log: &Log, from_ms: i64, first_offset: i64, until: i64) -> Result<i64> {
    let from_ms = from_ms - MARGIN_MS;
    if from_ms <= 0 {
        return Ok(first_offset);
    }
    let found = log.offsets_at(&[0], from_ms)?;
    Ok(found.get(&0).copied().flatten().unwrap_or(until).min(until))
}
