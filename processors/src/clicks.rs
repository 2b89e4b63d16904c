//! The fold of the clicks: summed per banner, minute and partition. Before this: `producers/src/clicks.rs`; next:
//! `projections/src/clicks.rs`.

use std::collections::HashMap;

use projections::{
    clicks::{Added, PROJECTION},
    projection::Projection,
};
use schemas::clicks::BannerClicked;
use sqlx::PgConnection;

use crate::{
    fold::{Fold, Folded},
    record::Record,
};

const MINUTE_MS: i64 = 60_000;

/// The fold.
pub struct Clicks;

impl Fold for Clicks {
    type Event = BannerClicked;
    type Memory = ();
    type Prior = ();
    type Changes<'a> = Vec<Added>;

    const BATCH_MAX: usize = 100_000;
    const PROJECTION: &'static Projection = &PROJECTION;

    async fn load(_: &mut PgConnection, _: &[Record<BannerClicked>]) -> sqlx::Result<()> {
        Ok(())
    }

    fn fold((): &(), records: &[Record<BannerClicked>], _: &[()]) -> Folded<Vec<Added>> {
        let mut counts: HashMap<(i64, i64, i32), i64> = HashMap::new();
        for record in records {
            let minute = record.event.received_at.div_euclid(MINUTE_MS);
            let key = (record.event.banner_id, minute, record.partition);
            *counts.entry(key).or_default() += 1;
        }
        let mut changes: Vec<Added> = counts
            .into_iter()
            .map(|((banner_id, minute, partition), clicks)| Added {
                banner_id,
                minute,
                partition,
                clicks,
            })
            .collect();
        // Sorted by key, so that two writers lock rows in the same order.
        changes.sort_unstable();
        Folded {
            changes,
            dead_letters: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn click(partition: i32, banner_id: i64, received_at: i64) -> Record<BannerClicked> {
        Record {
            partition,
            offset: 0,
            timestamp_ms: received_at,
            event: BannerClicked {
                banner_id,
                received_at,
            },
        }
    }

    fn added(banner_id: i64, minute: i64, partition: i32, clicks: i64) -> Added {
        Added {
            banner_id,
            minute,
            partition,
            clicks,
        }
    }

    /// given no rows, when these clicks are folded, then these rows grow.
    fn when(clicks: &[Record<BannerClicked>]) -> Vec<Added> {
        Clicks::fold(&(), clicks, &[]).changes
    }

    #[test]
    fn clicks_of_a_minute_are_one_row_a_partition() {
        let rows = when(&[
            click(0, 7, 59_999),
            click(0, 7, 0),
            click(0, 7, 60_000),
            click(1, 7, 1),
            click(0, 3, 1),
        ]);
        assert_eq!(
            rows,
            [
                added(3, 0, 0, 1),
                added(7, 0, 0, 2),
                added(7, 0, 1, 1),
                added(7, 1, 0, 1)
            ]
        );
    }

    #[test]
    fn no_clicks_change_nothing() {
        assert_eq!(when(&[]), []);
    }

    proptest! {
        #[test]
        fn any_cut_into_batches_adds_up_to_the_same_rows(
            clicks in prop::collection::vec((0..3, 0..4_i64, 0..200_000_i64), 0..200),
            cuts in prop::collection::vec(0..200_usize, 0..6),
        ) {
            let log: Vec<_> = clicks.iter().map(|&(p, b, at)| click(p, b, at)).collect();
            let mut sums: HashMap<(i64, i64, i32), i64> = HashMap::new();
            let mut ends: Vec<_> = cuts.into_iter().map(|cut| cut.min(log.len())).collect();
            ends.push(log.len());
            ends.sort_unstable();
            let mut start = 0;
            for end in ends {
                for row in when(&log[start..end]) {
                    *sums.entry((row.banner_id, row.minute, row.partition)).or_default() += row.clicks;
                }
                start = end;
            }
            let whole: HashMap<_, _> = when(&log)
                .into_iter()
                .map(|row| ((row.banner_id, row.minute, row.partition), row.clicks))
                .collect();
            prop_assert_eq!(sums, whole);
        }
    }
}
