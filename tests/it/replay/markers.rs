//! Offsets without records, as transactions of a foreign producer leave them behind: whatever goes up to the end of a
//! log comes to its end.

use processors::runtime;
use schemas::topics::TOPICS;
use serde_json::json;

use super::{SOME, different, fill};
use crate::world::{Raw, World};

/// Whether a transaction is committed or aborted.
const COMMITTED: bool = true;
const ABORTED: bool = false;

impl World {
    /// Lets every partition of a topic end with what a transaction leaves there.
    async fn end_with_transaction(&self, topic: &str, commits: bool) {
        let partitions = i32::try_from(self.ends(topic).await.len()).unwrap();
        let record = |partition| Raw::value("junk").into_partition(partition);
        let records = (0..partitions).map(record).collect();
        self.append_in_transaction(topic, records, commits).await;
    }

    /// Everything that goes up to the end of a log does so, and finds nothing wrong.
    async fn must_come_to_its_end(&self) {
        let mut run = self.start(["run"]).await;
        self.must_be_what_the_log_says().await;
        let lag = self.millrace(&["lag", "--json"], "").await.json_lines();
        assert_eq!(lag[0]["total"]["records"], 0, "{lag:?}");
        run.terminate().await;
        // Its caches and the sale begin at such an end now.
        let mut run = self.start(["run"]).await;
        self.must_be_what_the_log_says().await;
        run.terminate().await;
        let before = self.tables().await;
        let (status, reports) = self.verify(&[]).await;
        assert_eq!(status, 0, "{reports:?}");
        for projection in runtime::names() {
            let report = self.replay(&[projection]).await;
            assert_eq!(different(&report), 0, "{report}");
        }
        self.tables().await.must_equal(&before);
        self.execute("UPDATE millrace.generations SET topic_id = 'of another log' WHERE live")
            .await;
        for projection in runtime::names() {
            self.replay(&["--new-log", projection]).await;
        }
        self.tables().await.must_equal(&before);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_ends_with_markers_of_transactions_is_folded_to_its_end() {
    let world = World::new("markers").await;
    fill(&world, SOME).await;
    for topic in TOPICS {
        world.end_with_transaction(topic.name, COMMITTED).await;
        world.end_with_transaction(topic.name, ABORTED).await;
    }
    world.must_come_to_its_end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_has_nothing_but_an_aborted_transaction_is_folded_to_its_end() {
    let world = World::new("aborted").await;
    for topic in TOPICS {
        world.end_with_transaction(topic.name, ABORTED).await;
    }
    world.must_come_to_its_end().await;
    let dead = "SELECT count(*) AS n FROM millrace.dead_letters";
    assert_eq!(world.sql(dead).await, [json!({ "n": 0 })]);
}
