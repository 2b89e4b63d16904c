//! Reading one's own writes: `Millrace-Position` on a write, `Millrace-Min-Position` on a read.

use std::{sync::Arc, time::Duration};

use anyhow::Result;
use axum::{
    extract::FromRequestParts,
    http::{HeaderName, HeaderValue, request::Parts},
};
use processors::{inspect, watermarks::Progress};
use producers::kafka::Kafka;
use rdkafka::consumer::{BaseConsumer, Consumer};
use schemas::{
    position::{Position, parse_list},
    topics::{TOPICS, Topic},
};
use serde_json::json;
use tokio::time::{Instant, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use utoipa::{
    IntoParams,
    openapi::path::{Parameter, ParameterIn},
};

use crate::{
    app::{App, Core},
    document,
    error::ApiError,
};

/// Where a write stands on the log.
pub const POSITION: HeaderName = HeaderName::from_static("millrace-position");
/// What a read has to reflect.
pub const MIN_POSITION: HeaderName = HeaderName::from_static("millrace-min-position");

/// More partitions than all topics have.
const POSITIONS_MAX: usize = 256;
/// How long the broker may take to say where a log ends.
const END_TIMEOUT: Duration = Duration::from_secs(1);

/// The positions that a read has to reflect; of topics that exist, within their partitions.
#[derive(Debug, Default)]
pub struct MinPositions(Vec<Position>);

impl FromRequestParts<Arc<Core>> for MinPositions {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, core: &Arc<Core>) -> Result<Self, ApiError> {
        let mut positions: Vec<Position> = Vec::new();
        for value in parts.headers.get_all(&MIN_POSITION) {
            let text = value
                .to_str()
                .map_err(|_| ApiError::bad_request("Millrace-Min-Position is not text"))?;
            let list = parse_list(text).map_err(|e| ApiError::bad_request(e.to_string()))?;
            for position in list {
                // The largest of a partition is all that matters; so there are as many as partitions at most.
                let is_same = |known: &&mut Position| {
                    known.partition == position.partition && known.topic == position.topic
                };
                if let Some(known) = positions.iter_mut().find(is_same) {
                    known.offset = known.offset.max(position.offset);
                    continue;
                }
                if positions.len() == POSITIONS_MAX {
                    return Err(ApiError::bad_request("Millrace-Min-Position: too many"));
                }
                positions.push(position);
            }
        }
        for position in &positions {
            let known = TOPICS
                .iter()
                .find(|topic| core.app.topic(topic) == position.topic);
            if known.is_none_or(|topic| position.partition >= topic.partitions) {
                return Err(ApiError::bad_request(format!(
                    "Millrace-Min-Position: there is no {}/{}",
                    position.topic, position.partition
                )));
            }
        }
        Ok(Self(positions))
    }
}

impl IntoParams for MinPositions {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        vec![document::part(json!({
            "name": "Millrace-Min-Position",
            "in": "header",
            "required": false,
            "description": "What the answer has to reflect: the `Millrace-Position` of one write, or of several with \
                commas between. The answer waits for it. A place that the log does not have is refused.",
            "schema": {
                "type": "string",
                "pattern": "^[A-Za-z0-9._-]+/[0-9]+@[0-9]+(,[A-Za-z0-9._-]+/[0-9]+@[0-9]+){0,255}$",
            },
        }))]
    }
}

impl MinPositions {
    /// The places in this topic, as partitions and offsets; a read ignores topics that it does not depend on.
    pub fn of(&self, app: &App, topic: &Topic) -> Vec<(i32, i64)> {
        if self.0.is_empty() {
            return Vec::new();
        }
        let name = app.topic(topic);
        let here = self.0.iter().filter(|position| position.topic == name);
        here.map(|position| (position.partition, position.offset))
            .collect()
    }
}

/// The header that tells where a write stands.
pub fn header(position: &Position) -> HeaderValue {
    HeaderValue::try_from(position.to_string()).expect("topic names are plain ASCII")
}

impl App {
    /// Waits until the tail of a cache has passed these places.
    ///
    /// # Errors
    /// 503 at the deadline; 400 for a place beyond the end of the log.
    pub async fn passed(
        &self,
        progress: &Progress,
        topic: &Topic,
        places: &[(i32, i64)],
        deadline: Instant,
    ) -> Result<(), ApiError> {
        if progress.has_reached(places) {
            return Ok(());
        }
        self.within_log(topic, places, deadline).await?;
        if progress.reached(places, deadline).await {
            return Ok(());
        }
        Err(ApiError::not_caught_up())
    }

    /// Refuses places that the log does not have. If the broker does not answer, they get the benefit of the doubt.
    ///
    /// # Errors
    /// 400.
    pub async fn within_log(
        &self,
        topic: &Topic,
        places: &[(i32, i64)],
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let name = self.topic(topic);
        for &(partition, offset) in places {
            let asked = timeout_at(deadline, self.log_ends.of(&name, partition)).await;
            let Ok(Some(end)) = asked else {
                return Ok(());
            };
            if offset >= end {
                return Err(ApiError::bad_request(format!(
                    "Millrace-Min-Position: {name}/{partition} has no offset {offset}"
                )));
            }
        }
        Ok(())
    }
}

/// Where the partitions end.
pub struct LogEnds(Arc<BaseConsumer>);

impl LogEnds {
    /// Asks this broker.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's.
    pub fn new(kafka: &Kafka) -> Result<Self> {
        Ok(Self(Arc::new(inspect::consumer(kafka)?)))
    }

    /// The offset after the last record of a partition; `None` if the broker does not answer.
    pub async fn of(&self, topic: &str, partition: i32) -> Option<i64> {
        let consumer = Arc::clone(&self.0);
        let topic = topic.to_owned();
        let ask = move || {
            let answer = consumer.fetch_watermarks(&topic, partition, END_TIMEOUT);
            // What librdkafka says of the connection is of no interest here, but must not pile up.
            while consumer.poll(Duration::ZERO).is_some() {}
            answer
        };
        // Who gives up takes back the question, if it still waits for a thread.
        let asked = AbortOnDropHandle::new(tokio::task::spawn_blocking(ask));
        let answer = asked.await.ok()?;
        answer.ok().map(|(_, end)| end)
    }
}
