//! Orders over HTTP: `GET /order?uid=` from the cache, beside a constant body.
//!
//! Both are answered by the same `millrace run` through the same middleware, and asked for by the same wrk with the
//! same kind of query (a thousand uids in turn). The constant is the JSON of one of these orders: as many bytes, the
//! same headers; that is checked before. Checked after: nothing was read from Postgres, every answer was a hit.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    it::world::{Process, World},
    output,
    run::{Report, Row, Settings},
    tools::wrk,
};

/// The row.
pub const NAME: &str = "orders";

const CONNECTIONS: i64 = 64;
/// Orders that are asked for.
const ORDERS: usize = 1_000;
const MODEL: &str = include_str!("../../data/model.json");
/// What differs from one answer to the next.
const OF_THE_MOMENT: [&str; 2] = ["date", "traceresponse"];

/// Measures the row.
///
/// # Errors
/// If an answer was not the order, or not from the cache.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_orders").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_BENCH_ROUTES", "true")]);
    run.ready().await;
    output::note(format_args!("orders: places {ORDERS} and warms up"));
    place(&world).await?;
    must_compare(&run).await?;
    let url = |path: &str| format!("http://{}{path}", run.address());
    let (hit, constant) = (url("/order"), url("/bench/order"));
    for warm in [&hit, &constant] {
        wrk(warm, CONNECTIONS, 1, ORDERS).await?;
    }
    let row = Row::new(NAME, "orders from the cache", "constant body", Some(0.7));
    let before = cache_reads(&run).await;
    let mut answers = 0;
    let row = row
        .alternate(
            settings.pairs,
            async || {
                let asked = wrk(&hit, CONNECTIONS, settings.seconds, ORDERS).await?;
                answers += asked.answers;
                Ok(asked.rate())
            },
            async || {
                let asked = wrk(&constant, CONNECTIONS, settings.seconds, ORDERS).await?;
                Ok(asked.rate())
            },
        )
        .await?;
    let after = cache_reads(&run).await;
    let (hits, others) = (after.0 - before.0, after.1 - before.1);
    ensure!(
        hits >= answers && others == 0,
        "{answers} answers had {hits} hits and {others} reads of Postgres"
    );
    report.add(row);
    run.terminate().await;
    Ok(())
}

/// The model order with the uid of this number, as `wrk.lua` asks for it.
fn order(number: usize) -> Result<Value> {
    let mut order: Value = serde_json::from_str(MODEL)?;
    order["order_uid"] = json!(format!("bench{number:014}"));
    Ok(order)
}

async fn place(world: &World) -> Result<()> {
    let orders: Result<Vec<_>> = (1..=ORDERS)
        .map(|number| Ok(format!("{}\n", order(number)?)))
        .collect();
    let emitted = world
        .millrace(&["emit", "order", "--file", "-"], &orders?.concat())
        .await;
    ensure!(emitted.status == 0, "emit order: {emitted:?}");
    world.caught_up("orders").await;
    Ok(())
}

/// Each order is what was placed, and the constant answer differs in nothing that costs.
async fn must_compare(run: &Process) -> Result<()> {
    let constant = run.get("/bench/order").await;
    for number in 1..=ORDERS {
        let order = order(number)?;
        let uid = order["order_uid"].as_str().unwrap_or_default();
        let answer = run.get(&format!("/order?uid={uid}")).await;
        ensure!(
            answer.status == 200 && answer.json() == order,
            "order {uid}: {answer:?}"
        );
        let (mut headers, mut others) = (answer.headers, constant.headers.clone());
        for name in OF_THE_MOMENT {
            headers.remove(name);
            others.remove(name);
        }
        ensure!(
            headers == others && answer.body.len() == constant.body.len(),
            "the constant answer is another: {others:?} of {} bytes, {headers:?} of {}",
            constant.body.len(),
            answer.body.len()
        );
    }
    Ok(())
}

/// Hits of the cache of the orders, and other look-ups.
async fn cache_reads(run: &Process) -> (i64, i64) {
    let metrics = run.get("/metrics").await.body;
    let mut reads = (0, 0);
    for line in metrics.lines() {
        if !line.starts_with("millrace_cache_reads_total{") || !line.contains(r#""orders""#) {
            continue;
        }
        let count = line.rsplit(' ').next().and_then(|count| count.parse().ok());
        match line.contains(r#""hit""#) {
            true => reads.0 += count.unwrap_or(0),
            false => reads.1 += count.unwrap_or(0),
        }
    }
    reads
}
