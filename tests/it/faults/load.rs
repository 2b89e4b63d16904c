//! Load: records that other clients write, and requests whose answers are kept.

use std::{
    cell::Cell,
    collections::BTreeMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use reqwest::{Client, Method, RequestBuilder};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::{PAUSE, RECOVERY};
use crate::{
    samples::order,
    world::{Process, Raw, World, eventually_within},
};

/// Records of a round of [`Feed`].
const CLICKS: usize = 1_500;
const ORDERS: usize = 150;
/// No more records are written while so many are not applied.
const AHEAD_MAX: i64 = 15_000;
/// The longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Appends clicks and orders, among the latter repetitions and contradictions.
pub struct Feed<'w> {
    world: &'w World,
    random: StdRng,
    /// Of a hundred records, how many are junk.
    junk: u32,
    appended: Cell<i64>,
    stop: CancellationToken,
}

impl<'w> Feed<'w> {
    /// Nothing is appended yet.
    pub fn new(world: &'w World, random: StdRng, junk: u32) -> Self {
        Self {
            world,
            random,
            junk,
            appended: Cell::new(0),
            stop: CancellationToken::new(),
        }
    }

    /// Ends [`Self::run`].
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Appends until it is stopped; never far ahead of what is applied.
    pub async fn run(mut self) {
        let clicks = self.world.writer("clicks").await;
        let orders = self.world.writer("orders").await;
        while !self.stop.is_cancelled() {
            let records = (0..CLICKS).map(|_| {
                let partition = self.random.random_range(0..8);
                if self.is_junk() {
                    return self.make_junk().into_partition(partition);
                }
                let click = json!({
                    "banner_id": self.random.random_range(0..50_i64),
                    "received_at": self.random.random_range(0..600_000_i64),
                });
                Raw::value(clicks.value(&click)).into_partition(partition)
            });
            let records: Vec<_> = records.collect();
            self.append("clicks", records).await;
            let records = (0..ORDERS).map(|_| {
                let uid = format!("order-{}", self.random.random_range(0..20_000));
                if self.is_junk() {
                    return self.make_junk().key(uid);
                }
                let mut order = order(&uid);
                // Some have been placed before: as they are, or otherwise.
                order["sm_id"] = self.random.random_range(0..2).into();
                Raw::value(orders.value(&order)).key(uid)
            });
            let records: Vec<_> = records.collect();
            self.append("orders", records).await;
            self.not_too_far_ahead().await;
        }
    }

    fn is_junk(&mut self) -> bool {
        self.random.random_range(0..100) < self.junk
    }

    fn make_junk(&mut self) -> Raw {
        match self.random.random_range(0..4) {
            0 => Raw::no_value(),
            1 => Raw::value("junk"),
            2 => Raw::value(crate::world::avro::framed(3_999_999_999, b"junk")),
            _ => Raw::value([0_u8; 5]),
        }
    }

    async fn append(&self, topic: &str, records: Vec<Raw>) {
        let records = self.world.append_all(topic, records).await;
        self.appended
            .set(self.appended.get() + i64::try_from(records.len()).unwrap());
    }

    async fn not_too_far_ahead(&self) {
        while !self.stop.is_cancelled()
            && self.appended.get() - self.world.applied().await > AHEAD_MAX
        {
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// What became of a request to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fate {
    /// On the log, at this position.
    Acknowledged(String),
    /// Certainly not on the log.
    NotApplied,
    /// Maybe on the log.
    Unknown,
}

/// What became of each request, by its number.
pub type Fates = BTreeMap<i64, Fate>;

/// Requests by several clients, one after the other each.
pub struct Load {
    fates: Arc<Mutex<Fates>>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Load {
    /// Clicks, each on the banner of its number.
    pub fn of_clicks(process: &Process, clients: usize) -> Self {
        let url = format!("http://{}/v1/banners/counter", process.address());
        let click =
            move |http: &Client, number| http.request(Method::GET, format!("{url}/{number}"));
        Self::start(clients, click)
    }

    /// Orders, each with the uid [`uid`] of its number.
    pub fn of_orders(process: &Process, clients: usize) -> Self {
        let url = format!("http://{}/v1/orders", process.address());
        let place = move |http: &Client, number| http.post(&url).json(&order(&uid(number)));
        Self::start(clients, place)
    }

    fn start(
        clients: usize,
        request: impl Fn(&Client, i64) -> RequestBuilder + Clone + Send + 'static,
    ) -> Self {
        let fates = Arc::new(Mutex::new(Fates::new()));
        let stop = CancellationToken::new();
        let numbers = Arc::new(AtomicI64::new(0));
        let mut running = JoinSet::new();
        for _ in 0..clients {
            let (request, fates) = (request.clone(), Arc::clone(&fates));
            let (stop, numbers) = (stop.clone(), Arc::clone(&numbers));
            running.spawn(async move {
                let http = Client::new();
                while !stop.is_cancelled() {
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    let fate = fate(request(&http, number)).await;
                    if matches!(fate, Fate::NotApplied) {
                        tokio::time::sleep(PAUSE).await;
                    }
                    fates.lock().unwrap().insert(number, fate);
                }
            });
        }
        Self {
            fates,
            stop,
            clients: running,
        }
    }

    /// What became of the requests so far.
    pub fn so_far(&self) -> MutexGuard<'_, Fates> {
        self.fates.lock().unwrap()
    }

    /// How many are acknowledged.
    pub fn acknowledged(&self) -> usize {
        acknowledged(&self.so_far()).count()
    }

    /// Waits until so many more are acknowledged.
    pub async fn acknowledged_more(&self, requests: usize) {
        let wanted = self.acknowledged() + requests;
        let what = format!("{wanted} requests are acknowledged");
        eventually_within(RECOVERY, &what, async || {
            (self.acknowledged() >= wanted).then_some(())
        })
        .await;
    }

    /// Waits until so many more are not acknowledged.
    pub async fn failed_more(&self, requests: usize) {
        let failed = || {
            let fates = self.so_far();
            fates.len() - acknowledged(&fates).count()
        };
        let wanted = failed() + requests;
        let what = format!("{wanted} requests are not acknowledged");
        eventually_within(RECOVERY, &what, async || (failed() >= wanted).then_some(())).await;
    }

    /// No more requests: waits for the answers.
    pub async fn end(mut self) -> Fates {
        self.stop.cancel();
        while let Some(client) = self.clients.join_next().await {
            client.unwrap();
        }
        self.so_far().clone()
    }
}

/// The uid of the order with this number.
pub fn uid(number: i64) -> String {
    format!("placed-{number}")
}

/// The numbers of those that are acknowledged.
pub fn acknowledged(fates: &Fates) -> impl Iterator<Item = i64> {
    let is_acknowledged = |(_, fate): &(&i64, &Fate)| matches!(fate, Fate::Acknowledged(_));
    fates
        .iter()
        .filter(is_acknowledged)
        .map(|(number, _)| *number)
}

async fn fate(request: RequestBuilder) -> Fate {
    let response = match request.timeout(ANSWER_MAX).send().await {
        Ok(response) => response,
        // Nobody was there to be asked.
        Err(error) if error.is_connect() => return Fate::NotApplied,
        Err(_) => return Fate::Unknown,
    };
    let status = response.status();
    if status.is_success() {
        let position = response.headers().get(crate::world::http::POSITION);
        let position = position.map(|position| position.to_str().unwrap().to_owned());
        return Fate::Acknowledged(position.unwrap_or_default());
    }
    let Ok(problem) = response.json::<Value>().await else {
        return Fate::Unknown;
    };
    match (status.as_u16(), problem["reason"].as_str()) {
        (503, Some("not_applied" | "overloaded")) => Fate::NotApplied,
        (503, Some("outcome_unknown" | "timeout")) => Fate::Unknown,
        _ => panic!("{status}: {problem}"),
    }
}

impl Process {
    /// Waits until it is ready after what was done to its servers.
    pub async fn ready_again(&self) {
        eventually_within(RECOVERY, "it is ready again", async || {
            (self.get("/readyz").await.status == 200).then_some(())
        })
        .await;
    }
}

/// The clicks of each banner, as the tables have them.
pub async fn clicks_by_banner(world: &World) -> BTreeMap<i64, i64> {
    let rows = world
        .sql("SELECT banner_id, sum(v)::bigint AS v FROM clicks.stats GROUP BY 1")
        .await;
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    rows.iter()
        .map(|row| (number(row, "banner_id"), number(row, "v")))
        .collect()
}
