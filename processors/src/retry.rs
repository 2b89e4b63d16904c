//! Dead letters that are folded after all: as when the registry has learned the schema of a record since, or somebody
//! has mended what Postgres refused. The record is folded at its own place, as if it had been read there: a click is
//! added, of two orders the earlier stands, of two profiles the later. The dead letter is deleted in the same transaction, and only who has deleted
//! it folds, so a record counts once, however many try.
//!
//! What decides (requests of a sale or about segments) is never folded late: whoever asked has an answer by now, and others were answered
//! as if the request had not been.

use std::{pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow, bail};
use producers::kafka::Kafka;
use projections::{
    db::{Database, PgConnection},
    dead_letters::{self, DeadLetter, Stored, Taken},
    history,
    projection::{Generation, PrepareError},
    schema_ids,
};
use rdkafka::consumer::BaseConsumer;
use schemas::{
    codec::{Decoder, LearnError},
    event::Event,
    registry::Registry,
    topics::subject,
};
use sqlx::Connection as _;
use tokio::task::block_in_place;

use crate::{
    clicks::Clicks,
    fold::Fold,
    inspect::{self, Log, Seen},
    interpret::{Failure, Rejected, interpret},
    orders::Orders,
    record::Record,
    runtime::step::fold_alone,
    sale_attempts::SaleAttempts,
    users::Users,
};

/// How long the broker may take to give the record.
const PATIENCE: Duration = Duration::from_secs(5);

/// What may be done with the dead letters of a projection.
enum Way {
    Fold(Folding),
    /// Why not.
    Never(&'static str),
}

type Folding = for<'a> fn(&'a mut Retrier, &'a Stored) -> Answer<'a>;
type Answer<'a> = Pin<Box<dyn Future<Output = Result<Outcome>> + 'a>>;

/// Every projection; of one that is missing nothing is folded late.
static WAYS: &[(&str, Way)] = &[
    (
        "clicks",
        Way::Fold(|retrier, letter| Box::pin(retrier.fold::<Clicks>(letter))),
    ),
    (
        "orders",
        Way::Fold(|retrier, letter| Box::pin(retrier.fold::<Orders>(letter))),
    ),
    (
        "users",
        Way::Fold(|retrier, letter| Box::pin(retrier.fold::<Users>(letter))),
    ),
    ("segments", Way::Never(VERDICT_GIVEN)),
    ("sales", Way::Never(VERDICT_GIVEN)),
    (
        "sale_attempts",
        Way::Fold(|retrier, letter| Box::pin(retrier.fold::<SaleAttempts>(letter))),
    ),
];

const VERDICT_GIVEN: &str = "it is a request, and its verdict is given: it did not count when it was read, and what came after it was decided without it";

/// What became of a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Its record counts now, and it is no dead letter any more.
    Folded,
    /// It was no dead letter any more: somebody else was faster.
    Gone,
    /// It cannot be folded now either.
    Stays {
        /// One word for the kind of fault.
        reason: &'static str,
        /// What exactly.
        error: String,
    },
    /// It may not be folded late: why, and what to do instead.
    Refused(String),
}

/// Folds dead letters after all.
pub struct Retrier {
    kafka: Kafka,
    registry: Registry,
    database: Database,
    /// Whether nothing is to be changed.
    is_dry_run: bool,
    consumer: Arc<BaseConsumer>,
    /// A connection for a projection, unless the last talk on it failed.
    connection: Option<(&'static str, PgConnection)>,
}

impl Retrier {
    /// Connects to nothing yet. On a dry run everything is done and nothing is kept.
    ///
    /// # Errors
    /// If a client setting is not one of librdkafka's.
    pub fn new(
        kafka: &Kafka,
        registry: &Registry,
        database: &Database,
        is_dry_run: bool,
    ) -> Result<Self> {
        Ok(Self {
            consumer: Arc::new(inspect::consumer(kafka)?),
            kafka: kafka.clone(),
            registry: registry.clone(),
            database: database.clone(),
            is_dry_run,
            connection: None,
        })
    }

    /// Folds the record of a dead letter, unless that may not be or still cannot be.
    ///
    /// # Errors
    /// If broker, registry or Postgres do not answer: it can be tried again, and counts once all the same.
    pub async fn retry(&mut self, letter: &Stored) -> Result<Outcome> {
        let way = WAYS.iter().find(|(name, _)| *name == letter.projection);
        match way.map(|(_, way)| way) {
            Some(Way::Fold(fold)) => fold(self, letter).await,
            Some(Way::Never(why)) => Ok(Outcome::Refused((*why).to_owned())),
            None => Ok(Outcome::Refused(format!(
                "this build does not fold {} late",
                letter.projection
            ))),
        }
    }

    async fn fold<F: Fold<Memory = ()>>(&mut self, letter: &Stored) -> Result<Outcome> {
        let name = F::PROJECTION.name;
        if letter.version != F::PROJECTION.version {
            return Ok(Outcome::Refused(format!(
                "version {} of the fold gave it up and this build has version {}: rebuild the projection with `millrace replay {name}`",
                letter.version,
                F::PROJECTION.version
            )));
        }
        let topic = F::Event::TOPIC.full_name(&self.kafka.prefix);
        let mut connection = match self.connection.take() {
            Some((of, connection)) if of == name => connection,
            _ => self.database.connect_fold(F::PROJECTION, name).await?,
        };
        let generation = match F::PROJECTION.live(&mut connection, &topic).await {
            Ok(generation) => generation,
            Err(PrepareError::Postgres(error)) => return Err(error.into()),
            Err(error) => return Ok(Outcome::Refused(error.to_string())),
        };
        let seen = match block_in_place(|| self.find(letter))? {
            Ok(seen) => seen,
            Err(refused) => return Ok(refused),
        };
        let event = self.read::<F::Event>(&mut connection, &seen).await?;
        let letter_of = |rejected: Rejected| rejected.into_letter(&seen.raw());
        let event = event.map_err(letter_of);
        let outcome = self
            .apply::<F>(&mut connection, &generation, letter, event)
            .await?;
        self.connection = Some((name, connection));
        Ok(outcome)
    }

    /// The record, if it is still the one that was given up.
    fn find(&self, letter: &Stored) -> Result<Result<Seen, Outcome>> {
        let log = Log::with(&self.consumer, &letter.topic)?;
        let extent = log.extent(letter.partition)?;
        let range = (letter.partition, letter.offset..extent.end_offset);
        let has_it = (extent.first_offset..extent.end_offset).contains(&letter.offset);
        let found = match has_it {
            true => log.first_in(&[range], PATIENCE)?.pop(),
            false => None,
        };
        match found {
            None if has_it => bail!("the broker does not give the record: is it well?"),
            Some(seen)
                if seen.offset == letter.offset
                    && seen.raw().timestamp_ms == letter.record_at_ms =>
            {
                Ok(Ok(seen))
            }
            _ => Ok(Err(Outcome::Refused(format!(
                "{} does not have the record any more that was given up: it was truncated or made anew",
                letter.topic
            )))),
        }
    }

    /// The event of a record, or why it is none, with what the registry says now.
    async fn read<E: Event>(
        &self,
        connection: &mut PgConnection,
        seen: &Seen,
    ) -> Result<Result<Record<E>, Rejected>> {
        let mut decoder = Decoder::<E>::new(&seen.topic);
        loop {
            match interpret(&decoder, &seen.raw()) {
                Ok(record) => return Ok(Ok(record)),
                Err(Failure::Rejected(rejected)) => return Ok(Err(rejected)),
                Err(Failure::NotLearned(id)) => {
                    let learned = decoder.learn(&self.registry, id).await;
                    let fingerprint = learned.map_err(|error| match error {
                        LearnError::Registry(error) => {
                            anyhow!(error).context("the schema registry does not answer")
                        }
                        other => anyhow!(other),
                    })?;
                    let subject = subject(&seen.topic);
                    let known = schema_ids::first_met(connection, &subject, id, &fingerprint);
                    if known.await? != fingerprint {
                        bail!(
                            "schema id {id} of {subject} means something else than before: point MILLRACE_REGISTRY_URL at the registry that wrote this log"
                        );
                    }
                }
            }
        }
    }

    /// One transaction: the dead letter goes, and its record counts.
    async fn apply<F: Fold<Memory = ()>>(
        &self,
        connection: &mut PgConnection,
        generation: &Generation,
        letter: &Stored,
        event: Result<Record<F::Event>, DeadLetter>,
    ) -> Result<Outcome> {
        let mut transaction = connection.begin().await?;
        match dead_letters::take(&mut transaction, generation, letter).await? {
            Taken::Yes => {}
            Taken::Gone => {
                transaction.rollback().await?;
                return Ok(Outcome::Gone);
            }
            Taken::NotLive => bail!(
                "{} has just been rebuilt: look whether this is a dead letter still",
                letter.projection
            ),
        }
        let letters = match &event {
            Ok(record) => fold_alone::<F>(&mut transaction, record, &()).await?,
            Err(fault) => vec![fault.clone()],
        };
        let own =
            |new: &&DeadLetter| (new.partition, new.offset) == (letter.partition, letter.offset);
        let outcome = letters
            .iter()
            .find(own)
            .map_or(Outcome::Folded, |again| Outcome::Stays {
                reason: again.reason,
                error: again.error.clone(),
            });
        // A fault that is the same leaves everything as it is, also when it was found.
        let is_same = matches!(&outcome, Outcome::Stays { reason, error }
            if *reason == letter.reason && *error == letter.error);
        if is_same || self.is_dry_run {
            transaction.rollback().await?;
            return Ok(outcome);
        }
        dead_letters::store(
            &mut transaction,
            F::PROJECTION,
            generation,
            &letter.topic,
            &letters,
        )
        .await?;
        if outcome == Outcome::Folded {
            history::revise(&mut transaction, generation).await?;
        }
        let committed = transaction.commit().await;
        committed.context("it is not known whether it was folded: try again, it counts once")?;
        Ok(outcome)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_said_of_every_projection_what_may_be_done() {
        let mut known: Vec<_> = WAYS.iter().map(|(name, _)| *name).collect();
        let mut all: Vec<_> = crate::runtime::names().collect();
        known.sort_unstable();
        all.sort_unstable();
        assert_eq!(known, all);
    }
}
