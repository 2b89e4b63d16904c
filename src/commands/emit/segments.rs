//! `millrace emit segment` and `millrace emit membership`: a request to the segments as an event, and its verdict, as the
//! projection has stored it.

use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail};
use processors::{
    sales::DRIFT_MAX_MS,
    segments::{counts, digest},
};
use producers::{
    append::{Profile, Stamped},
    clock,
    segments::Stamp,
    trace::{Trace, TraceId},
    writer::{AppendError, Context as Origin, EventWriter},
};
use projections::{
    checkpoints,
    db::PgConnection,
    segments::{Decided, PROJECTION, Verdict, decided_by},
};
use schemas::{
    event::{Event, summary},
    position::Position,
    segments::SegmentEvent,
};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::{
    cli::{Connection, EmitMembership, EmitSegment, Requesting, WrongUse},
    commands::{connect, of_postgres},
    output,
};

/// How long the projection may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How often it is asked.
const POLL: Duration = Duration::from_millis(5);

pub(super) async fn segment(connection: &Connection, args: EmitSegment) -> Result<()> {
    let (slug, is_deleted) = (args.slug, args.delete);
    ask(connection, args.requesting, |stamp| match is_deleted {
        true => stamp.delete(slug),
        false => stamp.create(slug),
    })
    .await
}

pub(super) async fn membership(connection: &Connection, args: EmitMembership) -> Result<()> {
    let (mut add, mut del) = (args.add, args.del);
    for list in [&mut add, &mut del] {
        list.sort_unstable();
        list.dedup();
    }
    ask(connection, args.requesting, |stamp| {
        stamp.change(args.user_id, add, del, args.ttl_ms)
    })
    .await
}

async fn ask(
    connection: &Connection,
    requesting: Requesting,
    event: impl FnOnce(Stamp) -> SegmentEvent,
) -> Result<()> {
    let given = requesting.key;
    let key = given.unwrap_or_else(|| clock::event_id().to_string());
    let event = event(Stamp::now(key));
    let faults = event.faults();
    if !faults.is_empty() {
        return Err(WrongUse(format!("{}; nothing was sent", summary(&faults))).into());
    }
    if requesting.dry_run {
        return output::json(&event);
    }
    let database = connection.database()?;
    // Before anything is sent: without it, nobody would learn the verdict.
    let mut postgres = connect(&database).await?;
    let checkpoints = checkpoints::live(&mut postgres, PROJECTION.name).await;
    of_postgres(&database, checkpoints)?;
    let writer = super::writer::<SegmentEvent>(connection, Profile::Interactive).await?;
    let trace = Trace::start();
    let trace_id = trace.id;
    let stamped = append(&writer, &event, trace).await?;
    let settling = settle(&mut postgres, &event, stamped).await;
    let decided = settling.map_err(|error| unknown(&event, &output::with_cause(&error)))?;
    Answer {
        event: &event,
        stamped,
        decided,
        topic: writer.topic(),
        trace: trace_id,
    }
    .tell(requesting.json)
}

async fn append(
    writer: &EventWriter<SegmentEvent>,
    event: &SegmentEvent,
    trace: Trace,
) -> Result<Stamped> {
    let origin = Origin { trace: Some(trace) };
    let events = std::slice::from_ref(event);
    let pending = writer
        .send(events, Some(&origin))
        .context("nothing was asked for: try again")?;
    let outcome = pending.outcome().await;
    let stamped = outcome.stamps.first().copied();
    match writer.position(outcome) {
        Ok(_) => stamped.ok_or_else(|| unknown(event, "the broker did not tell where it is")),
        Err(AppendError::Unknown(why)) => Err(unknown(event, &why)),
        Err(refusal) => Err(refusal).context("nothing was asked for: try again"),
    }
}

fn unknown(event: &SegmentEvent, why: &str) -> anyhow::Error {
    anyhow!(
        "it is not known what became of the request: {why}; to go on: the same command with --key {} gets the one true answer",
        event.idempotency_key()
    )
}

/// Waits until the projection has passed the request, and reads what it has decided; none if the request is void.
async fn settle(
    postgres: &mut PgConnection,
    event: &SegmentEvent,
    stamped: Stamped,
) -> Result<Option<Decided>> {
    if !counts(event, stamped.appended_at_ms) {
        return Ok(None);
    }
    let deadline = Instant::now() + DEADLINE;
    loop {
        let reached = checkpoints::live(&mut *postgres, PROJECTION.name).await?;
        if reached.iter().any(|c| c.next_offset > stamped.offset) {
            break;
        }
        if Instant::now() >= deadline {
            bail!("no process has folded it: is `millrace run` or `millrace process` running?");
        }
        sleep(POLL).await;
    }
    let key = event.idempotency_key();
    let decided = decided_by(postgres, &[key]).await?.remove(key);
    let of_ours = decided.filter(|decided| decided.moment.offset <= stamped.offset);
    of_ours
        .map(Some)
        .context("the projection has passed it without a verdict")
}

/// What became of a request.
struct Answer<'a> {
    event: &'a SegmentEvent,
    stamped: Stamped,
    /// None if it is void.
    decided: Option<Decided>,
    /// The full name.
    topic: &'a str,
    trace: TraceId,
}

/// The same for programs.
#[derive(Debug, Default, Serialize)]
struct Told<'a> {
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    slug: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    user_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    added: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    removed: Option<&'a [String]>,
    #[serde(skip_serializing_if = "Option::is_none")]
    unknown: Option<&'a [String]>,
    key: &'a str,
    position: String,
    replayed: bool,
    trace_id: String,
}

impl Answer<'_> {
    /// Prints it.
    ///
    /// # Errors
    /// Why what was asked for was not done.
    fn tell(&self, as_json: bool) -> Result<()> {
        if as_json {
            output::json(&self.told())?;
        }
        let done = self.done()?;
        if as_json {
            return Ok(());
        }
        output::line(done)
    }

    /// The verdict, unless it is void or that of another request.
    fn verdict(&self) -> Option<&Verdict> {
        let decided = self.decided.as_ref()?;
        (decided.digest == digest(self.event)).then_some(&decided.verdict)
    }

    fn is_replayed(&self) -> bool {
        let first = self.decided.as_ref().map(|decided| decided.moment.offset);
        self.verdict().is_some() && first != Some(self.stamped.offset)
    }

    fn told(&self) -> Told<'_> {
        let mut told = Told {
            verdict: match (self.verdict(), &self.decided) {
                (Some(verdict), _) => verdict.name(),
                (None, Some(_)) => "key_reused",
                (None, None) => "void",
            },
            key: self.event.idempotency_key(),
            position: self.position(),
            replayed: self.is_replayed(),
            trace_id: self.trace.to_string(),
            ..Told::default()
        };
        match self.event {
            SegmentEvent::MembershipChangeRequested(change) => told.user_id = Some(change.user_id),
            _ => told.slug = self.event.slugs().next(),
        }
        match self.verdict() {
            Some(Verdict::Changed { added, removed }) => {
                told.added = Some(added);
                told.removed = Some(removed);
            }
            Some(Verdict::Unknown(slugs)) => told.unknown = Some(slugs),
            _ => {}
        }
        told
    }

    fn done(&self) -> Result<String> {
        let position = self.position();
        let again = if self.is_replayed() {
            " (the first answer to this key, once more)"
        } else {
            ""
        };
        let slug = self.event.slugs().next().unwrap_or_default();
        let sentence = match (self.verdict(), &self.decided) {
            (None, None) => bail!("{}", self.void()),
            (None, Some(_)) => {
                bail!("refused: the key came with another request before, position {position}")
            }
            (Some(Verdict::Exists), _) => {
                bail!("refused: there is a segment {slug} already, position {position}{again}")
            }
            (Some(Verdict::Unknown(slugs)), _) => {
                let slugs = slugs.join(", ");
                bail!("refused: there is no segment {slugs}, position {position}{again}")
            }
            (Some(Verdict::Created), _) => format!("segment {slug} created"),
            (Some(Verdict::Deleted), _) => format!("segment {slug} deleted"),
            (Some(Verdict::Changed { added, removed }), _) => {
                format!("added: {}; removed: {}", list(added), list(removed))
            }
        };
        Ok(format!("{sentence}, position {position}{again}"))
    }

    /// Its times are too far apart for it to count.
    fn void(&self) -> String {
        format!(
            "void, as if it had not been made: this machine's clock said {} when the request was made, the broker's {} when it came, and they may be {} s apart; set the clocks right and ask again (position {})",
            output::time(self.event.requested_at()),
            output::time(self.stamped.appended_at_ms),
            DRIFT_MAX_MS / 1_000,
            self.position()
        )
    }

    fn position(&self) -> String {
        Position {
            topic: self.topic.to_owned(),
            partition: 0,
            offset: self.stamped.offset,
        }
        .to_string()
    }
}

fn list(slugs: &[String]) -> String {
    match slugs {
        [] => "none".to_owned(),
        slugs => slugs.join(", "),
    }
}
