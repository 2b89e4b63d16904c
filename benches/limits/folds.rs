//! From the log into Postgres: `millrace process` catches up with a full topic, from empty tables.
//!
//! *Clicks* stand beside a bare consumer that reads the same topic with the same settings and does nothing with it. They
//! are those of a thousand banners, 100,000 a minute, so a row of the statistics holds few of them and the fold has to
//! write many rows. *Orders*, of three items each, stand beside COPY of the rows that the fold has made, into tables
//! made by the same statements, as many in a transaction as a batch of the fold has; the rows are text in memory before.
//!
//! The fold's time runs from when it is assigned its partitions (so that neither the start of a process nor the join
//! of its group counts, but everything that it does from there on) until its checkpoints have passed the last record.
//! The consumer's runs from its assignment to the last record; it has met the broker before. COPY's runs from the first
//! BEGIN to the last COMMIT, on one session. Each fold has a new database; one runs before, to warm up.
//!
//! Checked after each fold: every click in its banner's statistics, every row of every order, and no dead letter.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Result, bail, ensure};
use jiff::Timestamp;
use processors::{
    clicks::Clicks,
    consumer::{Partitions, config},
    fold::Fold,
    orders::Orders,
};
use producers::{
    append::{Appender, Profile},
    clock,
    emit::emit,
    metrics::AppendMetrics,
    orders::sample,
    writer::{Context, EventWriter},
};
use projections::{db::Database, projection::prepare};
use rdkafka::{
    Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
};
use schemas::{clicks::BannerClicked, event::Event, orders::OrderPlaced, registry::Registry};
use serde_json::Value;
use sqlx::{Connection, PgConnection};
use tokio_util::sync::CancellationToken;

use crate::{
    it::world::{Process, World, eventually_within},
    output,
    run::{Report, Row, Settings, peak_mb},
};

/// The row of the clicks.
pub const CLICKS: &str = "click-fold";
/// The row of the orders.
pub const ORDERS: &str = "order-fold";

/// How many clicks are folded.
pub const CLICK_COUNT: usize = 5_000_000;
/// How many banners are clicked.
pub const BANNERS: usize = 1_000;
const CLICKS_A_MINUTE: usize = 100_000;
/// How many orders are folded.
pub const ORDER_COUNT: usize = 40_000;
const ITEMS: usize = 3;
/// Batches whose rows are asked for at once.
const BATCHES_AT_ONCE: usize = 50;
/// The tables of an order, those that are referred to before those that refer.
const TABLES: [&str; 4] = ["orders", "deliveries", "payments", "items"];
/// How long anything may take here.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures the row of the clicks.
///
/// # Errors
/// If a click was lost or counted twice.
pub async fn measure_clicks(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_click_fold").await;
    let count = settings.amount(CLICK_COUNT);
    output::note(format_args!(
        "{CLICKS}: appends {count} clicks and warms up"
    ));
    fill(&world, clicks(count)).await?;
    fold_clicks(&world, count).await?;
    read(&world, count).await?;
    let row = Row::new(
        CLICKS,
        "clicks from the log into empty tables",
        "bare consumer",
        Some(0.75),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || Ok(fold_clicks(&world, count).await?.told(CLICKS, report)),
            async || read(&world, count).await,
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Measures the row of the orders.
///
/// # Errors
/// If a row was lost.
pub async fn measure_orders(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_order_fold").await;
    let count = settings.amount(ORDER_COUNT);
    output::note(format_args!(
        "{ORDERS}: appends {count} orders and warms up"
    ));
    fill(&world, orders(count)).await?;
    let batches = {
        let fresh = world.beside().await;
        fold_orders(&fresh, count).await?;
        rows(&fresh, count).await?
    };
    copy(&world, &batches, count).await?;
    let row = Row::new(
        ORDERS,
        "orders from the log into empty tables",
        "COPY of their rows",
        Some(0.4),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || {
                let folded = fold_orders(&world.beside().await, count).await?;
                Ok(folded.told(ORDERS, report))
            },
            async || copy(&world, &batches, count).await,
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Clicks on all banners in turn.
pub fn clicks(count: usize) -> impl ExactSizeIterator<Item = BannerClicked> {
    let number = |number: usize| i64::try_from(number).expect("a small number");
    let (now_ms, last) = (clock::now_ms(), count);
    (0..count).map(move |click| BannerClicked {
        banner_id: number(click % BANNERS),
        received_at: now_ms - number((last - click) * 60_000 / CLICKS_A_MINUTE),
    })
}

/// Orders of [`ITEMS`] items each.
pub fn orders(count: usize) -> impl ExactSizeIterator<Item = OrderPlaced> {
    let mut chance = clock::generator(None);
    let now = Timestamp::from_millisecond(clock::now_ms()).unwrap_or_default();
    (0..count).map(move |_| {
        let mut order = sample(&mut chance, now);
        order.items = order.items.iter().cycle().take(ITEMS).cloned().collect();
        order
    })
}

/// Appends events as `millrace emit` does.
///
/// # Errors
/// If one of them is not acknowledged.
pub async fn fill<E: Event>(world: &World, events: impl ExactSizeIterator<Item = E>) -> Result<()> {
    let kafka = world.kafka();
    let appender = Appender::new(&kafka, Profile::Bulk, AppendMetrics::default())?;
    let writer = EventWriter::<E>::new(Arc::new(appender), &kafka.prefix);
    writer
        .register(&Registry::new(&world.servers.registry_url)?)
        .await?;
    let count = events.len();
    let (context, stop) = (Context::default(), CancellationToken::new());
    let emitted = emit(&writer, events, &context, None, &stop, |_| ()).await;
    ensure!(
        emitted.appended == count as u64,
        "of {count} events: {emitted:?}"
    );
    Ok(())
}

/// What a fold did.
#[derive(Debug, Clone, Copy)]
pub struct Folded {
    /// Records a second.
    pub rate: f64,
    /// The most memory that one of its processes took, in MiB.
    pub run_mb: u64,
}

impl Folded {
    /// Gives the rate, and tells the memory of this row.
    pub fn told(self, row: &str, report: &mut Report) -> f64 {
        report.took(row, self.run_mb);
        self.rate
    }
}

/// Folds all clicks into a new database.
///
/// # Errors
/// If one was lost or counted twice.
pub async fn fold_clicks(world: &World, count: usize) -> Result<Folded> {
    let fresh = world.beside().await;
    let folded = fold::<Clicks>(&fresh, count).await?;
    must_have_folded(&fresh, count).await?;
    Ok(folded)
}

/// The statistics have each click once.
///
/// # Errors
/// If they have not.
pub async fn must_have_folded(fresh: &World, count: usize) -> Result<()> {
    let found = fresh
        .sql(
            "SELECT count(*) AS banners, min(v)::bigint AS least, max(v)::bigint AS most
             FROM (SELECT sum(v) AS v FROM clicks.stats GROUP BY banner_id) AS s",
        )
        .await;
    must_have_counted(&found[0], count)
}

/// Each banner has as many clicks as the others: `banners`, and the `least` and the `most` that one has.
///
/// # Errors
/// If a click was lost or counted twice.
pub fn must_have_counted(found: &Value, count: usize) -> Result<()> {
    let each = count / BANNERS;
    ensure!(
        *found == serde_json::json!({ "banners": BANNERS, "least": each, "most": each }),
        "{count} clicks on {BANNERS} banners in turn gave the statistics {found}"
    );
    Ok(())
}

/// Folds all orders into a new database.
///
/// # Errors
/// If a row was lost.
pub async fn fold_orders(fresh: &World, count: usize) -> Result<Folded> {
    let folded = fold::<Orders>(fresh, count).await?;
    must_have_all(fresh, count).await?;
    Ok(folded)
}

/// Runs a fold from the first record of its topic to the last.
///
/// # Errors
/// If there is a dead letter.
pub async fn fold<F: Fold>(fresh: &World, count: usize) -> Result<Folded> {
    fold_by::<F>(fresh, count, vec![folding::<F>(fresh)]).await
}

/// A process that does nothing but fold.
pub fn folding<F: Fold>(fresh: &World) -> Process {
    fresh.spawn(&["process", "--only", F::PROJECTION.name], &[])
}

/// The same as [`fold`] by processes that were started just now. The time runs from when one is assigned partitions.
///
/// # Errors
/// If there is a dead letter, or nothing to do for one of them.
pub async fn fold_by<F: Fold>(
    fresh: &World,
    count: usize,
    mut processes: Vec<Process>,
) -> Result<Folded> {
    let name = F::PROJECTION.name;
    let mut began_ms = i64::MAX;
    for process in &mut processes {
        began_ms = began_ms.min(assigned_at_ms(process).await?);
    }
    let reached = format!(
        "SELECT sum(next_offset)::bigint AS records FROM millrace.checkpoints WHERE projection = '{name}'"
    );
    let all = Value::from(count);
    let what = format!("{count} records of {name} are folded");
    eventually_within(PATIENCE, &what, async || {
        let rows = fresh.sql_or_none(&reached).await?;
        (rows[0]["records"] == all).then_some(())
    })
    .await;
    let took_ms = clock::now_ms() - began_ms;
    let run_mb = processes.iter().map(peak_mb).max().unwrap_or_default();
    for process in &mut processes {
        process.terminate().await;
    }
    let letters = fresh.sql("SELECT reason FROM millrace.dead_letters").await;
    ensure!(letters.is_empty(), "dead letters: {letters:?}");
    Ok(Folded {
        rate: count as f64 * 1e3 / took_ms as f64,
        run_mb,
    })
}

/// When a process was assigned its partitions.
async fn assigned_at_ms(process: &mut Process) -> Result<i64> {
    let assigned = process
        .logged("partitions were assigned", |line| {
            line["message"] == "was assigned partitions"
        })
        .await;
    ensure!(
        assigned["partitions"] != "[]",
        "a process has no partition: {assigned}"
    );
    let at: Timestamp = assigned["timestamp"].as_str().unwrap_or_default().parse()?;
    Ok(at.as_millisecond())
}

/// Reads the topic of the clicks to its end, with a bare consumer; gives records a second.
///
/// # Errors
/// If it does not have so many.
pub async fn read(world: &World, count: usize) -> Result<f64> {
    let (kafka, topic) = (world.kafka(), world.topic(BannerClicked::TOPIC.name));
    let partitions = BannerClicked::TOPIC.partitions;
    let reading = move || {
        let consumer = config(&kafka, &Partitions::All(partitions)).create()?;
        read_to_end(&consumer, &topic, partitions, count)
    };
    tokio::task::spawn_blocking(reading).await?
}

/// Reads so many records of a topic with a bare consumer, from its first on; gives records a second.
///
/// # Errors
/// If it does not have so many.
pub fn read_to_end(
    consumer: &BaseConsumer,
    topic: &str,
    partitions: i32,
    count: usize,
) -> Result<f64> {
    consumer.fetch_metadata(Some(topic), PATIENCE)?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(topic, partition, Offset::Offset(0))?;
    }
    let began = Instant::now();
    consumer.assign(&list)?;
    let (mut records, mut bytes) = (0, 0);
    while records < count {
        match consumer.poll(Duration::from_millis(100)) {
            Some(message) => {
                bytes += message?.payload_len();
                records += 1;
            }
            None if began.elapsed() > PATIENCE => bail!("only {records} of {count} could be read"),
            None => {}
        }
    }
    let took = began.elapsed();
    ensure!(bytes > 0, "the records are empty");
    Ok(count as f64 / took.as_secs_f64())
}

/// The rows of a transaction, for each of [`TABLES`], as COPY reads them.
pub type Rows = [String; TABLES.len()];

/// The rows that the fold has made of so many orders, in the order of the log, in batches as large as the largest of the
/// fold.
///
/// # Errors
/// None that are expected.
pub async fn rows(folded: &World, count: usize) -> Result<Vec<Rows>> {
    let mut batches: Vec<Rows> = Vec::new();
    for (index, table) in TABLES.iter().enumerate() {
        let columns = format!(
            r"SELECT string_agg(format('replace(t.%I::text, ''\'', ''\\'')', column_name), ' || chr(9) || '
                  ORDER BY ordinal_position) AS line
              FROM information_schema.columns WHERE table_schema = 'orders' AND table_name = '{table}'"
        );
        let columns = folded.sql(&columns).await;
        let line = columns[0]["line"].as_str().unwrap_or_default();
        let batch_max = Orders::BATCH_MAX;
        batches.resize_with(count.div_ceil(batch_max), Rows::default);
        // Postgres makes no text of more than a gigabyte.
        for (part, batches) in batches.chunks_mut(BATCHES_AT_ONCE).enumerate() {
            let first = part * BATCHES_AT_ONCE;
            let last = first + batches.len() - 1;
            let texts = folded
                .sql(&format!(
                    r#"SELECT string_agg({line} || chr(10), '' ORDER BY t.order_uid) AS rows
                       FROM orders.{table} AS t JOIN (
                           SELECT order_uid, (row_number() OVER (ORDER BY partition, "offset") - 1) / {batch_max} AS batch
                           FROM orders.orders) AS b USING (order_uid)
                       WHERE batch BETWEEN {first} AND {last} GROUP BY batch ORDER BY batch"#
                ))
                .await;
            for (batch, text) in batches.iter_mut().zip(texts) {
                batch[index] = text["rows"].as_str().unwrap_or_default().to_owned();
            }
        }
    }
    Ok(batches)
}

/// Copies rows into a new database; gives orders a second.
///
/// # Errors
/// If one is missing afterwards.
pub async fn copy(world: &World, batches: &[Rows], count: usize) -> Result<f64> {
    let fresh = world.beside().await;
    prepare(&Database::new(&fresh.database_url())?, &fresh.prefix).await?;
    let mut connection = PgConnection::connect(&fresh.database_url()).await?;
    let began = Instant::now();
    for batch in batches {
        let mut transaction = connection.begin().await?;
        for (table, rows) in TABLES.iter().zip(batch) {
            let statement = format!("COPY orders.{table} FROM STDIN");
            let mut copying = transaction.copy_in_raw(&statement).await?;
            copying.send(rows.as_bytes()).await?;
            copying.finish().await?;
        }
        transaction.commit().await?;
    }
    let took = began.elapsed();
    connection.close().await?;
    must_have_all(&fresh, count).await?;
    Ok(count as f64 / took.as_secs_f64())
}

/// All orders are in the tables with all that belongs to them.
///
/// # Errors
/// If a row is missing.
pub async fn must_have_all(world: &World, count: usize) -> Result<()> {
    for table in TABLES {
        let wanted = if table == "items" {
            count * ITEMS
        } else {
            count
        };
        let found = world
            .sql(&format!("SELECT count(*) AS rows FROM orders.{table}"))
            .await;
        ensure!(
            found[0]["rows"] == wanted,
            "table {table} has {} rows, {wanted} were expected",
            found[0]["rows"]
        );
    }
    Ok(())
}
