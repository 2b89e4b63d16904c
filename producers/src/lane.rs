//! Many single appends in few batches: what arrives while earlier batches are on their way goes out together. Each
//! batch wakes this one task, which then wakes those who wait; batches grow with the load instead of the queue.

use std::sync::{Arc, Mutex, PoisonError};

use schemas::{event::Event, position::Position};
use tokio::sync::{Notify, Semaphore, oneshot};
use tokio_util::sync::CancellationToken;

use crate::writer::{AppendError, EventWriter};

/// Batches on their way at once.
const BATCHES_MAX: usize = 3;
/// Events that wait for their batch; more are refused at once.
const WAITING_MAX: usize = 20_000;

type Answer = Result<Option<Position>, AppendError>;

/// Collects events of one topic without keys, and appends them in batches.
pub struct Lane<E> {
    writer: Arc<EventWriter<E>>,
    waiting: Mutex<Vec<(E, oneshot::Sender<Answer>)>>,
    arrived: Notify,
}

impl<E: Event> Lane<E> {
    /// A lane to the writer's topic; [`Self::run`] has to run beside it.
    pub fn new(writer: Arc<EventWriter<E>>) -> Self {
        Self {
            writer,
            waiting: Mutex::default(),
            arrived: Notify::new(),
        }
    }

    /// Appends `event` with whatever else is waiting. Gives the position of its batch's last record.
    ///
    /// # Errors
    /// As [`EventWriter::append`]; one failed record fails its whole batch.
    pub async fn append(&self, event: E) -> Answer {
        let (answer, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= WAITING_MAX {
                return Err(AppendError::Overloaded);
            }
            waiting.push((event, answer));
        }
        self.arrived.notify_one();
        let stopped = || AppendError::NotWritten("the server is stopping".to_owned());
        answered.await.unwrap_or_else(|_| Err(stopped()))
    }

    /// Sends batches until `stop`, and then what is waiting.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let under_way = Arc::new(Semaphore::new(BATCHES_MAX));
        loop {
            let stopping = tokio::select! {
                () = self.arrived.notified() => false,
                () = stop.cancelled() => true,
            };
            let permit = Arc::clone(&under_way).acquire_owned().await;
            let batch =
                std::mem::take(&mut *self.waiting.lock().unwrap_or_else(PoisonError::into_inner));
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
        // Everything that was accepted is answered before this returns.
        let all = u32::try_from(BATCHES_MAX).expect("a small number");
        let _ = under_way.acquire_many(all).await;
    }

    async fn send(&self, batch: Vec<(E, oneshot::Sender<Answer>)>) {
        let (events, waiters): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        let answer = match self.writer.send(&events, None) {
            Ok(pending) => self.writer.position(pending.outcome().await),
            Err(refusal) => Err(refusal),
        };
        for waiter in waiters {
            // Who has gone does not need the answer.
            let _ = waiter.send(answer.clone());
        }
    }
}
