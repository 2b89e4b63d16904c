//! The flash sale: `millrace run`, where the log decides, beside a Go program that decides in memory.
//!
//! The shop (`go/shop.go`) holds one sale behind a lock, and copies each attempt into Postgres after it has answered, in
//! batches. It can run only once, and what it has answered is lost when it ends too early; Millrace runs any number of
//! times side by side, and answers what the log has. A full queue holds its callers up, so that nothing is missing.
//!
//! *Refusals* are checkouts of an item that is sold: neither side has to wait for anything. Millrace is `millrace run`,
//! which folds them into Postgres, too; before the shop is asked, the fold has caught up. *Settled* are purchases with a
//! code that nobody was given: Millrace asks the log, the shop only its map.
//!
//! Checked before: the refusals are as long to the byte. Checked after each run: so many attempts are counted as there
//! were answers, and at most one more a connection; and of the shop, each of them is a row.

use anyhow::{Context, Result, ensure};
use reqwest::Method;

use crate::{
    it::world::{Process, World, eventually},
    output,
    peer::Server,
    run::{Report, Row, Settings, peak_mb},
    sale::{
        self, KeptFresh, NO_CODE, checkout, far_from_the_end, post, purchase, refusals, sell,
        set_rules, settled,
    },
    tools::wrk_refused,
};

/// The row of the refusals.
pub const REFUSALS: &str = sale::REFUSALS;
/// The row of what the log decides.
pub const SETTLED: &str = sale::SETTLED;

const REFUSED_CONNECTIONS: i64 = 64;
/// So many that batches fill.
const SETTLED_CONNECTIONS: i64 = 512;
/// What is sold, and who comes too late.
const ITEM: usize = 42;
const USER: usize = 1_234_567;
const ATTEMPTS: &str = "CREATE SCHEMA peer;
    CREATE TABLE peer.attempts (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, kind text NOT NULL,
        user_id bigint, item_id integer, verdict text NOT NULL, at timestamptz NOT NULL)";

/// Measures the refusals.
///
/// # Errors
/// If an answer was another, or an attempt was lost.
pub async fn measure_refusals(settings: &Settings, report: &mut Report) -> Result<()> {
    far_from_the_end(settings.lasting()).await;
    let world = World::new("peer_refusals").await;
    set_rules(&world, 1).await;
    let mut run = world.start(["run"]).await;
    sell(&run, 1, ITEM).await?;
    let fresh = KeptFresh::of(&run);
    let shop = Shop::open(&world).await?;
    shop.sell(1, ITEM).await?;
    let query = checkout(USER, ITEM);
    shop.must_compare(&run, &query).await?;
    let refused = format!("http://{}{query}", run.address());
    output::note(format_args!("{REFUSALS}: warms up"));
    wrk_refused(&refused, REFUSED_CONNECTIONS, 1).await?;
    world.caught_up("sale_attempts").await;
    shop.refuse(&world, &query, REFUSED_CONNECTIONS, 1).await?;
    let row = Row::new(
        REFUSALS,
        "checkouts of a sold item, 409",
        "Go, sale in memory",
        Some(1.0),
    );
    let row = row
        .alternate(
            settings.pairs,
            async || {
                let rate = refusals::refuse(&run, &refused, settings.seconds).await?;
                world.caught_up("sale_attempts").await;
                Ok(rate)
            },
            async || {
                shop.refuse(&world, &query, REFUSED_CONNECTIONS, settings.seconds)
                    .await
            },
        )
        .await?;
    drop(fresh);
    report.add(row);
    report.took(REFUSALS, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// Measures what the log decides.
///
/// # Errors
/// As above.
pub async fn measure_settled(settings: &Settings, report: &mut Report) -> Result<()> {
    far_from_the_end(settings.lasting()).await;
    let world = World::new("peer_settled").await;
    let mut run = world.start(["run"]).await;
    let shop = Shop::open(&world).await?;
    let query = purchase(NO_CODE);
    shop.must_compare(&run, &query).await?;
    output::note(format_args!("{SETTLED}: warms up"));
    settled::settle(&world, &run, SETTLED_CONNECTIONS, 1).await?;
    shop.refuse(&world, &query, SETTLED_CONNECTIONS, 1).await?;
    let row = Row::new(
        SETTLED,
        "purchases decided by the log",
        "Go, sale in memory",
        None,
    );
    let row = row
        .alternate(
            settings.pairs,
            async || settled::settle(&world, &run, SETTLED_CONNECTIONS, settings.seconds).await,
            async || {
                shop.refuse(&world, &query, SETTLED_CONNECTIONS, settings.seconds)
                    .await
            },
        )
        .await?;
    report.add(row);
    report.took(SETTLED, peak_mb(&run));
    run.terminate().await;
    Ok(())
}

/// The peer.
struct Shop(Server);

impl Shop {
    async fn open(world: &World) -> Result<Self> {
        world.execute(ATTEMPTS).await;
        let shop = Server::go(&["shop", "-database", &world.database_url()]).await?;
        Ok(Self(shop))
    }

    /// Sells an item that is free.
    async fn sell(&self, user: usize, item: usize) -> Result<()> {
        let code = self.0.ask(Method::POST, &checkout(user, item), 200).await?;
        self.0.ask(Method::POST, &purchase(&code), 200).await?;
        Ok(())
    }

    /// Both refuse, with bodies of the same length.
    async fn must_compare(&self, run: &Process, query: &str) -> Result<()> {
        let ours = post(run, query).await;
        let theirs = self.0.ask(Method::POST, query, 409).await?;
        ensure!(
            ours.status == 409 && ours.body.len() == theirs.len(),
            "{query}: {ours:?} and {theirs}"
        );
        Ok(())
    }

    /// Is refused for a while; gives answers a second.
    async fn refuse(
        &self,
        world: &World,
        query: &str,
        connections: i64,
        seconds: u64,
    ) -> Result<f64> {
        let before = self.kept(world).await?;
        let asked = wrk_refused(&self.0.url(query), connections, seconds).await?;
        let attempts = self.kept(world).await? - before;
        ensure!(
            (asked.answers..=asked.answers + connections).contains(&attempts),
            "{attempts} attempts are kept after {} answers over {connections} connections",
            asked.answers
        );
        Ok(asked.rate())
    }

    /// Waits until each attempt is a row, and gives how many there are.
    async fn kept(&self, world: &World) -> Result<i64> {
        let sale = self.0.json("/v1/sale").await?;
        let attempts = sale["attempts"].as_i64().context("no attempts")?;
        let what = format!("{attempts} attempts of the shop are rows");
        let query = "SELECT count(*) AS n FROM peer.attempts";
        eventually(&what, async || {
            let kept = world.sql(query).await[0]["n"].as_i64()?;
            (kept >= attempts).then_some(kept)
        })
        .await;
        Ok(attempts)
    }
}
