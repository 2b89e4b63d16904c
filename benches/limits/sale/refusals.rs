//! Refusals that need no log: `POST /checkout` of an item that is sold, beside a constant body.
//!
//! Both are answered by the same `millrace api` through the same middleware, and asked for by the same wrk over as many
//! connections with the same query. The constant has as many bytes and the same headers; that is checked before. All the
//! while the log is asked for something else three times a second, which keeps what is known fresh. The tables are not
//! filled meanwhile: each refusal is a row of them, and Postgres would take its share of the cores on one side alone.
//!
//! Checked after each run: the process has counted as many refusals as there were answers, and at most one more a
//! connection; at the end: every refusal that needed no log is on the topic of attempts, or counted as dropped.

use anyhow::{Result, ensure};
use serde_json::json;

use super::{
    KeptFresh, REFUSALS, checkout, counted, far_from_the_end, post, sell, set_rules, verdicts,
};
use crate::{
    hits::OF_THE_MOMENT,
    it::world::{Process, World, eventually},
    output,
    run::{Report, Row, Settings, rounded},
    tools::wrk_refused,
};

const CONNECTIONS: i64 = 64;
/// What is sold, and who comes too late.
const ITEM: usize = 42;
const USER: usize = 1_234_567;
/// Of the refusals, so many may need the log after all, as the machine stands still now and then.
const BY_LOG_MAX: f64 = 0.05;

/// Measures the row.
///
/// # Errors
/// If an answer was another, or refusals were lost.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    far_from_the_end(settings.lasting()).await;
    let world = World::new("bench_refusals").await;
    set_rules(&world, 1).await;
    let mut run = world.spawn(&["api"], &[("MILLRACE_BENCH_ROUTES", "true")]);
    run.ready().await;
    sell(&run, 1, ITEM).await?;
    let fresh = KeptFresh::of(&run);
    must_compare(&run).await?;
    let query = checkout(USER, ITEM);
    let refused = format!("http://{}{query}", run.address());
    let constant = refused.replace("/checkout", "/bench/refusal");
    output::note(format_args!("{REFUSALS}: warms up"));
    for warm in [&refused, &constant] {
        wrk_refused(warm, CONNECTIONS, 1).await?;
    }
    let row = Row::new(
        REFUSALS,
        "checkouts of a sold item, 409",
        "constant 409",
        Some(0.85),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || refuse(&run, &refused, settings.seconds).await,
            async || {
                let asked = wrk_refused(&constant, CONNECTIONS, settings.seconds).await?;
                Ok(asked.rate())
            },
        )
        .await?;
    drop(fresh);
    report.add(row);
    tell_attempts(&world, &run, report).await?;
    run.terminate().await;
    Ok(())
}

/// Is refused for a while; gives answers a second.
///
/// # Errors
/// If refusals were lost, or too many needed the log.
pub async fn refuse(run: &Process, url: &str, seconds: u64) -> Result<f64> {
    let before = told(run).await;
    let asked = wrk_refused(url, CONNECTIONS, seconds).await?;
    let what = "as many refusals are counted as there were answers";
    let now = eventually(what, async || {
        let now = told(run).await;
        (now.0 + now.1 - before.0 - before.1 >= asked.answers).then_some(now)
    })
    .await;
    let (by_board, by_log) = (now.0 - before.0, now.1 - before.1);
    let most = asked.answers + CONNECTIONS;
    ensure!(
        by_board + by_log <= most,
        "{} answers, {by_board} refusals without the log and {by_log} by it",
        asked.answers
    );
    ensure!(
        (by_log as f64) <= BY_LOG_MAX * asked.answers as f64,
        "{by_log} of {} refusals needed the log: the machine was too busy to keep the sale fresh",
        asked.answers
    );
    Ok(asked.rate())
}

/// Checkouts of sold items that were refused so far, without the log and by it.
async fn told(run: &Process) -> (i64, i64) {
    let by_board = verdicts(run, "checkout", "item_sold", "board").await;
    (
        by_board,
        verdicts(run, "checkout", "item_sold", "log").await,
    )
}

/// What is refused differs in nothing that costs from the constant.
async fn must_compare(run: &Process) -> Result<()> {
    let constant = post(run, "/bench/refusal").await;
    let what = "a refusal without the log";
    let refused = eventually(what, async || {
        let refused = post(run, &checkout(USER, ITEM)).await;
        let by_log = refused.find_header("millrace-position").is_some();
        (!by_log).then_some(refused)
    })
    .await;
    let bytes = (refused.body.len(), constant.body.len());
    let (mut headers, mut others) = (refused.headers, constant.headers);
    for name in OF_THE_MOMENT {
        headers.remove(name);
        others.remove(name);
    }
    ensure!(
        refused.status == constant.status && headers == others && bytes.0 == bytes.1,
        "the constant answer is another: {others:?}, {headers:?}, {bytes:?} bytes"
    );
    Ok(())
}

/// Every refusal without the log is kept, or was dropped and counted.
async fn tell_attempts(world: &World, run: &Process, report: &mut Report) -> Result<()> {
    let refused = verdicts(run, "checkout", "item_sold", "board").await;
    let what = "all refusals are on the topic of attempts, or dropped";
    let (kept, dropped) = eventually(what, async || {
        let kept: i64 = world.ends("sale-attempts").await.iter().sum();
        let dropped = counted(run, "millrace_sale_attempts_dropped_total").await;
        (kept + dropped >= refused).then_some((kept, dropped))
    })
    .await;
    ensure!(
        kept + dropped == refused,
        "{refused} refusals, {kept} on the topic of attempts, {dropped} dropped"
    );
    report.detail(
        REFUSALS,
        json!({ "refused": refused, "kept": kept, "dropped": dropped }),
    );
    report.note(format!(
        "of {} refusals without the log {} are on the topic of attempts, {} were dropped",
        rounded(refused as f64),
        rounded(kept as f64),
        rounded(dropped as f64)
    ));
    Ok(())
}
