//! A reader that remembers what it was told, and does not let anybody take it back.

use std::{cell::RefCell, collections::BTreeSet};

use rand::{
    rngs::StdRng,
    seq::{IndexedRandom, IteratorRandom},
};
use reqwest::Method;
use serde_json::Value;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::{
    PAUSE,
    load::{Fate, Load, uid},
};
use crate::world::{
    Process, World,
    http::{Answer, MIN_POSITION},
};

/// Reads what was written through an API, and watches the checkpoints.
pub struct Witness<'w> {
    world: &'w World,
    api: &'w Process,
    random: RefCell<StdRng>,
    stop: CancellationToken,
}

/// One kind of write, and how it is read.
struct Kind<'l> {
    load: &'l Load,
    path: fn(i64) -> String,
    /// Whether an answer shows the write.
    shows: fn(&Answer) -> bool,
}

impl<'w> Witness<'w> {
    /// Reads through this process, which has to stay.
    pub fn new(
        world: &'w World,
        api: &'w Process,
        random: StdRng,
        stop: CancellationToken,
    ) -> Self {
        Self {
            world,
            api,
            random: RefCell::new(random),
            stop,
        }
    }

    /// Until it is stopped: what was once read can be read from then on, and checkpoints never go back. In the end it
    /// must have read something.
    pub async fn watch(&self, clicks: &Load, orders: &Load) {
        let clicks = Kind {
            load: clicks,
            path: |number| {
                format!(
                    "/v1/banners/stats/{number}?from=2020-01-01T00:00:00Z&to=2100-01-01T00:00:00Z"
                )
            },
            shows: |answer| answer.json()["stats"][0]["v"] == 1,
        };
        let orders = Kind {
            load: orders,
            path: |number| format!("/order?uid={}", uid(number)),
            shows: |answer| answer.json()["order_uid"].is_string(),
        };
        tokio::join!(
            self.read(&clicks),
            self.read(&orders),
            self.checkpoints_rise()
        );
    }

    async fn read(&self, kind: &Kind<'_>) {
        let mut seen = BTreeSet::new();
        while !self.stop.is_cancelled() {
            if let Some((number, position)) = self.any_acknowledged(kind.load) {
                let request = self.api.request(Method::GET, &(kind.path)(number));
                let request = request.header(MIN_POSITION, &position);
                let answer = self.api.send(request).await;
                if must_show(kind, number, &answer) {
                    seen.insert(number);
                }
            }
            // What it has seen it sees again, without asking for a position.
            let again = seen.iter().copied().choose(&mut *self.random.borrow_mut());
            if let Some(number) = again {
                let answer = self.api.get(&(kind.path)(number)).await;
                must_show(kind, number, &answer);
            }
            sleep(PAUSE).await;
        }
        assert!(!seen.is_empty(), "nothing could be read");
    }

    /// One of the newest writes that are acknowledged, with its position.
    fn any_acknowledged(&self, load: &Load) -> Option<(i64, String)> {
        let fates = load.so_far();
        let acknowledged = fates.iter().rev().filter_map(|(number, fate)| match fate {
            Fate::Acknowledged(position) if !position.is_empty() => Some((*number, position)),
            _ => None,
        });
        let newest: Vec<_> = acknowledged.take(50).collect();
        let (number, position) = newest.choose(&mut *self.random.borrow_mut())?;
        Some((*number, (*position).clone()))
    }

    async fn checkpoints_rise(&self) {
        let query = "SELECT json_build_array(projection, partition) AS place, next_offset
            FROM millrace.checkpoints WHERE live ORDER BY projection, partition";
        let mut known: Vec<Value> = Vec::new();
        while !self.stop.is_cancelled() {
            let rows = self.world.sql_or_none(query).await.unwrap_or_default();
            for (before, now) in known.iter().zip(&rows) {
                let next_offset = |row: &Value| row["next_offset"].as_i64();
                if before["place"] == now["place"] {
                    assert!(
                        next_offset(now) >= next_offset(before),
                        "{now} after {before}"
                    );
                }
            }
            if !rows.is_empty() {
                known = rows;
            }
            sleep(PAUSE).await;
        }
    }
}

/// Whether the write is shown; it may only be missing if the answer says that it cannot be known now.
fn must_show(kind: &Kind<'_>, number: i64, answer: &Answer) -> bool {
    if answer.status == 503 {
        let reason = &answer.json()["reason"];
        assert!(
            reason == "not_caught_up" || reason == "database_unavailable",
            "{answer:?}"
        );
        return false;
    }
    assert!(
        answer.status == 200 && (kind.shows)(answer),
        "write {number} is not there: {answer:?}"
    );
    true
}
