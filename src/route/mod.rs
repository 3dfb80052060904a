//! Routing. Knows names of servers and endpoints, never sockets.
//!
//! Invariant: a table never changes after it is built; a new one is published in its place, and a request
//! sees one of them. Does not know: connections, sessions, or which backend is up.

mod names;
mod table;

use crate::base::{EndpointName, ServerName};

pub use names::{Destination, Names, OwnName, SEPARATOR, UriTemplate};
pub use table::{Endpoint, EndpointId, Place, Shape, Table, TableError};

/// One endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// The path segment under `/mcp/`.
    pub name: EndpointName,
    /// The servers behind it, in the order in which their items are listed. Never empty of meaning: an
    /// endpoint without servers serves empty lists.
    pub servers: Vec<ServerName>,
    /// How tools and prompts of different servers are told apart.
    pub prefix: Prefix,
}

/// How an endpoint names the tools and prompts of its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// `{server}__{tool}`: a pure function of configuration.
    Always,
    /// The server's own name; the same name from two servers hides both and is said.
    Never,
}
