//! One sale: its items, who has how many, the reservations, and the answers that are kept for a repetition.

use std::{
    collections::{HashMap, VecDeque},
    fmt::Debug,
};

use schemas::{
    sale_rules::SaleRulesSet,
    sales::{CheckoutRequested, Code, CodeParts, PurchaseRequested, SaleEvent, SaleId},
};

use super::{Held, Refused, Stock, Verdict, hour_of};

/// The sale that runs.
#[derive(Debug, Clone)]
pub(super) struct Sale {
    id: SaleId,
    ends_at_ms: i64,
    rules: SaleRulesSet,
    /// By their ids.
    items: Box<[Item]>,
    /// Users that have bought or reserved something.
    holders: HashMap<i64, Holder>,
    reservations: Reservations,
    /// Reservations, bought or not, with their ends and in their order: all of a sale last equally long, unless they end
    /// with it.
    lapsing: VecDeque<(i64, u32)>,
    sold: u32,
    reserved: u32,
    /// By user and key: which item was asked for, and the answer.
    checkouts: HashMap<(i64, Box<str>), (i32, Verdict)>,
    purchases: Purchases,
}

/// What is left of the sale before: its codes, and the answers to who wanted to buy with them.
#[derive(Debug, Clone)]
pub(super) struct Past {
    id: SaleId,
    reservations: Reservations,
    purchases: Purchases,
}

/// By the last 30 bits of the offset of their requests, as their codes have them.
type Reservations = HashMap<u32, Reservation>;
/// By code and key.
type Purchases = HashMap<(Code, Box<str>), Verdict>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    Free,
    Reserved,
    Sold,
}

/// What a user has in a sale.
#[derive(Debug, Clone, Copy, Default)]
struct Holder {
    bought: u32,
    reserved: u32,
}

#[derive(Debug, Clone, Copy)]
struct Reservation {
    secret: u64,
    user_id: i64,
    item_id: i32,
    is_bought: bool,
    expires_at_ms: i64,
}

impl Sale {
    /// The sale of these rules that runs at this time.
    pub(super) fn new(at_ms: i64, rules: SaleRulesSet) -> Self {
        let hour = hour_of(at_ms);
        let length_ms = i64::from(rules.sale_seconds) * 1_000;
        let starts_at_ms = hour + (at_ms - hour) / length_ms * length_ms;
        let items = usize::try_from(rules.items).expect("rules are valid");
        Self {
            id: SaleId::starting_at_ms(starts_at_ms),
            ends_at_ms: starts_at_ms + length_ms,
            rules,
            items: vec![Item::Free; items].into(),
            holders: HashMap::new(),
            reservations: HashMap::new(),
            lapsing: VecDeque::new(),
            sold: 0,
            reserved: 0,
            checkouts: HashMap::new(),
            purchases: HashMap::new(),
        }
    }

    pub(super) fn id(&self) -> SaleId {
        self.id
    }

    pub(super) fn ends_at_ms(&self) -> i64 {
        self.ends_at_ms
    }

    pub(super) fn key_count(&self) -> usize {
        self.checkouts.len() + self.purchases.len()
    }

    pub(super) fn has_key(&self, event: &SaleEvent) -> bool {
        match event {
            SaleEvent::CheckoutRequested(CheckoutRequested { user_id, key, .. }) => {
                let key = key.as_deref().map(|key| (*user_id, key.into()));
                key.is_some_and(|key| self.checkouts.contains_key(&key))
            }
            SaleEvent::PurchaseRequested(purchase) => replayed(&self.purchases, purchase).is_ok(),
            SaleEvent::Barrier(_) => false,
        }
    }

    pub(super) fn bought_by(&self, user_id: i64) -> u32 {
        self.holders.get(&user_id).map_or(0, |holder| holder.bought)
    }

    pub(super) fn held(&self) -> impl Iterator<Item = Held> {
        self.reservations.values().map(|reservation| Held {
            item_id: reservation.item_id,
            user_id: reservation.user_id,
            is_bought: reservation.is_bought,
            expires_at_ms: reservation.expires_at_ms,
        })
    }

    /// How it stands at a time that is not before its last record.
    pub(super) fn stock(&self, now_ms: i64) -> Stock {
        let lapsed = self
            .lapsed(now_ms)
            .filter(|reservation| !reservation.is_bought);
        let lapsed = u32::try_from(lapsed.count()).expect("as many as items");
        Stock {
            sale: self.id,
            ends_at_ms: self.ends_at_ms,
            rules: self.rules,
            sold: self.sold,
            reserved: self.reserved - lapsed,
        }
    }

    /// The reservations that have ended since the last record, bought or not.
    fn lapsed(&self, now_ms: i64) -> impl Iterator<Item = &Reservation> {
        let lapsing = self.lapsing.iter();
        let ended = lapsing.take_while(move |(expires_at_ms, _)| *expires_at_ms <= now_ms);
        ended.map(|(_, offset)| &self.reservations[offset])
    }

    /// Frees what was not bought in time.
    pub(super) fn lapse(&mut self, now_ms: i64) {
        let count = self.lapsed(now_ms).count();
        for (_, offset) in self.lapsing.drain(..count) {
            let reservation = &self.reservations[&offset];
            if reservation.is_bought {
                continue;
            }
            self.items[index(reservation.item_id)] = Item::Free;
            self.reserved -= 1;
            if let Some(holder) = self.holders.get_mut(&reservation.user_id) {
                holder.reserved -= 1;
                if holder.reserved + holder.bought == 0 {
                    self.holders.remove(&reservation.user_id);
                }
            }
        }
    }

    /// Decides a checkout, or gives the answer that its key had before.
    pub(super) fn checkout(
        &mut self,
        request: &CheckoutRequested,
        offset: i64,
        now_ms: i64,
    ) -> (Verdict, bool) {
        let Some(key) = &request.key else {
            return (self.reserve(request, offset, now_ms), false);
        };
        let key = (request.user_id, key.as_str().into());
        match self.checkouts.get(&key) {
            Some((item_id, first)) if *item_id == request.item_id => (*first, true),
            Some(_) => (Verdict::Refused(Refused::KeyReused), false),
            None => {
                let verdict = self.reserve(request, offset, now_ms);
                self.checkouts.insert(key, (request.item_id, verdict));
                (verdict, false)
            }
        }
    }

    fn reserve(&mut self, request: &CheckoutRequested, offset: i64, now_ms: i64) -> Verdict {
        let Some(item) = self.items.get_mut(index(request.item_id)) else {
            return Verdict::Refused(Refused::NoSuchItem);
        };
        if self.sold == self.rules.items.unsigned_abs() {
            return Verdict::Refused(Refused::SoldOut);
        }
        match item {
            Item::Sold => return Verdict::Refused(Refused::ItemSold),
            Item::Reserved => return Verdict::Refused(Refused::ItemReserved),
            Item::Free => {}
        }
        let holder = self.holders.entry(request.user_id).or_default();
        if holder.bought + holder.reserved >= self.rules.limit.unsigned_abs() {
            return Verdict::Refused(Refused::UserLimit);
        }
        holder.reserved += 1;
        self.reserved += 1;
        *item = Item::Reserved;
        let holds_ms = i64::from(self.rules.reservation_seconds) * 1_000;
        let expires_at_ms = self.ends_at_ms.min(now_ms + holds_ms);
        let code = Code::new(self.id, offset, request.nonce);
        let parts = code.parts().expect("a code of our own");
        self.lapsing.push_back((expires_at_ms, parts.offset));
        self.reservations.insert(
            parts.offset,
            Reservation {
                secret: parts.secret,
                user_id: request.user_id,
                item_id: request.item_id,
                is_bought: false,
                expires_at_ms,
            },
        );
        Verdict::Reserved {
            code,
            expires_at_ms,
        }
    }

    /// Decides a purchase with a code of this sale, or gives the answer that its key had before.
    pub(super) fn purchase(
        &mut self,
        request: &PurchaseRequested,
        code: CodeParts,
        now_ms: i64,
    ) -> (Verdict, bool) {
        let key = match replayed(&self.purchases, request) {
            Ok(first) => return (first, true),
            Err(key) => key,
        };
        let verdict = self.buy(code, now_ms);
        self.purchases.extend(key.map(|key| (key, verdict)));
        (verdict, false)
    }

    fn buy(&mut self, code: CodeParts, now_ms: i64) -> Verdict {
        let Some(reservation) = reservation(&mut self.reservations, code) else {
            return Verdict::Refused(Refused::CodeUnknown);
        };
        if reservation.is_bought {
            return Verdict::Refused(Refused::CodeUsed);
        }
        if reservation.expires_at_ms <= now_ms {
            return Verdict::Refused(Refused::CodeExpired);
        }
        reservation.is_bought = true;
        let Reservation {
            item_id, user_id, ..
        } = *reservation;
        self.items[index(item_id)] = Item::Sold;
        self.reserved -= 1;
        self.sold += 1;
        let holder = self.holders.entry(user_id).or_default();
        holder.reserved -= 1;
        holder.bought += 1;
        Verdict::Purchased { item_id, user_id }
    }

    /// The same text for the same state, whatever order it came about in.
    pub(super) fn canonical(&self) -> String {
        let Self {
            id,
            ends_at_ms,
            rules,
            items,
            holders,
            reservations,
            lapsing,
            sold,
            reserved,
            checkouts,
            purchases,
        } = self;
        format!(
            "{id} {ends_at_ms} {rules:?} {items:?} {} {} {lapsing:?} {sold} {reserved} {} {}",
            sorted(holders),
            sorted(reservations),
            sorted(checkouts),
            sorted(purchases),
        )
    }
}

impl From<Sale> for Past {
    fn from(sale: Sale) -> Self {
        Self {
            id: sale.id,
            reservations: sale.reservations,
            purchases: sale.purchases,
        }
    }
}

impl Past {
    pub(super) fn id(&self) -> SaleId {
        self.id
    }

    pub(super) fn key_count(&self) -> usize {
        self.purchases.len()
    }

    pub(super) fn has_key(&self, event: &SaleEvent) -> bool {
        matches!(event, SaleEvent::PurchaseRequested(purchase) if replayed(&self.purchases, purchase).is_ok())
    }

    /// Nothing of a past sale can be bought; who did so in time is told again.
    pub(super) fn purchase(
        &mut self,
        request: &PurchaseRequested,
        code: CodeParts,
    ) -> (Verdict, bool) {
        let key = match replayed(&self.purchases, request) {
            Ok(first) => return (first, true),
            Err(key) => key,
        };
        let verdict = Verdict::Refused(match reservation(&mut self.reservations, code) {
            None => Refused::CodeUnknown,
            Some(reservation) if reservation.is_bought => Refused::CodeUsed,
            Some(_) => Refused::CodeExpired,
        });
        self.purchases.extend(key.map(|key| (key, verdict)));
        (verdict, false)
    }

    pub(super) fn canonical(&self) -> String {
        let Self {
            id,
            reservations,
            purchases,
        } = self;
        format!("{id} {} {}", sorted(reservations), sorted(purchases))
    }
}

/// The answer that a purchase with this key had before; else the key to keep its answer by, if it has one.
fn replayed(
    purchases: &Purchases,
    request: &PurchaseRequested,
) -> Result<Verdict, Option<(Code, Box<str>)>> {
    let Some(key) = &request.key else {
        return Err(None);
    };
    let key = (request.code, key.as_str().into());
    purchases.get(&key).copied().ok_or(Some(key))
}

/// The reservation of a code; none if somebody guessed.
fn reservation(reservations: &mut Reservations, code: CodeParts) -> Option<&mut Reservation> {
    let found = reservations.get_mut(&code.offset)?;
    (found.secret == code.secret).then_some(found)
}

/// Beyond every list for what cannot be.
fn index(item_id: i32) -> usize {
    usize::try_from(item_id).unwrap_or(usize::MAX)
}

fn sorted<K: Debug + Ord, V: Debug>(map: &HashMap<K, V>) -> String {
    let mut entries: Vec<_> = map.iter().collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    format!("{entries:?}")
}
