//! Orders over HTTP: `GET /order?uid=` from the cache, beside a constant body.
//!
//! Both are answered by the same `millrace run` through the same middleware, and asked for by the same wrk with the
//! same kind of query (a thousand uids in turn). The constant is the JSON of one of these orders: as many bytes, the
//! same headers; that is checked before. Checked after: nothing was read from Postgres, every answer was a hit.

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use crate::{
    hits::{Hits, must_be_alike},
    it::world::{Process, World},
    output,
    run::{Report, Row, Settings},
    tools::Turns,
};

/// The row.
pub const NAME: &str = "orders";

/// Orders that are asked for.
pub const ORDERS: usize = 1_000;
/// They in turn.
pub const TURNS: Turns = Turns::Of("uid=bench%014d", ORDERS);
const MODEL: &str = include_str!("../../data/model.json");

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
    let row = Row::new(NAME, "orders from the cache", "constant body", Some(0.85));
    let hits = Hits {
        turns: TURNS,
        cache: NAME,
    };
    let paths = ["/order", "/bench/order"];
    hits.measure_beside(settings, report, row, &run, paths)
        .await?;
    run.terminate().await;
    Ok(())
}

/// The model order with the uid of this number, as `wrk.lua` asks for it.
fn order(number: usize) -> Result<Value> {
    let mut order: Value = serde_json::from_str(MODEL)?;
    order["order_uid"] = json!(format!("bench{number:014}"));
    Ok(order)
}

/// Appends the orders, and waits until they are folded.
///
/// # Errors
/// If they cannot be appended.
pub async fn place(world: &World) -> Result<()> {
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
        must_be_alike(&answer, &constant)?;
    }
    Ok(())
}
