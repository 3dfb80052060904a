//! Response bodies that stay open: the event stream of a session, resumable streams, and subscriptions.
//!
//! Invariants: a stream holds its client's permit until its last byte was taken, and buffers a bounded number of events.
//!
//! Does not know: the methods of MCP, or the connection that a stream is written to.

pub mod event_stream;
pub mod list_digests;
pub mod resumable;
pub mod session_stream;
pub mod subscription;
