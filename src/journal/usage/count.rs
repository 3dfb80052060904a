//! The counters of one slot.

/// The usage of one call or of many. Only ever rises; sums wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct CallCounts {
    /// Requests that got a response.
    pub calls: u64,
    /// Requests that failed, a part of `calls`.
    pub errors: u64,
    /// Bytes of request bodies.
    pub bytes_in: u64,
    /// Bytes of response bodies.
    pub bytes_out: u64,
    /// Milliseconds from the first byte of a request to the last byte of its response.
    pub millis: u64,
}

/// The number of words of a count.
pub(super) const WORDS: usize = 5;

impl CallCounts {
    /// The words in the order of storage: `calls` last, so that a call that is counted is counted completely.
    #[inline]
    pub(super) fn to_words(self) -> [u64; WORDS] {
        [self.errors, self.bytes_in, self.bytes_out, self.millis, self.calls]
    }

    pub(super) fn from_words([errors, bytes_in, bytes_out, millis, calls]: [u64; WORDS]) -> Self {
        Self { calls, errors, bytes_in, bytes_out, millis }
    }

    #[must_use]
    pub fn sum(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// The difference to an earlier value.
    pub(super) fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }

    pub(super) fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let (mine, others) = (self.to_words(), other.to_words());
        Self::from_words(std::array::from_fn(|at| with(mine[at], others[at])))
    }
}
