//! Tells a few bad records from a flood of them: a foreign producer gone wrong, or a fold that is. The fold goes on
//! all the same; people have to look.

use std::collections::{HashMap, VecDeque};

use projections::{checkpoints::Span, dead_letters::DeadLetter};

/// So many records of a partition are looked back at.
const WINDOW_RECORDS: i64 = 10_000;
/// More dead letters than this among them are a flood.
const DEAD_LETTERS_MAX: usize = 100;

/// The dead letters among the newest records of each partition, as far as this process has met them.
#[derive(Debug, Default)]
pub struct Alarm {
    recent: HashMap<i32, VecDeque<i64>>,
}

impl Alarm {
    /// Forgets everything, as when other partitions are assigned; gives the partitions that were watched.
    pub fn reset(&mut self) -> impl Iterator<Item = i32> {
        std::mem::take(&mut self.recent).into_keys()
    }

    /// Notes a batch; says of each of its partitions whether there is a flood.
    pub fn note(&mut self, spans: &[Span], letters: &[DeadLetter]) -> Vec<(i32, bool)> {
        for letter in letters {
            let recent = self.recent.entry(letter.partition).or_default();
            recent.push_back(letter.offset);
        }
        let is_flood = |span: &Span| {
            let Some(recent) = self.recent.get_mut(&span.partition) else {
                return (span.partition, false);
            };
            recent.retain(|offset| *offset >= span.to - WINDOW_RECORDS);
            (span.partition, recent.len() > DEAD_LETTERS_MAX)
        };
        spans.iter().map(is_flood).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch(from: i64, to: i64) -> [Span; 1] {
        [Span {
            partition: 3,
            from,
            to,
            record_at_ms: 0,
            last: None,
        }]
    }

    fn dead(offsets: std::ops::Range<i64>) -> Vec<DeadLetter> {
        let letter = |offset| DeadLetter {
            partition: 3,
            offset,
            reason: "invalid",
            error: String::new(),
            record_at_ms: 0,
        };
        offsets.map(letter).collect()
    }

    #[test]
    fn a_hundred_bad_records_in_ten_thousand_are_no_flood_and_one_more_is() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.note(&batch(0, 100), &dead(0..100)), [(3, false)]);
        assert_eq!(alarm.note(&batch(100, 101), &dead(100..101)), [(3, true)]);
    }

    #[test]
    fn a_flood_that_is_past_is_over() {
        let mut alarm = Alarm::default();
        assert_eq!(alarm.note(&batch(0, 200), &dead(0..200)), [(3, true)]);
        assert_eq!(alarm.note(&batch(200, 10_090), &[]), [(3, true)]);
        assert_eq!(alarm.note(&batch(10_090, 10_101), &[]), [(3, false)]);
    }
}
