//! What a worker decides by: random numbers, and how many traces it has left.

use std::cell::Cell;

use super::context::{SpanId, TraceId};

/// Random numbers for ids, which are no secrets: whoever sees some may tell the next (`SplitMix64`: Steele, Lea, Flood,
/// "Fast splittable pseudorandom number generators", 2014).
pub struct Random(Cell<u64>);

impl Random {
    /// From a seed of the system's; `None`: it has none.
    pub fn new() -> Option<Self> {
        let mut seed = [0; 8];
        getrandom::fill(&mut seed).ok()?;
        Some(Self(Cell::new(u64::from_ne_bytes(seed))))
    }

    pub fn next(&self) -> u64 {
        let state = self.0.get().wrapping_add(0x9e37_79b9_7f4a_7c15);
        self.0.set(state);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Never zero, which is no id.
    fn id(&self) -> [u8; 8] {
        self.next().max(1).to_be_bytes()
    }

    pub fn span(&self) -> SpanId {
        SpanId(self.id())
    }

    pub fn trace(&self) -> TraceId {
        let mut id = [0; 16];
        id[..8].copy_from_slice(&self.id());
        id[8..].copy_from_slice(&self.id());
        TraceId(id)
    }
}

/// So many in each second.
pub struct Budget {
    each: usize,
    left: Cell<usize>,
    second: Cell<u64>,
}

impl Budget {
    pub fn new(each: usize) -> Self {
        Self { each, left: Cell::new(0), second: Cell::new(u64::MAX) }
    }

    /// Takes one of this second, when there is one left.
    pub fn take(&self, second: u64) -> bool {
        if self.second.replace(second) != second {
            self.left.set(self.each);
        }
        let left = self.left.get();
        self.left.set(left.saturating_sub(1));
        left > 0
    }
}
