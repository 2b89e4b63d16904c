//! A writer is held between any two of its statements while its partitions move to another process.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use rand::{RngExt, rngs::StdRng};
use tokio::{
    join,
    sync::Barrier,
    time::{sleep, timeout},
};

use super::{
    PAUSE, RECOVERY, faults, fork,
    kills::everything_moves,
    load::{Feed, TRICKLE},
    random, tell,
};
use crate::{
    proxy::{
        Proxy,
        postgres::{Held, Place, Transactions},
    },
    world::{Process, World, eventually_within},
};

const PROJECTIONS: [&str; 2] = ["clicks", "orders"];
/// Worlds at once: most of the time each waits for its consumer groups.
const LANES: usize = 4;
/// A transaction that is held for longer is ended by Postgres; until then the partitions should have moved.
const HELD_MAX: Duration = Duration::from_millis(1_500);
/// How often it may happen that the partitions move just when nothing is held: on a busy machine every other time.
const ATTEMPTS: usize = 20;
/// Of a hundred records, how many are junk: enough that most transactions have dead letters to write.
const JUNK: u32 = 5;

/// How a transaction that is held goes on.
#[derive(Debug, Clone, Copy)]
enum End {
    /// As soon as the other process has met it.
    LetGo,
    /// After Postgres has ended it, if it does, and the other process has gone on.
    Outlasted,
    /// Not at all: its connection is lost.
    Cut,
}

const ENDS: [End; 3] = [End::LetGo, End::Outlasted, End::Cut];

/// What all lanes share: each takes the next case.
struct Cases {
    /// The places in the transactions of each projection.
    places: Mutex<[Vec<Place>; 2]>,
    all_know: Barrier,
    next: AtomicUsize,
    /// Which end comes first.
    first_end: usize,
}

/// Where the transactions of both folds are held, and how they go on.
#[derive(Debug, Clone)]
struct Case {
    places: [Place; 2],
    end: End,
}

impl Cases {
    /// Every place once; with `MILLRACE_FAULTS=3` every place with every end.
    fn next(&self) -> Option<Case> {
        let places = self.places.lock().unwrap();
        let most = places.iter().map(Vec::len).max().unwrap();
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let (round, at) = (number / most, number % most);
        (round < faults(1).min(ENDS.len())).then(|| Case {
            places: places.each_ref().map(|of| of[at % of.len()].clone()),
            end: ENDS[(self.first_end + at + round) % ENDS.len()],
        })
    }
}

#[tokio::test]
async fn a_writer_held_between_any_two_statements_while_its_partitions_move_counts_once() {
    let mut random = random("held");
    let cases = Cases {
        places: Mutex::default(),
        all_know: Barrier::new(LANES),
        next: AtomicUsize::new(0),
        first_end: random.random_range(0..ENDS.len()),
    };
    let lanes = [(); LANES].map(|()| lane(&cases, fork(&mut random)));
    let [a, b, c, d] = lanes;
    join!(a, b, c, d);
}

/// Takes one case after the other in a world of its own.
async fn lane(cases: &Cases, random: StdRng) {
    let world = World::new("held").await;
    let transactions = Arc::new(Transactions::default());
    let server = world.servers.postgres_address();
    let proxy = Proxy::start("127.0.0.1:0", &server, Arc::clone(&transactions)).await;
    let by_proxy = world
        .database_url()
        .replace(&server, &proxy.address.to_string());
    let mut first = world.spawn(&["process"], &[("DATABASE_URL", &by_proxy)]);
    let feed = Feed::of(TRICKLE, &world, random, JUNK);
    let stop = feed.stop();
    let holding = async {
        first.ready().await;
        world.applied_more(2_000).await;
        for (at, projection) in PROJECTIONS.into_iter().enumerate() {
            let places = all_places(&transactions, projection).await;
            let known = &mut cases.places.lock().unwrap()[at];
            if places.len() > known.len() {
                *known = places;
            }
        }
        cases.all_know.wait().await;
        while let Some(case) = cases.next() {
            moved_while_held(&world, &first, &transactions, case).await;
        }
        stop.cancel();
    };
    join!(holding, feed.run());
    world.must_be_what_the_log_says().await;
    first.terminate().await;
}

/// What a fold calls itself at Postgres.
pub fn application(projection: &str) -> String {
    format!("millrace-fold-{projection}")
}

/// Every place in the transactions of a fold, once it has written of several partitions and dead letters.
pub async fn all_places(transactions: &Transactions, projection: &str) -> Vec<Place> {
    let application = application(projection);
    let begun = |place: &Place, statement: &str| matches!(place, Place::Before(at) if at.starts_with(statement));
    eventually_within(RECOVERY, "one has all statements", async || {
        let places = transactions.places(&application);
        let has = |statement| places.iter().any(|place| begun(place, statement));
        let has_all = [
            "SELECT FROM millrace.checkpoints",
            "INSERT INTO millrace.dead_letters",
        ]
        .into_iter()
        .all(has);
        has_all.then_some(places)
    })
    .await
}

/// Holds the transactions of the first process, starts a second one, and lets them go on when the partitions have
/// moved. In the end the first has all partitions again.
async fn moved_while_held(world: &World, first: &Process, transactions: &Transactions, case: Case) {
    let mut have_moved = [false; 2];
    for attempt in 0..ATTEMPTS {
        if have_moved == [true; 2] {
            return;
        }
        tell(&format!("{} {case:?}, attempt {attempt}", world.database));
        let mut second = world.spawn(&["process"], &[]);
        let [clicks, orders] = [0, 1].map(|at| Move {
            world,
            projection: PROJECTIONS[at],
            second: &second,
            transactions,
            place: &case.places[at],
        });
        let (clicks, orders) = join!(clicks.under(case.end), orders.under(case.end));
        have_moved = [have_moved[0] | clicks, have_moved[1] | orders];
        everything_moves(world).await;
        second.terminate().await;
        has_all_partitions(world, first).await;
    }
    assert!(
        have_moved == [true; 2],
        "{case:?}: nothing moved while it was held"
    );
}

/// The partitions of one projection move to the second process.
struct Move<'m> {
    world: &'m World,
    projection: &'static str,
    second: &'m Process,
    transactions: &'m Transactions,
    place: &'m Place,
}

impl Move<'_> {
    /// Whether they moved while a transaction was held.
    async fn under(&self, end: End) -> bool {
        let Some(mut held) = self.caught().await else {
            return false;
        };
        let before = self.checkpoints().await;
        match end {
            End::LetGo => {
                self.met(&before).await;
                held.let_go();
            }
            End::Cut => {
                self.met(&before).await;
                held.cut();
            }
            End::Outlasted => {
                // Without a transaction there is nothing to end.
                if *self.place != Place::Before("BEGIN".into()) {
                    let spoken_to = timeout(RECOVERY, held.spoken_to()).await;
                    spoken_to.expect("Postgres ends what is held");
                }
                eventually_within(RECOVERY, "the second process goes on", async || {
                    self.goes_on(&before).await.then_some(())
                })
                .await;
                held.let_go();
            }
        }
        true
    }

    /// Holds transactions for a while each until one is held when the partitions move.
    async fn caught(&self) -> Option<Held> {
        loop {
            let application = application(self.projection);
            let held = self.transactions.hold(&application, self.place.clone());
            let held = timeout(RECOVERY, held).await;
            let held = held.unwrap_or_else(|_| panic!("no transaction comes to {:?}", self.place));
            if !self.assigned().is_empty() {
                return None; // too late: it may be one of the new assignment
            }
            if timeout(HELD_MAX, self.moved()).await.is_ok() {
                return Some(held);
            }
            held.let_go();
        }
    }

    async fn moved(&self) {
        while self.assigned().is_empty() {
            sleep(PAUSE).await;
        }
    }

    /// The partitions that the second process has.
    fn assigned(&self) -> Vec<i32> {
        self.second
            .assigned(&self.world.topic(self.projection))
            .unwrap_or_default()
    }

    async fn checkpoints(&self) -> Vec<(i32, i64)> {
        self.world.checkpoints(self.projection).await
    }

    /// Waits until the second process waits for the transaction that is held, or has gone on beside it.
    async fn met(&self, before: &[(i32, i64)]) {
        let waits = format!(
            "SELECT FROM pg_stat_activity WHERE datname = current_database()
             AND wait_event_type = 'Lock' AND application_name = '{}'",
            application(self.projection)
        );
        eventually_within(
            RECOVERY,
            "the second process meets what is held",
            async || {
                let waits = !self.world.sql(&waits).await.is_empty();
                (waits || self.goes_on(before).await).then_some(())
            },
        )
        .await;
    }

    /// Whether all partitions of the second process have moved on.
    async fn goes_on(&self, before: &[(i32, i64)]) -> bool {
        let now = self.checkpoints().await;
        let moves = |partition: &i32| {
            let of = |all: &[(i32, i64)]| {
                all.iter()
                    .find(|(p, _)| p == partition)
                    .map(|(_, next)| *next)
            };
            of(&now) > of(before)
        };
        self.assigned().iter().all(moves)
    }
}

/// Waits until the folds of a process have all partitions.
pub async fn has_all_partitions(world: &World, process: &Process) {
    eventually_within(RECOVERY, "the process has all partitions", async || {
        let has_all = |name: &&str| {
            process
                .assigned(&world.topic(name))
                .is_some_and(|all| all.len() == 8)
        };
        PROJECTIONS.iter().all(has_all).then_some(())
    })
    .await;
}
