//! A generation that is made in one go: all records in memory, as far as there is room, and rows by COPY into tables that
//! get their keys afterwards. A thread reads, a second one folds, and beside them rows are written.

use std::{
    sync::{Arc, mpsc as batches},
    thread,
    time::Duration,
};

use anyhow::{Context as _, Result};
use producers::kafka::Kafka;
use projections::{
    checkpoints::{self, Last, Span},
    db::{SqlError, is_of_the_data},
    dead_letters::{self, DeadLetter},
    generations,
    keys::Keys,
    rows::Rows,
};
use schemas::event::Event;
use sqlx::Connection;
use tokio::{sync::mpsc, task::spawn_blocking};

use super::{
    Offsets, Progress, Site,
    build::Build,
    scan::{Events, Visitor, scan},
};
use crate::{
    fold::{Fold, Memory as _, When, Whole},
    inspect::{self, Log},
    record::{Batch, Raw, Record},
    runtime::step::fold_into,
};

/// How long the broker may take to give the last records once more.
const PATIENCE: Duration = Duration::from_secs(10);
/// Batches, each of what the client had at once, that wait to be folded.
const BATCHES_WAITING: usize = 8;
/// Rows and dead letters that wait to be written.
const PARTS_WAITING: usize = 4;
/// Dead letters are stored in bundles.
const LETTERS_MAX: usize = 1_000;
/// What a record takes beside its bytes, about.
const RECORD_BYTES: usize = 512;

/// What is written while reading goes on.
enum Part {
    Rows(Rows),
    Letters(Vec<DeadLetter>),
}

impl<F: Fold> Site<'_, F> {
    /// Builds a generation in one go; none if the fold has no way to do so, or Postgres refuses a row, which one cannot
    /// be told then.
    pub(super) async fn build_whole(
        &mut self,
        until: &Offsets,
        is_scratch: bool,
    ) -> Result<Option<Build<F>>> {
        let Some(whole) = F::whole() else {
            return Ok(None);
        };
        let mut build = self.begin(is_scratch).await?;
        match self.fill(&mut build, whole, until).await {
            Ok(()) => {
                // What there was no room for.
                build.fold_to(until, "folds").await?;
                self.took("read");
                Ok(Some(build))
            }
            Err(error) if error.downcast_ref::<SqlError>().is_some_and(is_of_the_data) => {
                tracing::warn!(%error, "Postgres refuses a row: builds batch by batch");
                let number = build.generation.number;
                build.close().await;
                generations::remove(&mut self.guard, F::PROJECTION, number).await?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    async fn fill(
        &mut self,
        build: &mut Build<F>,
        whole: Box<dyn Whole<F::Event>>,
        until: &Offsets,
    ) -> Result<()> {
        self.progress.begin("reads");
        let schema = generations::schema(&build.generation);
        let keys = Keys::take(&mut build.postgres, &schema).await?;
        sqlx::raw_sql(whole.begin())
            .execute(&mut build.postgres)
            .await?;
        let (sender, parts) = mpsc::channel(PARTS_WAITING);
        let gathering = Gathering {
            events: Events::new(&build.topic, &self.services.registry),
            whole,
            late: Vec::new(),
            late_bytes: 0,
            letters: Vec::new(),
            spans: until
                .keys()
                .map(|partition| nothing_of(*partition))
                .collect(),
            is_full: false,
            memory_bytes: self.asked.memory_bytes,
            sender,
            progress: self.progress.clone(),
            seen: 0,
        };
        let (kafka, topic) = (self.services.kafka.clone(), build.topic.clone());
        let ends = until.clone();
        let reading = spawn_blocking(move || gathering.read(&kafka, &topic, &ends));
        let written = write(build, parts).await;
        let gathered = reading.await.context("reading the log")?;
        // If nobody writes any more, that is why nobody reads.
        written?;
        let gathered = gathered?;
        self.took("read");
        self.progress.begin("makes keys");
        build.settle(keys, gathered).await?;
        generations::analyze(&mut build.postgres, &schema).await?;
        self.took("keys");
        Ok(())
    }
}

fn nothing_of(partition: i32) -> Span {
    Span {
        partition,
        from: 0,
        to: 0,
        record_at_ms: 0,
        last: None,
    }
}

async fn write<F: Fold>(
    build: &mut Build<F>,
    mut parts: mpsc::Receiver<Part>,
) -> Result<(), SqlError> {
    while let Some(part) = parts.recv().await {
        match part {
            Part::Rows(rows) => rows.copy(&mut build.postgres).await?,
            Part::Letters(letters) => {
                let (generation, topic) = (&build.generation, &build.topic);
                let postgres = &mut build.postgres;
                dead_letters::store(postgres, F::PROJECTION, generation, topic, &letters).await?;
            }
        }
    }
    Ok(())
}

/// What is known while the log is read.
struct Gathering<E> {
    events: Events<E>,
    whole: Box<dyn Whole<E>>,
    /// To be folded once the tables have keys.
    late: Vec<Record<E>>,
    late_bytes: usize,
    letters: Vec<DeadLetter>,
    /// What is folded, a span a partition.
    spans: Vec<Span>,
    /// There is no room for more.
    is_full: bool,
    memory_bytes: usize,
    sender: mpsc::Sender<Part>,
    progress: Progress,
    /// Records since the progress was told.
    seen: i64,
}

impl<E: Event> Gathering<E> {
    /// Reads everything before these offsets, or as much as there is room for.
    fn read(mut self, kafka: &Kafka, topic: &str, until: &Offsets) -> Result<Gathered<E>> {
        let (sender, batches) = batches::sync_channel(BATCHES_WAITING);
        thread::scope(|scope| {
            let mut ahead = Ahead {
                batch: Batch::default(),
                sender,
            };
            let reading = scope.spawn(move || scan(kafka, topic, until, &mut ahead));
            let folded = self.fold(batches);
            let read = reading
                .join()
                .expect("a reader that panics ends the program");
            folded.and(read)
        })?;
        self.know_the_last(kafka, topic)?;
        if !self.is_full {
            // A partition may end in a gap.
            for span in &mut self.spans {
                span.to = until.get(&span.partition).copied().unwrap_or(span.to);
            }
        }
        self.give(When::End)?;
        self.give_letters()?;
        Ok(Gathered {
            late: self.late,
            spans: self.spans,
            learned: self.events.learned,
            end: self.whole.end(),
        })
    }

    /// Folds what is read, until there is no more, or no room for it.
    fn fold(&mut self, batches: batches::Receiver<Batch>) -> Result<()> {
        for batch in batches {
            for raw in batch.iter() {
                self.see(&raw)?;
            }
            self.passed()?;
            if self.is_full {
                break;
            }
        }
        Ok(())
    }

    /// Keeps of each partition the record that was read last, to know the log again by.
    fn know_the_last(&mut self, kafka: &Kafka, topic: &str) -> Result<()> {
        let log = Log::with(&Arc::new(inspect::consumer(kafka)?), topic)?;
        let read = self.spans.iter().filter(|span| span.to > 0);
        let ranges: Vec<_> = read
            .map(|span| (span.partition, span.to - 1..span.to))
            .collect();
        for seen in log.first_in(&ranges, PATIENCE)? {
            let is_it =
                |span: &&mut Span| (span.partition, span.to - 1) == (seen.partition, seen.offset);
            if let Some(span) = self.spans.iter_mut().find(is_it) {
                span.last = Some(Last {
                    offset: seen.offset,
                    fingerprint: seen.raw().fingerprint(),
                });
            }
        }
        Ok(())
    }

    fn give(&mut self, when: When) -> Result<()> {
        for rows in self.whole.rows(when) {
            self.sender.blocking_send(Part::Rows(rows))?;
        }
        Ok(())
    }

    fn give_letters(&mut self) -> Result<()> {
        let letters = std::mem::take(&mut self.letters);
        self.sender.blocking_send(Part::Letters(letters))?;
        Ok(())
    }

    /// Folds a record, in the order of its partition.
    fn see(&mut self, raw: &Raw<'_>) -> Result<()> {
        match self.events.event(raw)? {
            Err(rejected) => self.letters.push(rejected.into_letter(raw)),
            Ok(record) => {
                if let Some(late) = self.whole.fold(record) {
                    self.late.push(late);
                    self.late_bytes += RECORD_BYTES + raw.value.map_or(0, <[u8]>::len);
                }
            }
        }
        let span = self
            .spans
            .iter_mut()
            .find(|span| span.partition == raw.partition)
            .context("a partition that nobody asked for")?;
        self.seen += raw.offset + 1 - span.to;
        span.to = raw.offset + 1;
        span.record_at_ms = span.record_at_ms.max(raw.timestamp_ms);
        Ok(())
    }

    /// After each batch: gives what is worth being written.
    fn passed(&mut self) -> Result<()> {
        self.progress.add(std::mem::take(&mut self.seen));
        self.give(When::Passing)?;
        if self.letters.len() >= LETTERS_MAX {
            self.give_letters()?;
        }
        if self.memory() > self.memory_bytes {
            self.give(When::Full)?;
            self.is_full = self.memory() > self.memory_bytes;
        }
        Ok(())
    }

    fn memory(&self) -> usize {
        self.whole.memory() + self.late_bytes
    }
}

/// Hands what is read over to who folds it.
struct Ahead {
    batch: Batch,
    sender: batches::SyncSender<Batch>,
}

impl Visitor for Ahead {
    fn see(&mut self, raw: &Raw<'_>) -> Result<()> {
        self.batch.push(*raw, raw.offset);
        Ok(())
    }

    fn goes_on(&mut self) -> Result<bool> {
        let batch = std::mem::take(&mut self.batch);
        // Fails once nobody folds any more, who says why.
        Ok(self.sender.send(batch).is_ok())
    }
}

/// What was read, beside the rows that are written.
struct Gathered<E> {
    late: Vec<Record<E>>,
    spans: Vec<Span>,
    learned: Vec<(u32, String)>,
    end: &'static str,
}

impl<F: Fold> Build<F> {
    /// Gives the tables their keys, folds what had to wait for them, and says how far they are: in one transaction.
    async fn settle(&mut self, keys: Keys, gathered: Gathered<F::Event>) -> Result<()> {
        for (id, fingerprint) in gathered.learned {
            self.remember(id, &fingerprint).await?;
        }
        let mut transaction = self.postgres.begin().await?;
        sqlx::raw_sql(gathered.end)
            .execute(&mut *transaction)
            .await?;
        keys.give(&mut transaction).await?;
        let (generation, topic) = (&self.generation, &self.topic);
        for records in gathered.late.chunks(F::BATCH_MAX) {
            let verdicts = self.memory.judge(&[], records).await?;
            let letters = fold_into::<F>(&mut transaction, records, &verdicts).await?;
            let projection = F::PROJECTION;
            dead_letters::store(&mut transaction, projection, generation, topic, &letters).await?;
        }
        checkpoints::set(&mut transaction, generation, topic, &gathered.spans).await?;
        generations::complete(&mut transaction, generation).await?;
        transaction.commit().await?;
        for span in &gathered.spans {
            self.reached.insert(span.partition, span.to);
        }
        Ok(())
    }
}
