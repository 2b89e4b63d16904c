//! Threads that ask, follow and project for some seconds, in whatever order the machine likes.

use std::{sync::atomic::AtomicBool, thread};

use super::*;

const STRESS_PARTITIONS: i32 = 4;
/// Fewer hits and misses than this would say little.
const ENOUGH: u64 = 1_000;
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
    /// Nobody asks any more.
    asked: AtomicBool,
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
            cache: Coherent::new(
                STRESS_PARTITIONS,
                room_for(bytes_max),
                CacheMetrics::default(),
            ),
            rows: Mutex::new(Rows {
                versions: keys.clone().map(|_| 0).collect(),
                checkpoints: vec![0; index(STRESS_PARTITIONS)],
            }),
            floors: keys.map(|_| AtomicI64::new(0)).collect(),
            asked: AtomicBool::new(false),
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
            if round % 500 == 499 {
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

    /// Stops, and starts where the projection is by now.
    fn skip(&self, next: &mut [i64]) {
        self.cache.stop();
        let checkpoints = self.rows.lock().unwrap().checkpoints.clone();
        for (partition, (next, checkpoint)) in (0..).zip(next.iter_mut().zip(checkpoints)) {
            let from = *next;
            *next = checkpoint.max(from);
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
        while !self.asked.load(Ordering::Relaxed) {
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
            threads.spawn(|| self.tail());
            threads.spawn(|| self.project());
            let asking = [1, 2, 3].map(|seed| threads.spawn(move || self.ask_for_long(seed)));
            let until = std::time::Instant::now() + STRESS_FOR;
            let goes_on = || std::time::Instant::now() < until || !self.has_seen_enough();
            while goes_on() && asking.iter().all(|one| !one.is_finished()) {
                thread::sleep(Duration::from_millis(10));
            }
            // The projection goes on for as long as somebody waits for it.
            self.asked.store(true, Ordering::Relaxed);
            let asked = asking.map(thread::ScopedJoinHandle::join);
            self.ended.store(true, Ordering::Relaxed);
            for result in asked {
                result.expect("nothing was wrong");
            }
        });
    }

    /// On a busy machine that takes longer.
    fn has_seen_enough(&self) -> bool {
        let metrics = &self.cache.metrics;
        metrics.hits.get() > ENOUGH && metrics.misses.get() > ENOUGH
    }

    fn ask_for_long(&self, seed: i64) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap();
        runtime.block_on(self.ask(seed));
    }
}

#[test]
fn threads_never_hit_an_old_value() {
    // With room for all, and with room for some, so that entries are thrown out all the time.
    for bytes_max in [ROOM, 20 * 200] {
        let stress = Stress::new(bytes_max);
        stress.run();
    }
}
