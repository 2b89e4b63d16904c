//! Judges one record after the other. Everything is kept for ever: what a process has to forget, this one does not ask
//! for.

use std::collections::{BTreeMap, HashMap};

use super::{Asked, Judged, Record, Request, Rules, Verdict};

const HOUR_MS: i64 = 3_600_000;
const DRIFT_MAX_MS: i64 = 30_000;
/// Where none were ever set.
const USUAL: Rules = Rules {
    items: 10_000,
    limit: 10,
    reservation_seconds: 60,
    sale_seconds: 3_600,
};

/// Everything that was decided so far.
pub(super) struct Fold<'r> {
    rules: &'r [(i64, Rules)],
    last_ms: Option<i64>,
    /// By the start of the hour.
    hours: BTreeMap<i64, Rules>,
    /// By their starts.
    sales: BTreeMap<i64, Sale>,
}

struct Sale {
    starts_at_ms: i64,
    ends_at_ms: i64,
    rules: Rules,
    by_code: HashMap<String, Reservation>,
    /// The code of the newest reservation of each item.
    by_item: HashMap<i64, String>,
    by_user: HashMap<i64, Vec<String>>,
    sold: i64,
    /// What was said to whom with which key, and for which item.
    checkouts: HashMap<(i64, String), (i64, Verdict)>,
    /// What was said to which code with which key.
    purchases: HashMap<(String, String), Verdict>,
}

struct Reservation {
    user_id: i64,
    item_id: i64,
    expires_at_ms: i64,
    is_bought: bool,
}

impl<'r> Fold<'r> {
    pub(super) fn new(rules: &'r [(i64, Rules)]) -> Self {
        Self {
            rules,
            last_ms: None,
            hours: BTreeMap::new(),
            sales: BTreeMap::new(),
        }
    }

    pub(super) fn judge(&mut self, record: &Record) -> Judged {
        let not_decided = |verdict| Judged {
            offset: record.offset,
            request: record.asked.as_ref().map(|asked| asked.request.clone()),
            verdict,
            sale: None,
            at_ms: record.timestamp_ms,
            is_replayed: false,
        };
        let Some(asked) = &record.asked else {
            return not_decided(Verdict::None);
        };
        if (record.timestamp_ms - asked.requested_at).abs() > DRIFT_MAX_MS {
            return not_decided(Verdict::Void);
        }
        let now_ms = self.last_ms.map_or(record.timestamp_ms, |last_ms| {
            last_ms.max(record.timestamp_ms)
        });
        self.last_ms = Some(now_ms);
        let starts_at_ms = self.open(now_ms, asked.rules_seen);
        let (verdict, is_replayed) = match &asked.request {
            Request::Checkout { .. } => {
                let sale = self.sales.get_mut(&starts_at_ms).unwrap();
                sale.checkout(asked, record.offset, now_ms)
            }
            Request::Purchase { code, key } => match self.sale_of(code, starts_at_ms) {
                Ok(sale) => sale.purchase(code, key.as_ref(), now_ms),
                Err(reason) => (Verdict::Refused(reason), false),
            },
        };
        Judged {
            sale: Some(starts_at_ms),
            at_ms: now_ms,
            is_replayed,
            ..not_decided(verdict)
        }
    }

    /// Whether a checkout would be refused now.
    pub(super) fn refuses(&self, user_id: i64, item_id: i64) -> bool {
        let Some(now_ms) = self.last_ms else {
            return false;
        };
        let (_, sale) = self.sales.last_key_value().unwrap();
        sale.objection(user_id, item_id, now_ms).is_some()
    }

    pub(super) fn rules_of_sales(&self) -> HashMap<i64, Rules> {
        let sales = self.sales.iter();
        sales.map(|(start, sale)| (*start, sale.rules)).collect()
    }

    /// The start of the sale at a time.
    fn open(&mut self, now_ms: i64, rules_seen: i64) -> i64 {
        let hour = now_ms - now_ms % HOUR_MS;
        let rules = *self.hours.entry(hour).or_insert_with(|| {
            let seen = self.rules.iter().filter(|(offset, _)| *offset < rules_seen);
            seen.max_by_key(|(offset, _)| *offset)
                .map_or(USUAL, |(_, rules)| *rules)
        });
        let length_ms = rules.sale_seconds * 1_000;
        let starts_at_ms = now_ms - (now_ms - hour) % length_ms;
        self.sales.entry(starts_at_ms).or_insert_with(|| Sale {
            starts_at_ms,
            ends_at_ms: starts_at_ms + length_ms,
            rules,
            by_code: HashMap::new(),
            by_item: HashMap::new(),
            by_user: HashMap::new(),
            sold: 0,
            checkouts: HashMap::new(),
            purchases: HashMap::new(),
        });
        starts_at_ms
    }

    /// The sale of a code, if it is the one that runs or the one directly before; else the reason to refuse it.
    fn sale_of(&mut self, code: &str, running: i64) -> Result<&mut Sale, &'static str> {
        let starts_at_ms = sale_of(code).ok_or("code_unknown")?;
        let before = self.sales.range(..running).next_back();
        let previous = before
            .filter(|(_, sale)| sale.ends_at_ms == running)
            .map(|(start, _)| *start);
        if starts_at_ms == running || previous == Some(starts_at_ms) {
            return Ok(self.sales.get_mut(&starts_at_ms).unwrap());
        }
        let is_older = starts_at_ms < previous.unwrap_or(running);
        Err(if is_older {
            "code_expired"
        } else {
            "code_unknown"
        })
    }
}

impl Sale {
    /// The verdict, and whether it was given before.
    fn checkout(&mut self, asked: &Asked, offset: i64, now_ms: i64) -> (Verdict, bool) {
        let Request::Checkout {
            user_id,
            item_id,
            key,
        } = &asked.request
        else {
            panic!("{asked:?} is no checkout");
        };
        let key = key.clone().map(|key| (*user_id, key));
        if let Some((first, verdict)) = key.as_ref().and_then(|key| self.checkouts.get(key)) {
            if first == item_id {
                return (verdict.clone(), true);
            }
            return (Verdict::Refused("key_reused"), false);
        }
        let verdict = match self.objection(*user_id, *item_id, now_ms) {
            Some(reason) => Verdict::Refused(reason),
            None => self.reserve(
                *user_id,
                *item_id,
                code(self.starts_at_ms, offset, asked.nonce),
                now_ms,
            ),
        };
        if let Some(key) = key {
            self.checkouts.insert(key, (*item_id, verdict.clone()));
        }
        (verdict, false)
    }

    fn objection(&self, user_id: i64, item_id: i64, now_ms: i64) -> Option<&'static str> {
        let newest = self.by_item.get(&item_id).map(|code| &self.by_code[code]);
        let codes = self.by_user.get(&user_id).into_iter().flatten();
        let holds = codes
            .map(|code| &self.by_code[code])
            .filter(|held| held.holds(now_ms));
        match newest {
            _ if item_id >= self.rules.items => Some("no_such_item"),
            _ if self.sold == self.rules.items => Some("sold_out"),
            Some(held) if held.is_bought => Some("item_sold"),
            Some(held) if held.holds(now_ms) => Some("item_reserved"),
            _ if i64::try_from(holds.count()).unwrap() >= self.rules.limit => Some("user_limit"),
            _ => None,
        }
    }

    fn reserve(&mut self, user_id: i64, item_id: i64, code: String, now_ms: i64) -> Verdict {
        let lapses_at_ms = now_ms + self.rules.reservation_seconds * 1_000;
        let expires_at_ms = lapses_at_ms.min(self.ends_at_ms);
        let reservation = Reservation {
            user_id,
            item_id,
            expires_at_ms,
            is_bought: false,
        };
        self.by_code.insert(code.clone(), reservation);
        self.by_item.insert(item_id, code.clone());
        self.by_user.entry(user_id).or_default().push(code.clone());
        Verdict::Reserved {
            code,
            expires_at_ms,
        }
    }

    fn purchase(&mut self, code: &str, key: Option<&String>, now_ms: i64) -> (Verdict, bool) {
        let key = key.map(|key| (code.to_owned(), key.clone()));
        if let Some(first) = key.as_ref().and_then(|key| self.purchases.get(key)) {
            return (first.clone(), true);
        }
        let verdict = match self.by_code.get_mut(code) {
            None => Verdict::Refused("code_unknown"),
            Some(held) if held.is_bought => Verdict::Refused("code_used"),
            Some(held) if !held.holds(now_ms) => Verdict::Refused("code_expired"),
            Some(held) => {
                held.is_bought = true;
                self.sold += 1;
                Verdict::Purchased {
                    user_id: held.user_id,
                    item_id: held.item_id,
                }
            }
        };
        self.purchases.extend(key.map(|key| (key, verdict.clone())));
        (verdict, false)
    }
}

impl Reservation {
    fn holds(&self, now_ms: i64) -> bool {
        self.is_bought || now_ms < self.expires_at_ms
    }
}

/// A UUID of version 8: 36 bits for the second at which the sale starts, 30 for the offset, 56 for the nonce.
pub fn code(sale_starts_at_ms: i64, offset: i64, nonce: i64) -> String {
    let last_bits = |number: i64, bits: u32| {
        u128::from_be_bytes(i128::from(number).to_be_bytes()) % (1 << bits)
    };
    let payload = (last_bits(sale_starts_at_ms / 1_000, 36) << 86)
        + (last_bits(offset, 30) << 56)
        + last_bits(nonce, 56);
    let (first, middle, last) = (
        payload >> 74,
        (payload >> 62) % (1 << 12),
        payload % (1 << 62),
    );
    let hex = format!("{first:012x}8{middle:03x}{:016x}", last + (1 << 63));
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32];
    groups.map(|group| &hex[group]).join("-")
}

/// The start of the sale that a code names; none if it is no code of ours.
pub(super) fn sale_of(code: &str) -> Option<i64> {
    let is_version_8 = code.get(14..15) == Some("8");
    let is_variant = matches!(code.get(19..20)?, "8" | "9" | "a" | "b");
    // The second takes the first nine digits.
    let digits = format!("{}{}", code.get(..8)?, code.get(9..10)?);
    let seconds = i64::from_str_radix(&digits, 16).ok()?;
    (is_version_8 && is_variant).then_some(seconds * 1_000)
}
