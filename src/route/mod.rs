//! Routing. Knows names of servers and endpoints, never sockets.
//!
//! Invariant: a table never changes after it is built; a new one is published in its place, and a request
//! sees one of them. Does not know: connections, sessions, or which upstream is up.

mod names;
mod shows;
mod table;

use std::sync::Arc;

use crate::base::{EndpointName, ServerName};

pub use names::{Destination, Names, OwnName, SEPARATOR, UriTemplate};
pub use shows::{Override, Shows};
pub use table::{Endpoint, EndpointId, Place, Shape, Table, TableError};

/// One endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// The path segment under `/mcp/`.
    pub name: EndpointName,
    /// The servers behind it.
    pub servers: Members,
    /// How tools and prompts of different servers are told apart.
    pub prefix: Prefix,
}

/// The servers of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Members {
    /// All that are served, whenever they come.
    Every,
    /// These, in the order in which their items are listed. Never empty of meaning: an endpoint without servers
    /// serves empty lists.
    These(Vec<Member>),
}

/// A server of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its name.
    pub server: ServerName,
    /// What the endpoint shows of its tools; `None`: all of them, as they are.
    pub shows: Option<Arc<Shows>>,
}

impl Members {
    /// These servers, with everything that they have.
    pub fn whole(servers: impl IntoIterator<Item = ServerName>) -> Self {
        Self::These(servers.into_iter().map(|server| Member { server, shows: None }).collect())
    }
}

/// How an endpoint names the tools and prompts of its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prefix {
    /// `{server}__{tool}`: a pure function of configuration.
    Always,
    /// The server's own name; the same name from two servers hides both and is said.
    Never,
}
