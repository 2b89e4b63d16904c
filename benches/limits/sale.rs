//! The flash sale: what it refuses and settles a second, how fast a process starts in the middle of it, what it takes
//! up, and a stampede.
//!
//! * [`refusals`]: of what is known, beside a constant body; [`settled`]: by the log, beside clicks, and how long that
//!   takes beside a bare client; [`start`]: a full window beside a bare consumer.
//! * [`memory`]: with ten thousand callers; [`stampede`]: everything at once.

mod crowd;
pub mod memory;
pub mod refusals;
pub mod settled;
pub mod stampede;
pub mod start;

use std::time::Duration;

use anyhow::{Result, ensure};
use producers::clock;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::{
    task::JoinHandle,
    time::{interval, sleep},
};

use crate::it::world::{Process, Raw, World, http::Answer};

/// The rows.
pub const REFUSALS: &str = "sale-refusals";
pub const SETTLED: &str = "sale-settled";
pub const START: &str = "sale-start";
pub const MEMORY: &str = "sale-memory";
pub const STAMPEDE: &str = "sale-stampede";

/// A code that nobody was given: to buy with it, the log has to be asked.
pub const NO_CODE: &str = "123e4567-e89b-12d3-a456-426614174000";
/// The largest sale.
const ITEMS: usize = 10_000;
/// How often something is asked of the log, so that a process may go on refusing without it.
const FRESH: Duration = Duration::from_millis(300);
const HOUR_MS: i64 = 3_600_000;

/// Comes back when the sale that runs does not end so soon.
pub async fn far_from_the_end(room: Duration) {
    let left_ms = HOUR_MS - clock::now_ms() % HOUR_MS;
    let left = Duration::from_millis(left_ms.unsigned_abs());
    if left < room {
        sleep(left).await;
    }
}

/// Rules that let reservations hold as long as the sale.
pub async fn set_rules(world: &World, limit: usize) {
    let rules = json!({
        "items": ITEMS, "limit": limit, "reservation_seconds": 3_600, "sale_seconds": 3_600,
    });
    let rules = world.writer("sale-rules").await.value(&rules);
    world.append_raw("sale-rules", Raw::value(rules)).await;
}

/// `POST` without a body.
pub async fn post(run: &Process, path: &str) -> Answer {
    run.send(run.request(Method::POST, path)).await
}

/// The path of a checkout.
pub fn checkout(user: usize, item: usize) -> String {
    format!("/checkout?user_id={user}&item_id={item}")
}

/// The path of a purchase.
pub fn purchase(code: &str) -> String {
    format!("/purchase?code={code}")
}

/// Sells an item that is free.
///
/// # Errors
/// If it is not.
pub async fn sell(run: &Process, user: usize, item: usize) -> Result<()> {
    let reserved = post(run, &checkout(user, item)).await;
    ensure!(reserved.status == 200, "item {item}: {reserved:?}");
    let bought = post(run, &purchase(&reserved.body)).await;
    ensure!(bought.status == 200, "item {item}: {bought:?}");
    Ok(())
}

/// How the running sale stands in a process.
async fn stock(run: &Process) -> Value {
    run.get("/v1/sale").await.json()
}

/// A number of `/metrics`; 0 before it is counted.
async fn counted(run: &Process, name: &str) -> i64 {
    let metrics = run.get("/metrics").await.body;
    let mut lines = metrics.lines();
    lines
        .find_map(|line| line.strip_prefix(name)?.trim().parse().ok())
        .unwrap_or(0)
}

/// How many of these verdicts a process has told.
async fn verdicts(run: &Process, request: &str, verdict: &str, by: &str) -> i64 {
    let labels = format!(r#"{{request="{request}",verdict="{verdict}",by="{by}"}}"#);
    counted(run, &format!("millrace_sale_verdicts_total{labels}")).await
}

/// Asks the log of the sale now and then, until it is dropped.
pub struct KeptFresh(JoinHandle<()>);

impl KeptFresh {
    /// Begins at once.
    pub fn of(run: &Process) -> Self {
        let request = run.request(Method::POST, &purchase(NO_CODE));
        Self(tokio::spawn(async move {
            let mut ticks = interval(FRESH);
            loop {
                ticks.tick().await;
                let request = request.try_clone().expect("a request without a body");
                // A sale that does not answer is noticed by whoever counts.
                let _ = request.send().await;
            }
        }))
    }
}

impl Drop for KeptFresh {
    fn drop(&mut self) {
        self.0.abort();
    }
}
