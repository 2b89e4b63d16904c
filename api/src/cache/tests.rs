//! What the cache promises to one who asks. Next: [`orders`], the promise to keep nothing old in every order in which
//! things can happen; [`stress`], the same by threads.

mod orders;
mod stress;

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::Mutex,
    task::{Context, Poll, Waker},
};

use super::*;

/// The value of a key: how many records of it have been folded into it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Version(i64);

impl Weight for Version {
    fn bytes(&self) -> usize {
        0
    }
}

/// Long enough that it never decides a test.
const LONG: Duration = Duration::from_secs(60);
const ROOM: u64 = 1 << 30;

type Row = (Option<Version>, i64);

fn cache<V: Weight>(partitions: i32) -> Coherent<V> {
    Coherent::new(partitions, room_for(ROOM), CacheMetrics::default())
}

fn room_for(bytes_max: u64) -> Bounds {
    Bounds {
        bytes_max,
        ttl: None,
    }
}

fn wanted(key: &str) -> Wanted<'_> {
    Wanted {
        key,
        partition: 0,
        next_offset: 0,
        deadline: Instant::now() + LONG,
        read_again: true,
    }
}

/// What a look at the cache would answer without Postgres.
fn kept<V: Weight>(cache: &Coherent<V>, key: &str) -> Option<Option<V>> {
    let entry = cache.entries.get(key)?;
    match entry.state {
        State::Known { value, .. } if entry.life == cache.life.load(Ordering::SeqCst) => {
            Some(value)
        }
        _ => None,
    }
}

fn has_entry<V: Weight>(cache: &Coherent<V>, key: &str) -> bool {
    cache.entries.contains_key(key)
}

/// The row after a number of records, all of one key.
fn row(records: i64) -> Row {
    Log::Counted.row(records)
}

/// What records of one key make of its value.
#[derive(Debug, Clone, Copy, Default)]
enum Log {
    /// Each changes it.
    #[default]
    Counted,
    /// The first stands, as of orders.
    First,
    /// The last stands, as of users; those at these places remove it.
    Last(&'static [i64]),
}

impl Log {
    fn fold(self, before: Option<Version>, offset: i64) -> Option<Version> {
        let said = Version(offset + 1);
        match self {
            Self::Counted => {
                assert!(before.unwrap_or(Version(0)) <= Version(offset));
                Some(said)
            }
            Self::First => before.or(Some(said)),
            Self::Last(removals) => (!removals.contains(&offset)).then_some(said),
        }
    }

    /// The row after so many records.
    fn row(self, records: i64) -> Row {
        let value = (0..records).fold(None, |value, offset| self.fold(value, offset));
        (value, records)
    }
}

/// What a tail does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Tells {
    /// It knows what the record makes of the value.
    Folds,
    /// It knows which value changes.
    Drops,
    /// It knows that any may change.
    DropsAll,
}

/// A read that waits until it is let through, step by step.
#[derive(Default)]
struct Gate {
    asked: Cell<u32>,
    answer: RefCell<Option<Answer<Version>>>,
    let_through: Cell<bool>,
    /// From now on reads are answered at once.
    open: Cell<Option<i64>>,
    log: Cell<Log>,
}

impl Gate {
    async fn read(&self) -> Answer<Version> {
        self.asked.set(self.asked.get() + 1);
        poll_fn(|_| {
            if let Some(records) = self.open.get() {
                return Poll::Ready(Ok(self.log.get().row(records)));
            }
            if !self.let_through.replace(false) {
                return Poll::Pending;
            }
            Poll::Ready(self.answer.take().expect("taken before it is let through"))
        })
        .await
    }
}

type Asking<'c> = Pin<Box<dyn Future<Output = Result<Got<Version>, GetError>> + 'c>>;

/// A request, polled by hand: it does nothing but when it is told to.
struct Request<'c> {
    gate: Rc<Gate>,
    asking: Option<Asking<'c>>,
    done: Option<Result<Got<Version>, GetError>>,
}

impl<'c> Request<'c> {
    fn new(cache: &'c Coherent<Version>, wanted: Wanted<'c>) -> Self {
        let gate = Rc::new(Gate::default());
        Self::through(&gate, cache, wanted)
    }

    fn through(gate: &Rc<Gate>, cache: &'c Coherent<Version>, wanted: Wanted<'c>) -> Self {
        let gate = Rc::clone(gate);
        let reads = Rc::clone(&gate);
        let asking = async move { cache.get(wanted, || reads.read()).await };
        // Without tokio's budget, which is not given back to a task that is polled by hand.
        let asking: Asking<'c> = Box::pin(tokio::task::unconstrained(asking));
        Self {
            gate,
            asking: Some(asking),
            done: None,
        }
    }

    fn poll(&mut self) {
        let Some(asking) = &mut self.asking else {
            return;
        };
        let mut context = Context::from_waker(Waker::noop());
        if let Poll::Ready(answer) = asking.as_mut().poll(&mut context) {
            self.done = Some(answer);
            self.asking = None;
        }
    }

    /// The read takes its row and checkpoint.
    fn take(&self, answer: Answer<Version>) {
        self.gate.answer.replace(Some(answer));
    }

    /// What was taken arrives.
    fn arrive(&mut self) {
        self.gate
            .let_through
            .set(self.gate.answer.borrow().is_some());
        self.poll();
    }

    fn forget(&mut self) {
        self.asking = None;
    }

    fn is_reading(&self) -> bool {
        self.gate.asked.get() > 0 && self.asking.is_some()
    }
}

/// Polls requests until all are done; the runtime's clock goes on meanwhile.
async fn finish(requests: &mut [Request<'_>]) {
    let until = Instant::now() + LONG;
    while requests.iter().any(|request| request.asking.is_some()) {
        requests.iter_mut().for_each(Request::poll);
        assert!(Instant::now() < until, "requests hang");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

#[tokio::test]
async fn one_read_is_in_flight_however_many_ask_and_all_share_its_answer() {
    let cache = cache(1);
    cache.start(0, 0);
    let gate = Rc::new(Gate::default());
    let mut requests: Vec<_> = (0..100)
        .map(|_| Request::through(&gate, &cache, wanted("ann")))
        .collect();
    requests.iter_mut().for_each(Request::poll);
    assert_eq!(gate.asked.get(), 1);
    requests[0].take(Ok(row(3)));
    requests[0].arrive();
    finish(&mut requests).await;
    for request in requests {
        let got = request.done.unwrap().unwrap();
        assert_eq!((got.value, got.hit), (Some(Version(3)), false));
    }
    assert_eq!(gate.asked.get(), 1);
    assert_eq!(cache.metrics.misses.get(), 1);
    assert_eq!(cache.metrics.shared.get(), 99);
    assert!(cache.get(wanted("ann"), || gate.read()).await.unwrap().hit);
}

#[tokio::test]
async fn a_failed_read_fails_for_all_who_wait_and_is_forgotten() {
    let cache = cache(1);
    cache.start(0, 0);
    let gate = Rc::new(Gate::default());
    let mut requests: Vec<_> = (0..10)
        .map(|_| Request::through(&gate, &cache, wanted("ann")))
        .collect();
    requests.iter_mut().for_each(Request::poll);
    requests[0].take(Err(Arc::new(sqlx::Error::PoolTimedOut)));
    requests[0].arrive();
    assert!(!has_entry(&cache, "ann"));
    finish(&mut requests).await;
    for request in requests {
        let error = request.done.unwrap().unwrap_err();
        assert!(matches!(error, GetError::Postgres(_)), "{error:?}");
    }
    assert_eq!(gate.asked.get(), 1);
    gate.open.set(Some(0));
    let got = cache.get(wanted("ann"), || gate.read()).await.unwrap();
    assert_eq!(
        got,
        Got {
            value: None,
            hit: false
        }
    );
}

#[tokio::test]
async fn when_who_reads_is_dropped_another_takes_over() {
    let cache = cache(1);
    cache.start(0, 0);
    let mut requests: Vec<_> = (0..3)
        .map(|_| Request::new(&cache, wanted("ann")))
        .collect();
    requests.iter_mut().for_each(Request::poll);
    let asked = |requests: &[Request<'_>]| {
        let asked = requests.iter().map(|request| request.gate.asked.get());
        asked.collect::<Vec<_>>()
    };
    assert_eq!(asked(&requests), [1, 0, 0]);
    requests[0].forget();
    assert!(!has_entry(&cache, "ann"));
    // Whoever comes first.
    requests[2].poll();
    requests[2].poll();
    requests[1].poll();
    requests[1].poll();
    assert_eq!(asked(&requests), [1, 0, 1]);
    requests[2].take(Ok(row(1)));
    requests[2].arrive();
    finish(&mut requests).await;
    assert_eq!(asked(&requests), [1, 0, 1]);
    assert_eq!(
        requests[1].done.take().unwrap().unwrap().value,
        Some(Version(1))
    );
    assert_eq!(kept(&cache, "ann"), Some(Some(Version(1))));
}

#[tokio::test]
async fn a_negative_answer_is_kept_until_the_tail_meets_the_key() {
    let cache = cache(1);
    cache.start(0, 5);
    let reads = Cell::new(0);
    let read = || {
        reads.set(reads.get() + 1);
        async { Ok((None, 5)) }
    };
    for hit in [false, true, true] {
        let got = cache.get(wanted("ann"), read).await.unwrap();
        assert_eq!(got, Got { value: None, hit });
    }
    assert_eq!(reads.get(), 1);
    // Another key's record leaves it; its own does not.
    assert!(!cache.begin("bob", 0, 5));
    assert_eq!(kept(&cache, "ann"), Some(None));
    assert!(cache.begin("ann", 0, 6));
    cache.observe("ann", 6, |before| {
        assert_eq!(before, None);
        Some(Version(7))
    });
    let got = cache.get(wanted("ann"), read).await.unwrap();
    assert_eq!(
        got,
        Got {
            value: Some(Version(7)),
            hit: true
        }
    );
    // What is older than the entry does not touch it.
    cache.observe("ann", 6, |_| None);
    assert_eq!(kept(&cache, "ann"), Some(Some(Version(7))));
    assert!(!has_entry(&cache, "bob"), "what is absent stays absent");
}

#[tokio::test]
async fn nothing_is_kept_before_the_tail_starts_nor_after_it_stops() {
    let cache = cache(1);
    let read = || async { Ok(row(9)) };
    let hit = async || cache.get(wanted("ann"), read).await.unwrap().hit;
    assert_eq!(cache.resume(0), None);
    assert!(!hit().await && !hit().await);
    assert!(!has_entry(&cache, "ann"));
    cache.start(0, 9);
    assert_eq!(cache.resume(0), Some(9));
    assert!(!hit().await && hit().await);
    cache.stop();
    assert_eq!(cache.resume(0), None);
    assert!(!cache.passed().has_reached(&[(0, 0)]));
    assert!(!hit().await && !hit().await);
    cache.start(0, 9);
    assert!(!hit().await && hit().await);
    // A partition that there is not is one without a tail.
    let nowhere = Wanted {
        partition: 7,
        ..wanted("bob")
    };
    for _ in 0..2 {
        assert!(!cache.get(nowhere, read).await.unwrap().hit);
    }
}

#[tokio::test]
async fn what_other_tables_have_is_read_from_them() {
    let cache = cache(1);
    cache.start(0, 9);
    let read = || async { Ok(row(9)) };
    let hit = async |key| cache.get(wanted(key), read).await.unwrap().hit;
    assert!(!hit("ann").await && hit("ann").await);
    let mut reading = Request::new(&cache, wanted("bob"));
    reading.poll();
    cache.drop_all();
    assert!(!hit("ann").await && hit("ann").await, "read once more");
    assert_eq!(cache.resume(0), Some(9), "the tail goes on");
    // What was read of the old tables is an answer, and is not kept.
    reading.take(Ok(row(9)));
    reading.arrive();
    assert!(reading.done.is_some());
    assert!(!hit("bob").await && hit("bob").await);
}

/// A value during whose keeping the tail stops.
struct Stopper(Arc<Mutex<Option<Arc<Coherent<Stopper>>>>>);

impl Weight for Stopper {
    fn bytes(&self) -> usize {
        0
    }
}

impl Clone for Stopper {
    fn clone(&self) -> Self {
        let cache = self.0.lock().unwrap().take();
        if let Some(cache) = cache {
            cache.stop();
        }
        Self(Arc::clone(&self.0))
    }
}

#[tokio::test]
async fn a_stop_between_the_last_check_and_the_keeping_is_not_overlooked() {
    let cache = Arc::new(cache(1));
    cache.start(0, 0);
    let trap = Arc::new(Mutex::new(Some(Arc::clone(&cache))));
    let read = || async { Ok((Some(Stopper(Arc::clone(&trap))), 0)) };
    cache.get(wanted("ann"), read).await.unwrap();
    assert!(trap.lock().unwrap().is_none(), "it has stopped");
    cache.start(0, 10);
    assert!(!cache.get(wanted("ann"), read).await.unwrap().hit);
}

#[tokio::test]
async fn a_projection_that_is_behind_is_answered_from_but_not_kept() {
    let cache = cache(1);
    cache.start(0, 8);
    let reads = Cell::new(0);
    let read = || {
        reads.set(reads.get() + 1);
        async { Ok(row(7)) }
    };
    let got = cache.get(wanted("ann"), read).await.unwrap();
    assert_eq!(
        got,
        Got {
            value: Some(Version(7)),
            hit: false
        }
    );
    assert!(
        reads.get() > 1,
        "it tries to get an answer that it can keep"
    );
    assert!(!has_entry(&cache, "ann"));
}

#[tokio::test]
async fn a_position_that_is_demanded_is_waited_for_until_the_deadline() {
    let cache = cache(2);
    cache.start(0, 8);
    for partition in [0, 1] {
        let demanding = |deadline| Wanted {
            partition,
            next_offset: 8,
            deadline: Instant::now() + deadline,
            read_again: true,
            ..wanted("ann")
        };
        let behind = || async { Ok(row(7)) };
        let soon = Duration::from_millis(60);
        let late = cache.get(demanding(soon), behind).await.unwrap_err();
        assert!(matches!(late, GetError::Late), "{late:?}");
        assert!(!has_entry(&cache, "ann"));
        // It catches up while somebody waits.
        let committed = Cell::new(0);
        let catches_up = || {
            committed.set(committed.get() + 1);
            let committed = committed.get();
            async move { Ok(row(committed)) }
        };
        let got = cache.get(demanding(LONG), catches_up).await.unwrap();
        assert_eq!(
            got,
            Got {
                value: Some(Version(8)),
                hit: false
            }
        );
        cache.stop();
    }
}

#[tokio::test]
async fn who_demands_more_than_the_read_gave_reads_again() {
    let cache = cache(1);
    let modest = wanted("ann");
    let demanding = Wanted {
        next_offset: 5,
        ..modest
    };
    let mut requests = [
        Request::new(&cache, modest),
        Request::new(&cache, demanding),
    ];
    requests.iter_mut().for_each(Request::poll);
    requests[0].take(Ok(row(4)));
    requests[0].arrive();
    requests[1].gate.open.set(Some(5));
    finish(&mut requests).await;
    let values = requests.map(|request| request.done.unwrap().unwrap().value);
    assert_eq!(values, [Some(Version(4)), Some(Version(5))]);
}

#[tokio::test]
async fn a_record_without_a_key_is_waited_for_like_any_other() {
    let cache = cache(1);
    cache.start(0, 4);
    // The tail has passed offset 4 and had nothing to begin.
    cache.pass(std::iter::once((0, 5)));
    let reads = Cell::new(3);
    let read = || {
        reads.set(reads.get() + 1);
        let committed = reads.get();
        async move { Ok(row(committed)) }
    };
    let demanding = Wanted {
        next_offset: 5,
        ..wanted("ann")
    };
    let got = cache.get(demanding, read).await.unwrap();
    assert_eq!(got.value, Some(Version(5)));
    assert_eq!(kept(&cache, "ann"), Some(Some(Version(5))));
}

#[tokio::test]
async fn a_read_that_hangs_is_late_for_all_and_leaves_nothing() {
    let cache = cache(1);
    cache.start(0, 0);
    let soon = Wanted {
        deadline: Instant::now() + Duration::from_millis(30),
        read_again: true,
        ..wanted("ann")
    };
    let mut requests = [Request::new(&cache, soon), Request::new(&cache, soon)];
    requests.iter_mut().for_each(Request::poll);
    finish(&mut requests).await;
    for request in requests {
        assert!(matches!(request.done, Some(Err(GetError::Late))));
    }
    assert!(!has_entry(&cache, "ann"));
}

#[derive(Clone)]
struct Heavy(Arc<[u8]>);

impl Weight for Heavy {
    fn bytes(&self) -> usize {
        self.0.len()
    }
}

#[tokio::test]
async fn the_byte_limit_holds() {
    const LIMIT: u64 = 1 << 20;
    let cache = Coherent::new(1, room_for(LIMIT), CacheMetrics::default());
    cache.start(0, 0);
    let read = || async { Ok((Some(Heavy(vec![7; 1_000].into())), 0)) };
    for number in 0..20_000 {
        let key = format!("key-{number}");
        cache.get(wanted(&key), read).await.unwrap();
    }
    cache.entries.run_pending_tasks();
    let weight = cache.entries.weighted_size();
    assert!(weight <= LIMIT, "{weight}");
    assert!(weight > LIMIT / 2, "{weight}");
    // One that does not fit is answered all the same.
    let huge = || async { Ok((Some(Heavy(vec![7; 2 << 20].into())), 0)) };
    for _ in 0..2 {
        let got = cache.get(wanted("huge"), huge).await.unwrap();
        assert_eq!(got.value.unwrap().0.len(), 2 << 20);
    }
    cache.entries.run_pending_tasks();
    assert!(cache.entries.weighted_size() <= LIMIT);
}

#[tokio::test]
async fn what_is_kept_goes_when_its_time_is_over() {
    let bounds = Bounds {
        bytes_max: ROOM,
        ttl: Some(Duration::from_millis(20)),
    };
    let cache = Coherent::new(1, bounds, CacheMetrics::default());
    cache.start(0, 3);
    let until = Instant::now() + LONG;
    let read = || async { Ok(row(3)) };
    let mut hits = 0;
    assert!(!cache.get(wanted("ann"), read).await.unwrap().hit);
    while cache.get(wanted("ann"), read).await.unwrap().hit {
        hits += 1;
        assert!(Instant::now() < until, "kept for ever, {hits} times");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    assert_eq!(cache.metrics.evictions.get(), 0, "not for want of room");
}
