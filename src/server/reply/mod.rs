//! Responses to clients: status, fields and body, and writing them to a socket.
//!
//! Invariants: only `reply` turns a fault into an HTTP status and a JSON-RPC error; once a body has begun, a fault ends
//! it visibly, never as a silently short body.
//!
//! Does not know: what produces the events of a streaming body.

pub mod body;
pub mod reply;
pub mod response_writer;
pub mod transport_body;
