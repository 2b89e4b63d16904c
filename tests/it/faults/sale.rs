//! The flash sale over several processes that are killed, told to stop and paused; at the end of a sale; without
//! Postgres; with a clock that is wrong; while the broker stands still and acknowledgements are lost. Whatever happens,
//! what callers were told is what the log says, by a judge that shares no code with the sale.

use std::{
    path::PathBuf,
    process::Command,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use rand::{
    RngExt,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use reqwest::Client;
use serde_json::Value;
use tokio::{
    task::JoinSet,
    time::{MissedTickBehavior, interval, sleep},
};

use super::{RECOVERY, faults, fork, random, servers::servers_to_kill, tell};
use crate::{
    proxy::{
        Proxy,
        kafka::{Fault, Writes},
    },
    reference::sales::Answer,
    sale::{
        KEY,
        crowd::{Addresses, Crowd, Shape},
    },
    world::{Process, World, eventually_within},
};

/// A crowd that collides: everybody wants the same.
const SHAPE: Shape = Shape {
    clients: 12,
    users: 60,
    items: 200,
    bought: 60,
    keyed: 30,
};
/// Items, limit, seconds of a reservation and of a sale: of each, much happens within a test.
const RULES: [i64; 4] = [200, 4, 2, 10];
/// How long a sale lasts where one follows the other.
const SALE: Duration = Duration::from_secs(2);
/// How often two sales may go by until enough of them were sold out.
const ROUNDS_MAX: usize = 15;
/// Longer than a request is waited for.
const FAINT: Duration = Duration::from_secs(8);

fn is_granted(answer: &Answer) -> bool {
    answer.status == 200
}

fn is_in_doubt(answer: &Answer) -> bool {
    answer.said == "outcome_unknown"
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

/// Processes over the same log.
struct Members<'w> {
    world: &'w World,
    all: Vec<Process>,
    addresses: Addresses,
    random: StdRng,
}

impl<'w> Members<'w> {
    async fn start(world: &'w World, count: usize, random: StdRng) -> Self {
        let mut all = Vec::new();
        for _ in 0..count {
            all.push(world.spawn(&["api"], &[]));
        }
        for member in &mut all {
            member.ready().await;
        }
        let members = Self {
            world,
            all,
            addresses: Addresses::default(),
            random,
        };
        members.show_addresses();
        members
    }

    fn show_addresses(&self) {
        let addresses = self.all.iter().map(|member| member.address().to_owned());
        *self.addresses.lock().unwrap() = addresses.collect();
    }

    /// Does this to one of them.
    async fn take(&mut self, step: Step) {
        let at = self.random.random_range(0..self.all.len());
        tell(&format!("{step:?}: pid {}", self.all[at].id()));
        match step {
            Step::Kill => {
                self.all[at].kill();
                self.replace(at).await;
            }
            Step::Terminate => {
                self.all[at].terminate().await;
                self.replace(at).await;
            }
            Step::Blink => {
                let moment = Duration::from_millis(self.random.random_range(1..1_500));
                self.pause(at, moment).await;
            }
            Step::Faint => self.pause(at, FAINT).await,
        }
    }

    async fn replace(&mut self, at: usize) {
        self.all[at] = self.world.spawn(&["api"], &[]);
        // Callers go to it while it reads the log: what it cannot decide yet it refuses.
        self.all[at].listening().await;
        self.show_addresses();
        self.all[at].ready().await;
    }

    async fn pause(&self, at: usize, time: Duration) {
        self.all[at].pause();
        sleep(time).await;
        self.all[at].resume();
    }
}

#[tokio::test]
async fn whatever_happens_to_the_processes_of_a_sale_every_answer_is_what_the_log_says() {
    let mut random = random("sale");
    for _ in 0..faults(1) {
        let world = World::new("processes").await;
        world.sale_rules(RULES).await;
        let mut members = Members::start(&world, 3, fork(&mut random)).await;
        let crowd = Crowd::at(&members.addresses, SHAPE, &mut random);
        let mut steps = STEPS.to_vec();
        steps.extend(STEPS.choose(&mut random));
        steps.shuffle(&mut random);
        for step in steps {
            let answers = random.random_range(20..200);
            crowd.more(answers, "granted", is_granted).await;
            members.take(step).await;
        }
        crowd.more(100, "granted", is_granted).await;
        let answers = crowd.end().await;
        world.sale_history().await.check(&answers);
    }
}

#[tokio::test]
async fn without_postgres_the_sale_goes_on() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "unstored").await;
    world.sale_rules(RULES).await;
    let mut random = random("unstored");
    let members = Members::start(&world, 2, fork(&mut random)).await;
    let crowd = Crowd::at(&members.addresses, SHAPE, &mut random);
    crowd.more(50, "granted", is_granted).await;
    turn.kill("postgres").await;
    crowd
        .more(300, "granted without Postgres", is_granted)
        .await;
    // Also by a process that starts now.
    let mut late = world.spawn(&["api"], &[]);
    late.listening().await;
    eventually_within(RECOVERY, "a late process decides", async || {
        (late.get("/v1/sale").await.status == 200).then_some(())
    })
    .await;
    let addresses = vec![late.address().to_owned()];
    *members.addresses.lock().unwrap() = addresses;
    crowd.more(50, "granted by the late one", is_granted).await;
    turn.start("postgres").await;
    let answers = crowd.end().await;
    assert!(!answers.iter().any(|answer| answer.status == 500));
    world.sale_history().await.check(&answers);
}

#[tokio::test]
async fn a_broker_that_stands_still_makes_doubt_and_a_repetition_with_the_key_ends_it() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "motionless").await;
    world.sale_rules(RULES).await;
    let mut random = random("motionless");
    let members = Members::start(&world, 2, fork(&mut random)).await;
    let crowd = Crowd::at(&members.addresses, SHAPE, &mut random);
    for _ in 0..faults(1) {
        crowd.more(100, "granted", is_granted).await;
        let paused = turn.pause("kafka");
        crowd.more(5, "in doubt", is_in_doubt).await;
        drop(paused);
        crowd.more(100, "granted after it", is_granted).await;
    }
    let answers = crowd.end().await;
    world.sale_history().await.check(&answers);
}

#[tokio::test]
async fn what_is_on_the_log_is_answered_though_its_acknowledgement_is_lost() {
    let turn = servers_to_kill().await;
    let world = World::on(turn.servers(), "unheard").await;
    world.sale_rules(RULES).await;
    let [listen, kafka] = turn.proxied_kafka();
    let writes = Arc::new(Writes::default());
    let _proxy = Proxy::start(&listen, &kafka, Arc::clone(&writes)).await;
    let mut run = world.spawn(&["api"], &[("MILLRACE_BROKERS", &listen)]);
    run.ready().await;
    let addresses = Arc::new(Mutex::new(vec![run.address().to_owned()]));
    let mut random = random("unheard");
    let crowd = Crowd::at(&addresses, SHAPE, &mut random);
    for fault in [
        Fault::NoAcknowledgement,
        Fault::ConnectionInsteadOfAcknowledgement,
        Fault::RequestCutOff,
    ] {
        crowd.more(50, "granted", is_granted).await;
        tell(&format!("{fault:?}"));
        let lost = writes.lost();
        writes.set(fault);
        // Longer than an append is waited for.
        eventually_within(RECOVERY, "requests are lost", async || {
            (writes.lost() > lost + 3).then_some(())
        })
        .await;
        if fault != Fault::RequestCutOff {
            crowd.more(1, "read from the log", is_granted).await;
        }
        sleep(FAINT).await;
        writes.set(Fault::None);
        crowd.more(50, "granted after it", is_granted).await;
    }
    let answers = crowd.end().await;
    world.sale_history().await.check(&answers);
}

#[tokio::test]
async fn one_sale_follows_the_other_without_an_error_though_all_is_sold() {
    let world = World::new("rollover").await;
    // So few that each sale is sold out long before its end, in sales of two seconds.
    world.sale_rules([20, 2, 1, 2]).await;
    let mut random = random("rollover");
    let members = Members::start(&world, 2, fork(&mut random)).await;
    let shape = Shape {
        items: 20,
        bought: 100,
        ..SHAPE
    };
    let buyers = Crowd::at(&members.addresses, shape, &mut random);
    // As many sales as it takes: how fast they sell is a matter of the machine.
    let mut sold_out = 0;
    for _ in 0..ROUNDS_MAX * faults(1) {
        let failed = steady(&members.addresses, 50, 2 * SALE).await;
        assert_eq!(failed, [0_u16; 0], "an open-loop caller was failed");
        let sold = world.sale_history().await.sold_by_sale();
        sold_out = sold.values().filter(|sold| **sold == 20).count();
        if sold_out > 2 * faults(1) {
            break;
        }
    }
    assert!(sold_out > 2 * faults(1), "{sold_out} sales were sold out");
    let answers = buyers.end().await;
    let failed = answers
        .iter()
        .filter(|answer| answer.status == 0 || answer.status >= 500);
    assert_eq!(failed.count(), 0);
    world.sale_history().await.check(&answers);
}

/// So many requests a second, whether earlier ones are answered or not; gives the statuses of those that failed.
async fn steady(addresses: &Addresses, rate: u64, time: Duration) -> Vec<u16> {
    let addresses = addresses.lock().unwrap().clone();
    let http = Client::new();
    let mut ticks = interval(Duration::from_micros(1_000_000 / rate));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let (mut asked, began) = (JoinSet::new(), Instant::now());
    while began.elapsed() < time {
        ticks.tick().await;
        let number = asked.len();
        let address = &addresses[number % addresses.len()];
        // Of the crowd none.
        let (user, item) = (1_000_000 + number, number % 20);
        let url = format!("http://{address}/checkout?user_id={user}&item_id={item}");
        let (http, purchase) = (http.clone(), format!("http://{address}/purchase"));
        asked.spawn(async move {
            let Ok(reserved) = http.post(url).send().await else {
                return 0;
            };
            if reserved.status() != 200 {
                return reserved.status().as_u16();
            }
            let code = reserved.text().await.unwrap();
            let bought = http.post(format!("{purchase}?code={code}")).send().await;
            bought.map_or(0, |bought| bought.status().as_u16())
        });
    }
    let mut statuses = asked.join_all().await;
    statuses.retain(|status| *status == 0 || *status >= 500);
    statuses
}

#[tokio::test]
async fn a_process_with_another_registry_does_not_sell_what_is_sold() {
    let turn = servers_to_kill().await;
    let world = World::new("registries").await;
    let right = world.start(["api"]).await;
    right.buy(1, 0).await;
    let other = turn.servers().registry_url;
    let mut wrong = world.spawn(&["api"], &[("MILLRACE_REGISTRY_URL", &other)]);
    wrong.listening().await;
    wrong
        .not_ready_since("the registry lost its data or is another one")
        .await;
    let answer = wrong.send(wrong.checkout(2, 0)).await;
    answer.problem(503, "not_applied");
    let sold = right.send(right.checkout(2, 0)).await;
    sold.problem(409, "item_sold");
}

#[tokio::test]
async fn in_a_stampede_exactly_what_there_is_is_sold() {
    let world = World::new("stampede").await;
    let items = 500 * i64::try_from(faults(1)).unwrap().min(20);
    world.sale_rules([items, 10, 3600, 3600]).await;
    let mut random = random("stampede");
    let members = Members::start(&world, 3, fork(&mut random)).await;
    let shape = Shape {
        clients: 64,
        users: items * 2,
        items,
        bought: 100,
        keyed: 5,
    };
    let crowd = Crowd::at(&members.addresses, shape, &mut random);
    crowd
        .more(1, "told that all is sold", |answer| {
            answer.said == "sold_out"
        })
        .await;
    let answers = crowd.end().await;
    let history = world.sale_history().await;
    history.check(&answers);
    let sold = history.sold_by_sale();
    let items = usize::try_from(items).unwrap();
    assert!(sold.values().any(|sold| *sold == items), "{sold:?}");
}

#[tokio::test]
async fn a_process_with_a_wrong_clock_decides_as_the_others_do() {
    let world = World::new("clocks").await;
    world.sale_rules(RULES).await;
    let shim = clock_shim();
    let preload = shim.to_str().unwrap();
    let mut members = Vec::new();
    for seconds in ["0", "2", "-2"] {
        let settings = [("LD_PRELOAD", preload), ("CLOCK_SECONDS", seconds)];
        members.push(world.spawn(&["api"], &settings));
    }
    let mut addresses = Vec::new();
    for member in &mut members {
        member.ready().await;
        addresses.push(member.address().to_owned());
    }
    let mut random = random("clocks");
    let crowd = Crowd::at(&Arc::new(Mutex::new(addresses)), SHAPE, &mut random);
    crowd.more(500, "granted", is_granted).await;
    let answers = crowd.end().await;
    world.sale_history().await.check(&answers);

    // One that is wrong by a minute harms only itself: nothing that it asks for counts.
    let settings = [("LD_PRELOAD", preload), ("CLOCK_SECONDS", "60")];
    let mut wrong = world.spawn(&["api"], &settings);
    wrong.ready().await;
    let before = members[0].get("/v1/sale").await.json();
    for item in 0..5 {
        let answer = wrong
            .send(wrong.checkout(1_000, item).header(KEY, "k"))
            .await;
        answer.problem(503, "not_applied");
    }
    let after = members[0].get("/v1/sale").await.json();
    // No time was moved by a minute.
    let starts_at = |sale: &Value| {
        sale["starts_at"]
            .as_str()
            .unwrap()
            .parse::<Timestamp>()
            .unwrap()
    };
    let apart = starts_at(&after).duration_since(starts_at(&before));
    assert!(apart.as_secs() < 60, "{before} {after}");
    world.sale_history().await.check(&[]);
}

/// A library that, loaded before others, adds the seconds of `CLOCK_SECONDS` to the time of day.
fn clock_shim() -> PathBuf {
    const SOURCE: &str = r#"
        #define _GNU_SOURCE
        #include <stdlib.h>
        #include <sys/syscall.h>
        #include <time.h>
        #include <unistd.h>
        int clock_gettime(clockid_t clock, struct timespec *time) {
            int failed = syscall(SYS_clock_gettime, clock, time);
            const char *seconds = getenv("CLOCK_SECONDS");
            if (!failed && seconds && clock == CLOCK_REALTIME) time->tv_sec += atoi(seconds);
            return failed;
        }
    "#;
    let folder = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    let (source, library) = (folder.join("clock.c"), folder.join("clock.so"));
    std::fs::write(&source, SOURCE).unwrap();
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&library, &source])
        .status();
    assert!(built.unwrap().success());
    library
}
