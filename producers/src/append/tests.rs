//! What becomes of records when the broker does not play along.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use super::{
    mock::{LONG, MockBroker},
    *,
};

const TOPIC: &str = "appended";
/// No timeout of the producer's own decides a test.
const PATIENT: &str = "message.timeout.ms=60000";
/// One does, but connecting does not take that long, however busy the machine.
const SOON: &str = "message.timeout.ms=10000";

fn appender(kafka: &Kafka) -> Appender {
    Appender::new(kafka, Profile::Interactive, AppendMetrics::default()).unwrap()
}

fn record(value: &[u8]) -> Outgoing<'_> {
    Outgoing {
        topic: TOPIC,
        partition: 0,
        key: None,
        value,
        headers: None,
    }
}

fn numbered(numbers: std::ops::Range<u32>) -> Vec<[u8; 4]> {
    numbers.map(u32::to_be_bytes).collect()
}

fn append(appender: &Appender, values: &[impl AsRef<[u8]>]) -> Pending {
    appender.append(values.iter().map(|value| record(value.as_ref())))
}

async fn append_one(appender: &Appender, value: &[u8]) -> Outcome {
    append(appender, &[value]).outcome().await
}

/// The outcome, if the batch has it already.
fn at_once(pending: Pending) -> Option<Outcome> {
    let outcome = pin!(pending.outcome());
    match outcome.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(outcome) => Some(outcome),
        Poll::Pending => None,
    }
}

/// Appended, not written, unknown.
fn counts(outcome: &Outcome) -> (usize, usize, usize) {
    (outcome.appended, outcome.not_written, outcome.unknown)
}

/// Waits until the broker has written so many records.
fn until_written(broker: &MockBroker, records: i64) {
    let until = Instant::now() + LONG;
    while broker.end(0) < records {
        assert!(Instant::now() < until, "not written in time");
    }
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_writes_nothing_of_what_it_refused() {
    let broker = MockBroker::start(TOPIC, 1);
    broker.down();
    let appender = appender(&broker.kafka(&[PATIENT, "queue.buffering.max.messages=100"]));
    let half_taken = append(&appender, &numbered(0..150));
    let refused = append(&appender, &numbered(150..160));
    let refused = at_once(refused).expect("refused at once");
    assert_eq!((counts(&refused), refused.refused), ((0, 10, 0), 10));
    let code = refused.refusal.and_then(|why| why.rdkafka_error_code());
    assert_eq!(code, Some(RDKafkaErrorCode::QueueFull));
    assert_eq!(appender.in_flight(), 150);
    broker.up();
    let outcome = half_taken.outcome().await;
    assert_eq!((counts(&outcome), outcome.refused), ((100, 50, 0), 50));
    assert_eq!(outcome.last, [(0, 99)]);
    let written = broker.records().into_iter().map(|(_, _, value)| value);
    assert!(written.eq(numbered(0..100)));
    // There is room again.
    assert_eq!(append_one(&appender, b"next").await.last, [(0, 100)]);
    assert_eq!(appender.producers.metrics.not_written.get(), 60);
}

#[tokio::test]
async fn what_never_left_is_not_written() {
    let broker = MockBroker::start(TOPIC, 1);
    broker.down();
    let appender = appender(&broker.kafka(&["message.timeout.ms=700"]));
    let outcome = append(&appender, &numbered(0..20)).outcome().await;
    assert_eq!(counts(&outcome), (0, 20, 0), "{outcome:?}");
    assert_eq!(outcome.refused, 0);
    broker.up();
    let until = Instant::now() + LONG;
    let after = loop {
        let outcome = append_one(&appender, b"after").await;
        if outcome.appended == 1 {
            break outcome;
        }
        assert_eq!(counts(&outcome), (0, 1, 0), "{outcome:?}");
        assert!(Instant::now() < until, "it does not connect");
    };
    assert_eq!(after.last, [(0, 0)]);
}

#[tokio::test]
async fn a_producer_whose_records_wait_for_too_long_is_given_up_and_none_is_sent_again() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&[SOON]));
    assert_eq!(append_one(&appender, b"before").await.last, [(0, 0)]);
    broker.acknowledge_after(LONG);
    let unanswered = append(&appender, &[b"unanswered"]);
    until_written(&broker, 2);
    assert_eq!(counts(&unanswered.outcome().await), (0, 0, 1));
    // The other one is there before anybody needs it.
    assert_eq!(appender.producers.metrics.replaced.get(), 1);
    assert_eq!(append_one(&appender, b"after").await.last, [(0, 2)]);
    assert_eq!(appender.producers.metrics.replaced.get(), 1);
    assert_eq!(broker.end(0), 3);
}

#[tokio::test]
async fn what_was_written_without_an_acknowledgement_is_unknown() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&[SOON, "request.timeout.ms=2000"]));
    assert_eq!(append_one(&appender, b"before").await.last, [(0, 0)]);
    // However many requests these records are spread over.
    for _ in 0..20 {
        broker.acknowledge_after(LONG);
    }
    let outcome = append(&appender, &numbered(0..5)).outcome().await;
    assert_eq!(counts(&outcome), (0, 0, 5), "{outcome:?}");
    assert!(broker.end(0) >= 6, "it was written all the same");
    assert_eq!(appender.producers.metrics.unknown.get(), 5);
}

#[tokio::test]
async fn a_late_acknowledgement_brings_the_true_position() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&[PATIENT]));
    assert_eq!(append_one(&appender, b"before").await.last, [(0, 0)]);
    broker.acknowledge_after(Duration::from_millis(400));
    let pending = append(&appender, &numbered(0..5));
    assert!(!appender.drained(Instant::now()).await, "not decided yet");
    until_written(&broker, 6);
    assert!(appender.drained(Instant::now() + LONG).await);
    let outcome = at_once(pending).expect("drained means decided");
    assert_eq!((counts(&outcome), outcome.last), ((5, 0, 0), vec![(0, 5)]));
}

#[tokio::test]
async fn broken_connections_are_tried_again_in_order() {
    let broker = MockBroker::start(TOPIC, 1);
    // One request at a time: this broker does not know a repetition by its sequence number, as a real one does, and
    // would write twice what it had taken when the connection broke under the next request.
    let one_by_one = "max.in.flight.requests.per.connection=1";
    let appender = appender(&broker.kafka(&[PATIENT, one_by_one]));
    assert_eq!(append_one(&appender, b"before").await.last, [(0, 0)]);
    broker.break_connections(4);
    let outcome = append(&appender, &numbered(0..100)).outcome().await;
    assert_eq!(counts(&outcome), (100, 0, 0), "{outcome:?}");
    assert_eq!(outcome.last, [(0, 100)]);
    let written = broker.records().into_iter().map(|(_, _, value)| value);
    assert!(written.skip(1).eq(numbered(0..100)));
}

#[tokio::test]
async fn a_dropped_appender_still_answers() {
    let broker = MockBroker::start(TOPIC, 1);
    broker.down();
    let appender = appender(&broker.kafka(&[PATIENT]));
    let pending = append(&appender, &numbered(0..3));
    drop(appender);
    assert_eq!(counts(&pending.outcome().await), (0, 3, 0));
}

#[tokio::test]
async fn a_batch_of_none_is_done() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&[]));
    let none: [&[u8]; 0] = [];
    let outcome = at_once(append(&appender, &none)).expect("nothing to wait for");
    assert_eq!(counts(&outcome), (0, 0, 0));
}

#[test]
fn the_operators_settings_go_through_but_promises_stay() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&["linger.ms=7", "acks=1", "enable.idempotence=false"]));
    // What the client goes by in the end, whether it was set or is a default.
    let config = appender.producers.config.create_native_config().unwrap();
    let set = |key| config.get(key).unwrap();
    assert_eq!(set("linger.ms"), "7");
    // librdkafka's name for all.
    assert_eq!(
        (set("acks"), set("enable.idempotence")),
        ("-1".into(), "true".into())
    );
    // The limit is ours: that of librdkafka is out of reach.
    assert_eq!(appender.producers.patience.0, Duration::from_secs(5));
    assert_eq!(set("message.timeout.ms"), "65000");
}

#[test]
fn how_long_a_record_may_wait_has_two_names_and_is_a_number() {
    let broker = MockBroker::start(TOPIC, 1);
    for setting in ["message.timeout.ms", "delivery.timeout.ms"] {
        let set = |value| broker.kafka(&[&*format!("{setting}={value}")]);
        assert_eq!(
            appender(&set("7000")).producers.patience.0,
            Duration::from_secs(7)
        );
        let new = Appender::new(&set("soon"), Profile::Interactive, AppendMetrics::default());
        let error = new.err().expect("refused").to_string();
        assert!(error.contains(setting) && error.contains("soon"), "{error}");
    }
}

#[test]
fn the_largest_offset_is_unknown_if_one_is() {
    let (batch, _outcome) = Batch::new(4, &Arc::default());
    let mut tally = batch.tally();
    for offset in [7, -1001, 5] {
        tally.append(2, offset, None);
    }
    tally.append(3, 9, None);
    assert_eq!(tally.outcome.last, [(2, -1), (3, 9)]);
}

/// Kills the producer as librdkafka itself does when it can no longer keep its promises.
fn kill(appender: &Appender) {
    use rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
    let lifetime = appender.producers.current.load();
    #[expect(
        unsafe_code,
        reason = "rdkafka does not wrap this call; the client lives as long as the guard"
    )]
    unsafe {
        rdkafka_sys::rd_kafka_test_fatal_error(
            lifetime.producer.client().native_ptr(),
            RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER,
            c"of a test".as_ptr(),
        )
    };
}

#[tokio::test]
async fn a_producer_that_died_for_good_is_replaced() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&[PATIENT]));
    assert_eq!(append_one(&appender, b"0").await.last, [(0, 0)]);
    kill(&appender);
    let first = append_one(&appender, b"1").await;
    // Whoever learns of the death is refused at most once, and truthfully.
    assert_eq!(first.appended + first.refused, 1, "{first:?}");
    let second = append_one(&appender, b"2").await;
    assert_eq!(counts(&second), (1, 0, 0), "{second:?}");
    assert_eq!(appender.producers.metrics.replaced.get(), 1);
    assert!(appender.drained(Instant::now() + LONG).await);
}

#[tokio::test]
async fn what_a_dying_producer_had_not_sent_is_not_written() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&[PATIENT]));
    broker.down();
    let kept_back = append(&appender, &numbered(0..10));
    kill(&appender);
    let next = append_one(&appender, b"next").await;
    assert_eq!(counts(&next), (0, 1, 0), "{next:?}");
    assert_eq!(counts(&kept_back.outcome().await), (0, 10, 0));
    broker.up();
    assert_eq!(append_one(&appender, b"after").await.last, [(0, 0)]);
}

#[tokio::test]
async fn what_a_dying_producer_had_sent_is_unknown_and_waited_for() {
    let broker = MockBroker::start(TOPIC, 1);
    let appender = appender(&broker.kafka(&[PATIENT, "request.timeout.ms=3000"]));
    assert_eq!(append_one(&appender, b"before").await.last, [(0, 0)]);
    broker.acknowledge_after(LONG);
    let sent = append(&appender, &[b"sent"]);
    until_written(&broker, 2);
    kill(&appender);
    let next = append_one(&appender, b"next").await;
    assert_eq!(next.appended + next.refused, 1, "{next:?}");
    assert_eq!(append_one(&appender, b"after").await.appended, 1);
    // The new producer has nothing on its way any more, but the dead one has.
    assert!(appender.drained(Instant::now() + LONG).await);
    let outcome = at_once(sent).expect("drained means decided");
    assert_eq!(counts(&outcome), (0, 0, 1), "{outcome:?}");
}
