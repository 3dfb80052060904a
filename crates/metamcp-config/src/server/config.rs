use std::path::PathBuf;
use std::time::Duration;

use http::{HeaderName, HeaderValue};

use metamcp_core::base::ServerName;

use super::program::Program;

/// The configuration of one MCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is an independent setting")]
pub struct ServerConfig {
    /// Unique among all servers.
    pub name: ServerName,
    pub address: ServerAddress,
    /// Sent with every request: the server's own credentials among them, marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Which era to ask the server in.
    pub era: EraChoice,
    /// From the first SYN to an established connection, TLS included.
    pub connect_timeout: Duration,
    /// From the last byte of the request to the head of the response. A long call without a stream is silent
    /// until it is done, so this bounds the longest such call.
    pub first_byte_timeout: Duration,
    /// Between two reads of a response body. Only bytes from the server reset it.
    pub stream_idle_timeout: Duration,
    /// Calls in flight at once, over all workers. More calls wait.
    pub in_flight_max: usize,
    /// How long a call may wait for a permit.
    pub queue_timeout: Duration,
    /// How many calls may wait at once. Further calls are refused at once.
    pub queue_max: usize,
    /// Idle connections kept, per worker.
    pub idle_connections_max: usize,
    /// A connection that was idle for longer is closed rather than used. Must be shorter than the server's own
    /// keep-alive timeout (Node: 5 s), or a request meets a closing connection.
    pub idle_age_max: Duration,
    /// Whether responses of the common shape are read by the fast lane. If not, hyper reads all of them.
    pub fast_lane: bool,
    /// Whether the HTTP+SSE transport is tried when the server answers `initialize` with 404 or 405 (MCP
    /// 2025-03-26, transports, backwards compatibility).
    pub may_be_sse: bool,
    /// Whether a circuit breaker suspends requests after repeated connection failures. If not, callers back off
    /// themselves.
    pub has_breaker: bool,
    /// Whether private addresses are allowed. Checked for each connection, because names change.
    pub private_addresses: bool,
    /// Replaces `name` as the prefix of tools and prompts, on endpoints that prefix them.
    pub alias: Option<ServerName>,
    pub changed_tools: ToolPinPolicy,
}

/// The configured era of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraChoice {
    /// Detected by a probe and remembered.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}

/// What happens to a tool that differs from its pin: what the server listed first, or what an administrator
/// approved since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolPinPolicy {
    /// Nothing. No tool is pinned.
    Allow,
    /// A warning is given, and the changed tool is pinned.
    Warn,
    /// The tool is neither listed nor called until an administrator approves it.
    Quarantine,
}

/// Where an MCP server is, which also says how it is spoken to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// Streamable HTTP over TCP, with TLS for an `https` URL.
    Http(url::Url),
    /// Streamable HTTP over a Unix socket, written `unix:/path/to/socket:/mcp` in the configuration.
    Unix {
        socket: PathBuf,
        /// The request path, beginning with `/`.
        path: String,
    },
    /// HTTP+SSE (MCP 2024-11-05): the URL at which the event stream is opened.
    Sse(url::Url),
    /// A child process, over its standard input and output.
    Stdio(Box<Program>),
}

impl ServerConfig {
    /// Returns the eras that the server may speak. Transports of one era support no other, whatever the
    /// server claims.
    pub fn era_choice(&self) -> EraChoice {
        match self.address {
            ServerAddress::Sse(_) => EraChoice::Legacy,
            ServerAddress::Http(_) | ServerAddress::Unix { .. } | ServerAddress::Stdio(_) => self.era,
        }
    }
}
