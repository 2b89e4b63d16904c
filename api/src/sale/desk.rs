//! Who waits for a verdict: found by the nonce of the request, by whoever folds it.

use std::{
    collections::HashMap,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::sync::oneshot;

/// So many parts are locked apart.
const SHARDS: usize = 16;
/// The most that wait; more are refused before the log.
const WAITERS_MAX: usize = 50_000;

type Waiters<V> = HashMap<i64, oneshot::Sender<V>>;

/// Hands out verdicts.
pub(super) struct Desk<V> {
    shards: [Mutex<Waiters<V>>; SHARDS],
    waiting: AtomicUsize,
}

/// A place at the desk; given up when dropped.
pub(super) struct Ticket<'d, V> {
    desk: &'d Desk<V>,
    nonce: i64,
    verdict: oneshot::Receiver<V>,
}

impl<V> Default for Desk<V> {
    fn default() -> Self {
        Self {
            shards: Default::default(),
            waiting: AtomicUsize::new(0),
        }
    }
}

impl<V> Desk<V> {
    /// A place for the request of this nonce; none if too many wait. To be taken before the request goes to the log.
    pub(super) fn take(&self, nonce: i64) -> Option<Ticket<'_, V>> {
        if self.waiting.fetch_add(1, Ordering::Relaxed) >= WAITERS_MAX {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        let (sender, verdict) = oneshot::channel();
        self.shard(nonce).insert(nonce, sender);
        Some(Ticket {
            desk: self,
            nonce,
            verdict,
        })
    }

    /// Tells whoever waits for this; most records are those of other processes.
    pub(super) fn tell(&self, nonce: i64, verdict: V) {
        let waiter = self.shard(nonce).remove(&nonce);
        if let Some(waiter) = waiter {
            // Who has gone does not need it.
            let _ = waiter.send(verdict);
        }
    }

    /// Whether somebody waits for this.
    pub(super) fn has(&self, nonce: i64) -> bool {
        self.shard(nonce).contains_key(&nonce)
    }

    /// How many wait.
    pub(super) fn waiters(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    fn shard(&self, nonce: i64) -> MutexGuard<'_, Waiters<V>> {
        let shard = nonce.cast_unsigned() % SHARDS as u64;
        let shard = usize::try_from(shard).expect("fewer than the shards");
        self.shards[shard]
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl<V> Ticket<'_, V> {
    /// The verdict, once somebody tells it. Can be asked again after giving up in between.
    pub(super) async fn verdict(&mut self) -> Option<V> {
        (&mut self.verdict).await.ok()
    }
}

impl<V> Drop for Ticket<'_, V> {
    fn drop(&mut self) {
        self.desk.shard(self.nonce).remove(&self.nonce);
        self.desk.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}
