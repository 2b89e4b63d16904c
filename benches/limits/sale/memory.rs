//! What ten thousand callers cost in the middle of a sale, beside the same connections to a process without one.
//!
//! Each caller asks once, for an item that is sold, and keeps its connection; beside it, for an empty answer. Of the
//! other process only what the connections add counts, of this one everything.

use std::fs;

use anyhow::{Context, Result, ensure};
use reqwest::Client;
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::JoinSet,
};

use super::{ITEMS, KeptFresh, MEMORY, checkout, far_from_the_end, purchase, set_rules, stock};
use crate::{
    it::world::{Process, World},
    output,
    run::{Report, Settings},
};

const CALLERS: usize = 10_000;
/// Callers that come at a time.
const AT_A_TIME: usize = 64;
const SOLD: usize = 5_000;
const RESERVED: usize = 2_000;
const BENCH_ROUTES: [(&str, &str); 1] = [("MILLRACE_BENCH_ROUTES", "true")];
/// What the sale may take beside the connections, and how much more than others these may cost.
const SALE_MB_MAX: f64 = 60.0;
const FACTOR_MAX: f64 = 1.3;

/// Measures the row.
///
/// # Errors
/// If a caller was not answered as it should be.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    far_from_the_end(settings.lasting()).await;
    let world = World::new("bench_memory").await;
    set_rules(&world, ITEMS).await;
    let callers = settings.amount(CALLERS);
    output::note(format_args!("{MEMORY}: {callers} callers of no sale"));
    let (before, after) = without_sale(&world, callers).await?;
    output::note(format_args!(
        "{MEMORY}: sells {SOLD} and reserves {RESERVED} items"
    ));
    let of_sale = with_sale(&world, callers).await?;
    let allowed = SALE_MB_MAX + FACTOR_MAX * (after - before);
    report.detail(
        MEMORY,
        json!({ "callers": callers, "before_mb": before, "after_mb": after, "sale_mb": of_sale }),
    );
    report.note(format!(
        "memory with {callers} callers in the middle of a sale: {of_sale:.0} MB (target ≤ {allowed:.0} MB = {SALE_MB_MAX} MB + {FACTOR_MAX} × the {:.0} MB that they add without one)",
        after - before
    ));
    Ok(())
}

async fn without_sale(world: &World, callers: usize) -> Result<(f64, f64)> {
    let mut run = world.spawn(&["api"], &BENCH_ROUTES);
    run.ready().await;
    let before = memory_mb(&run)?;
    let open = call(&run, "GET", "/bench/click", 204, callers).await?;
    let after = memory_mb(&run)?;
    drop(open);
    run.terminate().await;
    Ok((before, after))
}

async fn with_sale(world: &World, callers: usize) -> Result<f64> {
    let mut run = world.spawn(&["api"], &BENCH_ROUTES);
    run.ready().await;
    fill(&run).await?;
    let fresh = KeptFresh::of(&run);
    let open = call(&run, "POST", &checkout(CALLERS, 0), 409, callers).await?;
    let memory = memory_mb(&run)?;
    let stands = stock(&run).await;
    ensure!(
        stands["sold"] == SOLD && stands["reserved"] == RESERVED,
        "{SOLD} were sold and {RESERVED} reserved: {stands}"
    );
    drop((open, fresh));
    run.terminate().await;
    Ok(memory)
}

/// Sells and reserves, several at a time.
async fn fill(run: &Process) -> Result<()> {
    let (mut filling, http) = (JoinSet::new(), Client::new());
    for part in 0..AT_A_TIME {
        let (http, address) = (http.clone(), run.address().to_owned());
        filling.spawn(async move {
            for item in (part..SOLD + RESERVED).step_by(AT_A_TIME) {
                let code = granted(&http, &address, &checkout(item, item)).await?;
                if item < SOLD {
                    granted(&http, &address, &purchase(&code)).await?;
                }
            }
            anyhow::Ok(())
        });
    }
    while let Some(filled) = filling.join_next().await {
        filled??;
    }
    Ok(())
}

async fn granted(http: &Client, address: &str, path: &str) -> Result<String> {
    let answer = http.post(format!("http://{address}{path}")).send().await?;
    let status = answer.status();
    let body = answer.text().await?;
    ensure!(status == 200, "{path}: {status} {body}");
    Ok(body)
}

/// Connections that have each asked once.
async fn call(
    run: &Process,
    method: &str,
    path: &str,
    status: u16,
    callers: usize,
) -> Result<Vec<TcpStream>> {
    let request = format!("{method} {path} HTTP/1.1\r\nHost: millrace\r\n\r\n");
    let expected = format!("HTTP/1.1 {status} ");
    let (mut calling, mut open) = (JoinSet::new(), Vec::new());
    for part in 0..AT_A_TIME {
        let (address, request) = (run.address().to_owned(), request.clone());
        let (expected, count) = (expected.clone(), (part..callers).step_by(AT_A_TIME).len());
        calling.spawn(async move {
            let mut open = Vec::new();
            for _ in 0..count {
                open.push(caller(&address, &request, &expected).await?);
            }
            anyhow::Ok(open)
        });
    }
    while let Some(called) = calling.join_next().await {
        open.extend(called??);
    }
    Ok(open)
}

async fn caller(address: &str, request: &str, expected: &str) -> Result<TcpStream> {
    let mut stream = TcpStream::connect(address)
        .await
        .context("a connection: see ulimit -n")?;
    stream.write_all(request.as_bytes()).await?;
    let mut answer = [0; 1_024];
    let read = stream.read(&mut answer).await?;
    ensure!(
        answer[..read].starts_with(expected.as_bytes()),
        "{expected}was expected: {}",
        String::from_utf8_lossy(&answer[..read])
    );
    Ok(stream)
}

/// The memory that a process takes now.
fn memory_mb(run: &Process) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{}/status", run.id()))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix(" kB"));
    let kib: f64 = kib.context("no VmRSS")?.parse()?;
    Ok(kib / 1_024.0)
}
