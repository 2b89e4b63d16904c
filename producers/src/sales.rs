//! Requests of the sale for the command line: single ones, and what a crowd is out for. Before this:
//! `schemas/src/sales.rs`; next: `processors/src/sales.rs`.

use rand::{Rng, RngExt};
use schemas::sales::{Barrier, CheckoutRequested, Code, PurchaseRequested, SaleEvent};

use crate::clock;

/// When a request is made, and what its appender knows by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// Milliseconds since 1970-01-01T00:00:00Z.
    pub requested_at: i64,
    /// Next offset of `sale-rules`: everything before it was read.
    pub rules_seen: i64,
    /// Tells the appender its own record.
    pub nonce: i64,
}

impl Stamp {
    /// Now, by the clock of this machine, and with a number that nobody guesses.
    pub fn now(rules_seen: i64) -> Self {
        Self {
            requested_at: clock::now_ms(),
            rules_seen,
            nonce: clock::chance(),
        }
    }

    /// The user wants to reserve the item.
    pub fn checkout(self, user_id: i64, item_id: i32, key: Option<String>) -> SaleEvent {
        SaleEvent::CheckoutRequested(CheckoutRequested {
            user_id,
            item_id,
            requested_at: self.requested_at,
            rules_seen: self.rules_seen,
            nonce: self.nonce,
            key,
        })
    }

    /// Somebody wants to buy what is reserved under the code.
    pub fn purchase(self, code: Code, key: Option<String>) -> SaleEvent {
        SaleEvent::PurchaseRequested(PurchaseRequested {
            code,
            requested_at: self.requested_at,
            rules_seen: self.rules_seen,
            nonce: self.nonce,
            key,
        })
    }

    /// This place is marked.
    pub fn barrier(self) -> SaleEvent {
        SaleEvent::Barrier(Barrier { nonce: self.nonce })
    }
}

/// People who come to a sale.
#[derive(Debug, Clone, Copy)]
pub struct Crowd {
    /// How many: those from 0 on.
    pub users: u32,
    /// How many items each of them asks for.
    pub each: u32,
    /// From how many items they choose, at least 1: those from 0 on.
    pub items: i32,
    /// How many in a hundred of those who are given an item buy it.
    pub buy_percent: u8,
}

/// What one of a crowd is out for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wish {
    /// Who.
    pub user_id: i64,
    /// The item.
    pub item_id: i32,
    /// Whether it is bought, if it can be had.
    pub buys: bool,
}

impl Crowd {
    /// How many wishes they have together.
    pub fn wish_count(&self) -> u64 {
        u64::from(self.users) * u64::from(self.each)
    }

    /// Their wishes in the order in which they come: each user once, then each once more. Every wish is made up as it
    /// is asked for, and the same `chance` gives the same ones.
    pub fn wishes(self, mut chance: impl Rng) -> impl Iterator<Item = Wish> {
        (0..self.each)
            .flat_map(move |_| 0..self.users)
            .map(move |user| Wish {
                user_id: i64::from(user),
                item_id: chance.random_range(0..self.items),
                buys: chance.random_range(0..100) < self.buy_percent,
            })
    }
}

#[cfg(test)]
mod tests {
    use schemas::event::Event;

    use super::*;

    const CROWD: Crowd = Crowd {
        users: 1_000,
        each: 3,
        items: 50,
        buy_percent: 80,
    };

    fn wishes(crowd: Crowd, seed: u64) -> Vec<Wish> {
        crowd.wishes(clock::generator(Some(seed))).collect()
    }

    #[test]
    fn every_user_has_as_many_wishes_as_told() {
        let wishes = wishes(CROWD, 7);
        assert_eq!(wishes.len() as u64, CROWD.wish_count());
        for user in 0..1_000 {
            let of_user = wishes.iter().filter(|wish| wish.user_id == user);
            assert_eq!(of_user.count(), 3);
        }
    }

    #[test]
    fn all_items_are_wished_for_and_no_other() {
        let mut items: Vec<_> = wishes(CROWD, 7).iter().map(|wish| wish.item_id).collect();
        items.sort_unstable();
        items.dedup();
        assert_eq!(items, (0..50).collect::<Vec<_>>());
    }

    #[test]
    fn as_many_buy_as_told() {
        let buyers = |buy_percent| {
            let crowd = Crowd {
                buy_percent,
                ..CROWD
            };
            let wishes = wishes(crowd, 7);
            wishes.iter().filter(|wish| wish.buys).count()
        };
        assert_eq!((buyers(0), buyers(100)), (0, 3_000));
        assert!((2_300..2_500).contains(&buyers(80)), "{}", buyers(80));
    }

    #[test]
    fn the_same_seed_makes_the_same_crowd() {
        assert_eq!(wishes(CROWD, 7), wishes(CROWD, 7));
        assert_ne!(wishes(CROWD, 7), wishes(CROWD, 8));
    }

    #[test]
    fn requests_are_valid_and_carry_their_stamp() {
        let code = "0192f0c1-2b3c-8d4e-9f50-617283940a1b".parse().unwrap();
        let stamp = Stamp::now(3);
        for event in [
            stamp.checkout(0, 9_999, Some("k-1".to_owned())),
            stamp.purchase(code, None),
            stamp.barrier(),
        ] {
            assert_eq!(event.faults(), []);
            assert_eq!(event.nonce(), stamp.nonce);
        }
    }

    #[test]
    fn no_two_stamps_share_their_nonce() {
        let (one, other) = (Stamp::now(0), Stamp::now(0));
        assert_ne!(one.nonce, other.nonce);
        assert!(one.requested_at <= other.requested_at);
    }
}
