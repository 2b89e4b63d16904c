//! The rules of the sale once more, as a reader of the design would work them out on paper: every record that ever came
//! stays on the table, nothing is forgotten, and each question is answered by looking through all of them.

use schemas::{
    sale_rules::SaleRulesSet,
    sales::{CheckoutRequested, Code, PurchaseRequested, SaleEvent, SaleId},
};

use crate::record::Record;

const HOUR: i64 = 3_600_000;

/// Every record so far, with what was said to it.
pub(super) struct Model {
    pub(super) rules: Vec<(i64, SaleRulesSet)>,
    pub(super) past: Vec<(Record<SaleEvent>, Answer)>,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Answer {
    Barrier,
    Void,
    Given(Given),
}

#[derive(Debug, Clone, PartialEq)]
pub(super) struct Given {
    pub(super) at_ms: i64,
    pub(super) sale: SaleId,
    pub(super) said: Said,
    /// Said before to the same request.
    pub(super) again: bool,
}

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Said {
    Reserved { code: Code, expires_at_ms: i64 },
    Bought { user_id: i64, item_id: i32 },
    No(&'static str),
}

/// A sale while a question about it is answered.
#[derive(Clone, Copy)]
struct Sale {
    id: SaleId,
    starts_at_ms: i64,
    ends_at_ms: i64,
    rules: SaleRulesSet,
}

impl Model {
    pub(super) fn judge(&mut self, record: &Record<SaleEvent>) -> Answer {
        let answer = self.answer(record);
        self.past.push((record.clone(), answer.clone()));
        answer
    }

    fn answer(&self, record: &Record<SaleEvent>) -> Answer {
        let Some((requested_at, _)) = request(record) else {
            return Answer::Barrier;
        };
        if (record.timestamp_ms - requested_at).abs() > 30_000 {
            return Answer::Void;
        }
        let before = self.given().map(|(_, given)| given.at_ms).max();
        let at_ms = record.timestamp_ms.max(before.unwrap_or(0));
        let sale = self
            .sale_at(at_ms, record)
            .expect("this very record has an hour");
        let (said, again) = match &record.event {
            SaleEvent::CheckoutRequested(asked) => self.checkout(asked, record.offset, at_ms, sale),
            SaleEvent::PurchaseRequested(asked) => self.purchase(asked, record, at_ms, sale),
            SaleEvent::Barrier(_) => unreachable!("it counts for nothing"),
        };
        Answer::Given(Given {
            at_ms,
            sale: sale.id,
            said,
            again,
        })
    }

    /// Everything that counted.
    fn given(&self) -> impl Iterator<Item = (&Record<SaleEvent>, &Given)> {
        self.past
            .iter()
            .filter_map(|(record, answer)| match answer {
                Answer::Given(given) => Some((record, given)),
                _ => None,
            })
    }

    /// What was said for the first time in a sale.
    fn said_in(&self, sale: SaleId) -> impl Iterator<Item = (&Record<SaleEvent>, &Said)> {
        self.given()
            .filter(move |(_, given)| given.sale == sale && !given.again)
            .map(|(record, given)| (record, &given.said))
    }

    /// The sale at a time; none if nothing that counted came in its hour, where `newest` counts at the time itself.
    fn sale_at(&self, at_ms: i64, newest: &Record<SaleEvent>) -> Option<Sale> {
        let hour = at_ms / HOUR;
        let first = self
            .given()
            .find(|(_, given)| given.at_ms / HOUR == hour)
            .map(|(record, _)| record);
        let is_now = |newest: &&Record<SaleEvent>| {
            let before = self.given().map(|(_, given)| given.at_ms).max();
            newest.timestamp_ms.max(before.unwrap_or(0)) / HOUR == hour
        };
        let first = first.or(Some(newest).filter(is_now))?;
        let (_, rules_seen) = request(first).expect("it counts");
        let seen = self.rules.iter().rev();
        let newest = seen.clone().find(|(offset, _)| *offset < rules_seen);
        let rules = newest.map_or_else(SaleRulesSet::default, |(_, rules)| *rules);
        let length_ms = i64::from(rules.sale_seconds) * 1_000;
        // An hour is a whole number of sales.
        let starts_at_ms = at_ms / length_ms * length_ms;
        Some(Sale {
            id: SaleId::starting_at_ms(starts_at_ms),
            starts_at_ms,
            ends_at_ms: starts_at_ms + length_ms,
            rules,
        })
    }

    fn checkout(
        &self,
        asked: &CheckoutRequested,
        offset: i64,
        at_ms: i64,
        sale: Sale,
    ) -> (Said, bool) {
        let same_key = self.said_in(sale.id).find(|(record, _)| {
            matches!(&record.event, SaleEvent::CheckoutRequested(first)
                if asked.key.is_some() && first.key == asked.key && first.user_id == asked.user_id)
        });
        if let Some((record, said)) = same_key {
            let SaleEvent::CheckoutRequested(first) = &record.event else {
                unreachable!("it is a checkout");
            };
            if first.item_id == asked.item_id {
                return (said.clone(), true);
            }
            return (Said::No("key_reused"), false);
        }
        (self.reserve(asked, offset, at_ms, sale), false)
    }

    fn reserve(&self, asked: &CheckoutRequested, offset: i64, at_ms: i64, sale: Sale) -> Said {
        let bought = self.bought_in(sale.id);
        let reserved = self.reserved_in(sale.id, at_ms);
        let has = |(user_id, _): &&(i64, i32)| *user_id == asked.user_id;
        let is_it = |(_, item_id): &(i64, i32)| *item_id == asked.item_id;
        let limit = usize::try_from(sale.rules.limit).unwrap();
        if asked.item_id >= sale.rules.items {
            return Said::No("no_such_item");
        }
        if bought.len() == usize::try_from(sale.rules.items).unwrap() {
            return Said::No("sold_out");
        }
        if bought.iter().any(is_it) {
            return Said::No("item_sold");
        }
        if reserved.iter().any(is_it) {
            return Said::No("item_reserved");
        }
        if bought.iter().chain(&reserved).filter(has).count() >= limit {
            return Said::No("user_limit");
        }
        let lasts_ms = i64::from(sale.rules.reservation_seconds) * 1_000;
        Said::Reserved {
            code: Code::new(sale.id, offset, asked.nonce),
            expires_at_ms: sale.ends_at_ms.min(at_ms + lasts_ms),
        }
    }

    /// Who has bought what.
    pub(super) fn bought_in(&self, sale: SaleId) -> Vec<(i64, i32)> {
        let said = self.said_in(sale);
        said.filter_map(|(_, said)| match said {
            Said::Bought { user_id, item_id } => Some((*user_id, *item_id)),
            _ => None,
        })
        .collect()
    }

    /// Who holds what at a time without having bought it.
    pub(super) fn reserved_in(&self, sale: SaleId, at_ms: i64) -> Vec<(i64, i32)> {
        let said = self.said_in(sale);
        said.filter_map(|(record, said)| match (&record.event, said) {
            (
                SaleEvent::CheckoutRequested(asked),
                Said::Reserved {
                    code,
                    expires_at_ms,
                },
            ) if *expires_at_ms > at_ms && !self.is_used(*code) => {
                Some((asked.user_id, asked.item_id))
            }
            _ => None,
        })
        .collect()
    }

    fn is_used(&self, code: Code) -> bool {
        self.given().any(|(record, given)| {
            matches!(&record.event, SaleEvent::PurchaseRequested(asked)
                if asked.code == code && matches!(given.said, Said::Bought { .. }))
        })
    }

    fn purchase(
        &self,
        asked: &PurchaseRequested,
        record: &Record<SaleEvent>,
        at_ms: i64,
        sale: Sale,
    ) -> (Said, bool) {
        let Some(parts) = asked.code.parts() else {
            return (Said::No("code_unknown"), false);
        };
        if parts.sale > sale.id {
            return (Said::No("code_unknown"), false);
        }
        // The interval directly before; what nobody used has nothing to remember.
        let previous = self
            .sale_at(sale.starts_at_ms - 1, record)
            .filter(|before| self.given().any(|(_, given)| given.sale == before.id))
            .map(|before| before.id);
        if parts.sale < sale.id && previous.is_none_or(|previous| parts.sale < previous) {
            return (Said::No("code_expired"), false);
        }
        let is_of_a_sale = parts.sale == sale.id || Some(parts.sale) == previous;
        let same_key = self.given().find(|(record, given)| {
            matches!(&record.event, SaleEvent::PurchaseRequested(first)
                if asked.key.is_some() && first.key == asked.key && first.code == asked.code)
                && given.sale >= parts.sale
        });
        if let Some((_, given)) = same_key.filter(|_| is_of_a_sale) {
            return (given.said.clone(), true);
        }
        (self.buy(asked.code, at_ms), false)
    }

    fn buy(&self, wanted: Code, at_ms: i64) -> Said {
        let reserved = self.given().find_map(|(record, given)| match given.said {
            Said::Reserved {
                code,
                expires_at_ms,
            } if code == wanted => Some((record, expires_at_ms)),
            _ => None,
        });
        let Some((record, expires_at_ms)) = reserved else {
            return Said::No("code_unknown");
        };
        if self.is_used(wanted) {
            return Said::No("code_used");
        }
        if at_ms >= expires_at_ms {
            return Said::No("code_expired");
        }
        let SaleEvent::CheckoutRequested(asked) = &record.event else {
            unreachable!("only checkouts reserve");
        };
        Said::Bought {
            user_id: asked.user_id,
            item_id: asked.item_id,
        }
    }
}

/// When it was requested, and which rules its appender had seen; none for a barrier.
fn request(record: &Record<SaleEvent>) -> Option<(i64, i64)> {
    match &record.event {
        SaleEvent::CheckoutRequested(asked) => Some((asked.requested_at, asked.rules_seen)),
        SaleEvent::PurchaseRequested(asked) => Some((asked.requested_at, asked.rules_seen)),
        SaleEvent::Barrier(_) => None,
    }
}
