//! Turns on the way to a topic: while the batches of some are on their way, those of others grow.
//!
//! With five records or more on their way to a partition, librdkafka sends no others there
//! (`rd_kafka_toppar_producer_serve` of 2.12 holds records against `RD_KAFKA_IDEMP_MAX_INFLIGHT`, which is meant for requests),
//! and as long as any wait, its thread does nothing but look at the clock. So what would wait there waits here.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::timeout};

/// How long a turn is waited for: a broker that stands still is not waited for by one after the other.
const WAIT_MAX: Duration = Duration::from_millis(100);

/// Who takes turns: all who gather batches for a topic, each of which has one on its way at a time.
#[derive(Debug, Default)]
pub struct Turns {
    on_their_way: AtomicUsize,
    arrived: Notify,
}

/// The batch of one is on its way, until this is dropped.
#[derive(Debug)]
pub struct Turn(Arc<Turns>);

impl Turns {
    /// Waits until no batch is on its way, or has waited long. Those who wait for the same moment all go then: however many
    /// they are, nobody waits for one after the other.
    pub async fn next(self: &Arc<Self>) -> Turn {
        let mut arrived = pin!(self.arrived.notified());
        // From here on nothing is missed, also if nobody polls.
        arrived.as_mut().enable();
        let is_free = self
            .on_their_way
            .compare_exchange(0, 1, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if !is_free {
            // Late or not, it is its turn.
            let _ = timeout(WAIT_MAX, arrived).await;
            self.on_their_way.fetch_add(1, Ordering::AcqRel);
        }
        Turn(Arc::clone(self))
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0.on_their_way.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.arrived.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::task::{Context, Poll, Waker};

    use super::*;

    #[tokio::test]
    async fn those_who_wait_for_a_batch_go_together_when_it_has_arrived() {
        let turns = Arc::new(Turns::default());
        let first = turns.next().await;
        let mut context = Context::from_waker(Waker::noop());
        let mut others = [(); 3].map(|()| Box::pin(turns.next()));
        for other in &mut others {
            assert!(other.as_mut().poll(&mut context).is_pending());
        }
        drop(first);
        let went = others
            .each_mut()
            .map(|other| other.as_mut().poll(&mut context));
        assert!(went.iter().all(Poll::is_ready));
        let mut next = Box::pin(turns.next());
        assert!(next.as_mut().poll(&mut context).is_pending());
        drop(went);
        assert!(next.as_mut().poll(&mut context).is_ready());
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_long_is_not_waited_for() {
        let turns = Arc::new(Turns::default());
        let slow = turns.next().await;
        let second = turns.next().await;
        drop(slow);
        // The second is on its way all the same.
        let mut third = Box::pin(turns.next());
        let mut context = Context::from_waker(Waker::noop());
        assert!(third.as_mut().poll(&mut context).is_pending());
        drop(second);
        assert!(third.as_mut().poll(&mut context).is_ready());
    }
}
