//! A process starts in the middle of a sale: it reads a full window, beside a bare consumer that reads the same records
//! with the same settings and does nothing with them.
//!
//! The process's time runs from its start until it says that the sale runs, less a second: so long it may take to come
//! up, and its producer to meet the broker. The consumer's runs from its assignment to the last record; it has met the
//! broker before. One in ten of the records is a purchase, the others are checkouts of all items in turn.
//!
//! Checked after each start: every item is reserved, by whoever asked first.

use std::time::Duration;

use anyhow::{Result, ensure};
use jiff::Timestamp;
use processors::inspect;
use producers::{clock, sales::Stamp};
use schemas::sales::SaleEvent;

use super::{ITEMS, NO_CODE, START, far_from_the_end, set_rules, stock};
use crate::{
    folds::{fill, read_to_end},
    it::world::{World, eventually},
    output,
    run::{Report, Row, Settings},
};

const RECORDS: usize = 1_000_000;
/// How long a process may take to start where there is nothing to read.
const GRACE: Duration = Duration::from_secs(1);

/// Measures the row.
///
/// # Errors
/// If a process starts with another state than the log has.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    far_from_the_end(settings.lasting()).await;
    let world = World::new("bench_sale_start").await;
    set_rules(&world, ITEMS).await;
    let count = settings.amount(RECORDS);
    output::note(format_args!(
        "{START}: appends {count} requests and warms up"
    ));
    fill(&world, requests(count)).await?;
    read(&world, count).await?;
    let row = Row::new(
        START,
        "requests read by a process that starts, less 1 s",
        "bare consumer",
        Some(0.6),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || start(&world, count).await,
            async || read(&world, count).await,
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Made as they are sent: what is sent late would not count.
fn requests(count: usize) -> impl ExactSizeIterator<Item = SaleEvent> {
    (0..count).map(|number| {
        let stamp = Stamp::now(1);
        if number % 10 == 9 {
            let code = NO_CODE.parse().expect("a UUID");
            return stamp.purchase(code, None);
        }
        // Nine of ten numbers are left: a factor of 9 meets all items all the same.
        let item = number - number / 10;
        let item_id = i32::try_from(item % ITEMS).expect("an item");
        stamp.checkout(i64::try_from(item).expect("a user"), item_id, None)
    })
}

async fn start(world: &World, count: usize) -> Result<f64> {
    let began_ms = clock::now_ms();
    let mut process = world.spawn(&["api"], &[]);
    let open = process
        .logged("the sale runs", |line| {
            line["message"] == "is running" && line["part"] == "sale"
        })
        .await;
    process.listening().await;
    let stands = eventually("the sale is told", async || {
        let stands = stock(&process).await;
        stands["sale_id"].is_string().then_some(stands)
    })
    .await;
    process.terminate().await;
    ensure!(
        stands["reserved"] == ITEMS.min(count) && stands["sold"] == 0,
        "{count} requests lead to {stands}"
    );
    let open: Timestamp = open["timestamp"].as_str().unwrap_or_default().parse()?;
    let took_ms = u64::try_from(open.as_millisecond() - began_ms)?;
    let took = Duration::from_millis(took_ms).saturating_sub(GRACE);
    Ok(count as f64 / took.as_secs_f64())
}

async fn read(world: &World, count: usize) -> Result<f64> {
    let (kafka, topic) = (world.kafka(), world.topic("sales"));
    let reading = move || read_to_end(&inspect::consumer(&kafka)?, &topic, 1, count);
    tokio::task::spawn_blocking(reading).await?
}
