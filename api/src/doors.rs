//! The doors: sockets that listen, and how connections come in, until the signal to stop and a little longer.

use std::{
    io,
    net::{SocketAddr, TcpListener as Socket},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use socket2::{Domain, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;

/// After the signal to stop, so long without a new connection means that nobody waits any more.
pub(crate) const QUIET: Duration = Duration::from_millis(100);
/// After the signal to stop, connections are let in for so long at most.
const LAST_COMERS: Duration = Duration::from_secs(1);
/// Connections that wait to be let in, for each socket; the kernel's own limit may be lower.
const BACKLOG: i32 = 4_096;
/// Before trying again to let somebody in, when that failed for want of something.
const BACK_OFF: Duration = Duration::from_millis(100);

/// Where to listen, and for how many.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// A proxy in front authenticates callers: any address may be listened on.
    pub behind_proxy: bool,
    /// Threads that serve, each with a socket of its own.
    pub threads: usize,
}

/// Takes the address, before anything else is started: a socket a thread, among which the kernel spreads connections.
///
/// # Errors
/// If the address is taken or not allowed.
pub fn bind(listen: &Listen) -> Result<Vec<Socket>> {
    let address = listen.address;
    if !address.ip().is_loopback() && !listen.behind_proxy {
        bail!(
            "{address} is not a loopback address, and there is no authentication: put a proxy in front and say --behind-proxy"
        );
    }
    bind_all(address, listen.threads).with_context(|| {
        format!("cannot listen on {address}: is another process there? MILLRACE_LISTEN sets another address")
    })
}

/// The first socket binds alone: with `SO_REUSEPORT` it would share the address with another process that runs. Only
/// then it gets the option, which lets the others join it.
fn bind_all(address: SocketAddr, sockets: usize) -> io::Result<Vec<Socket>> {
    let first = socket(address)?;
    first.bind(&address.into())?;
    first.set_reuse_port(true)?;
    first.listen(BACKLOG)?;
    let first = Socket::from(first);
    let address = first.local_addr()?;
    let mut all = vec![first];
    while all.len() < sockets {
        let next = socket(address)?;
        next.set_reuse_port(true)?;
        next.bind(&address.into())?;
        next.listen(BACKLOG)?;
        all.push(next.into());
    }
    Ok(all)
}

fn socket(address: SocketAddr) -> io::Result<socket2::Socket> {
    let socket = socket2::Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    // Connections of an earlier process that linger do not matter; a socket that listens still does.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Lets connections in until the signal to stop, and then those that wait already: closing at once would cut them
/// off, whatever they have asked.
pub(crate) struct Doors {
    listener: TcpListener,
    /// For how many there is room, behind the doors of all threads.
    room: Arc<Semaphore>,
    stop: CancellationToken,
    /// Tells those who are in, whichever thread they are with, to make room.
    goodbye: CancellationToken,
    /// When they close at last; known from the signal on.
    until: Option<Instant>,
}

impl Doors {
    /// Opens them on the runtime that this is called from.
    ///
    /// # Errors
    /// If the runtime cannot watch the socket.
    pub(crate) fn open(
        socket: Socket,
        room: Arc<Semaphore>,
        stop: CancellationToken,
        goodbye: CancellationToken,
    ) -> io::Result<Self> {
        Ok(Self {
            listener: TcpListener::from_std(socket)?,
            room,
            stop,
            goodbye,
            until: None,
        })
    }

    /// The next connection and its place; `None` once nobody is let in any more.
    pub(crate) async fn next(&mut self) -> Option<(TcpStream, OwnedSemaphorePermit)> {
        let stream = tokio::select! {
            biased;
            stream = accept(&self.listener) => stream,
            () = quiet(&self.stop, &mut self.until) => return None,
        };
        // A place is taken by who is here: one that waits for others would keep the other threads' callers out.
        tokio::select! {
            biased;
            place = Arc::clone(&self.room).acquire_owned() => {
                Some((stream, place.expect("nobody closes it")))
            }
            () = self.make_room() => None,
        }
    }

    /// Nobody leaves the others a place because of the signal to stop unless told so. Ends when nobody is let in any more.
    async fn make_room(&mut self) {
        self.stop.cancelled().await;
        self.goodbye.cancel();
        let until = *self
            .until
            .get_or_insert_with(|| Instant::now() + LAST_COMERS);
        tokio::time::sleep_until(until).await;
    }
}

async fn accept(listener: &TcpListener) -> TcpStream {
    let mut told = false;
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            // Whoever came has gone already.
            Err(error) if is_of_the_connection(&error) => {}
            Err(error) => {
                if !told {
                    warn!(%error, "cannot let connections in; trying again until it works");
                }
                told = true;
                tokio::time::sleep(BACK_OFF).await;
            }
        }
    }
}

/// Anything else is of the process or the machine, as too many open files: without a pause it would be tried in circles.
fn is_of_the_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    )
}

/// Waits for the signal, and then until nobody has come for a while, or too many for too long.
async fn quiet(stop: &CancellationToken, until: &mut Option<Instant>) {
    stop.cancelled().await;
    let now = Instant::now();
    let until = *until.get_or_insert(now + LAST_COMERS);
    tokio::time::sleep_until(until.min(now + QUIET)).await;
}
