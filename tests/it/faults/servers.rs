//! Servers that a test may kill: a set of their own, one for all tests of a run, which take turns.

use std::{
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
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
/// The settings of the first ports of a set; its other two are those of [`Turn::proxied_kafka`].
const PORTS: [&str; 4] = [
    "MILLRACE_KAFKA_PORT",
    "MILLRACE_KAFKA_CONTROLLER_PORT",
    "MILLRACE_REGISTRY_PORT",
    "MILLRACE_POSTGRES_PORT",
];

/// What is left of a set when nobody writes to it any more: no server, no mount (see `disk`), no data.
const BURIAL: &str =
    r#"cat; "$0" stop --kill; umount --lazy "$MILLRACE_SERVERS_DIR"/*; "$0" clean"#;

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
    let set = SET.get_or_init(Set::new);
    run(set, &["start"]).await;
    Turn {
        set,
        _only_one: only_one,
    }
}

impl Turn {
    /// Where they are.
    pub fn servers(&self) -> Servers {
        let [kafka, _, registry, postgres, ..] = self.set.ports;
        Servers {
            brokers: format!("127.0.0.1:{kafka}"),
            registry_url: format!("http://127.0.0.1:{registry}/apis/ccompat/v7"),
            postgres_url: format!("postgres://millrace@127.0.0.1:{postgres}/millrace"),
        }
    }

    /// For a proxy in front of Kafka: where it has to listen, since Kafka sends its clients there, and where Kafka is.
    pub fn proxied_kafka(&self) -> [String; 2] {
        let [.., proxy, proxied] = self.set.ports;
        [proxy, proxied].map(|port| format!("127.0.0.1:{port}"))
    }

    /// Where a server has its data.
    pub fn folder(&self, server: &str) -> PathBuf {
        self.set.folder.join(server)
    }

    /// Makes a folder one in which Postgres can write.
    pub fn give_to_postgres(&self, folder: &Path) {
        let reference = format!("--reference={}", self.folder("postgres").display());
        let given = Command::new("chown").arg(reference).arg(folder).status();
        assert!(given.unwrap().success(), "chown {}", folder.display());
    }

    /// SIGSTOP: it stands still until what this gives is dropped. Not for Postgres, which has many processes.
    pub fn pause(&self, server: &str) -> Paused {
        let paused = Paused(self.pid(server));
        paused.signal("-STOP");
        paused
    }

    /// `kill -9` when what this gives is dropped, also by a test that fails.
    pub fn kill_at_the_end(&self, server: &str) -> KilledAtTheEnd {
        KilledAtTheEnd(self.set.folder.join("run").join(server))
    }

    fn pid(&self, server: &str) -> String {
        pid(&self.set.folder.join("run").join(server))
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

/// A server that stands still. Dropped, it goes on.
pub struct Paused(String);

impl Paused {
    fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([signal, &self.0]).status();
        assert!(sent.unwrap().success(), "{signal} to {}", self.0);
    }
}

impl Drop for Paused {
    fn drop(&mut self) {
        self.signal("-CONT");
    }
}

/// A server that has to be dead when this is dropped.
pub struct KilledAtTheEnd(PathBuf);

impl Drop for KilledAtTheEnd {
    fn drop(&mut self) {
        // Fails if it is dead already.
        let _ = Command::new("kill").args(["-KILL", &pid(&self.0)]).status();
    }
}

/// What a pid file says.
fn pid(file: &Path) -> String {
    let text = fs::read_to_string(file).unwrap_or_default();
    text.split(' ').next().unwrap_or_default().to_owned()
}

/// Servers on ports of their own, with a folder of their own.
struct Set {
    folder: PathBuf,
    ports: [u16; 6],
    /// Reads until this process has ended, however it ends; then it kills the servers and deletes their data.
    _undertaker: Child,
}

impl Set {
    fn new() -> Self {
        let name = format!("faults-{}", process::id());
        let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        let ports = free_ports();
        fs::create_dir_all(folder.join("run")).unwrap();
        fs::write(kafka_settings(&folder), second_listener(ports)).unwrap();
        let mut undertaker = Command::new("setsid");
        settings(&mut undertaker, &folder, ports);
        let undertaker = undertaker
            .args(["sh", "-c", BURIAL, SCRIPT])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        Self {
            _undertaker: undertaker,
            folder,
            ports,
        }
    }
}

fn kafka_settings(folder: &Path) -> PathBuf {
    folder.join("run/kafka.properties")
}

/// Kafka tells its clients where to connect, so a proxy needs a listener that is advertised as the proxy.
fn second_listener([kafka, controller, _, _, proxy, proxied]: [u16; 6]) -> String {
    let listeners = |third: u16| {
        format!(
            "PLAINTEXT://127.0.0.1:{kafka},CONTROLLER://127.0.0.1:{controller},PROXIED://127.0.0.1:{third}"
        )
    };
    format!(
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PROXIED:PLAINTEXT\n\
         listeners={}\nadvertised.listeners={}\n",
        listeners(proxied),
        listeners(proxy)
    )
}

fn settings(command: &mut Command, folder: &Path, ports: [u16; 6]) {
    forget_environment(command);
    let dist = env::var("MILLRACE_DIST_DIR").unwrap_or_else(|_| DIST.to_owned());
    command
        .env("MILLRACE_DIST_DIR", dist)
        .env("MILLRACE_SERVERS_DIR", folder)
        .env("MILLRACE_KAFKA_SETTINGS", kafka_settings(folder));
    for (name, port) in PORTS.into_iter().zip(ports) {
        command.env(name, port.to_string());
    }
}

/// Ports that nobody listens on, below those that connections take for themselves: a server that was killed must find
/// its port free again.
fn free_ports() -> [u16; 6] {
    let mut random = super::random("ports");
    // All are held until all are found, so that they differ.
    let found = [(); 6].map(|()| {
        let free = (0..1_000).find_map(|_| {
            let port = random.random_range(20_000..32_000_u16);
            TcpListener::bind(("127.0.0.1", port)).ok()
        });
        free.expect("a free port")
    });
    found.map(|listener| listener.local_addr().unwrap().port())
}

async fn run(set: &Set, args: &[&str]) {
    let mut command = Command::new(SCRIPT);
    settings(&mut command, &set.folder, set.ports);
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
