//! What can be said on the command line. One struct a command; `--help` is the reference.

use std::{
    io::{self, IsTerminal},
    path::PathBuf,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand, ValueEnum};
use producers::kafka::{Kafka, Property};
use projections::db::Database;
use schemas::registry::Registry;
use tracing_subscriber::EnvFilter;

use crate::commands::serve::{ApiArgs, ProcessArgs, RunArgs};

/// Event-sourced commerce backend on Kafka: every number can be rebuilt and proved from its log.
///
/// Exit codes: 0 done, 1 failed, 2 used wrongly.
#[derive(Debug, Parser)]
#[command(
    name = "millrace",
    version,
    propagate_version = true,
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
    /// List the topics, look into them, create them.
    Topics(TopicsArgs),
}

impl Command {
    /// Whether it runs until it is told to stop.
    pub fn is_server(&self) -> bool {
        matches!(self, Self::Run(_) | Self::Api(_) | Self::Process(_))
    }
}

/// Where Kafka, the schema registry and Postgres are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Connections")]
pub struct Connection {
    /// Kafka brokers to start from, `host:port[,…]`.
    #[arg(
        long,
        env = "MILLRACE_BROKERS",
        default_value = "127.0.0.1:19092",
        value_name = "ADDRESSES",
        global = true
    )]
    pub brokers: String,
    /// The schema registry: the address of its Confluent-compatible API.
    #[arg(
        long,
        env = "MILLRACE_REGISTRY_URL",
        default_value = "http://127.0.0.1:18081/apis/ccompat/v7",
        value_name = "URL",
        hide_env_values = true,
        global = true
    )]
    pub registry_url: String,
    /// Postgres: `postgres://user:password@host:port/database`.
    #[arg(
        long,
        env = "DATABASE_URL",
        default_value = "postgres://millrace@127.0.0.1:15432/millrace",
        value_name = "URL",
        hide_env_values = true,
        global = true
    )]
    pub database_url: String,
    /// What the names of all topics begin with, such as `shop.`; each prefix needs a database of its own.
    #[arg(
        long,
        env = "MILLRACE_TOPIC_PREFIX",
        default_value = "",
        hide_default_value = true,
        value_name = "PREFIX",
        value_parser = topic_prefix,
        global = true
    )]
    pub topic_prefix: String,
    /// A setting of librdkafka for every Kafka client, such as `security.protocol=SASL_SSL`; may be repeated.
    #[arg(
        long,
        env = "MILLRACE_KAFKA",
        value_delimiter = ',',
        value_name = "KEY=VALUE",
        hide_env_values = true,
        global = true
    )]
    pub kafka: Vec<Property>,
}

impl Connection {
    /// How to reach Kafka.
    pub fn kafka(&self) -> Kafka {
        Kafka {
            brokers: self.brokers.clone(),
            prefix: self.topic_prefix.clone(),
            properties: self.kafka.clone(),
        }
    }

    /// The schema registry; connects at the first call.
    ///
    /// # Errors
    /// If TLS cannot be set up on this machine.
    pub fn registry(&self) -> anyhow::Result<Registry> {
        Registry::new(&self.registry_url).context("no client for the schema registry")
    }

    /// The database; does not connect.
    ///
    /// # Errors
    /// If the address is none of Postgres.
    pub fn database(&self) -> anyhow::Result<Database> {
        Ok(Database::new(&self.database_url)?)
    }
}

/// What is logged to stderr, and how.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logs")]
pub struct Logging {
    /// What to log: a level (error, warn, info, debug, trace), or levels by module such as `info,processors=debug`.
    /// Servers begin at info, other commands at warn.
    #[arg(long, env = "MILLRACE_LOG", value_name = "LEVELS", value_parser = levels, global = true)]
    log: Option<String>,
    /// How log lines look; json where stderr is no terminal.
    #[arg(
        long,
        env = "MILLRACE_LOG_FORMAT",
        value_name = "FORMAT",
        value_enum,
        global = true
    )]
    log_format: Option<LogFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    Text,
    Json,
}

/// What librdkafka says of its attempts to connect is told by the commands in their own words.
const SERVER_LEVELS: &str = "info,sqlx=warn,librdkafka=error,rdkafka=error";
const COMMAND_LEVELS: &str = "warn,librdkafka=off,rdkafka=off";

impl Logging {
    /// Starts to log; once, before anything else.
    pub fn start(&self, is_server: bool) {
        let unless_told = if is_server {
            SERVER_LEVELS
        } else {
            COMMAND_LEVELS
        };
        let filter = EnvFilter::new(self.log.as_deref().unwrap_or(unless_told));
        let on_terminal = io::stderr().is_terminal();
        let unless_told = if on_terminal {
            LogFormat::Text
        } else {
            LogFormat::Json
        };
        let log = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_writer(io::stderr);
        match self.log_format.unwrap_or(unless_told) {
            LogFormat::Text => log.with_ansi(on_terminal).init(),
            LogFormat::Json => log.json().flatten_event(true).init(),
        }
    }
}

/// Append events to the log.
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
}

#[derive(Debug, Args)]
pub struct EmitClick {
    /// The banner that is clicked.
    #[arg(long, value_name = "ID", value_parser = clap::value_parser!(i64).range(0..), allow_negative_numbers = true)]
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

/// How events are sent, and how the outcome is told.
#[derive(Debug, Clone, Copy, Args)]
pub struct Manner {
    /// Events a second; without it, as fast as it goes.
    #[arg(long, value_name = "R", value_parser = rate, allow_negative_numbers = true)]
    pub rate: Option<f64>,
    /// Sends nothing and says what would be sent.
    #[arg(long)]
    pub dry_run: bool,
    /// Prints the outcome as JSON: how many were appended, not written, unknown, and the last position of each
    /// partition.
    #[arg(long)]
    pub json: bool,
}

/// List the topics, look into them, create them. Without a command: a list.
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
    /// Create the topics that are missing and register their schemas; report what differs and alter nothing.
    ///
    /// May be repeated. Fails if a topic differs from what it has to be.
    Apply {
        /// Only says what would be done.
        #[arg(long)]
        dry_run: bool,
    },
}

fn topic_prefix(text: &str) -> Result<String, String> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if text.chars().all(allowed) && text.len() <= 100 {
        return Ok(text.to_owned());
    }
    Err("names of topics have letters, digits, '.', '_' and '-'".to_owned())
}

fn levels(text: &str) -> Result<String, String> {
    match EnvFilter::try_new(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(error.to_string()),
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
}
