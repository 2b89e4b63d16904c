//! `millrace topics tail` and `millrace topics get`: records, decoded.

use std::{
    future::ready,
    pin::pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use processors::inspect::{Extent, Log, Reading, Seen};
use producers::{clock, partition::of_key};
use schemas::{
    inspect::{Inspected, Inspector},
    position::Position,
    topics::TOPICS,
};
use tokio::task::block_in_place;

use crate::{
    cli::{Connection, Start, TailArgs},
    output,
};

/// How long one look for new records takes.
const POLL: Duration = Duration::from_millis(100);
/// How long records that have to be there may stay away before the broker is asked about them.
const PATIENCE: Duration = Duration::from_secs(5);

pub async fn tail(connection: &Connection, args: &TailArgs, json: bool) -> Result<()> {
    let kafka = connection.kafka();
    let log = block_in_place(|| Log::open(&kafka, &args.topic))?;
    check_keyed(&log, &kafka.prefix, args)?;
    let parts = block_in_place(|| parts(&log, args))?;
    let mut tail = Tail {
        inspector: Inspector::new(connection.registry()?),
        args,
        json,
        scanned: 0,
        matched: 0,
    };
    let places: Vec<_> = parts
        .iter()
        .map(|part| (part.partition, part.from))
        .collect();
    let reading = block_in_place(|| log.read(&places))?;
    let outcome = tail.run(&log, reading, &parts).await;
    if let (Some(_), [part]) = (&args.key, &parts[..]) {
        output::note(format_args!(
            "scanned {} of {}/{}, {} matched",
            output::count(tail.scanned, "record"),
            log.topic,
            part.partition,
            output::grouped(tail.matched)
        ));
    }
    outcome
}

/// A key is looked for where Java's partitioner puts it; a topic without keys has none to find.
fn check_keyed(log: &Log, prefix: &str, args: &TailArgs) -> Result<()> {
    let known = TOPICS
        .iter()
        .find(|topic| topic.full_name(prefix) == log.topic);
    if args.key.is_some() && known.is_some_and(|topic| !topic.keyed) {
        bail!("the records of {} have no keys: leave --key out", log.topic);
    }
    Ok(())
}

/// What is to be read of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Part {
    partition: i32,
    from: i64,
    /// Where it ended when the command began.
    end: i64,
}

fn parts(log: &Log, args: &TailArgs) -> Result<Vec<Part>> {
    let extents = match &args.key {
        Some(key) => vec![log.extent(of_key(key.as_bytes(), log.partitions))?],
        None => log.extents()?,
    };
    let unless_told = if args.follow {
        Start::End
    } else {
        Start::Beginning
    };
    let start = args.from.unwrap_or(unless_told);
    let time_ms = match start {
        Start::Time(ms) => Some(ms),
        Start::Ago(ms) => Some(clock::now_ms().saturating_sub(ms)),
        _ => None,
    };
    let partitions: Vec<_> = extents.iter().map(|extent| extent.partition).collect();
    let at_time = match time_ms {
        Some(ms) => log.offsets_at(&partitions, ms.max(0))?,
        None => Default::default(),
    };
    let part = |extent: &Extent| Part {
        partition: extent.partition,
        from: from(
            start,
            *extent,
            at_time.get(&extent.partition).copied().flatten(),
        ),
        end: extent.end_offset,
    };
    Ok(extents.iter().map(part).collect())
}

/// Where to begin in a partition, never outside of it.
fn from(start: Start, extent: Extent, at_time: Option<i64>) -> i64 {
    let wanted = match start {
        Start::Beginning => extent.first_offset,
        Start::End => extent.end_offset,
        Start::Offset(offset) => offset,
        Start::Last(records) => extent.end_offset.saturating_sub(records),
        Start::Time(_) | Start::Ago(_) => at_time.unwrap_or(extent.end_offset),
    };
    wanted.clamp(extent.first_offset, extent.end_offset)
}

struct Tail<'a> {
    inspector: Inspector,
    args: &'a TailArgs,
    json: bool,
    scanned: u64,
    matched: u64,
}

impl Tail<'_> {
    async fn run(&mut self, log: &Log, mut reading: Reading<'_>, parts: &[Part]) -> Result<()> {
        let mut interrupted = pin!(tokio::signal::ctrl_c());
        let mut wait = Wait::new();
        loop {
            let open = parts
                .iter()
                .find(|part| reading.reached(part.partition) < part.end);
            let Some(open) = open.or(parts.first().filter(|_| self.args.follow)) else {
                return Ok(());
            };
            tokio::select! {
                biased;
                _ = &mut interrupted => return Ok(()),
                () = ready(()) => {}
            }
            let records = block_in_place(|| reading.next(POLL))?;
            if self.print(&records, parts).await? {
                return Ok(());
            }
            if !records.is_empty() || self.args.follow {
                wait = Wait::new();
            } else if wait.is_over(log, open)? {
                output::note(format_args!(
                    "{}/{} ends at {} and has no records from {} on that can be read",
                    log.topic,
                    open.partition,
                    open.end,
                    reading.reached(open.partition)
                ));
                return Ok(());
            }
        }
    }

    /// Prints what is wanted of these records; true if that was the last.
    async fn print(&mut self, records: &[Seen], parts: &[Part]) -> Result<bool> {
        let mut text = String::new();
        let mut done = false;
        for seen in records {
            if !self.args.follow && is_new(seen, parts) {
                continue;
            }
            self.scanned += 1;
            let key = self.args.key.as_ref().map(String::as_bytes);
            if key.is_some() && key != seen.key.as_deref() {
                continue;
            }
            self.matched += 1;
            let inspected = self.inspector.inspect(seen.value.as_deref()).await?;
            text.push_str(&row(seen, &inspected, self.json)?);
            text.push('\n');
            done = self
                .args
                .limit
                .is_some_and(|limit| self.matched >= limit as u64);
            if done {
                break;
            }
        }
        output::lines(&text)?;
        Ok(done)
    }
}

/// Whether it was written after the command began.
fn is_new(seen: &Seen, parts: &[Part]) -> bool {
    let part = parts.iter().find(|part| part.partition == seen.partition);
    part.is_none_or(|part| seen.offset >= part.end)
}

/// The wait for records that have to be there, if the log has no gap at its end.
struct Wait {
    since: Instant,
    asked: bool,
}

impl Wait {
    fn new() -> Self {
        Self {
            since: Instant::now(),
            asked: false,
        }
    }

    /// Whether the broker is there and still no records have come.
    fn is_over(&mut self, log: &Log, part: &Part) -> Result<bool> {
        if self.since.elapsed() < PATIENCE {
            return Ok(false);
        }
        if self.asked {
            return Ok(true);
        }
        block_in_place(|| log.extent(part.partition)).context(
            "the Kafka broker does not answer any more: check that it runs, and try again",
        )?;
        *self = Self {
            since: Instant::now(),
            asked: true,
        };
        Ok(false)
    }
}

/// One record in one line.
fn row(seen: &Seen, inspected: &Inspected, json: bool) -> Result<String> {
    if json {
        return Ok(serde_json::to_string(&seen.for_programs(inspected))?);
    }
    let value = match &inspected.datum {
        Ok(datum) => serde_json::to_string(datum)?,
        Err(why) => format!("cannot be decoded: {why}"),
    };
    Ok(format!(
        "{}  {}  {}  {value}",
        seen.position(),
        seen.time().unwrap_or_else(|| "-".to_owned()),
        key(seen)
    ))
}

/// The key for people.
fn key(seen: &Seen) -> String {
    match &seen.key {
        None => "-".to_owned(),
        Some(key) => String::from_utf8_lossy(key).escape_debug().to_string(),
    }
}

pub async fn get(connection: &Connection, position: &Position, json: bool) -> Result<()> {
    let seen = block_in_place(|| find(connection, position))?;
    let mut inspector = Inspector::new(connection.registry()?);
    let inspected = inspector.inspect(seen.value.as_deref()).await?;
    if json {
        return output::json(&seen.for_programs(&inspected));
    }
    show(&seen, &inspected)
}

/// Reads the record at a position.
pub fn find(connection: &Connection, position: &Position) -> Result<Seen> {
    let log = Log::open(&connection.kafka(), &position.topic)?;
    if !(0..log.partitions).contains(&position.partition) {
        bail!("{} has partitions 0 to {}", log.topic, log.partitions - 1);
    }
    let extent = log.extent(position.partition)?;
    let place = format!("{}/{}", log.topic, position.partition);
    if extent.records() == 0 {
        bail!("{place} has no records");
    }
    if !(extent.first_offset..extent.end_offset).contains(&position.offset) {
        bail!(
            "{place} has offsets {} to {}",
            extent.first_offset,
            extent.end_offset - 1
        );
    }
    let found = log.first_in(
        &[(position.partition, position.offset..extent.end_offset)],
        PATIENCE,
    )?;
    match found.into_iter().next() {
        Some(seen) if seen.offset == position.offset => Ok(seen),
        Some(seen) => bail!(
            "{place} has no record at {}; the next is at {}",
            position.offset,
            seen.offset
        ),
        None => bail!(
            "{place} has no record at {} that can be read",
            position.offset
        ),
    }
}

/// Prints a record for people.
pub fn show(seen: &Seen, inspected: &Inspected) -> Result<()> {
    output::line(format_args!("position   {}", seen.position()))?;
    output::line(format_args!(
        "time       {}",
        seen.time().unwrap_or_else(|| "-".to_owned())
    ))?;
    output::line(format_args!("key        {}", key(seen)))?;
    for (name, value) in &seen.headers {
        let value = String::from_utf8_lossy(value.as_deref().unwrap_or_default());
        output::line(format_args!("header     {name}: {}", value.escape_debug()))?;
    }
    if let Some(id) = inspected.schema_id {
        output::line(format_args!("schema id  {id}"))?;
    }
    match &inspected.datum {
        Ok(datum) => output::line(serde_json::to_string_pretty(datum)?),
        Err(why) => output::line(format_args!("the value cannot be decoded: {why}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reading_begins_inside_the_partition() {
        let extent = Extent {
            partition: 0,
            first_offset: 10,
            end_offset: 20,
        };
        for (start, at_time, offset) in [
            (Start::Beginning, None, 10),
            (Start::End, None, 20),
            (Start::Offset(3), None, 10),
            (Start::Offset(15), None, 15),
            (Start::Offset(99), None, 20),
            (Start::Last(4), None, 16),
            (Start::Last(i64::MAX), None, 10),
            (Start::Time(0), Some(12), 12),
            (Start::Ago(0), None, 20),
        ] {
            assert_eq!(from(start, extent, at_time), offset, "{start:?}");
        }
    }
}
