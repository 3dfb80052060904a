//! The parts of HTTP/1.1 and of a connection that all other folders use: header fields, sockets, request
//! bodies, queues.
//!
//! The lowest layer of the server.
//!
//! Invariant: every buffer and queue is bounded.
//!
//! Does not know: workers, responses, or MCP.

pub mod activity;
pub mod cached_credential;
pub mod codec;
pub mod connection_slots;
pub mod control_plane;
pub mod date;
pub mod fields;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
pub mod guard;
pub mod mapped;
pub mod queue;
pub mod receive;
pub mod request;
pub mod socket;
pub mod stream_wakeups;
pub mod announcements;
