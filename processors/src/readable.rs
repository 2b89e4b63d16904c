//! Whether this build can read what is on the log: every record of a topic, from the first to the last.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail};
use producers::kafka::Kafka;
use schemas::{
    clicks::BannerClicked,
    codec::{DecodeError, Decoder, LearnError},
    event::Event,
    orders::OrderPlaced,
    registry::Registry,
    sale_attempts::CheckoutRefused,
    sale_rules::SaleRulesSet,
    sales::SaleEvent,
    segments::SegmentEvent,
    topics::Topic,
    users::UserEvent,
};
use tokio::runtime::Handle;

use crate::inspect::{self, Extent, Log};

/// Every topic, and how its records are read.
pub static READERS: &[(&Topic, Reader)] = &[
    (BannerClicked::TOPIC, read::<BannerClicked>),
    (OrderPlaced::TOPIC, read::<OrderPlaced>),
    (UserEvent::TOPIC, read::<UserEvent>),
    (SegmentEvent::TOPIC, read::<SegmentEvent>),
    (SaleEvent::TOPIC, read::<SaleEvent>),
    (SaleRulesSet::TOPIC, read::<SaleRulesSet>),
    (CheckoutRefused::TOPIC, read::<CheckoutRefused>),
];

/// How long one look for records takes, and how long they may stay away.
const WAIT: Duration = Duration::from_millis(100);
const PATIENCE: Duration = Duration::from_secs(30);

/// Reads a topic up to where it ends now; blocks. Is told how many offsets it has passed, and of how many.
///
/// # Errors
/// If broker or registry do not answer.
pub type Reader = fn(&Kafka, &Registry, &Handle, &dyn Fn(u64, u64)) -> Result<Found>;

/// What a topic holds.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Found {
    /// Records.
    pub records: u64,
    /// Of these, what no build could read: not in the wire format, or with a schema that is not the topic's.
    pub strays: u64,
    /// Of these, what was written as an event of the topic, and cannot be read by this build.
    pub unreadable: u64,
    /// Of these, the first, by partition and offset.
    pub first_unreadable: Option<Unreadable>,
}

/// An event that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Where it stands.
    pub partition: i32,
    /// Where it stands.
    pub offset: i64,
    /// What is wrong with it.
    pub why: String,
}

fn read<E: Event>(
    kafka: &Kafka,
    registry: &Registry,
    runtime: &Handle,
    progress: &dyn Fn(u64, u64),
) -> Result<Found> {
    let topic = E::TOPIC.full_name(&kafka.prefix);
    let log = Log::with(&Arc::new(inspect::consumer(kafka)?), &topic)?;
    let extents = log.extents()?;
    let of = extents.iter().map(|extent| extent.records().unsigned_abs());
    let of = of.sum();
    let places: Vec<_> = extents
        .iter()
        .map(|extent| (extent.partition, extent.first_offset))
        .collect();
    let mut reading = log.read(&places)?;
    let mut scan = Scan::<E> {
        decoder: Decoder::new(&topic),
        registry,
        runtime,
        too_new: HashMap::new(),
        found: Found::default(),
    };
    let (mut passed, mut since) = (0, Instant::now());
    while passed < of {
        let mut outcome = Ok(());
        reading.visit(WAIT, |raw, _| {
            let extent = extents.iter().find(|e| e.partition == raw.partition);
            // What was written meanwhile is for the next time.
            if outcome.is_ok() && extent.is_some_and(|extent| raw.offset < extent.end_offset) {
                outcome = scan.see(raw.partition, raw.offset, raw.value);
            }
        })?;
        outcome?;
        let reached = |extent: &Extent| {
            let reached = reading.reached(extent.partition).min(extent.end_offset);
            (reached - extent.first_offset).unsigned_abs()
        };
        let reached = extents.iter().map(reached).sum();
        if reached > passed {
            (passed, since) = (reached, Instant::now());
        } else if since.elapsed() > PATIENCE {
            bail!("{topic} gives no more records after {passed} of {of}: is the broker well?");
        }
        progress(passed, of);
    }
    Ok(scan.found)
}

struct Scan<'a, E> {
    decoder: Decoder<E>,
    registry: &'a Registry,
    runtime: &'a Handle,
    /// Schema ids that need a newer build, and why.
    too_new: HashMap<u32, String>,
    found: Found,
}

impl<E: Event> Scan<'_, E> {
    fn see(&mut self, partition: i32, offset: i64, value: Option<&[u8]>) -> Result<()> {
        self.found.records += 1;
        let why = match self.judge(value)? {
            Judged::Event => return Ok(()),
            Judged::Stray => {
                self.found.strays += 1;
                return Ok(());
            }
            Judged::Unreadable(why) => why,
        };
        self.found.unreadable += 1;
        let first = self.found.first_unreadable.as_ref();
        if first.is_none_or(|first| (partition, offset) < (first.partition, first.offset)) {
            self.found.first_unreadable = Some(Unreadable {
                partition,
                offset,
                why,
            });
        }
        Ok(())
    }

    fn judge(&mut self, value: Option<&[u8]>) -> Result<Judged> {
        let Some(value) = value else {
            return Ok(Judged::Stray);
        };
        loop {
            let id = match self.decoder.decode(value) {
                Ok(_) => return Ok(Judged::Event),
                Err(DecodeError::NotLearned(id)) => id,
                Err(
                    DecodeError::Frame(_)
                    | DecodeError::NoSuchSchema(_)
                    | DecodeError::ForeignSchema { .. },
                ) => return Ok(Judged::Stray),
                Err(why @ (DecodeError::Malformed { .. } | DecodeError::HostileSchema { .. })) => {
                    return Ok(Judged::Unreadable(why.to_string()));
                }
            };
            if let Some(why) = self.too_new.get(&id) {
                return Ok(Judged::Unreadable(why.clone()));
            }
            match self.runtime.block_on(self.decoder.learn(self.registry, id)) {
                Err(why @ LearnError::NewerBuildNeeded { .. }) => {
                    self.too_new.insert(id, why.to_string());
                }
                learned => drop(learned?),
            }
        }
    }
}

enum Judged {
    Event,
    Stray,
    Unreadable(String),
}
