//! From sending to visible, open-loop, and the memory of `millrace run` meanwhile.
//!
//! A probe is due at a fixed time, whatever became of those before it, and its time runs from when it was due: a click,
//! or an order, is sent, and then asked for with the `Millrace-Position` of the answer as `Millrace-Min-Position`; it
//! ends when the statistics, or `GET /order`, have it. So it is two requests, and everything that lies between.
//!
//! The probes run with nothing beside them; while oha asks for clicks at half of their maximum; and while `millrace emit
//! order` appends half as many orders a second as can be folded. The maxima are those of the rows before, or measured
//! here if these were not asked for. Checked at the end: every click and every order is there, once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use jiff::{SignedDuration, Timestamp};
use producers::clock;
use reqwest::{Client, RequestBuilder, Response, header::HeaderMap};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    clicks::{self, count, on_log, settled},
    folds,
    it::world::{
        Process, World,
        http::{MIN_POSITION, POSITION},
    },
    output,
    run::{Latency, Report, Settings, peak_mb, rounded},
    tools::{Asked, Oha, oha},
};

/// The row.
pub const NAME: &str = "latency";

/// Probes of each kind.
const PROBES_A_SECOND: u32 = 40;
/// How much longer the probes take than one side of a pair.
const LASTING: u32 = 3;
/// A load has so long to get going before the first probe is due, and goes on so long after the last.
const MARGIN: Duration = Duration::from_secs(1);
/// Connections and seconds to find the maximum of the clicks, if it is not known.
const MAXIMUM_OF_CLICKS: (i64, u64) = (512, 2);
/// Orders to find the maximum of their fold, if it is not known.
const MAXIMUM_OF_ORDERS: usize = 10_000;
/// Connections of the load.
const CONNECTIONS: i64 = 64;
/// A load that comes to less than this part of its rate is told.
const HELD: f64 = 0.95;
const LOADED_BANNER: i64 = 7;
const PROBED_BANNERS: i64 = 1_000;
/// What is wanted of every time, and of most when nothing else goes on.
const WITHIN_MS_MAX: u64 = 1_000;
const IDLE_MS_MAX: u64 = 50;
const MODEL: &str = include_str!("../../data/model.json");

/// Measures the row.
///
/// # Errors
/// If a probe was not answered, or an event was lost or counted twice.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_latency").await;
    let mut run = world.start(["run"]).await;
    let lasting = Duration::from_secs(settings.seconds) * LASTING;
    output::note("latency: warms up and finds the maxima that are not known");
    let probes = Probes::new(&run)?;
    probes.send("", Duration::from_secs(1)).await?;
    let (clicks_max, orders_max) = maxima(&world, &run, report).await?;

    let idle = probes.send("idle", lasting).await?;
    report.add_latencies(idle);

    let before = on_log(&world).await;
    let probed = probes.clicks();
    let rate = clicks_max / 2.0;
    let (clicked, found) = while_clicking(&run, &probes, rate, lasting).await?;
    if clicked.rate < HELD * rate {
        report.note(format!(
            "oha came to {} clicks a second only: it, or the machine, was too busy for its rate",
            rounded(clicked.rate)
        ));
    }
    report.add_latencies(found);
    let clicks = settled(&world).await? - before;
    let sent = clicked.answers + probes.clicks() - probed;
    ensure!(
        clicks == sent,
        "{sent} clicks were answered, {clicks} are on the log"
    );

    let found = while_ordering(&world, &probes, orders_max / 2.0, lasting).await?;
    report.add_latencies(found);
    must_have_all_orders(&world).await?;

    report.took(NAME, peak_mb(&run));
    report.note(format!(
        "{NAME}: wanted are all within {WITHIN_MS_MAX} ms, and {IDLE_MS_MAX} ms as a rule when idle"
    ));
    run.terminate().await;
    Ok(())
}

/// The most clicks and orders a second.
async fn maxima(world: &World, run: &Process, report: &Report) -> Result<(f64, f64)> {
    let clicks = match report.rate(clicks::MAXIMUM) {
        Some(rate) => rate,
        None => {
            let (connections, seconds) = MAXIMUM_OF_CLICKS;
            count(world, run, connections, seconds).await?.rate()
        }
    };
    let orders = match report.rate(folds::ORDERS) {
        Some(rate) => rate,
        None => {
            let began = Instant::now();
            emit(world, MAXIMUM_OF_ORDERS, None).await?;
            world.caught_up("orders").await;
            MAXIMUM_OF_ORDERS as f64 / began.elapsed().as_secs_f64()
        }
    };
    Ok((clicks, orders))
}

/// Probes while oha clicks; gives what oha saw, and the times of both.
async fn while_clicking(
    run: &Process,
    probes: &Arc<Probes>,
    rate: f64,
    lasting: Duration,
) -> Result<(Oha, Vec<Latency>)> {
    let load = format!("{} clicks/s", rounded(rate));
    output::note(format_args!("latency: {load}"));
    let url = format!(
        "http://{}/v1/banners/counter/{LOADED_BANNER}",
        run.address()
    );
    let asked = Asked {
        method: "GET",
        url: &url,
        status: 204,
        connections: CONNECTIONS,
    };
    let (clicked, found) = tokio::join!(oha(asked, rate, lasting + 2 * MARGIN), async {
        sleep(MARGIN).await;
        probes.send(&load, lasting).await
    });
    let clicked = clicked?;
    let mut latencies = vec![clicked.latency(&load, "click answered (oha)")];
    latencies.extend(found?);
    Ok((clicked, latencies))
}

/// Probes while orders are appended.
async fn while_ordering(
    world: &World,
    probes: &Arc<Probes>,
    rate: f64,
    lasting: Duration,
) -> Result<Vec<Latency>> {
    let load = format!("{} orders/s", rounded(rate));
    output::note(format_args!("latency: {load}"));
    let seconds = (lasting + 2 * MARGIN).as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive, small number"
    )]
    let orders = (rate * seconds) as usize;
    let (emitted, found) = tokio::join!(emit(world, orders, Some(rate)), async {
        sleep(MARGIN).await;
        probes.send(&load, lasting).await
    });
    emitted?;
    found
}

async fn emit(world: &World, orders: usize, rate: Option<f64>) -> Result<()> {
    let (orders, rate) = (orders.to_string(), rate.map(|rate| rate.to_string()));
    let mut command = vec!["emit", "order", "--sample", &orders];
    if let Some(rate) = &rate {
        command.extend(["--rate", rate]);
    }
    let emitted = world.millrace(&command, "").await;
    ensure!(emitted.status == 0, "emit order: {emitted:?}");
    Ok(())
}

async fn must_have_all_orders(world: &World) -> Result<()> {
    world.caught_up("orders").await;
    let on_log: i64 = world.ends("orders").await.iter().sum();
    let found = world
        .sql("SELECT count(*) AS rows FROM orders.orders")
        .await;
    ensure!(
        found[0]["rows"] == on_log,
        "{on_log} orders are on the log, {} in the table",
        found[0]["rows"]
    );
    Ok(())
}

/// What is probed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Click,
    Order,
}

/// Sends events and asks for them.
struct Probes {
    http: Client,
    address: String,
    model: Value,
    sent: AtomicI64,
}

impl Probes {
    fn new(run: &Process) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            http: Client::new(),
            address: run.address().to_owned(),
            model: serde_json::from_str(MODEL)?,
            sent: AtomicI64::new(0),
        }))
    }

    /// How many clicks were sent: half of the probes.
    fn clicks(&self) -> i64 {
        self.sent.load(Ordering::Relaxed) / 2
    }

    /// Sends clicks and orders in turn, each at its time.
    async fn send(self: &Arc<Self>, load: &str, lasting: Duration) -> Result<Vec<Latency>> {
        let between = Duration::from_secs(1) / PROBES_A_SECOND / 2;
        let first = Instant::now() + between;
        let mut probing = JoinSet::new();
        let count = u32::try_from(lasting.as_millis() / between.as_millis())? / 2 * 2;
        for turn in 0..count {
            let (probes, due) = (Arc::clone(self), first + between * turn);
            let kind = [Kind::Click, Kind::Order][turn as usize % 2];
            probing.spawn(async move {
                sleep_until(due).await;
                let seen = probes.probe(kind).await;
                (kind, seen.map(|()| due.elapsed()))
            });
        }
        let (mut clicks, mut orders) = (Vec::new(), Vec::new());
        while let Some(probed) = probing.join_next().await {
            match probed? {
                (Kind::Click, took) => clicks.push(took.context("a click")?),
                (Kind::Order, took) => orders.push(took.context("an order")?),
            }
        }
        Ok(vec![
            Latency::of(load, "click in the statistics", clicks),
            Latency::of(load, "order in GET /order", orders),
        ])
    }

    async fn probe(&self, kind: Kind) -> Result<()> {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        match kind {
            Kind::Click => self.click(PROBED_BANNERS + number).await,
            Kind::Order => self.order(&format!("probe{number:014}")).await,
        }
    }

    /// Clicks a banner that nobody else clicks, and finds the click in its statistics.
    async fn click(&self, banner: i64) -> Result<()> {
        let counter = self.url(&format!("/v1/banners/counter/{banner}"));
        let answer = sent(self.http.post(counter), 204).await?;
        let now = Timestamp::from_millisecond(clock::now_ms())?;
        let hour = SignedDuration::from_hours(1);
        let range = json!({ "from": (now - hour).to_string(), "to": (now + hour).to_string() });
        let statistics = self.url(&format!("/v1/banners/stats/{banner}"));
        let asked = self.http.post(statistics).json(&range);
        let found = sent(reflecting(asked, answer.headers())?, 200).await?;
        let found: Value = found.json().await?;
        ensure!(
            found["stats"].as_array().map(Vec::len) == Some(1) && found["stats"][0]["v"] == 1,
            "the statistics of a banner that was clicked once: {found}"
        );
        Ok(())
    }

    /// Places an order, and finds it.
    async fn order(&self, uid: &str) -> Result<()> {
        let mut order = self.model.clone();
        order["order_uid"] = json!(uid);
        let placing = self.http.post(self.url("/v1/orders")).json(&order);
        let answer = sent(placing, 201).await?;
        let asked = self.http.get(self.url(&format!("/order?uid={uid}")));
        let found = sent(reflecting(asked, answer.headers())?, 200).await?;
        let found: Value = found.json().await?;
        ensure!(found == order, "another order was found: {found}");
        Ok(())
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }
}

async fn sent(request: RequestBuilder, status: u16) -> Result<Response> {
    let answer = request.send().await?;
    if answer.status() == status {
        return Ok(answer);
    }
    anyhow::bail!("{}: {}", answer.status(), answer.text().await?)
}

/// A read that has to reflect what was written.
fn reflecting(read: RequestBuilder, written: &HeaderMap) -> Result<RequestBuilder> {
    let position = written
        .get(POSITION)
        .context("an answer without position")?;
    Ok(read.header(MIN_POSITION, position))
}
