//! The promise of the cache, tried in every order in which its steps can happen, and then by threads.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::{Mutex, atomic::AtomicBool},
    task::{Context, Poll, Waker},
    thread,
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
    Coherent::new(partitions, ROOM, CacheMetrics::default())
}

fn wanted(key: &str) -> Wanted<'_> {
    Wanted {
        key,
        partition: 0,
        next_offset: 0,
        deadline: Instant::now() + LONG,
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
    ((records > 0).then_some(Version(records)), records)
}

/// Calls `run` with every order of the steps of some actors; `steps` says how many each has.
fn interleavings(steps: &[usize], run: &mut impl FnMut(&[usize])) -> u64 {
    fn go(left: &mut [usize], order: &mut Vec<usize>, run: &mut impl FnMut(&[usize])) -> u64 {
        let mut count = 0;
        for actor in 0..left.len() {
            if left[actor] == 0 {
                continue;
            }
            left[actor] -= 1;
            order.push(actor);
            count += go(left, order, run);
            order.pop();
            left[actor] += 1;
        }
        if left.iter().all(|&left| left == 0) {
            run(order);
            return 1;
        }
        count
    }
    go(&mut steps.to_vec(), &mut Vec::new(), run)
}

/// The tail and the projection of one partition whose records are all of one key.
struct World<'c, V: Weight> {
    cache: &'c Coherent<V>,
    key: &'c str,
    partition: i32,
    tail_steps: i64,
    met: bool,
    passed: i64,
    committed: i64,
}

impl<'c> World<'c, Version> {
    fn new(cache: &'c Coherent<Version>, key: &'c str, partition: i32) -> Self {
        cache.start(partition, 0);
        Self {
            cache,
            key,
            partition,
            tail_steps: 0,
            met: false,
            passed: 0,
            committed: 0,
        }
    }

    /// Begin, observe, pass; and again.
    fn tail_step(&mut self) {
        let offset = self.tail_steps / 3;
        match self.tail_steps % 3 {
            0 => self.met = self.cache.begin(self.key, self.partition, offset),
            1 if self.met => self.cache.observe(self.key, offset, |before| {
                assert!(before.unwrap_or(Version(0)) <= Version(offset));
                Some(Version(offset + 1))
            }),
            1 => {}
            _ => {
                self.passed = offset + 1;
                let reached = (self.partition, self.passed);
                self.cache.pass(std::iter::once(reached));
            }
        }
        self.tail_steps += 1;
    }

    fn commit(&mut self) {
        self.committed += 1;
    }

    /// Whether the cache holds a value that is older than what the tail has passed.
    fn is_stale(&self) -> bool {
        let kept = kept(self.cache, self.key);
        kept.is_some_and(|value| value.map_or(0, |version| version.0) < self.passed)
    }
}

/// The steps of a miss.
#[derive(Clone, Copy)]
enum Step {
    Put,
    Begun,
    Read,
    Fill,
}

use Step::{Begun, Fill, Put, Read};

/// How `get` does it.
const RIGHT: [Step; 4] = [Put, Begun, Read, Fill];
/// And how it must not.
const WRONG: [Step; 4] = [Begun, Put, Read, Fill];

#[derive(Default)]
struct Miss<'c> {
    placeholder: Option<Placeholder<'c, Version>>,
    begun: i64,
    row: Row,
}

impl<'c> Miss<'c> {
    fn step(&mut self, step: Step, world: &World<'c, Version>) {
        match step {
            Put => {
                if let Claim::Mine(placeholder) = world.cache.claim(world.key) {
                    self.placeholder = Some(placeholder);
                }
            }
            Begun => self.begun = world.cache.begun(world.partition),
            Read => self.row = row(world.committed),
            Fill => {
                let (value, reached) = &self.row;
                if let Some(placeholder) = self.placeholder.take()
                    && *reached >= self.begun
                {
                    placeholder.keep(value, *reached);
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Tried {
    orders: u64,
    /// In so many of them an old value was there at some time.
    stale: u64,
    /// In so many of them a value was kept.
    kept: u64,
}

/// Tries every order of the steps of misses, tail and projection, and looks after each step.
fn try_all(steps: [Step; 4], misses: usize, records: usize) -> Tried {
    let cache = cache(1);
    let mut actors = vec![steps.len(); misses];
    actors.extend([3 * records, records]);
    let (mut stale, mut kept_something, mut number) = (0, 0, 0);
    let orders = interleavings(&actors, &mut |order| {
        number += 1;
        let key = format!("key-{number}");
        let mut world = World::new(&cache, &key, 0);
        let mut begun: Vec<_> = (0..misses).map(|_| (Miss::default(), 0)).collect();
        let (mut was_stale, mut was_kept) = (false, false);
        for &actor in order {
            match begun.get_mut(actor) {
                Some((miss, at)) => {
                    miss.step(steps[*at], &world);
                    *at += 1;
                }
                None if actor == misses => world.tail_step(),
                None => world.commit(),
            }
            was_stale |= world.is_stale();
            was_kept |= kept(&cache, &key).is_some();
        }
        stale += u64::from(was_stale);
        kept_something += u64::from(was_kept);
    });
    Tried {
        orders,
        stale,
        kept: kept_something,
    }
}

#[test]
fn no_order_of_the_steps_leaves_an_old_value() {
    for (misses, records, orders) in [(1, 1, 280), (1, 2, 13_860), (2, 1, 138_600)] {
        let tried = try_all(RIGHT, misses, records);
        assert_eq!((tried.orders, tried.stale), (orders, 0));
        assert!(tried.kept > orders / 10, "{tried:?}");
    }
}

#[test]
fn a_placeholder_put_too_late_leaves_old_values() {
    let tried = try_all(WRONG, 1, 1);
    assert_eq!(tried.orders, 280);
    assert!(tried.stale > 0, "{tried:?}");
}

/// A read that waits until it is let through, step by step.
#[derive(Default)]
struct Gate {
    asked: Cell<u32>,
    answer: RefCell<Option<Answer<Version>>>,
    let_through: Cell<bool>,
    /// From now on reads are answered at once.
    open: Cell<Option<i64>>,
}

impl Gate {
    async fn read(&self) -> Answer<Version> {
        self.asked.set(self.asked.get() + 1);
        poll_fn(|_| {
            if let Some(records) = self.open.get() {
                return Poll::Ready(Ok(row(records)));
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

/// What requests are told to do, one after the other.
#[derive(Clone, Copy)]
enum Told {
    Start,
    Take,
    Arrive,
    Forget,
}

const WHOLE: &[Told] = &[Told::Start, Told::Take, Told::Arrive];
const DROPPED: &[Told] = &[Told::Start, Told::Forget];
const DROPPED_LATE: &[Told] = &[Told::Start, Told::Take, Told::Forget];

fn tell(request: &mut Request<'_>, told: Told, committed: i64) {
    match told {
        Told::Start => request.poll(),
        Told::Take if request.is_reading() => request.take(Ok(row(committed))),
        Told::Take => request.poll(),
        Told::Arrive => request.arrive(),
        Told::Forget => request.forget(),
    }
}

/// Tries every order of whole requests among tail and projection. Gives how many orders there are.
async fn try_requests(scripts: &[&'static [Told]], records: usize) -> u64 {
    /// Waits of many orders go on at once.
    const AT_ONCE: usize = 2_000;
    let mut actors: Vec<_> = scripts.iter().map(|script| script.len()).collect();
    actors.extend([3 * records, records]);
    let mut orders = Vec::new();
    let count = interleavings(&actors, &mut |order| orders.push(order.to_vec()));
    for orders in orders.chunks(AT_ONCE) {
        let cache = cache(i32::try_from(orders.len()).unwrap());
        let mut requests = Vec::new();
        for (order, partition) in orders.iter().zip(0..) {
            // A partition of its own, so that what one tail has begun does not touch the others.
            requests.extend(try_one(&cache, partition, order, scripts));
        }
        let all = row(i64::try_from(records).unwrap());
        finish(&mut requests).await;
        for request in &requests {
            assert!(!matches!(request.done, Some(Err(_))), "{:?}", request.done);
        }
        for partition in 0..orders.len() {
            let key = key_of(partition);
            let got = kept(&cache, key);
            assert!(
                got.is_none_or(|got| got == all.0),
                "{:?}",
                orders[partition]
            );
            let waits = has_entry(&cache, key) && kept(&cache, key).is_none();
            assert!(!waits, "a placeholder was left behind");
        }
    }
    count
}

/// Names of keys that live as long as the requests that look for them.
fn key_of(number: usize) -> &'static str {
    static KEYS: std::sync::OnceLock<Vec<String>> = std::sync::OnceLock::new();
    &KEYS.get_or_init(|| (0..10_000).map(|number| format!("key-{number}")).collect())[number]
}

fn try_one<'c>(
    cache: &'c Coherent<Version>,
    partition: i32,
    order: &[usize],
    scripts: &[&'static [Told]],
) -> Vec<Request<'c>> {
    let key = key_of(usize::try_from(partition).unwrap());
    let mut world = World::new(cache, key, partition);
    let wanted = Wanted {
        partition,
        ..wanted(key)
    };
    let mut requests: Vec<_> = scripts
        .iter()
        .map(|_| Request::new(cache, wanted))
        .collect();
    let mut at = vec![0; scripts.len()];
    for &actor in order {
        if actor < scripts.len() {
            tell(
                &mut requests[actor],
                scripts[actor][at[actor]],
                world.committed,
            );
            at[actor] += 1;
        } else if actor == scripts.len() {
            world.tail_step();
        } else {
            world.commit();
        }
        assert!(!world.is_stale(), "{order:?}");
    }
    for request in &requests {
        request.gate.open.set(Some(world.committed));
    }
    requests
}

#[tokio::test]
async fn no_order_of_whole_requests_leaves_an_old_value() {
    for (scripts, records, orders) in [
        (&[WHOLE][..], 1, 140),
        (&[WHOLE], 2, 4_620),
        (&[WHOLE, WHOLE], 1, 16_800),
        (&[DROPPED, WHOLE], 1, 2_520 * 2),
        (&[DROPPED_LATE, WHOLE], 1, 16_800),
        (&[DROPPED, DROPPED_LATE], 1, 2_520 * 2),
    ] {
        assert_eq!(try_requests(scripts, records).await, orders);
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
async fn what_was_read_across_a_stop_is_not_kept() {
    let cache = cache(1);
    for stops_before in [Told::Start, Told::Take, Told::Arrive] {
        for starts_again in [false, true] {
            cache.start(0, 3);
            let mut request = Request::new(&cache, wanted("ann"));
            for told in WHOLE {
                if std::mem::discriminant(told) == std::mem::discriminant(&stops_before) {
                    cache.stop();
                    if starts_again {
                        cache.start(0, 5);
                    }
                }
                tell(&mut request, *told, 3);
            }
            request.gate.open.set(Some(5));
            finish(std::slice::from_mut(&mut request)).await;
            let kept = kept(&cache, "ann");
            assert!(kept.is_none_or(|kept| starts_again && kept == Some(Version(5))));
            cache.stop();
        }
    }
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
    let cache = Coherent::new(1, LIMIT, CacheMetrics::default());
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

const STRESS_PARTITIONS: i32 = 4;
const STRESS_KEYS: i64 = 97;
const STRESS_FOR: Duration = Duration::from_secs(3);

/// Rows and checkpoints of the projection.
struct Rows {
    versions: Vec<i64>,
    checkpoints: Vec<i64>,
}

/// A log in which every record's key follows from its place, and threads that read and write around a cache.
struct Stress {
    cache: Coherent<Version>,
    rows: Mutex<Rows>,
    /// Per key, the newest record that a tail has passed: no hit may be older.
    floors: Vec<AtomicI64>,
    ended: AtomicBool,
}

/// Scrambles a number (SplitMix64): chance that can be repeated.
fn scramble(number: i64) -> i64 {
    let mut bits = number.cast_unsigned().wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (bits >> 1).cast_signed()
}

/// Keys live in one partition each.
fn partition_of(key: i64) -> i32 {
    i32::try_from(key).unwrap() % STRESS_PARTITIONS
}

/// The key of a record: of those of its partition, any; the first most often.
fn key_at(partition: i32, offset: i64) -> i64 {
    let chance = scramble(offset * 31 + i64::from(partition));
    let within = STRESS_KEYS / i64::from(STRESS_PARTITIONS);
    let nth = if chance % 3 == 0 { 0 } else { chance % within };
    i64::from(partition) + nth * i64::from(STRESS_PARTITIONS)
}

fn index(number: impl TryInto<usize, Error: std::fmt::Debug>) -> usize {
    number.try_into().unwrap()
}

impl Stress {
    fn new(bytes_max: u64) -> Self {
        let keys = 0..STRESS_KEYS;
        Self {
            cache: Coherent::new(STRESS_PARTITIONS, bytes_max, CacheMetrics::default()),
            rows: Mutex::new(Rows {
                versions: keys.clone().map(|_| 0).collect(),
                checkpoints: vec![0; index(STRESS_PARTITIONS)],
            }),
            floors: keys.map(|_| AtomicI64::new(0)).collect(),
            ended: AtomicBool::new(false),
        }
    }

    fn goes_on(&self) -> bool {
        !self.ended.load(Ordering::Relaxed)
    }

    /// Commits batches, now before and now after the tail meets their records.
    fn project(&self) {
        for round in 0.. {
            if !self.goes_on() {
                return;
            }
            let partition = i32::try_from(scramble(round) % 4).unwrap();
            let mut rows = self.rows.lock().unwrap();
            let from = rows.checkpoints[index(partition)];
            let to = from + 1 + scramble(round + 7) % 5;
            for offset in from..to {
                rows.versions[index(key_at(partition, offset))] = offset + 1;
            }
            rows.checkpoints[index(partition)] = to;
            drop(rows);
            if round % 8 == 0 {
                thread::yield_now();
            }
        }
    }

    /// Follows the projection, a little behind or ahead; sometimes stops, and starts further on.
    fn tail(&self) {
        let mut next = vec![0; index(STRESS_PARTITIONS)];
        for partition in 0..STRESS_PARTITIONS {
            self.cache.start(partition, 0);
        }
        for round in 0.. {
            if !self.goes_on() {
                return;
            }
            if round % 20_000 == 19_999 {
                self.skip(&mut next);
            }
            let partition = i32::try_from(scramble(round) % 4).unwrap();
            let ahead = scramble(round + 3) % 12 - 4;
            let to = self.rows.lock().unwrap().checkpoints[index(partition)] + ahead;
            let next = &mut next[index(partition)];
            let from = *next;
            for offset in from..to.min(from + 50) {
                self.meet(key_at(partition, offset), partition, offset);
                *next = offset + 1;
            }
            self.pass(partition, from, *next);
        }
    }

    fn meet(&self, key: i64, partition: i32, offset: i64) {
        let name = key.to_string();
        if self.cache.begin(&name, partition, offset) {
            let fold = |_| Some(Version(offset + 1));
            self.cache.observe(&name, offset, fold);
        }
    }

    fn pass(&self, partition: i32, from: i64, to: i64) {
        self.cache.pass(std::iter::once((partition, to)));
        for offset in from..to {
            let floor = &self.floors[index(key_at(partition, offset))];
            floor.fetch_max(offset + 1, Ordering::SeqCst);
        }
    }

    fn skip(&self, next: &mut [i64]) {
        self.cache.stop();
        for (next, partition) in next.iter_mut().zip(0..) {
            let from = *next;
            *next += 40;
            self.cache.start(partition, *next);
            self.pass(partition, from, *next);
        }
    }

    async fn read(&self, key: i64, slowly: bool) -> Answer<Version> {
        if slowly {
            tokio::task::yield_now().await;
        }
        let (version, reached) = {
            let rows = self.rows.lock().unwrap();
            let reached = rows.checkpoints[index(partition_of(key))];
            (rows.versions[index(key)], reached)
        };
        if slowly {
            tokio::task::yield_now().await;
            thread::yield_now();
        }
        Ok(((version > 0).then_some(Version(version)), reached))
    }

    /// Asks for random keys, several at once; drops some requests in the middle.
    async fn ask(&self, seed: i64) {
        let mut round = seed << 32;
        while self.goes_on() {
            round += 8;
            let asked = |nth| self.ask_one(round + nth);
            let _ = tokio::join!(asked(0), asked(1), asked(2), asked(3));
            // Dropped where it is.
            tokio::select! {
                biased;
                () = asked(4) => {}
                () = tokio::task::yield_now() => {}
            }
        }
    }

    async fn ask_one(&self, round: i64) {
        let key = scramble(round) % STRESS_KEYS;
        let key = if round % 4 == 0 { key % 4 } else { key };
        let name = key.to_string();
        let floor = self.floors[index(key)].load(Ordering::SeqCst);
        let demands = scramble(round + 1) % 5 == 0;
        let wanted = Wanted {
            partition: partition_of(key),
            next_offset: if demands { floor } else { 0 },
            ..wanted(&name)
        };
        let slowly = scramble(round + 2) % 2 == 0;
        let got = self.cache.get(wanted, || self.read(key, slowly)).await;
        let got = got.expect("nothing is late");
        let version = got.value.map_or(0, |version| version.0);
        assert!(
            version >= floor || !(got.hit || demands),
            "key {key}: {version} after {floor} was passed, hit: {}",
            got.hit
        );
    }

    fn run(&self) {
        thread::scope(|threads| {
            let mut others = vec![
                threads.spawn(|| self.tail()),
                threads.spawn(|| self.project()),
            ];
            for seed in 1..=3 {
                others.push(threads.spawn(move || {
                    let runtime = tokio::runtime::Builder::new_current_thread()
                        .enable_time()
                        .build()
                        .unwrap();
                    runtime.block_on(self.ask(seed));
                }));
            }
            let until = std::time::Instant::now() + STRESS_FOR;
            while std::time::Instant::now() < until && others.iter().all(|one| !one.is_finished()) {
                thread::sleep(Duration::from_millis(10));
            }
            self.ended.store(true, Ordering::Relaxed);
        });
    }
}

#[test]
fn threads_never_hit_an_old_value() {
    // With room for all, and with room for some, so that entries are thrown out all the time.
    for bytes_max in [ROOM, 20 * 200] {
        let stress = Stress::new(bytes_max);
        stress.run();
        let metrics = &stress.cache.metrics;
        let counts = (
            metrics.hits.get(),
            metrics.misses.get(),
            metrics.shared.get(),
        );
        assert!(counts.0 > 1_000 && counts.1 > 1_000, "{counts:?}");
        println!("hits, misses, shared: {counts:?}");
    }
}
