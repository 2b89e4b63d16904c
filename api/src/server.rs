//! From configuration to listening, and from the signal to stop to the last answer.

use std::{net::SocketAddr, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context, Result, bail};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{info, warn};

use crate::{app::App, observer, routes, tail};

/// How long answers may take after the signal to stop; a connection that is still open then is cut.
const LAST_ANSWERS: Duration = Duration::from_secs(20);
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
    let patience = stop.clone();
    let serving = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned());
    tokio::select! {
        served = serving => served?,
        () = async { patience.cancelled().await; tokio::time::sleep(LAST_ANSWERS).await } => {
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
