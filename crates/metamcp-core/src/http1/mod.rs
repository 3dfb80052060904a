//! Requests of HTTP/1.1 as bytes, checked as strictly as RFC 9110 and RFC 9112 allow: where heads, bodies and chunks
//! begin and end.
//!
//! It stands in front of a parser that accepts more, so that no two parsers disagree about where a request ends.
//!
//! Invariants:
//! - No I/O. A byte is read once, in pieces of any size, and the cuts between them make no difference.
//! - What has no bound here (the size of a head, the number of its fields) has one in the parser behind it.
//!
//! Does not know: what fields mean beyond framing, MCP, or responses.

mod strict_bytes;
mod host;

mod chunked_request;
mod request_head;

mod request_reader;

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;

pub use chunked_request::ChunkPart;
pub use host::is_valid_host;
pub use request_head::is_misspelt_framing_field;
pub use request_reader::{Refusal, RequestPart, RequestReader, read_all};
pub use strict_bytes::MalformedRequest;
