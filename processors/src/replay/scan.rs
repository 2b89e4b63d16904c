//! A pass over the log from its first record on. Everything here blocks; run it where that is allowed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use producers::kafka::Kafka;
use rdkafka::consumer::BaseConsumer;
use schemas::{codec::Decoder, event::Event, registry::Registry};
use tokio::runtime::Handle;

use super::Offsets;
use crate::{
    consumer::{Partitions, config},
    inspect::Log,
    interpret::{Failure, Rejected, interpret},
    record::{Raw, Record},
};

/// How long the broker may stay silent while there is more to read.
const PATIENCE: Duration = Duration::from_secs(30);
const WAIT: Duration = Duration::from_millis(100);

/// Who sees the records of a pass.
pub(super) trait Visitor {
    /// A record, in the order of its partition.
    ///
    /// # Errors
    /// Whatever ends the pass.
    fn see(&mut self, raw: &Raw<'_>) -> Result<()>;

    /// Now and then, after some records: whether to go on.
    ///
    /// # Errors
    /// Whatever ends the pass.
    fn goes_on(&mut self) -> Result<bool>;
}

/// Shows every record before these offsets.
///
/// # Errors
/// If the broker does not answer, or the visitor ends it.
pub(super) fn scan(
    kafka: &Kafka,
    topic: &str,
    until: &Offsets,
    visitor: &mut impl Visitor,
) -> Result<()> {
    let places: Vec<_> = until.iter().filter(|(_, until)| **until > 0).collect();
    if places.is_empty() {
        return Ok(());
    }
    let partitions = Partitions::All(i32::try_from(places.len())?);
    let consumer: BaseConsumer = config(kafka, &partitions).create()?;
    let log = Log::with(&Arc::new(consumer), topic)?;
    let from: Vec<_> = places
        .iter()
        .map(|(partition, _)| (**partition, 0))
        .collect();
    let mut reading = log.read(&from)?;
    let (mut came, mut since) = (0, Instant::now());
    loop {
        let mut outcome = Ok(());
        let before = came;
        reading.visit(WAIT, |raw, _| {
            came += 1;
            let is_wanted = until
                .get(&raw.partition)
                .is_some_and(|until| raw.offset < *until);
            if is_wanted && outcome.is_ok() {
                outcome = visitor.see(&raw);
            }
        })?;
        outcome?;
        let is_read = |(p, until): &(&i32, &i64)| reading.reached(**p) >= **until;
        if !visitor.goes_on()? || places.iter().all(is_read) {
            return Ok(());
        }
        if came > before {
            since = Instant::now();
        }
        if since.elapsed() > PATIENCE {
            bail!("{topic} gives no more records: is the broker well?");
        }
    }
}

/// Reads events where waiting is allowed.
pub(super) struct Events<E> {
    pub(super) decoder: Decoder<E>,
    registry: Registry,
    runtime: Handle,
    /// Ids that were learned, with their fingerprints.
    pub(super) learned: Vec<(u32, String)>,
}

impl<E: Event> Events<E> {
    pub(super) fn new(topic: &str, registry: &Registry) -> Self {
        Self {
            decoder: Decoder::new(topic),
            registry: registry.clone(),
            runtime: Handle::current(),
            learned: Vec::new(),
        }
    }

    /// The event of a record, or why it is none.
    pub(super) fn event(&mut self, raw: &Raw<'_>) -> Result<Result<Record<E>, Rejected>> {
        loop {
            match interpret(&self.decoder, raw) {
                Ok(record) => return Ok(Ok(record)),
                Err(Failure::Rejected(rejected)) => return Ok(Err(rejected)),
                Err(Failure::NotLearned(id)) => {
                    let learned = self.decoder.learn(&self.registry, id);
                    let fingerprint = self.runtime.block_on(learned)?;
                    self.learned.push((id, fingerprint));
                }
            }
        }
    }
}
