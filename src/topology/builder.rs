//! From the lists of servers and endpoints to the next version.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{Topology, TopologyError};
use crate::base::{EndpointName, ServerName};
use crate::protocol::Era;
use crate::route::{EndpointConfig, Member, Members, Place, SEPARATOR, Table};
use crate::upstream::{self, Face, TlsRoots, Upstream, UpstreamId};

/// Makes one version after the other. Runs off the workers.
pub struct TopologyBuilder {
    roots: TlsRoots,
    faces: Vec<(Era, Arc<dyn Face>)>,
    current: Arc<Topology>,
    /// Never goes back.
    next_upstream: u32,
}

impl TopologyBuilder {
    /// One that has made nothing: the version before the first has no server and no endpoint. `roots`: whom TLS
    /// connections to servers trust.
    pub fn new(roots: TlsRoots) -> Self {
        let current = Arc::new(Topology {
            epoch: 0,
            table: Table::default(),
            left_out: Vec::new(),
            upstreams: HashMap::default(),
        });
        Self { roots, faces: Vec::new(), current, next_upstream: 0 }
    }

    /// With this to stand in for servers that do not speak that era.
    #[must_use]
    pub fn with_face(mut self, era: Era, face: Arc<dyn Face>) -> Self {
        self.faces.push((era, face));
        self
    }

    /// The version made last.
    pub fn current(&self) -> &Arc<Topology> {
        &self.current
    }

    /// The next version, of all servers and all endpoints there are to be. A server whose definition is the same
    /// stays what it is; any other is a new one. What cannot be served is left out, and said in the version.
    pub fn next(&mut self, servers: Vec<upstream::Config>, endpoints: Vec<EndpointConfig>) -> Arc<Topology> {
        let mut left_out = Vec::new();
        let mut names = HashSet::new();
        // Whose tools a name is of that begins so.
        let mut prefixes: HashMap<ServerName, ServerName> =
            servers.iter().map(|config| (config.name.clone(), config.name.clone())).collect();
        let mut places = Vec::with_capacity(servers.len());
        let mut upstreams: HashMap<_, _, RandomState> = HashMap::default();
        let known: HashMap<ServerName, Arc<Upstream>> = self
            .current
            .upstreams()
            .map(|upstream| (upstream.name().clone(), Arc::clone(upstream)))
            .collect();
        for config in servers {
            let name = config.name.clone();
            if !names.insert(name.clone()) {
                left_out.push(TopologyError::ServerTwice(name));
                continue;
            }
            if let Some(alias) = &config.alias {
                let holder = prefixes.entry(alias.clone()).or_insert_with(|| name.clone());
                if *holder != name {
                    let (alias, holder) = (alias.clone(), holder.clone());
                    left_out.push(TopologyError::AliasTaken { server: name, alias, holder });
                    continue;
                }
            }
            let same = known.get(&name).filter(|upstream| upstream.config == config).cloned();
            match same.map_or_else(|| self.add(config), Ok) {
                Ok(upstream) => {
                    let prefix = upstream.config.alias.clone().unwrap_or_else(|| name.clone());
                    places.push(Place { prefix, ..Place::whole(name, upstream.id.0) });
                    upstreams.insert(upstream.id, upstream);
                }
                Err(source) => left_out.push(TopologyError::Target { server: name, source }),
            }
        }
        let endpoints = Self::known_only(endpoints, &places, &prefixes, &mut left_out);
        let table = self.current.table.next(&places, &endpoints);
        self.current = Arc::new(Topology { epoch: self.current.epoch + 1, table, left_out, upstreams });
        Arc::clone(&self.current)
    }

    fn add(&mut self, config: upstream::Config) -> Result<Arc<Upstream>, upstream::InvalidTarget> {
        let upstream = Upstream::new(UpstreamId(self.next_upstream), config, &self.roots)?;
        self.next_upstream += 1;
        for (era, face) in &self.faces {
            upstream.set_face(*era, Arc::clone(face));
        }
        Ok(upstream)
    }

    /// The endpoints, each once, with the servers that are there.
    fn known_only(
        mut endpoints: Vec<EndpointConfig>,
        places: &[Place],
        prefixes: &HashMap<ServerName, ServerName>,
        left_out: &mut Vec<TopologyError>,
    ) -> Vec<EndpointConfig> {
        let there: HashSet<&ServerName> = places.iter().map(|place| &place.name).collect();
        let mut names = HashSet::new();
        endpoints.retain_mut(|endpoint| {
            if !names.insert(endpoint.name.clone()) {
                left_out.push(TopologyError::EndpointTwice(endpoint.name.clone()));
                return false;
            }
            let Members::These(members) = &mut endpoint.servers else { return true };
            let mut chosen = HashSet::new();
            members.retain(|member| {
                if !there.contains(&member.server) {
                    let (endpoint, server) = (endpoint.name.clone(), member.server.clone());
                    left_out.push(TopologyError::ServerUnknown { endpoint, server });
                    return false;
                }
                chosen.insert(member.server.clone())
            });
            for member in members {
                hide_foreign(&endpoint.name, member, prefixes, left_out);
            }
            true
        });
        endpoints
    }
}

/// Takes the tools away that the endpoint would show as another server's. Shown by their own names they would be what
/// nobody asked for.
fn hide_foreign(
    endpoint: &EndpointName,
    member: &mut Member,
    prefixes: &HashMap<ServerName, ServerName>,
    left_out: &mut Vec<TopologyError>,
) {
    let Some(shows) = &member.shows else { return };
    let mut foreign = Vec::new();
    for (tool, name) in shows.renamed() {
        let holder = name.split_once(SEPARATOR).and_then(|(prefix, _)| prefixes.get(prefix));
        if let Some(holder) = holder.filter(|holder| **holder != member.server) {
            foreign.push(tool.to_owned());
            left_out.push(TopologyError::ToolNameTaken {
                endpoint: endpoint.clone(),
                server: member.server.clone(),
                tool: tool.to_owned(),
                name: name.to_owned(),
                holder: holder.clone(),
            });
        }
    }
    if !foreign.is_empty() {
        member.shows = Some(Arc::new(shows.without(foreign)));
    }
}
