//! Counters and histograms that one thread writes and others read.

use std::sync::atomic::{AtomicU64, Ordering};

/// A 64-bit count with one writing thread and any number of reading ones.
///
/// An update is a relaxed load and a relaxed store, not an atomic read-modify-write.
#[derive(Debug, Default)]
pub struct SingleWriterCell(AtomicU64);

impl SingleWriterCell {
    /// Adds `count`, wrapping on overflow.
    #[inline]
    pub fn add(&self, count: u64) {
        self.set(self.get().wrapping_add(count));
    }

    /// Subtracts `count`, wrapping on underflow.
    #[inline]
    pub fn sub(&self, count: u64) {
        self.set(self.get().wrapping_sub(count));
    }

    #[inline]
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// The count. A reading thread may see an older one for a moment.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct DurationHistogram {
    /// Durations up to each bound and above the one before it; in the last bucket, those above all bounds.
    buckets: [SingleWriterCell; BUCKETS],
    /// The sum of all durations, in nanoseconds.
    sum_ns: SingleWriterCell,
}

/// The upper bounds of the buckets. From 10 ms on they are those that OpenTelemetry recommends for
/// `mcp.server.operation.duration` (semantic conventions 1.56, gen-ai/mcp). Below, where the latency of a gateway is, there
/// are six more in the same steps.
pub const BOUNDS_NS: [u64; BUCKETS - 1] = [
    100_000,
    200_000,
    500_000,
    MS,
    2 * MS,
    5 * MS,
    10 * MS,
    20 * MS,
    50 * MS,
    100 * MS,
    200 * MS,
    500 * MS,
    1000 * MS,
    2000 * MS,
    5000 * MS,
    10_000 * MS,
    30_000 * MS,
    60_000 * MS,
    120_000 * MS,
    300_000 * MS,
];

pub(super) const BUCKETS: usize = 21;

const MS: u64 = 1_000_000;

/// By the bit length of a duration: the first bound that the duration may be under. As each bound is at least twice the one
/// before it, at most one bound lies among the durations of one bit length, and a single comparison decides.
const FIRST_BOUND: [u8; 65] = first_bounds();

const fn first_bounds() -> [u8; 65] {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits < 65 {
        let least = 1_u64 << (bits - 1);
        let mut bound = 0;
        while (bound as usize) < BOUNDS_NS.len() && BOUNDS_NS[bound as usize] < least {
            bound += 1;
        }
        first[bits] = bound;
        bits += 1;
    }
    first
}

const _: () = {
    let mut index = 1;
    while index < BOUNDS_NS.len() {
        assert!(BOUNDS_NS[index] >= 2 * BOUNDS_NS[index - 1], "one comparison finds the bucket");
        index += 1;
    }
};

/// The bucket of a duration, without a search.
#[inline]
fn bucket(ns: u64) -> usize {
    let first = usize::from(FIRST_BOUND[(u64::BITS - ns.leading_zeros()) as usize]);
    first + usize::from(BOUNDS_NS.get(first).is_some_and(|bound| ns > *bound))
}

impl DurationHistogram {
    #[inline]
    pub fn record(&self, ns: u64) {
        self.buckets[bucket(ns)].add(1);
        self.sum_ns.add(ns);
    }

    pub(super) fn add_to(&self, sum: &mut HistogramSnapshot) {
        for (bucket, sum) in self.buckets.iter().zip(&mut sum.buckets) {
            *sum += bucket.get();
        }
        sum.sum_ns = sum.sum_ns.wrapping_add(self.sum_ns.get());
    }
}

/// The sum of several histograms.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HistogramSnapshot {
    pub buckets: [u64; BUCKETS],
    pub sum_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compares with a linear search.
    #[track_caller]
    fn check(ns: u64) {
        let expected = BOUNDS_NS.iter().position(|bound| ns <= *bound).unwrap_or(BOUNDS_NS.len());
        assert_eq!(bucket(ns), expected, "{ns} ns");
    }

    #[test]
    fn every_duration_has_its_bucket() {
        [0, 1, u64::MAX].into_iter().for_each(check);
        for bound in BOUNDS_NS {
            [bound - 1, bound, bound + 1].into_iter().for_each(check);
        }
        for bits in 0..64 {
            [1_u64 << bits, (1_u64 << bits) - 1].into_iter().for_each(check);
        }
    }
}
