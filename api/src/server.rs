//! From listening to the last answer. One thread a core serves, each with a runtime, a socket, connections to Postgres
//! and a lane of clicks of its own: a connection, whoever waits on it and its batch never leave their thread.

use std::{
    convert::Infallible,
    net::TcpListener as Socket,
    pin::{Pin, pin},
    sync::{Arc, atomic::Ordering},
    task, thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow};
use axum::{Router, response::Response, routing::future::RouteFuture};
use hyper::{Request, body::Incoming, server::conn::http1};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::TcpStream,
    sync::Semaphore,
    time::{sleep, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::Service;
use tracing::{debug, info, warn};

use crate::{
    app::{App, BACKGROUND_CONNECTIONS, Core, REPORTS_MAX},
    doors::{Doors, QUIET},
    files, history,
    limiter::Peer,
    observer, routes,
    sale::{self, live::LISTENERS_MAX},
    sending::{Impatient, UNTAKEN_MAX},
    tail::TAILS,
};

/// How long answers may take after the last connection was let in; a connection that is still open then is cut.
const LAST_ANSWERS: Duration = Duration::from_secs(15);
/// How long accepted writes may take to be decided after the last answer.
const DRAIN: Duration = Duration::from_secs(6);
/// The longest head of a request, in bytes.
const HEAD_BYTES_MAX: usize = 32 << 10;
/// Threads of each thread that serves, for questions to Kafka's client that it answers only when it can.
const BLOCKING_MAX: usize = 8;
/// Files that the process needs beside its callers' connections: to Kafka, the registry and Postgres, and for itself.
const FILES_OF_OUR_OWN: usize = 256;

/// What callers may take up.
#[derive(Debug, Clone)]
pub struct Callers {
    /// Connections at a time; more wait to be let in.
    pub connections_max: usize,
    /// How long the head of a request may take, from the end of the one before; so for how long a connection may idle.
    pub head_timeout: Duration,
}

/// Serves until `stop`; then answers what has come, and ends when the log has everything that was accepted.
///
/// # Errors
/// If a thread that serves cannot start, or panics.
pub async fn serve(
    app: Arc<App>,
    sockets: Vec<Socket>,
    callers: &Callers,
    stop: CancellationToken,
) -> Result<()> {
    let background = Background::start(&app, &stop);
    let address = sockets.first().context("no socket")?.local_addr()?;
    let room = room_for(callers.connections_max);
    // Who watches the sale keeps a place for long; half of them are for those who come to ask.
    app.live.allow((room / 2).clamp(1, LISTENERS_MAX));
    let room = Arc::new(Semaphore::new(room));
    let shares = shares(app.limits.connections_max, sockets.len());
    let goodbye = CancellationToken::new();
    let mut threads = Vec::new();
    for (number, (socket, pool_max)) in sockets.into_iter().zip(shares).enumerate() {
        let thread = Thread {
            app: Arc::clone(&app),
            socket,
            pool_max,
            room: Arc::clone(&room),
            head_timeout: callers.head_timeout,
            stop: stop.clone(),
            goodbye: goodbye.clone(),
        };
        let named = thread::Builder::new().name(format!("api-{number}"));
        threads.push(named.spawn(move || thread.run())?);
    }
    info!(%address, threads = threads.len(), "listening");
    let all_ended = move || threads.into_iter().map(ended).fold(Ok(()), Result::and);
    let served = tokio::task::spawn_blocking(all_ended).await?;
    if !app.drained(DRAIN).await {
        warn!("stopped before the broker had acknowledged everything");
    }
    background.stop().await;
    served
}

fn ended(thread: thread::JoinHandle<Result<()>>) -> Result<()> {
    let panicked = |_| Err(anyhow!("a thread that serves has panicked"));
    thread.join().unwrap_or_else(panicked)
}

/// Connections to Postgres for each thread; all of them together are `connections_max`, but each has one at least.
fn shares(connections_max: u32, threads: usize) -> impl Iterator<Item = u32> {
    let threads = u32::try_from(threads).expect("fewer threads than that");
    (0..threads).map(move |n| ((connections_max + n) / threads).max(1))
}

/// How many connections to Postgres so many threads take at most, and what runs beside them.
pub fn connections_to_postgres(connections_max: u32, threads: usize) -> u32 {
    let reports = u32::try_from(REPORTS_MAX).expect("fewer reports than that");
    shares(connections_max, threads).sum::<u32>() + BACKGROUND_CONNECTIONS + reports
}

/// How many callers there is room for: as many as there may be open files, less our own.
fn room_for(connections_max: usize) -> usize {
    let files = files::raise().map(usize::try_from);
    let files = files.and_then(Result::ok).unwrap_or(usize::MAX);
    let room = files.saturating_sub(FILES_OF_OUR_OWN).max(1);
    if room < connections_max {
        warn!(
            "room for {room} connections rather than {connections_max}: there may be {files} open files (ulimit -n)"
        );
    }
    room.min(connections_max)
}

/// A thread that serves.
struct Thread {
    app: Arc<App>,
    socket: Socket,
    /// Its connections to Postgres.
    pool_max: u32,
    /// For how many callers all threads together have room.
    room: Arc<Semaphore>,
    head_timeout: Duration,
    stop: CancellationToken,
    /// Ends the connections of all threads that ask nothing.
    goodbye: CancellationToken,
}

impl Thread {
    fn run(self) -> Result<()> {
        // The others do not go on without it.
        let _stop_all = self.stop.clone().drop_guard();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_MAX)
            .build()?;
        runtime.block_on(self.serve())
    }

    async fn serve(self) -> Result<()> {
        // Tokens of its own: what all threads share would be locked for every connection.
        let (stop, goodbye) = (self.stop.child_token(), self.goodbye.child_token());
        let mut doors = Doors::open(self.socket, self.room, stop.clone(), self.goodbye)?;
        let open = self.app.metrics.http_connections.clone();
        let core = Arc::new(Core::new(self.app, self.pool_max));
        let lane_stop = CancellationToken::new();
        let lanes = TaskTracker::new();
        lanes.spawn(Arc::clone(&core.clicks).run(lane_stop.clone()));
        lanes.spawn(Arc::clone(&core.sale_queue).run(lane_stop.clone()));
        lanes.spawn(Arc::clone(&core.attempts).run(lane_stop.clone()));
        lanes.spawn(Arc::clone(&core.segment_queue).run(lane_stop.clone()));
        lanes.spawn(Arc::clone(&core.verdicts).run(lane_stop.clone()));
        lanes.spawn(Arc::clone(&core.users).run(lane_stop.clone()));
        lanes.close();
        tokio::spawn(close(stop.clone(), Arc::clone(&core)));
        let router = routes::router(core);
        let http = http(self.head_timeout);
        let conversations = TaskTracker::new();
        while let Some((stream, place)) = doors.next().await {
            let conversation = converse(
                http.clone(),
                stream,
                router.clone(),
                farewell(goodbye.clone()),
            );
            let open = open.clone();
            conversations.spawn(async move {
                open.inc();
                conversation.await;
                open.dec();
                drop(place);
            });
        }
        drop(doors);
        goodbye.cancel();
        conversations.close();
        if timeout(LAST_ANSWERS, conversations.wait()).await.is_err() {
            warn!("stopped while requests were still open");
        }
        lane_stop.cancel();
        lanes.wait().await;
        Ok(())
    }
}

/// From the signal to stop on, an answer is the last one of its connection.
async fn close(stop: CancellationToken, core: Arc<Core>) {
    stop.cancelled().await;
    core.closing.store(true, Ordering::Relaxed);
}

/// When a connection that asks nothing ends: a little after the goodbye, since who came last has yet to be heard.
async fn farewell(goodbye: CancellationToken) {
    goodbye.cancelled().await;
    sleep(QUIET).await;
}

fn http(head_timeout: Duration) -> http1::Builder {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(head_timeout)
        .max_buf_size(HEAD_BYTES_MAX);
    http
}

/// Answers the requests of a connection, until either side ends it; from `farewell` on, none but the current one.
async fn converse(
    http: http1::Builder,
    stream: TcpStream,
    router: Router,
    farewell: impl Future<Output = ()>,
) {
    let peer = match prepare(&stream) {
        Ok(peer) => peer,
        Err(error) => return debug!(%error, "lost a connection before its first request"),
    };
    let service = TowerToHyperService::new(Conversation { router, peer });
    let mut connection = pin!(http.serve_connection(TokioIo::new(Impatient::new(stream)), service));
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = farewell => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        debug!(%error, "a connection broke");
    }
}

/// Gives the other end.
fn prepare(stream: &TcpStream) -> std::io::Result<Peer> {
    stream.set_nodelay(true)?;
    socket2::SockRef::from(stream).set_tcp_user_timeout(Some(UNTAKEN_MAX))?;
    stream.peer_addr().map(|peer| Peer(peer.ip()))
}

/// The routes for one connection: a request knows where it comes from.
#[derive(Clone)]
struct Conversation {
    router: Router,
    peer: Peer,
}

impl Service<Request<Incoming>> for Conversation {
    type Response = Response;
    type Error = Infallible;
    type Future = RouteFuture<Infallible>;

    fn poll_ready(
        &mut self,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Result<(), Infallible>> {
        Service::<Request<Incoming>>::poll_ready(&mut self.router, context)
    }

    fn call(&mut self, mut request: Request<Incoming>) -> Self::Future {
        request.extensions_mut().insert(self.peer);
        self.router.call(request)
    }
}

/// What runs beside the requests.
struct Background {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Background {
    /// `ends` ends what callers would listen to for ever.
    fn start(app: &Arc<App>, ends: &CancellationToken) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let until_stop = |work: Pin<Box<dyn Future<Output = ()> + Send>>| {
            tasks.spawn(stop.clone().run_until_cancelled_owned(work));
        };
        until_stop(Box::pin(Arc::clone(app).register_schemas()));
        until_stop(Box::pin(Arc::clone(app).prepare_tables()));
        for tail in TAILS {
            until_stop((tail.follow)(Arc::clone(app)));
        }
        until_stop(Box::pin(sale::tail::follow_sale(Arc::clone(app))));
        until_stop(Box::pin(sale::tail::follow_rules(Arc::clone(app))));
        until_stop(Box::pin(show_sale(Arc::clone(app), ends.clone())));
        until_stop(Box::pin(observer::observe(Arc::clone(app))));
        until_stop(Box::pin(history::watch_history(Arc::clone(app))));
        until_stop(Box::pin(forget_callers(Arc::clone(app))));
        let watermarks = app.services.watermarks.clone();
        until_stop(Box::pin(watermarks.follow(app.pool.clone())));
        tasks.close();
        Self { tasks, stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

async fn forget_callers(app: Arc<App>) {
    app.limiter.forget().await;
}

async fn show_sale(app: Arc<App>, ends: CancellationToken) {
    app.live.follow(&app.sale, &ends).await;
}
