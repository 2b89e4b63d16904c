//! `millrace dead-letters retry`: folds them after all.

use anyhow::{Result, bail};
use processors::retry::{Outcome, Retrier};
use projections::{
    db::{Database, PgConnection},
    dead_letters::{self, Filter, Stored},
};
use schemas::position::Position;
use serde::Serialize;

use super::{Letter, connect, full_name, of_postgres};
use crate::{
    cli::{Connection, RetryArgs},
    output,
};

/// How many are looked up at a time.
const AT_ONCE: i64 = 500;

/// What became of a dead letter, as programs get it.
#[derive(Serialize)]
struct Retried<'a> {
    position: &'a str,
    projection: &'a str,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<&'a str>,
    dry_run: bool,
}

pub async fn retry(connection: &Connection, args: &RetryArgs, json: bool) -> Result<()> {
    let database = connection.database()?;
    let mut run = Run {
        retrier: Retrier::new(
            &connection.kafka(),
            &connection.registry()?,
            &database,
            args.dry_run,
        )?,
        postgres: connect(&database).await?,
        database,
        args,
        json,
        folded: 0,
        left: 0,
    };
    for position in &args.positions {
        run.retry_at(connection, position).await?;
    }
    if args.reason.is_some() {
        run.retry_all().await?;
    }
    run.end()
}

struct Run<'a> {
    retrier: Retrier,
    postgres: PgConnection,
    database: Database,
    args: &'a RetryArgs,
    json: bool,
    folded: u64,
    left: u64,
}

impl Run<'_> {
    async fn retry_at(&mut self, connection: &Connection, position: &Position) -> Result<()> {
        let Position {
            topic,
            partition,
            offset,
        } = position;
        let topic = full_name(connection, topic);
        let found = dead_letters::of_record(&mut self.postgres, &topic, *partition, *offset).await;
        let mut found = of_postgres(&self.database, found)?;
        if let Some(wanted) = &self.args.projection {
            found.retain(|letter| letter.projection == *wanted);
        }
        if found.is_empty() {
            output::note(format_args!("{position} is no dead letter"));
            self.left += 1;
        }
        for letter in &found {
            self.retry(letter).await?;
        }
        Ok(())
    }

    async fn retry_all(&mut self) -> Result<()> {
        let filter = Filter {
            projection: self.args.projection.as_deref(),
            reason: self.args.reason.as_deref(),
            ..Filter::default()
        };
        let mut place = (-1, -1);
        loop {
            let postgres = &mut self.postgres;
            let found = dead_letters::list_after(postgres, &filter, place, AT_ONCE).await;
            let found = of_postgres(&self.database, found)?;
            let Some(last) = found.last() else {
                return Ok(());
            };
            place = (last.partition, last.offset);
            for letter in &found {
                self.retry(letter).await?;
            }
        }
    }

    async fn retry(&mut self, letter: &Stored) -> Result<()> {
        let outcome = self.retrier.retry(letter).await?;
        match &outcome {
            Outcome::Folded => self.folded += 1,
            Outcome::Gone => {}
            Outcome::Stays { .. } | Outcome::Refused(_) => self.left += 1,
        }
        let position = Letter::from(letter).position;
        let (word, reason, error) = match &outcome {
            Outcome::Folded if self.args.dry_run => ("would_be_folded", None, None),
            Outcome::Folded => ("folded", None, None),
            Outcome::Gone => ("gone", None, None),
            Outcome::Stays { reason, error } => ("stays", Some(*reason), Some(error.as_str())),
            Outcome::Refused(why) => ("refused", None, Some(why.as_str())),
        };
        if self.json {
            return output::json(&Retried {
                position: &position,
                projection: &letter.projection,
                outcome: word,
                reason,
                error,
                dry_run: self.args.dry_run,
            });
        }
        let said = match &outcome {
            Outcome::Folded if self.args.dry_run => "would be folded".to_owned(),
            Outcome::Folded => "folded".to_owned(),
            Outcome::Gone => "was folded by somebody else".to_owned(),
            Outcome::Stays { reason, error } => format!("stays: {reason}: {error}"),
            Outcome::Refused(why) => format!("is not folded: {why}"),
        };
        output::line(format_args!("{position} {}", said.escape_debug()))
    }

    fn end(self) -> Result<()> {
        let folded = output::count(self.folded, "record");
        if !self.json {
            let were = if self.args.dry_run {
                "would be folded"
            } else {
                "folded"
            };
            output::note(format_args!("{folded} {were}"));
        }
        match self.left {
            0 => Ok(()),
            left => bail!("{} not folded", output::count(left, "dead letter")),
        }
    }
}
