//! The fold of the sales into tables: every request with its verdict, what became of each item, how each sale stands.
//! The state machine decides; here its verdicts become rows. Before this: `processors/src/sales.rs`; next:
//! `projections/src/sales.rs`.

#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    mem,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Result, bail};
use producers::kafka::Kafka;
use projections::{
    checkpoints::Span,
    projection::Projection,
    sales::{Attempt, Changes, Item, PROJECTION, SaleRow, Taken},
};
use schemas::{
    registry::Registry,
    sales::{SaleEvent, SaleId},
};
use sqlx::PgConnection;
use tokio::{runtime::Handle, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

use super::{Decision, Ledger, Passed, RulesMissing, Stock, Verdict, window::Window};
use crate::{
    fold::{self, Fold, Folded},
    record::Record,
};

/// The only partition of the topic.
const PARTITION: i32 = 0;
/// The verdict of a request whose times are too far apart.
const VOID: &str = "void";

/// The fold.
pub struct History;

/// The state of the sale.
pub struct Memory {
    ledger: Ledger,
    window: Arc<Mutex<Window>>,
}

/// What became of a record, and how its sale stood then; none if it was of no sale.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Judged {
    /// What became of it.
    pub passed: Passed,
    /// How its sale stood then.
    pub stock: Option<Stock>,
}

impl fold::Memory<SaleEvent> for Memory {
    type Verdict = Judged;

    fn new(kafka: &Kafka, registry: &Registry, stop: &CancellationToken) -> Self {
        let window = Window::new(kafka, registry, Handle::current(), stop.clone());
        Self {
            ledger: Ledger::default(),
            window: Arc::new(Mutex::new(window)),
        }
    }

    fn stands_before(&self, spans: &[Span]) -> bool {
        beginning(spans).is_ok_and(|from| from == self.ledger.next_offset())
    }

    async fn warm_up(&mut self, spans: &[Span]) -> Result<()> {
        let from = beginning(spans)?;
        self.ledger = self.read(move |window| window.ledger_at(from)).await?;
        Ok(())
    }

    async fn judge(
        &mut self,
        spans: &[Span],
        records: &[Record<SaleEvent>],
    ) -> Result<Vec<Judged>> {
        let mut verdicts = Vec::with_capacity(records.len());
        for record in records {
            let passed = loop {
                match self.ledger.fold(record) {
                    Ok(Some(passed)) => break passed,
                    Ok(None) => bail!("offset {} was passed before", record.offset),
                    Err(missing) => self.read_rules(missing).await?,
                }
            };
            verdicts.push(Judged::of(passed, &self.ledger));
        }
        if let [span] = spans {
            self.ledger.pass(span.to);
        }
        Ok(verdicts)
    }

    async fn ended(&self) {
        // It is locked while it reads. A panic in there has been said.
        let _ = self.read(|_| Ok(())).await;
    }
}

impl Judged {
    /// What became of the record that the ledger has just passed.
    fn of(passed: Passed, ledger: &Ledger) -> Self {
        let stock = match passed {
            Passed::Decided(decision) => Some(ledger.sales.stock(decision.at_ms, &ledger.book)),
            Passed::Barrier | Passed::Void => None,
        };
        Self { passed, stock }
    }
}

impl Memory {
    async fn read_rules(&mut self, missing: RulesMissing) -> Result<()> {
        let mut book = mem::take(&mut self.ledger.book);
        // Without them it would be another state; the next attempt reads them all.
        self.ledger.book = self
            .read(move |window| {
                window.read_missing_rules(&mut book, missing)?;
                Ok(book)
            })
            .await?;
        Ok(())
    }

    /// Reads the log where waiting is allowed.
    async fn read<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Window) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let window = Arc::clone(&self.window);
        let locked = move || {
            let mut window = window.lock().unwrap_or_else(PoisonError::into_inner);
            let outcome = work(&mut window);
            // The next reading may be hours away.
            window.leave();
            outcome
        };
        spawn_blocking(locked).await?
    }
}

/// Where the batch begins.
fn beginning(spans: &[Span]) -> Result<i64> {
    match spans {
        [span] if span.partition == PARTITION => Ok(span.from),
        _ => bail!("the topic has more than one partition: its order would decide nothing"),
    }
}

impl Fold for History {
    type Event = SaleEvent;
    type Memory = Memory;
    type Prior = ();
    type Changes<'a> = Changes;

    const BATCH_MAX: usize = 10_000;
    const PROJECTION: &'static Projection = &PROJECTION;

    async fn load(_: &mut PgConnection, _: &[Record<SaleEvent>]) -> sqlx::Result<()> {
        Ok(())
    }

    fn fold((): &(), records: &[Record<SaleEvent>], verdicts: &[Judged]) -> Folded<Changes> {
        let mut batch = Batch::default();
        for (record, judged) in records.iter().zip(verdicts) {
            match judged.passed {
                Passed::Barrier => {}
                Passed::Void => batch.attempts.extend(void(record)),
                Passed::Decided(decision) => batch.decide(record, decision, judged.stock),
            }
        }
        Folded {
            changes: batch.changes(),
            dead_letters: Vec::new(),
        }
    }
}

/// The state of one fold: rows by their keys.
#[derive(Default)]
struct Batch {
    sales: BTreeMap<SaleId, SaleRow>,
    items: BTreeMap<(SaleId, i32), Item>,
    attempts: Vec<Attempt>,
}

impl Batch {
    fn decide(&mut self, record: &Record<SaleEvent>, decision: Decision, stock: Option<Stock>) {
        if let Some(stock) = stock {
            self.sales.insert(stock.sale, sale(stock, decision.at_ms));
        }
        let attempt = decided(record, decision);
        if !decision.is_replayed {
            self.take(&attempt, decision);
        }
        self.attempts.push(attempt);
    }

    /// Notes a new reservation or purchase.
    fn take(&mut self, attempt: &Attempt, decision: Decision) {
        let (Some(user_id), Some(item_id)) = (attempt.user_id, attempt.item_id) else {
            return;
        };
        let sale = decision.sale;
        let item = || Item {
            sale,
            item_id,
            reserved: None,
            purchased: None,
        };
        let taken = |at_ms| {
            Some(Taken {
                user_id,
                at_ms,
                offset: attempt.offset,
            })
        };
        match decision.verdict {
            Verdict::Reserved { expires_at_ms, .. } => {
                let item = self.items.entry((sale, item_id)).or_insert_with(item);
                item.reserved = taken(expires_at_ms);
            }
            Verdict::Purchased { .. } => {
                let item = self.items.entry((sale, item_id)).or_insert_with(item);
                item.purchased = taken(decision.at_ms);
            }
            Verdict::Refused(_) => {}
        }
    }

    /// Sorted by key, so that two writers lock rows in the same order.
    fn changes(self) -> Changes {
        Changes {
            sales: self.sales.into_values().collect(),
            items: self.items.into_values().collect(),
            attempts: self.attempts,
        }
    }
}

fn sale(stock: Stock, decided_at_ms: i64) -> SaleRow {
    SaleRow {
        id: stock.sale,
        ends_at_ms: stock.ends_at_ms,
        rules: stock.rules,
        sold: stock.sold,
        decided_at_ms,
    }
}

fn decided(record: &Record<SaleEvent>, decision: Decision) -> Attempt {
    let void = void(record).expect("a barrier is not decided");
    let (user_id, item_id) = match decision.verdict {
        // The log has the code alone.
        Verdict::Purchased { item_id, user_id } => (Some(user_id), Some(item_id)),
        _ => (void.user_id, void.item_id),
    };
    Attempt {
        sale: Some(decision.sale),
        user_id,
        item_id,
        verdict: decision.verdict.name(),
        at_ms: decision.at_ms,
        expires_at_ms: match decision.verdict {
            Verdict::Reserved { expires_at_ms, .. } => Some(expires_at_ms),
            _ => None,
        },
        is_replayed: decision.is_replayed,
        ..void
    }
}

/// A request that nobody decides; none for a barrier.
fn void(record: &Record<SaleEvent>) -> Option<Attempt> {
    let (kind, user_id, item_id, key) = match &record.event {
        SaleEvent::CheckoutRequested(checkout) => (
            "checkout",
            Some(checkout.user_id),
            Some(checkout.item_id),
            &checkout.key,
        ),
        SaleEvent::PurchaseRequested(purchase) => ("purchase", None, None, &purchase.key),
        SaleEvent::Barrier(_) => return None,
    };
    Some(Attempt {
        offset: record.offset,
        sale: None,
        kind,
        user_id,
        item_id,
        verdict: VOID,
        at_ms: record.timestamp_ms,
        expires_at_ms: None,
        is_replayed: false,
        has_key: key.is_some(),
    })
}
