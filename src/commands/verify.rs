//! `millrace verify`: proves that the tables are what the log says.

use anyhow::{Result, bail};
use processors::{
    replay::{Outcome, What},
    runtime,
};
use projections::compare::Difference;

use super::replay::{Report, build, tell_table};
use crate::{
    cli::{Connection, VerifyArgs},
    output,
};

pub async fn verify(connection: &Connection, args: &VerifyArgs) -> Result<()> {
    let all = runtime::names().map(str::to_owned);
    let names = match args.projections.is_empty() {
        true => all.collect(),
        false => args.projections.clone(),
    };
    let mut wrong = Vec::new();
    for name in &names {
        let outcome = build(connection, name, What::Verify, args.manner).await?;
        if args.manner.json {
            output::json(&Report::of(name, &outcome))?;
        } else {
            tell(name, &outcome)?;
        }
        if outcome.tables.iter().any(|table| table.count() > 0) {
            wrong.push(name.as_str());
        }
    }
    match wrong.len() {
        0 => Ok(()),
        _ => bail!(
            "not what the log says: {}; `millrace replay` makes the tables anew",
            wrong.join(", ")
        ),
    }
}

fn tell(name: &str, outcome: &Outcome) -> Result<()> {
    let records = output::count(outcome.records.unsigned_abs(), "record");
    let is_right = outcome.tables.iter().all(|table| table.count() == 0);
    let verdict = if is_right { "ok" } else { "WRONG" };
    output::line(format_args!("{verdict:<5} {name}: {records}"))?;
    let tables = outcome.tables.iter();
    tables
        .filter(|table: &&Difference| table.count() > 0 || table.rows > 0)
        .try_for_each(|table| tell_table(table, outcome))
}
