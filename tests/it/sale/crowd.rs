//! A crowd at the sale: what it wants is drawn at random, and every answer is kept for the judge.

use std::{
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use producers::clock;
use rand::{RngExt, rngs::StdRng};
use reqwest::{Client, RequestBuilder};
use serde_json::Value;
use tokio::{task::JoinSet, time::sleep};
use tokio_util::sync::CancellationToken;

use super::KEY;
use crate::{
    reference::sales::{Answer, Request},
    world::eventually_within,
};

/// The longest wait for an answer; longer than any process may take.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// Before the next request after one that was not applied.
const PAUSE: Duration = Duration::from_millis(20);
/// How long a crowd may take to get what it is waited for.
const PATIENCE: Duration = Duration::from_secs(120);

/// What a crowd is like.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Callers at once, each with one request at a time.
    pub clients: usize,
    /// Users that they ask for.
    pub users: i64,
    /// Items that they want.
    pub items: i64,
    /// Of a hundred reservations, how many are bought.
    pub bought: u32,
    /// Of a hundred requests, how many have a key; those are asked again until the answer is certain.
    pub keyed: u32,
}

/// Callers of one or several processes.
pub struct Crowd {
    seen: Arc<Mutex<Vec<Answer>>>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

/// Addresses to ask, `host:port`; they change as processes come and go.
pub type Addresses = Arc<Mutex<Vec<String>>>;

impl Crowd {
    /// Lets them in.
    pub fn at(addresses: &Addresses, shape: Shape, random: &mut StdRng) -> Self {
        let seen = Arc::<Mutex<Vec<Answer>>>::default();
        let stop = CancellationToken::new();
        let mut clients = JoinSet::new();
        for number in 0..shape.clients {
            let caller = Caller {
                http: Client::new(),
                addresses: Arc::clone(addresses),
                shape,
                random: clock::generator(Some(random.random())),
                seen: Arc::clone(&seen),
                name: format!("caller-{number}"),
                keys: 0,
            };
            clients.spawn(caller.run(stop.clone()));
        }
        Self {
            seen,
            stop,
            clients,
        }
    }

    /// How many answers there are that this is true of.
    pub fn count(&self, is_it: impl Fn(&Answer) -> bool) -> usize {
        let seen = self.seen.lock().unwrap();
        seen.iter().filter(|answer| is_it(answer)).count()
    }

    /// Waits until there are so many more answers that this is true of.
    pub async fn more(&self, answers: usize, what: &str, is_it: impl Fn(&Answer) -> bool) {
        let wanted = self.count(&is_it) + answers;
        eventually_within(PATIENCE, &format!("{answers} more: {what}"), async || {
            (self.count(&is_it) >= wanted).then_some(())
        })
        .await;
    }

    /// Sends them home, and gives what they were told.
    pub async fn end(mut self) -> Vec<Answer> {
        self.stop.cancel();
        while let Some(ended) = self.clients.join_next().await {
            ended.unwrap();
        }
        std::mem::take(&mut self.seen.lock().unwrap())
    }
}

/// One of the crowd.
struct Caller {
    http: Client,
    addresses: Addresses,
    shape: Shape,
    random: StdRng,
    seen: Arc<Mutex<Vec<Answer>>>,
    name: String,
    keys: usize,
}

impl Caller {
    async fn run(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let checkout = Request::Checkout {
                user_id: self.random.random_range(0..self.shape.users),
                item_id: self.random.random_range(0..self.shape.items),
                key: self.key(),
            };
            let reserved = self.ask(checkout).await;
            if reserved.status != 200 || !self.chance(self.shape.bought) {
                continue;
            }
            let purchase = Request::Purchase {
                code: reserved.said,
                key: self.key(),
            };
            self.ask(purchase).await;
        }
    }

    fn chance(&mut self, of_hundred: u32) -> bool {
        self.random.random_range(0..100) < of_hundred
    }

    fn key(&mut self) -> Option<String> {
        if !self.chance(self.shape.keyed) {
            return None;
        }
        self.keys += 1;
        Some(format!("{}-{}", self.name, self.keys))
    }

    /// Asks; with a key, until the answer is certain. Every answer is kept.
    async fn ask(&mut self, request: Request) -> Answer {
        let (Request::Checkout { key, .. } | Request::Purchase { key, .. }) = &request;
        let is_keyed = key.is_some();
        loop {
            let answer = self.ask_once(&request).await;
            self.seen.lock().unwrap().push(answer.clone());
            if answer.status != 0 && answer.status != 503 {
                return answer;
            }
            sleep(PAUSE).await;
            if !is_keyed {
                return answer;
            }
        }
    }

    async fn ask_once(&mut self, request: &Request) -> Answer {
        let address = {
            let addresses = self.addresses.lock().unwrap();
            let which = self.random.random_range(0..addresses.len());
            addresses[which].clone()
        };
        let sent = send(&self.http, &address, request);
        let asked_at = Instant::now();
        let (status, said, position) = match told(sent).await {
            Ok(told) => told,
            // Nobody was there to hear it.
            Err(error) if error.is_connect() => (503, "not_applied".to_owned(), None),
            Err(_) => (0, String::new(), None),
        };
        Answer {
            asked_at,
            answered_at: Instant::now(),
            request: request.clone(),
            status,
            said,
            position,
        }
    }
}

fn send(http: &Client, address: &str, request: &Request) -> RequestBuilder {
    let (path, key) = match request {
        Request::Checkout {
            user_id,
            item_id,
            key,
        } => (format!("checkout?user_id={user_id}&item_id={item_id}"), key),
        Request::Purchase { code, key } => (format!("purchase?code={code}"), key),
    };
    let request = http
        .post(format!("http://{address}/{path}"))
        .timeout(ANSWER_MAX);
    match key {
        Some(key) => request.header(KEY, key),
        None => request,
    }
}

/// Status, code or reason, and offset of an answer.
async fn told(request: RequestBuilder) -> reqwest::Result<(u16, String, Option<i64>)> {
    let response = request.send().await?;
    let status = response.status().as_u16();
    let position = response.headers().get("millrace-position");
    let offset = position.map(|position| {
        let (_, offset) = position.to_str().unwrap().rsplit_once('@').unwrap();
        offset.parse().unwrap()
    });
    let body = response.text().await?;
    let said = match serde_json::from_str::<Value>(&body) {
        Ok(problem) => problem["reason"].as_str().unwrap_or_default().to_owned(),
        Err(_) => body,
    };
    Ok((status, said, offset))
}
