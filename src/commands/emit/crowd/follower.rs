//! Follows the log of the sale: the window first, then its end, record by record, in a live ledger.

use std::{sync::Arc, time::Duration};

use anyhow::{Result, anyhow, bail};
use processors::{
    consumer::{Consumer, Delivered, Partitions, Reading, Start},
    record::Batch,
    sales::{Ledger, Passed, window::Window},
};
use producers::{clock, kafka::Kafka};
use schemas::{event::Event, sale_rules::SaleRulesSet, sales::SaleEvent};
use tokio::{runtime::Handle, sync::mpsc, task::spawn_blocking, time::timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cli::Connection;

/// Batches that are heard of and not yet taken notice of.
const HEARD_MAX: usize = 64;
const BATCH_MAX: usize = 1_000;
/// Records are shown at once.
const BATCH_AGE: Duration = Duration::ZERO;
/// How long the way to the log and back may take the first time.
const FIRST_ANSWER: Duration = Duration::from_secs(30);

/// What the log says.
pub(super) enum Heard {
    /// The window was read. From here on everything is heard.
    Started {
        /// How many items the running sale has.
        items: i32,
        /// Next offset of `sale-rules`.
        rules_seen: i64,
    },
    /// What became of events, in their order.
    Passed(Vec<PassedEvent>),
    /// Rules were set.
    Rules {
        /// Next offset of `sale-rules`.
        rules_seen: i64,
    },
    /// Something is wrong that may pass.
    Trouble(String),
}

/// An event, and what became of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct PassedEvent {
    pub(super) nonce: i64,
    pub(super) offset: i64,
    pub(super) passed: Passed,
}

/// Ends when dropped.
pub(super) struct Follower {
    heard: mpsc::Receiver<Result<Heard>>,
    _stop: DropGuard,
}

impl Follower {
    /// Begins to read, on a thread of its own.
    pub(super) fn start(connection: &Connection) -> Result<Self> {
        let (sender, heard) = mpsc::channel(HEARD_MAX);
        let stop = CancellationToken::new();
        let reader = Reader {
            window: super::super::window(connection, stop.clone())?,
            kafka: connection.kafka(),
            runtime: Handle::current(),
            stop: stop.clone(),
            sender,
        };
        spawn_blocking(|| reader.run());
        Ok(Self {
            heard,
            _stop: stop.drop_guard(),
        })
    }

    /// What is heard next. May be dropped while waiting: nothing is lost.
    ///
    /// # Errors
    /// If the log cannot be read any more.
    pub(super) async fn next(&mut self) -> Result<Heard> {
        let ended = || Err(anyhow!("reading the log of the sale has ended"));
        self.heard.recv().await.unwrap_or_else(ended)
    }

    /// Waits until an event has come back. Gives the next offset of `sale-rules` as it is known then: rules may be set
    /// meanwhile.
    ///
    /// # Errors
    /// As [`Self::next`]; and if it does not.
    pub(super) async fn has_passed(&mut self, nonce: i64, rules_seen: i64) -> Result<i64> {
        let coming = async {
            let mut newest = rules_seen;
            loop {
                match self.next().await? {
                    Heard::Rules { rules_seen } => newest = rules_seen,
                    Heard::Passed(passed) if passed.iter().any(|one| one.nonce == nonce) => {
                        return Ok(newest);
                    }
                    _ => {}
                }
            }
        };
        let Ok(came) = timeout(FIRST_ANSWER, coming).await else {
            bail!(
                "what was appended to the log of the sale does not come back: is the broker well?"
            );
        };
        came
    }
}

struct Reader {
    window: Window,
    kafka: Kafka,
    runtime: Handle,
    stop: CancellationToken,
    sender: mpsc::Sender<Result<Heard>>,
}

/// What the two ends of the log have to tell.
enum News {
    Sales(Batch),
    Rules,
    Trouble(String),
    Nothing,
}

impl Reader {
    fn run(mut self) {
        if let Err(error) = self.follow() {
            // Nobody listens any more if this cannot be told.
            let _ = self.sender.blocking_send(Err(error));
        }
    }

    fn follow(&mut self) -> Result<()> {
        let end = self.window.end()?;
        let mut ledger = self.window.ledger_at(end)?;
        let stock = ledger.sales.stock(clock::now_ms(), &ledger.book);
        self.tell(Heard::Started {
            items: stock.rules.items,
            rules_seen: ledger.book.next_offset(),
        })?;
        let mut sales = self.tail::<SaleEvent>(ledger.next_offset())?;
        let mut rules = self.tail::<SaleRulesSet>(ledger.book.next_offset())?;
        loop {
            let news = self.runtime.block_on(async {
                tokio::select! {
                    delivered = sales.next() => news(delivered, News::Sales),
                    delivered = rules.next() => news(delivered, |_| News::Rules),
                    () = self.stop.cancelled() => bail!("told to stop"),
                }
            })?;
            match news {
                News::Sales(batch) => {
                    let settled = self.fold(&mut ledger, &batch)?;
                    self.tell(Heard::Passed(settled))?;
                }
                News::Rules => {
                    self.window.read_rules(&mut ledger.book)?;
                    let rules_seen = ledger.book.next_offset();
                    self.tell(Heard::Rules { rules_seen })?;
                }
                News::Trouble(what) => self.tell(Heard::Trouble(what))?,
                News::Nothing => {}
            }
        }
    }

    fn fold(&mut self, ledger: &mut Ledger, batch: &Batch) -> Result<Vec<PassedEvent>> {
        let mut settled = Vec::with_capacity(batch.len());
        for raw in batch.iter() {
            if let Some((record, passed)) = self.window.fold_next(ledger, &raw)? {
                settled.push(PassedEvent {
                    nonce: record.event.nonce(),
                    offset: record.offset,
                    passed,
                });
            }
        }
        Ok(settled)
    }

    fn tail<E: Event>(&self, from: i64) -> Result<Consumer> {
        let reading = Reading {
            topic: E::TOPIC.full_name(&self.kafka.prefix),
            partitions: Partitions::All(E::TOPIC.partitions),
            batch_max: BATCH_MAX,
            batch_age: BATCH_AGE,
            fetch_wait: None,
        };
        let start: Arc<Start> = Arc::new(move |_| Ok(vec![(0, from)]));
        Consumer::start(&self.kafka, reading, start)
    }

    fn tell(&self, heard: Heard) -> Result<()> {
        let told = self.sender.blocking_send(Ok(heard));
        told.map_err(|_| anyhow!("nobody listens any more"))
    }
}

fn news(delivered: Option<Delivered>, of_batch: impl Fn(Batch) -> News) -> Result<News> {
    match delivered {
        Some(Delivered::Batch(batch)) => Ok(of_batch(*batch)),
        Some(Delivered::Started) => Ok(News::Nothing),
        Some(Delivered::Trouble(what)) => Ok(News::Trouble(what)),
        Some(Delivered::Halted(why) | Delivered::Broken(why)) => Err(anyhow!(why)),
        None => Err(anyhow!("the reading thread has ended")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn rules_that_are_set_while_an_event_is_on_its_way_are_seen() {
        let (sender, heard) = mpsc::channel(HEARD_MAX);
        let mut follower = Follower {
            heard,
            _stop: CancellationToken::new().drop_guard(),
        };
        let passed = |nonce| {
            Heard::Passed(vec![PassedEvent {
                nonce,
                offset: nonce,
                passed: Passed::Barrier,
            }])
        };
        for heard in [passed(1), Heard::Rules { rules_seen: 4 }, passed(2)] {
            assert!(sender.send(Ok(heard)).await.is_ok());
        }
        let rules_seen = follower.has_passed(2, 3).await;
        assert_eq!(rules_seen.ok(), Some(4));
    }
}
