//! From configuration to listening, and from the signal to stop to the last answer.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use axum::{
    extract::{Request, State},
    http::{HeaderValue, header},
    middleware::{Next, from_fn_with_state},
    response::Response,
    serve::Listener,
};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{app::App, observer, routes, tail};

/// After the signal to stop, so long without a new connection means that nobody waits any more.
const QUIET: Duration = Duration::from_millis(100);
/// After the signal to stop, connections are let in for so long at most.
const LAST_COMERS: Duration = Duration::from_secs(1);
/// How long answers may take after the signal to stop; a connection that is still open then is cut.
const LAST_ANSWERS: Duration = Duration::from_secs(15);
/// How long accepted writes may take to be decided after the last answer.
const DRAIN: Duration = Duration::from_secs(6);

/// Where to listen.
#[derive(Debug, Clone)]
pub struct Listen {
    /// The address.
    pub address: SocketAddr,
    /// A proxy in front authenticates callers: any address may be listened on.
    pub behind_proxy: bool,
}

/// Takes the address, before anything else is started.
///
/// # Errors
/// If the address is taken or not allowed.
pub async fn bind(listen: &Listen) -> Result<TcpListener> {
    let address = listen.address;
    if !address.ip().is_loopback() && !listen.behind_proxy {
        bail!(
            "{address} is not a loopback address, and there is no authentication: put a proxy in front and say --behind-proxy"
        );
    }
    TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen on {address}: is another process there? MILLRACE_LISTEN sets another address")
    })
}

/// Serves until `stop`; then answers what has come, and ends when the log has everything that was accepted.
///
/// # Errors
/// If the listening socket fails.
pub async fn serve(app: Arc<App>, listener: TcpListener, stop: CancellationToken) -> Result<()> {
    let background = Background::start(&app);
    info!(address = %listener.local_addr()?, "listening");
    let lane_stop = CancellationToken::new();
    let lane = tokio::spawn(Arc::clone(&app.clicks).run(lane_stop.clone()));
    let router = routes::router(Arc::clone(&app));
    let router = router.layer(from_fn_with_state(stop.clone(), say_goodbye));
    let doors = Doors::open(listener, stop.clone());
    let closed = doors.closed.clone();
    let shut = async move {
        closed.cancelled().await;
        // Who came last has yet to be heard.
        tokio::time::sleep(QUIET).await;
    };
    let serving = axum::serve(doors, router).with_graceful_shutdown(shut);
    tokio::select! {
        served = serving => served?,
        () = async { stop.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => {
            warn!("stopped while requests were still open");
        }
    }
    lane_stop.cancel();
    let _ = lane.await;
    if !app.drained(DRAIN).await {
        warn!("stopped before the broker had acknowledged everything");
    }
    background.stop().await;
    Ok(())
}

/// From the signal to stop on, an answer is the last one of its connection.
async fn say_goodbye(
    State(stop): State<CancellationToken>,
    request: Request,
    next: Next,
) -> Response {
    let mut response = next.run(request).await;
    if stop.is_cancelled() {
        let close = HeaderValue::from_static("close");
        response.headers_mut().insert(header::CONNECTION, close);
    }
    response
}

/// Lets connections in until the signal to stop, and then those that wait already: closing at once would cut them
/// off, whatever they have asked.
struct Doors {
    /// `None` once nobody is let in any more.
    listener: Option<TcpListener>,
    stop: CancellationToken,
    /// When they close at last; known from the signal on.
    until: Option<Instant>,
    /// Cancelled when they are closed.
    closed: CancellationToken,
}

impl Doors {
    fn open(listener: TcpListener, stop: CancellationToken) -> Self {
        Self {
            listener: Some(listener),
            stop,
            until: None,
            closed: CancellationToken::new(),
        }
    }
}

impl Listener for Doors {
    type Io = TcpStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (TcpStream, SocketAddr) {
        if let Some(listener) = &mut self.listener {
            tokio::select! {
                biased;
                connection = Listener::accept(listener) => return connection,
                () = quiet(&self.stop, &mut self.until) => self.listener = None,
            }
        }
        self.closed.cancel();
        std::future::pending().await
    }

    fn local_addr(&self) -> std::io::Result<SocketAddr> {
        match &self.listener {
            Some(listener) => listener.local_addr(),
            None => Err(std::io::ErrorKind::NotConnected.into()),
        }
    }
}

/// Waits for the signal, and then until nobody has come for a while, or too many for too long.
async fn quiet(stop: &CancellationToken, until: &mut Option<Instant>) {
    stop.cancelled().await;
    let now = Instant::now();
    let until = *until.get_or_insert(now + LAST_COMERS);
    tokio::time::sleep_until(until.min(now + QUIET)).await;
}

/// What runs beside the requests.
struct Background {
    tasks: TaskTracker,
    stop: CancellationToken,
}

impl Background {
    fn start(app: &Arc<App>) -> Self {
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let until_stop = |work: Pin<Box<dyn Future<Output = ()> + Send>>| {
            tasks.spawn(stop.clone().run_until_cancelled_owned(work));
        };
        until_stop(Box::pin(Arc::clone(app).register_schemas()));
        until_stop(Box::pin(Arc::clone(app).prepare_tables()));
        until_stop(Box::pin(tail::follow_orders(Arc::clone(app))));
        until_stop(Box::pin(observer::observe(Arc::clone(app))));
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
