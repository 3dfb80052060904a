//! Backends: the MCP servers behind the gateway and the connections to them.

use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use crate::base::ServerName;

/// One MCP server as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Unique among all servers.
    pub name: ServerName,
    /// Where it is.
    pub address: Address,
    /// Sent with every request to it: its own credentials among them, marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Which revisions it is asked in; `Auto` finds out.
    pub era: EraChoice,
    /// From the first SYN to an established connection, TLS included.
    pub connect_timeout: Duration,
    /// From the last byte of the request to the head of the response. A long call without a stream is
    /// silent until it is done, so this bounds the longest such call.
    pub first_byte_timeout: Duration,
    /// Between two reads of a response's body; bytes of the backend alone reset it.
    pub stream_idle_timeout: Duration,
    /// Requests under way at once, over all workers; more wait.
    pub in_flight_max: usize,
    /// How long a request may wait for its place among those.
    pub queue_timeout: Duration,
    /// How many may wait at once; one more is refused at once.
    pub queue_max: usize,
    /// Idle connections kept, per worker.
    pub idle_connections_max: usize,
    /// A connection idle for longer is closed rather than used: it must be shorter than the backend's own
    /// keep-alive (Node: 5 s), or a request meets a closing connection.
    pub idle_age_max: Duration,
}

/// Where an MCP server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// Streamable HTTP over TCP, TLS for an `https` URL.
    Http(url::Url),
    /// Streamable HTTP over a Unix socket: written `unix:/path/to/socket:/mcp` in configuration.
    Unix {
        /// The socket.
        socket: PathBuf,
        /// The request path, beginning with `/`.
        path: String,
    },
}

/// Which era of MCP a server is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraChoice {
    /// Probed once and remembered.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}
