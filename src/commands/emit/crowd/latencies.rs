//! How long things took, in a fixed number of counters however many there are.

use std::time::Duration;

/// A bucket is at most a thirty-second of what it holds: percentiles are at most about 3 % too large.
const STEP_BITS: u32 = 5;
const BUCKETS: usize = (64 - STEP_BITS as usize + 1) << STEP_BITS;

/// Counts of durations in microseconds, by buckets that grow with them.
pub(super) struct Latencies {
    counts: Box<[u64]>,
    total: u64,
}

impl Default for Latencies {
    fn default() -> Self {
        Self {
            counts: vec![0; BUCKETS].into(),
            total: 0,
        }
    }
}

impl Latencies {
    pub(super) fn add(&mut self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.counts[bucket(micros)] += 1;
        self.total += 1;
    }

    /// The milliseconds that this many in a hundred did not exceed; none if there are none at all.
    pub(super) fn percentile_ms(&self, percent: u64) -> Option<f64> {
        let rank = (self.total * percent).div_ceil(100).max(1);
        let mut seen = 0;
        let found = self.counts.iter().position(|count| {
            seen += count;
            seen >= rank
        })?;
        Some(largest_in(found) as f64 / 1_000.0)
    }
}

/// Small numbers have a bucket each; of larger ones, their first bits count.
fn bucket(micros: u64) -> usize {
    let bits = u64::BITS - micros.leading_zeros();
    let dropped = bits.saturating_sub(STEP_BITS + 1);
    ((dropped as usize) << STEP_BITS) + usize::try_from(micros >> dropped).expect("six bits")
}

fn largest_in(bucket: usize) -> u64 {
    let dropped = (bucket >> STEP_BITS).saturating_sub(1);
    let first_bits = (bucket - (dropped << STEP_BITS)) as u64;
    // In this order, since the last bucket ends with the largest number that there is.
    (first_bits << dropped) + ((1 << dropped) - 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_is_hardly_larger_than_what_it_holds() {
        let mut micros: u64 = 0;
        while micros < u64::MAX / 2 {
            let largest = largest_in(bucket(micros));
            assert!(largest >= micros && largest - micros <= micros / 32);
            micros += micros / 50 + 1;
        }
        assert_eq!(bucket(u64::MAX), BUCKETS - 1);
        assert_eq!(largest_in(BUCKETS - 1), u64::MAX);
    }

    #[test]
    fn percentiles_are_those_of_what_was_added() {
        let mut latencies = Latencies::default();
        assert_eq!(latencies.percentile_ms(50), None);
        for ms in 1..=100 {
            latencies.add(Duration::from_millis(ms));
        }
        for percent in [1, 50, 99, 100] {
            let found = latencies.percentile_ms(percent).unwrap();
            let exact = percent as f64;
            assert!((exact..exact * 1.04).contains(&found), "{percent}: {found}");
        }
    }
}
