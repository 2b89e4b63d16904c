//! The fold of the clicks: summed per banner, minute and partition. Before this: `producers/src/clicks.rs`; next:
//! `projections/src/clicks.rs`.

use std::{collections::HashMap, time::Duration};

use projections::{
    clicks::{Added, BEGIN_PARTIAL, END_PARTIAL, FINAL, PARTIAL, PROJECTION, copy},
    projection::Projection,
    rows::Rows,
};
use schemas::{clicks::BannerClicked, inspect::millis};
use sqlx::PgConnection;

use crate::{
    fold::{Cells, Fold, Folded, ROWS_BYTES, When, Whole},
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

    const BATCH_MAX: usize = 128_000;
    const BATCH_AGE: Duration = Duration::from_millis(1);
    const FETCH_WAIT: Option<Duration> = Some(Duration::from_millis(20));
    const PROJECTION: &'static Projection = &PROJECTION;

    async fn load(_: &mut PgConnection, _: &[Record<BannerClicked>]) -> sqlx::Result<()> {
        Ok(())
    }

    fn fold((): &(), records: &[Record<BannerClicked>], _: &[()]) -> Folded<Vec<Added>> {
        let mut counts: HashMap<(i64, i64, i32), i64> = HashMap::new();
        for record in records {
            *counts.entry(key(record)).or_default() += 1;
        }
        let mut changes: Vec<Added> = Counts {
            counts,
            is_partial: false,
        }
        .give()
        .collect();
        // Sorted by key, so that two writers lock rows in the same order.
        changes.sort_unstable();
        Folded {
            changes,
            dead_letters: Vec::new(),
        }
    }

    fn whole() -> Option<Box<dyn Whole<BannerClicked>>> {
        Some(Box::new(Counts::default()))
    }

    fn touches(record: &Record<BannerClicked>, row: &Cells) -> bool {
        let (banner_id, minute, partition) = key(record);
        // As Postgres writes it: 2026-01-02 03:04:00+00.
        let is = |column: &str, cell: String| row.get(column) == Some(&Some(cell));
        is("banner_id", banner_id.to_string()) && is("partition", partition.to_string()) && {
            // As Postgres writes it: 2026-01-02 03:04:00+00.
            let text = millis(minute * MINUTE_MS).unwrap_or_default();
            let seconds = text.get(..19).unwrap_or_default();
            is("ts", format!("{}+00", seconds.replace('T', " ")))
        }
    }
}

/// Banner, minute and partition of a click.
fn key(record: &Record<BannerClicked>) -> (i64, i64, i32) {
    let minute = record.event.received_at.div_euclid(MINUTE_MS);
    (record.event.banner_id, minute, record.partition)
}

/// The clicks of a whole log.
#[derive(Default)]
struct Counts {
    counts: HashMap<(i64, i64, i32), i64>,
    /// There were too many: the rows that were given have to be added up.
    is_partial: bool,
}

impl Counts {
    /// Gives all counts and the memory that they took.
    fn give(&mut self) -> impl Iterator<Item = Added> + use<> {
        let counts = std::mem::take(&mut self.counts).into_iter();
        counts.map(|((banner_id, minute, partition), clicks)| Added {
            banner_id,
            minute,
            partition,
            clicks,
        })
    }
}

impl Whole<BannerClicked> for Counts {
    fn fold(&mut self, record: Record<BannerClicked>) -> Option<Record<BannerClicked>> {
        *self.counts.entry(key(&record)).or_default() += 1;
        None
    }

    fn memory(&self) -> usize {
        // Key, count, and a byte that tells whether the place is taken.
        self.counts.capacity() * (24 + 8 + 1)
    }

    fn rows(&mut self, when: When) -> Vec<Rows> {
        match when {
            When::Passing => return Vec::new(),
            When::Full => self.is_partial = true,
            When::End => {}
        }
        let into = if self.is_partial { PARTIAL } else { FINAL };
        let mut all = vec![Rows::new(into)];
        for added in self.give() {
            if all.last().is_none_or(|rows| rows.byte_len() > ROWS_BYTES) {
                all.push(Rows::new(into));
            }
            if let Some(rows) = all.last_mut() {
                copy(rows, &added);
            }
        }
        all
    }

    fn begin(&self) -> &'static str {
        BEGIN_PARTIAL
    }

    fn end(&self) -> &'static str {
        END_PARTIAL
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
    fn a_click_touches_the_row_of_its_banner_minute_and_partition() {
        let record = click(3, 7, 1_767_323_045_000);
        let row = |banner: &str, ts: &str, partition: &str| -> Cells {
            let cells = [("banner_id", banner), ("ts", ts), ("partition", partition)];
            let owned = cells.map(|(name, cell)| (name.to_owned(), Some(cell.to_owned())));
            owned.into()
        };
        assert!(Clicks::touches(
            &record,
            &row("7", "2026-01-02 03:04:00+00", "3")
        ));
        for (banner, ts, partition) in [
            ("8", "2026-01-02 03:04:00+00", "3"),
            ("7", "2026-01-02 03:05:00+00", "3"),
            ("7", "2026-01-02 03:04:00+00", "2"),
        ] {
            assert!(!Clicks::touches(&record, &row(banner, ts, partition)));
        }
    }

    #[test]
    fn no_clicks_change_nothing() {
        assert_eq!(when(&[]), []);
    }

    proptest! {
        #[test]
        fn partial_counts_add_up_to_the_rows_of_the_whole_log(
            clicks in prop::collection::vec((0..3, 0..4_i64, 0..200_000_i64), 0..200),
            full_after in prop::collection::vec(0..200_usize, 0..6),
        ) {
            let log: Vec<_> = clicks.iter().map(|&(p, b, at)| click(p, b, at)).collect();
            let mut counts = Counts::default();
            let mut sums: HashMap<(i64, i64, i32), i64> = HashMap::new();
            let mut add = |all: Vec<Added>| {
                for row in all {
                    *sums.entry((row.banner_id, row.minute, row.partition)).or_default() += row.clicks;
                }
            };
            for (at, record) in log.iter().enumerate() {
                prop_assert!(counts.fold(record.clone()).is_none());
                if full_after.contains(&at) {
                    add(counts.give().collect());
                    prop_assert_eq!(counts.memory(), 0);
                }
            }
            add(counts.give().collect());
            let whole: HashMap<_, _> = when(&log)
                .into_iter()
                .map(|row| ((row.banner_id, row.minute, row.partition), row.clicks))
                .collect();
            prop_assert_eq!(sums, whole);
        }

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
