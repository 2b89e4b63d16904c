//! Every order in which the steps of requests, of the tail and of the projection can happen: none leaves a value that
//! is older than what the tail has passed.

use super::*;

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
    log: Log,
    tells: Tells,
    records: i64,
    tail_steps: i64,
    met: bool,
    passed: i64,
    committed: i64,
}

impl<'c> World<'c, Version> {
    fn new(cache: &'c Coherent<Version>, key: &'c str, partition: i32, of: (Log, usize)) -> Self {
        cache.start(partition, 0);
        let (log, records) = of;
        Self {
            cache,
            key,
            partition,
            log,
            tells: Tells::Folds,
            records: i64::try_from(records).unwrap(),
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
            0 if self.tells == Tells::DropsAll => self.cache.begin_all(self.partition, offset),
            0 => self.met = self.cache.begin(self.key, self.partition, offset),
            1 if self.tells == Tells::DropsAll => self.cache.drop_all(),
            1 if self.met && self.tells == Tells::Drops => {
                self.cache.drop_entry(self.key, offset);
            }
            1 if self.met => {
                let log = self.log;
                self.cache
                    .observe(self.key, offset, |before| log.fold(before, offset));
            }
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

    /// Whether the cache holds a value that is older than what the tail has passed: none that the key has from there on.
    fn is_stale(&self) -> bool {
        let mut states = (self.passed..=self.records).map(|records| self.log.row(records).0);
        kept(self.cache, self.key).is_some_and(|value| states.all(|state| state != value))
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

/// A user who is removed without having been there, and then set.
const APPEARS: Log = Log::Last(&[0]);
/// A user who is set and removed.
const VANISHES: Log = Log::Last(&[1]);
/// What domains make of two records; one record is the same to all.
const LOGS: [Log; 4] = [Log::Counted, Log::First, APPEARS, VANISHES];
const ONE: [Log; 1] = [Log::Counted];

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
            Read => self.row = world.log.row(world.committed),
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
fn try_all(steps: [Step; 4], misses: usize, of: (Log, usize)) -> Tried {
    try_all_told(steps, misses, of, Tells::Folds)
}

/// The same where the tail knows less of the records.
fn try_all_told(steps: [Step; 4], misses: usize, of: (Log, usize), tells: Tells) -> Tried {
    let (_, records) = of;
    let cache = cache(1);
    let mut actors = vec![steps.len(); misses];
    actors.extend([3 * records, records]);
    let (mut stale, mut kept_something, mut number) = (0, 0, 0);
    let orders = interleavings(&actors, &mut |order| {
        number += 1;
        let key = format!("key-{number}");
        let mut world = World::new(&cache, &key, 0, of);
        world.tells = tells;
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
    for (misses, records, orders, logs) in [
        (1, 1, 280, &ONE[..]),
        (1, 2, 13_860, &LOGS),
        (2, 1, 138_600, &ONE),
    ] {
        for &log in logs {
            let tried = try_all(RIGHT, misses, (log, records));
            assert_eq!((tried.orders, tried.stale), (orders, 0), "{log:?}");
            assert!(tried.kept > orders / 10, "{log:?}: {tried:?}");
        }
    }
}

#[test]
fn no_order_of_the_steps_leaves_an_old_value_where_the_tail_only_drops() {
    for tells in [Tells::Drops, Tells::DropsAll] {
        for (misses, records, orders) in [(1, 1, 280), (1, 2, 13_860), (2, 1, 138_600)] {
            let tried = try_all_told(RIGHT, misses, (Log::Counted, records), tells);
            assert_eq!((tried.orders, tried.stale), (orders, 0), "{tells:?}");
            // Fewer than where a value is folded: with each record it goes.
            assert!(tried.kept > orders / 20, "{tells:?}: {tried:?}");
        }
        let tried = try_all_told(WRONG, 1, (Log::Counted, 1), tells);
        assert!(tried.stale > 0, "{tells:?}: {tried:?}");
    }
}

#[tokio::test]
async fn what_is_dropped_is_read_again_and_others_stay() {
    let cache = cache(1);
    cache.start(0, 3);
    let read = || async { Ok(row(9)) };
    let hit = async |key| cache.get(wanted(key), read).await.unwrap().hit;
    for key in ["ann", "bob"] {
        assert!(!hit(key).await && hit(key).await);
    }
    // Older than what was read: it is in.
    assert!(cache.begin("ann", 0, 8));
    cache.drop_entry("ann", 8);
    assert!(hit("ann").await);
    assert!(cache.begin("ann", 0, 9));
    cache.drop_entry("ann", 9);
    assert!(!has_entry(&cache, "ann"));
    assert!(hit("bob").await);
    cache.begin_all(0, 10);
    cache.drop_all();
    assert_eq!(kept(&cache, "bob"), None);
    // The projection has yet to come to these records.
    assert!(!hit("bob").await && !hit("bob").await);
    let read = || async { Ok(row(11)) };
    let hit = async |key| cache.get(wanted(key), read).await.unwrap().hit;
    for key in ["ann", "bob"] {
        assert!(!hit(key).await && hit(key).await);
    }
    cache.forget("ann");
    assert!(!hit("ann").await && hit("bob").await);
}

#[test]
fn a_placeholder_put_too_late_leaves_old_values() {
    let tried = try_all(WRONG, 1, (Log::Counted, 1));
    assert_eq!(tried.orders, 280);
    assert!(tried.stale > 0, "{tried:?}");
    for log in LOGS {
        let tried = try_all(WRONG, 1, (log, 2));
        assert!(tried.stale > 0, "{log:?}: {tried:?}");
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
    let row = |records| request.gate.log.get().row(records);
    match told {
        Told::Start => request.poll(),
        Told::Take if request.is_reading() => request.take(Ok(row(committed))),
        Told::Take => request.poll(),
        Told::Arrive => request.arrive(),
        Told::Forget => request.forget(),
    }
}

/// Tries every order of whole requests among tail and projection. Gives how many orders there are.
async fn try_requests(scripts: &[&'static [Told]], of: (Log, usize)) -> u64 {
    let (log, records) = of;
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
            requests.extend(try_one(&cache, partition, order, scripts, of));
        }
        let all = log.row(i64::try_from(records).unwrap());
        finish(&mut requests).await;
        for request in &requests {
            assert!(!matches!(request.done, Some(Err(_))), "{:?}", request.done);
        }
        for (partition, order) in orders.iter().enumerate() {
            let key = key_of(partition);
            let got = kept(&cache, key);
            let is_left_behind = got.is_none() && has_entry(&cache, key);
            assert!(!is_left_behind, "a placeholder: {order:?}");
            assert!(got.is_none_or(|got| got == all.0), "{log:?} {order:?}");
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
    of: (Log, usize),
) -> Vec<Request<'c>> {
    let key = key_of(usize::try_from(partition).unwrap());
    let mut world = World::new(cache, key, partition, of);
    let wanted = Wanted {
        partition,
        ..wanted(key)
    };
    let mut requests: Vec<_> = scripts
        .iter()
        .map(|_| Request::new(cache, wanted))
        .collect();
    for request in &requests {
        request.gate.log.set(world.log);
    }
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
        assert!(!world.is_stale(), "{:?} {order:?}", world.log);
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
        let logs = if records == 1 { &ONE[..] } else { &LOGS };
        for &log in logs {
            assert_eq!(try_requests(scripts, (log, records)).await, orders);
        }
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

/// What happens when a value is looked at.
type Happening = Box<dyn FnOnce() + Send>;

/// A value that lets something happen when it is looked at, once: that is, cloned.
struct Watched(Arc<Mutex<Option<Happening>>>);

impl Clone for Watched {
    fn clone(&self) -> Self {
        let happening = self.0.lock().unwrap().take();
        happening.into_iter().for_each(|happen| happen());
        Self(Arc::clone(&self.0))
    }
}

impl Weight for Watched {
    fn bytes(&self) -> usize {
        0
    }
}

#[tokio::test]
async fn a_record_that_comes_just_before_the_placeholder_is_not_overlooked() {
    let cache = Arc::new(cache::<Watched>(1));
    cache.start(0, 1);
    let looked_at = Arc::new(Mutex::new(None));
    // An entry of an earlier life: a miss looks at it, and then puts its placeholder.
    let old = || async { Ok((Some(Watched(Arc::clone(&looked_at))), 1)) };
    cache.get(wanted("ann"), old).await.unwrap();
    cache.life.fetch_add(1, Ordering::SeqCst);
    let tail = Arc::clone(&cache);
    *looked_at.lock().unwrap() = Some(Box::new(move || {
        tail.begin("ann", 0, 1);
        tail.observe("ann", 1, |value| value);
        tail.pass(std::iter::once((0, 2)));
    }));
    // The projection has not come to this record.
    let before = || async { Ok((None, 1)) };
    cache.get(wanted("ann"), before).await.unwrap();
    assert!(looked_at.lock().unwrap().is_none(), "the record came");
    assert!(kept(&cache, "ann").is_none(), "the state before it is kept");
}

#[test]
fn an_answer_is_kept_in_its_own_placeholder_alone() {
    let cache = cache::<Version>(1);
    cache.start(0, 0);
    let claim = || match cache.claim("ann") {
        Claim::Mine(placeholder) => placeholder,
        _ => panic!("somebody else reads"),
    };
    let first = claim();
    // Thrown out for want of room: so the tail does not meet it.
    cache.entries.invalidate("ann");
    assert!(!cache.begin("ann", 0, 0));
    let second = claim();
    first.keep(&None, 0);
    assert!(kept(&cache, "ann").is_none(), "the state before the record");
    drop(first);
    second.keep(&Some(Version(1)), 1);
    assert_eq!(kept(&cache, "ann"), Some(Some(Version(1))));
}
