//! What can be said on the command line. One struct a command; `--help` is the reference.

mod connection;
mod replay;
mod sale;
mod segments;

use std::{error::Error, fmt, path::PathBuf};

use clap::{Args, Parser, Subcommand, builder::PossibleValuesParser};
use jiff::{Span, SpanRelativeTo, Timestamp};
use processors::runtime;
use schemas::{position::Position, sales::SaleId};

pub use self::{
    connection::{Connection, Logging},
    replay::{Building, ReplayArgs, VerifyArgs},
    sale::{Asking, EmitCheckout, EmitPurchase, EmitSale, EmitSaleRules},
    segments::{EmitMembership, EmitSegment, Requesting},
};
use crate::commands::serve::{ApiArgs, ProcessArgs, RunArgs};

/// Event-sourced commerce backend on Kafka: every number can be rebuilt and proved from its log.
///
/// Exit codes: 0 done, 1 failed, 2 used wrongly.
#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    propagate_version = true,
    args_override_self = true,
    max_term_width = 110
)]
pub struct Cli {
    #[command(flatten)]
    pub connection: Connection,
    #[command(flatten)]
    pub logging: Logging,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve the API and fold every topic, in one process.
    Run(RunArgs),
    /// Serve the API alone.
    Api(ApiArgs),
    /// Fold topics into Postgres alone.
    Process(ProcessArgs),
    /// Append events to the log.
    Emit(EmitArgs),
    /// List the topics, look into them, create them; without a command, list them.
    Topics(TopicsArgs),
    /// Check whether this build can read what was written before it.
    Schemas(SchemasArgs),
    /// Tell how far the projections are behind the log.
    ///
    /// In records, and in seconds: the age of the oldest record that is not applied yet.
    Lag(LagArgs),
    /// List the records that could not be folded, newest first, and why.
    ///
    /// Their bytes stay in the log; `show` prints them, `retry` folds them after all.
    DeadLetters(DeadLettersArgs),
    /// Make the tables of a projection anew from the log, while the old ones serve.
    ///
    /// Builds the next generation beside the live one, compares both at the same place of the log, tells what is other
    /// rows, and switches: no request fails, and no position goes back. The old generation is kept for --rollback until
    /// --drop-old. Whatever ends it before the switch leaves what is live as it was; called again, it goes on or begins
    /// anew. It takes about as much room on the disk as the live tables have.
    Replay(ReplayArgs),
    /// Prove that the tables of projections are what the log says.
    ///
    /// Builds a generation as `replay` does, compares it with what is live at the same place of the log, and drops it
    /// again; folding goes on meanwhile. Fails if a row is different, and tells the first of them by column, with the
    /// records that should have made them.
    Verify(VerifyArgs),
    /// Prove from the log that a sale kept its promises, and that the tables say the same.
    ///
    /// Reads what was requested in the sale and checks each verdict anew: no more is sold than there is, nothing twice,
    /// nobody has more than the limit, and who buys has reserved in time. Then every item that was sold is compared with
    /// Postgres. Fails if anything is not as it should be.
    Audit(AuditArgs),
    /// Check brokers, topics, schemas, database and clocks, and say what to do about what is wrong.
    ///
    /// A line a check: ok, warning or failed. Writes nothing anywhere, and comes to an end also if a server is away.
    /// Fails if a check does; warnings are for a person to judge. The clocks of the registry and of Postgres are compared
    /// with this machine's; Kafka tells its own only to those who write.
    Doctor(DoctorArgs),
}

/// What was said is wrong in a way that shows only when all of it is looked at.
#[derive(Debug)]
pub struct WrongUse(pub String);

impl fmt::Display for WrongUse {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl Error for WrongUse {}

impl Command {
    /// Whether it runs until it is told to stop.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Api(_) | Self::Process(_))
    }
}

#[derive(Debug, Args)]
pub struct EmitArgs {
    #[command(subcommand)]
    pub what: Emit,
}

#[derive(Debug, Subcommand)]
pub enum Emit {
    /// Clicks on a banner, stamped with the time at which they are sent.
    Click(EmitClick),
    /// Orders, from a file or made up.
    Order(EmitOrder),
    /// Profiles of users: one, from a file, or made up.
    User(EmitUser),
    /// A new segment of users, or the end of one.
    ///
    /// Appends the request, and reads its verdict from Postgres once a projection has folded it. Succeeds if it was done,
    /// fails if it was refused.
    Segment(EmitSegment),
    /// A user is put into segments, and taken out of others: all of it or nothing.
    ///
    /// Appends the request, and reads its verdict from Postgres once a projection has folded it. Succeeds if it was done,
    /// fails if it was refused.
    Membership(EmitMembership),
    /// Rules for the sales of the UTC hours to come.
    ///
    /// An hour keeps its rules from the first request that it counts: the newest that this request's appender had
    /// read. So rules hold from an hour on in which nobody has asked for anything yet.
    SaleRules(EmitSaleRules),
    /// A checkout: reserves an item of the running sale, and tells the code to buy it with.
    ///
    /// Appends the request and folds the log to learn its verdict; no API is needed. Succeeds if the item is reserved,
    /// fails if it is not.
    Checkout(EmitCheckout),
    /// A purchase: buys what is reserved under a code.
    ///
    /// Appends the request and folds the log to learn its verdict; no API is needed. Succeeds if the item is bought,
    /// fails if it is not.
    Purchase(EmitPurchase),
    /// A crowd that comes to the running sale, checks out items and buys what it is given.
    ///
    /// Appends its requests at the given rate and follows the log for their verdicts. A refusal is an answer: the
    /// command fails only if requests have none. Times are from when a request was due to when its verdict was known.
    Sale(EmitSale),
}

#[derive(Debug, Args)]
pub struct EmitClick {
    /// The banner that is clicked.
    #[arg(long, value_name = "ID", value_parser = banner, allow_negative_numbers = true)]
    pub banner: i64,
    /// How many clicks.
    #[arg(long, value_name = "N", default_value = "1", value_parser = how_many)]
    pub count: usize,
    #[command(flatten)]
    pub manner: Manner,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["file", "sample"]))]
pub struct EmitOrder {
    /// The file to read, `-` for stdin: JSON, either one order, an array of orders, or one order after the other
    /// (NDJSON). All of it is checked before anything is sent.
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Makes up this many plausible orders.
    #[arg(long, value_name = "N", value_parser = how_many)]
    pub sample: Option<usize>,
    /// The same seed makes the same orders; without one, they are new each time and dated now.
    #[arg(long, value_name = "SEED", conflicts_with = "file")]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub manner: Manner,
}

#[derive(Debug, Args)]
#[command(group = clap::ArgGroup::new("source").required(true).args(["id", "file", "sample"]))]
pub struct EmitUser {
    /// The user whose profile is set.
    #[arg(long, value_name = "ID", requires_all = ["deeplink", "promo"])]
    pub id: Option<String>,
    /// Where the app leads this user.
    #[arg(long, value_name = "LINK", requires = "id")]
    pub deeplink: Option<String>,
    /// What this user is told.
    #[arg(long, value_name = "TEXT", requires = "id")]
    pub promo: Option<String>,
    /// The file to read, `-` for stdin: CSV under a line with the names user_id, deeplink and promo_message, or NDJSON with
    /// these fields. Its name tells (.csv, .ndjson), or else its first character.
    ///
    /// All of it is checked before anything is sent, so it is read twice; stdin goes through a temporary file. Neither takes
    /// memory by its length.
    #[arg(long, short, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Sends the good rows of a file that has bad ones, and writes these into a file beside it (users.csv:
    /// users.bad.csv), from which they can be sent once they are mended.
    #[arg(long, requires = "file", conflicts_with_all = ["sample", "id"])]
    pub skip_bad: bool,
    /// Makes up this many plausible profiles, of the users sample-1, sample-2, …
    #[arg(long, value_name = "N", value_parser = how_many)]
    pub sample: Option<usize>,
    /// The same seed makes the same profiles; without one, they are new each time.
    #[arg(long, value_name = "SEED", requires = "sample", conflicts_with_all = ["file", "id"])]
    pub seed: Option<u64>,
    #[command(flatten)]
    pub manner: Manner,
}

/// How events are sent, and how the outcome is told.
#[derive(Debug, Clone, Copy, Args)]
pub struct Manner {
    /// Events a second; without it, as fast as it goes.
    #[arg(long, value_name = "R", value_parser = rate, allow_negative_numbers = true)]
    pub rate: Option<f64>,
    /// Sends nothing and says what would be sent.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints the outcome as JSON: how many were appended, not written, unknown, the last position of each partition,
    /// and the trace that the headers of orders and profiles, and what is logged about them, name.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TopicsArgs {
    /// Prints JSON, for programs.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<Topics>,
}

#[derive(Debug, Subcommand)]
pub enum Topics {
    /// Show a topic's partitions, settings that are not as they have to be, and schemas.
    Describe {
        /// The topic, with the prefix or without.
        topic: String,
    },
    /// Print the records of a topic, decoded.
    ///
    /// A line a record: position, time, key, value. With --json an object a line, with topic, partition, offset,
    /// timestamp, key, headers, schema_id and value; where the value cannot be decoded it is null, and there are error
    /// and bytes (base64). Records come in order within each partition. Without --follow it ends where the topic ended
    /// when the command began.
    Tail(TailArgs),
    /// Print one record, decoded.
    Get {
        /// Where it stands: `topic/partition@offset`, the topic with the prefix or without.
        position: Position,
    },
    /// Create the topics that are missing and register their schemas; report what differs and alter nothing.
    ///
    /// May be repeated. Fails if a topic differs from what it has to be. A cluster that misses a broker just now is asked
    /// again, for up to two minutes, and so is a registry that is slow.
    Apply(ApplyArgs),
}

#[derive(Debug, Clone, Copy, Args)]
pub struct ApplyArgs {
    /// How many replicas of each partition a new topic gets, and an old one has to have.
    ///
    /// Unless told, as many as `default.replication.factor` of the brokers says, but three where there are three
    /// brokers. From three on, `min.insync.replicas` is 2: what was acknowledged outlives the loss of any one broker.
    #[arg(long, env = "MILLRACE_REPLICATION", value_name = "N", value_parser = how_many)]
    pub replication: Option<usize>,
    /// Only says what would be done.
    #[arg(long)]
    pub dry_run: bool,
}

#[derive(Debug, Args)]
pub struct SchemasArgs {
    #[command(subcommand)]
    pub command: Schemas,
}

#[derive(Debug, Subcommand)]
pub enum Schemas {
    /// Check every version that is registered: this build has to be able to read it.
    ///
    /// A line a topic: ok, warning or failed. To be run with a new build before it takes over. Writes nothing; fails if
    /// a check does.
    Check(SchemasCheck),
}

#[derive(Debug, Clone, Copy, Args)]
pub struct SchemasCheck {
    /// Decodes every record on the log, too, and names the first of each topic that cannot be read.
    ///
    /// Records that no build could read, for want of a frame or with a schema that is not the topic's, are counted and
    /// are no failure: the folds make dead letters of them.
    #[arg(long)]
    pub against_log: bool,
    /// Prints JSON, for programs: an object a line, with check, verdict and found.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct TailArgs {
    /// The topic, with the prefix or without.
    pub topic: String,
    /// Where to begin: `beginning`; `end`; an offset, the same in every partition; `-N` for the last N of every
    /// partition; a time such as 2026-01-02T03:04:05Z; or an age such as -10m, -2h30m, -1d. It is `beginning`, and with
    /// --follow `end`, unless told.
    #[arg(long, value_name = "WHERE", value_parser = Start::parse, allow_hyphen_values = true)]
    pub from: Option<Start>,
    /// Only records with this key; reads no other partition than the key's.
    #[arg(long, value_name = "KEY")]
    pub key: Option<String>,
    /// Ends after this many records.
    #[arg(long, short = 'n', value_name = "N", value_parser = how_many)]
    pub limit: Option<usize>,
    /// Goes on with the records to come, until Ctrl-C.
    #[arg(long, short)]
    pub follow: bool,
}

/// Where to begin to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// The first record.
    Beginning,
    /// After the last record.
    End,
    /// This offset, in every partition.
    Offset(i64),
    /// So many records before the end of every partition.
    Last(i64),
    /// The first record at or after this time, milliseconds since 1970-01-01T00:00:00Z.
    Time(i64),
    /// So many milliseconds ago.
    Ago(i64),
}

impl Start {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || {
            "write beginning, end, an offset, -N, a time such as 2026-01-02T03:04:05Z, or an age such as -10m"
                .to_owned()
        };
        match text {
            "beginning" | "start" => return Ok(Self::Beginning),
            "end" => return Ok(Self::End),
            _ => {}
        }
        if let Ok(offset) = text.parse::<i64>() {
            return match offset.checked_neg() {
                Some(last) if text.starts_with('-') => Ok(Self::Last(last)),
                Some(_) => Ok(Self::Offset(offset)),
                None => Err(wrong()),
            };
        }
        if let Some(age) = text.strip_prefix('-') {
            let age = age.parse::<Span>().map_err(|_| wrong())?;
            let age = age.to_duration(SpanRelativeTo::days_are_24_hours());
            let ms = age.ok().and_then(|age| i64::try_from(age.as_millis()).ok());
            return ms.filter(|ms| *ms >= 0).map(Self::Ago).ok_or_else(wrong);
        }
        let time: Timestamp = text.parse().map_err(|_| wrong())?;
        Ok(Self::Time(time.as_millisecond()))
    }
}

#[derive(Debug, Args)]
pub struct LagArgs {
    /// Prints JSON, for programs.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct AuditArgs {
    #[command(subcommand)]
    pub what: Audit,
}

#[derive(Debug, Subcommand)]
pub enum Audit {
    /// A flash sale.
    Sale {
        /// Its name: when it starts in UTC, such as 20261121T0900Z.
        id: SaleId,
        /// Prints JSON, for programs: the sale, what was requested in it, and the differences.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Prints JSON, for programs: an object a line, with check, verdict and found.
    #[arg(long)]
    pub json: bool,
}

#[derive(Debug, Args)]
pub struct DeadLettersArgs {
    /// Only those of this projection.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(runtime::names()))]
    pub projection: Option<String>,
    /// Only those of this topic, with the prefix or without.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only those given up for this reason, such as `unknown_schema`.
    #[arg(long, value_name = "REASON")]
    pub reason: Option<String>,
    /// Only records of this time or later: a time such as 2026-01-02T03:04:05Z, or an age such as -10m, -2h30m, -1d.
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    pub since: Option<Start>,
    /// Only records of an earlier time, or older than this age.
    #[arg(long, value_name = "WHEN", value_parser = moment, allow_hyphen_values = true)]
    pub until: Option<Start>,
    /// Counts them by projection, topic and reason, with the age of the oldest and of the newest.
    #[arg(long)]
    pub summary: bool,
    /// How many at most.
    #[arg(long, short = 'n', value_name = "N", default_value = "50", value_parser = how_many)]
    pub limit: usize,
    /// Prints JSON, for programs: an object a line.
    #[arg(long, global = true)]
    pub json: bool,
    #[command(subcommand)]
    pub command: Option<DeadLetters>,
}

#[derive(Debug, Subcommand)]
pub enum DeadLetters {
    /// Show one of them: why it was given up, its bytes, and what can be decoded of it.
    Show {
        /// Where it stands: `topic/partition@offset`, the topic with the prefix or without.
        position: Position,
    },
    /// Fold them after all, as if they had been read now at their own place.
    ///
    /// As when the registry has learned a schema since. A click is added; of two orders of one uid the earlier stands, of
    /// two profiles of a user the later. Each is one transaction, which deletes the dead letter: so a record counts once,
    /// however often and from wherever this is run, also while the folds go on. What still cannot be folded stays, and
    /// says why. Requests of a sale or about segments are never folded late: their verdict is given. If the fold's version
    /// rose since, `millrace replay` is the way. Fails unless all of them are folded.
    Retry(RetryArgs),
}

#[derive(Debug, Args)]
pub struct RetryArgs {
    /// Where they stand: `topic/partition@offset`, the topic with the prefix or without.
    #[arg(value_name = "POSITION", required_unless_present = "reason")]
    pub positions: Vec<Position>,
    /// All that were given up for this reason, such as `unknown_schema`.
    #[arg(
        long,
        value_name = "REASON",
        requires = "projection",
        conflicts_with = "positions"
    )]
    pub reason: Option<String>,
    /// Those of this projection.
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(runtime::names()))]
    pub projection: Option<String>,
    /// Says what would come of it, and changes nothing.
    #[arg(long)]
    pub dry_run: bool,
}

/// A time or an age.
fn moment(text: &str) -> Result<Start, String> {
    match Start::parse(text) {
        Ok(moment @ (Start::Time(_) | Start::Ago(_))) => Ok(moment),
        _ => Err("write a time such as 2026-01-02T03:04:05Z, or an age such as -10m".to_owned()),
    }
}

fn banner(text: &str) -> Result<i64, String> {
    match text.parse() {
        Ok(banner) if banner >= 0 => Ok(banner),
        _ => Err(format!("must be a whole number from 0 to {}", i64::MAX)),
    }
}

fn how_many(text: &str) -> Result<usize, String> {
    match text.replace('_', "").parse() {
        Ok(0) | Err(_) => Err("must be a whole number from 1".to_owned()),
        Ok(number) => Ok(number),
    }
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if rate > 0.0 && f64::is_finite(rate) => Ok(rate),
        _ => Err("must be a number of events a second, larger than 0".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_beginning_can_be_said_in_many_ways() {
        for (text, from) in [
            ("beginning", Start::Beginning),
            ("end", Start::End),
            ("0", Start::Offset(0)),
            ("41", Start::Offset(41)),
            ("-5", Start::Last(5)),
            ("-10m", Start::Ago(600_000)),
            ("-2h30m", Start::Ago(9_000_000)),
            ("-1d", Start::Ago(86_400_000)),
            ("-1.5s", Start::Ago(1_500)),
            ("1970-01-01T00:00:01Z", Start::Time(1_000)),
            ("1970-01-01T01:00:01+01:00", Start::Time(1_000)),
        ] {
            assert_eq!(Start::parse(text), Ok(from), "{text}");
        }
        for text in [
            "",
            "-",
            "yesterday",
            "10m",
            "--10m",
            "2026-01-02",
            "1.5",
            "-9223372036854775808",
        ] {
            assert!(Start::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn settings_may_stand_before_and_after_the_command() {
        for line in [
            "millrace --brokers here:1 topics tail orders",
            "millrace topics tail orders --brokers here:1",
            "millrace topics --brokers here:1 tail orders",
        ] {
            let cli = Cli::try_parse_from(line.split(' ')).unwrap();
            assert_eq!(cli.connection.brokers, "here:1");
        }
    }

    #[test]
    fn wrong_numbers_are_refused() {
        for line in [
            "millrace emit click --banner -1",
            "millrace emit click --banner 1 --count 0",
            "millrace emit click --banner 1 --rate 0",
            "millrace emit click --banner 1 --rate NaN",
            "millrace emit order",
            "millrace emit order --file a --sample 1",
            "millrace emit order --file a --seed 1",
            "millrace emit user",
            "millrace emit user --id a",
            "millrace emit user --id a --deeplink b",
            "millrace emit user --deeplink b --promo c",
            "millrace emit user --file a --sample 1",
            "millrace emit user --file a --seed 1",
            "millrace emit user --sample 1 --skip-bad",
            "millrace topics tail",
            "millrace topics get orders",
            "millrace audit",
            "millrace audit sale",
            "millrace audit sale today",
            "millrace audit sale 20260231T0900Z",
            "millrace dead-letters --since 5",
            "millrace dead-letters --until yesterday",
            "millrace dead-letters retry",
            "millrace dead-letters retry --reason invalid",
            "millrace dead-letters retry clicks/0@1 --projection clicks --reason invalid",
        ] {
            assert!(Cli::try_parse_from(line.split(' ')).is_err(), "{line}");
        }
    }
}
