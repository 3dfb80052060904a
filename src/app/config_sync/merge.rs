//! Merges the servers and endpoints of the configuration files with those of the store.
//!
//! Invariants: a name in both belongs to the files, since write access to them means control of this machine. A row that
//! cannot be read is left out with a reason, and does not affect others. An endpoint whose filter cannot be read is left
//! out as a whole: without the filter it would expose what the filter hides.
//!
//! Does not know how rows are read from the store or how the result is published.

use std::collections::{BTreeMap, HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::admin::{RowStatus, StoreStatus};
use crate::topology::{Topology, TopologyError};
use metamcp_config::Config;
use metamcp_config::sections::{
    EndpointConfig, EndpointMember, EndpointMembers, NamePrefix, ToolOverride, ToolView,
};
use metamcp_config::server::ServingPolicy;
use metamcp_config::server::tool_metadata::{check_annotations, check_listed_name};
use metamcp_core::base::{EndpointName, Glob, ServerName};
use metamcp_store::auth::Sealer;
use metamcp_store::definition::ServerDefinition;
use metamcp_store::store::{EndpointRow, EndpointServer, PrefixMode, RowSealer, SealedRow, ServerRow, Uuid};

/// The servers and endpoints of the configuration files.
#[derive(Debug, Clone, Default)]
pub struct FileConfig {
    pub servers: Vec<metamcp_config::server::ServerConfig>,
    pub endpoints: Vec<EndpointConfig>,
    /// Served while there is no other server.
    pub fallback_server: Option<metamcp_config::server::ServerConfig>,
}

/// The servers and endpoints of the store.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct StoredConfig {
    pub servers: Vec<ServerRow>,
    pub endpoints: Vec<EndpointRow>,
}

impl StoredConfig {
    /// Keeps the rows of `before` for those that changed only in their seal, and were sealed by a version of
    /// `ENCRYPTION_KEY` that this process does not have until it restarts. Their content is known, and so are their
    /// secrets.
    #[must_use]
    pub fn with_known(mut self, before: Option<&Self>, sealer: &Sealer) -> Self {
        let Some(before) = before else { return self };
        let is_foreign = |bound: SealedRow<'_>| !sealer.has_key_version(bound.sealed().1);
        for row in self.servers.iter_mut().filter(|row| is_foreign(SealedRow::Server(row))) {
            let same =
                |known: &&ServerRow| ServerRow { secrets: row.secrets.clone(), ..(*known).clone() } == *row;
            if let Some(known) = before.servers.iter().find(same) {
                *row = known.clone();
            }
        }
        for row in self.endpoints.iter_mut().filter(|row| is_foreign(SealedRow::Endpoint(row))) {
            let same =
                |known: &&EndpointRow| EndpointRow { seal: row.seal.clone(), ..(*known).clone() } == *row;
            if let Some(known) = before.endpoints.iter().find(same) {
                *row = known.clone();
            }
        }
        self
    }
}

/// What it takes to read rows.
#[derive(Clone, Copy)]
pub struct RowContext<'a> {
    pub sealer: &'a Sealer,
    /// What this gateway allows stored servers to do.
    pub serving: &'a ServingPolicy,
}

/// The configuration to serve, and the outcome for every row of the store.
#[derive(Debug, Default, PartialEq)]
pub struct MergedConfig {
    pub servers: Vec<metamcp_config::server::ServerConfig>,
    pub endpoints: Vec<EndpointConfig>,
    rows: Vec<MergedRow>,
    file_servers: Vec<ServerName>,
    /// Reasons why something is served with less than its row asks for.
    omissions: Vec<String>,
}

/// The servers of the store, by row.
#[derive(Default)]
struct StoredServerNames {
    /// Names of the servers that are served.
    served: HashMap<Uuid, ServerName>,
    /// Names that a server of the files has taken.
    shadowed: HashMap<Uuid, String>,
    /// Reasons why a server is left out.
    left_out: HashMap<Uuid, String>,
}

#[derive(Debug, PartialEq)]
struct MergedRow {
    id: Uuid,
    version: u64,
    subject: RowSubject,
    outcome: RowOutcome,
}

/// A server keeps its name, because whether the topology accepts it is known only later.
#[derive(Debug, PartialEq)]
enum RowSubject {
    Server(Option<ServerName>),
    Endpoint,
}

#[derive(Debug, PartialEq)]
enum RowOutcome {
    Serve,
    Disabled,
    LeaveOut(String),
}

/// Why an endpoint whose seal does not open is left out.
const SEAL_INVALID: &str = "it was altered outside of keyadm and the gateway, sealed with another ENCRYPTION_KEY, or created \
                            before rows were sealed: provide the version of ENCRYPTION_KEY that sealed it, replace it (PUT), \
                            or remove it (`keyadm endpoints remove`)";

const DISABLED: &str = "it is disabled";

impl From<&Config> for FileConfig {
    fn from(config: &Config) -> Self {
        Self {
            servers: config.servers.clone(),
            endpoints: config.endpoints.clone(),
            fallback_server: config.fallback_server.clone(),
        }
    }
}

/// Why nothing of the store is served before it was read once.
const UNREAD: &str = "servers and endpoints of the store could not be read yet, so none of them is served. There is no \
                      generated endpoint `default` either, since the store may define one that exposes less";

/// Merges both. `stored` is `None` if the store could not be read yet, which differs from an empty store. Servers of the
/// files come first, in their order; those of the store follow by name.
pub fn merge(files: &FileConfig, stored: Option<&StoredConfig>, context: RowContext<'_>) -> MergedConfig {
    let file_servers = files.servers.iter().map(|server| server.name.clone()).collect();
    let mut merged = MergedConfig { servers: files.servers.clone(), file_servers, ..MergedConfig::default() };
    let Some(stored) = stored else {
        merged.endpoints.clone_from(&files.endpoints);
        merged.omissions.push(UNREAD.to_owned());
        return merged;
    };
    let mut names = StoredServerNames::default();
    let file_names: HashSet<&ServerName> = files.servers.iter().map(|server| &server.name).collect();
    for row in &stored.servers {
        let name = ServerName::new(&row.name).ok();
        let is_in_files = name.as_ref().is_some_and(|name| file_names.contains(name));
        let outcome = if is_in_files {
            RowOutcome::LeaveOut(shadowed_by_files("server", &row.name))
        } else {
            match read_server(row, context) {
                Ok(Some(server)) => {
                    merged.servers.push(server);
                    RowOutcome::Serve
                }
                Ok(None) => RowOutcome::Disabled,
                Err(why) => {
                    let reason = format!("server `{}` of the store is left out: {why}", row.name);
                    names.left_out.insert(row.id, format!("server `{}`: {why}", row.name));
                    RowOutcome::LeaveOut(reason)
                }
            }
        };
        if is_in_files {
            names.shadowed.insert(row.id, row.name.clone());
        } else if let Some(name) = name.clone().filter(|_| outcome == RowOutcome::Serve) {
            names.served.insert(row.id, name);
        }
        let subject = RowSubject::Server(name);
        merged.rows.push(MergedRow { id: row.id, version: row.version, subject, outcome });
    }
    if merged.servers.is_empty() {
        merged.servers.extend(files.fallback_server.clone());
    }
    merge_endpoints(files, stored, (&names, context), &mut merged);
    merged
}

fn merge_endpoints(
    files: &FileConfig,
    stored: &StoredConfig,
    (names, context): (&StoredServerNames, RowContext<'_>),
    merged: &mut MergedConfig,
) {
    merged.endpoints.clone_from(&files.endpoints);
    let mut defined: HashSet<&str> = files.endpoints.iter().map(|endpoint| endpoint.name.as_str()).collect();
    for row in &stored.endpoints {
        let outcome = if defined.insert(&row.name) {
            match read_endpoint(row, &names.served, context) {
                Ok(endpoint) => {
                    let member_ids = || row.servers.iter().map(|member| member.server_id);
                    let shadowed = member_ids().filter_map(|id| names.shadowed.get(&id));
                    merged.omissions.extend(shadowed.map(|server| without_shadowed(&row.name, server)));
                    let left_out = member_ids().filter_map(|id| names.left_out.get(&id));
                    let without =
                        |why| format!("endpoint `{}` of the store is served without {why}", row.name);
                    merged.omissions.extend(left_out.map(without));
                    merged.endpoints.push(endpoint);
                    RowOutcome::Serve
                }
                Err(why) => {
                    RowOutcome::LeaveOut(format!("endpoint `{}` of the store is left out: {why}", row.name))
                }
            }
        } else {
            RowOutcome::LeaveOut(shadowed_by_files("endpoint", &row.name))
        };
        let subject = RowSubject::Endpoint;
        merged.rows.push(MergedRow { id: row.id, version: row.version, subject, outcome });
    }
    // Not generated in place of a `default` that is defined and cannot be read: that one may expose less.
    if !defined.contains(EndpointName::DEFAULT)
        && let Ok(name) = EndpointName::new(EndpointName::DEFAULT)
    {
        merged
            .endpoints
            .insert(0, EndpointConfig { name, servers: EndpointMembers::All, prefix: NamePrefix::Always });
    }
}

fn shadowed_by_files(kind: &str, name: &str) -> String {
    format!(
        "{kind} `{name}` of the store is left out: metamcp.toml or mcp.json has one of that name, which is served"
    )
}

/// The server of the files does not take the other's place in the endpoint: filters and overrides were not written for
/// it.
fn without_shadowed(endpoint: &str, server: &str) -> String {
    format!(
        "endpoint `{endpoint}` of the store is served without server `{server}`: metamcp.toml or mcp.json has another \
         one of that name"
    )
}

/// `None` for a disabled server.
fn read_server(
    row: &ServerRow,
    context: RowContext<'_>,
) -> Result<Option<metamcp_config::server::ServerConfig>, String> {
    let server = ServerDefinition::from_row(row, context.sealer).map_err(|error| error.to_string())?;
    if !server.is_enabled() {
        return Ok(None);
    }
    server.to_upstream_config(context.serving).map(Some).map_err(|unserved| unserved.to_string())
}

fn read_endpoint(
    row: &EndpointRow,
    names: &HashMap<Uuid, ServerName>,
    context: RowContext<'_>,
) -> Result<EndpointConfig, String> {
    if context.sealer.open_row(SealedRow::Endpoint(row)).is_none() {
        return Err(SEAL_INVALID.to_owned());
    }
    let name = EndpointName::new(&row.name).map_err(|invalid| invalid.to_string())?;
    let prefix = match row.prefix {
        PrefixMode::Always => NamePrefix::Always,
        PrefixMode::Never => NamePrefix::Never,
    };
    let mut members = Vec::with_capacity(row.servers.len());
    for member in &row.servers {
        let tool_view = read_tool_view(member)?;
        // A server that is disabled, or was deleted a moment ago, is left out without a notice.
        if let Some(server) = names.get(&member.server_id).cloned() {
            members.push(EndpointMember { server, tool_view });
        }
    }
    Ok(EndpointConfig { name, servers: EndpointMembers::Listed(members), prefix })
}

/// Reads the filter and the overrides of one server in an endpoint.
fn read_tool_view(member: &EndpointServer) -> Result<Option<std::sync::Arc<ToolView>>, String> {
    let globs = |texts: &[String]| {
        texts.iter().map(|text| Glob::new(text).map_err(|invalid| invalid.to_string())).collect()
    };
    let (allow, deny): (Result<Vec<_>, _>, Result<Vec<_>, _>) = (globs(&member.allow), globs(&member.deny));
    let mut overrides = BTreeMap::new();
    for row in &member.overrides {
        // Other programs store an empty name where there is none.
        let name = row.name.clone().filter(|name| !name.is_empty());
        let invalid = |part: &str, why: String| format!("{part} of an override of tool {:?} {why}", row.tool);
        name.as_deref().map_or(Ok(()), check_listed_name).map_err(|why| invalid("the name", why))?;
        let annotations = row.annotations.as_ref();
        annotations
            .map_or(Ok(()), check_annotations)
            .map_err(|why| invalid("the member `annotations`", why))?;
        let tool_override = ToolOverride {
            name,
            title: row.title.clone(),
            description: row.description.clone(),
            annotations: row.annotations.clone(),
        };
        if tool_override != ToolOverride::default() {
            overrides.insert(row.tool.clone(), tool_override);
        }
    }
    Ok(ToolView::new(allow?, deny?, overrides))
}

impl MergedConfig {
    /// Reports what the topology built from this configuration serves of every row. `changes`: see
    /// `StoreStatus::changes`.
    pub fn store_status(&self, topology: &Topology, changes: u64) -> StoreStatus {
        let mut left_out = Vec::new();
        let mut rows = HashMap::with_capacity(self.rows.len());
        for MergedRow { id, version, subject, outcome } in &self.rows {
            let served = match outcome {
                RowOutcome::Serve => subject.check_accepted(topology),
                RowOutcome::Disabled => Err(DISABLED.to_owned()),
                RowOutcome::LeaveOut(why) => {
                    left_out.push(why.clone());
                    Err(why.clone())
                }
            };
            rows.insert(*id, RowStatus { version: *version, served });
        }
        left_out.extend(self.omissions.iter().cloned());
        StoreStatus::new(changes, self.file_servers.clone(), left_out, rows)
    }
}

impl RowSubject {
    /// Returns why the topology left the row out, if it did. The topology's own errors are logged by the publisher.
    fn check_accepted(&self, topology: &Topology) -> Result<(), String> {
        let Self::Server(Some(name)) = self else { return Ok(()) };
        let is_about_it = |error: &&TopologyError| match error {
            TopologyError::Target { server, .. } | TopologyError::AliasTaken { server, .. } => server == name,
            _ => false,
        };
        topology.rejected.iter().find(is_about_it).map_or(Ok(()), |error| Err(error.to_string()))
    }
}

#[cfg(test)]
mod tests;
