//! The commands, one file each.

pub mod audit;
pub mod dead_letters;
pub mod doctor;
pub mod emit;
pub mod lag;
pub mod replay;
mod report;
pub mod schemas;
pub mod serve;
pub mod tail;
pub mod topics;
pub mod verify;

use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use projections::db::{Database, PgConnection, SqlError, is_unprepared};
use tokio::time::timeout;

/// How long Postgres may take to answer at all.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// A connection for one-off work.
async fn connect(database: &Database) -> Result<PgConnection> {
    match timeout(FIRST_ANSWER, database.connect()).await {
        Ok(connected) => of_postgres(database, connected),
        Err(_) => Err(anyhow!(
            "no Postgres answers at {}: check DATABASE_URL and that it runs",
            database.address()
        )),
    }
}

/// Makes an error of Postgres say what to do.
fn of_postgres<T>(database: &Database, outcome: Result<T, SqlError>) -> Result<T> {
    match outcome {
        Err(error) if is_unprepared(&error) => Err(anyhow!(
            "database {} has no tables of Millrace yet: `millrace run` makes them",
            database.address()
        )),
        outcome => outcome.with_context(|| {
            format!(
                "cannot use Postgres at {}: check DATABASE_URL and that it runs",
                database.address()
            )
        }),
    }
}
