//! Users and orders: `millrace run` with its cache, beside a Go program with Redis before Postgres.
//!
//! The look-up (`go/lookup.go`) asks Redis by go-redis, and on a miss Postgres by pgx, over as many connections as
//! Millrace has, by primary key, in tables of its own with the same users and orders; then it fills Redis. All is on one
//! machine, so neither side waits for a network. Both are asked by the same wrk, for the same keys in turn. Millrace also
//! drops what was changed from its cache at once; the peer only by its time to live.
//!
//! Checked before: both give the same answer for each key, as long to the byte. Checked after: each answer was a hit, or a
//! miss, on both sides.

use anyhow::{Result, ensure};
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    hits::{Hits, cache_reads, must_be_hits},
    it::world::{Process, World},
    orders, output,
    peer::Server,
    redis::Redis,
    run::{Report, Row, Settings, peak_mb},
    users::{self, Misses},
};

/// The row of users that are in the cache.
pub const USER_HIT: &str = "user-hit";
/// The row of users that are not.
pub const USER_MISS: &str = "user-miss";
/// The row of orders that are in the cache.
pub const ORDER_HIT: &str = "order-hit";

const USERS: &str = "CREATE SCHEMA peer;
    CREATE TABLE peer.users AS
        SELECT user_id, deeplink, promo_message FROM users.users ORDER BY user_id;
    ALTER TABLE peer.users ADD PRIMARY KEY (user_id)";
const ORDERS: &str = "CREATE SCHEMA peer;
    CREATE TABLE peer.orders (order_uid text PRIMARY KEY, body text NOT NULL)";

/// Measures users that are in the cache.
///
/// # Errors
/// If an answer was another, or not from the cache.
pub async fn measure_user_hits(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("peer_user_hit").await;
    let mut run = world.start(["run"]).await;
    output::note(format_args!(
        "{USER_HIT}: sets {} users and warms up",
        users::USERS
    ));
    users::set(&world, &run).await?;
    copy_users(&world).await;
    let lookup = Lookup::start(&world).await?;
    for number in 1..=users::USERS {
        let path = format!("/v1/users?user_id={}", users::id(number));
        must_compare(&run, &lookup, &path).await?;
    }
    let row = Row::new(USER_HIT, "users from the cache", "Go and Redis", Some(1.0));
    let hits = Hits {
        turns: users::TURNS,
        cache: users::CACHE,
    };
    report.add(measure_hits(&hits, settings, row, "/v1/users", (&run, &lookup)).await?);
    report.took(USER_HIT, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// Measures orders that are in the cache.
///
/// # Errors
/// If an answer was another, or not from the cache.
pub async fn measure_order_hits(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("peer_order_hit").await;
    let mut run = world.start(["run"]).await;
    output::note(format_args!(
        "{ORDER_HIT}: places {} orders and warms up",
        orders::ORDERS
    ));
    orders::place(&world).await?;
    world.execute(ORDERS).await;
    let lookup = Lookup::start(&world).await?;
    for number in 1..=orders::ORDERS {
        let uid = format!("bench{number:014}");
        let path = format!("/order?uid={uid}");
        let body = run.get(&path).await.body;
        world
            .execute(&format!(
                "INSERT INTO peer.orders VALUES ('{uid}', $json${body}$json$)"
            ))
            .await;
        must_compare(&run, &lookup, &path).await?;
    }
    let row = Row::new(
        ORDER_HIT,
        "orders from the cache",
        "Go and Redis",
        Some(1.0),
    );
    let hits = Hits {
        turns: orders::TURNS,
        cache: orders::NAME,
    };
    report.add(measure_hits(&hits, settings, row, "/order", (&run, &lookup)).await?);
    report.took(ORDER_HIT, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// Measures users that are not in the cache.
///
/// # Errors
/// If an answer was no profile, or too many were from the cache.
pub async fn measure_user_misses(settings: &Settings, report: &mut Report) -> Result<()> {
    let world = World::new("peer_user_miss").await;
    let count = settings.amount(users::MANY);
    let connections = users::TO_POSTGRES.to_string();
    let mut run = world.spawn(&["run"], &[("PG_MAX_CONNS", &connections)]);
    run.ready().await;
    users::import::fold_samples(&world, &run, count, report).await?;
    copy_users(&world).await;
    let lookup = Lookup::start(&world).await?;
    must_compare(&run, &lookup, "/v1/users?user_id=sample-1").await?;
    output::note(format_args!("{USER_MISS}: warms up"));
    let mut ours = Misses::new(run.address(), count);
    let mut theirs = Misses::new(&lookup.server.address, count);
    ours.ask(1).await?;
    theirs.ask(1).await?;
    let before = (
        cache_reads(&run, users::CACHE).await,
        lookup.redis.reads().await?,
    );
    let row = Row::new(
        USER_MISS,
        "users from Postgres",
        "Go, Redis and Postgres",
        Some(1.0),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || ours.ask(settings.seconds).await,
            async || theirs.ask(settings.seconds).await,
        )
        .await?;
    let after = (
        cache_reads(&run, users::CACHE).await,
        lookup.redis.reads().await?,
    );
    for (before, after) in [(before.0, after.0), (before.1, after.1)] {
        let (hits, others) = (after.0 - before.0, after.1 - before.1);
        ensure!(
            hits * 100 <= others,
            "{hits} hits, and {others} reads of Postgres"
        );
    }
    report.add(row);
    report.took(USER_MISS, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// Gives the peer a table of its own.
async fn copy_users(world: &World) {
    world.execute(USERS).await;
    world.execute("VACUUM ANALYZE peer.users").await;
}

/// The peer with its Redis.
struct Lookup {
    server: Server,
    redis: Redis,
}

impl Lookup {
    /// Over the tables of schema `peer`.
    async fn start(world: &World) -> Result<Self> {
        let redis = Redis::start().await?;
        let (database, connections) = (world.database_url(), users::TO_POSTGRES.to_string());
        let arguments = [
            ["-redis", &redis.address],
            ["-database", &database],
            ["-connections", &connections],
        ];
        let arguments = [&["lookup"][..], arguments.as_flattened()].concat();
        Ok(Self {
            server: Server::go(&arguments).await?,
            redis,
        })
    }
}

/// Both give the same, from what they have cached.
async fn must_compare(run: &Process, lookup: &Lookup, path: &str) -> Result<()> {
    run.get(path).await;
    lookup.server.ask(Method::GET, path, 200).await?;
    let (ours, theirs) = (
        run.get(path).await.body,
        lookup.server.ask(Method::GET, path, 200).await?,
    );
    ensure!(
        ours.len() == theirs.len() && lasting(&ours)? == lasting(&theirs)?,
        "{path}: {ours} and {theirs}"
    );
    Ok(())
}

/// An answer without the time, and without the name of the cache.
fn lasting(body: &str) -> Result<Value> {
    let mut answer: Value = serde_json::from_str(body)?;
    if answer["metadata"].is_object() {
        answer["metadata"]["timestamp"] = json!(null);
        answer["message"] = json!(null);
    }
    Ok(answer)
}

/// Measures answers from both caches.
async fn measure_hits(
    hits: &Hits,
    settings: &Settings,
    row: Row,
    path: &str,
    (run, lookup): (&Process, &Lookup),
) -> Result<Row> {
    let urls = [
        format!("http://{}{path}", run.address()),
        lookup.server.url(path),
    ];
    let urls = urls.each_ref().map(String::as_str);
    hits.warm_up(urls).await?;
    let before = lookup.redis.reads().await?;
    let (row, by_them) = hits.measure(settings, row, run, urls).await?;
    must_be_hits(before, lookup.redis.reads().await?, by_them)?;
    Ok(row)
}
