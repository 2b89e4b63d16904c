//! Which partitions a consumer reads, and from where: answers the rebalances of its group.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use rdkafka::{
    ClientContext, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer as _, ConsumerContext},
    error::KafkaError,
    types::RDKafkaRespErr,
};
use tracing::{debug, info};

use super::Start;

/// Answers rebalances, on the reading thread, inside its polls.
pub(super) struct Context {
    pub(super) topic: String,
    pub(super) start: Arc<Start>,
    pub(super) epoch: Arc<AtomicU64>,
    pub(super) state: Mutex<Assignment>,
}

#[derive(Default)]
pub(super) struct Assignment {
    pub(super) epoch: u64,
    /// Where each partition goes on.
    pub(super) next: Vec<(i32, i64)>,
    /// Assigned, and the owner was not told yet.
    pub(super) is_new: bool,
    pub(super) failure: Option<String>,
}

impl Context {
    pub(super) fn state(&self) -> MutexGuard<'_, Assignment> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Assigns these partitions from where the owner says.
    pub(super) fn assign(
        &self,
        consumer: &BaseConsumer<Self>,
        partitions: &[i32],
    ) -> Result<(), String> {
        let next = (self.start)(partitions)?;
        let mut list = TopicPartitionList::with_capacity(next.len());
        for &(partition, offset) in &next {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(offset))
                .map_err(|error| error.to_string())?;
        }
        self.adopt(next);
        self.state().is_new = true;
        consumer.assign(&list).map_err(|error| error.to_string())
    }

    fn adopt(&self, next: Vec<(i32, i64)>) {
        let mut state = self.state();
        state.epoch = self.epoch.fetch_add(1, Ordering::AcqRel) + 1;
        state.next = next;
    }
}

impl ClientContext for Context {
    fn error(&self, failure: KafkaError, reason: &str) {
        debug!(topic = self.topic, error = %failure, reason, "the consumer has trouble with the broker");
    }
}

impl ConsumerContext for Context {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        event: RDKafkaRespErr,
        list: &mut TopicPartitionList,
    ) {
        let partitions: Vec<i32> = list
            .elements()
            .iter()
            .map(|place| place.partition())
            .collect();
        let outcome = match event {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
                info!(topic = self.topic, ?partitions, "was assigned partitions");
                self.assign(consumer, &partitions)
            }
            _ => {
                info!(topic = self.topic, ?partitions, "gives partitions back");
                self.adopt(Vec::new());
                // So that the owner knows; there is nothing to start from.
                let _ = (self.start)(&[]);
                consumer.unassign().map_err(|error| error.to_string())
            }
        };
        if let Err(failure) = outcome {
            self.state().failure = Some(failure);
        }
    }
}
