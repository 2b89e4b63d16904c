//! Processes of peers: started here, and gone when they are dropped, also if this program is killed.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method, StatusCode};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

use crate::it::world::PATIENCE;

/// A process.
pub struct Peer {
    what: String,
    child: Child,
    printed: Lines<BufReader<ChildStdout>>,
}

impl Peer {
    /// Starts a program. Not from a thread that may end before this program does: the kernel kills with the thread.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn start(program: impl AsRef<OsStr>, arguments: &[&str]) -> Result<Self> {
        let what = format!("{} {}", program.as_ref().display(), arguments.join(" "));
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| what.clone())?;
        let printed = child.stdout.take().context("no output")?;
        Ok(Self {
            what,
            child,
            printed: BufReader::new(printed).lines(),
        })
    }

    /// Starts one of the programs of `go`.
    ///
    /// # Errors
    /// If it cannot be started.
    pub fn go(arguments: &[&str]) -> Result<Self> {
        Self::start(built("peers"), arguments)
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// If it does not come within this time.
    pub async fn line(&mut self, within: Duration) -> Result<String> {
        let line = timeout(within, self.printed.next_line()).await;
        let line = line.with_context(|| format!("{} says nothing for {within:?}", self.what))??;
        line.with_context(|| format!("{} ended early", self.what))
    }

    /// Waits until it has ended by itself.
    ///
    /// # Errors
    /// If it failed, or does not end.
    pub async fn ended(&mut self) -> Result<()> {
        let ended = timeout(PATIENCE, self.child.wait()).await;
        let status = ended.with_context(|| format!("{} does not end", self.what))??;
        ensure!(status.success(), "{}: {status}", self.what);
        Ok(())
    }
}

/// Where `docker/peers` has put something.
pub fn built(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("peers");
    folder.join(name)
}

/// A peer that answers over HTTP. It prints its address first.
pub struct Server {
    /// Host and port.
    pub address: String,
    http: Client,
    _peer: Peer,
}

impl Server {
    /// Starts one of the programs of `go`, and waits until it listens.
    ///
    /// # Errors
    /// If it does not.
    pub async fn go(arguments: &[&str]) -> Result<Self> {
        let mut peer = Peer::go(arguments)?;
        Ok(Self {
            address: peer.line(PATIENCE).await?,
            http: Client::new(),
            _peer: peer,
        })
    }

    /// The URL of a path.
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The body of an answer with this status.
    ///
    /// # Errors
    /// If it has another.
    pub async fn ask(&self, method: Method, path: &str, status: u16) -> Result<String> {
        let request = self.http.request(method, self.url(path)).timeout(PATIENCE);
        let answer = request.send().await?;
        let (found, body) = (answer.status(), answer.text().await?);
        ensure!(
            found == StatusCode::from_u16(status)?,
            "{path}: {found} {body}"
        );
        Ok(body)
    }

    /// The JSON of a `GET`.
    ///
    /// # Errors
    /// If there is none.
    pub async fn json(&self, path: &str) -> Result<Value> {
        let body = self.ask(Method::GET, path, 200).await?;
        serde_json::from_str(&body).with_context(|| format!("{path}: {body}"))
    }
}
