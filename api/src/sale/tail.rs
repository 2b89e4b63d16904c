//! The end of the log of the sale, as every process reads it itself.
//!
//! The start: a barrier of one's own goes to the log, which proves the way there and warms the producer; then the window
//! is read up to and with it, and the sale is open. No Postgres is needed.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use anyhow::Context as _;
use processors::{
    consumer::{Consumer, Delivered, Partitions, Reading},
    interpret::{Learns, interpret_learning},
    record::{Batch, Record},
    sales::{
        Ledger,
        window::{Window, must_be_stamped, no_event},
    },
    status::Doing,
};
use producers::{clock, writer::Context};
use schemas::{
    codec::{Decoder, LearnError},
    event::Event,
    sale_rules::SaleRulesSet,
    sales::{Barrier, SaleEvent},
};
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

use super::Sale;
use crate::app::App;

/// Parts of the process, as `/readyz` names them.
pub(crate) const PART: &str = "sale";
pub(crate) const RULES: &str = "rules of the sale";
const BATCH_MAX: usize = 10_000;
/// Records are folded at once.
const BATCH_AGE: Duration = Duration::ZERO;
/// So many are folded before the other threads have a chance.
const AT_ONCE: usize = 256;
const RETRY: Duration = Duration::from_millis(200);

/// Opens the sale, and folds its log for as long as it is polled.
pub async fn follow_sale(app: Arc<App>) {
    let _guard = Guard(Arc::clone(&app), PART);
    let mut tail = Tail::<SaleEvent>::new(&app, PART);
    let ledger = loop {
        match open(&app).await {
            Ok(ledger) => break ledger,
            Err(error) => match error.downcast_ref() {
                Some(LearnError::NewerBuildNeeded { .. }) => {
                    return tail.halt(error.to_string()).await;
                }
                _ => tail.wait(format!("{error:#}")).await,
            },
        }
    };
    app.sale.install(ledger);
    tail.follow().await;
}

/// Reads the rules of the sale for as long as it is polled.
pub async fn follow_rules(app: Arc<App>) {
    let _guard = Guard(Arc::clone(&app), RULES);
    Tail::<SaleRulesSet>::new(&app, RULES).follow().await;
}

/// A tail that panics must not leave behind a sale that stands still.
struct Guard(Arc<App>, &'static str);

impl Drop for Guard {
    fn drop(&mut self) {
        drop(self.0.services.status.guard(self.1));
        self.0.sale.close();
    }
}

/// Reads what the state depends on, puts a barrier on the log, and reads on up to there.
async fn open(app: &Arc<App>) -> anyhow::Result<Ledger> {
    let services = app.services.clone();
    let stop = CancellationToken::new();
    // Reading ends when nobody waits for it any more.
    let _stop = stop.clone().drop_guard();
    let runtime = Handle::current();
    let read = move || {
        let mut window = Window::new(&services.kafka, &services.registry, runtime, stop);
        let end = window.end()?;
        window.ledger_at(end).map(|ledger| (window, ledger))
    };
    let (mut window, mut ledger) = tokio::task::spawn_blocking(read).await??;
    let barrier = append_barrier(app).await?;
    let read_on = move || {
        window.go_on(&mut ledger, barrier + 1, |_, _| ())?;
        anyhow::Ok((window, ledger))
    };
    let (window, ledger) = tokio::task::spawn_blocking(read_on).await??;
    // To leave the broker takes a while, and the sale does not wait for it.
    tokio::task::spawn_blocking(|| drop(window));
    Ok(ledger)
}

/// Gives the offset of a new barrier.
async fn append_barrier(app: &App) -> anyhow::Result<i64> {
    let barrier = SaleEvent::Barrier(Barrier {
        nonce: clock::chance(),
    });
    let writer = app.sale.writer();
    let position = writer.append(&barrier, &Context::default()).await?;
    let position = position.context("the broker does not tell offsets")?;
    Ok(position.offset)
}

impl Sale {
    fn install(&self, mut ledger: Ledger) {
        let mut here = self.ledger();
        // The rules are read beside the window, and go on from where they are.
        if here.book.next_offset() > ledger.book.next_offset() {
            ledger.book = std::mem::take(&mut here.book);
        }
        self.rules_seen
            .fetch_max(ledger.book.next_offset(), Ordering::AcqRel);
        self.board.replace(&ledger);
        self.announce(&ledger);
        *here = ledger;
        self.open();
    }
}

/// What is done with the records of a topic of the sale.
trait Observe: Event {
    /// Where to go on.
    fn next_offset(sale: &Sale) -> i64;

    /// Takes records in their order; everything before `next_offset` has been read then. Gives how many were taken: the
    /// others need rules that have not been read yet.
    fn observe(sale: &Sale, records: &[Record<Self>], next_offset: i64) -> usize;
}

impl Observe for SaleEvent {
    fn next_offset(sale: &Sale) -> i64 {
        sale.ledger().next_offset()
    }

    fn observe(sale: &Sale, records: &[Record<Self>], next_offset: i64) -> usize {
        let mut taken = 0;
        for some in records.chunks(AT_ONCE) {
            let mut ledger = sale.ledger();
            let held_up = some
                .iter()
                .position(|record| sale.fold(&mut ledger, record).is_err());
            taken += held_up.unwrap_or(some.len());
            sale.announce(&ledger);
            if held_up.is_some() {
                return taken;
            }
        }
        let mut ledger = sale.ledger();
        ledger.pass(next_offset);
        sale.announce(&ledger);
        taken
    }
}

impl Observe for SaleRulesSet {
    fn next_offset(sale: &Sale) -> i64 {
        sale.ledger().book.next_offset()
    }

    fn observe(sale: &Sale, records: &[Record<Self>], next_offset: i64) -> usize {
        let mut ledger = sale.ledger();
        for record in records {
            ledger.book.set(record.offset, record.event);
        }
        ledger.book.pass(next_offset);
        drop(ledger);
        sale.rules_seen.fetch_max(next_offset, Ordering::AcqRel);
        sale.rules_came.notify_waiters();
        records.len()
    }
}

/// Reads a topic of the sale.
struct Tail<'a, E> {
    app: &'a Arc<App>,
    part: &'static str,
    decoder: Decoder<E>,
}

impl<'a, E: Observe> Tail<'a, E> {
    fn new(app: &'a Arc<App>, part: &'static str) -> Self {
        Self {
            app,
            part,
            decoder: Decoder::new(&app.topic(E::TOPIC)),
        }
    }

    async fn follow(&mut self) {
        let app = Arc::clone(self.app);
        let topic = app.topic(E::TOPIC);
        loop {
            let tried = tokio::select! {
                tried = self.try_follow() => tried,
                why = app.history.lost(&topic) => Err(Halt(why)),
            };
            if let Err(Halt(why)) = tried {
                return self.halt(why).await;
            }
        }
    }

    async fn try_follow(&mut self) -> Result<(), Halt> {
        let reading = Reading {
            topic: self.app.topic(E::TOPIC),
            partitions: Partitions::All(E::TOPIC.partitions),
            batch_max: BATCH_MAX,
            batch_age: BATCH_AGE,
            fetch_wait: None,
        };
        let app = Arc::clone(self.app);
        let start = move |_: &[i32]| Ok(vec![(0, E::next_offset(&app.sale))]);
        let consumer = Consumer::start(&self.app.services.kafka, reading, Arc::new(start));
        let mut consumer = consumer.map_err(|error| Halt(format!("{error:#}")))?;
        while let Some(delivered) = consumer.next().await {
            match delivered {
                Delivered::Batch(batch) => self.observe(&batch).await?,
                Delivered::Started => self.doing(Doing::Running),
                Delivered::Trouble(what) => {
                    tracing::warn!(part = self.part, what, "has trouble with the broker");
                }
                Delivered::Halted(why) => return Err(Halt(why)),
                Delivered::Broken(why) => {
                    self.wait(why).await;
                    return Ok(());
                }
            }
        }
        self.wait("the reading thread has ended".to_owned()).await;
        Ok(())
    }

    async fn observe(&mut self, batch: &Batch) -> Result<(), Halt> {
        let sale = Arc::clone(&self.app.sale);
        let next_offset = batch.spans.last().map_or(0, |span| span.to);
        let records = self.read(batch, E::next_offset(&sale)).await?;
        let mut left = &records[..];
        loop {
            // Before it is looked: rules that come in between are noticed.
            let rules_came = sale.rules_came.notified();
            let taken = E::observe(&sale, left, next_offset);
            left = &left[taken..];
            if left.is_empty() {
                self.doing(Doing::Running);
                return Ok(());
            }
            let why = "a request names rules that are yet to be read from sale-rules";
            self.doing(Doing::Waiting(why.to_owned()));
            rules_came.await;
        }
    }

    /// The events from `next_offset` on; what stands before was folded as it was written.
    async fn read(&mut self, batch: &Batch, next_offset: i64) -> Result<Vec<Record<E>>, Halt> {
        let mut records = Vec::new();
        self.decoder.forget_refusals();
        for raw in batch.iter().filter(|raw| raw.offset >= next_offset) {
            must_be_stamped(&raw).map_err(|error| Halt(error.to_string()))?;
            loop {
                match interpret_learning(self, &raw).await? {
                    Ok(record) => records.push(record),
                    Err(rejected) => {
                        // What is no event becomes a dead letter of the projection.
                        if let Err(error) = no_event::<()>(&raw, &rejected) {
                            self.wait(error.to_string()).await;
                            self.decoder.forget_refusals();
                            continue;
                        }
                    }
                }
                break;
            }
        }
        Ok(records)
    }

    async fn halt(&self, why: String) {
        self.app.sale.close();
        self.doing(Doing::Halted(why));
        std::future::pending::<()>().await;
    }

    async fn wait(&self, why: String) {
        self.doing(Doing::Waiting(why));
        tokio::time::sleep(RETRY).await;
    }

    fn doing(&self, doing: Doing) {
        self.app.services.status.set(self.part, doing);
    }
}

impl<E: Observe> Learns<E> for Tail<'_, E> {
    type End = Halt;

    fn decoder(&self) -> &Decoder<E> {
        &self.decoder
    }

    async fn learn(&mut self, id: u32) -> Result<(), Halt> {
        let registry = &self.app.services.registry;
        match self.decoder.learn(registry, id).await {
            Ok(_) => {}
            Err(LearnError::Registry(error)) => self.wait(error.to_string()).await,
            Err(error) => return Err(Halt(error.to_string())),
        }
        Ok(())
    }
}

/// What ends reading for good: what to do, in words.
struct Halt(String);
