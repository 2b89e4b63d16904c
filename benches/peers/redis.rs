//! A Redis of the bench's own: a cache that keeps nothing on disk and forgets what was not used for long.

use std::net::TcpListener;

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{it::world::eventually, peer::Peer, tools};

/// What it may hold; more than any row puts in.
const MEMORY_MAX: &str = "2gb";
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// The server; killed when it is dropped.
pub struct Redis {
    /// Host and port.
    pub address: String,
    _peer: Peer,
}

impl Redis {
    /// Starts it on a free port, and waits until it answers.
    ///
    /// # Errors
    /// If it cannot be started.
    pub async fn start() -> Result<Self> {
        let port = free_port()?.to_string();
        let settings = [
            ["--port", &port],
            ["--bind", "127.0.0.1"],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--maxmemory", MEMORY_MAX],
            ["--maxmemory-policy", "allkeys-lru"],
            ["--loglevel", "warning"],
        ];
        let redis = Self {
            address: format!("127.0.0.1:{port}"),
            _peer: Peer::start(tools::path("redis").await?, settings.as_flattened())?,
        };
        eventually("Redis answers", async || redis.reads().await.ok()).await;
        Ok(redis)
    }

    /// Reads that found something, and that found nothing.
    ///
    /// # Errors
    /// If it does not answer.
    pub async fn reads(&self) -> Result<(i64, i64)> {
        let mut stream = TcpStream::connect(&self.address).await?;
        stream.write_all(b"INFO stats\r\nQUIT\r\n").await?;
        let mut told = String::new();
        let mut answer = stream.take(ANSWER_BYTES_MAX as u64);
        answer.read_to_string(&mut told).await?;
        let number = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name));
            let line = line.with_context(|| format!("Redis said {told}"))?;
            anyhow::Ok(line.parse::<i64>()?)
        };
        Ok((number("keyspace_hits:")?, number("keyspace_misses:")?))
    }
}

/// A port that nobody had a moment ago.
fn free_port() -> Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
