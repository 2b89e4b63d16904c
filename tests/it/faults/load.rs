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
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{PAUSE, RECOVERY, tell};
use crate::{
    samples::order,
    world::{Process, Raw, World, eventually_within, log::Appender},
};

/// How much a [`Feed`] writes.
#[derive(Clone, Copy)]
pub struct Flow {
    /// Clicks of a round.
    clicks: usize,
    /// Orders of a round.
    orders: usize,
    /// Events of users of a round.
    users: usize,
    /// From one round to the next, if it does not take longer.
    every: Duration,
    /// No more records are written while so many are not applied.
    ahead_max: i64,
}

/// About as much as is folded at most.
pub const FLOOD: Flow = Flow {
    clicks: 1_500,
    orders: 150,
    users: 150,
    every: Duration::from_millis(100),
    ahead_max: 15_000,
};
/// So that there is always something to fold, and little work; and the others go on for as long as a fold is held.
pub const TRICKLE: Flow = Flow {
    clicks: 160,
    orders: 64,
    users: 16,
    every: Duration::from_millis(500),
    ahead_max: 4_000,
};

/// The longest wait for an answer.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// Appends clicks, orders, among them repetitions and contradictions, and users who come and go.
pub struct Feed<'w> {
    world: &'w World,
    random: StdRng,
    flow: Flow,
    /// Of a hundred records, how many are junk.
    junk: u32,
    appender: Appender,
    appended: Cell<i64>,
    stop: CancellationToken,
}

impl<'w> Feed<'w> {
    /// Nothing is appended yet.
    pub fn new(world: &'w World, random: StdRng, junk: u32) -> Self {
        Self::of(FLOOD, world, random, junk)
    }

    /// The same with another amount.
    pub fn of(flow: Flow, world: &'w World, random: StdRng, junk: u32) -> Self {
        Self {
            world,
            random,
            flow,
            junk,
            appender: world.appender(),
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
        let users = self.world.writer("users").await;
        let (set, removed) = (users.of("UserProfileSet"), users.of("UserRemoved"));
        let mut rounds = interval(self.flow.every);
        rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            rounds.tick().await;
            let records = (0..self.flow.clicks).map(|_| {
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
            let records = (0..self.flow.orders).map(|_| {
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
            let records = (0..self.flow.users).map(|_| {
                let id = format!("user-{}", self.random.random_range(0..500));
                if self.is_junk() {
                    return self.make_junk().key(id);
                }
                let value = match self.random.random_range(0..4) {
                    0 => removed.value(&json!({ "user_id": id })),
                    number => set.value(&json!({
                        "user_id": id,
                        "deeplink": number.to_string(),
                        "promo_message": self.random.random::<u32>().to_string(),
                    })),
                };
                Raw::value(value).key(id)
            });
            let records: Vec<_> = records.collect();
            self.append("users", records).await;
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
        let records = self.appender.append_all(topic, records).await;
        self.appended
            .set(self.appended.get() + i64::try_from(records.len()).unwrap());
    }

    async fn not_too_far_ahead(&self) {
        while !self.stop.is_cancelled()
            && self.appended.get() - self.world.applied().await > self.flow.ahead_max
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

    /// Waits until so many more are acknowledged.
    pub async fn acknowledged_more(&self, requests: usize) {
        let acknowledged = |fate: &Fate| matches!(fate, Fate::Acknowledged(_));
        self.more(requests, "acknowledged", acknowledged).await;
    }

    /// Waits until so many more are not acknowledged.
    pub async fn failed_more(&self, requests: usize) {
        let failed = |fate: &Fate| !matches!(fate, Fate::Acknowledged(_));
        self.more(requests, "not acknowledged", failed).await;
    }

    /// Waits until so many more are certainly not on the log.
    pub async fn not_applied_more(&self, requests: usize) {
        let not_applied = |fate: &Fate| *fate == Fate::NotApplied;
        self.more(requests, "not applied", not_applied).await;
    }

    /// Waits until so many more are maybe on the log.
    pub async fn unknown_more(&self, requests: usize) {
        let unknown = |fate: &Fate| *fate == Fate::Unknown;
        self.more(requests, "unknown", unknown).await;
    }

    async fn more(&self, requests: usize, what: &str, is_it: impl Fn(&Fate) -> bool) {
        let count = || self.so_far().values().filter(|fate| is_it(fate)).count();
        let wanted = count() + requests;
        let what = format!("{wanted} requests are {what}");
        eventually_within(RECOVERY, &what, async || (count() >= wanted).then_some(())).await;
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
        let mut said = String::new();
        eventually_within(RECOVERY, "it is ready again", async || {
            let answer = self.get("/readyz").await;
            if answer.body != said {
                tell(&format!("/readyz: {}", answer.body));
                said = answer.body;
            }
            (answer.status == 200).then_some(())
        })
        .await;
    }
}

/// The clicks of each banner that came by the API, as the tables have them: those of a [`Feed`] are of 1970.
pub async fn clicks_by_banner(world: &World) -> BTreeMap<i64, i64> {
    let rows = world
        .sql("SELECT banner_id, sum(v)::bigint AS v FROM clicks.stats WHERE ts > '2020-01-01' GROUP BY 1")
        .await;
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    rows.iter()
        .map(|row| (number(row, "banner_id"), number(row, "v")))
        .collect()
}

/// The orders that a [`Load`] placed, by their numbers: partition and offset of their records.
async fn orders_by_number(world: &World) -> BTreeMap<i64, (i64, i64)> {
    let placed = r#"SELECT replace(order_uid, 'placed-', '')::bigint AS number, partition, "offset"
        FROM orders.orders WHERE order_uid LIKE 'placed-%'"#;
    let rows = world.sql(placed).await;
    let number = |row: &Value, name: &str| row[name].as_i64().unwrap();
    rows.iter()
        .map(|row| {
            (
                number(row, "number"),
                (number(row, "partition"), number(row, "offset")),
            )
        })
        .collect()
}

/// Waits until all is folded, and asserts that the tables are what the log says and that the answers to requests told
/// the truth about it.
pub async fn answers_were_true(world: &World, clicks: &Fates, orders: &Fates) {
    world.must_be_what_the_log_says().await;
    must_be_true(clicks, &clicks_by_banner(world).await);
    let placed = orders_by_number(world).await;
    must_be_true(orders, &placed.keys().map(|number| (*number, 1)).collect());
    for (number, fate) in orders {
        if let Fate::Acknowledged(told) = fate {
            let (partition, offset) = placed[number];
            let position = format!("{}/{partition}@{offset}", world.topic("orders"));
            // After a repetition the broker may not know it any more.
            assert!(
                told.is_empty() || *told == position,
                "order {number} is at {position}, not at {told}"
            );
        }
    }
}

/// What was acknowledged counts once, what was refused not at all, and what is unknown at most once.
fn must_be_true(fates: &Fates, counted: &BTreeMap<i64, i64>) {
    assert!(acknowledged(fates).next().is_some());
    for number in counted.keys() {
        assert!(fates.contains_key(number), "nobody asked for {number}");
    }
    for (number, fate) in fates {
        let found = counted.get(number).copied().unwrap_or(0);
        let is_true = match fate {
            Fate::Acknowledged(_) => found == 1,
            Fate::NotApplied => found == 0,
            Fate::Unknown => found <= 1,
        };
        assert!(
            is_true,
            "request {number} is counted {found} times: {fate:?}"
        );
    }
}
