//! Numbers drawn from a seed: the same seed draws the same numbers.

/// The generator `SplitMix64` (Steele, Lea and Flood, 2014).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// The generator for one purpose, which does not depend on how much others have drawn.
    pub fn of(seed: u64, purpose: u64, number: u64) -> Self {
        Self(mix(seed ^ mix(purpose) ^ mix(number.wrapping_add(STEP)).rotate_left(17)))
    }

    pub fn draw(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(STEP);
        mix(self.0)
    }

    /// A number below `end`, which is not 0.
    pub fn below(&mut self, end: u64) -> u64 {
        self.draw() % end
    }

    /// An index of a slice that is not empty.
    pub fn index(&mut self, length: usize) -> usize {
        usize::try_from(self.below(length as u64)).unwrap_or_default()
    }

    /// True so many times in a thousand.
    pub fn happens(&mut self, per_mille: u64) -> bool {
        self.below(1000) < per_mille
    }

    /// One of these by weight; the weights are not all 0.
    pub fn weighted<T: Copy>(&mut self, rows: &[(T, u64)]) -> T {
        let mut left = self.below(rows.iter().map(|(_, weight)| weight).sum());
        for (item, weight) in rows {
            if left < *weight {
                return *item;
            }
            left -= weight;
        }
        rows[0].0
    }
}

/// Spreads the bits of a number.
pub fn mix(number: u64) -> u64 {
    let mut z = number;
    z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    z ^ (z >> 31)
}

const STEP: u64 = 0x9E37_79B9_7F4A_7C15;
