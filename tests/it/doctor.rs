//! `millrace doctor`: what is wrong is named, and what is right is not touched.

use std::collections::BTreeMap;

use rdkafka::{Offset, TopicPartitionList, admin::AdminOptions};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    samples::order,
    world::{Raw, Servers, World},
};

const NOWHERE: &str = "127.0.0.1:1";

/// What the doctor said: verdict and finding of each check.
struct Said {
    status: i32,
    checks: BTreeMap<String, (String, String)>,
}

/// Asks the doctor, with more settings in its environment.
async fn ask(world: &World, env: &[(&str, &str)]) -> Said {
    let output = world.millrace_with(&["doctor", "--json"], "", env).await;
    let check = |line: &str| {
        let check: Value = serde_json::from_str(line).unwrap();
        let text = |name: &str| check[name].as_str().unwrap().to_owned();
        (text("check"), (text("verdict"), text("found")))
    };
    Said {
        status: output.status,
        checks: output.stdout.lines().map(check).collect(),
    }
}

impl Said {
    /// The verdict of a check, and what was found.
    fn of(&self, check: &str) -> (&str, &str) {
        let found = self.checks.get(check);
        let (verdict, found) = found.unwrap_or_else(|| panic!("no {check} in {:?}", self.checks));
        (verdict, found)
    }

    /// Asserts that these checks have failed and no others, and that it says so of the first with these words.
    fn must_fail(&self, checks: &[&str], words: &[&str]) {
        assert_eq!(self.status, 1);
        let failed = self
            .checks
            .iter()
            .filter(|(_, (verdict, _))| verdict == "failed");
        let failed: Vec<_> = failed.map(|(check, _)| check.as_str()).collect();
        assert_eq!(failed, checks, "{:?}", self.checks);
        let (_, found) = self.of(checks[0]);
        for word in words {
            assert!(found.contains(word), "no {word} in: {found}");
        }
    }
}

/// A world whose tables are made, and in which nothing runs.
async fn prepared(name: &str) -> World {
    let world = World::new(name).await;
    let mut run = world.start(["run"]).await;
    assert_eq!(run.post("/v1/orders", &order("a")).await.status, 201);
    world.caught_up("orders").await;
    run.terminate().await;
    world
}

#[tokio::test]
async fn the_doctor_finds_nothing_where_all_is_well() {
    let world = prepared("dr_well").await;
    let said = ask(&world, &[]).await;
    assert_eq!(said.status, 0, "{:?}", said.checks);
    let (clicks, orders) = (world.topic("clicks"), world.topic("orders"));
    for check in [
        &format!("topic {clicks}"),
        &format!("topic {orders}"),
        &format!("topic {orders}, log"),
        &format!("schema {clicks}-value"),
        &format!("schema {orders}-value"),
        "registry",
        "database",
        "clock of Postgres",
        "tables",
        "projection clicks",
        "projection orders",
        "projection orders, dead letters",
        "projection orders, lag",
        "schema ids",
    ] {
        assert_eq!(said.of(check).0, "ok", "{check}: {:?}", said.of(check));
    }
    let copies = format!("topic {orders}, copies");
    for check in [
        "open files",
        "connections",
        "clock of the registry",
        &copies,
    ] {
        assert_ne!(said.of(check).0, "failed", "{check}: {:?}", said.of(check));
    }
    let lines = world.millrace(&["doctor"], "").await;
    assert_eq!(lines.status, 0, "{lines:?}");
    let line = format!("ok       topic {orders}: 8 partitions, settings as they have to be");
    assert!(lines.stdout.lines().any(|found| found == line), "{lines:?}");
    assert!(lines.stderr.contains("no check failed"), "{lines:?}");
}

#[tokio::test]
async fn the_doctor_writes_nothing() {
    let world = World::without_topics(Servers::default(), "dr_untouched").await;
    let of_each = |topic: &String| [format!("schema {topic}-value"), format!("topic {topic}")];
    let mut missing: Vec<_> = world.topics().iter().flat_map(of_each).collect();
    missing.sort();
    let missing: Vec<_> = missing.iter().map(String::as_str).collect();
    for _ in 0..2 {
        let said = ask(&world, &[]).await;
        said.must_fail(&missing, &["nothing is registered", "topics apply"]);
        assert_eq!(said.of("tables").0, "warning");
    }
    let schemas = "SELECT FROM information_schema.tables WHERE table_schema NOT IN ('pg_catalog', 'information_schema')";
    assert_eq!(world.sql(schemas).await, Vec::<Value>::new());
}

#[tokio::test]
async fn the_doctor_names_a_topic_with_too_few_partitions_and_a_wrong_retention() {
    let world = World::without_topics(Servers::default(), "dr_topic").await;
    let topic = world.topic("orders");
    let settings = [
        ("retention.ms", "86400000"),
        ("max.message.bytes", "100000"),
    ];
    world.create_topic("orders", 4, &settings).await;
    assert_eq!(world.millrace(&["topics", "apply"], "").await.status, 1);
    let said = ask(&world, &[]).await;
    let words = [
        "has 4 partitions, needs 8",
        r#"retention.ms is "86400000", should be "-1""#,
        "max.message.bytes is 100000",
        "kafka-configs --alter",
    ];
    said.must_fail(&[&format!("topic {topic}")], &words);
    let lines = world.millrace(&["doctor"], "").await;
    assert_eq!(lines.status, 1, "{lines:?}");
    assert!(
        lines.stdout.contains(&format!("failed   topic {topic}: ")),
        "{lines:?}"
    );
    assert!(
        lines.stderr.starts_with("error: 1 check failed, "),
        "{lines:?}"
    );
    world.drop_topics().await;
}

#[tokio::test]
async fn the_doctor_names_a_log_whose_beginning_is_gone() {
    let world = prepared("dr_cut").await;
    let topic = world.topic("orders");
    let log = format!("topic {topic}, log");
    let delete_before = async |partition: i32, offset: i64| {
        let mut before = TopicPartitionList::new();
        let place = before.add_partition_offset(&topic, partition, Offset::Offset(offset));
        place.unwrap();
        let admin = world.servers.admin();
        let deleted = admin.delete_records(&before, &AdminOptions::new()).await;
        deleted.unwrap();
    };
    let ends = world.ends("orders").await;
    let partition = ends.iter().position(|end| *end == 1).unwrap();
    let partition = i32::try_from(partition).unwrap();
    delete_before(partition, 1).await;
    let begins = format!("({partition} at 1)");
    let said = ask(&world, &[]).await;
    said.must_fail(&[&log], &["the beginning is gone", &begins]);

    let unapplied = Raw::value("junk").into_partition(partition);
    world.append_raw("orders", unapplied).await;
    delete_before(partition, 2).await;
    let words = format!("partition {partition} begins at 2 and 1 was yet to be applied");
    let said = ask(&world, &[]).await;
    said.must_fail(&["projection orders, lag", &log], &[&words]);
}

#[tokio::test]
async fn the_doctor_names_each_server_that_is_away_and_looks_at_the_others() {
    let world = prepared("dr_away").await;
    let topic = format!("topic {}", world.topic("orders"));
    let schema = format!("schema {}-value", world.topic("orders"));

    let said = ask(&world, &[("MILLRACE_BROKERS", NOWHERE)]).await;
    said.must_fail(&["broker"], &[NOWHERE, "check MILLRACE_BROKERS"]);
    assert_eq!(
        (said.of(&schema).0, said.of("projection orders").0),
        ("ok", "ok")
    );

    let url = format!("http://{NOWHERE}/apis/ccompat/v7");
    let said = ask(&world, &[("MILLRACE_REGISTRY_URL", &url)]).await;
    said.must_fail(&["registry"], &[NOWHERE, "check MILLRACE_REGISTRY_URL"]);
    assert_eq!(
        (said.of(&topic).0, said.of("projection orders").0),
        ("ok", "ok")
    );

    let url = format!("postgres://millrace@{NOWHERE}/none");
    let said = ask(&world, &[("DATABASE_URL", &url)]).await;
    said.must_fail(&["database"], &[NOWHERE, "check DATABASE_URL"]);
    assert_eq!((said.of(&topic).0, said.of(&schema).0), ("ok", "ok"));
}

#[tokio::test]
async fn the_doctor_names_a_subject_that_is_missing_lax_or_unreadable() {
    let world = prepared("dr_schema").await;
    let subject = format!("{}-value", world.topic("orders"));
    let check = format!("schema {subject}");
    let registry = reqwest::Client::new();
    let call = async |method: Method, path: String, body: Value| {
        let url = format!("{}{path}", world.servers.registry_url);
        let answer = registry
            .request(method, url)
            .json(&body)
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    };

    let lax = json!({ "compatibility": "NONE" });
    call(Method::PUT, format!("/config/{subject}"), lax).await;
    let words = [
        "compatibility is NONE, should be FULL_TRANSITIVE",
        "topics apply",
    ];
    ask(&world, &[]).await.must_fail(&[&check], &words);

    let other =
        json!({ "type": "record", "name": "Other", "fields": [{ "name": "a", "type": "long" }] });
    world.register("orders", &other).await;
    let words = ["version 2", "cannot be read by this build"];
    ask(&world, &[]).await.must_fail(&[&check], &words);

    call(Method::DELETE, format!("/subjects/{subject}"), Value::Null).await;
    let words = ["nothing is registered", "topics apply"];
    ask(&world, &[]).await.must_fail(&[&check], &words);
}

#[tokio::test]
async fn the_doctor_names_tables_that_are_not_of_this_build_or_of_this_log() {
    let world = prepared("dr_tables").await;
    world
        .execute("UPDATE millrace.generations SET version = 999 WHERE projection = 'clicks'")
        .await;
    let words = ["folded by version 999", "millrace replay clicks"];
    ask(&world, &[])
        .await
        .must_fail(&["projection clicks"], &words);

    world
        .execute(
            "UPDATE millrace.generations SET version = 1, topic = 'other.clicks' WHERE projection = 'clicks'",
        )
        .await;
    let words = ["a fold of topic other.clicks"];
    ask(&world, &[])
        .await
        .must_fail(&["projection clicks"], &words);

    world
        .execute(&format!(
            "UPDATE millrace.generations SET topic = '{}' WHERE projection = 'clicks';
             UPDATE millrace.checkpoints SET next_offset = 1000 WHERE projection = 'orders' AND partition = 3",
            world.topic("clicks")
        ))
        .await;
    let words = [
        "3 has less than was applied",
        "1000 is next",
        "truncated or made anew",
    ];
    ask(&world, &[])
        .await
        .must_fail(&["projection orders, lag"], &words);

    world
        .execute("UPDATE millrace.checkpoints SET next_offset = 0 WHERE partition = 3")
        .await;
    world
        .execute("UPDATE millrace.schema_ids SET fingerprint = 'another'")
        .await;
    let words = ["meant another schema", "MILLRACE_REGISTRY_URL"];
    ask(&world, &[]).await.must_fail(&["schema ids"], &words);

    world
        .execute("UPDATE _sqlx_migrations SET checksum = 'x' WHERE version = 1")
        .await;
    ask(&world, &[])
        .await
        .must_fail(&["tables"], &["migration 1 is not of this build"]);
}

#[tokio::test]
async fn the_doctor_warns_of_dead_letters_and_of_a_fold_that_stands_still() {
    let world = prepared("dr_warns").await;
    world
        .append_raw("orders", Raw::value("junk").key("b"))
        .await;
    let process = world.start(["process", "--only", "orders"]).await;
    world.caught_up("orders").await;
    drop(process);
    let an_hour_ago = producers::clock::now_ms() - 3_600_000;
    world
        .append_raw(
            "clicks",
            Raw::value("junk").into_partition(0).at(an_hour_ago),
        )
        .await;
    let said = ask(&world, &[]).await;
    assert_eq!(said.status, 0, "{:?}", said.checks);
    let (verdict, found) = said.of("projection orders, dead letters");
    assert_eq!((verdict, &found[..3]), ("warning", "1: "), "{found}");
    let (verdict, found) = said.of("projection clicks, lag");
    assert_eq!(verdict, "warning", "{found}");
    assert!(found.starts_with("1 record and 36"), "{found}");
    assert_eq!(said.of("projection orders, lag").0, "ok");
}
