//! What tells a log from another one of the same name: the id that its cluster got when it was made, and the one that the
//! topic got when it was created (KIP-516), for which rdkafka has no question.

use std::{
    ffi::{CStr, CString, c_char},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka_sys as sys;

use crate::admin::FIRST_ANSWER;

/// How long the cluster may take to describe its topics; on a busy machine it takes seconds.
const TOLD_WITHIN: Duration = Duration::from_secs(10);

/// Which log this is. Either id is empty where the cluster does not tell it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogId {
    /// The cluster's.
    pub cluster: String,
    /// The topic's, as Kafka's own tools print it.
    pub topic: String,
}

impl LogId {
    /// Whether both may be of the same log: what one of them does not know does not tell them apart.
    pub fn may_be(&self, other: &Self) -> bool {
        let agree = |one: &str, other: &str| one.is_empty() || other.is_empty() || one == other;
        agree(&self.cluster, &other.cluster) && agree(&self.topic, &other.topic)
    }
}

/// The ids of these topics, given by their full names, in their order. Blocks, for a bounded time. The client has to be a
/// new one: what librdkafka has once learned of a cluster's id, it never asks again.
///
/// # Errors
/// If the cluster does not answer, or has no such topic.
pub fn log_ids(consumer: &BaseConsumer, topics: &[String]) -> Result<Vec<LogId>> {
    let client = consumer.client();
    let topics = topic_ids(client.native_ptr(), topics)?;
    let cluster = client.fetch_cluster_id(FIRST_ANSWER).unwrap_or_default();
    let of = |topic| LogId {
        cluster: cluster.clone(),
        topic,
    };
    Ok(topics.into_iter().map(of).collect())
}

fn topic_ids(client: *mut sys::RDKafka, topics: &[String]) -> Result<Vec<String>> {
    let names: Vec<CString> = topics
        .iter()
        .map(|topic| CString::new(topic.as_str()))
        .collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let answer = Answer::to(client, |queue| {
        #[expect(
            unsafe_code,
            reason = "librdkafka copies the names; client and queue outlive the call"
        )]
        unsafe {
            let asked =
                sys::rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
            sys::rd_kafka_DescribeTopics(client, asked, std::ptr::null(), queue);
            sys::rd_kafka_TopicCollection_destroy(asked);
        }
    })?;
    let mut count = 0;
    #[expect(
        unsafe_code,
        reason = "the topics belong to the event, which lives until the end of the function"
    )]
    let described = unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(answer.0);
        let first = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        match first.is_null() {
            true => &[][..],
            false => std::slice::from_raw_parts(first, count),
        }
    };
    let described: Vec<(String, Result<String>)> =
        described.iter().map(|topic| topic_id(*topic)).collect();
    let mut ids = Vec::with_capacity(topics.len());
    for topic in topics {
        let Some((_, id)) = described.iter().find(|(name, _)| name == topic) else {
            bail!("the cluster does not describe topic {topic}");
        };
        ids.push(match id {
            Ok(id) => id.clone(),
            Err(error) => bail!("topic {topic}: {error}"),
        });
    }
    Ok(ids)
}

/// Name and id of a topic that was described, or why it could not be.
fn topic_id(topic: *const sys::rd_kafka_TopicDescription_t) -> (String, Result<String>) {
    #[expect(
        unsafe_code,
        reason = "called with what librdkafka has just given; nothing is kept"
    )]
    unsafe {
        let name = text(sys::rd_kafka_TopicDescription_name(topic));
        let error = sys::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            return (name, Err(anyhow!(text(sys::rd_kafka_error_string(error)))));
        }
        let id = sys::rd_kafka_TopicDescription_topic_id(topic);
        let is_none = id.is_null()
            || sys::rd_kafka_Uuid_most_significant_bits(id) == 0
                && sys::rd_kafka_Uuid_least_significant_bits(id) == 0;
        match is_none {
            true => (name, Ok(String::new())),
            false => (name, Ok(text(sys::rd_kafka_Uuid_base64str(id)))),
        }
    }
}

/// The answer to a question about topics.
struct Answer(*mut sys::rd_kafka_event_t);

impl Answer {
    /// Asks, and waits for the answer.
    fn to(client: *mut sys::RDKafka, ask: impl FnOnce(*mut sys::rd_kafka_queue_t)) -> Result<Self> {
        let limit = i32::try_from(TOLD_WITHIN.as_millis())?;
        #[expect(
            unsafe_code,
            reason = "the queue lives until its only event is taken; what comes later is dropped with it"
        )]
        let event = unsafe {
            let queue = sys::rd_kafka_queue_new(client);
            ask(queue);
            let event = sys::rd_kafka_queue_poll(queue, limit);
            sys::rd_kafka_queue_destroy(queue);
            event
        };
        if event.is_null() {
            bail!("the cluster does not describe its topics: no answer within {TOLD_WITHIN:?}");
        }
        let answer = Self(event);
        answer.refusal().map_or(Ok(answer), |refusal| {
            Err(refusal).context("the cluster does not describe its topics")
        })
    }

    fn refusal(&self) -> Option<anyhow::Error> {
        #[expect(unsafe_code, reason = "the event lives as long as this")]
        unsafe {
            let error = sys::rd_kafka_event_error(self.0);
            let is_well = error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
            (!is_well).then(|| anyhow!(text(sys::rd_kafka_event_error_string(self.0))))
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        #[expect(unsafe_code, reason = "it is ours, and nothing of it is kept")]
        unsafe {
            sys::rd_kafka_event_destroy(self.0);
        }
    }
}

/// A text of librdkafka's; empty if there is none.
#[expect(unsafe_code, reason = "librdkafka ends its texts with a 0")]
unsafe fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: whoever calls this has it from librdkafka, and it is copied at once.
    unsafe { CStr::from_ptr(pointer) }
        .to_string_lossy()
        .into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(cluster: &str, topic: &str) -> LogId {
        LogId {
            cluster: cluster.to_owned(),
            topic: topic.to_owned(),
        }
    }

    #[test]
    fn what_is_not_known_does_not_tell_logs_apart() {
        assert!(id("c", "t").may_be(&id("c", "t")));
        assert!(!id("c", "t").may_be(&id("c", "other")));
        assert!(!id("c", "t").may_be(&id("other", "t")));
        assert!(id("c", "").may_be(&id("c", "t")));
        assert!(id("", "").may_be(&id("c", "t")));
    }
}
