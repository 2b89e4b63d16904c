//! Look-ups by key in domains that are cached: from memory, which a tail of the log keeps fresh, or else from Postgres.
//! The cache itself is [`crate::cache`], the tail [`crate::tail`]; a domain says here what its values are.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use producers::partition::of_key;
use projections::{pool::Pool, projection::Projection};
use schemas::event::Event;
use tokio::time::{Instant, timeout};

use crate::{
    app::App,
    cache::{Coherent, GetError, Got, Wanted},
    error::ApiError,
};

/// A domain whose values are cached by the keys of its events.
pub trait Cached: Send + Sync + 'static {
    /// What changes its values.
    type Event: Event;
    /// The tables that have them.
    const PROJECTION: &'static Projection;
    /// What keeps the cache fresh, as `/readyz` names it.
    const PART: &'static str;

    /// Where the values are kept, as they go into answers.
    fn cache(app: &App) -> &Coherent<Bytes>;

    /// What an event makes of the value of its key: what the projection makes of the row. Only where records have keys.
    fn fold(known: Option<Bytes>, _: &Self::Event) -> Option<Bytes> {
        known
    }

    /// Which values an event changes that only the projection can tell. Only where records have no keys.
    fn touched(_: &Self::Event) -> Touched {
        Touched::Nothing
    }

    /// Hears of every event and the time of its record (milliseconds since 1970-01-01T00:00:00Z) before it is passed. Only
    /// where records have no keys.
    fn note(_: &App, _: &Self::Event, _at_ms: i64) {}

    /// Reads a value and the checkpoint of its partition, as of one moment.
    ///
    /// # Errors
    /// If Postgres does not answer.
    fn read(
        pool: &Pool,
        key: &str,
        partition: i32,
    ) -> impl Future<Output = sqlx::Result<ValueAt>> + Send;
}

/// A value as it goes into answers, if there is one, and the checkpoint of its partition at that moment.
pub type ValueAt = (Option<Bytes>, i64);

/// Which values an event changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Touched {
    /// None.
    Nothing,
    /// That of this key.
    One(String),
    /// Any.
    All,
}

/// What is looked up, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// The key.
    pub key: &'a str,
    /// Partitions and offsets of the topic that the answer has to reflect.
    pub places: &'a [(i32, i64)],
    /// Until when somebody waits.
    pub deadline: Instant,
    /// How long a query may take.
    pub query_max: Duration,
    /// Whether it is worth reading again until the answer can be kept.
    pub read_again: bool,
}

/// Why a look-up has no answer.
#[derive(Debug)]
pub enum LookUpError {
    /// The positions that it has to reflect are wrong, or not reached in time.
    Position(ApiError),
    /// Postgres.
    Unread(GetError),
}

/// Finds the value of a key.
///
/// # Errors
/// [`LookUpError`].
pub async fn look_up<D: Cached>(
    app: &App,
    pool: &Pool,
    asked: Asked<'_>,
) -> Result<Got<Bytes>, LookUpError> {
    let read = |partition| async move {
        let read = D::read(pool, asked.key, partition).await;
        read.map_err(Arc::new)
    };
    look_up_by::<D, _>(app, asked, read).await
}

/// The same, where values are read in another way, given their partition.
///
/// # Errors
/// [`LookUpError`].
pub async fn look_up_by<D: Cached, R>(
    app: &App,
    asked: Asked<'_>,
    read: impl Fn(i32) -> R,
) -> Result<Got<Bytes>, LookUpError>
where
    R: Future<Output = Result<ValueAt, Arc<sqlx::Error>>>,
{
    let partition = of_key(asked.key.as_bytes(), D::Event::TOPIC.partitions);
    // A value depends on nothing but its own partition.
    let mut here = asked.places.to_vec();
    here.retain(|(other, _)| *other == partition);
    if !here.is_empty() {
        Box::pin(app.await_tail::<D>(partition, &here, asked.deadline))
            .await
            .map_err(LookUpError::Position)?;
    }
    let wanted = Wanted {
        key: asked.key,
        partition,
        next_offset: here.iter().map(|(_, offset)| offset + 1).max().unwrap_or(0),
        deadline: asked.deadline,
        read_again: asked.read_again,
    };
    let read = || async {
        let read = timeout(asked.query_max, read(partition)).await;
        read.unwrap_or_else(|_| Err(Arc::new(sqlx::Error::PoolTimedOut)))
    };
    match D::cache(app).get(wanted, read).await {
        Ok(got) => Ok(got),
        Err(GetError::Late) if !here.is_empty() => {
            Err(LookUpError::Position(ApiError::not_caught_up()))
        }
        Err(error) => Err(LookUpError::Unread(error)),
    }
}

impl App {
    /// Waits until the cache of a domain reflects these places of a partition. Without a tail nothing is cached, and
    /// the projection has to reflect them.
    async fn await_tail<D: Cached>(
        &self,
        partition: i32,
        places: &[(i32, i64)],
        deadline: Instant,
    ) -> Result<(), ApiError> {
        let (cache, topic) = (D::cache(self), D::Event::TOPIC);
        if cache.resume(partition).is_some() {
            return self.passed(cache.passed(), topic, places, deadline).await;
        }
        self.within_log(topic, places, deadline).await?;
        let watermarks = &self.services.watermarks;
        if watermarks.reached(D::PROJECTION, places, deadline).await {
            return Ok(());
        }
        Err(ApiError::not_caught_up())
    }
}

impl From<LookUpError> for ApiError {
    fn from(error: LookUpError) -> Self {
        match error {
            LookUpError::Position(error) => error,
            LookUpError::Unread(error) => error.into(),
        }
    }
}
