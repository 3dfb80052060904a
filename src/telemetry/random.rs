//! Random numbers for ids and jitter.

use std::cell::Cell;

/// Generates numbers with `SplitMix64` (Steele, Lea, Flood, "Fast splittable pseudorandom number generators", 2014). An
/// observer of some can predict the next.
pub struct SplitMix64(Cell<u64>);

impl SplitMix64 {
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
}
