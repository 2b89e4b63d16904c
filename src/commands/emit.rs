//! `millrace emit`: appends events, and says truthfully what became of them.

mod crowd;
mod sale_rules;
mod sales;

use std::{
    cell::Cell,
    fs,
    io::{self, Read},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;
use producers::{
    append::{Appender, Profile},
    clicks, clock,
    emit::{self, Emitted},
    metrics::AppendMetrics,
    orders,
    topics::Checker,
    trace::{Trace, TraceId},
    writer::{Context as Origin, EventWriter},
};
use schemas::{
    event::{Event, summary},
    orders::OrderPlaced,
    position::Position,
};
use serde::Serialize;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Connection, Emit, EmitClick, EmitOrder, Manner},
    output,
};

/// The date of sample orders that are made from a seed: 2026-01-01T00:00:00Z.
const SEEDED_AT: i64 = 1_767_225_600;

pub async fn emit(connection: &Connection, what: Emit) -> Result<()> {
    match what {
        Emit::Click(args) => emit_clicks(connection, &args).await,
        Emit::Order(args) => emit_orders(connection, &args).await,
        Emit::SaleRules(args) => sale_rules::set(connection, &args).await,
        Emit::Checkout(args) => sales::checkout(connection, args).await,
        Emit::Purchase(args) => sales::purchase(connection, args).await,
        Emit::Sale(args) => crowd::come(connection, &args).await,
    }
}

async fn emit_clicks(connection: &Connection, args: &EmitClick) -> Result<()> {
    let clicks = clicks::clicks(args.banner, args.count, clock::now_ms);
    let told = Told {
        one: "click",
        total: args.count,
        look: None,
    };
    if args.manner.dry_run {
        return told.would_be_sent(args.manner);
    }
    let sent = send(connection, clicks, args.manner).await?;
    let rest = sent.rest(args.count);
    sent.tell(&told, args.manner, || {
        format!(
            "`millrace emit click --banner {} --count {rest}` sends the rest; a click is counted each time it is on the log",
            args.banner
        )
    })
}

async fn emit_orders(connection: &Connection, args: &EmitOrder) -> Result<()> {
    let orders = match (&args.file, args.sample) {
        (Some(file), _) => read_orders(file)?,
        (None, sample) => sample_orders(sample.unwrap_or(1), args.seed),
    };
    let told = Told {
        one: "order",
        total: orders.len(),
        look: match &orders[..] {
            [order] => Some(format!("GET /order?uid={}", query_value(&order.order_uid))),
            _ => None,
        },
    };
    if args.manner.dry_run {
        if args.sample.is_none() {
            return told.would_be_sent(args.manner);
        }
        return orders.iter().try_for_each(output::json);
    }
    let sent = send(connection, orders.into_iter(), args.manner).await?;
    let rest = sent.rest(told.total);
    sent.tell(&told, args.manner, || match (args.sample, args.seed) {
        (Some(_), None) => {
            format!("`millrace emit order --sample {rest}` makes up as many new ones")
        }
        _ => "run the same command again: an order that is on the log already changes nothing"
            .to_owned(),
    })
}

fn read_orders(file: &Path) -> Result<Vec<OrderPlaced>> {
    let name = match file.to_str() {
        Some("-") => "stdin".to_owned(),
        _ => file.display().to_string(),
    };
    let mut bytes = Vec::new();
    let read = match name.as_str() {
        "stdin" => io::stdin().lock().read_to_end(&mut bytes).map(drop),
        _ => fs::read(file).map(|read| bytes = read),
    };
    read.with_context(|| format!("cannot read {name}"))?;
    let text = str::from_utf8(&bytes).with_context(|| format!("{name} is not UTF-8 text"))?;
    match orders::read(text) {
        Ok(orders) if orders.is_empty() => bail!("{name} has no orders"),
        Ok(orders) => Ok(orders),
        Err(bad) => {
            for order in &bad {
                output::note(format_args!(
                    "{name}:{}: {}",
                    order.line,
                    summary(&order.faults)
                ));
            }
            let least = if bad.len() == orders::NAMED_MAX {
                "at least "
            } else {
                ""
            };
            bail!(
                "{name} has {least}{}; nothing was sent",
                output::count(bad.len() as u64, "bad order")
            );
        }
    }
}

fn sample_orders(count: usize, seed: Option<u64>) -> Vec<OrderPlaced> {
    let mut chance = clock::generator(seed);
    // The same seed has to give the same orders, to the last field: another order of the same uid is a fault.
    let now = match seed {
        Some(_) => Timestamp::from_second(SEEDED_AT),
        None => Timestamp::from_millisecond(clock::now_ms()),
    };
    let now = now.unwrap_or_default();
    (0..count)
        .map(|_| orders::sample(&mut chance, now))
        .collect()
}

/// What was sent, and what became of it.
struct Sent {
    emitted: Emitted,
    topic: String,
    /// What the headers of the records name, if they have any.
    trace: Option<TraceId>,
    interrupted: bool,
}

async fn send<E: Event>(
    connection: &Connection,
    events: impl ExactSizeIterator<Item = E>,
    manner: Manner,
) -> Result<Sent> {
    let writer = writer::<E>(connection, Profile::Bulk).await?;
    let bar = progress_bar(events.len() as u64);
    let total = events.len() as u64;
    let acknowledged = Cell::new(0);
    let stop = CancellationToken::new();
    // One trace a run: what becomes of its events can be found together.
    let trace = E::TOPIC.keyed.then(Trace::start);
    let trace_id = trace.as_ref().map(|trace| trace.id);
    let origin = Origin { trace };
    let sending = emit::emit(&writer, events, &origin, manner.rate, &stop, |appended| {
        acknowledged.set(appended);
        bar.set_position(appended);
    });
    tokio::pin!(sending);
    let emitted = loop {
        tokio::select! {
            emitted = &mut sending => break emitted,
            _ = tokio::signal::ctrl_c() => {
                if stop.is_cancelled() {
                    bar.finish_and_clear();
                    bail!(
                        "stopped while waiting: of {} at least {} are on the log, and it is not known whether others are",
                        output::grouped(total),
                        output::grouped(acknowledged.get())
                    );
                }
                stop.cancel();
            }
        }
    };
    bar.finish_and_clear();
    Ok(Sent {
        emitted,
        topic: writer.topic().to_owned(),
        trace: trace_id,
        interrupted: stop.is_cancelled(),
    })
}

/// What appends events to their topic, which is there.
async fn writer<E: Event>(connection: &Connection, profile: Profile) -> Result<EventWriter<E>> {
    let kafka = connection.kafka();
    let registry = connection.registry()?;
    {
        let kafka = kafka.clone();
        spawn_blocking(move || Checker::new(&kafka)?.check(&[E::TOPIC])).await??;
    }
    let appender = Appender::new(&kafka, profile, AppendMetrics::default())?;
    let writer = EventWriter::<E>::new(Arc::new(appender), &kafka.prefix);
    writer.register(&registry).await?;
    Ok(writer)
}

/// Drawn on a terminal only.
fn progress_bar(total: u64) -> ProgressBar {
    const STYLE: &str = "{bar:40} {human_pos}/{human_len} acknowledged, {per_sec}, {eta} left";
    if total < 2 {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template(STYLE).expect("the template is well-formed");
    ProgressBar::new(total).with_style(style)
}

/// What is told of the events.
struct Told {
    one: &'static str,
    total: usize,
    look: Option<String>,
}

#[derive(Serialize)]
struct Summary {
    appended: u64,
    not_written: u64,
    unknown: u64,
    positions: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trace_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Told {
    fn would_be_sent(&self, manner: Manner) -> Result<()> {
        if manner.json {
            return output::json(&serde_json::json!({ "would_append": self.total }));
        }
        let count = output::count(self.total as u64, self.one);
        output::line(format_args!("{count} would be sent"))
    }
}

impl Sent {
    /// How many are not on the log for certain.
    fn rest(&self, total: usize) -> u64 {
        total as u64 - self.emitted.appended
    }

    fn tell(&self, told: &Told, manner: Manner, how_to_go_on: impl Fn() -> String) -> Result<()> {
        let emitted = &self.emitted;
        let all = emitted.appended == told.total as u64;
        let error = match &emitted.error {
            Some(error) => Some(error.clone()),
            None if self.interrupted && !all => Some("stopped by Ctrl-C".to_owned()),
            None => None,
        };
        let positions = self.positions();
        let trace_id = self.trace.map(|id| id.to_string());
        if manner.json {
            output::json(&Summary {
                appended: emitted.appended,
                not_written: told.total as u64 - emitted.appended - emitted.unknown,
                unknown: emitted.unknown,
                positions,
                trace_id,
                error: error.clone(),
            })?;
        } else {
            let count = output::count(emitted.appended, told.one);
            let trace = trace_id.map_or_else(String::new, |id| format!(", trace {id}"));
            output::line(format_args!("{count} appended{}{trace}", place(&positions)))?;
            if let (Some(look), true) = (&told.look, all) {
                output::line(look)?;
            }
        }
        let Some(error) = error else {
            return Ok(());
        };
        let unknown = match emitted.unknown {
            0 => "none of the others".to_owned(),
            unknown => format!("perhaps {} more", output::grouped(unknown)),
        };
        bail!(
            "{error}; on the log: {} of {}, {unknown}; to go on: {}",
            output::grouped(emitted.appended),
            output::count(told.total as u64, told.one),
            how_to_go_on()
        );
    }

    /// The last place that was written to, of each partition.
    fn positions(&self) -> Vec<String> {
        let mut last = self.emitted.last.clone();
        last.sort_unstable();
        let told = last.into_iter().filter(|(_, offset)| *offset >= 0);
        told.map(|(partition, offset)| {
            Position {
                topic: self.topic.clone(),
                partition,
                offset,
            }
            .to_string()
        })
        .collect()
    }
}

fn place(positions: &[String]) -> String {
    match positions {
        [] => String::new(),
        [one] => format!(", position {one}"),
        many => format!(", positions {}", many.join(",")),
    }
}

/// A text as it has to be written in the query of a URL.
fn query_value(text: &str) -> String {
    let mut written = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                written.push(char::from(byte));
            }
            byte => written.push_str(&format!("%{byte:02X}")),
        }
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_uid_can_be_pasted_into_a_url() {
        assert_eq!(query_value("b563feb7b2b84b6test"), "b563feb7b2b84b6test");
        assert_eq!(query_value("a b&ü"), "a%20b%26%C3%BC");
    }

    #[test]
    fn the_same_seed_makes_the_same_orders() {
        assert_eq!(sample_orders(3, Some(7)), sample_orders(3, Some(7)));
        assert_ne!(sample_orders(3, None), sample_orders(3, None));
    }
}
