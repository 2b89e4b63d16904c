//! Many single appends in few batches: see [`Gathering`]. Each batch wakes its one task, which then wakes those who wait.

use std::sync::Arc;

use schemas::{event::Event, position::Position};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    append::Outcome,
    gathering::{Gathering, Sender},
    turns::Turn,
    writer::{AppendError, EventWriter},
};

type Answer<R> = Result<Option<R>, AppendError>;
/// An event and who waits for its answer.
type Waiting<E, R> = (E, oneshot::Sender<Answer<R>>);

/// Collects events of one topic without keys, and appends them in batches. Everybody of a batch gets the same receipt,
/// which is made once.
pub struct Lane<E, R = Position> {
    writer: Arc<EventWriter<E>>,
    receipt: fn(&Position) -> R,
    next: Gathering<Waiting<E, R>>,
}

impl<E: Event, R: Clone + Send + 'static> Lane<E, R> {
    /// A lane to the writer's topic; [`Self::run`] has to run beside it. `receipt` tells the place of a batch's last
    /// record.
    pub fn new(writer: Arc<EventWriter<E>>, receipt: fn(&Position) -> R) -> Self {
        Self {
            writer,
            receipt,
            next: Gathering::default(),
        }
    }

    /// Appends `event` with whatever else is waiting. Gives the receipt of its batch; `None` if the broker has it but did
    /// not tell where.
    ///
    /// # Errors
    /// As [`EventWriter::append`]. An event that cannot be written fails alone; where some records of a batch failed
    /// on their way and others did not, all of it is `Unknown`.
    pub async fn append(&self, event: E) -> Answer<R> {
        // Here, and not with its batch, so that it fails alone.
        self.writer.check(&event)?;
        let (answer, answered) = oneshot::channel();
        self.next.push((event, answer))?;
        // Nobody drops an answer but a runtime that ends with the batch on its way.
        let lost = |_| AppendError::Unknown("who appended it has gone".to_owned());
        answered.await.map_err(lost)?
    }

    /// How many wait for their batch to be sent.
    pub fn waiters(&self) -> usize {
        self.next.len()
    }

    /// Sends batches until `stop`, and then what is waiting; from then on the lane is closed. Everything that was
    /// accepted is answered before this returns.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.next.run(&*self, &stop).await;
    }

    /// Tells everybody what became of their event: those at the end may have been refused while the others were taken.
    fn answer(&self, mut taken: Vec<oneshot::Sender<Answer<R>>>, mut outcome: Outcome) {
        let refused = taken.split_off(taken.len() - outcome.refused);
        if let Some(refusal) = outcome.refusal.take() {
            tell(refused, &Err(AppendError::of_refusal(&refusal)));
        }
        let position = self.writer.position(outcome);
        tell(
            taken,
            &position.map(|position| position.as_ref().map(self.receipt)),
        );
    }
}

impl<E: Event, R: Clone + Send + 'static> Sender<Waiting<E, R>> for Lane<E, R> {
    async fn turn(&self) -> Option<Turn> {
        Some(self.writer.turn().await)
    }

    async fn send(&self, batch: Vec<Waiting<E, R>>, turn: Option<Turn>) {
        let (events, waiters): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let outcome = match self.writer.send_checked(&events) {
            Ok(pending) => pending.outcome().await,
            Err(refusal) => return tell(waiters, &Err(refusal)),
        };
        drop(turn);
        self.answer(waiters, outcome);
    }

    fn refuse(&self, left: Vec<Waiting<E, R>>, why: &AppendError) {
        let waiters = left.into_iter().map(|(_, waiter)| waiter);
        tell(waiters.collect(), &Err(why.clone()));
    }
}

fn tell<R: Clone>(waiters: Vec<oneshot::Sender<Answer<R>>>, answer: &Answer<R>) {
    for waiter in waiters {
        // Who has gone does not need the answer.
        let _ = waiter.send(answer.clone());
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        future::Future,
        pin::Pin,
        task::{Context, Poll, Waker},
        time::Duration,
    };

    use schemas::clicks::BannerClicked;

    use super::*;
    use crate::{
        append::{
            Appender, Profile,
            mock::{LONG, MockBroker},
        },
        gathering::WAITING_MAX,
        metrics::AppendMetrics,
    };

    const PATIENT: &str = "message.timeout.ms=60000";
    const SCHEMA: u32 = 7;

    fn writer(broker: &MockBroker, properties: &[&str]) -> Arc<EventWriter<BannerClicked>> {
        let kafka = broker.kafka(properties);
        let appender = Appender::new(&kafka, Profile::Interactive, AppendMetrics::default());
        let appender = Arc::new(appender.unwrap());
        Arc::new(EventWriter::with_schema(appender, "", SCHEMA))
    }

    fn click(banner_id: i64) -> BannerClicked {
        BannerClicked {
            banner_id,
            received_at: 1,
        }
    }

    type Appending<'l> = Pin<Box<dyn Future<Output = Answer<Position>> + 'l>>;

    /// Appends as far as it goes without waiting.
    fn begin(
        lane: &Lane<BannerClicked>,
        event: BannerClicked,
    ) -> Result<Appending<'_>, Answer<Position>> {
        let mut appending: Appending<'_> = Box::pin(lane.append(event));
        let mut context = Context::from_waker(Waker::noop());
        match appending.as_mut().poll(&mut context) {
            Poll::Ready(answer) => Err(answer),
            Poll::Pending => Ok(appending),
        }
    }

    /// Runs the lane until what it has accepted is answered.
    async fn run(lane: &Arc<Lane<BannerClicked>>) {
        let stop = CancellationToken::new();
        stop.cancel();
        Arc::clone(lane).run(stop).await;
    }

    /// The banners of all records on the log, by the event's first field: a zigzag varint after the frame.
    fn banners(broker: &MockBroker) -> Vec<i64> {
        let mut banners: Vec<_> = broker.records().iter().map(|r| first_field(&r.2)).collect();
        banners.sort_unstable();
        banners
    }

    fn first_field(value: &[u8]) -> i64 {
        let mut number = 0_i64;
        for (index, byte) in value[5..].iter().enumerate() {
            number |= i64::from(byte & 0x7f) << (7 * index);
            if byte & 0x80 == 0 {
                break;
            }
        }
        number >> 1
    }

    #[tokio::test]
    async fn a_full_lane_refuses_at_once_and_answers_all_it_accepted() {
        let broker = MockBroker::start("clicks", 8);
        let lane = Arc::new(Lane::new(writer(&broker, &[PATIENT]), Position::clone));
        let accepted: Vec<_> = (0..WAITING_MAX as i64)
            .map(|banner| begin(&lane, click(banner)).expect("accepted"))
            .collect();
        let refused = begin(&lane, click(0)).err().expect("refused at once");
        assert!(
            matches!(refused, Err(AppendError::Overloaded)),
            "{refused:?}"
        );
        assert_eq!(lane.waiters(), WAITING_MAX);
        run(&lane).await;
        assert_eq!(lane.waiters(), 0);
        for answer in accepted {
            let position = answer.await.unwrap().expect("the broker told");
            // One batch, one partition, the place of its last record.
            assert_eq!(position.offset, WAITING_MAX as i64 - 1);
        }
        assert!(banners(&broker).into_iter().eq(0..WAITING_MAX as i64));
    }

    #[tokio::test]
    async fn shutting_down_loses_nothing_that_was_accepted() {
        let broker = MockBroker::start("clicks", 8);
        let lane = Arc::new(Lane::new(writer(&broker, &[PATIENT]), Position::clone));
        let stop = CancellationToken::new();
        let running = tokio::spawn(Arc::clone(&lane).run(stop.clone()));
        for _ in 0..8 {
            broker.acknowledge_after(Duration::from_millis(20));
        }
        let mut appends = tokio::task::JoinSet::new();
        for banner in 0.. {
            let lane = Arc::clone(&lane);
            let append = async move { (banner, lane.append(click(banner)).await) };
            appends.spawn(append);
            if banner == 500 {
                stop.cancel();
            }
            if running.is_finished() || banner == 5_000 {
                break;
            }
            tokio::task::yield_now().await;
        }
        running.await.unwrap();
        let mut appended = BTreeSet::new();
        while let Some(joined) = appends.join_next().await {
            match joined.unwrap() {
                (banner, Ok(Some(_))) => assert!(appended.insert(banner)),
                (banner, Err(AppendError::NotWritten(_))) => assert!(banner > 500),
                (banner, other) => panic!("{banner}: {other:?}"),
            }
        }
        assert!(appended.len() > 500, "{}", appended.len());
        assert!(banners(&broker).into_iter().eq(appended));
        let late = begin(&lane, click(0)).err().expect("refused at once");
        assert!(matches!(late, Err(AppendError::NotWritten(_))), "{late:?}");
    }

    #[tokio::test]
    async fn what_waits_when_the_lane_is_told_to_stop_is_sent() {
        /// Whether it sees first that something waits or that it has to stop is chance.
        const TIMES: i64 = 40;
        let broker = MockBroker::start("clicks", 8);
        let writer = writer(&broker, &[PATIENT]);
        for banner in 0..TIMES {
            let lane = Arc::new(Lane::new(Arc::clone(&writer), Position::clone));
            let waiting = begin(&lane, click(banner)).expect("accepted");
            run(&lane).await;
            assert!(waiting.await.is_ok(), "click {banner}");
        }
        assert!(banners(&broker).into_iter().eq(0..TIMES));
    }

    #[tokio::test]
    async fn what_comes_while_a_batch_is_on_its_way_leaves_together_with_who_comes_again() {
        const CALLERS: i64 = 40;
        const ROUNDS: i64 = 50;
        let broker = MockBroker::start("clicks", 8);
        let lane = Arc::new(Lane::new(writer(&broker, &[PATIENT]), Position::clone));
        let stop = CancellationToken::new();
        let running = tokio::spawn(Arc::clone(&lane).run(stop.clone()));
        let mut callers = tokio::task::JoinSet::new();
        for caller in 0..CALLERS {
            let lane = Arc::clone(&lane);
            callers.spawn(async move {
                let mut batches = Vec::new();
                for round in 0..ROUNDS {
                    let position = lane.append(click(caller * ROUNDS + round)).await;
                    let Position {
                        partition, offset, ..
                    } = position.unwrap().unwrap();
                    batches.push((partition, offset));
                }
                batches
            });
        }
        let batches: BTreeSet<_> = callers.join_all().await.into_iter().flatten().collect();
        stop.cancel();
        running.await.unwrap();
        assert_eq!(banners(&broker).len() as i64, CALLERS * ROUNDS);
        // Taking turns, two halves would need twice as many.
        assert!((batches.len() as i64) < ROUNDS * 3 / 2, "{}", batches.len());
    }

    #[tokio::test]
    async fn what_comes_before_its_turn_goes_with_the_batch() {
        let broker = MockBroker::start("clicks", 8);
        let writer = writer(&broker, &[PATIENT]);
        let lane = Arc::new(Lane::new(Arc::clone(&writer), Position::clone));
        let turn_of_another = writer.turn().await;
        let stop = CancellationToken::new();
        let mut running = Box::pin(Arc::clone(&lane).run(stop.clone()));
        let mut context = Context::from_waker(Waker::noop());
        let first = begin(&lane, click(1)).expect("accepted");
        assert!(running.as_mut().poll(&mut context).is_pending());
        let second = begin(&lane, click(2)).expect("accepted");
        assert_eq!(lane.waiters(), 2);
        drop(turn_of_another);
        stop.cancel();
        running.await;
        assert_eq!(first.await.unwrap(), second.await.unwrap());
        assert_eq!(banners(&broker), [1, 2]);
    }

    #[tokio::test]
    async fn who_waits_in_a_lane_that_is_aborted_was_not_written() {
        let broker = MockBroker::start("clicks", 8);
        let lane = Arc::new(Lane::new(writer(&broker, &[]), Position::clone));
        let mut running = Box::pin(Arc::clone(&lane).run(CancellationToken::new()));
        let mut context = Context::from_waker(Waker::noop());
        assert!(running.as_mut().poll(&mut context).is_pending());
        let waiting = begin(&lane, click(1)).expect("accepted");
        drop(running);
        let answer = waiting.await;
        assert!(
            matches!(answer, Err(AppendError::NotWritten(_))),
            "{answer:?}"
        );
        assert!(banners(&broker).is_empty());
    }

    #[tokio::test]
    async fn an_invalid_event_fails_alone() {
        let broker = MockBroker::start("clicks", 8);
        let lane = Arc::new(Lane::new(writer(&broker, &[PATIENT]), Position::clone));
        let first = begin(&lane, click(1)).expect("accepted");
        let refused = begin(&lane, click(-1)).err().expect("refused at once");
        assert!(
            matches!(refused, Err(AppendError::Invalid(_))),
            "{refused:?}"
        );
        let second = begin(&lane, click(2)).expect("accepted");
        run(&lane).await;
        assert_eq!(first.await.unwrap(), second.await.unwrap());
        assert_eq!(banners(&broker), [1, 2]);
    }

    #[tokio::test]
    async fn without_a_schema_nothing_is_accepted() {
        let broker = MockBroker::start("clicks", 8);
        let kafka = broker.kafka(&[]);
        let appender = Appender::new(&kafka, Profile::Interactive, AppendMetrics::default());
        let writer = EventWriter::new(Arc::new(appender.unwrap()), "");
        let lane = Lane::new(Arc::new(writer), Position::clone);
        let refused = begin(&lane, click(1)).err().expect("refused at once");
        assert!(
            matches!(refused, Err(AppendError::NotRegistered(_))),
            "{refused:?}"
        );
    }

    #[tokio::test]
    async fn where_the_queue_takes_half_a_batch_each_is_told_the_truth() {
        let broker = MockBroker::start("clicks", 8);
        broker.down();
        let properties = [PATIENT, "queue.buffering.max.messages=100"];
        let lane = Arc::new(Lane::new(writer(&broker, &properties), Position::clone));
        let appends: Vec<_> = (0..150)
            .map(|banner| begin(&lane, click(banner)).expect("accepted"))
            .collect();
        let running = tokio::spawn({
            let lane = Arc::clone(&lane);
            async move { run(&lane).await }
        });
        broker.up();
        running.await.unwrap();
        for (banner, answer) in appends.into_iter().enumerate() {
            match answer.await {
                Ok(Some(position)) => assert!(banner < 100 && position.offset == 99),
                Err(AppendError::Overloaded) => assert!(banner >= 100, "{banner}"),
                other => panic!("{banner}: {other:?}"),
            }
        }
        assert!(banners(&broker).into_iter().eq(0..100));
    }

    #[tokio::test]
    async fn a_lost_acknowledgement_is_unknown_to_the_whole_batch() {
        let broker = MockBroker::start("clicks", 8);
        let properties = ["message.timeout.ms=1500", "request.timeout.ms=1000"];
        let writer = writer(&broker, &properties);
        writer
            .append(&click(0), &crate::writer::Context::default())
            .await
            .unwrap();
        // However many requests these records are spread over.
        for _ in 0..40 {
            broker.acknowledge_after(LONG);
        }
        let lane = Arc::new(Lane::new(writer, Position::clone));
        let appends: Vec<_> = (1..20)
            .map(|banner| begin(&lane, click(banner)).expect("accepted"))
            .collect();
        run(&lane).await;
        for answer in appends {
            let answer = answer.await;
            assert!(matches!(answer, Err(AppendError::Unknown(_))), "{answer:?}");
        }
    }
}
