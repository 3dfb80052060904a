//! Builds the next topology from the configured servers and endpoints.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::error::TopologyError;
use super::version::Topology;
use crate::route::{RouteTable, RoutedServer};
use crate::upstream::{EraAdapter, Surroundings, Upstream, UpstreamId};
use metamcp_config::sections::{EndpointConfig, EndpointMember, EndpointMembers, NAME_SEPARATOR};
use metamcp_core::base::{EndpointName, ServerName};
use metamcp_core::protocol::Era;
use metamcp_http::TlsRoots;

/// Builds each topology from the one before. Does not run on worker threads.
pub struct TopologyBuilder {
    roots: TlsRoots,
    adapters: Vec<(Era, Arc<dyn EraAdapter>)>,
    surroundings: Surroundings,
    current: Arc<Topology>,
    /// The id of the next upstream. It never decreases, so ids are not reused.
    next_upstream: u32,
}

/// The server that owns each prefix of tool names: every server owns its name and its alias.
type PrefixOwners = HashMap<ServerName, ServerName>;

/// The servers of the version being built.
#[derive(Default)]
struct AcceptedServers {
    routed: Vec<RoutedServer>,
    upstreams: HashMap<UpstreamId, Arc<Upstream>, RandomState>,
}

impl TopologyBuilder {
    /// Starts from an empty topology. `roots` are the trust anchors of TLS connections to servers.
    pub fn new(roots: TlsRoots) -> Self {
        let current = Arc::new(Topology {
            epoch: 0,
            table: RouteTable::default(),
            rejected: Vec::new(),
            upstreams: HashMap::default(),
        });
        Self { roots, adapters: Vec::new(), surroundings: Surroundings::default(), current, next_upstream: 0 }
    }

    /// Uses `adapter` for servers that do not speak `era`.
    #[must_use]
    pub fn with_adapter(mut self, era: Era, adapter: Arc<dyn EraAdapter>) -> Self {
        self.adapters.push((era, adapter));
        self
    }

    /// Builds servers within these surroundings.
    #[must_use]
    pub fn within(self, surroundings: Surroundings) -> Self {
        Self { surroundings, ..self }
    }

    /// The version built last.
    pub fn current(&self) -> &Arc<Topology> {
        &self.current
    }

    /// Builds the next version from the full lists of servers and endpoints. A server whose configuration is
    /// unchanged keeps its upstream and id; any other gets new ones. What cannot be served is recorded in
    /// [`Topology::rejected`].
    pub fn build_next(
        &mut self,
        servers: Vec<metamcp_config::server::ServerConfig>,
        endpoints: Vec<EndpointConfig>,
    ) -> Arc<Topology> {
        let mut rejected = Vec::new();
        let mut owners: PrefixOwners =
            servers.iter().map(|config| (config.name.clone(), config.name.clone())).collect();
        let AcceptedServers { routed, upstreams } = self.accept_servers(servers, &mut owners, &mut rejected);
        let endpoints = validate_endpoints(endpoints, &routed, &owners, &mut rejected);
        let table = self.current.table.rebuild(&routed, &endpoints);
        self.current = Arc::new(Topology { epoch: self.current.epoch + 1, table, rejected, upstreams });
        Arc::clone(&self.current)
    }

    /// The servers that can be served, each once. Adds their aliases to `owners`.
    fn accept_servers(
        &mut self,
        servers: Vec<metamcp_config::server::ServerConfig>,
        owners: &mut PrefixOwners,
        rejected: &mut Vec<TopologyError>,
    ) -> AcceptedServers {
        let mut accepted = AcceptedServers::default();
        let mut names = HashSet::new();
        let known: HashMap<ServerName, Arc<Upstream>> = self
            .current
            .upstreams()
            .map(|upstream| (upstream.name().clone(), Arc::clone(upstream)))
            .collect();
        for config in servers {
            let name = config.name.clone();
            if !names.insert(name.clone()) {
                rejected.push(TopologyError::DuplicateServer(name));
                continue;
            }
            if let Some(alias) = &config.alias {
                let holder = owners.entry(alias.clone()).or_insert_with(|| name.clone());
                if *holder != name {
                    let (alias, holder) = (alias.clone(), holder.clone());
                    rejected.push(TopologyError::AliasTaken { server: name, alias, holder });
                    continue;
                }
            }
            let unchanged = known.get(&name).filter(|upstream| upstream.config == config).cloned();
            match unchanged.map_or_else(|| self.create_upstream(config), Ok) {
                Ok(upstream) => {
                    let prefix = upstream.config.alias.clone().unwrap_or_else(|| name.clone());
                    let server = RoutedServer::unfiltered(name, upstream.id.0);
                    accepted.routed.push(RoutedServer { prefix, ..server });
                    accepted.upstreams.insert(upstream.id, upstream);
                }
                Err(source) => rejected.push(TopologyError::Target { server: name, source }),
            }
        }
        accepted
    }

    fn create_upstream(
        &mut self,
        config: metamcp_config::server::ServerConfig,
    ) -> Result<Arc<Upstream>, metamcp_http::InvalidTarget> {
        let upstream =
            Upstream::within(UpstreamId(self.next_upstream), config, &self.roots, &self.surroundings)?;
        self.next_upstream += 1;
        for (era, adapter) in &self.adapters {
            upstream.set_adapter(*era, Arc::clone(adapter));
        }
        Ok(upstream)
    }
}

/// The endpoints, each once, without members that do not exist.
fn validate_endpoints(
    mut endpoints: Vec<EndpointConfig>,
    routed: &[RoutedServer],
    owners: &PrefixOwners,
    rejected: &mut Vec<TopologyError>,
) -> Vec<EndpointConfig> {
    let existing: HashSet<&ServerName> = routed.iter().map(|server| &server.name).collect();
    let mut names = HashSet::new();
    endpoints.retain_mut(|endpoint| {
        if !names.insert(endpoint.name.clone()) {
            rejected.push(TopologyError::DuplicateEndpoint(endpoint.name.clone()));
            return false;
        }
        let EndpointMembers::Listed(members) = &mut endpoint.servers else { return true };
        let mut listed = HashSet::new();
        members.retain(|member| {
            if !existing.contains(&member.server) {
                let (endpoint, server) = (endpoint.name.clone(), member.server.clone());
                rejected.push(TopologyError::UnknownServer { endpoint, server });
                return false;
            }
            listed.insert(member.server.clone())
        });
        for member in members {
            hide_foreign_names(&endpoint.name, member, owners, rejected);
        }
        true
    });
    endpoints
}

/// Hides the tools that overrides name like another server's tools. Showing them under their original names
/// instead would show something that is not configured.
fn hide_foreign_names(
    endpoint: &EndpointName,
    member: &mut EndpointMember,
    owners: &PrefixOwners,
    rejected: &mut Vec<TopologyError>,
) {
    let Some(view) = &member.tool_view else { return };
    let mut hidden = Vec::new();
    for (tool, name) in view.renamed_tools() {
        let holder = name.split_once(NAME_SEPARATOR).and_then(|(prefix, _)| owners.get(prefix));
        if let Some(holder) = holder.filter(|holder| **holder != member.server) {
            hidden.push(tool.to_owned());
            rejected.push(TopologyError::ToolNameTaken {
                endpoint: endpoint.clone(),
                server: member.server.clone(),
                tool: tool.to_owned(),
                name: name.to_owned(),
                holder: holder.clone(),
            });
        }
    }
    if !hidden.is_empty() {
        member.tool_view = Some(Arc::new(view.without(hidden)));
    }
}
