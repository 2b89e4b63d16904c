//! What every request may see of the running sale without a lock: enough to refuse what cannot succeed.
//!
//! One fold writes, everybody reads. A refusal by the board has to be what the log would have answered as well, so the
//! board is believed only while it is fresh, and only for reasons that cannot pass before they are told: see
//! [`Board::refusal`].

mod clock;

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU32, Ordering},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use processors::sales::{Decision, Ledger, Stock, Verdict};
use schemas::{
    sale_attempts::Refusal,
    sales::{CheckoutRequested, SaleEvent, SaleId},
};

use self::clock::BrokerClock;
pub(super) use self::clock::Moment;

/// For how long the newest request that counted lets the board be believed. After so much silence the next request goes
/// to the log whatever the board says: so the clock of the log runs, and a new sale opens by itself.
const FRESH_MS: i64 = 1_000;
/// A reason has to hold for as long as this from now on.
const HOLDS_MS: i64 = 1_000;
/// The word of an item that is bought; that of one which is reserved is the end of its reservation.
const SOLD: i64 = i64::MAX;
/// The slot of a table of users that nobody has.
const NOBODY: i64 = -1;

/// The running sale for everybody to see.
pub(super) struct Board {
    sheet: ArcSwap<Sheet>,
    clock: BrokerClock,
    began: Instant,
}

/// One sale.
struct Sheet {
    sale: SaleId,
    ends_at_ms: i64,
    limit: u32,
    items: Box<[AtomicI64]>,
    sold: AtomicU32,
    /// Users that have bought as many as one may.
    full: Users,
    /// Stamp of the newest record that counted; written after what it has changed.
    stamped_at_ms: AtomicI64,
    /// Time of the log then.
    at_ms: AtomicI64,
    next_offset: AtomicI64,
}

/// Why a checkout can be refused at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedHere {
    /// The reason.
    pub reason: Refusal,
    /// The sale.
    pub sale: SaleId,
    /// Next offset of the log: everything before it was known.
    pub next_offset: i64,
}

impl Board {
    /// The board of a ledger. It is believed once a record is noted.
    pub(super) fn of(ledger: &Ledger) -> Self {
        Self {
            sheet: ArcSwap::from_pointee(Sheet::of(ledger)),
            clock: BrokerClock::default(),
            began: Instant::now(),
        }
    }

    /// Begins anew, with another ledger.
    pub(super) fn replace(&self, ledger: &Ledger) {
        self.sheet.store(Arc::new(Sheet::of(ledger)));
    }

    /// Notes what was decided about the record that was stamped with this time; the ledger has folded it.
    pub(super) fn note(
        &self,
        event: &SaleEvent,
        decision: &Decision,
        stamped_at_ms: i64,
        ledger: &Ledger,
    ) {
        let mut sheet = self.sheet.load();
        // First: whoever sees what the record has changed sees that it was passed.
        sheet
            .next_offset
            .store(ledger.next_offset(), Ordering::Relaxed);
        if sheet.sale != decision.sale {
            self.replace(ledger);
            sheet = self.sheet.load();
        } else if !decision.is_replayed {
            sheet.note(event, decision.verdict, ledger);
        }
        sheet.at_ms.store(decision.at_ms, Ordering::Relaxed);
        // Last: whoever sees this sees the rest.
        sheet.stamped_at_ms.store(stamped_at_ms, Ordering::Release);
    }

    /// This moment, where the clock of the machine shows `now_ms`.
    pub(super) fn moment(&self, now_ms: i64) -> Moment {
        Moment {
            wall_ms: now_ms,
            elapsed_ms: i64::try_from(self.began.elapsed().as_millis()).unwrap_or(i64::MAX),
        }
    }

    /// A record that was sent at this moment was stamped then: so the clock of the broker is known.
    pub(super) fn note_clock(&self, sent: Moment, stamped_at_ms: i64) {
        self.clock.tell(sent, stamped_at_ms);
    }

    /// Why the log would refuse this checkout as well, if it is certain: by the broker's clock the newest record that
    /// counted was stamped less than a second ago, and the reason holds for a second more.
    pub(super) fn refusal(&self, user_id: i64, item_id: i32, now: Moment) -> Option<RefusedHere> {
        let broker_ms = self.clock.at_most(now)?;
        let sheet = self.sheet.load();
        let stamped_at_ms = sheet.stamped_at_ms.load(Ordering::Acquire);
        // Not by a clock of ours: one that is behind would hide that we lag by as much.
        if (broker_ms - stamped_at_ms).abs() >= FRESH_MS {
            return None;
        }
        let at_ms = sheet.at_ms.load(Ordering::Relaxed);
        let holds_until_ms = broker_ms.max(at_ms) + HOLDS_MS;
        if holds_until_ms >= sheet.ends_at_ms {
            return None;
        }
        let item = sheet.items.get(usize::try_from(item_id).ok()?)?;
        let reason = match item.load(Ordering::Acquire) {
            _ if sheet.is_sold_out() => Refusal::SoldOut,
            SOLD => Refusal::ItemSold,
            expires_at_ms if holds_until_ms < expires_at_ms => Refusal::ItemReserved,
            // About to lapse: whether it has when the log decides, nobody knows yet.
            expires_at_ms if at_ms < expires_at_ms => return None,
            _ if sheet.full.contains(user_id) => Refusal::UserLimit,
            _ => return None,
        };
        Some(RefusedHere {
            reason,
            sale: sheet.sale,
            next_offset: sheet.next_offset.load(Ordering::Relaxed),
        })
    }
}

impl Sheet {
    fn of(ledger: &Ledger) -> Self {
        let Stock {
            sale,
            ends_at_ms,
            rules,
            sold,
            ..
        } = ledger.stock(i64::MIN);
        let limit = rules.limit.unsigned_abs();
        let items = (0..rules.items).map(|_| AtomicI64::new(0)).collect();
        let sheet = Self {
            sale,
            ends_at_ms,
            limit,
            items,
            sold: AtomicU32::new(sold),
            full: Users::with_room(rules.items.unsigned_abs() / limit),
            stamped_at_ms: AtomicI64::new(i64::MIN / 2),
            at_ms: AtomicI64::new(0),
            next_offset: AtomicI64::new(ledger.next_offset()),
        };
        for held in ledger.sales.reservations() {
            let word = if held.is_bought {
                SOLD
            } else {
                held.expires_at_ms
            };
            // An item may have been reserved several times; what holds longest is what holds.
            sheet.item(held.item_id).fetch_max(word, Ordering::Relaxed);
            if held.is_bought {
                sheet.note_bought(held.user_id, ledger);
            }
        }
        sheet
    }

    fn note(&self, event: &SaleEvent, verdict: Verdict, ledger: &Ledger) {
        match (event, verdict) {
            (
                SaleEvent::CheckoutRequested(CheckoutRequested { item_id, .. }),
                Verdict::Reserved { expires_at_ms, .. },
            ) => self.item(*item_id).store(expires_at_ms, Ordering::Release),
            (_, Verdict::Purchased { item_id, user_id }) => {
                self.item(item_id).store(SOLD, Ordering::Release);
                self.note_bought(user_id, ledger);
                self.sold.fetch_add(1, Ordering::Release);
            }
            _ => {}
        }
    }

    fn note_bought(&self, user_id: i64, ledger: &Ledger) {
        if ledger.sales.bought_by(user_id) == self.limit {
            self.full.insert(user_id);
        }
    }

    fn is_sold_out(&self) -> bool {
        usize::try_from(self.sold.load(Ordering::Acquire)) == Ok(self.items.len())
    }

    fn item(&self, item_id: i32) -> &AtomicI64 {
        let index = usize::try_from(item_id).expect("it was decided about");
        &self.items[index]
    }
}

/// A set of users that only grows, up to a size known beforehand: open addressing, one writer.
struct Users(Box<[AtomicI64]>);

impl Users {
    fn with_room(users: u32) -> Self {
        let slots = (usize::try_from(users).expect("no more than items") + 1) * 2;
        Self(
            (0..slots.next_power_of_two())
                .map(|_| AtomicI64::new(NOBODY))
                .collect(),
        )
    }

    fn insert(&self, user_id: i64) {
        let slots = self.slots(user_id);
        let free = slots.into_iter().find(|slot| {
            let user = slot.load(Ordering::Relaxed);
            user == NOBODY || user == user_id
        });
        free.expect("twice as many slots as users")
            .store(user_id, Ordering::Release);
    }

    fn contains(&self, user_id: i64) -> bool {
        self.slots(user_id)
            .map(|slot| slot.load(Ordering::Acquire))
            .take_while(|user| *user != NOBODY)
            .any(|user| user == user_id)
    }

    /// All slots, beginning where a user belongs. The multiplier is that of Fibonacci hashing (Knuth, 6.4).
    fn slots(&self, user_id: i64) -> impl Iterator<Item = &AtomicI64> {
        const MULTIPLIER: u64 = 0x9e37_79b9_7f4a_7c15;
        let hash = user_id.cast_unsigned().wrapping_mul(MULTIPLIER) >> 32;
        let first = usize::try_from(hash).unwrap_or_default() & (self.0.len() - 1);
        self.0[first..].iter().chain(&self.0[..first])
    }
}

#[cfg(test)]
mod tests;
