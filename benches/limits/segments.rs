//! Segments over HTTP: `GET /segment/user?id=` from the cache, and changes that the projection decides.
//!
//! *Hits* stand beside a constant body, as the orders' do: the same `millrace run`, middleware, wrk and kind of query (a
//! thousand users in turn), as many bytes and the same headers, which is checked before. Callers are not counted: there
//! is one. Checked after: nothing was read from Postgres, every answer was a hit.
//!
//! *Changes* are asked for as fast as they come over some connections, to find the most; then at half of that, each at a
//! fixed time whatever became of those before it, and its time runs from when it was due. They stand beside what none of
//! them can do without: the age of a batch, and one commit, as pgbench measures it. Told is also how long a bare append and
//! its consumer take at that rate, on a topic with the same settings. Checked after: every change has an answer, a record
//! and a verdict, and no key has two.
//!
//! *A report* of ten million rows (a million in a quick look) is taken once. Told are how long it takes, and how much
//! memory `millrace run` takes more. Checked: every row came.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Method};
use serde_json::json;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use crate::{
    bare::append_and_tail,
    hits::{CONNECTIONS, Hits, must_be_alike},
    it::world::{Process, World, http::Answer},
    output,
    run::{Latency, Report, Row, Settings, median, peak_mb, rounded},
    tools::{Turns, pgbench, wrk_keyed},
};

/// The row of the hits.
pub const HIT: &str = "segment-hit";
/// The row of the changes.
pub const CHANGES: &str = "segments";
/// The row of a report.
pub const REPORT: &str = "segment-report";

/// Users that are asked for again and again.
const USERS: usize = 1_000;
/// All of as many digits.
const TURNS: Turns = Turns::Of("id=1%06d", USERS);
const CACHE: &str = "segments";
const TOPIC: &str = "segments";
const KEY: &str = "idempotency-key";
/// How long a batch of a fold waits for more records.
const BATCH_AGE_MS: f64 = 5.0;
/// How much longer a latency is measured than one side of a pair.
const LASTING: u32 = 2;
/// How many times the batch and the commit the slowest of a hundred may take.
const RATIO_MAX: f64 = 2.0;
/// One commit at a time.
const COMMIT: &str = "UPDATE bench_commit SET n = n + 1;\n";
/// Rows of a report, and the most memory that it may take, in MiB.
const REPORT_ROWS: usize = 10_000_000;
const REPORT_MB_MAX: u64 = 32;
const UNCOUNTED: [(&str, &str); 3] = [
    ("MILLRACE_RATE_PER_ADDRESS", "0"),
    ("MILLRACE_RATE_PER_USER", "0"),
    ("MILLRACE_BENCH_ROUTES", "true"),
];

/// Measures the hits.
///
/// # Errors
/// If an answer was not what the user is in, or not from the cache.
pub async fn measure_hits(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_segment_hit").await;
    let mut run = world.spawn(&["run"], &UNCOUNTED);
    run.ready().await;
    output::note(format_args!(
        "{HIT}: puts {USERS} users into segments and warms up"
    ));
    create(&run).await?;
    for number in 1..=USERS {
        let user_id = id(number);
        let body = json!({"user_id": user_id, "add": ["A", "B"]});
        must_be(200, &change(&run, &body, &format!("put-{user_id}")).await)?;
    }
    world.caught_up(CACHE).await;
    must_compare(&run).await?;
    let row = Row::new(HIT, "segments from the cache", "constant body", Some(0.85));
    let hits = Hits {
        turns: TURNS,
        cache: CACHE,
    };
    let paths = ["/segment/user", "/bench/segments"];
    hits.measure_beside(settings, report, row, &run, paths)
        .await?;
    run.terminate().await;
    Ok(())
}

fn id(number: usize) -> usize {
    1_000_000 + number
}

async fn create(run: &Process) -> Result<()> {
    for slug in ["A", "B"] {
        let request = run
            .request(Method::POST, "/segment")
            .header(KEY, format!("create-{slug}"))
            .json(&json!({ "slug": slug }));
        must_be(201, &run.send(request).await)?;
    }
    Ok(())
}

async fn change(run: &Process, body: &serde_json::Value, key: &str) -> Answer {
    let request = run.request(Method::POST, "/segment/user").header(KEY, key);
    run.send(request.json(body)).await
}

fn must_be(status: u16, answer: &Answer) -> Result<()> {
    ensure!(answer.status == status, "{answer:?}");
    Ok(())
}

/// Each user is in both segments, and the constant answer differs in nothing that costs.
async fn must_compare(run: &Process) -> Result<()> {
    let constant = run.get("/bench/segments").await;
    for number in 1..=USERS {
        let answer = run.get(&format!("/segment/user?id={}", id(number))).await;
        let segments = answer.json()["segments"].as_array().map(Vec::len);
        ensure!(answer.status == 200 && segments == Some(2), "{answer:?}");
        must_be_alike(&answer, &constant)?;
    }
    Ok(())
}

/// Measures the changes.
///
/// # Errors
/// If a change has no answer, or another than it should.
pub async fn measure_changes(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_segments").await;
    let mut run = world.spawn(&["run"], &UNCOUNTED);
    run.ready().await;
    create(&run).await?;
    world
        .execute("CREATE TABLE bench_commit (n bigint); INSERT INTO bench_commit VALUES (0)")
        .await;
    output::note(format_args!("{CHANGES}: warms up"));
    let mut runs = 0;
    let mut most = async |seconds| {
        runs += 1;
        let name = format!("most-{runs}");
        let url = format!("http://{}/segment/user", run.address());
        let asked = wrk_keyed(&url, CONNECTIONS, seconds, &name, USERS).await?;
        must_have_verdicts(&world, &name, asked.answers, CONNECTIONS).await?;
        anyhow::Ok(asked.rate())
    };
    most(1).await?;
    let mut rates = Vec::new();
    for _ in 0..settings.pairs {
        rates.push(most(settings.seconds).await?);
    }
    let most = median(rates.iter().copied());
    let lasting = Duration::from_secs(settings.seconds) * LASTING;
    let load = format!("{} changes/s", rounded(most / 2.0));
    let other = World::new("bench_segments_bare").await;
    let (mut ours, mut bares) = (Vec::new(), Vec::new());
    let (mut commits, mut ratios) = (Vec::new(), Vec::new());
    for turn in 1..=settings.pairs {
        let name = format!("paced-{turn}");
        let times = paced(&run, &name, most / 2.0, lasting).await?;
        must_have_verdicts(&world, &name, i64::try_from(times.len())?, 0).await?;
        let changes = Latency::of(&load, "change decided", times);
        let commit_ms = 1e3 / pgbench(&world, COMMIT, 1, settings.seconds).await?;
        let ratio = changes.p99_ms / (BATCH_AGE_MS + commit_ms);
        let bare = append_and_tail(&other, TOPIC, most / 2.0, lasting).await?;
        let bare = Latency::of(&load, "bare append read", bare);
        output::note(format_args!(
            "{CHANGES} {turn}/{}: {load}: p99 {:.1} ms beside {BATCH_AGE_MS} and {commit_ms:.1} ms, {ratio:.2}; a bare append {:.1} ms",
            settings.pairs, changes.p99_ms, bare.p99_ms
        ));
        ratios.push(ratio);
        commits.push(commit_ms);
        ours.push(changes);
        bares.push(bare);
    }
    report.note(format!(
        "changes of segments: {} a second at most over {CONNECTIONS} connections; p99 at {load}: {:.2} times the age of a batch and one commit, {:.2}–{:.2} (target ≤ {RATIO_MAX})",
        rounded(most),
        median(ratios.iter().copied()),
        ratios.iter().copied().fold(f64::MAX, f64::min),
        ratios.iter().copied().fold(0.0, f64::max),
    ));
    report.detail(
        CHANGES,
        json!({ "rates": rates, "paced": ours, "commit_ms": commits, "bare": bares, "ratios": ratios }),
    );
    report.add_latencies(vec![Latency::typical(&ours), Latency::typical(&bares)]);
    report.took(CHANGES, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// Asks at a rate; how long each change took from when it was due until it was decided.
async fn paced(run: &Process, name: &str, rate: f64, lasting: Duration) -> Result<Vec<Duration>> {
    let http = Client::new();
    let url = format!("http://{}/segment/user", run.address());
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a positive, small number"
    )]
    let count = (rate * lasting.as_secs_f64()) as u32;
    let began = Instant::now() + Duration::from_millis(100);
    let mut asked = JoinSet::new();
    for number in 0..count {
        let due = began + Duration::from_secs_f64(f64::from(number) / rate);
        sleep_until(due).await;
        let user = id(1 + usize::try_from(number)? % USERS);
        let body = json!({"user_id": user, "add": ["A"], "del": ["B"], "ttl_days": 1});
        let request = http.post(&url).header(KEY, format!("{name}-{number}"));
        let request = request.json(&body);
        asked.spawn(async move {
            let response = request.send().await?;
            let status = response.status();
            response.bytes().await?;
            ensure!(status == 200, "a change was answered with {status}");
            Ok(due.elapsed())
        });
    }
    let mut times = Vec::new();
    while let Some(time) = asked.join_next().await {
        times.push(time.context("a request panicked")??);
    }
    Ok(times)
}

/// Every answer has a verdict; at most so many more have one whose answer was not waited for.
async fn must_have_verdicts(world: &World, name: &str, answers: i64, more_max: i64) -> Result<()> {
    world.caught_up(CACHE).await;
    let query = format!(
        "SELECT count(*) AS verdicts, count(DISTINCT \"offset\") AS records FROM segments.verdicts
         WHERE key LIKE '{name}-%' AND verdict = 'changed'"
    );
    let rows = world.sql(&query).await;
    let count = |name: &str| rows[0][name].as_i64().unwrap_or_default();
    let (verdicts, records) = (count("verdicts"), count("records"));
    ensure!(
        (answers..=answers + more_max).contains(&verdicts) && verdicts == records,
        "{answers} answers, {verdicts} verdicts on {records} records"
    );
    Ok(())
}

/// Takes a long report.
///
/// # Errors
/// If a row of it is missing.
pub async fn measure_report(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("bench_segment_report").await;
    let mut run = world.start(["run"]).await;
    create(&run).await?;
    let rows = settings.amount(REPORT_ROWS);
    output::note(format_args!("{REPORT}: makes {rows} memberships"));
    // By hand: nobody waits for ten million requests.
    world
        .execute(&format!(
            "INSERT INTO segments.memberships (user_id, life, \"offset\", is_renewal, added_at)
             SELECT n, 0, 0, false, now() - n * interval '1 microsecond'
             FROM generate_series(1, {rows}) AS n;
             ANALYZE segments.memberships"
        ))
        .await;
    let task = run.get("/report?date=2026-01-01+00:00").await.json();
    let task = task["task_id"].as_str().context("no task")?;
    let before_kib = run.peak_memory_kib();
    let began = Instant::now();
    let request = run.request(Method::GET, &format!("/reports/{task}.csv"));
    let mut answer = request.timeout(Duration::from_secs(900)).send().await?;
    ensure!(answer.status() == 200, "{answer:?}");
    let (mut lines, mut bytes) = (0, 0);
    while let Some(piece) = answer.chunk().await? {
        lines += piece.iter().filter(|byte| **byte == b'\n').count();
        bytes += piece.len();
    }
    let seconds = began.elapsed().as_secs_f64();
    ensure!(lines == rows + 1, "{lines} lines of {rows} rows");
    let more_mb = (run.peak_memory_kib() - before_kib) / 1_024;
    report.note(format!(
        "a report of {} rows, {} MB: {seconds:.1} s, and {more_mb} MB of memory more (target ≤ {REPORT_MB_MAX} MB)",
        output::grouped(rows as u64),
        bytes / 1_000_000
    ));
    report.detail(
        REPORT,
        json!({ "rows": rows, "bytes": bytes, "seconds": seconds, "more_mb": more_mb }),
    );
    report.took(REPORT, peak_mb(&run));
    run.terminate().await;
    Ok(())
}
