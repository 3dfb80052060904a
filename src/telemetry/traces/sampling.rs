//! Random ids and budgets per second.

use std::cell::Cell;

use super::context::{SpanId, TraceId};

/// Generates ids with `SplitMix64` (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). Trace ids
/// are no secrets: an observer of some can predict the next.
pub struct IdGenerator(Cell<u64>);

impl IdGenerator {
    /// Seeds a generator from the system's random numbers. `None` when there are none.
    pub fn from_system() -> Option<Self> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).ok()?;
        Some(Self(Cell::new(u64::from_ne_bytes(seed))))
    }

    /// Returns the next random number.
    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Never zero, which is an invalid id.
    fn next_id(&self) -> [u8; 8] {
        self.next().max(1).to_be_bytes()
    }

    pub fn span_id(&self) -> SpanId {
        SpanId(self.next_id())
    }

    pub fn trace_id(&self) -> TraceId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.next_id());
        id[8..].copy_from_slice(&self.next_id());
        TraceId(id)
    }
}

/// A number of permits that is renewed each second.
pub struct PerSecondBudget {
    per_second: usize,
    left: Cell<usize>,
    second: Cell<u64>,
}

impl PerSecondBudget {
    pub fn new(per_second: usize) -> Self {
        Self { per_second, left: Cell::new(0), second: Cell::new(u64::MAX) }
    }

    /// Takes one permit of the given second. `false` when none is left.
    pub fn take(&self, second: u64) -> bool {
        if self.second.replace(second) != second {
            self.left.set(self.per_second);
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}
