//! Users over HTTP: `GET /v1/users?user_id=`, from the cache and from Postgres.
//!
//! *Hits* stand beside a constant body, as the orders' do: the same `millrace run`, middleware, wrk and kind of query (a
//! thousand users in turn), as many bytes and the same headers, which is checked before. Checked after: nothing was read
//! from Postgres, every answer was a hit.
//!
//! *Misses* stand beside `pgbench -M prepared` that reads the same rows over as many connections, one a statement: ten
//! million users (a million in a quick look), each asked for at most once until all of the cache is long gone. Checked
//! after: every answer was a profile, and all but one of a hundred were read from Postgres.
//!
//! * [`import`]: how users come onto the log.

pub mod import;

use std::time::Instant;

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::json;

use crate::{
    hits::{CONNECTIONS, Hits, cache_reads, must_be_alike},
    it::world::{PATIENCE, Process, World},
    output,
    run::{Report, Row, Settings, peak_mb},
    tools::{Turns, pgbench, wrk},
};

/// The row of the hits.
pub const HIT: &str = "user-hit";
/// The row of the misses.
pub const MISS: &str = "user-miss";
/// The row of the import.
pub const IMPORT: &str = "user-import";

/// Users that are asked for again and again.
pub const USERS: usize = 1_000;
/// They in turn.
pub const TURNS: Turns = Turns::Of("user_id=bench%014d", USERS);
/// Users that are not in the cache.
pub const MANY: usize = 10_000_000;
/// Those of `emit user --sample`.
const SAMPLES: &str = "user_id=sample-%d";
/// Connections to Postgres of both sides: what `millrace run` has unless told.
pub const TO_POSTGRES: u32 = 10;
/// What the cache is called.
pub const CACHE: &str = "users";
/// What a miss reads: a user by the primary key, and the checkpoint of the partition.
const SELECT: &str = "SELECT deeplink, promo_message, (
        SELECT next_offset FROM millrace.checkpoints
        WHERE projection = 'users' AND live AND partition = :partition
    ) FROM users.users WHERE user_id = 'sample-' || :user::text";
/// Users that are left out between two runs, at least.
const BETWEEN_RUNS: i64 = 1_000;

/// Measures the hits.
///
/// # Errors
/// If an answer was not the profile, or not from the cache.
pub async fn measure_hits(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_user_hit").await;
    let mut run = world.spawn(&["run"], &[("MILLRACE_BENCH_ROUTES", "true")]);
    run.ready().await;
    output::note(format_args!("{HIT}: sets {USERS} users and warms up"));
    set(&world, &run).await?;
    must_compare(&run).await?;
    let row = Row::new(HIT, "users from the cache", "constant body", Some(0.85));
    let hits = Hits {
        turns: TURNS,
        cache: CACHE,
    };
    let paths = ["/v1/users", "/bench/user"];
    hits.measure_beside(settings, report, row, &run, paths)
        .await?;
    run.terminate().await;
    Ok(())
}

/// A user of [`TURNS`].
pub fn id(number: usize) -> String {
    format!("bench{number:014}")
}

/// Sets the users of [`TURNS`], and waits until they are folded.
///
/// # Errors
/// If one was not set.
pub async fn set(world: &World, run: &Process) -> Result<()> {
    let profile =
        json!({"deeplink": "shop://sale/7", "promo_message": "10 % off everything today"});
    for number in 1..=USERS {
        let path = format!("/v1/users/{}", id(number));
        let answer = run
            .send(run.request(Method::PUT, &path).json(&profile))
            .await;
        ensure!(answer.status == 200, "{path}: {answer:?}");
    }
    world.caught_up(CACHE).await;
    Ok(())
}

/// Each answer is a profile, and the constant one differs in nothing that costs.
async fn must_compare(run: &Process) -> Result<()> {
    let constant = run.get("/bench/user").await;
    for number in 1..=USERS {
        let path = format!("/v1/users?user_id={}", id(number));
        run.get(&path).await;
        let answer = run.get(&path).await;
        ensure!(
            answer.status == 200 && answer.json()["message"] == "ok:cache",
            "{path}: {answer:?}"
        );
        must_be_alike(&answer, &constant)?;
    }
    Ok(())
}

/// Measures the misses.
///
/// # Errors
/// If an answer was no profile, or too many were from the cache.
pub async fn measure_misses(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_user_miss").await;
    let count = settings.amount(MANY);
    let connections = TO_POSTGRES.to_string();
    let mut run = world.spawn(&["run"], &[("PG_MAX_CONNS", &connections)]);
    run.ready().await;
    import::fold_samples(&world, &run, count, report).await?;
    let script =
        format!("\\set user random(1, {count})\n\\set partition random(0, 7)\n{SELECT};\n");
    let mut misses = Misses::new(run.address(), count);
    output::note(format_args!("{MISS}: warms up"));
    // Postgres may still be busy with what was imported.
    let until = Instant::now() + PATIENCE;
    while let Err(error) = misses.ask(1).await {
        ensure!(Instant::now() < until, error);
    }
    pgbench(&world, &script, TO_POSTGRES, 1).await?;
    let before = cache_reads(&run, CACHE).await;
    let row = Row::new(MISS, "users from Postgres", "pgbench", Some(0.5));
    let row = row
        .alternate(
            settings.pairs,
            async || misses.ask(settings.seconds).await,
            async || pgbench(&world, &script, TO_POSTGRES, settings.seconds).await,
        )
        .await?;
    let after = cache_reads(&run, CACHE).await;
    let (hits, others) = (after.0 - before.0, after.1 - before.1);
    ensure!(
        hits * 100 <= others,
        "{hits} hits, and {others} reads of Postgres"
    );
    report.add(row);
    report.took(MISS, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// Asks for users who are in no cache: for each of many at most once, in a fixed shuffle.
pub struct Misses {
    url: String,
    count: usize,
    asked_for: i64,
}

impl Misses {
    /// Of so many samples, at this address.
    pub fn new(address: &str, count: usize) -> Self {
        Self {
            url: format!("http://{address}/v1/users"),
            count,
            asked_for: 0,
        }
    }

    /// Asks for a while; gives answers a second.
    ///
    /// # Errors
    /// If a request failed.
    pub async fn ask(&mut self, seconds: u64) -> Result<f64> {
        let turns = Turns::Once(SAMPLES, self.count, self.asked_for);
        let asked = wrk(&self.url, CONNECTIONS, seconds, turns).await?;
        // More were asked for than answered, and not as many by each thread.
        self.asked_for += 2 * asked.answers + BETWEEN_RUNS;
        Ok(asked.rate())
    }
}
