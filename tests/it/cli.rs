//! The command line: what it does, and what it says when that cannot be done.

mod behind;
mod emit;
mod emit_users;
mod look;
mod topics;

use std::time::Duration;

use serde_json::Value;
use tokio::time::Instant;

use crate::world::{Output, World};

const CLOSED: &str = "127.0.0.1:1";
const CLOSED_REGISTRY: &str = "http://127.0.0.1:1/apis/ccompat/v7";
const CLOSED_DATABASE: &str = "postgres://millrace@127.0.0.1:1/none";

impl Output {
    /// Asserts that it failed with this code and said all of these, in few words.
    pub fn failed(&self, status: i32, words: &[&str]) {
        assert_eq!(self.status, status, "{self:?}");
        for words in words {
            assert!(
                self.stderr.contains(words),
                "does not say {words:?}: {self:?}"
            );
        }
        assert!(self.stderr.lines().count() <= 30, "{self:?}");
    }

    /// Asserts that it did what it was told, and gives the lines that it printed.
    pub fn lines(&self) -> Vec<&str> {
        assert_eq!(self.status, 0, "{self:?}");
        self.stdout.lines().collect()
    }

    /// The same for lines of JSON.
    pub fn json_lines(&self) -> Vec<Value> {
        let read =
            |line: &&str| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        self.lines().iter().map(read).collect()
    }
}

#[tokio::test]
async fn a_wrong_use_is_told_before_anything_is_done() {
    let world = World::new("wrong").await;
    for (args, words) in [
        (
            &["emit", "click", "--banner", "-1"][..],
            "must be a whole number from 0",
        ),
        (
            &["emit", "click", "--banner", "abc"],
            "must be a whole number from 0",
        ),
        (
            &["emit", "click", "--banner", "1", "--count", "0"],
            "from 1",
        ),
        (
            &["emit", "click", "--banner", "1", "--rate", "-5"],
            "larger than 0",
        ),
        (&["emit", "order"], "--file"),
        (&["emit", "orders"], "unrecognized subcommand"),
        (
            &["topics", "get", "orders/1"],
            "write topic/partition@offset",
        ),
        (
            &["topics", "tail", "orders", "--from", "yesterday"],
            "write beginning, end",
        ),
        (&["process", "--only", "everything"], "clicks, orders"),
        (&["dead-letters", "--projection", "none"], "clicks, orders"),
        (&["replay"], "PROJECTION"),
        (&["replay", "none"], "clicks, orders"),
        (
            &["replay", "clicks", "--rollback", "--drop-old"],
            "cannot be used with",
        ),
        (&["replay", "clicks", "--memory", "0"], "--memory"),
        (&["verify", "clicks", "none"], "clicks, orders"),
        (&["--topic-prefix", "a b", "topics"], "names of topics"),
        (&["api", "--listen", "nowhere"], "--listen"),
        (&[], "Usage"),
    ] {
        world.millrace(args, "").await.failed(2, &[words]);
    }
    assert_eq!(
        (world.ends("orders").await, world.ends("clicks").await),
        (vec![0; 8], vec![0; 8])
    );
}

#[tokio::test]
async fn a_server_that_is_away_is_named_with_what_to_do() {
    let world = World::new("away").await;
    let began = Instant::now();
    let click = ["emit", "click", "--banner", "1"];
    let no_broker = world
        .millrace_with(&click, "", &[("MILLRACE_BROKERS", CLOSED)])
        .await;
    no_broker.failed(1, &[CLOSED, "MILLRACE_BROKERS"]);
    let no_registry = world
        .millrace_with(&click, "", &[("MILLRACE_REGISTRY_URL", CLOSED_REGISTRY)])
        .await;
    no_registry.failed(1, &[CLOSED_REGISTRY, "MILLRACE_REGISTRY_URL"]);
    let no_registry = world
        .millrace_with(
            &["topics", "apply"],
            "",
            &[("MILLRACE_REGISTRY_URL", CLOSED_REGISTRY)],
        )
        .await;
    no_registry.failed(1, &[CLOSED_REGISTRY, "MILLRACE_REGISTRY_URL"]);
    for args in [&["lag"][..], &["dead-letters"]] {
        let no_database = world
            .millrace_with(args, "", &[("DATABASE_URL", CLOSED_DATABASE)])
            .await;
        no_database.failed(1, &["127.0.0.1:1/none", "DATABASE_URL"]);
        let unprepared = world.millrace(args, "").await;
        unprepared.failed(1, &[&world.database, "millrace run"]);
        let no_address = world
            .millrace_with(args, "", &[("DATABASE_URL", "nonsense")])
            .await;
        no_address.failed(1, &["postgres://user@host:port/database"]);
    }
    for args in [
        &["topics"][..],
        &["topics", "tail", "orders"],
        &["topics", "describe", "orders"],
    ] {
        let no_broker = world
            .millrace_with(args, "", &[("MILLRACE_BROKERS", CLOSED)])
            .await;
        no_broker.failed(1, &[CLOSED, "MILLRACE_BROKERS"]);
    }
    assert!(
        began.elapsed() < Duration::from_secs(60),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(world.ends("clicks").await, [0; 8]);
}

#[tokio::test]
async fn an_address_that_cannot_be_listened_on_is_told() {
    let world = World::new("port").await;
    let api = world.start(["api"]).await;
    let address = api.address().to_owned();
    for command in ["api", "run"] {
        let second = world.millrace(&[command, "--listen", &address], "").await;
        second.failed(1, &["cannot listen on", &address, "MILLRACE_LISTEN"]);
    }
    let open = world.millrace(&["api", "--listen", "0.0.0.0:0"], "").await;
    open.failed(1, &["--behind-proxy"]);
    assert_eq!(api.get("/livez").await.status, 200);
}

#[tokio::test]
async fn a_database_belongs_to_one_prefix() {
    let world = World::new("prefix").await;
    world.start(["run"]).await.terminate().await;
    let other = World::new("other").await;
    let mut run = other.spawn(&["run"], &[("DATABASE_URL", &world.database_url())]);
    let halted = run
        .logged("it halts", |line| line["message"] == "has halted")
        .await;
    let why = halted["why"].as_str().unwrap();
    assert!(
        why.contains("give each topic prefix a database of its own"),
        "{why}"
    );
    run.listening().await;
    assert_eq!(run.get("/readyz").await.status, 503);
    run.terminate().await;
    let lag = other
        .millrace_with(&["lag"], "", &[("DATABASE_URL", &world.database_url())])
        .await;
    lag.failed(1, &["give each topic prefix a database of its own"]);
}
