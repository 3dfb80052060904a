//! Resumable event streams (MCP 2025-11-25, transports, resumability).
//!
//! Everything sent to the client is retained for a while in the journal's mapped blocks, and the client reads it from
//! there. Missed events and live events thus take the same path. Each event has an id that is sealed to the key, the
//! session and the stream.
//!
//! Invariants:
//! - The bytes retained by one stream, by all streams, and the time they are retained are bounded. When a block is
//!   needed and none is free, the first of these that exists gives way: an ended stream without a reader, the one that
//!   expires first; the largest live stream whose client left; blocks that clients have already read, the requesting
//!   stream's own included; an ended stream with a reader; the largest live stream. Of equally large ones, the oldest.
//! - When the gateway is short of memory, for these events or for other messages, only the first three of these give way, and
//!   then streams whose connected client has read nothing for a while. A writer that gets no memory waits for a bounded time,
//!   while its client is there; after that the largest live stream gives way.
//! - A stream has one reader. A new reader replaces the previous one.
//! - No event is skipped: a reader gets the next event, or learns that it is lost.
//! - Lock order: the pool's index, one stream's state, the blocks.
//!
//! Does not know: HTTP, where events come from, or what they contain.

mod event_id;
mod eviction;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod log;
mod pool;
mod reader;
mod registry;
mod resumable_stream;
mod state;
#[cfg(test)]
mod tests;
mod writer;

pub use event_id::{EventId, REQUEST_ID_BYTES_MAX};
pub use reader::{ReadOutcome, StreamReader};
pub use resumable_stream::{ResumableStream, ResumableStreams};
pub use state::{ResumeError, StreamClosed};
pub use writer::{ReconnectTimer, StreamWriter};
