//! Framing: bytes in, spans out.
//!
//! Finds in a JSON-RPC message what routing needs, cuts and replaces parts of a message without writing
//! the rest anew, finds the events of an event stream and the messages of a framed stream, and reads and writes
//! the values of the `Mcp-Name` and `Mcp-Param-*` headers.
//!
//! Invariants:
//! - every function is pure: no I/O, no async, no clock; what it keeps between calls are buffers;
//! - bytes that were handed in are never altered, and every span lies within them;
//! - a byte that was scanned is not scanned again after a short read;
//! - no recursion over what a peer sent, and every count and depth has a bound with a name.
//!
//! It does not know: HTTP, sessions, upstreams, which of two eras a message belongs to, or what a tool is.
//! No type of `simd-json` is seen above this module.

mod span;

mod fault;
mod members;
mod tokens;

mod scan;
mod splice;

mod sse;

mod param_header;

mod header;
mod messages;

pub use fault::{Place, Refused, ScanError};
pub use header::{BadHeader, FLAG_ANSWER, FLAG_LAST, FRAME_HEADER_BYTES, FRAME_VERSION, FrameHeader};
pub use members::MEMBERS_MAX;
pub use messages::{MessageForm, MessageReader, Piece, Rest};
pub use param_header::{InvalidHeader, decode_header, encode_header};
pub use scan::BATCH_ITEMS_MAX;
pub use scan::{Envelope, Kind, Meta, Params, ParamsForm, Scanner};
pub use span::{Id, IdForm, Span, Text};
pub use splice::{EDITS_MAX, Slices, SpliceError, json_string, splice};
pub use sse::{Boundary, EVENT_BYTES_MAX, Event, EventReader, EventSplitter, Part, SseError, write_event};
pub use tokens::{DEPTH_MAX, SCRATCH_BYTES_KEPT};

#[cfg(test)]
mod tests;
