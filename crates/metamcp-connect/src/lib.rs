//! The stdio bridge: connects a client that starts programs to one MCP endpoint over Streamable HTTP. Each line that the
//! client writes becomes an HTTP request; each message of the endpoint becomes a line. Both eras; every message is sent as
//! its own era requires.
//!
//! Invariants:
//!
//! - Each message to the client is one line.
//! - Each request of the client is answered once, by the endpoint or by an error that says what to do. Exceptions: a
//!   subscription lasts until the input ends, and requests in flight when a signal stops the bridge get no response.
//! - A request that may have run is never sent again.
//! - The memory held for the client and for the endpoint is bounded.
//! - A session that the endpoint lost is opened again with the client's own handshake messages, once for each request
//!   that finds it lost.
//!
//! Does not know what a tool is, who the client is, or where the configuration comes from. It reads of a message what
//! the HTTP head repeats and what routing needs; the rest passes unchanged. It does not translate between the eras.

mod bridge;
mod client;
mod dispatch;
mod connect;
mod endpoint;
mod error;
mod exchange;
mod serve;

pub use bridge::StdioBridgeConfig;
pub use client::StdioClient;
pub use connect::{ConnectError, connect};
pub use serve::{LINE_BYTES_MAX, run};
