//! Orders from the log: `millrace process`, beside a Go consumer with a transaction for each order.
//!
//! The consumer (`go/consumer.go`) is franz-go, hamba/avro and pgx. It writes the same four tables without what Millrace
//! keeps for itself, one order a transaction, its partitions side by side, and commits its offsets after that: an order
//! that comes again changes nothing. It checks no order, and has no dead letters. Both read the same full topic into empty
//! tables, and are timed from the assignment of the partitions until the last order is in the tables and what they have
//! committed passes it. Each is a new process each time.
//!
//! Checked after each fold: every row of every order.

use std::time::Duration;

use anyhow::{Context, Result};
use schemas::{event::Event, orders::OrderPlaced};
use serde_json::Value;

use crate::{
    folds::{ORDER_COUNT, fill, fold_orders, must_have_all, orders},
    it::world::World,
    output,
    peer::Peer,
    run::{Report, Row, Settings},
};

/// The row.
pub const NAME: &str = "orders-fold";

const SCHEMA: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/schemas/avro/orders.avsc");
const TABLES: &str = include_str!("../../projections/sql/orders.sql");
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(300);

/// Measures the row.
///
/// # Errors
/// If a row was lost.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("peer_orders_fold").await;
    let count = settings.amount(ORDER_COUNT);
    output::note(format_args!("{NAME}: appends {count} orders and warms up"));
    fill(&world, orders(count)).await?;
    fold_orders(&world.beside().await, count).await?;
    let row = Row::new(
        NAME,
        "orders from the log into Postgres",
        "Go, a transaction each",
        Some(1.0),
    );
    let mut turn = 0;
    let row = row
        .alternate(
            settings.pairs,
            async || {
                let folded = fold_orders(&world.beside().await, count).await?;
                Ok(folded.told(NAME, report))
            },
            async || {
                turn += 1;
                consume(&world, count, turn).await
            },
        )
        .await?;
    report.add(row);
    Ok(())
}

/// Folds all orders by the consumer; gives orders a second.
async fn consume(world: &World, count: usize, turn: usize) -> Result<f64> {
    let fresh = world.beside().await;
    // Where the record stood and the digest are Millrace's own.
    fresh
        .execute(&format!(
            "BEGIN; CREATE SCHEMA orders; SET LOCAL search_path = orders; {TABLES}
             ALTER TABLE orders DROP COLUMN partition, DROP COLUMN \"offset\", DROP COLUMN record_at_ms,
                 DROP COLUMN digest;
             COMMIT"
        ))
        .await;
    let (topic, database) = (world.topic(OrderPlaced::TOPIC.name), fresh.database_url());
    let (group, count_text) = (
        format!("{}consumer-{turn}", world.prefix),
        count.to_string(),
    );
    let arguments = [
        ["-brokers", &world.servers.brokers],
        ["-topic", &topic],
        ["-group", &group],
        ["-database", &database],
        ["-schema", SCHEMA],
        ["-count", &count_text],
    ];
    let mut peer = Peer::go(&[&["consumer"][..], arguments.as_flattened()].concat())?;
    let took: Value = serde_json::from_str(&peer.line(PATIENCE).await?)?;
    peer.ended().await?;
    must_have_all(&fresh, count).await?;
    let took_ms = took["took_ms"].as_f64().context("no time")?;
    Ok(count as f64 * 1e3 / took_ms)
}
