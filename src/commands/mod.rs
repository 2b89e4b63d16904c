//! The commands, one file each.

pub mod dead_letters;
pub mod emit;
pub mod lag;
pub mod serve;
pub mod tail;
pub mod topics;

use std::time::Duration;

use anyhow::{Context, anyhow};
use projections::db::{Database, is_unprepared};

/// How long Postgres may take to answer at all.
const FIRST_ANSWER: Duration = Duration::from_secs(5);

/// Makes an error of Postgres say what to do.
fn of_postgres<T, E>(database: &Database, outcome: Result<T, E>) -> anyhow::Result<T>
where
    E: std::error::Error + Send + Sync + 'static,
{
    outcome.map_err(|error| {
        let error = anyhow::Error::from(error);
        let unprepared = error.chain().any(|cause| cause.downcast_ref().is_some_and(is_unprepared));
        let address = database.address();
        if unprepared {
            return anyhow!("database {address} has no tables of Millrace yet: `millrace run` makes them");
        }
        error.context(format!("Postgres at {address} does not do it: check DATABASE_URL and that it runs"))
    })
}
