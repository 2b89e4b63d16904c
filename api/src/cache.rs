//! A cache that the log keeps fresh: no entry ever shows a state that is older than what the tail has passed.
//!
//! A tail ([`crate::tail`]) reads the topic and publishes, per partition, how far it has *begun* before it touches
//! the entries of a record, and how far it has *passed* afterwards. A miss puts a placeholder first, *then* takes
//! what has begun, and reads row and checkpoint from Postgres as of one moment. It may fill its placeholder only if
//! the checkpoint has reached what had begun, and every record that the tail met since. So either the read has seen
//! a record, or the tail has met the placeholder. All changes of entries go through `and_compute_with`, which takes
//! the lock of the key.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering, fence},
    },
    time::Duration,
};

use moka::{notification::RemovalCause, ops::compute::Op, sync::Cache};
use processors::watermarks::Progress;
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

use crate::metrics::CacheMetrics;

/// Nothing is known of a partition's tail: what is read cannot be kept.
const UNKNOWN: i64 = i64::MAX;
/// How often a projection that is behind is read again.
const READ_AGAIN: Duration = Duration::from_millis(5);
/// For how long a miss tries to get an answer that can be kept, if any answer will do.
const KEEPABLE_WITHIN: Duration = Duration::from_millis(25);
/// What an entry takes beside its key and value, in bytes (measured with moka 0.12: about 200).
const ENTRY_BYTES: usize = 200;

/// How many bytes a cached value takes.
pub trait Weight: Clone + Send + Sync + 'static {
    /// Size on the heap, in bytes.
    fn bytes(&self) -> usize;
}

/// What a cache may keep. Nothing depends on it that an entry goes: the log keeps fresh what is there.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// How much, in bytes.
    pub bytes_max: u64,
    /// For how long an entry may stay since it was written; as long as there is room without it.
    pub ttl: Option<Duration>,
}

/// A cache of the values of one topic's keys.
pub struct Coherent<V> {
    entries: Cache<String, Entry<V>>,
    /// Per partition: the offset after the last record whose entries the tail has begun to touch.
    begun: Vec<AtomicI64>,
    passed: Progress,
    /// Counts how often the tail has stopped; an entry of an earlier life is as good as absent.
    life: AtomicU64,
    tickets: AtomicU64,
    metrics: CacheMetrics,
}

#[derive(Clone)]
struct Entry<V> {
    life: u64,
    state: State<V>,
}

#[derive(Clone)]
enum State<V> {
    /// Somebody reads it.
    Pending {
        ticket: u64,
        /// The checkpoint that an answer must have reached to be kept.
        needed: i64,
        answer: watch::Receiver<Option<Answer<V>>>,
    },
    /// As of the record at `position`, and every one before it; `None`: there is nothing of this key.
    Known { position: i64, value: Option<V> },
}

/// What a read of Postgres gave: the value and the checkpoint of its partition, or why not.
type Answer<V> = Result<(Option<V>, i64), Arc<sqlx::Error>>;

/// A value and where it came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Got<V> {
    /// The value; `None` if there is nothing of this key.
    pub value: Option<V>,
    /// Whether Postgres was left alone.
    pub hit: bool,
}

/// Why there is no answer.
#[derive(Debug, Clone)]
pub enum GetError {
    /// Postgres did not answer in time, or not up to the position that was asked for.
    Late,
    /// Postgres failed.
    Postgres(Arc<sqlx::Error>),
}

/// Which value, and how fresh.
#[derive(Debug, Clone, Copy)]
pub struct Wanted<'a> {
    /// The key.
    pub key: &'a str,
    /// The partition of the key.
    pub partition: i32,
    /// The least checkpoint that the answer must reflect; the tail has passed it already.
    pub next_offset: i64,
    /// Until when somebody waits.
    pub deadline: Instant,
    /// Whether it is worth reading again until the answer can be kept.
    pub read_again: bool,
}

impl<V: Weight> Coherent<V> {
    /// An empty cache for a topic of `partitions` partitions.
    pub fn new(partitions: i32, bounds: Bounds, metrics: CacheMetrics) -> Self {
        let evictions = metrics.evictions.clone();
        let mut entries = Cache::builder();
        if let Some(ttl) = bounds.ttl {
            entries = entries.time_to_live(ttl);
        }
        let entries = entries
            .eviction_listener(move |_, _, cause| {
                if cause == RemovalCause::Size {
                    evictions.inc();
                }
            })
            .max_capacity(bounds.bytes_max)
            .weigher(|key: &String, entry: &Entry<V>| {
                let value = match &entry.state {
                    State::Known {
                        value: Some(value), ..
                    } => value.bytes(),
                    _ => 0,
                };
                u32::try_from(ENTRY_BYTES + key.len() + value).unwrap_or(u32::MAX)
            })
            .build();
        Self {
            entries,
            begun: (0..partitions).map(|_| AtomicI64::new(UNKNOWN)).collect(),
            passed: Progress::default(),
            life: AtomicU64::new(0),
            tickets: AtomicU64::new(0),
            metrics,
        }
    }

    /// Shows how large it is, as far as moka has counted.
    pub fn show_size(&self) {
        let shown = |number| i64::try_from(number).unwrap_or(i64::MAX);
        self.metrics.entries.set(shown(self.entries.entry_count()));
        self.metrics.bytes.set(shown(self.entries.weighted_size()));
    }

    /// How far the tail has passed.
    pub fn passed(&self) -> &Progress {
        &self.passed
    }

    /// Finds a value; on a miss, one `read` at a time for each key, however many ask.
    ///
    /// # Errors
    /// [`GetError`]; everybody who waited for the same read gets the same.
    pub async fn get<F, R>(&self, wanted: Wanted<'_>, read: F) -> Result<Got<V>, GetError>
    where
        F: Fn() -> R,
        R: Future<Output = Answer<V>>,
    {
        if let Some(State::Known { value, .. }) = self.look(wanted.key) {
            self.metrics.hits.inc();
            return Ok(Got { value, hit: true });
        }
        // Boxed, so that hits do not carry along what only misses need: it is copied with every request.
        Box::pin(self.miss(wanted, read)).await
    }

    async fn miss<F, R>(&self, wanted: Wanted<'_>, read: F) -> Result<Got<V>, GetError>
    where
        F: Fn() -> R,
        R: Future<Output = Answer<V>>,
    {
        loop {
            match self.claim(wanted.key) {
                Claim::Known(value) => {
                    self.metrics.hits.inc();
                    return Ok(Got { value, hit: true });
                }
                Claim::Mine(placeholder) => {
                    self.metrics.misses.inc();
                    let value = self.fill(placeholder, wanted, &read).await?;
                    return Ok(Got { value, hit: false });
                }
                Claim::Theirs(mut answer) => {
                    let waited = timeout_at(wanted.deadline, answer.wait_for(Option::is_some));
                    match waited.await {
                        Err(_) => return Err(GetError::Late),
                        // Who read it has gone; somebody else has to.
                        Ok(Err(_)) => {}
                        Ok(Ok(answer)) => match &*answer {
                            Some(Ok((value, reached))) if *reached >= wanted.next_offset => {
                                self.metrics.shared.inc();
                                let value = value.clone();
                                return Ok(Got { value, hit: false });
                            }
                            Some(Err(error)) => return Err(GetError::Postgres(Arc::clone(error))),
                            _ => {}
                        },
                    }
                    tokio::task::yield_now().await;
                }
            }
        }
    }

    /// Reads until the answer is fresh enough, and keeps it if it can be kept.
    async fn fill<F, R>(
        &self,
        placeholder: Placeholder<'_, V>,
        wanted: Wanted<'_>,
        read: &F,
    ) -> Result<Option<V>, GetError>
    where
        F: Fn() -> R,
        R: Future<Output = Answer<V>>,
    {
        // The placeholder is in its place: only now may it be asked what has begun. Records without a key are passed
        // and never begun.
        let begun = self.begun(wanted.partition);
        let mut keepable_from = begun.max(wanted.next_offset);
        let keepable_until = wanted.deadline.min(Instant::now() + KEEPABLE_WITHIN);
        loop {
            let answer = timeout_at(wanted.deadline, read())
                .await
                .map_err(|_| GetError::Late)?;
            let (value, reached) = match answer {
                Ok(answer) => answer,
                Err(error) => {
                    placeholder.tell(Err(Arc::clone(&error)));
                    return Err(GetError::Postgres(error));
                }
            };
            if reached >= keepable_from {
                match placeholder.keep(&value, reached) {
                    Kept::Done => {
                        placeholder.tell(Ok((value.clone(), reached)));
                        return Ok(value);
                    }
                    Kept::Needs(checkpoint) => keepable_from = checkpoint,
                }
            }
            let may_go = begun == UNKNOWN || !wanted.read_again || Instant::now() >= keepable_until;
            if reached >= wanted.next_offset && may_go {
                placeholder.tell(Ok((value.clone(), reached)));
                return Ok(value);
            }
            tokio::time::sleep(READ_AGAIN).await;
            if Instant::now() >= wanted.deadline {
                return Err(GetError::Late);
            }
        }
    }

    fn look(&self, key: &str) -> Option<State<V>> {
        let entry = self.entries.get(key)?;
        self.is_alive(&entry).then_some(entry.state)
    }

    fn claim(&self, key: &str) -> Claim<'_, V> {
        // Before what has begun is asked: see `stop`.
        let life = self.life.load(Ordering::SeqCst);
        let ticket = self.tickets.fetch_add(1, Ordering::Relaxed);
        let (tell, answer) = watch::channel(None);
        let mut found = None;
        self.entries.entry_by_ref(key).and_compute_with(|entry| {
            match entry.map(moka::Entry::into_value) {
                Some(entry) if self.is_alive(&entry) => {
                    found = Some(entry.state);
                    Op::Nop
                }
                _ => Op::Put(Entry {
                    life,
                    state: State::Pending {
                        ticket,
                        needed: 0,
                        answer,
                    },
                }),
            }
        });
        found.map_or_else(
            || {
                Claim::Mine(Placeholder {
                    entries: &self.entries,
                    key: key.to_owned(),
                    ticket,
                    tell,
                })
            },
            State::into_claim,
        )
    }

    fn is_alive(&self, entry: &Entry<V>) -> bool {
        entry.life == self.life.load(Ordering::SeqCst)
    }

    fn begun(&self, partition: i32) -> i64 {
        // Orders the placeholder, which was put before, against the tail's look at the entries: see `begin`.
        fence(Ordering::SeqCst);
        self.slot(partition)
            .map_or(UNKNOWN, |begun| begun.load(Ordering::SeqCst))
    }

    fn slot(&self, partition: i32) -> Option<&AtomicI64> {
        usize::try_from(partition)
            .ok()
            .and_then(|index| self.begun.get(index))
    }

    /// For the tail: where it starts in a partition; entries are kept from now on.
    pub fn start(&self, partition: i32, next_offset: i64) {
        if let Some(begun) = self.slot(partition) {
            begun.store(next_offset, Ordering::SeqCst);
        }
        self.passed
            .announce(std::iter::once((partition, next_offset)));
    }

    /// For the tail: where it goes on in a partition, if it has started there.
    pub fn resume(&self, partition: i32) -> Option<i64> {
        let begun = self.slot(partition)?.load(Ordering::SeqCst);
        (begun != UNKNOWN).then_some(begun)
    }

    /// For the tail: it begins with a record. Says whether the key has an entry that [`Self::observe`] must see.
    pub fn begin(&self, key: &str, partition: i32, offset: i64) -> bool {
        self.begin_all(partition, offset);
        self.entries.contains_key(key)
    }

    /// For the tail: it begins with a record that touches every key. See [`Self::drop_all`].
    pub fn begin_all(&self, partition: i32, offset: i64) {
        if let Some(begun) = self.slot(partition) {
            begun.store(offset + 1, Ordering::SeqCst);
        }
        // Either a miss that put its placeholder reads this mark, or its placeholder is seen here. A plain store and a
        // later load may pass each other; not with a fence on either side. (moka's entries are atomic pointers, and
        // nothing is asked before them that could be out of date.)
        fence(Ordering::SeqCst);
    }

    /// For the tail: folds a record into the entry of its key, as the projection folds it into the row. An entry
    /// that is absent stays absent; one that is being read must reach beyond this record.
    pub fn observe(&self, key: &str, offset: i64, fold: impl FnOnce(Option<V>) -> Option<V>) {
        self.entries.entry_by_ref(key).and_compute_with(|entry| {
            let Some(Entry { life, state }) = entry.map(moka::Entry::into_value) else {
                return Op::Nop;
            };
            let state = match state {
                State::Pending {
                    ticket,
                    needed,
                    answer,
                } => State::Pending {
                    ticket,
                    needed: needed.max(offset + 1),
                    answer,
                },
                State::Known { position, .. } if position >= offset => return Op::Nop,
                State::Known { value, .. } => State::Known {
                    position: offset,
                    value: fold(value),
                },
            };
            Op::Put(Entry { life, state })
        });
    }

    /// For the tail: a record changes the value of this key, and only the projection knows to what. The entry goes; one
    /// that is being read must reach beyond this record.
    pub fn drop_entry(&self, key: &str, offset: i64) {
        self.entries.entry_by_ref(key).and_compute_with(|entry| {
            let Some(Entry { life, state }) = entry.map(moka::Entry::into_value) else {
                return Op::Nop;
            };
            match state {
                State::Pending {
                    ticket,
                    needed,
                    answer,
                } => Op::Put(Entry {
                    life,
                    state: State::Pending {
                        ticket,
                        needed: needed.max(offset + 1),
                        answer,
                    },
                }),
                State::Known { position, .. } if position >= offset => Op::Nop,
                State::Known { .. } => Op::Remove,
            }
        });
    }

    /// For the tail: the same for every key, after [`Self::begin_all`]. And for who sees that the tables are others: what
    /// the tail has passed, the new ones have, too.
    pub fn drop_all(&self) {
        // What older placeholders fill nobody sees; newer ones find this record begun, and read the new tables.
        self.life.fetch_add(1, Ordering::SeqCst);
        // Only makes room: it goes by a clock.
        self.entries.invalidate_all();
    }

    /// Forgets what is known of a key, for who sees that it is over.
    pub fn forget(&self, key: &str) {
        self.entries.entry_by_ref(key).and_compute_with(|entry| {
            match entry.map(moka::Entry::into_value) {
                Some(Entry {
                    state: State::Known { .. },
                    ..
                }) => Op::Remove,
                _ => Op::Nop,
            }
        });
    }

    /// For the tail: it has done with everything before these offsets.
    pub fn pass(&self, reached: impl Iterator<Item = (i32, i64)>) {
        self.passed.announce(reached);
    }

    /// For a tail that cannot go on: forgets everything and keeps nothing until it starts again.
    pub fn stop(&self) {
        for begun in &self.begun {
            begun.store(UNKNOWN, Ordering::SeqCst);
        }
        // Whoever put a placeholder in the new life finds nothing begun, or what the next start has begun; what older
        // ones fill nobody sees.
        self.life.fetch_add(1, Ordering::SeqCst);
        self.passed.forget();
        // This goes by a clock, and so alone would leave what is being filled right now.
        self.entries.invalidate_all();
    }
}

impl<V: Weight> State<V> {
    fn into_claim<'c>(self) -> Claim<'c, V> {
        match self {
            Self::Known { value, .. } => Claim::Known(value),
            Self::Pending { answer, .. } => Claim::Theirs(answer),
        }
    }
}

/// What became of an attempt to answer from the cache.
enum Claim<'c, V: Weight> {
    Known(Option<V>),
    Theirs(watch::Receiver<Option<Answer<V>>>),
    Mine(Placeholder<'c, V>),
}

/// An entry that says that somebody reads; removed when dropped, unless it was filled.
struct Placeholder<'c, V: Weight> {
    entries: &'c Cache<String, Entry<V>>,
    key: String,
    ticket: u64,
    tell: watch::Sender<Option<Answer<V>>>,
}

enum Kept {
    /// Kept, or there is no placeholder to fill any more.
    Done,
    /// The tail has met the placeholder: an answer must have reached this checkpoint.
    Needs(i64),
}

impl<V: Weight> Placeholder<'_, V> {
    fn keep(&self, value: &Option<V>, reached: i64) -> Kept {
        let mut kept = Kept::Done;
        self.entries
            .entry_by_ref(&self.key)
            .and_compute_with(|entry| match entry.map(moka::Entry::into_value) {
                Some(Entry {
                    life,
                    state: State::Pending { ticket, needed, .. },
                }) if ticket == self.ticket => {
                    if reached < needed {
                        kept = Kept::Needs(needed);
                        return Op::Nop;
                    }
                    let state = State::Known {
                        position: reached - 1,
                        value: value.clone(),
                    };
                    Op::Put(Entry { life, state })
                }
                _ => Op::Nop,
            });
        kept
    }

    /// Answers everybody who waits for this read.
    fn tell(&self, answer: Answer<V>) {
        self.tell.send_replace(Some(answer));
    }
}

impl<V: Weight> Drop for Placeholder<'_, V> {
    fn drop(&mut self) {
        self.entries
            .entry_by_ref(&self.key)
            .and_compute_with(|entry| match entry.map(moka::Entry::into_value) {
                Some(Entry {
                    state: State::Pending { ticket, .. },
                    ..
                }) if ticket == self.ticket => Op::Remove,
                _ => Op::Nop,
            });
    }
}

#[cfg(test)]
mod tests;
