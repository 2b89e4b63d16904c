//! The log that a generation is made from: whether it is the one that the others were made from, and whether all of it
//! is there.

use std::sync::Arc;

use anyhow::{Result, bail};
use producers::log_id::LogId;
use projections::{
    history::{self, Known},
    projection::Generation,
};
use rdkafka::consumer::BaseConsumer;
use tokio::task::spawn_blocking;

use super::{Offsets, Site};
use crate::{
    fold::Fold,
    guard::{Found, log_id, look_beside, other_log, what_to_do},
    inspect::{self, Extent, Log},
};

impl<F: Fold> Site<'_, F> {
    /// How the log is another one than this generation was made from, in words; none if it is the same.
    pub(super) async fn other_log(&mut self, number: i32) -> Result<Option<String>> {
        let known = self.known(number).await?;
        other_log(&self.services.kafka, &self.topic, &known).await
    }

    /// Whether this generation is certainly of this log.
    pub(super) async fn is_of_this_log(&mut self, number: i32) -> Result<bool> {
        let known = self.known(number).await?;
        if known.log.is_none() {
            return Ok(false);
        }
        let found = look_beside(&self.services.kafka, &self.topic, &known).await?;
        Ok(matches!(found, Found::Same(_)))
    }

    async fn known(&mut self, number: i32) -> Result<Known> {
        let generation = self.beside(number);
        Ok(history::known(&mut self.guard, &generation).await?)
    }

    /// Notes which log a generation will be made from, before a record of it is read.
    pub(super) async fn note_log(&mut self, generation: &Generation) -> Result<()> {
        let (kafka, topic) = (self.services.kafka.clone(), self.topic.clone());
        let ask = move || log_id(&inspect::consumer(&kafka)?, &topic);
        let LogId { cluster, topic } = spawn_blocking(ask).await??;
        Ok(history::note(&mut self.guard, generation, &cluster, &topic).await?)
    }

    /// Demands that the log is the one that this generation was made from.
    pub(super) async fn must_be_the_log_of(&mut self, number: i32) -> Result<()> {
        let Some(what) = self.other_log(number).await? else {
            return Ok(());
        };
        let name = F::PROJECTION.name;
        bail!(
            "generation {number} of {name} is of another log: {what}; {}",
            what_to_do(name)
        )
    }

    /// Demands that the log has every record from its first on, and tells where it ends.
    pub(super) async fn must_begin_at_0(&self) -> Result<Offsets> {
        let (kafka, topic) = (self.services.kafka.clone(), self.topic.clone());
        let extents = spawn_blocking(move || {
            let consumer: BaseConsumer = inspect::consumer(&kafka)?;
            Log::with(&Arc::new(consumer), &topic)?.extents()
        });
        let mut ends = Offsets::new();
        for extent in extents.await?? {
            let Extent {
                partition,
                first_offset,
                end_offset,
            } = extent;
            if first_offset > 0 {
                bail!(
                    "{}/{partition} begins at offset {first_offset}: what was before is lost, and tables made from the rest would lack it",
                    self.topic
                );
            }
            ends.insert(partition, end_offset);
        }
        Ok(ends)
    }
}
