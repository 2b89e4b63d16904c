//! Processes that fold are killed, told to stop and paused by a schedule drawn at random.

use std::time::Duration;

use rand::{
    RngExt,
    rngs::StdRng,
    seq::{IndexedRandom, SliceRandom},
};
use tokio::{join, time::sleep};

use super::{
    faults, fork,
    kills::everything_moves,
    load::{Feed, Load, answers_were_true},
    random, tell,
    witness::Witness,
};
use crate::world::{Process, World};

/// What happens to one of the processes.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// SIGKILL; another one takes its place.
    Kill,
    /// SIGTERM; another one takes its place.
    Terminate,
    /// It stands still for a moment.
    Blink,
    /// It stands still for longer than its group and Postgres wait for it: others take its partitions over.
    Faint,
    /// It stands still for longer than any statement may take.
    Sleep,
}

const SHORT: [Step; 4] = [Step::Kill, Step::Terminate, Step::Blink, Step::Faint];
const LONG: [Step; 5] = [
    Step::Kill,
    Step::Terminate,
    Step::Blink,
    Step::Faint,
    Step::Sleep,
];
/// A little longer than Postgres gives a statement of a fold.
const SLEEP: Duration = Duration::from_secs(31);

/// Every kind of step, in any order, and further ones up to `count`.
fn schedule(count: usize, random: &mut StdRng) -> Vec<Step> {
    let kinds: &[Step] = if count > LONG.len() { &LONG } else { &SHORT };
    let mut steps = kinds.to_vec();
    while steps.len() < count {
        steps.extend(kinds.choose(random));
    }
    steps.shuffle(random);
    steps
}

#[tokio::test]
async fn whatever_happens_to_three_processes_the_tables_are_what_the_log_says() {
    whatever_happens_to("three", 3).await;
}

#[tokio::test]
async fn whatever_happens_to_two_processes_the_tables_are_what_the_log_says() {
    whatever_happens_to("pair", 2).await;
}

async fn whatever_happens_to(name: &str, processes: usize) {
    let world = World::new(name).await;
    let mut random = random(name);
    let mut api = world.start(["api"]).await;
    let (clicks, orders) = (Load::of_clicks(&api, 4), Load::of_orders(&api, 1));
    let feed = Feed::new(&world, fork(&mut random), 2);
    let stop = feed.stop();
    let witness = Witness::new(&world, &api, fork(&mut random), stop.clone());
    let happening = async {
        let mut members = Members::new(&world, processes, fork(&mut random));
        for step in schedule(faults(4), &mut random) {
            world.applied_more(random.random_range(500..4_000)).await;
            members.take(step).await;
        }
        everything_moves(&world).await;
        stop.cancel();
        members
    };
    let (members, (), ()) = join!(happening, feed.run(), witness.watch(&clicks, &orders));
    let (clicks, orders) = (clicks.end().await, orders.end().await);
    answers_were_true(&world, &clicks, &orders).await;
    drop(members);
    api.terminate().await;
}

/// The processes that fold.
struct Members<'w> {
    world: &'w World,
    all: Vec<Process>,
    random: StdRng,
}

impl<'w> Members<'w> {
    fn new(world: &'w World, count: usize, random: StdRng) -> Self {
        let mut members = Self {
            world,
            all: Vec::new(),
            random,
        };
        for _ in 0..count {
            let member = members.spawn();
            members.all.push(member);
        }
        members
    }

    fn spawn(&mut self) -> Process {
        let command = if self.random.random() {
            "process"
        } else {
            "run"
        };
        self.world.spawn(&[command], &[])
    }

    /// Does this to one of them.
    async fn take(&mut self, step: Step) {
        let at = self.random.random_range(0..self.all.len());
        tell(&format!(
            "{step:?}: {}, pid {}",
            self.all[at].what,
            self.all[at].id()
        ));
        match step {
            Step::Kill => {
                self.all[at].kill();
                self.all[at] = self.spawn();
            }
            Step::Terminate => {
                // Nobody can be told to stop before he listens.
                self.all[at].logged("anything", |_| true).await;
                self.all[at].terminate().await;
                self.all[at] = self.spawn();
            }
            Step::Blink => {
                self.all[at].pause();
                sleep(Duration::from_millis(self.random.random_range(1..1_500))).await;
                self.all[at].resume();
            }
            Step::Faint => {
                self.all[at].pause();
                everything_moves(self.world).await;
                self.all[at].resume();
            }
            Step::Sleep => {
                self.all[at].pause();
                join!(sleep(SLEEP), everything_moves(self.world));
                self.all[at].resume();
            }
        }
    }
}
