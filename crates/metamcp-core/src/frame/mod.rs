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

pub use fault::{MessageObject, ScanError, ScanRejection};
pub use header::{
    FLAG_LAST, FLAG_RESPONSE, FRAME_HEADER_BYTES, FRAME_VERSION, FrameHeader, FrameHeaderError,
};
pub use members::MEMBERS_MAX;
pub use messages::{MessageFraming, MessageReader, StreamItem, StreamRemainder};
pub use param_header::{HeaderValueError, decode_header_value, encode_header_value};
pub use scan::BATCH_ITEMS_MAX;
pub use scan::{Envelope, MessageKind, MessageMeta, MessageParams, ParamsForm, Scanner};
pub use span::{IdForm, IdSpan, Span, StringSpan};
pub use splice::{EDITS_MAX, SplicedMessage, SpliceError, json_string, splice};
pub use sse::{BoundaryTracker, EVENT_BYTES_MAX, Event, EventReader, EventSplitter, EventPart, SseError, write_event};
pub use tokens::{DEPTH_MAX, SCRATCH_BYTES_KEPT};

#[cfg(test)]
mod tests;
