//! The one place where time and chance enter the system. Everything else takes them as arguments.

use std::time::{SystemTime, UNIX_EPOCH};

use rand::{
    SeedableRng,
    distr::{Distribution, StandardUniform},
    rngs::StdRng,
};
use uuid::Uuid;

/// Now, in milliseconds since 1970-01-01T00:00:00Z.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the edge at which time enters"
)]
pub fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| {
        i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
    })
}

/// A new event id: UUIDv7, so ids sort by time.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the edge at which time and chance enter"
)]
pub fn event_id() -> Uuid {
    Uuid::now_v7()
}

/// A number that nobody has had before, if its type is large enough.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the edge at which chance enters"
)]
pub fn chance<T>() -> T
where
    StandardUniform: Distribution<T>,
{
    rand::random()
}

/// A generator that repeats itself for the same seed; without a seed, one of its own.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the edge at which chance enters"
)]
pub fn generator(seed: Option<u64>) -> StdRng {
    match seed {
        Some(seed) => StdRng::seed_from_u64(seed),
        None => StdRng::from_rng(&mut rand::rng()),
    }
}
