//! `run`, `api` and `process`: what runs until it is told to stop.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    num::{NonZeroU32, NonZeroUsize},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::available_parallelism,
    time::Duration,
};

use anyhow::{Context, Result};
use api::{
    app::{App, Limits},
    doors::{Listen, bind},
    limiter::Rates,
    server::{Callers, connections_to_postgres, serve},
};
use clap::{Args, builder::PossibleValuesParser};
use processors::{
    runtime::{self, Services},
    stall,
    status::{FoldMetrics, Status},
    watermarks::Watermarks,
};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

use crate::cli::Connection;

/// Unless told otherwise, the most connections to Postgres for queries.
const PG_MAX_CONNS: u32 = 10;

/// A thousand years: the cache takes no more.
const CACHE_TTL_MAX_SECONDS: u64 = 1_000 * 365 * 86_400;

/// Serve the API and fold every topic, in one process.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    api: ApiArgs,
    #[command(flatten)]
    patience: Patience,
}

/// When a process gives itself up.
#[derive(Debug, Clone, Copy, Args)]
pub struct Patience {
    /// Ends the process, with exit code 1, if a partition goes on standing still for so many seconds after /readyz has
    /// said so (which is after 30 s), or a thread has gone for as long: its supervisor has to start it anew. 0 is never.
    #[arg(
        long,
        env = "MILLRACE_STALL_SECONDS",
        default_value_t = 120,
        value_name = "SECONDS"
    )]
    stall_seconds: u64,
}

/// Serve the API alone.
#[derive(Debug, Args)]
#[command(next_help_heading = "API")]
pub struct ApiArgs {
    /// Address to listen on.
    #[arg(
        long,
        env = "MILLRACE_LISTEN",
        default_value_t = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 8080),
        value_name = "ADDRESS"
    )]
    listen: SocketAddr,
    /// Port to listen on, in place of the one in --listen.
    #[arg(long, env = "PORT", value_name = "PORT")]
    port: Option<u16>,
    /// A proxy in front authenticates callers: allows --listen with an address other than loopback.
    #[arg(
        long,
        env = "MILLRACE_BEHIND_PROXY",
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    behind_proxy: bool,
    /// Threads that serve, each with its own share of the callers; one a core without it.
    #[arg(long, env = "MILLRACE_THREADS", value_name = "N")]
    threads: Option<NonZeroUsize>,
    /// The most connections of callers; more wait to be let in. The limit of open files (ulimit -n) bounds them too.
    #[arg(
        long,
        env = "MILLRACE_CONNECTIONS_MAX",
        default_value_t = 20_000,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "N"
    )]
    connections_max: u32,
    /// How long the head of a request may take to arrive, and so for how long a connection may idle, in milliseconds.
    #[arg(
        long,
        env = "MILLRACE_HEAD_TIMEOUT_MS",
        default_value_t = 30_000,
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "MS"
    )]
    head_timeout_ms: u64,
    /// How long a read waits for the position in Millrace-Min-Position, in milliseconds.
    #[arg(
        long,
        env = "MILLRACE_WAIT_MS",
        default_value_t = 2_000,
        value_name = "MS"
    )]
    wait_ms: u64,
    /// How long a look-up of a user waits for Postgres, in milliseconds; then it fails with 500.
    #[arg(
        long,
        env = "REQUEST_TIMEOUT_MS",
        default_value_t = 300,
        value_parser = clap::value_parser!(u64).range(1..),
        value_name = "MS"
    )]
    request_timeout_ms: u64,
    /// The most connections to Postgres for queries; each thread that serves has its share, and one at least.
    #[arg(
        long,
        env = "PG_MAX_CONNS",
        default_value_t = PG_MAX_CONNS,
        value_parser = clap::value_parser!(u32).range(1..),
        value_name = "N"
    )]
    pg_max_conns: u32,
    /// Requests a second that an address may send to the segments and their reports; 0 for any number.
    ///
    /// The address is that of the connection; with --behind-proxy, the last one in X-Forwarded-For. Each process counts for
    /// itself.
    #[arg(
        long,
        env = "MILLRACE_RATE_PER_ADDRESS",
        default_value_t = 2_000,
        value_name = "N"
    )]
    rate_per_address: u32,
    /// Requests a second about a user's segments and reports; 0 for any number.
    #[arg(
        long,
        env = "MILLRACE_RATE_PER_USER",
        default_value_t = 100,
        value_name = "N"
    )]
    rate_per_user: u32,
    /// The most memory for caches, in MiB.
    #[arg(
        long,
        env = "MILLRACE_CACHE_MB",
        default_value_t = 48,
        value_parser = clap::value_parser!(u64).range(..=1 << 20),
        value_name = "MIB"
    )]
    cache_mb: u64,
    /// How long what was cached may stay, in seconds; 0 is as long as there is room. It is never out of date: the log
    /// keeps it fresh.
    #[arg(
        long,
        env = "CACHE_TTL_SECONDS",
        default_value_t = 3_600,
        value_parser = clap::value_parser!(u64).range(..=CACHE_TTL_MAX_SECONDS),
        value_name = "S"
    )]
    cache_ttl_seconds: u64,
    /// Adds /bench/click and /bench/order: constant answers, as the limit that `make bench` compares the others with.
    #[arg(
        long,
        env = "MILLRACE_BENCH_ROUTES",
        hide = true,
        value_parser = clap::builder::FalseyValueParser::new()
    )]
    bench_routes: bool,
}

/// Fold topics into Postgres alone.
#[derive(Debug, Args)]
pub struct ProcessArgs {
    /// Only these projections, separated by commas; all of them without it.
    #[arg(
        long,
        value_name = "NAMES",
        value_delimiter = ',',
        value_parser = PossibleValuesParser::new(runtime::names())
    )]
    only: Vec<String>,
    #[command(flatten)]
    patience: Patience,
}

/// Folds and serves, until a signal.
pub async fn run(connection: Connection, args: RunArgs) -> Result<()> {
    let services = services(&connection)?;
    let stop = stop_on_signal()?;
    let sockets = bind(&args.api.listen())?;
    // The folds go on while the API drains: whoever waits for them gets an answer.
    let stop_folds = CancellationToken::new();
    let app = args.api.app(services.clone())?;
    let folds = runtime::run(&[], &services, &stop_folds)?;
    let given_up = args.patience.watch(&services, &stop);
    let served = serve(Arc::new(app), sockets, &args.api.callers(), stop).await;
    given_up.end_if_so();
    stop_folds.cancel();
    folds.ended().await;
    served
}

/// Serves, until a signal.
pub async fn api(connection: Connection, args: ApiArgs) -> Result<()> {
    let services = services(&connection)?;
    let stop = stop_on_signal()?;
    let sockets = bind(&args.listen())?;
    let app = args.app(services)?;
    serve(Arc::new(app), sockets, &args.callers(), stop).await
}

/// Folds, until a signal.
pub async fn process(connection: Connection, args: ProcessArgs) -> Result<()> {
    let services = services(&connection)?;
    let stop = stop_on_signal()?;
    let folds = runtime::run(&args.only, &services, &stop)?;
    let given_up = args.patience.watch(&services, &stop);
    stop.cancelled().await;
    given_up.end_if_so();
    folds.ended().await;
    Ok(())
}

/// Whether the process has given itself up.
struct GivenUp(Arc<AtomicBool>);

impl Patience {
    /// Watches whether the work goes on, and stops the process if it does not.
    fn watch(self, services: &Services, stop: &CancellationToken) -> GivenUp {
        let given_up = Arc::new(AtomicBool::new(false));
        let (told, stop) = (Arc::clone(&given_up), stop.clone());
        let (kafka, status) = (services.kafka.clone(), services.status.clone());
        let limit = Some(Duration::from_secs(self.stall_seconds)).filter(|limit| !limit.is_zero());
        tokio::spawn(async move {
            stall::watch(&kafka, &status, limit).await;
            told.store(true, Ordering::Release);
            stop.cancel();
        });
        GivenUp(given_up)
    }
}

impl GivenUp {
    /// What stands still would not hear that it has to stop.
    fn end_if_so(&self) {
        if self.0.load(Ordering::Acquire) {
            end_at_once();
        }
    }
}

impl ApiArgs {
    fn listen(&self) -> Listen {
        let mut address = self.listen;
        if let Some(port) = self.port {
            address.set_port(port);
        }
        Listen {
            address,
            behind_proxy: self.behind_proxy,
            threads: self.threads.map_or_else(cores, NonZeroUsize::get),
        }
    }

    fn callers(&self) -> Callers {
        Callers {
            connections_max: usize::try_from(self.connections_max)
                .expect("usize has 32 bits at least"),
            head_timeout: Duration::from_millis(self.head_timeout_ms),
        }
    }

    fn app(&self, services: Services) -> Result<App> {
        let limits = Limits {
            wait: Duration::from_millis(self.wait_ms),
            query: Duration::from_millis(self.request_timeout_ms),
            connections_max: self.pg_max_conns,
            cache_bytes_max: self.cache_mb << 20,
            cache_ttl: match self.cache_ttl_seconds {
                0 => None,
                seconds => Some(Duration::from_secs(seconds)),
            },
            rates: Rates {
                per_address: NonZeroU32::new(self.rate_per_address),
                per_user: NonZeroU32::new(self.rate_per_user),
                behind_proxy: self.behind_proxy,
            },
            bench_routes: self.bench_routes,
        };
        App::new(services, limits)
    }
}

/// How many connections to Postgres `run` takes unless told otherwise; each fold has one.
pub fn connections_needed() -> i64 {
    i64::from(connections_to_postgres(PG_MAX_CONNS, cores())) + runtime::names().count() as i64
}

fn cores() -> usize {
    available_parallelism().map_or(1, NonZeroUsize::get)
}

/// What folds need of the world around them.
pub(super) fn services(connection: &Connection) -> Result<Services> {
    Ok(Services {
        kafka: connection.kafka(),
        registry: connection.registry()?,
        database: connection.database()?,
        watermarks: Watermarks::default(),
        status: Status::default(),
        metrics: FoldMetrics::default(),
    })
}

/// Cancelled by the first SIGTERM or SIGINT.
fn stop_on_signal() -> Result<CancellationToken> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for signals")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for signals")?;
    let told = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        info!("stopping: answers what has come, then ends; a second signal ends it at once");
        told.cancel();
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        warn!("stopped at once by a second signal");
        end_at_once();
    });
    Ok(stop)
}

#[expect(
    clippy::exit,
    reason = "whoever sends a second signal does not want to wait, and what stands still cannot be waited for"
)]
fn end_at_once() {
    std::process::exit(1);
}
