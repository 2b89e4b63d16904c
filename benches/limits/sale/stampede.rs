//! A stampede: twenty thousand users at three processes, all items at once, and how long until everything is sold.
//!
//! Each user wants three items, the first of them one that only one other wants first; of what it is given it buys each.
//! So every item is asked for by somebody who may still have it.
//!
//! Checked: all items are sold, none twice, nobody has more than the limit; each answer 200 names a record of the log
//! that asks for just that; and all processes agree.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::{
    task::JoinSet,
    time::{sleep, timeout},
};

use super::{ITEMS, STAMPEDE, checkout, far_from_the_end, purchase, set_rules, stock};
use crate::{
    it::world::{World, avro::Reader, http::POSITION},
    output,
    run::{Report, Settings, rounded},
};

const USERS: usize = 20_000;
const PROCESSES: usize = 3;
const LIMIT: usize = 2;
const WISHES: usize = 3;
/// Users at a time.
const AT_A_TIME: usize = 300;
/// Before the next try when too many wait.
const PAUSE: Duration = Duration::from_millis(10);
/// How long it may take.
const PATIENCE: Duration = Duration::from_secs(300);
const SALES: &str = include_str!("../../../schemas/avro/sales.avsc");

/// What somebody has bought.
#[derive(Debug)]
struct Bought {
    user: usize,
    item: usize,
    code: String,
    reserved_at: usize,
    bought_at: usize,
}

/// Runs it once.
///
/// # Errors
/// If something was sold twice, or not at all, or to somebody who had enough.
pub async fn measure(settings: &Settings, report: &mut Report) -> Result<()> {
    far_from_the_end(settings.lasting()).await;
    let world = World::new("bench_stampede").await;
    set_rules(&world, LIMIT).await;
    let mut processes = Vec::new();
    for _ in 0..PROCESSES {
        processes.push(world.start(["api"]).await);
    }
    let addresses = processes.iter().map(|one| one.address().to_owned());
    let addresses: Arc<[String]> = addresses.collect();
    output::note(format_args!("{STAMPEDE}: {USERS} users"));
    let began = Instant::now();
    let (bought, requests) = timeout(PATIENCE, stampede(&addresses)).await??;
    let took = began.elapsed();
    must_be_right(&bought)?;
    must_be_on_the_log(&world, &bought).await?;
    for process in &mut processes {
        let stands = stock(process).await;
        let is_sold_out = stands["sold"] == ITEMS && stands["reserved"] == 0;
        ensure!(is_sold_out, "all is sold: {stands}");
        process.terminate().await;
    }
    report.detail(
        STAMPEDE,
        json!({ "seconds": took.as_secs_f64(), "requests": requests }),
    );
    report.note(format!(
        "stampede: {} users at {PROCESSES} processes bought all {} items in {:.1} s, with {} requests",
        rounded(USERS as f64),
        rounded(ITEMS as f64),
        took.as_secs_f64(),
        rounded(requests as f64)
    ));
    Ok(())
}

/// All users come; gives what they have bought, and how many requests that took.
async fn stampede(addresses: &Arc<[String]>) -> Result<(Vec<Bought>, usize)> {
    let http = Client::new();
    let mut coming = JoinSet::new();
    for first in 0..AT_A_TIME {
        let (addresses, http) = (Arc::clone(addresses), http.clone());
        coming.spawn(async move {
            let mut visits = Visits {
                http,
                addresses,
                bought: Vec::new(),
                requests: 0,
            };
            for user in (first..USERS).step_by(AT_A_TIME) {
                visits.come(user).await?;
            }
            anyhow::Ok(visits)
        });
    }
    let (mut bought, mut requests) = (Vec::new(), 0);
    while let Some(visits) = coming.join_next().await {
        let visits = visits??;
        bought.extend(visits.bought);
        requests += visits.requests;
    }
    Ok((bought, requests))
}

/// Users who come one after the other.
struct Visits {
    http: Client,
    addresses: Arc<[String]>,
    bought: Vec<Bought>,
    requests: usize,
}

impl Visits {
    async fn come(&mut self, user: usize) -> Result<()> {
        for wish in 0..WISHES {
            let item = (user + wish) % ITEMS;
            let Some((code, reserved_at)) = self.ask(user, &checkout(user, item)).await? else {
                continue;
            };
            // At another process than the one that has reserved it.
            let sold = self.ask(user + 1, &purchase(&code)).await?;
            let (_, bought_at) = sold.with_context(|| format!("{code} of item {item}"))?;
            self.bought.push(Bought {
                user,
                item,
                code,
                reserved_at,
                bought_at,
            });
        }
        Ok(())
    }

    /// Body and offset of what is granted; none of what is refused.
    async fn ask(&mut self, turn: usize, path: &str) -> Result<Option<(String, usize)>> {
        let address = &self.addresses[turn % self.addresses.len()];
        loop {
            self.requests += 1;
            let url = format!("http://{address}{path}");
            let answer = self.http.post(url).send().await?;
            let position = answer.headers().get(POSITION).cloned();
            match answer.status() {
                StatusCode::OK => {
                    let position = position.context("no position")?;
                    let (_, offset) = position.to_str()?.rsplit_once('@').context("no offset")?;
                    let offset = offset.parse()?;
                    return Ok(Some((answer.text().await?, offset)));
                }
                StatusCode::CONFLICT => return Ok(None),
                StatusCode::TOO_MANY_REQUESTS => sleep(PAUSE).await,
                status => bail!("{path}: {status} {}", answer.text().await?),
            }
        }
    }
}

/// All is sold, nothing twice, to nobody too much.
fn must_be_right(bought: &[Bought]) -> Result<()> {
    let items: HashSet<_> = bought.iter().map(|bought| bought.item).collect();
    ensure!(
        items.len() == ITEMS && bought.len() == ITEMS,
        "of {ITEMS} items {} were sold, {} times",
        items.len(),
        bought.len()
    );
    let mut by_user: HashMap<usize, usize> = HashMap::new();
    for bought in bought {
        *by_user.entry(bought.user).or_default() += 1;
    }
    let most = by_user.values().max();
    ensure!(most <= Some(&LIMIT), "somebody has bought {most:?} items");
    Ok(())
}

/// The log has what was answered with 200.
async fn must_be_on_the_log(world: &World, bought: &[Bought]) -> Result<()> {
    let mut reader = Reader::new(world, "sales", SALES);
    let mut events = Vec::new();
    for record in world.read_topic("sales").await {
        let event = reader.read(record.value.as_deref()).await;
        events.resize(usize::try_from(record.offset)?, Value::Null);
        events.push(event.map_err(|why| anyhow::anyhow!("a record of the sale: {why}"))?);
    }
    for bought in bought {
        let (reserved, paid) = (&events[bought.reserved_at], &events[bought.bought_at]);
        ensure!(
            reserved["user_id"] == bought.user
                && reserved["item_id"] == bought.item
                && paid["code"] == bought.code,
            "{bought:?} is on the log as {reserved} and {paid}"
        );
    }
    Ok(())
}
