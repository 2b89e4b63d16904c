//! Many single appends in few batches: what arrives while earlier batches are on their way goes out together. Each
//! batch wakes this one task, which then wakes those who wait; batches grow with the load instead of the queue.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use schemas::{event::Event, position::Position};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    append::Outcome,
    writer::{AppendError, EventWriter, not_written},
};

/// Batches on their way at once.
const BATCHES_MAX: usize = 3;
/// Events that wait for their batch; more are refused at once.
const WAITING_MAX: usize = 20_000;

type Answer = Result<Option<Position>, AppendError>;
/// An event and who waits for its answer.
type Waiting<E> = (E, oneshot::Sender<Answer>);

/// Collects events of one topic without keys, and appends them in batches.
pub struct Lane<E> {
    writer: Arc<EventWriter<E>>,
    /// `None` once the lane is closed.
    waiting: Mutex<Option<Vec<Waiting<E>>>>,
    arrived: Notify,
}

impl<E: Event> Lane<E> {
    /// A lane to the writer's topic; [`Self::run`] has to run beside it.
    pub fn new(writer: Arc<EventWriter<E>>) -> Self {
        Self {
            writer,
            waiting: Mutex::new(Some(Vec::new())),
            arrived: Notify::new(),
        }
    }

    /// Appends `event` with whatever else is waiting. Gives the position of its batch's last record.
    ///
    /// # Errors
    /// As [`EventWriter::append`]. An event that cannot be written fails alone; where some records of a batch failed
    /// on their way and others did not, all of it is `Unknown`.
    pub async fn append(&self, event: E) -> Answer {
        self.writer.check(&event)?;
        let (answer, answered) = oneshot::channel();
        match &mut *self.waiting() {
            None => return Err(stopping()),
            Some(waiting) if waiting.len() >= WAITING_MAX => return Err(AppendError::Overloaded),
            Some(waiting) => waiting.push((event, answer)),
        }
        self.arrived.notify_one();
        // Nobody drops an answer but a runtime that ends with the batch on its way.
        let lost = |_| AppendError::Unknown("who appended it has gone".to_owned());
        answered.await.map_err(lost)?
    }

    /// Sends batches until `stop`, and then what is waiting; from then on the lane is closed. Everything that was
    /// accepted is answered before this returns.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let closing = Closing(&self);
        let under_way = Arc::new(Semaphore::new(BATCHES_MAX));
        loop {
            let stopping = tokio::select! {
                () = self.arrived.notified() => false,
                () = stop.cancelled() => true,
            };
            let permit = Arc::clone(&under_way).acquire_owned().await;
            let batch = match &mut *self.waiting() {
                waiting if stopping => waiting.take().unwrap_or_default(),
                waiting => waiting.as_mut().map(std::mem::take).unwrap_or_default(),
            };
            if !batch.is_empty() {
                let lane = Arc::clone(&self);
                tokio::spawn(async move {
                    lane.send(batch).await;
                    drop(permit);
                });
            }
            if stopping {
                break;
            }
        }
        drop(closing);
        let all = u32::try_from(BATCHES_MAX).expect("a small number");
        let _ = under_way.acquire_many(all).await;
    }

    async fn send(&self, batch: Vec<Waiting<E>>) {
        let (events, waiters): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let outcome = match self.writer.send(&events, None) {
            Ok(pending) => pending.outcome().await,
            Err(refusal) => return tell(waiters, &Err(refusal)),
        };
        self.answer(waiters, outcome);
    }

    /// Tells everybody what became of their event: those at the end may have been refused while the others were taken.
    fn answer(&self, mut taken: Vec<oneshot::Sender<Answer>>, mut outcome: Outcome) {
        let refused = taken.split_off(taken.len() - outcome.refused);
        if let Some(refusal) = outcome.refusal.take() {
            tell(refused, &Err(not_written(&refusal)));
        }
        tell(taken, &self.writer.position(outcome));
    }

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<Waiting<E>>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn tell(waiters: Vec<oneshot::Sender<Answer>>, answer: &Answer) {
    for waiter in waiters {
        // Who has gone does not need the answer.
        let _ = waiter.send(answer.clone());
    }
}

fn stopping() -> AppendError {
    AppendError::NotWritten("the server is stopping".to_owned())
}

/// Closes the lane however its task ends: what still waits was never sent.
struct Closing<'l, E: Event>(&'l Lane<E>);

impl<E: Event> Drop for Closing<'_, E> {
    fn drop(&mut self) {
        let left = self.0.waiting().take().unwrap_or_default();
        tell(
            left.into_iter().map(|(_, waiter)| waiter).collect(),
            &Err(stopping()),
        );
    }
}
