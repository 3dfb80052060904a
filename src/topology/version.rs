//! One version of the servers and endpoints that are served.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::changes::{NameChanges, TopologyChanges};
use super::error::TopologyError;
use crate::route::RouteTable;
use crate::upstream::{Upstream, UpstreamId};

/// One version of the servers and endpoints that are served. Immutable.
pub struct Topology {
    /// Greater than the epoch of every earlier version.
    pub epoch: u64,
    pub table: RouteTable,
    /// The parts of the configuration that are not served. Everything else is.
    pub rejected: Vec<TopologyError>,
    pub(super) upstreams: HashMap<UpstreamId, Arc<Upstream>, RandomState>,
}

impl Topology {
    /// The upstream with this id, unless its server was removed or changed.
    pub fn upstream(&self, id: UpstreamId) -> Option<&Arc<Upstream>> {
        self.upstreams.get(&id)
    }

    /// All upstreams, in no particular order.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values()
    }

    pub fn changes_since(&self, before: &Self) -> TopologyChanges {
        let servers = |topology: &Self| -> HashMap<String, u32> {
            topology.upstreams().map(|upstream| (upstream.name().to_string(), upstream.id.0)).collect()
        };
        let endpoints = |topology: &Self| -> HashMap<String, u32> {
            let endpoints = topology.table.configured_endpoints();
            endpoints.map(|(name, endpoint)| (name.to_string(), endpoint.id.0)).collect()
        };
        TopologyChanges {
            servers: NameChanges::between(&servers(before), &servers(self)),
            endpoints: NameChanges::between(&endpoints(before), &endpoints(self)),
        }
    }
}
