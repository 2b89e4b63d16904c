//! Tables made anew from the whole log, beside those that are read. What comes out is compared with what is live at
//! the same place of the log; then it takes over, or is dropped.
//!
//! * `whole`: all of the log in memory, written by COPY, for folds that have a [`Whole`](crate::fold::Whole);
//!   `build`: batch by batch, as a fold of this process would, for all others and for what comes last.
//! * `switch`: the new generation takes over from the live one.
//! * `scan`: a pass over the log; `blame`: the records that should have made a row; `disk`: whether there is room;
//!   `origin`: the log that it is made from; `progress`: how far it is, and who is at it.
//!
//! Whatever ends this process in between, the live generation is what it was: nothing of it is touched before the one
//! transaction of the switch. What was built is used again if it is whole, and removed otherwise, by the next that comes.

mod blame;
mod build;
mod disk;
mod origin;
mod progress;
mod scan;
mod switch;
mod whole;

use std::{
    collections::BTreeMap,
    pin::Pin,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use projections::{
    builds,
    checkpoints::{self, Checkpoint},
    compare::{self, Difference, Side},
    generations::{self, Stored},
    projection::{Generation, prepare},
};
use schemas::event::Event;
use sqlx::{Connection, PgConnection};
use tokio::task::AbortHandle;

pub use self::{blame::Blamed, progress::Progress};
use self::{
    build::Build,
    progress::{occupied, tell},
    switch::Positions,
};
use crate::{
    fold::Fold,
    runtime::{Services, entry},
};

/// How many rows of a table that are different are remembered.
const EXAMPLES_MAX: usize = 10;
/// For how long Postgres may not know yet that the process which had the lock is dead.
const LAST_WORDS: Duration = Duration::from_secs(1);
/// What came while the last was folded is little if folding it takes less than this: then the switch can do it, while the
/// live generation stands still.
const CLOSE: Duration = Duration::from_millis(300);
/// After so long without coming closer, it is given up.
const NO_CLOSER_MAX: Duration = Duration::from_mins(5);

/// Partitions and offsets.
type Offsets = BTreeMap<i32, i64>;

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Builds the next generation, which takes over.
    Replay,
    /// The same from another log, which takes the place of the one before.
    Adopt,
    /// Builds the next generation, which is compared, and removed.
    DryRun,
    /// The generation that was live last takes over.
    Rollback,
    /// The generations that were live once are removed.
    DropOld,
    /// Compares what is live with what it should be.
    Verify,
}

impl What {
    /// Its command, in words.
    pub fn name(self) -> &'static str {
        match self {
            Self::Replay => "replay",
            Self::Adopt => "replay --new-log",
            Self::DryRun => "replay --dry-run",
            Self::Rollback => "replay --rollback",
            Self::DropOld => "replay --drop-old",
            Self::Verify => "verify",
        }
    }
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// What to do.
    pub what: What,
    /// The most memory for what is gathered, in bytes.
    pub memory_bytes: usize,
    /// Who asks: process and host.
    pub by_whom: String,
}

/// What was done.
#[derive(Debug, Clone, Default)]
pub struct Outcome {
    /// The generation that was built, or took over.
    pub generation: Option<i32>,
    /// The topic's full name.
    pub topic: String,
    /// The generation that was live before.
    pub before: i32,
    /// Generations that were removed.
    pub removed: Vec<i32>,
    /// How many records were folded.
    pub records: i64,
    /// The tables of the new generation beside those of the live one at the same place of the log.
    pub tables: Vec<Difference>,
    /// That place: partitions and next offsets.
    pub compared_at: BTreeMap<i32, i64>,
    /// For rows that are different, by table and key: the records that should have made them.
    pub blamed: Vec<Blamed>,
    /// What took how long, in seconds.
    pub seconds: Vec<(&'static str, f64)>,
}

pub(crate) type Rebuild = for<'a> fn(&'a Services, &'a Asked, &'a Progress) -> Rebuilding<'a>;
type Rebuilding<'a> = Pin<Box<dyn Future<Output = Result<Outcome>> + 'a>>;

/// Does what is asked for with the projection of this name.
///
/// # Errors
/// If somebody else does something like it, the log has lost its beginning, there is no room, or a server does not
/// answer. The live generation is what it was then.
pub async fn run(
    projection: &str,
    services: &Services,
    asked: &Asked,
    progress: &Progress,
) -> Result<Outcome> {
    let fold =
        entry(projection).with_context(|| format!("no projection is called {projection}"))?;
    (fold.rebuild)(services, asked, progress).await
}

pub(crate) fn rebuild<'a, F: Fold>(
    services: &'a Services,
    asked: &'a Asked,
    progress: &'a Progress,
) -> Rebuilding<'a> {
    Box::pin(async move {
        let mut site = Site::<F>::enter(services, asked, progress).await?;
        let done = match asked.what {
            What::Replay => site.replay().await,
            What::Adopt => site.adopt().await,
            What::DryRun | What::Verify => site.try_out().await,
            What::Rollback => site.roll_back().await,
            What::DropOld => site.drop_old().await,
        };
        site.leave().await;
        done.map(|()| site.outcome)
    })
}

/// Where one projection is built: nobody else builds it meanwhile.
struct Site<'a, F: Fold> {
    services: &'a Services,
    asked: &'a Asked,
    progress: &'a Progress,
    topic: String,
    /// Has the lock, so that whatever is done on it is done under the lock.
    guard: PgConnection,
    live: Stored,
    /// All others, those that were live last first.
    others: Vec<Stored>,
    outcome: Outcome,
    teller: AbortHandle,
    since: Instant,
    fold: std::marker::PhantomData<F>,
}

impl<'a, F: Fold> Site<'a, F> {
    async fn enter(
        services: &'a Services,
        asked: &'a Asked,
        progress: &'a Progress,
    ) -> Result<Self> {
        let database = &services.database;
        let topic = F::PROJECTION.topic(&services.kafka.prefix);
        prepare(database, &services.kafka.prefix).await?;
        let mut guard = database.connect_build(F::PROJECTION, "public").await?;
        let (what, by_whom) = (asked.what.name(), &asked.by_whom);
        let until = Instant::now() + LAST_WORDS;
        while let Err(who) = builds::hold(&mut guard, F::PROJECTION, what, by_whom).await? {
            if Instant::now() >= until {
                return Err(occupied(F::PROJECTION.name, who));
            }
            tokio::time::sleep(LAST_WORDS / 10).await;
        }
        let mut others = generations::all(&mut guard, F::PROJECTION).await?;
        if others.is_empty() || !others[0].is_live {
            bail!("projection {} has no live generation", F::PROJECTION.name);
        }
        let live = others.remove(0);
        if live.topic != topic {
            bail!(
                "projection {} in this database is a fold of topic {}, not {topic}: give each topic prefix a database of its own",
                F::PROJECTION.name,
                live.topic
            );
        }
        progress.begin("begins");
        let teller = tokio::spawn(tell::<F>(services.clone(), progress.clone()));
        Ok(Self {
            services,
            asked,
            progress,
            outcome: Outcome {
                topic: topic.clone(),
                before: live.number,
                ..Outcome::default()
            },
            topic,
            guard,
            live,
            others,
            teller: teller.abort_handle(),
            since: Instant::now(),
            fold: std::marker::PhantomData,
        })
    }

    async fn leave(&mut self) {
        self.teller.abort();
        // The lock goes with the connection, whatever comes of this.
        let _ = builds::told(&mut self.guard, F::PROJECTION).await;
    }

    /// Notes how long it took since the last note.
    fn took(&mut self, what: &'static str) {
        let seconds = self.since.elapsed().as_secs_f64();
        let known = self
            .outcome
            .seconds
            .iter_mut()
            .find(|(name, _)| *name == what);
        match known {
            Some((_, sum)) => *sum += seconds,
            None => self.outcome.seconds.push((what, seconds)),
        }
        self.since = Instant::now();
    }

    async fn replay(&mut self) -> Result<()> {
        self.must_be_the_log_of(self.live.number).await?;
        self.must_begin_at_0().await?;
        self.remove_leftovers().await?;
        let until = self.live_offsets().await?;
        let ready = self.others.iter().find(|stored| !stored.is_retired);
        let mut build = match ready.map(|stored| stored.number) {
            Some(number) => Build::open(self.services, self.beside(number), self.progress).await?,
            None => self.build(&until, false).await?,
        };
        self.catch_up(&mut build).await?;
        self.took("catch_up");
        self.compare(&mut build).await?;
        self.took("compare");
        self.switch(build, Positions::Kept).await
    }

    /// Another log takes the place of the one that the live generation was made from. All of it is folded, and neither
    /// rows nor offsets of the two are compared.
    async fn adopt(&mut self) -> Result<()> {
        let name = F::PROJECTION.name;
        if self.other_log(self.live.number).await?.is_none() {
            bail!(
                "the log is the one that {name} was made from: make its tables anew with `millrace replay {name}`"
            );
        }
        let until = self.must_begin_at_0().await?;
        for stored in self.others.clone() {
            if !stored.is_retired {
                self.remove(stored.number).await?;
            }
        }
        let build = self.build(&until, false).await?;
        self.switch(build, Positions::Void).await
    }

    async fn try_out(&mut self) -> Result<()> {
        if self.asked.what == What::Verify && self.live.version != F::PROJECTION.version {
            bail!(
                "projection {} was folded by version {} and this build has version {}: verify it with a build of version {1}, or see what this one would change: `millrace replay --dry-run {0}`",
                F::PROJECTION.name,
                self.live.version,
                F::PROJECTION.version
            );
        }
        self.must_be_the_log_of(self.live.number).await?;
        self.must_begin_at_0().await?;
        self.remove_leftovers().await?;
        let until = self.live_offsets().await?;
        let mut build = self.build(&until, true).await?;
        let compared = self.compare(&mut build).await;
        self.took("compare");
        let number = build.generation.number;
        build.close().await;
        generations::remove(&mut self.guard, F::PROJECTION, number).await?;
        compared?;
        if self.asked.what == What::Verify {
            self.progress.begin("looks for the records");
            self.blame().await?;
        }
        Ok(())
    }

    async fn roll_back(&mut self) -> Result<()> {
        let name = F::PROJECTION.name;
        let Some(old) = self.others.iter().find(|stored| stored.is_retired) else {
            bail!("there is no earlier generation of {name} to go back to");
        };
        if old.version != F::PROJECTION.version {
            bail!(
                "generation {} of {name} was folded by version {} and this build has version {}: it has to be caught up first, so roll back with a build of version {1}",
                old.number,
                old.version,
                F::PROJECTION.version
            );
        }
        let generation = self.beside(old.number);
        for number in [generation.number, self.live.number] {
            self.must_be_the_log_of(number).await?;
        }
        let mut build = Build::open(self.services, generation, self.progress).await?;
        self.catch_up(&mut build).await?;
        self.took("catch_up");
        self.switch(build, Positions::Kept).await
    }

    async fn drop_old(&mut self) -> Result<()> {
        self.progress.begin("removes");
        for stored in self.others.clone() {
            if stored.is_retired {
                self.remove(stored.number).await?;
                self.outcome.removed.push(stored.number);
            }
        }
        Ok(())
    }

    /// Removes what others have begun and cannot be used.
    async fn remove_leftovers(&mut self) -> Result<()> {
        for stored in self.others.clone() {
            let is_ours = stored.version == F::PROJECTION.version && stored.topic == self.topic;
            let is_ready = stored.is_whole && !stored.is_scratch && is_ours;
            if stored.is_retired || is_ready && self.is_of_this_log(stored.number).await? {
                continue;
            }
            self.remove(stored.number).await?;
        }
        Ok(())
    }

    async fn remove(&mut self, number: i32) -> Result<()> {
        generations::remove(&mut self.guard, F::PROJECTION, number).await?;
        self.others.retain(|stored| stored.number != number);
        Ok(())
    }

    fn beside(&self, number: i32) -> Generation {
        Generation {
            projection: F::PROJECTION.name,
            number,
            is_live: false,
        }
    }

    /// Where the live generation is.
    async fn live_offsets(&mut self) -> Result<Offsets> {
        let found = checkpoints::live(&mut self.guard, F::PROJECTION.name).await?;
        Ok(offsets(&found))
    }

    /// Builds a generation from the first record on.
    async fn build(&mut self, until: &Offsets, is_scratch: bool) -> Result<Build<F>> {
        disk::must_have_room(&mut self.guard, &self.services.database, F::PROJECTION).await?;
        self.progress.expect(until.values().sum());
        if let Some(build) = self.build_whole(until, is_scratch).await? {
            return Ok(build);
        }
        let mut build = self.begin(is_scratch).await?;
        build.be_whole(&mut self.guard).await?;
        build.fold_to(until, "folds").await?;
        self.took("read");
        Ok(build)
    }

    async fn begin(&mut self, is_scratch: bool) -> Result<Build<F>> {
        let partitions = F::Event::TOPIC.partitions;
        let (projection, topic) = (F::PROJECTION, &self.topic);
        let begun =
            generations::begin(&mut self.guard, projection, topic, partitions, is_scratch).await?;
        self.note_log(&begun).await?;
        self.outcome.generation = Some(begun.number);
        Build::open(self.services, begun, self.progress).await
    }

    /// Folds what the live generation has folded meanwhile, until there is little left.
    async fn catch_up(&mut self, build: &mut Build<F>) -> Result<()> {
        let (mut closest, mut closer_at) = (Duration::MAX, Instant::now());
        loop {
            let until = self.live_offsets().await?;
            self.progress.expect(until.values().sum());
            let began = Instant::now();
            build.fold_to(&until, "catches up").await?;
            let took = began.elapsed();
            if took <= CLOSE {
                return Ok(());
            }
            if took < closest {
                (closest, closer_at) = (took, Instant::now());
            } else if closer_at.elapsed() > NO_CLOSER_MAX {
                bail!(
                    "the live generation moves faster than the new one: try again when there is less to do"
                );
            }
        }
    }

    /// Compares the new generation with what is live, both at the place where the live one is now.
    async fn compare(&mut self, build: &mut Build<F>) -> Result<()> {
        let database = &self.services.database;
        let mut first = database.connect_build(F::PROJECTION, "public").await?;
        let mut second = database.connect_build(F::PROJECTION, "public").await?;
        const MOMENT: &str = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
        let mut live = first.begin_with(MOMENT).await?;
        // The first statement decides which moment it sees. Nobody can switch: that takes the lock which is held here.
        let at = offsets(&checkpoints::live(&mut *live, F::PROJECTION.name).await?);
        build.fold_to(&at, "catches up").await?;
        self.outcome.records = build.reached.values().sum();
        self.progress.begin("compares");
        let mut built = second.begin_with(MOMENT).await?;
        let generation = Generation {
            projection: F::PROJECTION.name,
            number: self.live.number,
            is_live: true,
        };
        let mut first = Side {
            connection: &mut live,
            schema: generations::schema(&generation),
            generation,
        };
        let mut second = Side {
            connection: &mut built,
            schema: generations::schema(&build.generation),
            generation: build.generation.clone(),
        };
        self.outcome.tables = compare::compare(&mut first, &mut second, EXAMPLES_MAX).await?;
        self.outcome.compared_at = at;
        Ok(())
    }
}

fn offsets(checkpoints: &[Checkpoint]) -> Offsets {
    let places = checkpoints.iter();
    places.map(|c| (c.partition, c.next_offset)).collect()
}
