//! Reads of one thread on their way to Postgres, in batches: what is asked for while statements are on their way goes
//! with the next one, which costs hardly more than one for a single row.

use std::{sync::Arc, time::Duration};

use producers::{
    gathering::{Gathering, Sender},
    turns::Turn,
    writer::AppendError,
};
use projections::pool::Pool;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, oneshot},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// The most keys of a statement.
const BATCH_MAX: usize = 256;
/// Statements on their way: one that takes long does not hold up all that come after it.
const AT_A_TIME: u32 = 2;

/// Rows that are read by one statement.
pub trait Rows: Send + Sync + 'static {
    /// What a row is asked for by.
    type Key: Send + Sync;
    /// What is there.
    type Row: Send;

    /// Reads what is there of each key, in their order.
    ///
    /// # Errors
    /// If Postgres does not answer.
    fn read(
        pool: &Pool,
        keys: &[Self::Key],
    ) -> impl Future<Output = sqlx::Result<Vec<Self::Row>>> + Send;
}

type Answer<R> = Result<<R as Rows>::Row, Arc<sqlx::Error>>;
/// A key and who waits for its row.
type Waiting<R> = (<R as Rows>::Key, oneshot::Sender<Answer<R>>);

/// Reads rows.
pub struct Reader<R: Rows> {
    pool: Pool,
    /// How long a statement may take.
    limit: Duration,
    /// For the statements.
    places: Arc<Semaphore>,
    next: Gathering<Waiting<R>>,
}

impl<R: Rows> Reader<R> {
    /// A reader with connections of its thread; [`Self::run`] has to run beside it.
    pub fn new(pool: Pool, limit: Duration) -> Self {
        Self {
            pool,
            limit,
            places: Arc::new(Semaphore::new(AT_A_TIME as usize)),
            next: Gathering::default(),
        }
    }

    /// What is there of a key, at some moment after this call.
    ///
    /// # Errors
    /// If Postgres does not answer, or too many wait.
    pub async fn read(&self, key: R::Key) -> Answer<R> {
        let (answer, answered) = oneshot::channel();
        self.next.push((key, answer)).map_err(|refusal| {
            Arc::new(match refusal {
                AppendError::Overloaded => sqlx::Error::PoolTimedOut,
                _ => sqlx::Error::PoolClosed,
            })
        })?;
        let closed = |_| Arc::new(sqlx::Error::PoolClosed);
        answered.await.map_err(closed)?
    }

    /// Reads until `stop`, and then what is waiting.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        self.next.run(&*self, &stop).await;
        // The last have ended when all places are free.
        let _all = self.places.acquire_many(AT_A_TIME).await;
    }
}

impl<R: Rows> Sender<Waiting<R>> for Reader<R> {
    async fn send(&self, mut batch: Vec<Waiting<R>>, _: Option<Turn>) {
        batch.retain(|(_, waiter)| !waiter.is_closed());
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(BATCH_MAX));
            let place = Arc::clone(&self.places).acquire_owned().await;
            let place = place.expect("nobody closes the semaphore");
            tokio::spawn(answer::<R>(self.pool.clone(), self.limit, batch, place));
            batch = rest;
        }
    }

    /// Nobody is answered, which tells that the reader is closed.
    fn refuse(&self, _: Vec<Waiting<R>>, _: &AppendError) {}
}

/// Reads what is there, and tells everybody who waits for it.
async fn answer<R: Rows>(
    pool: Pool,
    limit: Duration,
    batch: Vec<Waiting<R>>,
    _place: OwnedSemaphorePermit,
) {
    let (keys, waiters): (Vec<_>, Vec<_>) = batch.into_iter().unzip();
    let read = timeout(limit, R::read(&pool, &keys)).await;
    match read.unwrap_or(Err(sqlx::Error::PoolTimedOut)) {
        Ok(rows) => {
            for (waiter, row) in waiters.into_iter().zip(rows) {
                // Who has gone does not need it.
                let _ = waiter.send(Ok(row));
            }
        }
        Err(error) => {
            tracing::debug!(%error, rows = keys.len(), "could not read rows");
            let error = Arc::new(error);
            for waiter in waiters {
                let _ = waiter.send(Err(Arc::clone(&error)));
            }
        }
    }
}
