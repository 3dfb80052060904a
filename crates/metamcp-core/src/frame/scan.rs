//! The scanner of JSON-RPC messages.

mod envelope;
mod member_types;
mod read;

use crate::frame::members::NameTable;
use crate::frame::scan_error::{ScanError, ScanRejection};
use crate::frame::span::Span;
use crate::frame::tokens::Parser;

pub use envelope::{Envelope, MessageKind, MessageMeta, MessageParams, ParamsForm};
pub use read::BATCH_ITEMS_MAX;

/// Scans messages one after the other. It reuses its buffers, so that scanning a usual message allocates nothing. Each worker
/// has one.
pub struct Scanner {
    parser: Parser,
    names: NameTable,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// Creates a scanner without buffers.
    pub fn new() -> Self {
        Self { parser: Parser::new(), names: NameTable::default() }
    }

    /// Scans exactly one JSON-RPC 2.0 message, as MCP restricts it: no batch; ids are strings or integers; params are an
    /// object.
    ///
    /// Takes linear time. Takes memory up to some 35 times the length of `bytes`, for a message of brackets only; memory above
    /// [`SCRATCH_BYTES_KEPT`] is freed before it returns.
    ///
    /// # Errors
    /// [`ScanRejection`], with the id for the response if the message is JSON and its id is unambiguous.
    ///
    /// [`SCRATCH_BYTES_KEPT`]: crate::frame::SCRATCH_BYTES_KEPT
    pub fn scan(&mut self, bytes: &[u8]) -> Result<Envelope, ScanRejection> {
        let result = match self.parser.parse(bytes) {
            Ok(()) => read::read_envelope(self.parser.tokens(bytes), &mut self.names),
            Err(error) => Err(ScanRejection { error, id: None }),
        };
        self.parser.shrink();
        result
    }

    /// Returns the spans of the messages of a batch, to be scanned one by one. For sessions of revision 2025-03-26, the only
    /// one with batches. The array counts as one level of depth.
    ///
    /// # Errors
    /// [`ScanError::BatchSize`] unless the message is an array of 1 to [`BATCH_ITEMS_MAX`] values.
    pub fn batch_items(&mut self, bytes: &[u8]) -> Result<Vec<Span>, ScanError> {
        let items = self.parser.parse(bytes).and_then(|()| read::read_batch(self.parser.tokens(bytes)));
        self.parser.shrink();
        items
    }
}

#[cfg(test)]
mod tests;
