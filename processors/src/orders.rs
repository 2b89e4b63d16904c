//! The fold of the orders: the first of a uid stands, a repetition changes nothing, another content is a dead letter.
//! Before this: `producers/src/orders.rs`; next: `projections/src/orders.rs`.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
};

use projections::{
    dead_letters::DeadLetter,
    orders::{Changes, Copies, Digest, Known, NewOrder, PROJECTION, Prior, load},
    projection::Projection,
    rows::Rows,
};
use schemas::orders::OrderPlaced;
use sha2::{Digest as _, Sha256};
use sqlx::PgConnection;

use crate::{
    fold::{Cells, Fold, Folded, ROWS_BYTES, When, Whole, names},
    record::Record,
};

/// The fold.
pub struct Orders;

impl Fold for Orders {
    type Event = OrderPlaced;
    type Memory = ();
    type Prior = Prior;
    type Changes<'a> = Changes<'a>;

    const BATCH_MAX: usize = 2_000;
    const PROJECTION: &'static Projection = &PROJECTION;

    async fn load(
        transaction: &mut PgConnection,
        records: &[Record<OrderPlaced>],
    ) -> sqlx::Result<Prior> {
        let uids: Vec<&str> = records
            .iter()
            .map(|record| record.event.order_uid.as_str())
            .collect();
        load(transaction, &uids).await
    }

    fn fold<'a>(
        prior: &Prior,
        records: &'a [Record<OrderPlaced>],
        _: &'a [()],
    ) -> Folded<Changes<'a>> {
        let mut batch = Batch {
            prior,
            placed: HashMap::new(),
            displaced: Vec::new(),
            dead_letters: Vec::new(),
        };
        for record in records {
            batch.place(record);
        }
        batch.folded()
    }

    fn whole() -> Option<Box<dyn Whole<OrderPlaced>>> {
        Some(Box::new(Firsts::default()))
    }

    fn touches(record: &Record<OrderPlaced>, row: &Cells) -> bool {
        // Rows of all tables have it; dead letters name their record.
        match row.get("order_uid") {
            Some(uid) => uid.as_deref() == Some(&*record.event.order_uid),
            None => names(row, record.partition, record.offset),
        }
    }
}

/// The state of one fold: what is stored, and what the batch has placed so far.
struct Batch<'p, 'a> {
    prior: &'p Prior,
    placed: HashMap<&'a str, NewOrder<'a>>,
    displaced: Vec<&'a str>,
    dead_letters: Vec<DeadLetter>,
}

impl<'a> Batch<'_, 'a> {
    fn place(&mut self, record: &'a Record<OrderPlaced>) {
        let order = &record.event;
        let uid = order.order_uid.as_str();
        let known = known(record);
        let placed = self.placed.get(uid).map(|new| &new.known);
        if let Some(first) = placed.or_else(|| self.prior.get(uid)) {
            if first.digest == known.digest {
                return;
            }
            // All records of a uid are in one partition, so offsets alone decide which came first.
            if first.offset < known.offset {
                self.dead_letters.push(conflict(uid, &known, first));
                return;
            }
            // As when a dead letter is folded after all.
            self.dead_letters.push(conflict(uid, first, &known));
            if placed.is_none() {
                self.displaced.push(uid);
            }
        }
        self.placed.insert(uid, NewOrder { order, known });
    }

    fn folded(mut self) -> Folded<Changes<'a>> {
        let mut placed: Vec<_> = self.placed.into_values().collect();
        // Sorted by key, so that two writers lock rows in the same order.
        placed.sort_unstable_by_key(|new| new.order.order_uid.as_str());
        self.displaced.sort_unstable();
        Folded {
            changes: Changes {
                displaced: self.displaced,
                placed,
            },
            dead_letters: self.dead_letters,
        }
    }
}

fn known(record: &Record<OrderPlaced>) -> Known {
    Known {
        partition: record.partition,
        offset: record.offset,
        record_at_ms: record.timestamp_ms,
        digest: digest(&record.event),
    }
}

/// The orders of a whole log: the first of each uid is a row. What comes later has to be compared with it.
///
/// Of a uid no more is remembered than a hash. If two collide, an order waits for no reason, and all others of its uid
/// do after it: they come to the same end, a little later.
#[derive(Default)]
struct Firsts<H = RandomState> {
    seen: HashSet<u64>,
    hasher: H,
    copies: Copies,
}

impl<H: BuildHasher> Firsts<H> {
    /// Whether no order before had this uid, nor one with the same hash.
    fn is_first(&mut self, uid: &str) -> bool {
        self.seen.insert(self.hasher.hash_one(uid))
    }
}

impl Whole<OrderPlaced> for Firsts {
    fn fold(&mut self, record: Record<OrderPlaced>) -> Option<Record<OrderPlaced>> {
        if !self.is_first(&record.event.order_uid) {
            return Some(record);
        }
        let known = known(&record);
        let order = &record.event;
        self.copies.add(&NewOrder { order, known });
        None
    }

    fn memory(&self) -> usize {
        // A hash, and a byte that tells whether the place is taken.
        self.seen.capacity() * (8 + 1)
    }

    fn rows(&mut self, when: When) -> Vec<Rows> {
        if when == When::Passing && self.copies.byte_len() < ROWS_BYTES {
            return Vec::new();
        }
        self.copies.take()
    }
}

fn conflict(uid: &str, loser: &Known, winner: &Known) -> DeadLetter {
    DeadLetter {
        partition: loser.partition,
        offset: loser.offset,
        reason: "order_exists",
        error: format!(
            "order {uid} came with other content at offset {} before",
            winner.offset
        ),
        record_at_ms: loser.record_at_ms,
    }
}

/// SHA-256 of the order as JSON, which has every field in the order of the struct.
fn digest(order: &OrderPlaced) -> Digest {
    let text = serde_json::to_vec(order).expect("an order has only texts and numbers");
    Sha256::digest(text).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MODEL: &str = include_str!("../../data/model.json");

    fn order(uid: &str, entry: &str) -> OrderPlaced {
        let mut order: OrderPlaced = serde_json::from_str(MODEL).unwrap();
        order.order_uid = uid.to_owned();
        order.entry = entry.to_owned();
        order
    }

    fn at(offset: i64, event: OrderPlaced) -> Record<OrderPlaced> {
        Record {
            partition: 0,
            offset,
            timestamp_ms: offset * 10,
            event,
        }
    }

    fn given(stored: &[Record<OrderPlaced>]) -> Prior {
        let known = |record: &Record<OrderPlaced>| Known {
            partition: record.partition,
            offset: record.offset,
            record_at_ms: record.timestamp_ms,
            digest: digest(&record.event),
        };
        stored
            .iter()
            .map(|record| (record.event.order_uid.clone(), known(record)))
            .collect()
    }

    /// What a fold did: orders placed (uid, entry), uids displaced, offsets of dead letters.
    fn then(folded: &Folded<Changes<'_>>) -> (Vec<(String, String)>, Vec<String>, Vec<i64>) {
        let placed = folded.changes.placed.iter();
        (
            placed
                .map(|new| (new.order.order_uid.clone(), new.order.entry.clone()))
                .collect(),
            folded
                .changes
                .displaced
                .iter()
                .map(|uid| (*uid).to_owned())
                .collect(),
            folded
                .dead_letters
                .iter()
                .map(|letter| letter.offset)
                .collect(),
        )
    }

    fn placed(orders: &[(&str, &str)]) -> Vec<(String, String)> {
        let owned = |(uid, entry): &(&str, &str)| ((*uid).to_owned(), (*entry).to_owned());
        orders.iter().map(owned).collect()
    }

    #[test]
    fn new_orders_are_placed_sorted_by_uid() {
        let when = [at(0, order("b", "x")), at(1, order("a", "x"))];
        let folded = Orders::fold(&given(&[]), &when, &[]);
        assert_eq!(
            then(&folded),
            (placed(&[("a", "x"), ("b", "x")]), vec![], vec![])
        );
    }

    #[test]
    fn a_repetition_changes_nothing() {
        let when = [
            at(5, order("a", "x")),
            at(6, order("b", "y")),
            at(7, order("b", "y")),
        ];
        let folded = Orders::fold(&given(&[at(1, order("a", "x"))]), &when, &[]);
        assert_eq!(then(&folded), (placed(&[("b", "y")]), vec![], vec![]));
    }

    #[test]
    fn another_content_keeps_the_first_and_becomes_a_dead_letter() {
        let when = [
            at(5, order("a", "other")),
            at(6, order("b", "y")),
            at(7, order("b", "z")),
        ];
        let folded = Orders::fold(&given(&[at(1, order("a", "x"))]), &when, &[]);
        assert_eq!(then(&folded), (placed(&[("b", "y")]), vec![], vec![5, 7]));
        assert_eq!(folded.dead_letters[0].reason, "order_exists");
        assert_eq!(folded.dead_letters[0].record_at_ms, 50);
    }

    #[test]
    fn an_earlier_record_that_is_folded_late_displaces_the_later_one() {
        let when = [at(1, order("a", "first"))];
        let folded = Orders::fold(&given(&[at(5, order("a", "second"))]), &when, &[]);
        assert_eq!(
            then(&folded),
            (placed(&[("a", "first")]), vec!["a".to_owned()], vec![5])
        );
    }

    #[test]
    fn every_field_counts_as_content() {
        let first = order("a", "x");
        let mut second = first.clone();
        second.items[0].brand.push('!');
        assert_ne!(digest(&first), digest(&second));
        assert_eq!(digest(&first), digest(&first.clone()));
    }

    /// Applies a fold to stored orders as the tables would.
    fn apply_to(stored: &mut Vec<Record<OrderPlaced>>, folded: &Folded<Changes<'_>>) {
        stored.retain(|record| {
            !folded
                .changes
                .displaced
                .contains(&record.event.order_uid.as_str())
        });
        for new in &folded.changes.placed {
            stored.push(at(new.known.offset, new.order.clone()));
        }
        stored.sort_by(|a, b| a.event.order_uid.cmp(&b.event.order_uid));
    }

    /// Hashes that collide all the time.
    #[derive(Default, Clone)]
    struct Poor(u64);

    impl std::hash::Hasher for Poor {
        fn finish(&self) -> u64 {
            self.0 % 3
        }

        fn write(&mut self, bytes: &[u8]) {
            self.0 += bytes.iter().map(|byte| u64::from(*byte)).sum::<u64>();
        }
    }

    proptest! {
        #[test]
        fn the_first_orders_of_a_log_and_then_the_others_come_to_the_same_as_all_in_turn(
            orders in prop::collection::vec((0..9_usize, 0..3_usize), 0..60),
        ) {
            let log: Vec<_> = (0..)
                .zip(&orders)
                .map(|(offset, (uid, entry))| at(offset, order(&format!("uid-{uid}"), &entry.to_string())))
                .collect();
            let mut whole = Firsts {
                hasher: std::hash::BuildHasherDefault::<Poor>::default(),
                seen: HashSet::new(),
                copies: Copies::default(),
            };
            let (firsts, late): (Vec<_>, Vec<_>) = log
                .iter()
                .cloned()
                .partition(|record| whole.is_first(&record.event.order_uid));
            let prior = given(&firsts);
            let (mut placed, displaced, letters) = then(&Orders::fold(&prior, &late, &[]));
            let of_firsts = |record: &Record<OrderPlaced>| {
                (record.event.order_uid.clone(), record.event.entry.clone())
            };
            placed.extend(firsts.iter().map(of_firsts));
            placed.sort();
            let in_turn = then(&Orders::fold(&given(&[]), &log, &[]));
            prop_assert_eq!((placed, displaced, letters), in_turn);
        }

        #[test]
        fn any_cut_into_batches_stores_the_same_orders(
            log in prop::collection::vec((0..6_u8, 0..3_u8), 0..60),
            cuts in prop::collection::vec(0..60_usize, 0..6),
        ) {
            let log: Vec<_> = (0..)
                .zip(&log)
                .map(|(offset, (uid, entry))| at(offset, order(&uid.to_string(), &entry.to_string())))
                .collect();
            let fold_cut = |mut ends: Vec<usize>| {
                ends.push(log.len());
                ends.sort_unstable();
                let (mut stored, mut dead, mut start) = (Vec::new(), Vec::new(), 0);
                for end in ends {
                    let prior = given(&stored);
                    let folded = Orders::fold(&prior, &log[start..end], &[]);
                    dead.extend(folded.dead_letters.iter().map(|letter| letter.offset));
                    apply_to(&mut stored, &folded);
                    start = end;
                }
                (stored, dead)
            };
            let cuts = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
            prop_assert_eq!(fold_cut(cuts), fold_cut(Vec::new()));
        }
    }
}
