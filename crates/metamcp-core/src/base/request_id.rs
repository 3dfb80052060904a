//! The id of a request in the log and for its client.

use std::fmt;

/// Identifies a message in the log, in the header `X-Request-Id` of errors, and in records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestId {
    /// Unix time in seconds.
    pub second: u64,
    pub worker: usize,
    /// Counts the ids of the worker.
    pub count: u64,
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}-{:x}-{:x}", self.second, self.worker, self.count)
    }
}
