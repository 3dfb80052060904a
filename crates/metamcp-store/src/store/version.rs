//! Conditions on the version of a row, and the results of putting one.

use super::error::StoreError;

/// The version that a change expects to find (`If-Match`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VersionMatch {
    Any,
    Version(u64),
}

/// What putting a row did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    Create,
    Replace,
    /// The row was the same already.
    Keep,
}

/// A row that was put, and what that did.
#[derive(Debug, Clone, PartialEq)]
pub struct UpsertResult<T> {
    pub outcome: Outcome,
    /// The row as it is now.
    pub row: T,
}

impl VersionMatch {
    pub(super) fn check(self, version: u64) -> Result<(), StoreError> {
        match self {
            Self::Version(expected) if expected != version => Err(StoreError::Conflict),
            Self::Any | Self::Version(_) => Ok(()),
        }
    }
}
