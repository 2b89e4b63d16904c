//! Requests of one thread on their way to the log of the sale.

use std::sync::Arc;

use producers::{
    gathering::{Gathering, Sender},
    writer::AppendError,
};
use schemas::sales::SaleEvent;
use tokio_util::sync::CancellationToken;

use super::Sale;

/// The way to the log.
pub struct Queue {
    sale: Arc<Sale>,
    next: Gathering<SaleEvent>,
}

impl Queue {
    /// A queue for this sale; [`Self::run`] has to run beside it.
    pub fn new(sale: Arc<Sale>) -> Self {
        Self {
            sale,
            next: Gathering::default(),
        }
    }

    /// Sends a request with whatever else is waiting. What becomes of it is told by the sale.
    ///
    /// # Errors
    /// If too many wait, or the process is stopping: it was not sent.
    pub(super) fn push(&self, event: SaleEvent) -> Result<(), AppendError> {
        self.next.push(event)
    }

    /// Sends batches until `stop`, and then what is waiting; from then on the queue is closed.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.next.run(&*self, &stop).await;
    }
}

impl Sender<SaleEvent> for Queue {
    async fn send(&self, batch: Vec<SaleEvent>) {
        self.sale.send(batch).await;
    }

    fn refuse(&self, left: Vec<SaleEvent>, why: &AppendError) {
        self.sale.tell_all(&left, why);
    }
}
