//! `millrace emit`: appends events, and says truthfully what became of them.

mod clicks;
mod crowd;
mod orders;
mod sale_rules;
mod sales;
mod segments;
mod users;

use std::{cell::Cell, sync::Arc};

use anyhow::{Result, bail};
use indicatif::{ProgressBar, ProgressStyle};
use processors::sales::window::Window;
use producers::{
    append::{Appender, Profile},
    emit::{self, Emitted},
    metrics::AppendMetrics,
    topics::Checker,
    trace::{Trace, TraceId},
    writer::{Context as Origin, EventWriter},
};
use schemas::{event::Event, position::Position};
use serde::Serialize;
use tokio::{runtime::Handle, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{Connection, Emit, Manner},
    output,
};

pub async fn emit(connection: &Connection, what: Emit) -> Result<()> {
    match what {
        Emit::Click(args) => clicks::emit(connection, &args).await,
        Emit::Order(args) => orders::emit(connection, &args).await,
        Emit::User(args) => users::emit(connection, &args).await,
        Emit::Segment(args) => segments::segment(connection, args).await,
        Emit::Membership(args) => segments::membership(connection, args).await,
        Emit::SaleRules(args) => sale_rules::set(connection, &args).await,
        Emit::Checkout(args) => sales::checkout(connection, args).await,
        Emit::Purchase(args) => sales::purchase(connection, args).await,
        Emit::Sale(args) => crowd::come(connection, &args).await,
    }
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

/// What reads the log of the sale, for a while or until `stop`.
fn window(connection: &Connection, stop: CancellationToken) -> Result<Window> {
    let (kafka, registry) = (connection.kafka(), connection.registry()?);
    Ok(Window::new(&kafka, &registry, Handle::current(), stop))
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
    /// Bad ones that were left out.
    skipped: Option<Skipped>,
}

/// Bad rows of a file, and where they are now.
struct Skipped {
    rows: u64,
    file: Option<String>,
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
    skipped: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bad_rows: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl Told {
    fn would_be_sent(&self, manner: Manner) -> Result<()> {
        let skipped = self.skipped.as_ref().map(|skipped| skipped.rows);
        if manner.json {
            let mut told = serde_json::json!({ "would_append": self.total });
            if let Some(rows) = skipped {
                told["would_skip"] = rows.into();
            }
            return output::json(&told);
        }
        let count = output::count(self.total as u64, self.one);
        let left_out = skipped.map_or_else(String::new, |rows| {
            format!(", without {}", output::count(rows, "bad row"))
        });
        output::line(format_args!("{count} would be sent{left_out}"))
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
                skipped: told.skipped.as_ref().map(|skipped| skipped.rows),
                bad_rows: told
                    .skipped
                    .as_ref()
                    .and_then(|skipped| skipped.file.clone()),
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
