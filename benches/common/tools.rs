//! Tools that others wrote: wrk asks as fast as it goes, oha at a rate, pgbench asks Postgres; Kafka's own tell of its disks.

use std::{fs, path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::process::Command;

use crate::{
    it::world::{World, run_to_end},
    run::Latency,
};

/// What wrk runs: see there.
const WRK_SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/benches/common/wrk.lua");
/// Threads of wrk; more would take cores from the server.
const WRK_THREADS: &str = "2";
const PGBENCH_THREADS: &str = "2";

/// What wrk counted. It ends without waiting for the last answers: a request of each connection may have none.
#[derive(Debug, Clone, Deserialize, Serialize)]
pub struct Wrk {
    /// Answers.
    pub answers: i64,
    /// Answers from 400 on.
    pub refused: i64,
    /// Connections that broke or took too long.
    pub failed: i64,
    /// How long it took.
    pub seconds: f64,
    /// Of the time to an answer, in milliseconds; from sending, which waits for the answer before.
    pub p50_ms: f64,
    /// As above.
    pub p99_ms: f64,
    /// As above.
    pub max_ms: f64,
}

impl Wrk {
    /// Answers a second.
    pub fn rate(&self) -> f64 {
        self.answers as f64 / self.seconds
    }
}

/// What wrk asks for beside the address.
#[derive(Debug, Clone, Copy)]
pub enum Turns {
    /// Nothing.
    None,
    /// This query with the numbers from 1 to so many in the place of its `%d`, in turn.
    Of(&'static str, usize),
    /// The same, each number once, from some place of a fixed shuffle on; the query has a plain `%d`.
    Once(&'static str, usize, i64),
}

impl Turns {
    fn arguments(self) -> Vec<String> {
        match self {
            Self::None => vec!["0".to_owned()],
            Self::Of(query, count) => vec![count.to_string(), query.to_owned()],
            Self::Once(query, count, start) => {
                vec![count.to_string(), query.to_owned(), start.to_string()]
            }
        }
    }
}

/// Asks for a URL over so many connections, each of which waits for its answer.
///
/// # Errors
/// If a request failed.
pub async fn wrk(url: &str, connections: i64, seconds: u64, turns: Turns) -> Result<Wrk> {
    let arguments = turns.arguments();
    let script: Vec<_> = std::iter::once("GET")
        .chain(arguments.iter().map(String::as_str))
        .collect();
    let counted = run_wrk(url, connections, seconds, &script).await?;
    ensure!(
        counted.refused == 0,
        "{} requests of {url} were refused",
        counted.refused
    );
    Ok(counted)
}

/// The same with POST, where every answer has to be a refusal, from 400 on.
///
/// # Errors
/// If a request failed, or was not refused.
pub async fn wrk_refused(url: &str, connections: i64, seconds: u64) -> Result<Wrk> {
    let counted = run_wrk(url, connections, seconds, &["POST"]).await?;
    ensure!(
        counted.refused == counted.answers,
        "of {} requests of {url}, {} were refused",
        counted.answers,
        counted.refused
    );
    Ok(counted)
}

/// Changes segments of so many users with POST, each request with a key of its own that begins with this name.
///
/// # Errors
/// If a request failed or was refused.
pub async fn wrk_keyed(
    url: &str,
    connections: i64,
    seconds: u64,
    name: &str,
    users: usize,
) -> Result<Wrk> {
    let users = users.to_string();
    let counted = run_wrk(url, connections, seconds, &["KEYED", name, &users]).await?;
    ensure!(
        counted.refused == 0,
        "{} requests of {url} were refused",
        counted.refused
    );
    Ok(counted)
}

async fn run_wrk(url: &str, connections: i64, seconds: u64, script: &[&str]) -> Result<Wrk> {
    let mut command = Command::new(path("wrk").await?);
    command
        .args(["-t", WRK_THREADS, "-s", WRK_SCRIPT])
        .args(["-c", &connections.to_string(), "--timeout", "10s"])
        .args(["-d", &format!("{seconds}s"), url, "--"])
        .args(script);
    let printed = printed(command).await?;
    let last = printed.lines().last().unwrap_or_default();
    let counted: Wrk = serde_json::from_str(last).with_context(|| format!("wrk said {printed}"))?;
    ensure!(
        counted.failed == 0,
        "{} requests of {url} failed: {printed}",
        counted.failed
    );
    Ok(counted)
}

/// Runs a statement by pgbench over so many connections, prepared, with these `\set` lines before it. Gives how many
/// it ran a second.
///
/// # Errors
/// If one failed.
pub async fn pgbench(world: &World, script: &str, connections: u32, seconds: u64) -> Result<f64> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{}.sql", world.database));
    fs::write(&file, script)?;
    let mut command = Command::new(path("pgbench").await?);
    command
        .args(["-n", "-M", "prepared", "-j", PGBENCH_THREADS])
        .args(["-c", &connections.to_string(), "-T", &seconds.to_string()])
        .arg("-f")
        .arg(&file)
        .arg(world.database_url());
    let printed = printed(command).await;
    fs::remove_file(&file)?;
    let printed = printed?;
    let rate = printed.lines().find_map(|line| line.strip_prefix("tps = "));
    let rate = rate.and_then(|rest| rest.split(' ').next()?.parse().ok());
    let failed = "number of failed transactions: 0 ";
    ensure!(printed.contains(failed), "pgbench said {printed}");
    rate.with_context(|| format!("pgbench said {printed}"))
}

/// What oha measured at its rate: the time from when a request was due, so a wait for a free connection counts.
#[derive(Debug, Clone, Serialize)]
pub struct Oha {
    /// Answers with the status that was expected.
    pub answers: i64,
    /// Answers a second.
    pub rate: f64,
    /// Of the time to an answer, in milliseconds.
    pub p50_ms: f64,
    /// As above.
    pub p99_ms: f64,
    /// As above.
    pub max_ms: f64,
}

impl Oha {
    /// How long an answer took while so much was asked for.
    pub fn latency(&self, load: &str, what: &'static str) -> Latency {
        Latency {
            load: load.to_owned(),
            what,
            p50_ms: self.p50_ms,
            p99_ms: self.p99_ms,
            max_ms: self.max_ms,
        }
    }
}

/// What is asked for at a rate.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The method.
    pub method: &'static str,
    /// The address.
    pub url: &'a str,
    /// The status of every answer.
    pub status: u16,
    /// Over how many connections; a request waits for a free one.
    pub connections: i64,
}

/// Asks at a rate, whatever the answers.
///
/// # Errors
/// If an answer had another status.
pub async fn oha(asked: Asked<'_>, rate: f64, lasting: Duration) -> Result<Oha> {
    let mut command = Command::new(path("oha").await?);
    command
        .args([
            "--no-tui",
            "--output-format",
            "json",
            "--latency-correction",
        ])
        .args(["-c", &asked.connections.to_string()])
        .args(["-q", &format!("{rate:.0}")])
        .args(["-z", &format!("{}ms", lasting.as_millis())])
        .args(["-m", asked.method, asked.url])
        // What was sent is waited for: it will be counted.
        .arg("--wait-ongoing-requests-after-deadline");
    let printed = printed(command).await?;
    let found: Value = serde_json::from_str(&printed).context("what oha printed")?;
    let statuses = &found["statusCodeDistribution"];
    let answers = statuses[asked.status.to_string()]
        .as_i64()
        .unwrap_or_default();
    let only_good = statuses.as_object().is_some_and(|all| all.len() == 1);
    let without_errors = found["errorDistribution"]
        .as_object()
        .is_some_and(serde_json::Map::is_empty);
    ensure!(
        answers > 0 && only_good && without_errors,
        "answers to oha: {statuses}, errors: {}",
        found["errorDistribution"]
    );
    let ms = |value: &Value| value.as_f64().unwrap_or(f64::NAN) * 1e3;
    Ok(Oha {
        answers,
        rate: found["summary"]["requestsPerSec"]
            .as_f64()
            .unwrap_or(f64::NAN),
        p50_ms: ms(&found["latencyPercentiles"]["p50"]),
        p99_ms: ms(&found["latencyPercentiles"]["p99"]),
        max_ms: ms(&found["summary"]["slowest"]),
    })
}

/// Bytes of a topic in the log folders of all brokers, as these tell them.
///
/// # Errors
/// If they do not.
pub async fn log_bytes(world: &World, topic: &str) -> Result<u64> {
    let mut command = Command::new(path("java").await?);
    command
        .args(["-XX:TieredStopAtLevel=1", "-cp"])
        .arg(format!("{}/*", path("kafka").await?))
        // Its logs would stand among what it prints.
        .arg("-Dorg.apache.logging.log4j.level=OFF")
        .args(["org.apache.kafka.tools.LogDirsCommand", "--describe"])
        .args(["--bootstrap-server", &world.servers.brokers])
        .args(["--topic-list", topic]);
    let printed = printed(command).await?;
    let last = printed.lines().last().unwrap_or_default();
    let found: LogDirs = serde_json::from_str(last)
        .with_context(|| format!("Kafka said of its log folders: {printed}"))?;
    let folders = found.brokers.iter().flat_map(|broker| &broker.log_dirs);
    let partitions = folders.flat_map(|folder| &folder.partitions);
    Ok(partitions.map(|partition| partition.size).sum())
}

/// What `LogDirsCommand` prints.
#[derive(Deserialize)]
struct LogDirs {
    brokers: Vec<Broker>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Broker {
    log_dirs: Vec<LogDir>,
}

#[derive(Deserialize)]
struct LogDir {
    partitions: Vec<PartitionOfLogDir>,
}

#[derive(Deserialize)]
struct PartitionOfLogDir {
    size: u64,
}

/// Where a tool is: a program, or a folder of what it needs.
///
/// # Errors
/// If it is missing; says how to install it.
pub async fn path(name: &str) -> Result<String> {
    let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/docker/tools"));
    command.args(["path", name]);
    let asked = run_to_end(command, "").await;
    ensure!(asked.status == 0, "{}", asked.stderr.trim());
    Ok(asked.stdout.trim().to_owned())
}

/// Runs a tool to its end, and gives what it printed.
async fn printed(command: Command) -> Result<String> {
    let what = format!("{:?}", command.as_std());
    let output = run_to_end(command, "").await;
    ensure!(output.status == 0, "{what}: {output:?}");
    Ok(output.stdout)
}
