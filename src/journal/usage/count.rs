//! What is counted.

/// One call, or many. All of it only ever rises; sums wrap around.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// Requests answered.
    pub calls: u64,
    /// Those of them that failed.
    pub errors: u64,
    /// Bytes of the requests' bodies.
    pub bytes_in: u64,
    /// Bytes of the responses' bodies.
    pub bytes_out: u64,
    /// Milliseconds from the request's first byte to the response's last.
    pub millis: u64,
}

/// The words of a count.
pub(super) const WORDS: usize = 5;

impl Count {
    /// In the order in which they are stored: `calls` last, so that a call that is counted is counted whole.
    #[inline]
    pub(super) fn words(self) -> [u64; WORDS] {
        [self.errors, self.bytes_in, self.bytes_out, self.millis, self.calls]
    }

    pub(super) fn from_words([errors, bytes_in, bytes_out, millis, calls]: [u64; WORDS]) -> Self {
        Self { calls, errors, bytes_in, bytes_out, millis }
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        self.zip(other, u64::wrapping_add)
    }

    /// What came since it was `earlier`.
    pub(super) fn since(self, earlier: Self) -> Self {
        self.zip(earlier, u64::saturating_sub)
    }

    /// The greater of each.
    pub(super) fn max(self, other: Self) -> Self {
        self.zip(other, u64::max)
    }

    fn zip(self, other: Self, with: impl Fn(u64, u64) -> u64) -> Self {
        let (mine, others) = (self.words(), other.words());
        Self::from_words(std::array::from_fn(|at| with(mine[at], others[at])))
    }
}
