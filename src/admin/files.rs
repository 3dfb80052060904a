//! Servers defined in files. They are listed together with the stored ones, and can only be changed in their
//! files.

use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::entity_tag::EntityTag;
use super::problem::Problem;
use super::views::ServerApprovalStatus;
use crate::upstream::Upstream;
use metamcp_config::server::{ServerAddress, ServerConfig, address};
use metamcp_core::base::ServerName;

/// A position in the list of servers: servers of files come before those of the store, each sorted by name.
pub type ServerListCursor = (DefinitionSource, String);

/// Where a server is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DefinitionSource {
    /// `metamcp.toml` or a file with `mcpServers`.
    File,
    /// The database, written by the control plane or keyadm.
    Store,
}

impl ControlPlane {
    /// Returns the servers of files whose names come after `after`, sorted by name.
    pub(super) fn file_servers_after(&self, after: &str) -> Vec<(String, Value)> {
        let store_status = self.store_status();
        let mut names: Vec<&str> = store_status.of_files.iter().map(ServerName::as_str).collect();
        names.retain(|name| *name > after);
        names.sort_unstable();
        names.into_iter().map(|name| (name.to_owned(), self.file_server_view(name))).collect()
    }

    /// Returns a server of a file with its ETag.
    pub(super) fn file_server(&self, name: &str) -> Option<(Value, String)> {
        self.is_file_server(name).then(|| {
            let view = self.file_server_view(name);
            let tag = EntityTag::for_file_server(&view).to_etag(&view);
            (view, tag)
        })
    }

    /// Explains why a server that is not in the store cannot be changed.
    pub(super) fn explain_not_stored(&self, reference: &str) -> Problem {
        if !self.is_file_server(reference) {
            return Problem::not_found("server");
        }
        let detail = "this server is defined in a configuration file, not in the store; change it there, and make the gateway \
                      reload its configuration (SIGHUP)";
        Problem::new(http::StatusCode::CONFLICT, detail)
    }

    fn is_file_server(&self, name: &str) -> bool {
        self.store_status().of_files.iter().any(|known| known.as_str() == name)
    }

    /// Returns the configuration of a server of a file. `None` if no file defines it.
    pub(super) fn file_server_config(&self, name: &str) -> Result<Option<ServerConfig>, Problem> {
        if !self.is_file_server(name) {
            return Ok(None);
        }
        let topology = self.topology();
        let served = topology.upstreams().find(|upstream| upstream.name().as_str() == name);
        let unserved = || {
            let detail = "this server of a file is not served; see /ready for the reason";
            Problem::new(http::StatusCode::CONFLICT, detail)
        };
        served.map(|upstream| Some(upstream.config.clone())).ok_or_else(unserved)
    }

    /// Leaves out settings, and everything that may be secret.
    fn file_server_view(&self, name: &str) -> Value {
        let topology = self.topology();
        let mut view = json!({"name": name, "source": DefinitionSource::File, "served": false});
        let Some(upstream) = topology.upstreams().find(|upstream| upstream.name().as_str() == name) else {
            view["reason"] = "it is not served; see /ready for the reason".into();
            return view;
        };
        view["served"] = true.into();
        let (kind, member, shown) = address_members(upstream);
        view["kind"] = kind.into();
        view[member] = shown.into();
        view["condition"] = json!(self.server_condition(upstream, true));
        if let Some(approvals) = ServerApprovalStatus::new(self.parts.catalog.approvals().status(name)) {
            view["vetting"] = json!(approvals);
        }
        view
    }
}

/// The kind of the server, and the member with its address, as in a stored definition.
fn address_members(upstream: &Upstream) -> (&'static str, &'static str, String) {
    let address = &upstream.config.address;
    match address {
        ServerAddress::Http(_) | ServerAddress::Unix { .. } => {
            ("http", "url", address::format_redacted(address))
        }
        // `kind` already says that it is an SSE server.
        ServerAddress::Sse(url) => {
            ("sse", "url", address::format_redacted(&ServerAddress::Http(url.clone())))
        }
        ServerAddress::Stdio(program) => ("stdio", "command", program.command.clone()),
    }
}
