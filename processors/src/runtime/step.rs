//! One transaction: checkpoints, rows, dead letters, commit.

use std::slice::from_ref;

use projections::{
    checkpoints::{self, AdvanceError},
    db::is_of_the_data,
    dead_letters::{self, DeadLetter},
    projection::{Changes as _, Generation},
};
use sqlx::{Connection, PgConnection};

use super::{Read, Runner};
use crate::{
    fold::{Fold, Folded, VerdictOf},
    record::Record,
};

/// Why a batch was not applied.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StepError {
    /// Somebody else applied it, or another generation is live now.
    #[error(transparent)]
    Lost(AdvanceError),
    /// Postgres.
    #[error(transparent)]
    Postgres(#[from] sqlx::Error),
}

impl<F: Fold> Runner<F> {
    /// One transaction: checkpoints, rows, dead letters, commit.
    pub(super) async fn step(
        &mut self,
        read: &Read<F::Event>,
        verdicts: &[VerdictOf<F>],
        one_by_one: bool,
    ) -> Result<Vec<DeadLetter>, StepError> {
        let (Some(connection), Some(generation)) = (&mut self.connection, &self.generation) else {
            return Err(sqlx::Error::WorkerCrashed.into());
        };
        let mut transaction = connection.begin().await?;
        let letters = apply::<F>(
            &mut transaction,
            generation,
            &self.topic,
            read,
            verdicts,
            one_by_one,
        );
        let letters = letters.await?;
        transaction.commit().await?;
        Ok(letters)
    }
}

/// What a batch changes in a generation, but for the commit: checkpoints, rows, dead letters.
///
/// # Errors
/// [`StepError`]: nothing of it may be committed.
pub(crate) async fn apply<F: Fold>(
    transaction: &mut PgConnection,
    generation: &Generation,
    topic: &str,
    read: &Read<F::Event>,
    verdicts: &[VerdictOf<F>],
    one_by_one: bool,
) -> Result<Vec<DeadLetter>, StepError> {
    checkpoints::advance(transaction, generation, topic, &read.batch.spans)
        .await
        .map_err(|error| match error {
            AdvanceError::Postgres(error) => StepError::Postgres(error),
            lost => StepError::Lost(lost),
        })?;
    let mut letters = read.rejected.clone();
    if one_by_one {
        for (record, verdict) in read.records.iter().zip(verdicts) {
            letters.extend(fold_alone::<F>(transaction, record, verdict).await?);
        }
    } else {
        letters.extend(fold_into::<F>(transaction, &read.records, verdicts).await?);
    }
    dead_letters::store(transaction, F::PROJECTION, generation, topic, &letters).await?;
    Ok(letters)
}

/// Loads, folds and writes; gives the records that contradict what is there.
pub(crate) async fn fold_into<F: Fold>(
    transaction: &mut PgConnection,
    records: &[Record<F::Event>],
    verdicts: &[VerdictOf<F>],
) -> sqlx::Result<Vec<DeadLetter>> {
    if records.is_empty() {
        return Ok(Vec::new());
    }
    let prior = F::load(transaction, records).await?;
    let Folded {
        changes,
        dead_letters,
    } = F::fold(&prior, records, verdicts);
    changes.apply(transaction).await?;
    Ok(dead_letters)
}

/// Folds one record within a savepoint; if Postgres cannot store it, it becomes a dead letter.
pub(crate) async fn fold_alone<F: Fold>(
    transaction: &mut PgConnection,
    record: &Record<F::Event>,
    verdict: &VerdictOf<F>,
) -> sqlx::Result<Vec<DeadLetter>> {
    let mut savepoint = transaction.begin().await?;
    let (records, verdicts) = (from_ref(record), from_ref(verdict));
    match fold_into::<F>(&mut savepoint, records, verdicts).await {
        Ok(letters) => {
            savepoint.commit().await?;
            Ok(letters)
        }
        Err(error) if !is_of_the_data(&error) => Err(error),
        Err(error) => {
            savepoint.rollback().await?;
            Ok(vec![DeadLetter {
                partition: record.partition,
                offset: record.offset,
                reason: "not_storable",
                error: error.to_string(),
                record_at_ms: record.timestamp_ms,
            }])
        }
    }
}
