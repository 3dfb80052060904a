//! What is written by one thread and read by others.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count. One thread writes it.
#[derive(Debug, Default)]
pub struct Cell(AtomicU64);

impl Cell {
    /// Adds; wraps around.
    #[inline]
    pub fn add(&self, count: u64) {
        self.set(self.read().wrapping_add(count));
    }

    /// Takes away; wraps around.
    #[inline]
    pub fn sub(&self, count: u64) {
        self.set(self.read().wrapping_sub(count));
    }

    /// Says what it is from now on.
    #[inline]
    pub fn set(&self, count: u64) {
        self.0.store(count, Ordering::Relaxed);
    }

    /// As it is now, or was a moment ago.
    #[inline]
    pub fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A histogram of durations.
#[derive(Debug, Default)]
pub struct Durations {
    /// How many were up to each bound, and above the one before it; the last: above all.
    buckets: [Cell; BUCKETS],
    /// Of all of them, in nanoseconds.
    sum_ns: Cell,
}

/// The upper bounds of the buckets. From 10 ms on those that OpenTelemetry recommends for `mcp.server.operation.duration`
/// (semantic conventions 1.56, gen-ai/mcp); below, where a gateway is, six of the same steps.
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

/// By the length of a duration in bits: the first bound that it may be under. Each bound is at least twice the one before
/// it, so that of the durations of one length all but one bound are either above or below.
const FIRST: [u8; 65] = first();

const fn first() -> [u8; 65] {
    let mut first = [0; 65];
    let mut bits = 1;
    while bits < 65 {
        let least = 1_u64 << (bits - 1);
        let mut at = 0;
        while (at as usize) < BOUNDS_NS.len() && BOUNDS_NS[at as usize] < least {
            at += 1;
        }
        first[bits] = at;
        bits += 1;
    }
    first
}

const _: () = {
    let mut at = 1;
    while at < BOUNDS_NS.len() {
        assert!(BOUNDS_NS[at] >= 2 * BOUNDS_NS[at - 1], "one look tells the bucket");
        at += 1;
    }
};

/// The bucket of a duration, without a search.
#[inline]
fn bucket(ns: u64) -> usize {
    let first = usize::from(FIRST[(u64::BITS - ns.leading_zeros()) as usize]);
    first + usize::from(BOUNDS_NS.get(first).is_some_and(|bound| ns > *bound))
}

impl Durations {
    /// Notes one.
    #[inline]
    pub fn note(&self, ns: u64) {
        self.buckets[bucket(ns)].add(1);
        self.sum_ns.add(ns);
    }

    /// Adds what is in here to what is there.
    pub(super) fn add_to(&self, sum: &mut Summed) {
        for (mine, sum) in self.buckets.iter().zip(&mut sum.buckets) {
            *sum += mine.read();
        }
        sum.sum_ns = sum.sum_ns.wrapping_add(self.sum_ns.read());
    }
}

/// Several histograms as one.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summed {
    pub buckets: [u64; BUCKETS],
    pub sum_ns: u64,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As a search finds it.
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
