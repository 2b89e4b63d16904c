//! Asks at a rate over many connections, whatever the answers: so lightly that it leaves the machine to what is
//! measured. oha takes as much of it as the server does, and p99 is its own.
//!
//! One thread sends each request when it is due, over a connection that is free; another reads the answers. A time runs
//! from when its request was due, so a wait for a free connection counts.

use std::{
    collections::VecDeque,
    io::Write,
    net::{Shutdown, TcpStream},
    sync::{
        Arc, Condvar, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{io::AsyncReadExt, net::TcpStream as AsyncStream, runtime::Builder, task::JoinSet};

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// The rate is held if this part of it was sent and answered in time.
const HELD: f64 = 0.95;
const ANSWER_BYTES_MAX: usize = 4_096;

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// Host and port.
    pub address: String,
    /// Path and query of a POST without a body.
    pub path: String,
    /// The status of every answer.
    pub status: u16,
    /// Over how many connections.
    pub connections: usize,
}

/// Asks so many times a second; how long each answer took from when its request was due.
///
/// # Errors
/// If an answer had another status or did not come, or the rate could not be held.
pub async fn ask(asked: Asked, rate: f64, lasting: Duration) -> Result<Vec<Duration>> {
    tokio::task::spawn_blocking(move || measure(&asked, rate, lasting)).await?
}

fn measure(asked: &Asked, rate: f64, lasting: Duration) -> Result<Vec<Duration>> {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive, small number"
    )]
    let count = (rate * lasting.as_secs_f64()) as u32;
    let open = || TcpStream::connect(&asked.address).context("cannot connect");
    let streams: Vec<_> = (0..asked.connections)
        .map(|_| open())
        .collect::<Result<_>>()?;
    let mut readers = Vec::new();
    for stream in &streams {
        stream.set_nodelay(true)?;
        // A request is so short that there is always room for it.
        stream.set_nonblocking(true)?;
        readers.push(stream.try_clone()?);
    }
    let clock = Clock {
        began: Instant::now(),
        between: Duration::from_secs_f64(1.0 / rate),
    };
    let crowd = Arc::new(Crowd::new(streams.len()));
    let times = thread::scope(|scope| {
        let reading = scope.spawn(|| read_all(readers, &crowd, clock, asked.status));
        let sent = send_all(&streams, &crowd, clock, asked, count);
        // Whoever reads ends with its connection.
        for stream in &streams {
            let _ = stream.shutdown(Shutdown::Both);
        }
        let read = reading.join();
        let times = read.unwrap_or_else(|_| bail!("the reader panicked"))?;
        sent.map(|()| times)
    })?;
    let took = clock.began.elapsed().as_secs_f64();
    ensure!(
        times.len() == count as usize && f64::from(count) / took >= HELD * rate,
        "{count} requests were due in {lasting:?}, {} were answered in {took:.2} s: the rate was not held",
        times.len()
    );
    Ok(times)
}

/// When each request is due.
#[derive(Debug, Clone, Copy)]
struct Clock {
    began: Instant,
    between: Duration,
}

impl Clock {
    fn due(self, number: u32) -> Instant {
        self.began + self.between * number
    }
}

/// Connections: those that are free, and the number of the request that each of the others has.
struct Crowd {
    /// Each has its turn, so that none is idle for long.
    free: Mutex<VecDeque<usize>>,
    freed: Condvar,
    asking: Box<[AtomicU32]>,
}

impl Crowd {
    fn new(connections: usize) -> Self {
        Self {
            free: Mutex::new((0..connections).collect()),
            freed: Condvar::new(),
            asking: (0..connections).map(|_| AtomicU32::new(0)).collect(),
        }
    }

    /// Waits until so many are free; takes one.
    fn take(&self, free_min: usize) -> Result<usize> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        let waiting = |free: &mut VecDeque<usize>| free.len() < free_min;
        let waited = self.freed.wait_timeout_while(free, PATIENCE, waiting);
        let (mut free, waited) = waited.unwrap_or_else(PoisonError::into_inner);
        ensure!(!waited.timed_out(), "answers do not come any more");
        free.pop_front().context("there is no connection")
    }

    fn give_back(&self, connection: usize) {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.push_back(connection);
        self.freed.notify_one();
    }
}

/// Sends requests when they are due, and waits for the last answer.
fn send_all(
    streams: &[TcpStream],
    crowd: &Crowd,
    clock: Clock,
    asked: &Asked,
    count: u32,
) -> Result<()> {
    let Asked { address, path, .. } = asked;
    let request = format!("POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-length: 0\r\n\r\n");
    for number in 0..count {
        thread::sleep(clock.due(number).saturating_duration_since(Instant::now()));
        let connection = crowd.take(1)?;
        crowd.asking[connection].store(number, Ordering::Release);
        (&streams[connection]).write_all(request.as_bytes())?;
    }
    crowd.take(streams.len()).map(drop)
}

/// Reads answers until the connections are closed.
fn read_all(
    streams: Vec<TcpStream>,
    crowd: &Arc<Crowd>,
    clock: Clock,
    status: u16,
) -> Result<Vec<Duration>> {
    let runtime = Builder::new_current_thread().enable_io().build()?;
    runtime.block_on(async {
        let mut reading = JoinSet::new();
        for (connection, stream) in streams.into_iter().enumerate() {
            let stream = AsyncStream::from_std(stream)?;
            let crowd = Arc::clone(crowd);
            reading.spawn(async move { read(stream, connection, &crowd, clock, status).await });
        }
        let mut times = Vec::new();
        while let Some(read) = reading.join_next().await {
            times.extend(read??);
        }
        Ok(times)
    })
}

async fn read(
    mut stream: AsyncStream,
    connection: usize,
    crowd: &Crowd,
    clock: Clock,
    status: u16,
) -> Result<Vec<Duration>> {
    let mut answer = Vec::with_capacity(ANSWER_BYTES_MAX);
    let mut times = Vec::new();
    while stream.read_buf(&mut answer).await? > 0 {
        if is_whole(&answer, status)? {
            let number = crowd.asking[connection].load(Ordering::Acquire);
            times.push(clock.due(number).elapsed());
            answer.clear();
            crowd.give_back(connection);
        }
    }
    Ok(times)
}

/// Whether this is all of an answer.
fn is_whole(answer: &[u8], status: u16) -> Result<bool> {
    let text = str::from_utf8(answer)?;
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Ok(false);
    };
    ensure!(
        head.starts_with(&format!("HTTP/1.1 {status} ")),
        "the answer is {text}"
    );
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.context("no length")?.parse()?;
    ensure!(body.len() <= length, "more than the answer: {text}");
    Ok(body.len() == length)
}
