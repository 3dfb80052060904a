//! Servers that are defined in files: shown beside the stored ones, and changed in their files alone.

use serde_json::{Value, json};

use super::Admin;
use super::definition::address;
use super::problem::Problem;
use super::tag::Tag;
use super::views::{ServerCondition, ServerVetting};
use crate::base::ServerName;
use crate::upstream::{Address, Upstream};

/// Where a server of a list is defined, and its name: those of files come before those of the store.
pub type Place = (Source, String);

/// Who defines a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// `metamcp.toml` or a file with `mcpServers`.
    File,
    /// Whoever administers, here or by keyadm.
    Store,
}

impl Admin {
    /// Those whose names are greater, in the order of their names.
    pub(super) fn servers_of_files(&self, after: &str) -> Vec<(String, Value)> {
        let standing = self.standing();
        let mut names: Vec<&str> = standing.of_files.iter().map(ServerName::as_str).collect();
        names.retain(|name| *name > after);
        names.sort_unstable();
        names.into_iter().map(|name| (name.to_owned(), self.view_of_file(name))).collect()
    }

    /// One of them, with its ETag.
    pub(super) fn server_of_file(&self, name: &str) -> Option<(Value, String)> {
        self.is_of_file(name).then(|| {
            let view = self.view_of_file(name);
            let tag = Tag::of_file(&view).with(&view);
            (view, tag)
        })
    }

    /// Why what is not in the store cannot be changed there.
    pub(super) fn not_stored(&self, reference: &str) -> Problem {
        if !self.is_of_file(reference) {
            return Problem::not_found("server");
        }
        let detail = "a file of the gateway's configuration defines this server, not the store: change it there, and have the \
                      gateway read it again (SIGHUP)";
        Problem::new(http::StatusCode::CONFLICT, detail)
    }

    fn is_of_file(&self, name: &str) -> bool {
        self.standing().of_files.iter().any(|known| known.as_str() == name)
    }

    /// Without anything that may be a secret. Which settings it has, its file says.
    fn view_of_file(&self, name: &str) -> Value {
        let topology = self.topology();
        let mut view = json!({"name": name, "source": Source::File, "served": false});
        let Some(upstream) = topology.upstreams().find(|upstream| upstream.name().as_str() == name) else {
            view["reason"] = "it is left out, and /ready says why".into();
            return view;
        };
        view["served"] = true.into();
        let (kind, member, shown) = address_of(upstream);
        view["kind"] = kind.into();
        view[member] = shown.into();
        view["condition"] = json!(ServerCondition::new(upstream.condition(), true));
        if let Some(vetting) = ServerVetting::new(self.parts.catalog.vetting().vetted(name)) {
            view["vetting"] = json!(vetting);
        }
        view
    }
}

/// Its kind, and what leads to it, as a stored server has them.
fn address_of(upstream: &Upstream) -> (&'static str, &'static str, String) {
    let address = &upstream.config.address;
    match address {
        Address::Http(_) | Address::Unix { .. } => ("http", "url", address::shown(address)),
        // The kind says it already.
        Address::Sse(url) => ("sse", "url", address::shown(&Address::Http(url.clone()))),
        Address::Stdio(program) => ("stdio", "command", program.command.clone()),
    }
}
