//! The servers and endpoints that are served, as one version of them, and how the next version is made.
//!
//! Invariants: a topology never changes after it is made; the next one is published in its place. Ids come from
//! counters that never go back, so an id means the same server, or the same endpoint over the same servers, for as
//! long as the process runs: what did not change keeps its id, and with it its connections, lists and sessions.
//!
//! Does not know: where the lists of servers and endpoints come from, who follows a new version, or what is under
//! way.

mod builder;
mod pools;

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use crate::base::{EndpointName, ServerName};
use crate::route::Table;
use crate::upstream::{InvalidTarget, Upstream, UpstreamId};

pub use builder::TopologyBuilder;
pub use pools::Pools;

/// One version of what is served. Immutable.
pub struct Topology {
    /// Greater than that of every version before.
    pub epoch: u64,
    /// Paths, and the endpoints they name.
    pub table: Table,
    /// What was asked for and is not served. The rest is.
    pub left_out: Vec<TopologyError>,
    upstreams: HashMap<UpstreamId, Arc<Upstream>, RandomState>,
}

/// A server or an endpoint that is not served as it was asked for. Holds no address and no credential.
#[derive(Debug, thiserror::Error)]
pub enum TopologyError {
    /// Its address cannot be asked.
    #[error("server `{server}` is left out: {source}")]
    Target {
        /// Which.
        server: ServerName,
        /// Why.
        source: InvalidTarget,
    },
    /// Two of one name; the first is served.
    #[error("server `{0}` is there twice: the second is left out")]
    ServerTwice(ServerName),
    /// Its tools would be named like another's, and a key for those would reach them. A name goes before an alias, and
    /// the first before others.
    #[error(
        "server `{server}` is left out: its alias `{alias}` is the name or the alias of server `{holder}`"
    )]
    AliasTaken {
        /// Which.
        server: ServerName,
        /// What stands before its tools.
        alias: ServerName,
        /// Whose that is.
        holder: ServerName,
    },
    /// Likewise of one tool.
    #[error(
        "endpoint `{endpoint}` is served without tool {tool:?} of server `{server}`: its name there, `{name}`, is one \
         of server `{holder}`; give it another"
    )]
    ToolNameTaken {
        /// The endpoint.
        endpoint: EndpointName,
        /// Whose tool.
        server: ServerName,
        /// Its own name.
        tool: String,
        /// What the endpoint says it is called.
        name: String,
        /// Before whose tools that stands.
        holder: ServerName,
    },
    /// Two of one name; the first is served.
    #[error("endpoint `{0}` is there twice: the second is left out")]
    EndpointTwice(EndpointName),
    /// It is served without that server.
    #[error("endpoint `{endpoint}` is served without server `{server}`, which is not there")]
    ServerUnknown {
        /// The endpoint.
        endpoint: EndpointName,
        /// What it names.
        server: ServerName,
    },
}

/// What is other in one version than in the one before, by name, in ascending order.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Servers.
    pub servers: Moves,
    /// Endpoints. One is changed also when one of its servers is.
    pub endpoints: Moves,
}

/// What came, what is other than it was, what went.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Moves {
    /// Not there before.
    pub added: Vec<String>,
    /// There before, and otherwise.
    pub changed: Vec<String>,
    /// There before only.
    pub removed: Vec<String>,
}

impl Topology {
    /// The server of that id, unless it is gone.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        self.upstreams.get(&id)
    }

    /// All servers, in no order.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    /// What is other than in the version before.
    pub fn changes_since(&self, before: &Self) -> Changes {
        let servers = |topology: &Self| -> HashMap<String, u32> {
            topology.upstreams().map(|upstream| (upstream.name().to_string(), upstream.id.0)).collect()
        };
        let endpoints = |topology: &Self| -> HashMap<String, u32> {
            topology.table.named().map(|(name, endpoint)| (name.to_string(), endpoint.id.0)).collect()
        };
        Changes {
            servers: Moves::between(&servers(before), &servers(self)),
            endpoints: Moves::between(&endpoints(before), &endpoints(self)),
        }
    }
}

impl Changes {
    /// Whether nothing is other.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

impl Moves {
    /// Between two versions of names with their ids.
    fn between(before: &HashMap<String, u32>, now: &HashMap<String, u32>) -> Self {
        let mut moves = Self::default();
        for (name, id) in now {
            match before.get(name) {
                None => moves.added.push(name.clone()),
                Some(earlier) if earlier != id => moves.changed.push(name.clone()),
                Some(_) => {}
            }
        }
        moves.removed = before.keys().filter(|name| !now.contains_key(*name)).cloned().collect();
        for names in [&mut moves.added, &mut moves.changed, &mut moves.removed] {
            names.sort_unstable();
        }
        moves
    }
}

#[cfg(test)]
mod tests;
