//! What a program tells the suite beside its standard output: records of 16 bytes in a file.

use crate::tag::{Canary, Tag};

/// One record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record {
    /// The program executed the call.
    Execution { tag: Tag, canary: Canary },
    /// The program received what it must not; its standard error says what.
    Violation,
}

/// The length of a record.
pub const RECORD_BYTES: usize = 16;

impl Record {
    pub fn bytes(self) -> [u8; RECORD_BYTES] {
        let mut bytes = [0xFF; RECORD_BYTES];
        if let Self::Execution { tag, canary } = self {
            bytes[..4].copy_from_slice(&tag.client.to_le_bytes());
            bytes[4..8].copy_from_slice(&tag.sequence.to_le_bytes());
            bytes[8..].copy_from_slice(&canary.0.to_le_bytes());
        }
        bytes
    }

    pub fn read(bytes: [u8; RECORD_BYTES]) -> Self {
        if bytes == Self::Violation.bytes() {
            return Self::Violation;
        }
        let (words, canary) = bytes.split_at(8);
        let word = |at: usize| u32::from_le_bytes([words[at], words[at + 1], words[at + 2], words[at + 3]]);
        let canary = canary.iter().rev().fold(0, |sum, byte| sum << 8 | u64::from(*byte));
        Self::Execution { tag: Tag { client: word(0), sequence: word(4) }, canary: Canary(canary) }
    }
}
