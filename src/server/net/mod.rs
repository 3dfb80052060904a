//! Connections: accepting them, reading requests from them, and writing the responses.
//!
//! The top floor of the server. A connection is read by the fast lane or by hyper, and is parked while it is idle.
//!
//! Invariants: no byte that was read is lost when one reader passes a connection to another, and a connection
//! changes hands only between two requests or before the first byte of a response.
//!
//! Does not know: MCP, or how a request is answered.

pub mod accept;
pub mod connection;
pub mod fast_lane;
pub mod hyper_connection;
pub mod connection_transfer;
pub mod listen_error;
pub mod listener;
pub mod listening_sockets;
pub mod rewind;
pub mod strict_feed;
