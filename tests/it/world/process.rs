//! A `millrace` that runs until it is told to stop: started, watched, paused and killed by a test.

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr, Command, ExitStatus, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
    time::Duration,
};

use processors::runtime;
use serde_json::Value;

use super::{PATIENCE, eventually, eventually_within};

/// The program under test.
pub const BINARY: &str = env!("CARGO_BIN_EXE_millrace");

/// A child process. Killed when dropped; its logs are printed if the test fails, and may not tell of a panic.
pub struct Process {
    /// The command line.
    pub what: String,
    child: Child,
    logs: Arc<Mutex<Vec<String>>>,
    reader: Option<JoinHandle<()>>,
    is_api: bool,
    parts: Vec<String>,
    /// `http://127.0.0.1:port`, once it listens.
    pub(super) url: Option<String>,
    pub(super) http: reqwest::Client,
}

/// Names of settings that do not begin with ours.
const OF_THE_MACHINE: [&str; 5] = [
    "PORT",
    "PG_MAX_CONNS",
    "DATABASE_URL",
    "CACHE_TTL_SECONDS",
    "REQUEST_TIMEOUT_MS",
];

/// Settings of the machine are none of the test.
pub fn forget_environment(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        if name.starts_with("MILLRACE_") || OF_THE_MACHINE.contains(&&*name) {
            command.env_remove(name);
        }
    }
}

impl Process {
    /// Starts `millrace` with these arguments and settings.
    pub fn spawn(args: &[&str], env: &[(&str, String)]) -> Self {
        let mut command = Command::new(BINARY);
        forget_environment(&mut command);
        let mut child = command
            .args(args)
            .envs(env.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let logs = Arc::default();
        let reader = child
            .stderr
            .take()
            .map(|stderr| read_logs(stderr, Arc::clone(&logs)));
        Self {
            what: format!("millrace {}", args.join(" ")),
            child,
            logs,
            reader,
            is_api: matches!(args.first(), Some(&("run" | "api"))),
            parts: parts(args),
            url: None,
            http: reqwest::Client::new(),
        }
    }

    /// Waits until it is ready: an API says so itself, a fold in its logs.
    pub async fn ready(&mut self) {
        if self.is_api {
            self.listening().await;
            let what = format!("{} is ready", self.what);
            eventually(&what, async || {
                self.must_be_alive();
                (self.get("/readyz").await.status == 200).then_some(())
            })
            .await;
            return;
        }
        for part in self.parts.clone() {
            self.logged(&format!("{part} is running"), |line| {
                line["message"] == "is running" && line["part"] == part
            })
            .await;
        }
    }

    /// Waits until it listens: it may not be ready yet.
    pub async fn listening(&mut self) {
        let line = self
            .logged("it listens", |line| line["message"] == "listening")
            .await;
        let address = line["address"].as_str().unwrap();
        self.url = Some(format!("http://{address}"));
    }

    /// Waits for a line of its logs, and gives it.
    pub async fn logged(&mut self, what: &str, is_it: impl Fn(&Value) -> bool) -> Value {
        let what = format!("log of {}: {what}", self.what);
        eventually(&what, async || {
            let found = self.logs().iter().find_map(|line| {
                let line: Value = serde_json::from_str(line).ok()?;
                is_it(&line).then_some(line)
            });
            if found.is_none() {
                self.must_be_alive();
            }
            found
        })
        .await
    }

    /// Everything that it has logged, a line an element.
    pub fn logs(&self) -> Vec<String> {
        self.logs
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Its process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// The most memory that it has taken, in KiB.
    pub fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmHWM:"))
            .unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    }

    /// `kill -9`, and waits until it is dead.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.read_to_end();
    }

    /// SIGTERM: waits until it has ended, and asserts that it ended well.
    pub async fn terminate(&mut self) {
        self.signal("TERM");
        let status = self.ended().await;
        assert_eq!(status.code(), Some(0), "{} after SIGTERM", self.what);
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> ExitStatus {
        self.ended_within(PATIENCE).await
    }

    /// The same with another limit.
    pub async fn ended_within(&mut self, patience: Duration) -> ExitStatus {
        let what = format!("{} has ended", self.what);
        let status = async || self.child.try_wait().unwrap();
        let status = eventually_within(patience, &what, status).await;
        self.read_to_end();
        status
    }

    /// Sends SIGTERM without waiting.
    pub fn ask_to_stop(&self) {
        self.signal("TERM");
    }

    /// SIGSTOP: it stands still, as in a long pause of the machine.
    pub fn pause(&self) {
        self.signal("STOP");
    }

    /// SIGCONT.
    pub fn resume(&self) {
        self.signal("CONT");
    }

    fn signal(&self, name: &str) {
        let sent = Command::new("kill")
            .args([format!("-{name}"), self.id().to_string()])
            .status();
        assert!(sent.unwrap().success(), "SIG{name} to {}", self.what);
    }

    fn must_be_alive(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("{} ended early: {status}", self.what);
        }
    }

    /// Nothing that it said may be missed.
    fn read_to_end(&mut self) {
        if let Some(reader) = self.reader.take() {
            let _ = reader.join();
        }
    }
}

/// The parts that have to run in a process without an API.
fn parts(args: &[&str]) -> Vec<String> {
    let only = args
        .iter()
        .position(|arg| *arg == "--only")
        .and_then(|at| args.get(at + 1));
    let names: Vec<_> = match only {
        Some(names) => names.split(',').collect(),
        None => runtime::names().collect(),
    };
    names.iter().map(|name| format!("fold {name}")).collect()
}

fn read_logs(stderr: ChildStderr, logs: Arc<Mutex<Vec<String>>>) -> JoinHandle<()> {
    thread::spawn(move || {
        for line in BufReader::new(stderr).lines().map_while(Result::ok) {
            logs.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(line);
        }
    })
}

impl Drop for Process {
    #[expect(clippy::print_stderr, reason = "the logs explain why the test failed")]
    fn drop(&mut self) {
        // Fails if it is dead already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        self.read_to_end();
        let logs = self.logs();
        if thread::panicking() {
            eprintln!(
                "---- logs of {}, pid {}\n{}",
                self.what,
                self.id(),
                logs.join("\n")
            );
            return;
        }
        let panicked = logs.iter().find(|line| line.contains("panicked"));
        assert_eq!(
            panicked,
            None,
            "{} panicked:\n{}",
            self.what,
            logs.join("\n")
        );
    }
}
