//! Batches of what arrives one by one: what comes while a batch is on its way goes out together, so batches grow with
//! the load instead of the queue.
//!
//! What a batch costs, here and at the broker, hardly depends on how much is in it: some dozen times what one event
//! costs. So there is one on its way at a time, and under load those who were just answered may come again before the
//! next one leaves; else they and those who came meanwhile would take turns, in twice as many batches.

use std::{
    future::ready,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::{turns::Turn, writer::AppendError};

/// From so many on, a batch waits for those who were answered by the one before.
const GATHER_MIN: usize = 8;
/// How long it waits for them. The clock of the runtime ticks once a millisecond, so it may be one more.
const GATHER_MAX: Duration = Duration::from_millis(1);
/// How many wait for their batch; more are refused at once.
pub(crate) const WAITING_MAX: usize = 20_000;

/// What waits for the next batch.
pub struct Gathering<T> {
    /// `None` once it is closed.
    next: Mutex<Option<Next<T>>>,
    gathered: Notify,
}

struct Next<T> {
    waiting: Vec<T>,
    /// With how many it may leave; more than there ever are while another batch is on its way.
    enough: usize,
}

/// What is done with a batch.
pub trait Sender<T> {
    /// Waits for its turn, if it takes turns; what comes meanwhile goes with the batch.
    fn turn(&self) -> impl Future<Output = Option<Turn>> + Send {
        ready(None)
    }

    /// Sends it; the next one leaves when this has ended. The turn is over when it is dropped.
    fn send(&self, batch: Vec<T>, turn: Option<Turn>) -> impl Future<Output = ()> + Send;

    /// What is left when it is closed: it was never sent.
    fn refuse(&self, left: Vec<T>, why: &AppendError);
}

impl<T> Default for Gathering<T> {
    fn default() -> Self {
        Self {
            next: Mutex::new(Some(Next {
                waiting: Vec::new(),
                enough: usize::MAX,
            })),
            gathered: Notify::new(),
        }
    }
}

impl<T> Gathering<T> {
    /// Adds to the next batch; [`Self::run`] has to run beside it.
    ///
    /// # Errors
    /// If too much waits, or it is closed: it will not be sent.
    pub fn push(&self, item: T) -> Result<(), AppendError> {
        let may_leave = match &mut *self.next() {
            None => return Err(stopping()),
            Some(Next { waiting, .. }) if waiting.len() >= WAITING_MAX => {
                return Err(AppendError::Overloaded);
            }
            Some(Next { waiting, enough }) => {
                waiting.push(item);
                let is_enough = waiting.len() >= *enough;
                if is_enough {
                    // Said once: another time it would cut short the next gathering.
                    *enough = usize::MAX;
                }
                is_enough
            }
        };
        if may_leave {
            self.gathered.notify_one();
        }
        Ok(())
    }

    /// How much waits for the next batch.
    pub fn len(&self) -> usize {
        self.next().as_ref().map_or(0, |next| next.waiting.len())
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Sends batches until `stop`, and then what is waiting; from then on it is closed.
    pub async fn run(&self, sender: &impl Sender<T>, stop: &CancellationToken) {
        let _closing = Closing {
            gathering: self,
            sender,
        };
        let mut answered = 0;
        loop {
            let stopping = tokio::select! {
                () = self.gather(answered) => false,
                () = stop.cancelled() => true,
            };
            let turn = if self.is_empty() {
                None
            } else {
                sender.turn().await
            };
            let batch = self.take();
            answered = batch.len();
            if !batch.is_empty() {
                sender.send(batch, turn).await;
            }
            if stopping {
                break;
            }
        }
    }

    /// Waits until the next batch may leave: with the first if none is there, at once with a few, and else with as many
    /// more as were just answered.
    async fn gather(&self, answered: usize) {
        let here = {
            let mut next = self.next();
            let Some(Next { waiting, enough }) = &mut *next else {
                return;
            };
            *enough = match waiting.len() {
                0 => 1,
                here if here + answered < GATHER_MIN => return,
                here => here + answered,
            };
            waiting.len()
        };
        match here {
            0 => self.gathered.notified().await,
            _ => drop(timeout(GATHER_MAX, self.gathered.notified()).await),
        }
        if let Some(next) = &mut *self.next() {
            next.enough = usize::MAX;
        }
    }

    fn take(&self) -> Vec<T> {
        let mut next = self.next();
        let waiting = next.as_mut().map(|next| &mut next.waiting);
        waiting.map(std::mem::take).unwrap_or_default()
    }

    fn next(&self) -> MutexGuard<'_, Option<Next<T>>> {
        self.next.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopping() -> AppendError {
    AppendError::NotWritten("the server is stopping".to_owned())
}

/// Closes it however its task ends.
struct Closing<'g, T, S: Sender<T>> {
    gathering: &'g Gathering<T>,
    sender: &'g S,
}

impl<T, S: Sender<T>> Drop for Closing<'_, T, S> {
    fn drop(&mut self) {
        let left = self.gathering.next().take();
        let left = left.map(|next| next.waiting).unwrap_or_default();
        self.sender.refuse(left, &stopping());
    }
}
