//! From the bytes of a batch to its events, and to what the memory makes of them; however long the registry is away.

use projections::schema_ids;
use schemas::{
    codec::{Decoder, LearnError},
    event::Event as _,
    topics::subject,
};

use super::{
    CONNECT_TIMEOUT, Halt, RETRY_FIRST, RETRY_MAX, Read, Runner, VerdictOf, chain, within,
};
use crate::{
    fold::{Fold, Memory as _},
    interpret::{Learns, interpret_learning},
    record::Batch,
    status::Doing,
};

impl<F: Fold> Runner<F> {
    /// Reads the events of a batch; learns schema ids that are new, however long the registry is away.
    pub(super) async fn read(&mut self, batch: Batch) -> Result<Read<F::Event>, Halt> {
        let mut records = Vec::with_capacity(batch.len());
        let mut rejected = Vec::new();
        for raw in batch.iter() {
            if F::Event::TOPIC.log_append_time && !raw.is_stamped {
                return Err(Halt(format!(
                    "offset {} has the time of its writer: {} needs message.timestamp.type=LogAppendTime, and `millrace doctor` tells what else",
                    raw.offset, self.topic
                )));
            }
            match interpret_learning(self, &raw).await? {
                Ok(record) => records.push(record),
                Err(fault) => rejected.push(fault.into_letter(&raw)),
            }
        }
        self.decoder.forget_refusals();
        Ok(Read {
            batch,
            records,
            rejected,
        })
    }

    /// What the memory makes of the records, however long it takes to warm up; none if the batch is out of date then.
    pub(super) async fn judge(&mut self, read: &Read<F::Event>) -> Option<Vec<VerdictOf<F>>> {
        let mut pause = RETRY_FIRST;
        while self.is_current(&read.batch) {
            match self.try_judge(read).await {
                Ok(verdicts) => return Some(verdicts),
                Err(error) => {
                    self.doing(Doing::Waiting(format!("{error:#}")));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
        None
    }

    async fn try_judge(&mut self, read: &Read<F::Event>) -> anyhow::Result<Vec<VerdictOf<F>>> {
        let spans = &read.batch.spans;
        // Somebody else went on here, or the last batch was given up after it was judged.
        if !self.memory.stands_before(spans) {
            tracing::info!(
                part = self.part,
                ?spans,
                "reads what has to be known before"
            );
            let _busy = self.services.status.moves().busy(F::PROJECTION.name);
            self.memory.warm_up(spans).await?;
        }
        self.memory.judge(spans, &read.records).await
    }

    /// Compares what the registry says of an id with what it said when the id was first met.
    async fn remember(&mut self, id: u32, fingerprint: &str) -> Result<(), Halt> {
        let subject = subject(&self.topic);
        let mut pause = RETRY_FIRST;
        loop {
            self.connect().await?;
            let Some(connection) = &mut self.connection else {
                continue;
            };
            let first_met = schema_ids::first_met(connection, &subject, id, fingerprint);
            match within(CONNECT_TIMEOUT, first_met).await {
                Ok(known) if known == fingerprint => return Ok(()),
                Ok(known) => {
                    return Err(Halt(format!(
                        "schema id {id} of {subject} has fingerprint {fingerprint} and had {known}: the registry lost its data or is another one; point MILLRACE_REGISTRY_URL at the one that wrote this log"
                    )));
                }
                Err(error) => {
                    self.connection = None;
                    self.doing(Doing::Waiting(format!("Postgres: {error}")));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
            }
        }
    }
}

impl<F: Fold> Learns<F::Event> for Runner<F> {
    type End = Halt;

    fn decoder(&self) -> &Decoder<F::Event> {
        &self.decoder
    }

    async fn learn(&mut self, id: u32) -> Result<(), Halt> {
        let mut pause = RETRY_FIRST;
        loop {
            match self.decoder.learn(&self.services.registry, id).await {
                Ok(fingerprint) => return self.remember(id, &fingerprint).await,
                Err(LearnError::Registry(error)) => {
                    self.doing(Doing::Waiting(chain(&error)));
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(RETRY_MAX);
                }
                Err(error @ LearnError::NewerBuildNeeded { .. }) => {
                    return Err(Halt(error.to_string()));
                }
            }
        }
    }
}
