//! Servers defined in files. They are listed together with the stored ones, and can only be changed in their
//! files.

use serde_json::{Value, json};

use super::Admin;
use super::definition::address;
use super::problem::Problem;
use super::tag::Tag;
use super::views::{ServerCondition, ServerVetting};
use crate::upstream::{ServerAddress, Upstream};
use metamcp_core::base::ServerName;

/// A position in the list of servers: servers of files come before those of the store, each sorted by name.
pub type Place = (Source, String);

/// Where a server is defined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `metamcp.toml` or a file with `mcpServers`.
    File,
    /// The database, written by the control plane or keyadm.
    Store,
}

impl Admin {
    /// Returns the servers of files whose names come after `after`, sorted by name.
    pub(super) fn servers_of_files(&self, after: &str) -> Vec<(String, Value)> {
        let standing = self.standing();
        let mut names: Vec<&str> = standing.of_files.iter().map(ServerName::as_str).collect();
        names.retain(|name| *name > after);
        names.sort_unstable();
        names.into_iter().map(|name| (name.to_owned(), self.view_of_file(name))).collect()
    }

    /// Returns a server of a file with its ETag.
    pub(super) fn server_of_file(&self, name: &str) -> Option<(Value, String)> {
        self.is_of_file(name).then(|| {
            let view = self.view_of_file(name);
            let tag = Tag::of_file(&view).with(&view);
            (view, tag)
        })
    }

    /// Explains why a server that is not in the store cannot be changed.
    pub(super) fn not_stored(&self, reference: &str) -> Problem {
        if !self.is_of_file(reference) {
            return Problem::not_found("server");
        }
        let detail = "this server is defined in a configuration file, not in the store; change it there, and make the gateway \
                      reload its configuration (SIGHUP)";
        Problem::new(http::StatusCode::CONFLICT, detail)
    }

    fn is_of_file(&self, name: &str) -> bool {
        self.standing().of_files.iter().any(|known| known.as_str() == name)
    }

    /// Leaves out settings, and everything that may be secret.
    fn view_of_file(&self, name: &str) -> Value {
        let topology = self.topology();
        let mut view = json!({"name": name, "source": Source::File, "served": false});
        let Some(upstream) = topology.upstreams().find(|upstream| upstream.name().as_str() == name) else {
            view["reason"] = "it is not served; see /ready for the reason".into();
            return view;
        };
        view["served"] = true.into();
        let (kind, member, shown) = address_of(upstream);
        view["kind"] = kind.into();
        view[member] = shown.into();
        view["condition"] = json!(ServerCondition::new(upstream.status(), true));
        if let Some(vetting) = ServerVetting::new(self.parts.catalog.vetting().vetted(name)) {
            view["vetting"] = json!(vetting);
        }
        view
    }
}

/// The kind of the server, and the member with its address, as in a stored definition.
fn address_of(upstream: &Upstream) -> (&'static str, &'static str, String) {
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
