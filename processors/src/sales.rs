//! The flash sale: a state machine that every process folds from the same log to the same verdicts. Before this:
//! `schemas/src/sales.rs`; next: `processors/src/sales/window.rs`, which says from where to read, and
//! `processors/src/sales/history.rs`, which makes tables of the verdicts.
//!
//! Time is that of the log. A request counts only if its record was stamped within [`DRIFT_MAX_MS`] of the time that
//! its appender gave it; no other moves time. The sale is the interval of time that a request falls into: the first
//! request that counts in a new one meets a fresh stock. What is older than the sale before is forgotten at that very
//! record, the same in every process; so the state depends on nothing before [`window_start_ms`].

pub mod audit;
pub mod history;
mod ledger;
mod rules;
mod sale;
mod start;
#[cfg(test)]
mod tests;
pub mod window;

use schemas::{
    sale_rules::SaleRulesSet,
    sales::{Code, PurchaseRequested, SaleEvent, SaleId},
};
use sha2::{Digest as _, Sha256};

use self::sale::{Past, Sale};
pub use self::{
    ledger::{Assumed, Ledger},
    rules::{RuleBook, RulesMissing},
};
use crate::record::Record;

/// How far a record's time may be from that of its request; beyond it the request is void. A wrong clock at an
/// appender harms only its own requests, and a request that reaches the log late is dead.
pub const DRIFT_MAX_MS: u64 = 30_000;
/// Rules hold for whole hours of UTC.
pub const HOUR_MS: i64 = 3_600_000;

/// The state of the sale after some prefix of its log.
#[derive(Debug, Clone, Default)]
pub struct Sales {
    /// Time of the log: that of the newest record that counted, unless an earlier one was stamped later.
    last_ms: Option<i64>,
    hour: Option<Hour>,
    current: Option<Sale>,
    previous: Option<Past>,
}

/// The rules of the hour that is running.
#[derive(Debug, Clone, Copy)]
struct Hour {
    starts_at_ms: i64,
    rules: SaleRulesSet,
}

/// What became of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Passed {
    /// It asked for nothing.
    Barrier,
    /// Its times are too far apart: as if it had not come.
    Void,
    /// It was decided.
    Decided(Decision),
}

/// What was decided about a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Decision {
    /// The sale that its time fell into.
    pub sale: SaleId,
    /// Time of the log when it was decided, milliseconds since 1970-01-01T00:00:00Z.
    pub at_ms: i64,
    /// What was decided.
    pub verdict: Verdict,
    /// Whether this is the verdict of an earlier request with the same key.
    pub is_replayed: bool,
}

/// The answer to a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Verdict {
    /// The item is reserved for the user until then.
    Reserved {
        /// What to buy it with.
        code: Code,
        /// The first millisecond at which it is free again, since 1970-01-01T00:00:00Z.
        expires_at_ms: i64,
    },
    /// The user has bought the item.
    Purchased {
        /// The item.
        item_id: i32,
        /// Who had reserved it.
        user_id: i64,
    },
    /// Neither.
    Refused(Refused),
}

/// Why a request was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Refused {
    /// The sale does not have so many items.
    NoSuchItem,
    /// Somebody has reserved the item.
    ItemReserved,
    /// Somebody has bought the item.
    ItemSold,
    /// The user has bought and reserved as many as one may.
    UserLimit,
    /// Everything is bought.
    SoldOut,
    /// No reservation has this code.
    CodeUnknown,
    /// The reservation has lapsed.
    CodeExpired,
    /// It was bought already.
    CodeUsed,
    /// The key came with another request before.
    KeyReused,
}

impl Refused {
    /// As answers, tables and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::NoSuchItem => "no_such_item",
            Self::ItemReserved => "item_reserved",
            Self::ItemSold => "item_sold",
            Self::UserLimit => "user_limit",
            Self::SoldOut => "sold_out",
            Self::CodeUnknown => "code_unknown",
            Self::CodeExpired => "code_expired",
            Self::CodeUsed => "code_used",
            Self::KeyReused => "key_reused",
        }
    }
}

impl Verdict {
    /// As tables and metrics have it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reserved { .. } => "reserved",
            Self::Purchased { .. } => "purchased",
            Self::Refused(why) => why.name(),
        }
    }
}

/// How a sale stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stock {
    /// The sale.
    pub sale: SaleId,
    /// The first millisecond after it, since 1970-01-01T00:00:00Z.
    pub ends_at_ms: i64,
    /// Its rules.
    pub rules: SaleRulesSet,
    /// How many items are bought.
    pub sold: u32,
    /// How many are reserved.
    pub reserved: u32,
}

impl Stock {
    /// How many items can be reserved.
    pub fn free(&self) -> u32 {
        let items = self.rules.items.unsigned_abs();
        items.saturating_sub(self.sold + self.reserved)
    }
}

/// A reservation, bought or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// The item.
    pub item_id: i32,
    /// Who has it.
    pub user_id: i64,
    /// Whether it is bought.
    pub is_bought: bool,
    /// When it lapses unless it is bought, milliseconds since 1970-01-01T00:00:00Z.
    pub expires_at_ms: i64,
}

impl Sales {
    /// Folds the next record.
    ///
    /// # Errors
    /// If it opens an hour whose rules are not in the book yet: read `sale-rules` up to there and try again. The state
    /// is as it was.
    pub fn fold(
        &mut self,
        record: &Record<SaleEvent>,
        book: &RuleBook,
    ) -> Result<Passed, RulesMissing> {
        let (requested_at, rules_seen) = match &record.event {
            SaleEvent::CheckoutRequested(checkout) => (checkout.requested_at, checkout.rules_seen),
            SaleEvent::PurchaseRequested(purchase) => (purchase.requested_at, purchase.rules_seen),
            SaleEvent::Barrier(_) => return Ok(Passed::Barrier),
        };
        if record.timestamp_ms.abs_diff(requested_at) > DRIFT_MAX_MS {
            return Ok(Passed::Void);
        }
        let now_ms = record.timestamp_ms.max(self.last_ms.unwrap_or(0));
        let sale = open(
            &mut self.current,
            &mut self.previous,
            &mut self.hour,
            now_ms,
            || book.newest_below(rules_seen),
        )?;
        self.last_ms = Some(now_ms);
        sale.lapse(now_ms);
        let (verdict, is_replayed) = match &record.event {
            SaleEvent::CheckoutRequested(checkout) => {
                sale.checkout(checkout, record.offset, now_ms)
            }
            SaleEvent::PurchaseRequested(purchase) => {
                purchase_in(sale, self.previous.as_mut(), purchase, now_ms)
            }
            SaleEvent::Barrier(_) => unreachable!("answered above"),
        };
        Ok(Passed::Decided(Decision {
            sale: sale.id(),
            at_ms: now_ms,
            verdict,
            is_replayed,
        }))
    }

    /// Time of the log, milliseconds since 1970-01-01T00:00:00Z; none before the first record that counts.
    pub fn last_ms(&self) -> Option<i64> {
        self.last_ms
    }

    /// How many keys are kept with their answers, of the running sale and the one before. Each takes 80 to 160 bytes and
    /// its text.
    pub fn key_count(&self) -> usize {
        let current = self.current.as_ref().map_or(0, Sale::key_count);
        current + self.previous.as_ref().map_or(0, Past::key_count)
    }

    /// Whether the key of this request is kept: its answer is known.
    pub fn has_key(&self, event: &SaleEvent) -> bool {
        let is_of_current = |sale: &Sale| sale.has_key(event);
        self.current.as_ref().is_some_and(is_of_current)
            || self
                .previous
                .as_ref()
                .is_some_and(|past| past.has_key(event))
    }

    /// How many a user has bought in the running sale.
    pub fn bought_by(&self, user_id: i64) -> u32 {
        self.current
            .as_ref()
            .map_or(0, |sale| sale.bought_by(user_id))
    }

    /// What was reserved in the running sale so far; what lapsed is still among it.
    pub fn reservations(&self) -> impl Iterator<Item = Held> {
        self.current.iter().flat_map(Sale::held)
    }

    /// How the sale stands that runs at this time, or at the time of the log if that is later. Changes nothing.
    pub fn stock(&self, now_ms: i64, book: &RuleBook) -> Stock {
        let now_ms = now_ms.max(self.last_ms.unwrap_or(0));
        match &self.current {
            Some(sale) if now_ms < sale.ends_at_ms() => sale.stock(now_ms),
            _ => {
                let hour = self
                    .hour
                    .filter(|hour| hour.starts_at_ms == hour_of(now_ms));
                let rules = hour.map_or_else(|| book.newest(), |hour| hour.rules);
                Sale::new(now_ms, rules).stock(now_ms)
            }
        }
    }

    /// SHA-256 of the state: two folds that agree on it will give the same verdicts for ever.
    pub fn digest(&self) -> [u8; 32] {
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {:?}", self.last_ms, self.hour));
        for part in [
            self.current.as_ref().map(Sale::canonical),
            self.previous.as_ref().map(Past::canonical),
        ] {
            hash.update(part.unwrap_or_default());
            hash.update("\n");
        }
        hash.finalize().into()
    }
}

/// The sale that runs at `now_ms`: the current one, or the next with what is left of the one directly before.
fn open<'s>(
    current: &'s mut Option<Sale>,
    previous: &mut Option<Past>,
    hour: &mut Option<Hour>,
    now_ms: i64,
    newest_rules: impl FnOnce() -> Result<SaleRulesSet, RulesMissing>,
) -> Result<&'s mut Sale, RulesMissing> {
    if current
        .as_ref()
        .is_none_or(|sale| now_ms >= sale.ends_at_ms())
    {
        let starts_at_ms = hour_of(now_ms);
        let rules = match *hour {
            Some(hour) if hour.starts_at_ms == starts_at_ms => hour.rules,
            _ => newest_rules()?,
        };
        *hour = Some(Hour {
            starts_at_ms,
            rules,
        });
        let next = Sale::new(now_ms, rules);
        let before = current.take();
        *previous = before
            .filter(|sale| sale.ends_at_ms() == next.id().starts_at_ms())
            .map(Past::from);
        *current = Some(next);
    }
    Ok(current.as_mut().expect("a sale was just opened"))
}

/// A code is of the sale that runs, of the one directly before, or so old that it needs no memory.
fn purchase_in(
    current: &mut Sale,
    previous: Option<&mut Past>,
    purchase: &PurchaseRequested,
    now_ms: i64,
) -> (Verdict, bool) {
    let refused = |why| (Verdict::Refused(why), false);
    let Some(code) = purchase.code.parts() else {
        return refused(Refused::CodeUnknown);
    };
    if code.sale == current.id() {
        return current.purchase(purchase, code, now_ms);
    }
    match previous {
        _ if code.sale > current.id() => refused(Refused::CodeUnknown),
        Some(past) if code.sale == past.id() => past.purchase(purchase, code),
        Some(past) if code.sale > past.id() => refused(Refused::CodeUnknown),
        _ => refused(Refused::CodeExpired),
    }
}

/// The start of the UTC hour that a time falls into.
fn hour_of(at_ms: i64) -> i64 {
    at_ms - at_ms.rem_euclid(HOUR_MS)
}

/// The earliest time that the state depends on when the time of the log is `last_ms`: the hour before that hour.
pub fn window_start_ms(last_ms: i64) -> i64 {
    hour_of(last_ms) - HOUR_MS
}
