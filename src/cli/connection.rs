//! What every command takes: where the servers are, and what is logged.

use std::{
    io::{self, IsTerminal},
    panic,
};

use anyhow::Context;
use clap::{Args, ValueEnum};
use producers::kafka::{Kafka, Property};
use projections::db::Database;
use schemas::registry::Registry;
use tracing::{Level, error};
use tracing_subscriber::EnvFilter;

use crate::logs::Lines;

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
    /// How log lines look; json where stderr is no terminal. A line of JSON has timestamp, level, target, message and
    /// its fields; trace_id where it belongs to a request or to a record with a traceparent header.
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
            // Whoever read the log may have gone; saying so on the same way would panic in the thread that logs.
            .log_internal_errors(false)
            .with_writer(io::stderr);
        match self.log_format.unwrap_or(unless_told) {
            LogFormat::Text => log.with_ansi(on_terminal).init(),
            LogFormat::Json => {
                log.json().event_format(Lines::default()).init();
                let otherwise = panic::take_hook();
                panic::set_hook(Box::new(move |panic| {
                    if !tracing::enabled!(Level::ERROR) {
                        return otherwise(panic);
                    }
                    error!(%panic, "panicked");
                }));
            }
        }
    }
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
