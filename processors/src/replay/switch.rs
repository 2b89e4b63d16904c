//! The new generation takes over: one transaction, and why nothing is lost or counted twice in it.
//!
//! Generations and checkpoints of both are changed before anything else. So a batch of the old generation is either
//! committed, and below the offsets that are read here, or will find that its generation is not live any more: it cannot
//! be under way. Then the new generation is folded to exactly these offsets: whatever position somebody was told of,
//! it is reached. (Where another log takes the place of the old one, positions mean nothing any more.) Then the schemas
//! get their names, and all of it is committed at once.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use projections::{generations, projection::Generation};
use sqlx::{AssertSqlSafe, Connection};

use super::{Site, build::Build, offsets};
use crate::fold::Fold;

/// For how long it is tried again after the first failure: a batch that takes long, or a pause of this process, ends an attempt.
const PATIENCE: Duration = Duration::from_mins(2);
const PAUSE: Duration = Duration::from_millis(200);
/// How long the last records may take, while the live generation stands still.
const LAST_RECORDS: Duration = Duration::from_secs(1);

/// What positions of the old generation mean for the new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Positions {
    /// The same: it has to reach them.
    Kept,
    /// Nothing: they are of another log.
    Void,
}

impl<F: Fold> Site<'_, F> {
    /// Makes this generation live.
    ///
    /// # Errors
    /// If it cannot be done; then nothing has changed.
    pub(super) async fn switch(&mut self, mut build: Build<F>, positions: Positions) -> Result<()> {
        self.must_be_the_log_of(build.generation.number).await?;
        let mut until = None;
        loop {
            if positions == Positions::Kept {
                self.catch_up(&mut build).await?;
                build.be_ready()?;
            }
            self.progress.begin("takes over");
            let Err(error) = self.try_switch(&mut build, positions).await else {
                break;
            };
            build.begin_again().await.context(error.to_string())?;
            if Instant::now() >= *until.get_or_insert_with(|| Instant::now() + PATIENCE) {
                bail!("the switch could not be made, and nothing has changed: {error:#}");
            }
            tokio::time::sleep(PAUSE).await;
        }
        self.outcome.generation = Some(build.generation.number);
        self.outcome.records = build.reached.values().sum();
        build.close().await;
        self.took("switch");
        Ok(())
    }

    async fn try_switch(&mut self, build: &mut Build<F>, positions: Positions) -> Result<()> {
        if let Err(error) = generations::close(&mut self.guard, F::PROJECTION).await {
            // It may have been granted just when its time was over.
            generations::open(&mut self.guard, F::PROJECTION).await?;
            return Err(error.into());
        }
        let switched = self.take_over(build, positions).await;
        if switched.is_ok() {
            let old = self.old();
            // One that stands still for longer would have to be cut off; nobody waits for it.
            let _ = generations::await_readers(&mut self.guard, &old).await;
        }
        generations::open(&mut self.guard, F::PROJECTION).await?;
        switched
    }

    fn old(&self) -> Generation {
        Generation {
            is_live: true,
            ..self.beside(self.live.number)
        }
    }

    async fn take_over(&mut self, build: &mut Build<F>, positions: Positions) -> Result<()> {
        let (old, new, topic) = (self.old(), &build.generation.clone(), &self.topic);
        let mut transaction = self.guard.begin().await?;
        let reached = generations::take_over(&mut transaction, &old, new, topic).await?;
        let Some(reached) = reached else {
            bail!(
                "another generation of {} has gone live meanwhile",
                old.projection
            );
        };
        let here = format!("SET LOCAL search_path = {}", generations::schema(new));
        sqlx::raw_sql(AssertSqlSafe(here))
            .execute(&mut *transaction)
            .await?;
        if positions == Positions::Kept {
            let until = offsets(&reached);
            build
                .fold_within(&mut transaction, &until, LAST_RECORDS)
                .await?;
        }
        generations::rename(&mut transaction, &old, new).await?;
        transaction.commit().await?;
        Ok(())
    }
}
