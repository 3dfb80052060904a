use std::path::PathBuf;
use std::sync::Arc;

use http::{HeaderName, HeaderValue};

use metamcp_core::base::ServerName;

use super::program::Program;
use super::settings::{EraChoice, ServerSettings};
use super::tls::UpstreamTls;

/// The configuration of one MCP server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerConfig {
    /// Unique among all servers.
    pub name: ServerName,
    pub address: ServerAddress,
    /// Sent with every request: the server's own credentials among them, marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    pub settings: ServerSettings,
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
    /// How TLS differs from the usual. Only for an `https` URL in the files of this machine.
    pub tls: Option<Arc<UpstreamTls>>,
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
    /// Returns the configuration of a server that the owner of this machine defined.
    pub fn new(
        name: ServerName,
        address: ServerAddress,
        headers: Vec<(HeaderName, HeaderValue)>,
        settings: ServerSettings,
    ) -> Self {
        Self {
            name,
            address,
            headers,
            settings,
            may_be_sse: false,
            has_breaker: true,
            // The author of this machine's configuration file knows which private addresses are reachable.
            private_addresses: true,
            alias: None,
            tls: None,
        }
    }

    /// Returns the eras that the server may speak. Transports of one era support no other, whatever the
    /// server claims.
    pub fn era_choice(&self) -> EraChoice {
        match self.address {
            ServerAddress::Sse(_) => EraChoice::Legacy,
            ServerAddress::Http(_) | ServerAddress::Unix { .. } | ServerAddress::Stdio(_) => {
                self.settings.era
            }
        }
    }
}
