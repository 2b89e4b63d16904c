//! A generation that is folded batch by batch, as a fold of this process would do it, up to given offsets.

use std::{
    collections::VecDeque,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, anyhow, bail};
use projections::{
    checkpoints, db::is_of_the_data, generations, projection::Generation, schema_ids,
};
use schemas::{codec::Decoder, event::Event, topics::subject};
use sqlx::{Connection, PgConnection};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{Offsets, Progress, offsets};
use crate::{
    consumer::{Consumer, Delivered, Partitions, Reading, Start},
    fold::{Fold, Memory as _, VerdictOf},
    interpret::{Learns, interpret_learning},
    record::Batch,
    runtime::{
        Read, Services,
        step::{StepError, apply},
    },
};

/// How long the broker may stay silent while there is more to read.
const PATIENCE: Duration = Duration::from_secs(30);
/// Records are taken as they come.
const BATCH_AGE: Duration = Duration::ZERO;
/// As much may wait for the live generation, in bytes; then reading begins anew.
const LATER_BYTES_MAX: usize = 64 << 20;

/// A generation that is not live yet, and what it takes to fold it.
pub(super) struct Build<F: Fold> {
    services: Services,
    progress: Progress,
    pub(super) topic: String,
    pub(super) generation: Generation,
    /// Writes its tables.
    pub(super) postgres: PgConnection,
    pub(super) decoder: Decoder<F::Event>,
    pub(super) memory: F::Memory,
    /// Next offsets, all partitions.
    pub(super) reached: Offsets,
    consumer: Option<Consumer>,
    /// Read, and not to be folded yet.
    later: VecDeque<Batch>,
    /// Something that was read was thrown away.
    has_gaps: bool,
    /// Folded in a transaction of somebody else, whose end is not known yet.
    uncommitted: Vec<Batch>,
    /// Stops what the memory reads.
    stop: DropGuard,
}

impl<F: Fold> Build<F> {
    pub(super) async fn open(
        services: &Services,
        generation: Generation,
        progress: &Progress,
    ) -> Result<Self> {
        let topic = F::PROJECTION.topic(&services.kafka.prefix);
        let stop = CancellationToken::new();
        let schema = generations::schema(&generation);
        let mut postgres = services
            .database
            .connect_build(F::PROJECTION, &schema)
            .await?;
        let reached = offsets(&checkpoints::of(&mut postgres, &generation).await?);
        progress.add(reached.values().sum());
        Ok(Self {
            services: services.clone(),
            progress: progress.clone(),
            decoder: Decoder::new(&topic),
            memory: F::Memory::new(&services.kafka, &services.registry, &stop),
            topic,
            generation,
            postgres,
            reached,
            consumer: None,
            later: VecDeque::new(),
            has_gaps: false,
            uncommitted: Vec::new(),
            stop: stop.drop_guard(),
        })
    }

    pub(super) async fn close(self) {
        drop(self.stop);
        self.memory.ended().await;
        if let Some(consumer) = self.consumer {
            consumer.stop().await;
        }
        // Closed or not, nothing is under way on it.
        let _ = self.postgres.close().await;
    }

    /// Says that its tables, which are as they were made, have their keys.
    pub(super) async fn be_whole(&mut self, guard: &mut PgConnection) -> Result<()> {
        Ok(generations::complete(guard, &self.generation).await?)
    }

    /// Folds everything before these offsets, and nothing else; each batch in a transaction of its own. The phase is how
    /// its progress is told.
    pub(super) async fn fold_to(&mut self, until: &Offsets, phase: &'static str) -> Result<()> {
        self.progress.begin(phase);
        while let Some(batch) = self.next(until, PATIENCE).await? {
            let read = self.read(batch).await?;
            let verdicts = self.judge(&read).await?;
            self.commit(&read, &verdicts).await?;
            self.passed(&read);
        }
        Ok(())
    }

    /// The same in a transaction of somebody else, in which the generation is live already.
    ///
    /// # Errors
    /// If the records do not come in time, or it cannot be done: [`Self::begin_again`] once it is rolled back.
    pub(super) async fn fold_within(
        &mut self,
        transaction: &mut PgConnection,
        until: &Offsets,
        patience: Duration,
    ) -> Result<()> {
        let deadline = Instant::now() + patience;
        let live = Generation {
            is_live: true,
            ..self.generation.clone()
        };
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            let Some(batch) = self.next(until, left).await? else {
                return Ok(());
            };
            let read = self.read(batch).await?;
            let verdicts = self.judge(&read).await?;
            let (topic, verdicts) = (&self.topic, &verdicts);
            let applied = apply::<F>(transaction, &live, topic, &read, verdicts, false).await;
            self.passed(&read);
            self.uncommitted.push(read.batch);
            applied?;
        }
    }

    /// After a transaction of somebody else was rolled back: begins where the checkpoints are.
    pub(super) async fn begin_again(&mut self) -> Result<()> {
        for batch in mem::take(&mut self.uncommitted).into_iter().rev() {
            self.later.push_front(batch);
        }
        let found = checkpoints::of(&mut self.postgres, &self.generation).await?;
        self.reached = offsets(&found);
        Ok(())
    }

    /// Begins to read, if that has not been done: the first record takes a while.
    pub(super) fn be_ready(&mut self) -> Result<()> {
        if self.consumer.is_none() {
            self.consumer = Some(self.consume()?);
        }
        Ok(())
    }

    async fn stop_reading(&mut self) {
        if let Some(consumer) = self.consumer.take() {
            consumer.stop().await;
        }
        self.later.clear();
        self.has_gaps = false;
    }

    async fn commit(&mut self, read: &Read<F::Event>, verdicts: &[VerdictOf<F>]) -> Result<()> {
        match self.try_commit(read, verdicts, false).await {
            // It lies in a record: then each is tried alone.
            Err(StepError::Postgres(error)) if is_of_the_data(&error) => {
                self.try_commit(read, verdicts, true).await
            }
            tried => tried,
        }
        .map_err(|error| anyhow!(error).context("the new generation could not be written"))
    }

    async fn try_commit(
        &mut self,
        read: &Read<F::Event>,
        verdicts: &[VerdictOf<F>],
        one_by_one: bool,
    ) -> Result<(), StepError> {
        let mut transaction = self.postgres.begin().await?;
        let (generation, topic) = (&self.generation, &self.topic);
        apply::<F>(
            &mut transaction,
            generation,
            topic,
            read,
            verdicts,
            one_by_one,
        )
        .await?;
        transaction.commit().await?;
        Ok(())
    }

    fn passed(&mut self, read: &Read<F::Event>) {
        for span in &read.batch.spans {
            self.reached.insert(span.partition, span.to);
            self.progress.add(span.to - span.from);
        }
    }

    pub(super) fn at(&self, partition: i32) -> i64 {
        self.reached.get(&partition).copied().unwrap_or(0)
    }

    fn has_reached(&self, until: &Offsets) -> bool {
        until.iter().all(|(p, until)| self.at(*p) >= *until)
    }

    /// The next batch before these offsets; none if all are reached.
    async fn next(&mut self, until: &Offsets, patience: Duration) -> Result<Option<Batch>> {
        if self.has_reached(until) {
            return Ok(None);
        }
        if self.has_gaps {
            self.stop_reading().await;
        }
        let before = |partition| until.get(&partition).copied().unwrap_or(0);
        self.later.retain(|batch| !batch.is_empty());
        for at in 0..self.later.len() {
            let (now, later) = mem::take(&mut self.later[at]).split(before);
            self.later[at] = later;
            if !now.is_empty() {
                return Ok(Some(now));
            }
        }
        let mut later_bytes: usize = self.later.iter().map(Batch::memory).sum();
        loop {
            let (now, later) = self.deliver(patience).await?.split(before);
            if !later.is_empty() {
                later_bytes += later.memory();
                self.later.push_back(later);
            }
            if later_bytes > LATER_BYTES_MAX {
                // The live generation stands still, and the log goes on.
                self.later.clear();
                later_bytes = 0;
                self.has_gaps = true;
            }
            if !now.is_empty() {
                return Ok(Some(now));
            }
        }
    }

    async fn deliver(&mut self, patience: Duration) -> Result<Batch> {
        self.be_ready()?;
        let consumer = self.consumer.as_mut().context("it was just made")?;
        loop {
            match timeout(patience, consumer.next()).await {
                Ok(Some(Delivered::Batch(batch))) => return Ok(*batch),
                Ok(Some(Delivered::Started | Delivered::Trouble(_))) => {}
                Ok(Some(Delivered::Halted(why) | Delivered::Broken(why))) => bail!(why),
                Ok(None) => bail!("the reading thread has ended"),
                Err(_) => bail!("{} gives no more records: is the broker well?", self.topic),
            }
        }
    }

    fn consume(&self) -> Result<Consumer> {
        let reached = self.reached.clone();
        let start: Arc<Start> = Arc::new(move |partitions: &[i32]| {
            let at = |partition| reached.get(&partition).copied().unwrap_or(0);
            Ok(partitions.iter().map(|p| (*p, at(*p))).collect())
        });
        let reading = Reading {
            topic: self.topic.clone(),
            partitions: Partitions::All(F::Event::TOPIC.partitions),
            batch_max: F::BATCH_MAX,
            batch_age: BATCH_AGE,
            fetch_wait: None,
        };
        Consumer::start(&self.services.kafka, reading, start)
    }

    async fn read(&mut self, batch: Batch) -> Result<Read<F::Event>> {
        let (mut records, mut rejected) = (Vec::with_capacity(batch.len()), Vec::new());
        for raw in batch.iter() {
            if F::Event::TOPIC.log_append_time && !raw.is_stamped {
                bail!(
                    "offset {} of {} has the time of its writer: the topic needs message.timestamp.type=LogAppendTime",
                    raw.offset,
                    self.topic
                );
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

    /// Compares what the registry says of an id with what it said when the id was first met.
    pub(super) async fn remember(&mut self, id: u32, fingerprint: &str) -> Result<()> {
        let subject = subject(&self.topic);
        let known = schema_ids::first_met(&mut self.postgres, &subject, id, fingerprint).await?;
        if known != fingerprint {
            bail!(
                "schema id {id} of {subject} has fingerprint {fingerprint} and had {known}: the registry lost its data or is another one; point MILLRACE_REGISTRY_URL at the one that wrote this log"
            );
        }
        Ok(())
    }

    async fn judge(&mut self, read: &Read<F::Event>) -> Result<Vec<VerdictOf<F>>> {
        let spans = &read.batch.spans;
        if !self.memory.stands_before(spans) {
            self.memory.warm_up(spans).await?;
        }
        self.memory.judge(spans, &read.records).await
    }
}

impl<F: Fold> Learns<F::Event> for Build<F> {
    type End = anyhow::Error;

    fn decoder(&self) -> &Decoder<F::Event> {
        &self.decoder
    }

    async fn learn(&mut self, id: u32) -> Result<()> {
        let fingerprint = self.decoder.learn(&self.services.registry, id).await?;
        self.remember(id, &fingerprint).await
    }
}
