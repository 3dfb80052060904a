//! Framing: takes bytes, returns spans.
//!
//! Scans JSON-RPC messages for what routing needs, replaces parts of a message without copying the rest, splits event streams
//! into events and framed streams into messages, and encodes the values of the `Mcp-Name` and `Mcp-Param-*` headers.
//!
//! Invariants:
//! - No function does I/O, is async, or reads a clock. The only state between calls is buffers.
//! - Input bytes are never modified, and every span lies within them.
//! - A byte that was scanned is not scanned again after a short read.
//! - No recursion over input, and a named bound for every count and depth.
//!
//! Does not know: HTTP, sessions, upstreams, the era of a message, or what a tool is. No type of `simd-json` is visible
//! outside this module.

mod span;

mod members;
mod scan_error;
mod tokens;

mod scan;
mod splice;

mod sse;

mod outline;

mod param_header;

mod header;
mod messages;

pub use header::{
    FLAG_LAST, FLAG_RESPONSE, FRAME_HEADER_BYTES, FRAME_VERSION, FrameHeader, FrameHeaderError,
};
pub use members::MEMBERS_MAX;
pub use messages::{MessageFraming, MessageReader, StreamItem, StreamRemainder};
pub use outline::{Outline, OutlineId, OutlineReader, object_end};
pub use param_header::{HeaderValueError, decode_header_value, encode_header_value};
pub use scan::BATCH_ITEMS_MAX;
pub use scan::{Envelope, MessageKind, MessageMeta, MessageParams, ParamsForm, Scanner};
pub use scan_error::{MessageObject, ScanError, ScanRejection};
pub use span::{IdForm, IdSpan, Span, StringSpan};
pub use splice::{EDITS_MAX, SpliceError, SplicedMessage, json_string, splice};
pub use sse::{
    BoundaryTracker, DataReader, EVENT_BYTES_MAX, Event, EventPart, EventReader, EventSplitter, SseError,
    write_event,
};
pub use tokens::{DEPTH_MAX, SCRATCH_BYTES_KEPT};

#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
#[cfg(test)]
mod tests;
