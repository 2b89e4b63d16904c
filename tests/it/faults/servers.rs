//! Servers that a test may kill: a set of their own, one for all tests of a run, which take turns.

use std::{
    env,
    net::TcpListener,
    path::PathBuf,
    process::{self, Child, Command, Stdio},
    sync::OnceLock,
};

use rand::RngExt;
use tokio::{
    sync::{Mutex, MutexGuard},
    task::spawn_blocking,
};

use crate::world::{Servers, process::forget_environment};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/docker/servers");
const DIST: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/.servers/dist");
const PORTS: [&str; 4] = [
    "MILLRACE_KAFKA_PORT",
    "MILLRACE_KAFKA_CONTROLLER_PORT",
    "MILLRACE_REGISTRY_PORT",
    "MILLRACE_POSTGRES_PORT",
];

static TURNS: Mutex<()> = Mutex::const_new(());
static SET: OnceLock<Set> = OnceLock::new();

/// The right to do anything to the servers, until it is dropped.
pub struct Turn {
    set: &'static Set,
    _only_one: MutexGuard<'static, ()>,
}

/// Waits for its turn, and gives servers that all run, whatever the test before has done to them.
pub async fn servers_to_kill() -> Turn {
    let only_one = TURNS.lock().await;
    let set = SET.get_or_init(|| Set::new(1));
    run(set, &["start"]).await;
    Turn {
        set,
        _only_one: only_one,
    }
}

impl Turn {
    /// Where they are.
    pub fn servers(&self) -> Servers {
        let [kafka, _, registry, postgres] = self.set.ports;
        Servers {
            brokers: format!("127.0.0.1:{kafka}"),
            registry_url: format!("http://127.0.0.1:{registry}/apis/ccompat/v7"),
            postgres_url: format!("postgres://millrace@127.0.0.1:{postgres}/millrace"),
        }
    }

    /// `kill -9`: `kafka`, `registry` or `postgres`.
    pub async fn kill(&self, server: &'static str) {
        run(self.set, &["stop", "--only", server, "--kill"]).await;
    }

    /// Starts it again, and waits until it answers.
    pub async fn start(&self, server: &'static str) {
        run(self.set, &["start", "--only", server]).await;
    }
}

/// Servers on ports of their own, with a folder of their own.
pub struct Set {
    folder: PathBuf,
    brokers: u16,
    /// As [`PORTS`]; of further brokers each has those two above the one before.
    pub ports: [u16; 4],
    /// Reads until this process has ended, however it ends; then it kills the servers and deletes their data.
    _undertaker: Child,
}

impl Set {
    /// With one broker or three; nothing is started.
    pub fn new(brokers: u16) -> Self {
        let name = format!("faults-{}-{brokers}", process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let first = free_ports(2 * brokers + 2);
        let after = first + 2 * brokers;
        let ports = [first, first + 1, after, after + 1];
        let mut undertaker = Command::new("setsid");
        settings(&mut undertaker, &folder, brokers, ports);
        let undertaker = undertaker
            .args(["sh", "-c", "cat; \"$0\" stop --kill; \"$0\" clean", SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            _undertaker: undertaker,
            folder,
            brokers,
            ports,
        }
    }
}

fn settings(command: &mut Command, folder: &PathBuf, brokers: u16, ports: [u16; 4]) {
    forget_environment(command);
    let dist = env::var("MILLRACE_DIST_DIR").unwrap_or_else(|_| DIST.to_owned());
    command
        .env("MILLRACE_DIST_DIR", dist)
        .env("MILLRACE_SERVERS_DIR", folder)
        .env("MILLRACE_BROKER_COUNT", brokers.to_string());
    for (name, port) in PORTS.into_iter().zip(ports) {
        command.env(name, port.to_string());
    }
}

/// The first of so many ports in a row that nobody listens on, below those that connections take for themselves: a
/// server that was killed must find its port free again.
fn free_ports(count: u16) -> u16 {
    let mut random = super::random("ports");
    let is_free = |port| TcpListener::bind(("127.0.0.1", port)).is_ok();
    let found = (0..1_000).find_map(|_| {
        let first = random.random_range(20_000..32_000_u16);
        (first..first + count).all(is_free).then_some(first)
    });
    found.expect("free ports")
}

/// Runs `docker/servers` for a set.
pub async fn run(set: &Set, args: &[&str]) {
    let mut command = Command::new(SCRIPT);
    settings(&mut command, &set.folder, set.brokers, set.ports);
    command.args(args).stdin(Stdio::null());
    let output = spawn_blocking(move || command.output())
        .await
        .unwrap()
        .unwrap();
    assert!(
        output.status.success(),
        "docker/servers {}: {}{}",
        args.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
