//! librdkafka's own mock broker, for what a real one does too rarely: it is down, or acknowledges too late.
#![expect(
    unsafe_code,
    reason = "rdkafka's wrapper lacks late answers to single requests; the cluster lives as long as its client"
)]

use std::{ffi::CString, time::Duration};

use rdkafka::{
    ClientConfig, Message, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    producer::{BaseProducer, Producer},
};
use rdkafka_sys::rd_kafka_resp_err_t::{RD_KAFKA_RESP_ERR__TRANSPORT, RD_KAFKA_RESP_ERR_NO_ERROR};

use crate::kafka::Kafka;

/// Long enough that it never decides a test.
pub(crate) const LONG: Duration = Duration::from_secs(60);
const ALL_BROKERS: i32 = -1;
const PRODUCE: i16 = 0;

/// A broker within the process, with one topic.
pub(crate) struct MockBroker {
    cluster: *mut rdkafka_sys::rd_kafka_mock_cluster_t,
    topic: String,
    partitions: i32,
    /// Carries the cluster.
    _client: BaseProducer,
}

impl MockBroker {
    pub(crate) fn start(topic: &str, partitions: i32) -> Self {
        let client: BaseProducer = ClientConfig::new().create().expect("a client");
        let name = CString::new(topic).expect("a name");
        let cluster =
            unsafe { rdkafka_sys::rd_kafka_mock_cluster_new(client.client().native_ptr(), 1) };
        assert!(!cluster.is_null());
        let failure = unsafe {
            rdkafka_sys::rd_kafka_mock_topic_create(cluster, name.as_ptr(), partitions, 1)
        };
        assert_eq!(failure, RD_KAFKA_RESP_ERR_NO_ERROR);
        Self {
            cluster,
            topic: topic.to_owned(),
            partitions,
            _client: client,
        }
    }

    /// Its address, and settings of librdkafka beside.
    pub(crate) fn kafka(&self, properties: &[&str]) -> Kafka {
        let address = unsafe {
            std::ffi::CStr::from_ptr(rdkafka_sys::rd_kafka_mock_cluster_bootstraps(self.cluster))
        };
        let properties = properties.iter().map(|text| text.parse());
        Kafka {
            brokers: address.to_str().expect("an address").to_owned(),
            prefix: String::new(),
            properties: properties.collect::<Result<_, _>>().expect("settings"),
        }
    }

    pub(crate) fn down(&self) {
        unsafe { rdkafka_sys::rd_kafka_mock_broker_set_down(self.cluster, ALL_BROKERS) };
    }

    pub(crate) fn up(&self) {
        unsafe { rdkafka_sys::rd_kafka_mock_broker_set_up(self.cluster, ALL_BROKERS) };
    }

    /// Writes what the next produce request brings, but acknowledges it this late.
    pub(crate) fn acknowledge_after(&self, delay: Duration) {
        let ms = i32::try_from(delay.as_millis()).expect("a short time");
        unsafe {
            rdkafka_sys::rd_kafka_mock_broker_push_request_error_rtts(
                self.cluster,
                1,
                PRODUCE,
                1_usize,
                RD_KAFKA_RESP_ERR_NO_ERROR,
                ms,
            )
        };
    }

    /// Breaks the connection instead of answering the next produce requests, and writes nothing.
    pub(crate) fn break_connections(&self, times: usize) {
        let errors = vec![RD_KAFKA_RESP_ERR__TRANSPORT; times];
        unsafe {
            rdkafka_sys::rd_kafka_mock_push_request_errors_array(
                self.cluster,
                PRODUCE,
                times,
                errors.as_ptr(),
            );
        }
    }

    fn consumer(&self) -> BaseConsumer {
        let mut config = self.kafka(&[]).client();
        config.set("group.id", "readers");
        config.create().expect("a consumer")
    }

    /// How many records a partition holds.
    pub(crate) fn end(&self, partition: i32) -> i64 {
        let (_, end) = self
            .consumer()
            .fetch_watermarks(&self.topic, partition, LONG)
            .expect("the broker answers");
        end
    }

    /// The values of all records: partition, offset, value, sorted.
    pub(crate) fn records(&self) -> Vec<(i32, i64, Vec<u8>)> {
        let consumer = self.consumer();
        let mut list = TopicPartitionList::new();
        let mut left = 0;
        for partition in 0..self.partitions {
            let start = Offset::Offset(0);
            list.add_partition_offset(&self.topic, partition, start)
                .expect("an offset");
            left += self.end(partition);
        }
        consumer.assign(&list).expect("an assignment");
        let mut records = Vec::new();
        while left > 0 {
            let polled = consumer.poll(LONG).expect("a record in time");
            let record = polled.expect("a record");
            let value = record.payload().expect("a value").to_vec();
            records.push((record.partition(), record.offset(), value));
            left -= 1;
        }
        records.sort();
        records
    }
}

impl Drop for MockBroker {
    fn drop(&mut self) {
        unsafe { rdkafka_sys::rd_kafka_mock_cluster_destroy(self.cluster) };
    }
}
