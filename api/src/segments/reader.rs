//! Verdicts on their way from the tables: whoever waits is woken by the same commit, so one statement reads for all.

use std::time::Duration;

use projections::{
    pool::Pool,
    segments::{Decided, decided},
};

use crate::reading::Rows;

/// How long a statement may take; whoever waits has more patience, and asks again.
pub const READ_MAX: Duration = Duration::from_secs(2);

/// Verdicts by their keys, if they have one.
pub struct Verdicts;

impl Rows for Verdicts {
    type Key = String;
    type Row = Option<Decided>;

    async fn read(pool: &Pool, keys: &[String]) -> sqlx::Result<Vec<Option<Decided>>> {
        let asked: Vec<&str> = keys.iter().map(String::as_str).collect();
        let decided = decided(pool, &asked).await?;
        Ok(keys.iter().map(|key| decided.get(key).cloned()).collect())
    }
}
