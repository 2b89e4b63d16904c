//! Segments over several processes that are killed, told to stop and paused, and without Postgres. Whatever happens, what
//! callers were told is what the log says, by a fold that shares no code with the one under test.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use rand::{
    RngExt,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use reqwest::{Client, Method};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{PAUSE, RECOVERY, faults, fork, random, servers::servers_to_kill, tell};
use crate::{
    sale::KEY,
    world::{Process, World, eventually_within},
};

const CLIENTS: usize = 8;
/// So few that all of them collide.
const SLUGS: [&str; 5] = ["A", "B", "C", "D", "E"];
const USERS: i64 = 6;
/// Of a hundred requests whose answer is not one, how many are not sent again.
const GIVEN_UP: u32 = 20;
/// Longer than a request is waited for.
const FAINT: Duration = Duration::from_secs(8);
/// Longer than any answer takes.
const ANSWER_MAX: Duration = Duration::from_secs(20);

/// What somebody was told in the end: a status, and the `reason` of a refusal or what changed.
#[derive(Debug, Clone, PartialEq)]
struct Told {
    status: u16,
    said: Value,
}

impl Told {
    fn says(&self, reason: &str) -> bool {
        self.said["reason"] == reason
    }

    /// Whether it is an answer, and not that there is none.
    fn is_answer(&self) -> bool {
        self.status != 0 && self.status != 429 && self.status < 500
    }
}

/// Callers who ask one after the other, and again with the same key if they get no answer.
struct Crowd {
    addresses: Arc<Mutex<Vec<String>>>,
    /// All that was told, by key, in its order.
    told: Arc<Mutex<BTreeMap<String, Vec<Told>>>>,
    stop: CancellationToken,
    clients: JoinSet<()>,
}

impl Crowd {
    fn at(processes: &[Process], random: &mut StdRng) -> Self {
        let mut crowd = Self {
            addresses: Arc::default(),
            told: Arc::default(),
            stop: CancellationToken::new(),
            clients: JoinSet::new(),
        };
        crowd.goes_to(processes);
        for number in 0..CLIENTS {
            let client = Caller {
                http: Client::builder().timeout(ANSWER_MAX).build().unwrap(),
                number,
                addresses: Arc::clone(&crowd.addresses),
                told: Arc::clone(&crowd.told),
                random: fork(random),
            };
            crowd.clients.spawn(client.ask(crowd.stop.clone()));
        }
        crowd
    }

    fn goes_to(&self, processes: &[Process]) {
        let addresses = processes.iter().map(|process| process.address().to_owned());
        *self.addresses.lock().unwrap() = addresses.collect();
    }

    /// How many answers are like this.
    fn count(&self, is_it: impl Fn(&Told) -> bool) -> usize {
        let told = self.told.lock().unwrap();
        told.values().flatten().filter(|told| is_it(told)).count()
    }

    /// Waits for so many more answers like this.
    async fn more(&self, answers: usize, what: &str, is_it: impl Fn(&Told) -> bool) {
        let wanted = self.count(&is_it) + answers;
        eventually_within(RECOVERY, what, async || {
            (self.count(&is_it) >= wanted).then_some(())
        })
        .await;
    }

    async fn end(self) -> BTreeMap<String, Vec<Told>> {
        self.stop.cancel();
        self.clients.join_all().await;
        let told = self.told.lock().unwrap();
        told.clone()
    }
}

struct Caller {
    http: Client,
    number: usize,
    addresses: Arc<Mutex<Vec<String>>>,
    told: Arc<Mutex<BTreeMap<String, Vec<Told>>>>,
    random: StdRng,
}

impl Caller {
    async fn ask(mut self, stop: CancellationToken) {
        for turn in 0.. {
            if stop.is_cancelled() {
                return;
            }
            let key = format!("{}-{turn}", self.number);
            let (method, path, body) = self.wish();
            loop {
                let told = self.send(&method, path, &body, &key).await;
                let is_answer = told.is_answer();
                self.told
                    .lock()
                    .unwrap()
                    .entry(key.clone())
                    .or_default()
                    .push(told);
                if is_answer || self.random.random_range(0..100) < GIVEN_UP {
                    break;
                }
                sleep(PAUSE).await;
            }
        }
    }

    fn wish(&mut self) -> (Method, &'static str, Value) {
        let slug = *SLUGS.choose(&mut self.random).unwrap();
        match self.random.random_range(0..10) {
            0 => (Method::DELETE, "/segment", json!({ "slug": slug })),
            1..4 => (Method::POST, "/segment", json!({ "slug": slug })),
            _ => {
                let mut slugs = SLUGS;
                slugs.shuffle(&mut self.random);
                let (add, del) = slugs[..2].split_at(self.random.random_range(0..=2));
                let ttl_days = [None, Some(0.00001), Some(1.0)];
                let body = json!({
                    "user_id": self.random.random_range(0..USERS), "add": add, "del": del,
                    "ttl_days": ttl_days.choose(&mut self.random).unwrap(),
                });
                (Method::POST, "/segment/user", body)
            }
        }
    }

    async fn send(&mut self, method: &Method, path: &str, body: &Value, key: &str) -> Told {
        let address = {
            let addresses = self.addresses.lock().unwrap();
            addresses.choose(&mut self.random).unwrap().clone()
        };
        let url = format!("http://{address}{path}");
        let request = self.http.request(method.clone(), url).json(body);
        let nothing = Told {
            status: 0,
            said: Value::Null,
        };
        let Ok(response) = request.header(KEY, key).send().await else {
            return nothing;
        };
        let status = response.status().as_u16();
        match response.json().await {
            Ok(said) => Told { status, said },
            Err(_) => nothing,
        }
    }
}

impl World {
    /// Asserts that everybody was told what the log says, and nobody something else before.
    async fn must_have_said(&self, told: &BTreeMap<String, Vec<Told>>) {
        let decided = self.segment_verdicts().await;
        for (key, told) in told {
            let verdict = decided.get(key);
            for told in told.iter().filter(|told| told.is_answer()) {
                let verdict = verdict.unwrap_or_else(|| panic!("{key}: nobody decided {told:?}"));
                assert!(
                    is_of(verdict, told),
                    "{key}: {verdict}, and was told {told:?}"
                );
            }
            let untouched = |told: &Told| told.status == 429 || told.says("not_applied");
            if told.iter().all(untouched) {
                assert_eq!(verdict, None, "{key} was told {told:?}");
            }
            let faults = told.iter().filter(|told| told.status == 500);
            assert_eq!(faults.count(), 0, "{key} was told {told:?}");
        }
        assert!(decided.len() > 100, "{} requests", decided.len());
    }
}

/// Whether an answer says what was decided.
fn is_of(verdict: &Value, told: &Told) -> bool {
    match (verdict["verdict"].as_str().unwrap(), told.status) {
        ("created", 201) | ("deleted", 200) => true,
        ("exists", 409) => told.says("segment_exists"),
        ("unknown", 404) => told.says("not_found"),
        ("changed", 200) => {
            told.said["added"] == verdict["added"] && told.said["removed"] == verdict["removed"]
        }
        _ => false,
    }
}

/// What happens to one of the processes.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// SIGKILL; another one takes its place.
    Kill,
    /// SIGTERM; another one takes its place.
    Terminate,
    /// It stands still for a moment.
    Blink,
    /// It stands still for longer than anybody waits for an answer.
    Faint,
}

const STEPS: [Step; 4] = [Step::Kill, Step::Terminate, Step::Blink, Step::Faint];
const COMMANDS: [&str; 3] = ["run", "run", "api"];

fn spawn(world: &World, command: &str) -> Process {
    world.spawn(&[command], &[("MILLRACE_RATE_PER_USER", "0")])
}

async fn start(world: &World) -> Vec<Process> {
    let mut all: Vec<_> = COMMANDS.map(|command| spawn(world, command)).into();
    for process in &mut all {
        process.ready().await;
    }
    all
}

#[tokio::test]
async fn whatever_happens_to_the_processes_every_caller_is_told_what_the_log_says() {
    let mut random = random("segments");
    for _ in 0..faults(1) {
        let world = World::new("segment_faults").await;
        let mut all = start(&world).await;
        let crowd = Crowd::at(&all, &mut random);
        let mut steps = STEPS.to_vec();
        steps.shuffle(&mut random);
        for step in steps {
            let answers = random.random_range(20..200);
            crowd.more(answers, "answers", Told::is_answer).await;
            let at = random.random_range(0..all.len());
            tell(&format!("{step:?}: {} {}", all[at].what, all[at].id()));
            match step {
                Step::Kill => all[at].kill(),
                Step::Terminate => all[at].terminate().await,
                Step::Blink | Step::Faint => {
                    let blink = Duration::from_millis(random.random_range(1..1_500));
                    let is_blink = matches!(step, Step::Blink);
                    all[at].pause();
                    sleep(if is_blink { blink } else { FAINT }).await;
                    all[at].resume();
                    continue;
                }
            }
            all[at] = spawn(&world, COMMANDS[at]);
            // Callers go to it as soon as it listens.
            all[at].listening().await;
            crowd.goes_to(&all);
            all[at].ready().await;
        }
        crowd.more(100, "answers in the end", Told::is_answer).await;
        let told = crowd.end().await;
        world.must_have_said(&told).await;
        world.must_be_what_the_log_says().await;
    }
}

#[tokio::test]
async fn without_postgres_nobody_is_told_something_else_than_later() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "segments_unstored").await;
    let mut random = random("segments_unstored");
    let mut all = start(&world).await;
    let crowd = Crowd::at(&all, &mut random);
    for _ in 0..faults(1) {
        crowd.more(100, "answers", Told::is_answer).await;
        turn.kill("postgres").await;
        let is_in_doubt = |told: &Told| told.says("outcome_unknown");
        crowd
            .more(1, "in doubt without Postgres", is_in_doubt)
            .await;
        // As soon as it is known, nothing is sent any more.
        let is_refused = |told: &Told| told.says("not_applied");
        crowd.more(20, "refused without Postgres", is_refused).await;
        let read = all[0].get("/segment/user?id=999").await;
        read.problem(503, "database_unavailable");
        turn.start("postgres").await;
        crowd.more(100, "answers after it", Told::is_answer).await;
    }
    let told = timeout(RECOVERY, crowd.end()).await.unwrap();
    for process in &mut all {
        process.ready().await;
    }
    world.must_have_said(&told).await;
    world.must_be_what_the_log_says().await;
}
