//! The sale as a process decides it: every process folds the same log, so every process comes to the same verdicts.
//! Before this: `processors/src/sales.rs`; next: `api/src/routes/sale.rs`.
//!
//! [`tail`] folds what stands on the log. [`Sale::settle`] sends a request there and waits until it is folded. Usually
//! the acknowledgement of the broker is quicker than the tail, and its record the next to fold: then it is folded at
//! once. `board` shows what is known to those who cannot succeed; `attempts` keeps their refusals. [`live`] is for
//! those who watch.

mod attempts;
mod board;
mod desk;
pub mod live;
mod queue;
pub mod stands;
pub mod tail;

use std::{
    sync::{
        Mutex, MutexGuard,
        atomic::{AtomicI64, AtomicU8, AtomicUsize, Ordering},
    },
    time::Duration,
};

use processors::{
    record::Record,
    sales::{Ledger, Passed, RulesMissing, Stock},
    watermarks::Progress,
};
use producers::{
    append::{Outcome, Stamped},
    clock,
    sales::Stamp,
    turns::Turn,
    writer::{AppendError, Context, EventWriter},
};
use schemas::{
    position::Position,
    sales::{Code, SaleEvent},
};
use tokio::{sync::Notify, time::timeout};

pub use self::{attempts::Attempts, board::RefusedHere, queue::Queue};
use self::{board::Board, desk::Desk};

/// How long a request waits for its verdict. Longer than an append may take, so that a lost acknowledgement is told by
/// whoever reads the log, if it is there.
const DEADLINE: Duration = Duration::from_secs(6);

/// The sale, shared by all threads.
pub struct Sale {
    writer: EventWriter<SaleEvent>,
    ledger: Mutex<Ledger>,
    /// One of the states below.
    state: AtomicU8,
    /// Next offset of `sale-rules`: what requests give as the rules that they have seen.
    rules_seen: AtomicI64,
    /// How many idempotency keys the ledger keeps.
    key_count: AtomicUsize,
    rules_came: Notify,
    board: Board,
    desk: Desk<Told>,
    progress: Progress,
}

/// Answers that are kept for their idempotency keys. With more, requests with new keys are refused before the log, but for
/// those that are on their way.
const KEYS_MAX: usize = 500_000;

/// The log is being read.
const READING: u8 = 0;
/// The ledger is that of the log.
const OPEN: u8 = 1;
/// Something is wrong for good: no verdict is given any more.
const CLOSED: u8 = 2;

/// A request, and where it comes from.
pub(super) type Asked = (SaleEvent, Context);

/// What is told to whoever waits.
type Told = Result<Settled, AppendError>;

/// A request that the log has decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settled {
    /// What became of it.
    pub passed: Passed,
    /// Its place.
    pub offset: i64,
}

/// Why there is no verdict.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Unsettled {
    /// The log of the sale is being read. Nothing was sent.
    #[error("the sale is not open yet: see /readyz")]
    NotOpen,
    /// Nothing was sent.
    #[error("too many requests wait for their verdict: try again")]
    Overloaded,
    /// Not on the log.
    #[error(transparent)]
    NotApplied(AppendError),
    /// Perhaps on the log.
    #[error("the log did not answer in time: ask again with the same Idempotency-Key")]
    Unknown,
}

impl Sale {
    /// A sale that is yet to be read, written by this writer.
    pub fn new(writer: EventWriter<SaleEvent>) -> Self {
        let ledger = Ledger::default();
        Self {
            writer,
            state: AtomicU8::new(READING),
            rules_seen: AtomicI64::new(0),
            key_count: AtomicUsize::new(0),
            rules_came: Notify::new(),
            board: Board::of(&ledger),
            ledger: Mutex::new(ledger),
            desk: Desk::default(),
            progress: Progress::default(),
        }
    }

    /// The writer to its topic.
    pub fn writer(&self) -> &EventWriter<SaleEvent> {
        &self.writer
    }

    /// Whether it can be asked.
    pub fn is_open(&self) -> bool {
        self.state.load(Ordering::Acquire) == OPEN
    }

    /// Its log is read, unless it was closed meanwhile.
    fn open(&self) {
        let _ = self
            .state
            .compare_exchange(READING, OPEN, Ordering::AcqRel, Ordering::Acquire);
    }

    /// No verdict is given from now on.
    fn close(&self) {
        self.state.store(CLOSED, Ordering::Release);
    }

    /// How far the log is folded.
    pub fn progress(&self) -> &Progress {
        &self.progress
    }

    /// How many wait for a verdict.
    pub fn waiters(&self) -> usize {
        self.desk.waiters()
    }

    /// How the sale stands that runs now; none before the log is read.
    pub fn stock(&self, now_ms: i64) -> Option<Stock> {
        self.is_open().then(|| self.ledger().stock(now_ms))
    }

    /// The place of a record.
    pub fn position(&self, offset: i64) -> Position {
        Position {
            topic: self.writer.topic().to_owned(),
            partition: 0,
            offset,
        }
    }

    /// A request for an item.
    pub fn checkout(&self, user_id: i64, item_id: i32, key: Option<String>) -> SaleEvent {
        self.stamp().checkout(user_id, item_id, key)
    }

    /// A request to buy what is reserved.
    pub fn purchase(&self, code: Code, key: Option<String>) -> SaleEvent {
        self.stamp().purchase(code, key)
    }

    fn stamp(&self) -> Stamp {
        Stamp::now(self.rules_seen.load(Ordering::Acquire))
    }

    /// Why the log would refuse this checkout, if that is certain without asking it.
    pub fn refusal(&self, user_id: i64, item_id: i32, now_ms: i64) -> Option<RefusedHere> {
        let now = self.board.moment(now_ms);
        self.board.refusal(user_id, item_id, now)
    }

    /// Sends a request to the log and waits until it is folded.
    ///
    /// # Errors
    /// [`Unsettled`]; all but `Unknown` say that it is not on the log.
    pub async fn settle(
        &self,
        queue: &Queue,
        event: SaleEvent,
        context: Context,
    ) -> Result<Settled, Unsettled> {
        if !self.is_open() {
            return Err(Unsettled::NotOpen);
        }
        if event.idempotency_key().is_some() && self.is_full_of_keys(&event, KEYS_MAX) {
            return Err(Unsettled::Overloaded);
        }
        let mut ticket = self.desk.take(event.nonce()).ok_or(Unsettled::Overloaded)?;
        queue.push((event, context)).map_err(not_applied)?;
        match timeout(DEADLINE, ticket.verdict()).await {
            Ok(Some(Ok(settled))) => Ok(settled),
            Ok(Some(Err(error))) => Err(not_applied(error)),
            Ok(None) | Err(_) => Err(Unsettled::Unknown),
        }
    }

    /// Whether there is no room for the key of this request. One that is kept needs none: its answer is told again.
    fn is_full_of_keys(&self, event: &SaleEvent, keys_max: usize) -> bool {
        self.key_count.load(Ordering::Relaxed) >= keys_max && !self.ledger().sales.has_key(event)
    }

    /// Sends requests, and folds them at once if they are the next. Of those that may be on the log, the tail tells.
    async fn send(&self, mut events: Vec<Asked>, turn: Option<Turn>) {
        // Who has given up does not want it any more, and would keep an item from others.
        events.retain(|(event, _)| self.desk.has(event.nonce()));
        if events.is_empty() {
            return;
        }
        let sent = self.board.moment(clock::now_ms());
        let outcome = match self.writer.send_each(&events) {
            Ok(pending) => pending.outcome().await,
            Err(refusal) => return self.tell_all(&events, &refusal),
        };
        drop(turn);
        let Outcome {
            appended,
            unknown,
            refused,
            refusal,
            error,
            stamps,
            ..
        } = outcome;
        if let Some(first) = stamps.first() {
            self.board.note_clock(sent, first.appended_at_ms);
        }
        let (taken, rest) = events.split_at(events.len() - refused);
        if let Some(refusal) = refusal {
            self.tell_all(rest, &AppendError::of_refusal(&refusal));
        }
        match error {
            Some(error) if appended + unknown == 0 => {
                self.tell_all(taken, &AppendError::of_refusal(&error));
            }
            Some(_) => {}
            None => self.fold_own(taken, &stamps),
        }
    }

    fn tell_all(&self, events: &[Asked], error: &AppendError) {
        for (event, _) in events {
            self.desk.tell(event.nonce(), Err(error.clone()));
        }
    }

    /// Folds what this process has written itself, as far as it is the next; the tail does the rest.
    fn fold_own(&self, events: &[Asked], stamps: &[Stamped]) {
        if stamps.len() != events.len() || !self.is_open() {
            return;
        }
        let mut ledger = self.ledger();
        for ((event, _), stamp) in events.iter().zip(stamps) {
            if ledger.next_offset() != stamp.offset {
                break;
            }
            let record = Record {
                partition: 0,
                offset: stamp.offset,
                timestamp_ms: stamp.appended_at_ms,
                event: event.clone(),
            };
            if self.fold(&mut ledger, &record).is_err() {
                break;
            }
        }
        self.announce(&ledger);
    }

    /// Folds a record, and tells whoever waits for it.
    fn fold(&self, ledger: &mut Ledger, record: &Record<SaleEvent>) -> Result<(), RulesMissing> {
        let Some(passed) = ledger.fold(record)? else {
            return Ok(());
        };
        if let Passed::Decided(decision) = &passed {
            self.board
                .note(&record.event, decision, record.timestamp_ms, ledger);
        }
        let settled = Settled {
            passed,
            offset: record.offset,
        };
        if self.state.load(Ordering::Acquire) != CLOSED {
            self.desk.tell(record.event.nonce(), Ok(settled));
        }
        Ok(())
    }

    fn announce(&self, ledger: &Ledger) {
        self.key_count
            .store(ledger.sales.key_count(), Ordering::Relaxed);
        let reached = [(0, ledger.next_offset())];
        self.progress.announce(reached.into_iter());
    }

    /// Held for a few records at most: all threads fold.
    fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.ledger.lock().unwrap_or_else(|poisoned| {
            // Half of a record was folded: this is not the state of the log any more.
            self.close();
            poisoned.into_inner()
        })
    }
}

fn not_applied(error: AppendError) -> Unsettled {
    match error {
        AppendError::Overloaded => Unsettled::Overloaded,
        error => Unsettled::NotApplied(error),
    }
}

#[cfg(test)]
mod tests;
