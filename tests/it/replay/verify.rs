//! What is wrong in a table is found, whatever it is; what is right is left alone.

use processors::runtime;
use serde_json::{Value, json};

use super::{SOME, different, fill_clicks, fill_orders, folded};
use crate::{
    faults::load::{FLOOD, Feed},
    world::World,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_found_where_nothing_is_wrong() {
    let world = folded("right", SOME).await;
    let (status, reports) = world.verify(&[]).await;
    assert_eq!(status, 0, "{reports:?}");
    assert_eq!(reports.len(), runtime::names().count());
    assert!(reports.iter().all(|report| different(report) == 0));
    let people = world.millrace(&["verify", "orders"], "").await;
    assert_eq!(people.status, 0);
    assert!(people.stdout.starts_with("ok    orders:"), "{people:?}");
    for projection in runtime::names() {
        assert_eq!(
            world.schemas(projection).await,
            [projection],
            "all is dropped"
        );
    }
}

/// A fault: statements that make it and take it back, the table, and what is found there.
struct Fault {
    projection: &'static str,
    make: &'static str,
    unmake: &'static str,
    table: &'static str,
    found: [(&'static str, u64); 3],
    column: Option<&'static str>,
}

const FAULTS: [Fault; 6] = [
    Fault {
        projection: "clicks",
        make: "UPDATE clicks.stats SET v = v + 1 WHERE ctid = (SELECT max(ctid) FROM clicks.stats)",
        unmake: "UPDATE clicks.stats SET v = v - 1 WHERE ctid = (SELECT max(ctid) FROM clicks.stats)",
        table: "clicks.stats",
        found: [("added", 0), ("removed", 0), ("changed", 1)],
        column: Some("v"),
    },
    Fault {
        projection: "clicks",
        make: "INSERT INTO clicks.stats (banner_id, ts, partition, v) VALUES (501, '2026-11-21T01:00:00Z', 3, 1)",
        unmake: "DELETE FROM clicks.stats WHERE banner_id = 501",
        table: "clicks.stats",
        found: [("added", 0), ("removed", 1), ("changed", 0)],
        column: None,
    },
    Fault {
        projection: "orders",
        make: "CREATE TABLE public.kept AS SELECT * FROM orders.items ORDER BY order_uid LIMIT 1;
            DELETE FROM orders.items WHERE order_uid = (SELECT order_uid FROM public.kept)
                AND item_index = (SELECT item_index FROM public.kept)",
        unmake: "INSERT INTO orders.items SELECT * FROM public.kept",
        table: "orders.items",
        found: [("added", 1), ("removed", 0), ("changed", 0)],
        column: None,
    },
    Fault {
        projection: "orders",
        make: "UPDATE orders.payments SET bank = bank || ' ' WHERE order_uid = (SELECT max(order_uid) FROM orders.payments)",
        unmake: "UPDATE orders.payments SET bank = rtrim(bank)",
        table: "orders.payments",
        found: [("added", 0), ("removed", 0), ("changed", 1)],
        column: Some("bank"),
    },
    Fault {
        projection: "sales",
        make: "UPDATE sales.attempts SET verdict = 'item_held' WHERE \"offset\" = (SELECT min(\"offset\") FROM sales.attempts)",
        unmake: "",
        table: "sales.attempts",
        found: [("added", 0), ("removed", 0), ("changed", 1)],
        column: Some("verdict"),
    },
    Fault {
        projection: "sale_attempts",
        make: "DELETE FROM millrace.dead_letters WHERE projection = 'sale_attempts'",
        unmake: "",
        table: "millrace.dead_letters",
        found: [("added", 1), ("removed", 0), ("changed", 0)],
        column: None,
    },
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_cell_that_is_wrong_is_found_with_the_records_that_should_have_made_it() {
    let world = folded("wrong", SOME).await;
    for fault in &FAULTS {
        world.execute(fault.make).await;
        let (status, reports) = world.verify(&[fault.projection]).await;
        let report = &reports[0];
        assert_eq!(
            (status, different(report)),
            (1, 1),
            "{}: {report}",
            fault.make
        );
        let tables = report["tables"].as_array().unwrap();
        let table = tables
            .iter()
            .find(|table| table["table"] == fault.table)
            .unwrap();
        for (kind, count) in fault.found {
            assert_eq!(table[kind], count, "{table}");
        }
        if let Some(column) = fault.column {
            assert_eq!(table["columns"], json!({ column: 1 }));
        }
        must_name_the_records(&world, fault, &table["examples"][0]).await;
        let people = world.millrace(&["verify", fault.projection], "").await;
        people.failed(
            1,
            &[&format!("not what the log says: {}", fault.projection)],
        );
        assert!(people.stdout.contains("WRONG"), "{people:?}");
        if !fault.unmake.is_empty() {
            world.execute(fault.unmake).await;
            let (status, reports) = world.verify(&[fault.projection]).await;
            assert_eq!(status, 0, "{reports:?}");
        }
    }
}

/// The records that are named are those on the log that have made the row.
async fn must_name_the_records(world: &World, fault: &Fault, example: &Value) {
    let from = example["from"].as_str().unwrap();
    let is_surplus = example["should_be"].is_null();
    if is_surplus {
        assert_eq!(from, "no single record");
        return;
    }
    let topic = world.topic(&fault.projection.replace('_', "-"));
    assert!(from.starts_with(&format!("{topic}/")), "{example}");
    let row = &example["should_be"];
    if let (Some(partition), Some(offset)) = (row["partition"].as_str(), row["offset"].as_str()) {
        assert_eq!(from, format!("{topic}/{partition}@{offset}"));
    }
    if let Some(uid) = row["order_uid"].as_str() {
        let query = format!(
            r#"SELECT format('%s@%s', partition, "offset") AS place FROM orders.orders WHERE order_uid = '{uid}'"#
        );
        let place = world.sql(&query).await[0]["place"].clone();
        let place = format!("{topic}/{}", place.as_str().unwrap());
        assert!(
            from.starts_with(&place),
            "{from} does not begin with {place}"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_folding_goes_on_what_is_wrong_is_found_and_nothing_else() {
    let world = folded("busy", SOME).await;
    let mut process = world.start(["process"]).await;
    let random = producers::clock::generator(None);
    let feed = Feed::of(FLOOD, &world, random, 3);
    let stop = feed.stop();
    let verifying = async {
        for projection in ["clicks", "orders"] {
            let (status, reports) = world.verify(&[projection]).await;
            assert_eq!(status, 0, "{reports:?}");
        }
        // Those of the feed are of 1970.
        world
            .execute("UPDATE clicks.stats SET v = v + 1 WHERE ctid = (SELECT min(ctid) FROM clicks.stats WHERE ts > '2000-01-01')")
            .await;
        let (status, reports) = world.verify(&["clicks"]).await;
        assert_eq!((status, different(&reports[0])), (1, 1), "{reports:?}");
        stop.cancel();
    };
    tokio::join!(verifying, feed.run());
    world.caught_up("clicks").await;
    world.replay(&["clicks"]).await;
    fill_clicks(&world, 100).await;
    fill_orders(&world, 100).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;
}
