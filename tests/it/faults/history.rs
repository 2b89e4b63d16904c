//! A log, a registry or a database that is not the one that was there before: the fold halts and says what to do.

use std::time::Duration;

use rdkafka::admin::AdminOptions;
use serde_json::Value;
use sqlx::Connection;

use super::{RECOVERY, replay::look_for_live, servers::servers_to_kill};
use crate::{
    replay::different,
    samples::click,
    world::{Process, Raw, World, eventually, eventually_within},
};

/// A time that is the same for a record and for its copy.
const AT_MS: i64 = 1_767_225_600_000;

impl Process {
    /// Waits until it says that a part has halted, and gives its words.
    async fn halted(&mut self, part: &str) -> String {
        self.listening().await;
        let beginning = format!("{part} has halted: ");
        eventually_within(RECOVERY, &beginning, async || {
            let answer = self.get("/readyz").await;
            let problem = answer.json();
            let reasons = problem["reasons"].as_array()?;
            let mut reasons = reasons.iter().filter_map(|reason| reason.as_str());
            let why = reasons.find_map(|reason| reason.strip_prefix(&beginning))?;
            assert_eq!(answer.status, 503);
            Some(why.to_owned())
        })
        .await
    }
}

impl World {
    /// Deletes a topic and makes it again, as `topics apply` would have made it.
    async fn make_anew(&self, topic: &str) {
        let name = self.topic(topic);
        let options = AdminOptions::new().operation_timeout(Some(Duration::from_secs(10)));
        let deleted = self.servers.admin().delete_topics(&[&name], &options).await;
        deleted.unwrap().remove(0).unwrap();
        let what = format!("{name} is there again");
        eventually(&what, async || {
            let applied = self.millrace(&["topics", "apply"], "").await;
            (applied.status == 0).then_some(())
        })
        .await;
    }

    /// A click in partition 3, which is the same whenever it is asked for.
    async fn click_again(&self) -> Raw {
        let writer = self.writer("clicks").await;
        let value = writer.value(&click(7, "2026-01-01T00:00:00Z"));
        Raw::value(value).into_partition(3).at(AT_MS)
    }

    /// Lets a replay of the clicks end just before what it has built goes live, and then makes that wrong: so it shows
    /// whether it is used.
    async fn leave_behind(&self, how: &[&str]) -> i64 {
        // The switch waits for whoever looks for the generation that is live.
        let look = look_for_live(self, "clicks").await;
        let mut replay = self.spawn(&[&["replay"], how, &["clicks"]].concat(), &[]);
        eventually("it is about to switch", async || {
            let about_to = "SELECT FROM millrace.builds WHERE phase = 'takes over'";
            (!self.sql(about_to).await.is_empty()).then_some(())
        })
        .await;
        replay.kill();
        look.close().await.unwrap();
        eventually("Postgres knows that it has gone", async || {
            let sessions = "SELECT FROM pg_stat_activity
                WHERE datname = current_database() AND application_name = 'millrace-replay-clicks'";
            self.sql(sessions).await.is_empty().then_some(())
        })
        .await;
        let left =
            "SELECT generation FROM millrace.generations WHERE NOT live AND retired_at IS NULL";
        let number = self.sql(left).await[0]["generation"].as_i64().unwrap();
        self.execute(&format!("UPDATE clicks_g{number}.stats SET v = 100"))
            .await;
        number
    }

    /// Clicks as they were counted.
    async fn counts(&self) -> Vec<Value> {
        self.sql("SELECT banner_id, v FROM clicks.stats ORDER BY banner_id")
            .await
    }
}

#[tokio::test]
async fn a_topic_that_was_made_anew_halts_its_projection_whatever_is_on_it() {
    let world = World::new("anew").await;
    let record = world.click_again().await;
    world.append_raw("clicks", record.clone()).await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    run.terminate().await;
    world.make_anew("clicks").await;
    // The same record at the same place: only the topic's id is another.
    world
        .append_all("clicks", vec![record.clone(), record.clone()])
        .await;
    let third = record;
    let mut run = world.spawn(&["run"], &[]);
    let why = run.halted("fold clicks").await;
    for words in [
        &*world.topic("clicks"),
        "made anew",
        "millrace replay --new-log clicks",
    ] {
        assert!(why.contains(words), "{words:?} in {why}");
    }
    assert_eq!(world.counts().await[0]["v"], 1);
    run.terminate().await;
    // What it said is to be done, and nothing else does it.
    for args in [
        &["replay", "clicks"][..],
        &["replay", "--dry-run", "clicks"],
        &["verify", "clicks"],
    ] {
        let refused = world.millrace(args, "").await;
        refused.failed(
            1,
            &[
                "generation 1 of clicks is of another log",
                "replay --new-log clicks",
            ],
        );
    }
    let report = world.replay(&["--new-log", "clicks"]).await;
    assert_eq!(report["records"], 2, "{report}");
    assert_eq!(world.counts().await[0]["v"], 2);
    let mut run = world.start(["run"]).await;
    world.append_raw("clicks", third).await;
    world.must_be_what_the_log_says().await;
    assert_eq!(world.counts().await[0]["v"], 3);
    let refused = world.millrace(&["replay", "--new-log", "clicks"], "").await;
    refused.failed(1, &["the log is the one that clicks was made from"]);
    let refused = world
        .millrace(&["replay", "--rollback", "clicks"], "")
        .await;
    refused.failed(1, &["generation 1 of clicks is of another log"]);
    world.replay(&["--drop-old", "clicks"]).await;
    run.terminate().await;
}

#[tokio::test]
async fn what_a_replay_left_behind_is_used_for_its_own_log_alone() {
    let world = World::new("leftover").await;
    let record = world.click_again().await;
    world.append_raw("clicks", record.clone()).await;
    let mut process = world.start(["process", "--only", "clicks"]).await;
    world.caught_up("clicks").await;
    process.terminate().await;
    for unusable in [
        "topic_id = 'another'",
        "cluster_id = NULL, topic_id = NULL",
        "is_whole = false",
    ] {
        let left = world.leave_behind(&[]).await;
        let make = format!("UPDATE millrace.generations SET {unusable} WHERE generation = {left}");
        world.execute(&make).await;
        let report = world.replay(&["clicks"]).await;
        assert_eq!(different(&report), 0, "{unusable}: {report}");
        assert_eq!(world.counts().await[0]["v"], 1, "{unusable}");
    }
    let left = world.leave_behind(&[]).await;
    let report = world.replay(&["clicks"]).await;
    let used = (&report["generation"], different(&report));
    assert_eq!(used, (&left.into(), 1), "{report}");
    assert_eq!(world.counts().await[0]["v"], 100);

    // The topic is made anew, and what was left is of the one before.
    let left = world.leave_behind(&[]).await;
    world.make_anew("clicks").await;
    world
        .append_all("clicks", vec![record.clone(), record])
        .await;
    let refused = world.millrace(&["replay", "clicks"], "").await;
    refused.failed(
        1,
        &["of clicks is of another log", "replay --new-log clicks"],
    );
    let schemas = world.schemas("clicks").await;
    assert!(schemas.contains(&format!("clicks_g{left}")), "{schemas:?}");
    world.leave_behind(&["--new-log"]).await;
    world.replay(&["--new-log", "clicks"]).await;
    assert_eq!(world.counts().await[0]["v"], 2);
    world.replay(&["--drop-old", "clicks"]).await;
    assert_eq!(world.schemas("clicks").await, ["clicks"], "nothing is left");
}

#[tokio::test]
async fn where_nobody_tells_ids_the_last_record_tells_another_log() {
    let world = World::new("swapped").await;
    let record = world.click_again().await;
    world.append_raw("clicks", record.clone()).await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    run.terminate().await;
    // As an older cluster has it.
    let without_ids = "UPDATE millrace.generations SET cluster_id = '', topic_id = ''";
    world.execute(without_ids).await;
    world.make_anew("clicks").await;
    let other = record.clone().at(AT_MS + 1);
    world.append_all("clicks", vec![other, record]).await;
    let mut run = world.spawn(&["run"], &[]);
    let why = run.halted("fold clicks").await;
    for words in [
        "another record at offset 0 of partition 3",
        "millrace replay",
    ] {
        assert!(why.contains(words), "{words:?} in {why}");
    }
    assert_eq!(world.counts().await[0]["v"], 1);
    run.terminate().await;
}

#[tokio::test]
async fn a_topic_that_is_made_anew_while_it_is_read_halts_whoever_reads_it() {
    let world = World::new("pulled").await;
    let record = world.click_again().await;
    world.append_raw("clicks", record.clone()).await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    for topic in ["clicks", "orders", "sales"] {
        world.make_anew(topic).await;
    }
    world.append_all("clicks", vec![record; 5]).await;
    for part in ["fold clicks", "cache of orders", "sale"] {
        let why = run.halted(part).await;
        assert!(why.contains("made anew"), "{part}: {why}");
    }
    let checkout = serde_json::json!({ "user_id": 1, "item_id": 1 });
    let refused = run.post("/checkout?user_id=1&item_id=1", &checkout).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    run.terminate().await;
}

#[tokio::test]
async fn another_cluster_behind_the_address_halts_and_says_which() {
    let turn = servers_to_kill().await;
    let world = World::new("cluster").await;
    let record = world.click_again().await;
    world.append_raw("clicks", record.clone()).await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    run.terminate().await;
    let other = turn.servers().brokers;
    let there = [("MILLRACE_BROKERS", &*other)];
    let applied = world.millrace_with(&["topics", "apply"], "", &there).await;
    assert_eq!(applied.status, 0, "{applied:?}");
    let mut run = world.spawn(&["run"], &there);
    for part in ["fold clicks", "fold orders", "cache of orders", "sale"] {
        let why = run.halted(part).await;
        for words in ["leads to Kafka cluster", &other] {
            assert!(why.contains(words), "{words:?} in {part}: {why}");
        }
    }
    assert_eq!(world.counts().await[0]["v"], 1);
    run.terminate().await;
    // If it is meant to take the place of the first, who is still at work on the first folds nothing of it any more.
    let mut run = world.start(["run"]).await;
    let adopt = ["replay", "--new-log", "clicks"];
    let adopted = world.millrace_with(&adopt, "", &there).await;
    assert_eq!(adopted.status, 0, "{adopted:?}");
    world.append_raw("clicks", record).await;
    let why = run.halted("fold clicks").await;
    assert!(why.contains("leads to Kafka cluster"), "{why}");
    assert_eq!(world.counts().await, [] as [Value; 0]);
    run.terminate().await;
    let clusters =
        "SELECT DISTINCT cluster_id FROM millrace.generations WHERE projection = 'clicks'";
    assert_eq!(world.sql(clusters).await.len(), 2);
}

#[tokio::test]
async fn a_log_that_lost_records_halts_its_projection_and_says_so() {
    let world = World::new("lost").await;
    let writer = world.writer("clicks").await;
    let value = writer.value(&click(7, "2026-01-01T00:00:00Z"));
    world
        .append_raw("clicks", Raw::value(value.clone()).into_partition(3))
        .await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    run.terminate().await;
    let beyond = "UPDATE millrace.checkpoints SET next_offset = 1000 WHERE projection = 'clicks' AND partition = 3";
    world.execute(beyond).await;
    let mut run = world.spawn(&["run"], &[]);
    let why = run.halted("fold clicks").await;
    let topic = world.topic("clicks");
    assert!(why.contains(&topic) && why.contains("rebuild"), "{why}");
    // Nothing moves any more, and the others go on.
    world
        .append_raw("clicks", Raw::value(value).into_partition(4))
        .await;
    let placed = run.post("/v1/orders", &crate::samples::model()).await;
    assert_eq!(placed.status, 201, "{placed:?}");
    world.caught_up("orders").await;
    let checkpoints = world
        .sql("SELECT partition, next_offset FROM millrace.checkpoints WHERE projection = 'clicks' AND next_offset > 0")
        .await;
    assert_eq!(checkpoints.len(), 1, "{checkpoints:?}");
    assert_eq!(checkpoints[0]["next_offset"], 1_000);
    run.terminate().await;
}

#[tokio::test]
async fn a_registry_that_says_something_else_of_an_id_halts_the_projection_and_says_so() {
    let world = World::new("fingerprint").await;
    let value = world
        .writer("clicks")
        .await
        .value(&click(7, "2026-01-01T00:00:00Z"));
    let record = Raw::value(value).into_partition(0);
    world.append_raw("clicks", record.clone()).await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    run.terminate().await;
    // As if another schema had been met under this id.
    let other = "UPDATE millrace.schema_ids SET fingerprint = 'another'";
    world.execute(other).await;
    world.append_raw("clicks", record).await;
    let mut run = world.spawn(&["run"], &[]);
    let why = run.halted("fold clicks").await;
    assert!(why.contains("MILLRACE_REGISTRY_URL"), "{why}");
    let rows = world.sql("SELECT v FROM clicks.stats").await;
    assert_eq!(
        rows[0]["v"], 1,
        "read with a schema that may be the wrong one"
    );
    run.terminate().await;
}

#[tokio::test]
async fn a_registry_that_changes_under_a_running_process_halts_it_without_a_record() {
    let world = World::new("changes").await;
    let record = world.click_again().await;
    world.append_raw("clicks", record).await;
    let mut run = world.start(["run"]).await;
    world.caught_up("clicks").await;
    // As if another schema had been met under this id.
    let other = "UPDATE millrace.schema_ids SET fingerprint = 'another'";
    world.execute(other).await;
    let why = run.halted("fold clicks").await;
    assert!(why.contains("MILLRACE_REGISTRY_URL"), "{why}");
    run.terminate().await;
}

#[tokio::test]
async fn another_topic_prefix_on_the_same_database_halts_and_says_what_to_do() {
    let world = World::new("prefix").await;
    let mut run = world.start(["run"]).await;
    run.terminate().await;
    let other = World::new("other").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_TOPIC_PREFIX", &other.prefix)]);
    for part in ["fold clicks", "fold orders"] {
        let why = run.halted(part).await;
        assert!(why.contains("a database of its own"), "{why}");
        assert!(
            why.contains(&world.prefix) && why.contains(&other.prefix),
            "{why}"
        );
    }
    run.terminate().await;
}
