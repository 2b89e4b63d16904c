//! Requests of one thread on their way to the log of the segments; each is told its own place there.

use std::sync::Arc;

use producers::{
    append::{Outcome, Stamped},
    gathering::{Gathering, Sender},
    turns::Turn,
    writer::{AppendError, Context},
};
use schemas::segments::SegmentEvent;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::Segments;

/// A request, and where it comes from.
type Asked = (SegmentEvent, Context);
type Answer = Result<Stamped, AppendError>;
/// A request and who waits for its place.
type Waiting = (Asked, oneshot::Sender<Answer>);

/// The way to the log.
pub struct Queue {
    segments: Arc<Segments>,
    next: Gathering<Waiting>,
}

impl Queue {
    /// A queue for these segments; [`Self::run`] has to run beside it.
    pub fn new(segments: Arc<Segments>) -> Self {
        Self {
            segments,
            next: Gathering::default(),
        }
    }

    /// Sends a request with whatever else is waiting, and gives its place and time. Not sent if it is dropped before.
    pub(super) async fn append(&self, asked: Asked) -> Answer {
        // Here, and not with its batch, so that it fails alone.
        self.segments.writer().check(&asked.0)?;
        let (answer, answered) = oneshot::channel();
        self.next.push((asked, answer))?;
        let lost = |_| AppendError::Unknown("who appended it has gone".to_owned());
        answered.await.map_err(lost)?
    }

    /// Sends batches until `stop`, and then what is waiting; from then on the queue is closed.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.next.run(&*self, &stop).await;
    }
}

impl Sender<Waiting> for Queue {
    async fn turn(&self) -> Option<Turn> {
        Some(self.segments.writer().turn().await)
    }

    async fn send(&self, mut batch: Vec<Waiting>, turn: Option<Turn>) {
        // Who has given up was told that nothing is known: it may as well not be done.
        batch.retain(|(_, answer)| !answer.is_closed());
        if batch.is_empty() {
            return;
        }
        let (asked, waiters): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
        match self.segments.writer().send_each(&asked) {
            Ok(pending) => {
                let outcome = pending.outcome().await;
                drop(turn);
                tell(waiters, outcome);
            }
            Err(refusal) => tell_all(waiters, &refusal),
        }
    }

    fn refuse(&self, left: Vec<Waiting>, why: &AppendError) {
        tell_all(left.into_iter().map(|(_, waiter)| waiter), why);
    }
}

/// Tells everybody what became of their request: those at the end may have been refused while the others were taken.
fn tell(mut taken: Vec<oneshot::Sender<Answer>>, outcome: Outcome) {
    let refused = taken.split_off(taken.len() - outcome.refused);
    if let Some(refusal) = &outcome.refusal {
        tell_all(refused, &AppendError::of_refusal(refusal));
    }
    match outcome.error {
        Some(error) if outcome.appended + outcome.unknown == 0 => {
            tell_all(taken, &AppendError::of_refusal(&error));
        }
        Some(error) => tell_all(taken, &AppendError::Unknown(error.to_string())),
        None if outcome.stamps.len() == taken.len() => {
            for (waiter, stamp) in taken.into_iter().zip(outcome.stamps) {
                // Who has gone does not need it.
                let _ = waiter.send(Ok(stamp));
            }
        }
        None => {
            let why = "the broker did not tell places and times".to_owned();
            tell_all(taken, &AppendError::Unknown(why));
        }
    }
}

fn tell_all(waiters: impl IntoIterator<Item = oneshot::Sender<Answer>>, error: &AppendError) {
    for waiter in waiters {
        let _ = waiter.send(Err(error.clone()));
    }
}
