//! Requests of one thread on their way to the log of the sale.

use std::sync::Arc;

use producers::{
    gathering::{Gathering, Sender},
    turns::Turn,
    writer::AppendError,
};
use tokio_util::sync::CancellationToken;

use super::{Asked, Sale};

/// The way to the log.
pub struct Queue {
    sale: Arc<Sale>,
    next: Gathering<Asked>,
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
    pub(super) fn push(&self, asked: Asked) -> Result<(), AppendError> {
        self.next.push(asked)
    }

    /// Sends batches until `stop`, and then what is waiting; from then on the queue is closed.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let _closed_by_a_panic = Panic(&self.sale);
        self.next.run(&*self, &stop).await;
    }
}

impl Sender<Asked> for Queue {
    async fn turn(&self) -> Option<Turn> {
        Some(self.sale.writer.turn().await)
    }

    async fn send(&self, batch: Vec<Asked>, turn: Option<Turn>) {
        self.sale.send(batch, turn).await;
    }

    fn refuse(&self, left: Vec<Asked>, why: &AppendError) {
        self.sale.tell_all(&left, why);
    }
}

/// A panic in here has left behind a ledger that nobody can trust, and a queue that nobody sends.
struct Panic<'s>(&'s Sale);

impl Drop for Panic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.close();
        }
    }
}
