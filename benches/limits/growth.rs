//! Whether a click costs the same however many there are, and what partitions and processes add: `millrace process`
//! catches up with a full topic from empty tables, as in [`crate::folds`], beside itself with other work.
//!
//! *Events*: ten and thirty million clicks stand beside one million (a tenth of each in a quick look). The ratio is what a
//! click costs where there are fewest to what it costs where there are many: 1 is flat. From the assignment on the time
//! counts, so a fold's first look at Postgres and Kafka is in it, and weighs most where there are fewest.
//!
//! *Partitions*: a million clicks on the first one, or the first four partitions of the topic stand beside as many on all
//! eight. Fewer partitions also make fewer rows: each has a row of its own for a banner and minute.
//!
//! *Processes*: two that share the partitions stand beside one. They begin at the same moment, since a third member keeps
//! the group from giving out any partition until both have come. On a machine whose cores Kafka and Postgres take, too,
//! two cannot be much faster.
//!
//! Checked after each fold: every click in its banner's statistics, and no dead letter; before, that the clicks are on the
//! partitions that are meant.

use std::time::Duration;

use anyhow::{Result, ensure};
use processors::{
    clicks::Clicks,
    consumer::{Partitions, config},
    fold::Fold as _,
};
use rdkafka::consumer::{BaseConsumer, Consumer};
use schemas::{
    clicks::BannerClicked, codec::Encoder, event::Event, orders::OrderPlaced, registry::Registry,
    topics::subject,
};
use tokio::task::{block_in_place, spawn_blocking};

use crate::{
    emit::send,
    folds::{Folded, clicks, fill, fold_by, fold_clicks, folding, must_have_folded},
    it::world::{PATIENCE, World, eventually},
    output,
    run::{Report, Row, Settings},
};

/// The row of the events.
pub const EVENTS: &str = "growth-events";
/// The row of the partitions.
pub const PARTITIONS: &str = "growth-partitions";
/// The row of the processes.
pub const PROCESSES: &str = "growth-processes";

const FEWEST: usize = 1_000_000;
/// How many times as many there are, and what is said of it.
const TIMES: [(usize, &str); 2] = [
    (10, "clicks folded, 10 times as many"),
    (30, "clicks folded, 30 times as many"),
];
/// What a click may cost where there are many, as a ratio of the rates.
const FLAT: f64 = 0.9;
/// Partitions that have all clicks, and what is said of it.
const FEW_PARTITIONS: [(i32, &str); 2] = [
    (1, "clicks folded from one partition"),
    (4, "clicks folded from four partitions"),
];
/// So many that a fold by two takes longer than they need to begin.
const FOR_PROCESSES: usize = 2_000_000;
const SIDE_BY_SIDE: usize = 2;
/// How long a member of a group waits for what it is assigned before it looks again.
const POLL: Duration = Duration::from_millis(10);

/// Measures the rows of the events.
///
/// # Errors
/// If a click was lost or counted twice.
pub async fn measure_events(settings: &Settings, report: &mut Report) -> Result<()> {
    let fewest = settings.amount(FEWEST);
    let few = Work::filled("bench_growth_few", EVENTS, fewest).await?;
    few.fold().await?;
    for (times, millrace) in TIMES {
        let many = Work::filled("bench_growth_many", EVENTS, fewest * times).await?;
        let row = format!("{EVENTS}-{times}");
        let row = Row::new(row, millrace, "the fewest", Some(FLAT));
        compare(settings, report, row, || many.fold(), || few.fold()).await?;
    }
    Ok(())
}

/// Measures the rows of the partitions.
///
/// # Errors
/// As above.
pub async fn measure_partitions(settings: &Settings, report: &mut Report) -> Result<()> {
    let count = settings.amount(FEWEST);
    let all = Work::on_partitions(BannerClicked::TOPIC.partitions, count).await?;
    all.fold().await?;
    for (partitions, millrace) in FEW_PARTITIONS {
        let few = Work::on_partitions(partitions, count).await?;
        let row = format!("{PARTITIONS}-{partitions}");
        let row = Row::new(row, millrace, "from eight", None);
        compare(settings, report, row, || few.fold(), || all.fold()).await?;
    }
    Ok(())
}

/// Measures the row of the processes.
///
/// # Errors
/// As above.
pub async fn measure_processes(settings: &Settings, report: &mut Report) -> Result<()> {
    let count = settings.amount(FOR_PROCESSES);
    let one = Work::filled("bench_growth_processes", PROCESSES, count).await?;
    one.fold().await?;
    let row = format!("{PROCESSES}-{SIDE_BY_SIDE}");
    let row = Row::new(row, "clicks folded by two processes", "by one", None);
    let beside = || one.fold();
    compare(settings, report, row, || one.fold_side_by_side(), beside).await
}

/// Measures a row whose sides differ in what there is to fold, or in who folds it.
async fn compare(
    settings: &Settings,
    report: &mut Report,
    row: Row,
    millrace: impl AsyncFn() -> Result<Folded>,
    beside: impl AsyncFn() -> Result<Folded>,
) -> Result<()> {
    let name = row.name.clone();
    let row = row
        .alternate(
            settings.pairs,
            async || Ok(millrace().await?.told(&name, report)),
            async || Ok(beside().await?.rate),
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Clicks on a topic of their own.
struct Work {
    world: World,
    count: usize,
}

impl Work {
    /// So many, as `millrace emit` appends them.
    async fn filled(name: &str, row: &str, count: usize) -> Result<Self> {
        output::note(format_args!("{row}: appends {count} clicks"));
        let world = World::new(name).await;
        fill(&world, clicks(count)).await?;
        Ok(Self { world, count })
    }

    /// The same, on the first so many partitions of the topic.
    async fn on_partitions(partitions: i32, count: usize) -> Result<Self> {
        output::note(format_args!(
            "{PARTITIONS}: appends {count} clicks to {partitions} of the partitions"
        ));
        let world = World::new("bench_growth_partitions").await;
        let (kafka, topic) = (world.kafka(), world.topic(BannerClicked::TOPIC.name));
        let registry = Registry::new(&world.servers.registry_url)?;
        let id = registry
            .register(&subject(&topic), BannerClicked::TOPIC.avsc)
            .await?;
        let encoder = Encoder::new(id)?;
        let values = clicks(count).map(move |click| {
            let mut value = Vec::new();
            let encoded = encoder.encode(&click, &mut value);
            encoded.expect("a click fits into a record");
            value
        });
        spawn_blocking(move || send(&kafka, &topic, partitions, values)).await??;
        let ends = world.ends(BannerClicked::TOPIC.name).await;
        let (meant, others) = ends.split_at(usize::try_from(partitions)?);
        ensure!(
            meant.iter().all(|end| *end > 0) && others.iter().all(|end| *end == 0),
            "the {partitions} first partitions of {ends:?} were meant"
        );
        Ok(Self { world, count })
    }

    /// Folds all of it into a new database, by one process.
    async fn fold(&self) -> Result<Folded> {
        fold_clicks(&self.world, self.count).await
    }

    /// The same by several that begin at the same moment.
    async fn fold_side_by_side(&self) -> Result<Folded> {
        let fresh = self.world.beside().await;
        let held = block_in_place(|| Held::new(&fresh))?;
        let processes: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|_| folding::<Clicks>(&fresh))
            .collect();
        held.let_go_when_joined_by(processes.len()).await;
        let folded = fold_by::<Clicks>(&fresh, self.count, processes).await?;
        must_have_folded(&fresh, self.count).await?;
        Ok(folded)
    }
}

/// A member of the group of the fold that does not answer when others join: until it leaves, nobody is given a partition.
struct Held {
    consumer: BaseConsumer,
    group: String,
}

impl Held {
    fn new(world: &World) -> Result<Self> {
        let kafka = world.kafka();
        let group = format!("{}millrace-{}", kafka.prefix, Clicks::PROJECTION.name);
        let partitions = Partitions::Shared {
            group: group.clone(),
        };
        let consumer: BaseConsumer = config(&kafka, &partitions).create()?;
        // Of a topic on which there is nothing to read.
        consumer.subscribe(&[&world.topic(OrderPlaced::TOPIC.name)])?;
        while consumer.assignment()?.count() == 0 {
            // That it does not know where to begin is no matter.
            let _ = consumer.poll(POLL);
        }
        Ok(Self { consumer, group })
    }

    async fn let_go_when_joined_by(self, others: usize) {
        let what = format!("{others} processes have joined {}", self.group);
        eventually(&what, async || {
            let found = self.consumer.fetch_group_list(Some(&self.group), PATIENCE);
            let found = found.ok()?;
            let members = found.groups().first()?.members().len();
            (members > others).then_some(())
        })
        .await;
        block_in_place(|| drop(self.consumer));
    }
}
