//! Whether the log is still the one that the caches and the sale of this process come from, and the tables, too. The
//! folds look at what they have applied (`processors/src/guard.rs`); here it is asked which cluster and which topics
//! these are, since who folds for itself has no checkpoint.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::Result;
use processors::{guard::differs, inspect};
use producers::log_id::{LogId, log_ids};
use projections::history::{LogOf, of_live};
use schemas::topics::TOPICS;
use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{sleep, timeout},
};

use crate::app::App;

const LOOK_EVERY: Duration = Duration::from_secs(10);
/// What is found wrong has to be found twice.
const CONFIRM: Duration = Duration::from_secs(1);
/// How long Postgres may take to tell what it knows; without it, only what this process has seen counts.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Topics that are others than before, by their full names: what is wrong, and what to do.
#[derive(Debug, Default)]
pub struct History(watch::Sender<BTreeMap<String, String>>);

impl History {
    /// Waits until a topic, by its full name, is another than before, and tells what is wrong; for ever if all is well.
    pub async fn lost(&self, topic: &str) -> String {
        let mut others = self.0.subscribe();
        let found = others.wait_for(|others| others.contains_key(topic)).await;
        match found.ok().and_then(|others| others.get(topic).cloned()) {
            Some(why) => why,
            // The process ends.
            None => std::future::pending().await,
        }
    }
}

/// Watches for as long as it is polled.
pub async fn watch_history(app: Arc<App>) {
    let topics: Vec<String> = TOPICS.iter().map(|topic| app.topic(topic)).collect();
    let mut first = None;
    loop {
        let mut others = look(&app, &topics, &mut first).await;
        if !others.is_empty() {
            sleep(CONFIRM).await;
            let again = look(&app, &topics, &mut first).await;
            others.retain(|topic, _| again.contains_key(topic));
        }
        app.history.0.send_if_modified(|known| {
            let is_new = others.keys().any(|topic| !known.contains_key(topic));
            known.extend(others);
            is_new
        });
        sleep(LOOK_EVERY).await;
    }
}

/// The topics that are others than before. If the broker does not tell, that is said elsewhere.
async fn look(
    app: &Arc<App>,
    topics: &[String],
    first: &mut Option<BTreeMap<String, LogId>>,
) -> BTreeMap<String, String> {
    let Ok(now) = ids(app, topics).await else {
        return BTreeMap::new();
    };
    let first = first.get_or_insert_with(|| now.clone());
    let known = timeout(KNOWN_TIMEOUT, of_tables(app)).await;
    let known = known.ok().and_then(Result::ok).unwrap_or_default();
    let brokers = &app.services.kafka.brokers;
    let mut others = BTreeMap::new();
    let known = known.iter().map(|(topic, id)| (topic, id));
    for (topic, noted) in first.iter().chain(known) {
        let Some(id) = now.get(topic).filter(|id| !noted.may_be(id)) else {
            continue;
        };
        let what = differs(topic, brokers, noted, id);
        others.entry(topic.clone()).or_insert_with(|| {
            format!(
                "{what}; let MILLRACE_BROKERS lead to the log that was there before, or restore that log; if this one is meant to take its place, rebuild the projections from it with `millrace replay --new-log`, and start this process again"
            )
        });
    }
    others
}

async fn ids(app: &App, topics: &[String]) -> Result<BTreeMap<String, LogId>> {
    let (kafka, asked) = (app.services.kafka.clone(), topics.to_vec());
    // A new client, which finds its way from the addresses that were given.
    let ask = move || log_ids(&inspect::consumer(&kafka)?, &asked);
    let ids = spawn_blocking(ask).await??;
    Ok(topics.iter().cloned().zip(ids).collect())
}

async fn of_tables(app: &App) -> sqlx::Result<Vec<(String, LogId)>> {
    let mut connection = app.pool.borrow().await?;
    let found = of_live(&mut *connection).await?;
    connection.give_back();
    let known = |log: LogOf| {
        let id = LogId {
            cluster: log.cluster_id,
            topic: log.topic_id,
        };
        (log.topic, id)
    };
    Ok(found.into_iter().map(known).collect())
}
