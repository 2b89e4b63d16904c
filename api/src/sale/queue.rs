//! Requests of one thread on their way to the log of the sale: what arrives while earlier batches are on their way goes
//! out together.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use producers::writer::AppendError;
use schemas::sales::SaleEvent;
use tokio::sync::{Notify, Semaphore};
use tokio_util::sync::CancellationToken;

use super::Sale;

/// Batches on their way at once.
const BATCHES_MAX: usize = 3;
/// Requests that wait for their batch; more are refused.
const WAITING_MAX: usize = 20_000;

/// The way to the log.
pub struct Queue {
    sale: Arc<Sale>,
    /// `None` once the queue is closed.
    waiting: Mutex<Option<Vec<SaleEvent>>>,
    arrived: Notify,
}

impl Queue {
    /// A queue for this sale; [`Self::run`] has to run beside it.
    pub fn new(sale: Arc<Sale>) -> Self {
        Self {
            sale,
            waiting: Mutex::new(Some(Vec::new())),
            arrived: Notify::new(),
        }
    }

    /// Sends a request with whatever else is waiting. What becomes of it is told by the sale.
    ///
    /// # Errors
    /// If the queue is full or closed: it was not sent.
    pub(super) fn push(&self, event: SaleEvent) -> Result<(), AppendError> {
        match &mut *self.waiting() {
            None => return Err(stopping()),
            Some(waiting) if waiting.len() >= WAITING_MAX => return Err(AppendError::Overloaded),
            Some(waiting) => waiting.push(event),
        }
        self.arrived.notify_one();
        Ok(())
    }

    /// Sends batches until `stop`, and then what is waiting; from then on the queue is closed.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let closing = Closing(&self);
        let under_way = Arc::new(Semaphore::new(BATCHES_MAX));
        loop {
            let stopping = tokio::select! {
                () = self.arrived.notified() => false,
                () = stop.cancelled() => true,
            };
            let permit = Arc::clone(&under_way).acquire_owned().await;
            let batch = self
                .waiting()
                .as_mut()
                .map(std::mem::take)
                .unwrap_or_default();
            if !batch.is_empty() {
                let sale = Arc::clone(&self.sale);
                tokio::spawn(async move {
                    sale.send(batch).await;
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

    fn waiting(&self) -> MutexGuard<'_, Option<Vec<SaleEvent>>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn stopping() -> AppendError {
    AppendError::NotWritten("the server is stopping".to_owned())
}

/// Closes the queue however its task ends: what still waits was never sent.
struct Closing<'q>(&'q Queue);

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        let left = self.0.waiting().take().unwrap_or_default();
        self.0.sale.tell_all(&left, &stopping());
    }
}
