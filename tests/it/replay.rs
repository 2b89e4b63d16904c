//! Tables that are made anew from the log: what comes out is what was there, if that is what the log says; what is
//! wrong is found; and whatever goes wrong on the way, what is live stays as it is.

mod markers;
mod verify;

use processors::runtime;
use projections::{
    clicks::{self, StatsQuery, Step},
    db::Database,
};
use rand::RngExt;
use rdkafka::{Offset, TopicPartitionList, admin::AdminOptions};
use serde_json::{Value, json};

use crate::{
    sales_history::Shop,
    samples::{click, order, with},
    world::{Output, PATIENCE, Raw, World, eventually},
};

/// So many that they do not fit into a megabyte.
const MANY: [usize; 2] = [32_000, 3_000];
/// Clicks and orders that are enough elsewhere.
pub const SOME: [usize; 2] = [8_000, 600];
/// Before the clicks that come by an API, and after those of the other tests.
const YEAR_2001_MS: i64 = 1_000_000_000_000;
/// Items, limit, seconds to pay, seconds of a sale: short, so that much happens.
const SHORT: [i64; 4] = [12, 2, 1, 2];

/// Something of everything: repetitions, contradictions, junk.
pub async fn fill(world: &World, [clicks, orders]: [usize; 2]) {
    fill_clicks(world, clicks).await;
    fill_orders(world, orders).await;
    fill_users(world, orders).await;
    fill_segments(world, orders / 4).await;
    let shop = Shop::with(world, SHORT).await;
    let mut random = producers::clock::generator(None);
    let mut codes = Vec::new();
    let mut sale = 0;
    for user in 0..4 {
        shop.round(&mut random, SHORT[0], &mut codes).await;
        sale = shop.sell(100 + user, user).await.sale;
    }
    let writer = world.writer("sale-attempts").await;
    let refused = |n: i64| {
        let event = json!({
            "user_id": n, "item_id": n % 7, "reason": "item_sold", "sale_started_at": sale,
            "decided_at_offset": n, "requested_at": sale + n % 5,
        });
        Raw::value(writer.value(&event)).into_partition(i32::try_from(n % 8).unwrap())
    };
    let mut records: Vec<_> = (0..500).map(refused).collect();
    records.push(Raw::value("junk").into_partition(0));
    world.append_all("sale-attempts", records).await;
}

/// Clicks on many banners in many minutes, and junk.
async fn fill_clicks(world: &World, count: usize) {
    let writer = world.writer("clicks").await;
    let mut random = producers::clock::generator(None);
    let records = (0..count).map(|n| {
        let partition = random.random_range(0..8);
        if n % 1_000 == 0 {
            return Raw::value(vec![7; n % 50]).into_partition(partition);
        }
        let click = json!({
            "banner_id": random.random_range(0..500_i64),
            "received_at": YEAR_2001_MS + random.random_range(0..3_600_000_i64),
        });
        Raw::value(writer.value(&click)).into_partition(partition)
    });
    let records = records.collect();
    world.append_all("clicks", records).await;
}

/// Orders, some of them twice, some of these with other content, and junk.
async fn fill_orders(world: &World, count: usize) {
    let writer = world.writer("orders").await;
    let mut random = producers::clock::generator(None);
    let mut records = Vec::new();
    for n in 0..count {
        let uid = format!("order-{}", random.random_range(0..count));
        let order = with(order(&uid), "/sm_id", json!(n % 7 / 6));
        records.push(Raw::value(writer.value(&order)).key(uid));
        if n % 300 == 0 {
            records.push(Raw::value(vec![7; 9]).into_partition(3));
        }
    }
    world.append_all("orders", records).await;
}

/// Profiles that are set again and again, and removed, and junk.
async fn fill_users(world: &World, count: usize) {
    let writer = world.writer("users").await;
    let (set, removed) = (writer.of("UserProfileSet"), writer.of("UserRemoved"));
    let records = (0..count).map(|n| {
        let id = format!("user-{}", n * 7 % (count / 3));
        let profile = json!({ "user_id": id, "deeplink": "", "promo_message": n.to_string() });
        let value = match n % 9 {
            0 => removed.value(&json!({ "user_id": id })),
            1 => vec![7; 9],
            _ => set.value(&profile),
        };
        Raw::value(value).key(id)
    });
    let records = records.collect();
    world.append_all("users", records).await;
}

/// Segments that come and go, users that are put in and taken out, requests that come twice or too late, and junk.
async fn fill_segments(world: &World, count: usize) {
    let writer = world.writer("segments").await;
    let [create, delete, change] = [
        "SegmentCreateRequested",
        "SegmentDeleteRequested",
        "MembershipChangeRequested",
    ]
    .map(|name| writer.of(name));
    let mut random = producers::clock::generator(None);
    let records = (0..count).map(|n| {
        let late_ms = if n % 20 == 7 { 60_000 } else { 0 };
        let mut event = json!({
            "slug": format!("S{}", random.random_range(0..6)), "key": format!("k{}", n % (count - 9)),
            "requested_at": producers::clock::now_ms() - late_ms,
        });
        if n % 50 == 49 {
            return Raw::value("junk");
        }
        match random.random_range(0..9) {
            0..=2 => return Raw::value(create.value(&event)),
            3 => return Raw::value(delete.value(&event)),
            _ => {}
        }
        let slug = event.as_object_mut().unwrap().remove("slug").unwrap();
        let (add, del) = match n % 3 {
            0 => (json!([]), json!([slug])),
            _ => (json!([slug]), json!([])),
        };
        event["user_id"] = random.random_range(0..9).into();
        (event["add"], event["del"]) = (add, del);
        event["ttl_ms"] = [Value::Null, json!(1)][n % 2].clone();
        Raw::value(change.value(&event))
    });
    let records = records.collect();
    world.append_all("segments", records).await;
}

/// A world whose tables hold what its log says; nobody folds any more.
async fn folded(name: &str, size: [usize; 2]) -> World {
    let world = World::new(name).await;
    fill(&world, size).await;
    let mut process = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;
    world
}

impl World {
    /// Runs `millrace replay` with these arguments, and gives what it says in JSON.
    pub async fn replay(&self, args: &[&str]) -> Value {
        json_of(&self.millrace(&with_json("replay", args), "").await)
    }

    /// The same with `verify`; one value a projection.
    pub async fn verify(&self, args: &[&str]) -> (i32, Vec<Value>) {
        let output = self.millrace(&with_json("verify", args), "").await;
        let lines = output.stdout.lines();
        let values = lines.map(|line| serde_json::from_str(line).unwrap());
        (output.status, values.collect())
    }

    /// The generations of a projection: number, whether it is live, and whether it was.
    pub async fn generations(&self, projection: &str) -> Vec<Value> {
        let query = format!(
            "SELECT json_build_array(generation, live, retired_at IS NOT NULL) AS g
             FROM millrace.generations WHERE projection = '{projection}' ORDER BY generation"
        );
        let rows = self.sql(&query).await;
        rows.into_iter().map(|mut row| row["g"].take()).collect()
    }

    /// The Postgres schemas of a projection.
    pub async fn schemas(&self, projection: &str) -> Vec<String> {
        let query = format!(
            "SELECT nspname::text FROM pg_namespace WHERE nspname ~ '^{projection}(_g[0-9]+)?$' ORDER BY 1"
        );
        let rows = self.sql(&query).await;
        let name = |row: Value| row["nspname"].as_str().unwrap().to_owned();
        rows.into_iter().map(name).collect()
    }
}

fn with_json<'a>(command: &'a str, args: &[&'a str]) -> Vec<&'a str> {
    [&[command, "--json"], args].concat()
}

fn json_of(output: &Output) -> Value {
    assert_eq!(output.status, 0, "{output:?}");
    serde_json::from_str(output.stdout.trim()).unwrap()
}

/// How many rows of all tables are different.
pub fn different(report: &Value) -> u64 {
    let tables = report["tables"].as_array().unwrap();
    let kinds = ["added", "removed", "changed"];
    let of = |table: &Value| {
        kinds
            .iter()
            .map(|kind| table[kind].as_u64().unwrap())
            .sum::<u64>()
    };
    tables.iter().map(of).sum()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_gives_the_same_tables_however_little_memory_it_has() {
    let world = folded("replay", MANY).await;
    let before = world.tables().await;
    for (number, memory) in [(2, "256"), (3, "1")] {
        for projection in runtime::names() {
            let report = world.replay(&[projection, "--memory", memory]).await;
            assert_eq!(different(&report), 0, "{report}");
            assert_eq!(report["generation"], number);
            for table in report["tables"].as_array().unwrap() {
                assert_ne!(table["rows"], 0, "{report}");
                // The second fold, which shares no code, has it too.
                let name = table["table"].as_str().unwrap();
                let is_known = name == "millrace.dead_letters" || before.len(name) > 0;
                assert!(is_known, "nothing else says what {name} has to hold");
            }
        }
        world.tables().await.must_equal(&before);
    }
    // Whoever folds goes on with the new generation.
    fill(&world, [1_000, 500]).await;
    let mut process = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;
    // Keys and indexes are those that the tables were made with.
    let keys = "SELECT conrelid::regclass::text AS table, pg_get_constraintdef(oid) AS key
        FROM pg_constraint WHERE connamespace = 'SCHEMA'::regnamespace ORDER BY 1, 2";
    for projection in runtime::names() {
        let of = async |schema: &str| {
            let rows = world.sql(&keys.replace("SCHEMA", schema)).await;
            let text = serde_json::to_string(&rows).unwrap();
            text.replace(&format!("{schema}."), "")
        };
        let first = format!("{projection}_g1");
        assert_eq!(of(projection).await, of(&first).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rollback_brings_back_what_was_live_with_all_that_came_since() {
    let world = folded("rollback", SOME).await;
    world.replay(&["clicks"]).await;
    world.replay(&["orders"]).await;
    fill_clicks(&world, 2_000).await;
    fill_orders(&world, 500).await;
    let mut process = world.start(["process"]).await;
    world.must_be_what_the_log_says().await;
    for projection in ["clicks", "orders"] {
        let report = world.replay(&["--rollback", projection]).await;
        assert_eq!(
            (&report["generation"], &report["before"]),
            (&json!(1), &json!(2))
        );
        let generations = [json!([1, true, false]), json!([2, false, true])];
        assert_eq!(world.generations(projection).await, generations);
    }
    fill_clicks(&world, 1_000).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;

    let report = world.replay(&["--drop-old", "clicks"]).await;
    assert_eq!(report["removed"], json!([2]));
    assert_eq!(world.schemas("clicks").await, ["clicks"]);
    let nothing = world
        .millrace(&["replay", "--rollback", "clicks"], "")
        .await;
    nothing.failed(1, &["no earlier generation of clicks"]);
    world
        .execute("UPDATE millrace.generations SET version = 7 WHERE NOT live")
        .await;
    let other = world
        .millrace(&["replay", "--rollback", "orders"], "")
        .await;
    other.failed(1, &["was folded by version 7", "has version 1"]);
    world.must_be_what_the_log_says().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dry_run_tells_what_would_be_other_rows_and_changes_nothing() {
    let world = folded("dryrun", SOME).await;
    world
        .execute(
            "UPDATE clicks.stats SET v = v + 1 WHERE banner_id = 7;
             DELETE FROM orders.orders WHERE order_uid = (SELECT min(order_uid) FROM orders.orders);
             UPDATE millrace.generations SET version = 0 WHERE projection = 'clicks'",
        )
        .await;
    let before = world.tables().await;
    let changed = world
        .sql("SELECT count(*) AS n FROM clicks.stats WHERE banner_id = 7")
        .await;
    let clicks = world.replay(&["--dry-run", "clicks"]).await;
    let stats = &clicks["tables"][1];
    assert_eq!(stats["table"], "clicks.stats", "{clicks}");
    assert_eq!(stats["columns"], json!({"v": changed[0]["n"]}));
    assert_eq!((&stats["added"], &stats["removed"]), (&json!(0), &json!(0)));
    let orders = world.replay(&["--dry-run", "orders"]).await;
    let tables = orders["tables"].as_array().unwrap();
    let added = tables
        .iter()
        .filter(|table| table["added"] == 1 && table["removed"] == 0);
    assert_eq!(added.count(), 4, "{orders}");
    world.tables().await.must_equal(&before);
    for projection in ["clicks", "orders"] {
        assert_eq!(
            world.generations(projection).await,
            [json!([1, true, false])]
        );
        assert_eq!(world.schemas(projection).await, [projection]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_was_prepared_before_a_switch_reads_the_new_tables() {
    let world = World::new("prepared").await;
    let mut process = world.start(["process"]).await;
    let clicked = world.writer("clicks").await;
    let value = clicked.value(&click(7, "2026-01-01T00:00:00Z"));
    world
        .append_raw("clicks", Raw::value(value).into_partition(3))
        .await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;
    let wrong = "UPDATE clicks.stats SET v = 100";
    let minute = 1_767_225_600 / 60;
    let query = StatsQuery {
        banner_id: 7,
        from_minute: minute,
        to_minute: minute + 1,
        step: Step::Minute,
        limit: 10,
    };
    // One connection, whose statement has a plan of its own after some times.
    let pool = Database::new(&world.database_url())
        .unwrap()
        .pool(1, PATIENCE);
    for _ in 0..3 {
        world.execute(wrong).await;
        for _ in 0..8 {
            let stats = clicks::stats(&pool, query).await.unwrap();
            assert_eq!(stats.steps, [(minute * 60, 100)]);
        }
        world.replay(&["clicks"]).await;
        for _ in 0..8 {
            let stats = clicks::stats(&pool, query).await.unwrap();
            assert_eq!(stats.steps, [(minute * 60, 1)]);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_cached_of_old_tables_is_not_told_of_the_new_ones() {
    let world = World::new("replaycache").await;
    let mut run = world.start(["run"]).await;
    let value = world.writer("orders").await.value(&order("a"));
    world.append_raw("orders", Raw::value(value).key("a")).await;
    world.caught_up("orders").await;
    world
        .execute("UPDATE orders.orders SET entry = 'WRONG'")
        .await;
    let entry = async || run.get("/order?uid=a").await.json()["entry"].clone();
    // The look at the generations empties the cache once, too.
    assert_eq!(entry().await, "WRONG");
    world.replay(&["orders"]).await;
    let right = order("a")["entry"].clone();
    eventually("what the new tables have is told", async || {
        (entry().await == right).then_some(())
    })
    .await;
    run.terminate().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fold_of_another_version_waits_for_the_tables_that_it_can_write() {
    let world = World::new("versions").await;
    fill_clicks(&world, 5_000).await;
    let mut process = world.start(["process", "--only", "clicks"]).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;
    world
        .execute("UPDATE millrace.generations SET version = 0 WHERE projection = 'clicks'")
        .await;
    fill_clicks(&world, 5_000).await;
    let before = world.sql("SELECT sum(v) AS v FROM clicks.stats").await;
    let mut process = world.spawn(&["process", "--only", "clicks"], &[]);
    process
        .logged("it waits", |line| {
            let why = line["why"].as_str().unwrap_or_default();
            line["part"] == "fold clicks" && why.contains("folded by version 0")
        })
        .await;
    assert_eq!(
        world.sql("SELECT sum(v) AS v FROM clicks.stats").await,
        before
    );
    world
        .millrace(&["verify", "clicks"], "")
        .await
        .failed(1, &["folded by version 0", "--dry-run"]);
    world.replay(&["clicks"]).await;
    world.must_be_what_the_log_says().await;
    process.terminate().await;
}

async fn delete_records(world: &World, topic: &str, partition: i32, before: i64) {
    let mut places = TopicPartitionList::new();
    let topic = world.topic(topic);
    let offset = Offset::Offset(before);
    places
        .add_partition_offset(&topic, partition, offset)
        .unwrap();
    let admin = world.servers.admin();
    let deleted = admin.delete_records(&places, &AdminOptions::new()).await;
    deleted.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_beginning_of_the_log_there_is_no_replay() {
    let world = folded("truncated", SOME).await;
    delete_records(&world, "clicks", 2, 10).await;
    for args in [
        &["replay", "clicks"][..],
        &["replay", "--dry-run", "clicks"],
        &["verify", "clicks"],
    ] {
        let refused = world.millrace(args, "").await;
        refused.failed(1, &["begins at offset 10", "clicks/2"]);
    }
    assert_eq!(world.schemas("clicks").await, ["clicks"]);
    // Nothing of the others is lost.
    assert_eq!(different(&world.replay(&["orders"]).await), 0);
}
