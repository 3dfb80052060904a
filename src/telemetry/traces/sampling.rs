//! Random ids and budgets per second.

use std::cell::Cell;

use super::context::{SpanId, TraceId};
use crate::telemetry::random::SplitMix64;

/// Generates ids. Trace ids are no secrets: an observer of some can predict the next.
pub struct IdGenerator(SplitMix64);

impl IdGenerator {
    /// `None` when the system has no random numbers.
    pub fn from_system() -> Option<Self> {
        SplitMix64::from_system().map(Self)
    }

    /// Returns the next random number.
    pub fn next(&self) -> u64 {
        self.0.next()
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
