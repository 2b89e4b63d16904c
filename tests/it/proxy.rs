//! A TCP proxy between a process and its server, in the test's own runtime. It knows where messages begin and end, and
//! its rules say of each what becomes of it: so a server can be slow, mute or gone at a chosen message.

pub mod kafka;
pub mod postgres;

use std::{io, net::SocketAddr, sync::Arc};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    select,
    task::AbortHandle,
};
use tokio_util::sync::CancellationToken;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Pass,
    /// It is never seen again.
    Swallow,
    /// It is lost together with its connection.
    Cut,
    /// One half of it goes on, then the connection is lost.
    CutWithin,
}

/// Which way a message goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From the process to its server.
    Up,
    /// Back.
    Down,
}

/// Decides on messages. A message that waits for its verdict holds up those behind it.
pub trait Rules: Send + Sync + 'static {
    /// What has to be remembered of a connection.
    type Talk: Default + Send + Sync;

    /// The length in bytes of the message that these bytes begin; none if they do not tell yet.
    fn message_len(&self, talk: &Self::Talk, way: Way, bytes: &[u8]) -> Option<usize>;

    /// What becomes of a message.
    fn judge(
        &self,
        talk: &Self::Talk,
        way: Way,
        message: &[u8],
    ) -> impl Future<Output = Verdict> + Send;

    /// No message comes this way any more.
    fn ended(&self, _: &Self::Talk, _: Way) {}
}

/// A proxy at work; it and its connections end when it is dropped.
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    connections: CancellationToken,
    accepting: AbortHandle,
}

impl Proxy {
    /// Listens at `listen` and connects each who comes to the server at `upstream`, both `host:port`.
    pub async fn start<R: Rules>(listen: &str, upstream: &str, rules: Arc<R>) -> Self {
        let listener = TcpListener::bind(listen).await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = CancellationToken::new();
        let (upstream, all) = (upstream.to_owned(), connections.clone());
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (upstream, rules, cut) =
                    (upstream.clone(), Arc::clone(&rules), all.child_token());
                tokio::spawn(async move {
                    // Whoever is refused by the server is refused by its proxy: the connection just ends.
                    if let Ok(server) = TcpStream::connect(upstream).await {
                        let _ = connect(client, server, rules, cut).await;
                    }
                });
            }
        });
        Self {
            address,
            connections,
            accepting: accepting.abort_handle(),
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
        self.connections.cancel();
    }
}

async fn connect<R: Rules>(
    client: TcpStream,
    server: TcpStream,
    rules: Arc<R>,
    cut: CancellationToken,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let talk = R::Talk::default();
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let both_ways = async {
        tokio::try_join!(
            pump(&*rules, &talk, Way::Up, from_client, to_server),
            pump(&*rules, &talk, Way::Down, from_server, to_client),
        )
    };
    select! {
        ended = both_ways => ended.map(drop),
        () = cut.cancelled() => Ok(()),
    }
}

/// Carries messages one way until that way is closed; an error ends the connection both ways.
async fn pump<R: Rules>(
    rules: &R,
    talk: &R::Talk,
    way: Way,
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    loop {
        let whole = rules.message_len(talk, way, &bytes);
        let Some(len) = whole.filter(|len| *len <= bytes.len()) else {
            if from.read_buf(&mut bytes).await? == 0 {
                rules.ended(talk, way);
                return to.shutdown().await;
            }
            continue;
        };
        let message = &bytes[..len];
        match rules.judge(talk, way, message).await {
            Verdict::Pass => to.write_all(message).await?,
            Verdict::Swallow => {}
            Verdict::Cut => return Err(io::ErrorKind::ConnectionAborted.into()),
            Verdict::CutWithin => {
                to.write_all(&message[..len / 2]).await?;
                return Err(io::ErrorKind::ConnectionAborted.into());
            }
        }
        bytes.drain(..len);
    }
}

/// A big-endian number of four bytes at this place, if they are there.
fn number_at(bytes: &[u8], at: usize) -> Option<i32> {
    let four = bytes.get(at..at + 4)?;
    Some(i32::from_be_bytes(four.try_into().unwrap()))
}

fn len_at(bytes: &[u8], at: usize) -> Option<usize> {
    number_at(bytes, at).map(|len| usize::try_from(len).unwrap())
}
