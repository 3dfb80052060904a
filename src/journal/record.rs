//! One record of the journal, and its number.

use std::fmt;
use std::num::NonZeroU8;

/// The number of a record: one more than that of the record before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Sequence(pub u64);

/// The use of a record, numbered by the caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RecordKind(pub NonZeroU8);

/// A record as it was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// The opening of the journal that wrote it; globally unique. (source, sequence) names one record.
    pub source: u128,
    pub sequence: Sequence,
    pub kind: RecordKind,
    pub payload: Vec<u8>,
}

impl fmt::Display for Sequence {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
