//! `millrace audit`: proves from the log that a sale kept its promises, and that the tables say the same.

use std::{fmt::Display, time::Duration};

use anyhow::{Result, bail};
use processors::{
    guard::{other_log, what_to_do},
    sales::{
        RuleBook,
        audit::{Audit as SaleAudit, Bought, Found},
        window::Window,
    },
};
use producers::clock;
use projections::{
    db::{Database, PgConnection, SqlError},
    history,
    projection::{PrepareError, Projection},
    sales::PROJECTION,
    sales_history::{Sold, Standing, sale_with, sold_with},
};
use schemas::{
    sale_rules::SaleRulesSet,
    sales::{ITEMS_MAX, SaleId},
};
use serde::Serialize;
use tokio::{
    runtime::Handle,
    task::block_in_place,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{connect, of_postgres};
use crate::{
    cli::{Audit, AuditArgs, Connection},
    output,
};

/// How long the tables may take to come to where the log was read.
const CATCH_UP: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);
/// The most differences that people are shown.
const SHOWN_MAX: usize = 20;

pub async fn audit(connection: &Connection, args: &AuditArgs) -> Result<()> {
    match args.what {
        Audit::Sale { id, json } => sale(connection, id, json).await,
    }
}

/// What the audit has to say, as programs get it.
#[derive(Serialize)]
struct Report {
    sale_id: SaleId,
    is_over: bool,
    items: i32,
    limit: i32,
    reservation_seconds: i32,
    requests: u64,
    reserved: u64,
    sold: usize,
    refused: u64,
    replayed: u64,
    /// The log was read up to this offset of topic sales.
    next_offset: i64,
    differences: Vec<String>,
}

async fn sale(connection: &Connection, id: SaleId, json: bool) -> Result<()> {
    let database = connection.database()?;
    let mut postgres = connect(&database).await?;
    must_be_of_this_log(connection, &database, &mut postgres).await?;
    let (found, next_offset) = block_in_place(|| read_log(connection, id))?;
    let Some(rules) = found.rules.filter(|_| found.requests > 0) else {
        bail!("there was no sale {id}: nothing on the log was requested in it");
    };
    let tables = read_tables(&database, &mut postgres, id, next_offset).await?;
    let mut differences = found.faults.clone();
    differences.extend(tables.differences(&found, &rules, next_offset));
    let report = Report {
        sale_id: id,
        is_over: found.is_over,
        items: rules.items,
        limit: rules.limit,
        reservation_seconds: rules.reservation_seconds,
        requests: found.requests,
        reserved: found.reservations,
        sold: found.sold.len(),
        refused: found.refusals,
        replayed: found.replays,
        next_offset,
        differences,
    };
    if json {
        output::json(&report)?;
    } else {
        report.print()?;
    }
    match report.differences.len() {
        0 => Ok(()),
        count => bail!("{} in sale {id}", output::count(count as u64, "difference")),
    }
}

/// Reads what decides the sale, and checks it; with the offset up to which it was read.
fn read_log(connection: &Connection, id: SaleId) -> Result<(Found, i64)> {
    let stop = CancellationToken::new();
    let registry = connection.registry()?;
    let mut window = Window::new(&connection.kafka(), &registry, Handle::current(), stop);
    let (from, until) = window.of_sale(id)?;
    let found = read_part(&mut window, id, from, until)?;
    let end = window.end()?;
    if found.is_over || until == end {
        return Ok((found, until));
    }
    // Of what was stamped after its end nothing counted so far.
    Ok((read_part(&mut window, id, from, end)?, end))
}

fn read_part(window: &mut Window, id: SaleId, from: i64, until: i64) -> Result<Found> {
    let mut book = RuleBook::default();
    window.read_rules(&mut book)?;
    let mut audit = SaleAudit::new(id, book);
    window.fold(from, until, |record, passed| audit.see(record, passed))?;
    Ok(audit.found)
}

/// What the tables say of the sale.
struct Tables {
    standing: Option<Standing>,
    sold: Vec<Sold>,
}

/// Demands that the tables were made from the log that is there: of another one they would only look wrong.
async fn must_be_of_this_log(
    connection: &Connection,
    database: &Database,
    postgres: &mut PgConnection,
) -> Result<()> {
    let (name, topic) = (PROJECTION.name, PROJECTION.topic(&connection.topic_prefix));
    let generation = match PROJECTION.live(postgres, &topic).await {
        Ok(generation) => generation,
        Err(PrepareError::Postgres(error)) => return of_postgres(database, Err(error)),
        Err(error) => return Err(error.into()),
    };
    let known = of_postgres(database, history::known(postgres, &generation).await)?;
    match other_log(&connection.kafka(), &topic, &known).await? {
        None => Ok(()),
        Some(what) => bail!(
            "the tables of {name} are of another log than the one that is to be audited: {what}; {}",
            what_to_do(name)
        ),
    }
}

async fn read_tables(
    database: &Database,
    postgres: &mut PgConnection,
    id: SaleId,
    until: i64,
) -> Result<Tables> {
    let deadline = Instant::now() + CATCH_UP;
    loop {
        let (tables, next_offset) = of_postgres(database, read(postgres, id).await)?;
        if next_offset >= until {
            return Ok(tables);
        }
        if Instant::now() >= deadline {
            let name = Projection::topic(&PROJECTION, "");
            bail!(
                "projection {name} is at offset {next_offset} and the log was read to {until}: let `millrace run` or `process` catch up (`millrace lag` shows how far it is), then try again"
            );
        }
        sleep(POLL).await;
    }
}

/// The tables, and how far they go: the rows may go on a little further.
async fn read(postgres: &mut PgConnection, id: SaleId) -> Result<(Tables, i64), SqlError> {
    let standing = sale_with(postgres, id, clock::now_ms()).await?;
    let sold = sold_with(postgres, id, -1, i64::from(ITEMS_MAX)).await?;
    let next_offset = standing.reached.first().map_or(0, |(_, _, next)| *next);
    let tables = Tables {
        standing: standing.found,
        sold: sold.found.unwrap_or_default(),
    };
    Ok((tables, next_offset))
}

impl Tables {
    /// Where the tables differ from what was found on the log before `until`.
    fn differences(&self, found: &Found, rules: &SaleRulesSet, until: i64) -> Vec<String> {
        let mut differences = Vec::new();
        let mut differ = |what: &str, table: &dyn Display, log: &dyn Display| {
            let (table, log) = (table.to_string(), log.to_string());
            if table != log {
                differences.push(format!("{what}: the table has {table}, the log {log}"));
            }
        };
        match &self.standing {
            None => differ("the sale", &"no row", &"one"),
            Some(Standing { sale, .. }) => {
                let shown = |rules: &SaleRulesSet| format!("{rules:?}");
                differ("rules", &shown(&sale.rules), &shown(rules));
                // While it goes on, the table may know more.
                if found.is_over {
                    differ("sold", &sale.sold, &found.sold.len());
                }
            }
        }
        for row in self.sold.iter().filter(|row| row.purchased_offset < until) {
            if !found.sold.contains_key(&row.item_id) {
                let item = format!("item {}", row.item_id);
                differ(&item, &described(&bought(row)), &"no purchase");
            }
        }
        for (item_id, on_log) in &found.sold {
            let row = self.sold.iter().find(|row| row.item_id == *item_id);
            let table = row.map_or("no purchase".to_owned(), |row| described(&bought(row)));
            differ(&format!("item {item_id}"), &table, &described(on_log));
        }
        differences
    }
}

fn bought(row: &Sold) -> Bought {
    Bought {
        user_id: row.purchased_by,
        at_ms: row.purchased_at_ms,
        offset: row.purchased_offset,
    }
}

fn described(bought: &Bought) -> String {
    let at = schemas::inspect::millis(bought.at_ms).unwrap_or_default();
    format!(
        "one by user {} at {at}, offset {}",
        bought.user_id, bought.offset
    )
}

impl Report {
    fn print(&self) -> Result<()> {
        let state = if self.is_over { "is over" } else { "goes on" };
        output::line(format_args!("sale {} {state}", self.sale_id))?;
        output::line(format_args!(
            "rules     {}, {} a user, {} to pay",
            output::count(u64::from(self.items.unsigned_abs()), "item"),
            self.limit,
            output::count(u64::from(self.reservation_seconds.unsigned_abs()), "second"),
        ))?;
        for (what, number) in [
            ("requests", self.requests),
            ("reserved", self.reserved),
            ("sold", self.sold as u64),
            ("refused", self.refused),
            ("replayed", self.replayed),
        ] {
            output::line(format_args!("{what:<9} {}", output::grouped(number)))?;
        }
        for difference in self.differences.iter().take(SHOWN_MAX) {
            output::line(format_args!("WRONG     {difference}"))?;
        }
        if self.differences.len() > SHOWN_MAX {
            let more = self.differences.len() - SHOWN_MAX;
            output::line(format_args!(
                "WRONG     and {more} more; --json has them all"
            ))?;
        }
        if self.differences.is_empty() {
            output::line(
                "ok        no item twice, none beyond stock or limit, each paid for in time; the tables say the same",
            )?;
        }
        Ok(())
    }
}
