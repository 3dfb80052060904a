//! What a client sees as one MCP server.

use std::borrow::Cow;
use std::sync::Arc;

use crate::telemetry::metrics::LabelId;
use metamcp_config::sections::{NAME_SEPARATOR, NamePrefix, ToolView};
use metamcp_core::base::ServerName;

/// One or several servers that a client sees as one MCP server.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    pub id: EndpointId,
    /// What sealed ids are bound to: `e/{endpoint}` or `s/{server}`. Stays the same when the endpoint changes.
    pub scope: Arc<str>,
    pub shape: EndpointShape,
    /// The servers, in the order of configuration.
    pub servers: Vec<RoutedServer>,
    /// The metrics label of the endpoint. Each path has its own until the labels run out.
    pub label: LabelId,
}

/// One server of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoutedServer {
    pub name: ServerName,
    /// The id of the upstream that serves this name.
    pub upstream: u32,
    /// Prefixes the server's tools and prompts if the endpoint uses prefixes.
    pub prefix: ServerName,
    /// Which of the server's tools the endpoint shows, and how. `None` shows all of them unchanged.
    pub tool_view: Option<Arc<ToolView>>,
    /// The metrics label of the server. The route table assigns it.
    pub label: LabelId,
}

impl RoutedServer {
    /// A server with all of its tools, prefixed by its own name.
    pub fn unfiltered(name: ServerName, upstream: u32) -> Self {
        Self { prefix: name.clone(), name, upstream, tool_view: None, label: LabelId::OTHER }
    }
}

/// How an endpoint presents its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EndpointShape {
    /// One server, passed through: no item is renamed and the gateway answers nothing in the server's stead.
    Single,
    /// Several servers merged into one.
    Aggregate(NamePrefix),
}

/// Identifies one version of an endpoint. Never reused within a process; a newer endpoint has a greater id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// The scope prefix of a configured endpoint.
pub(super) const ENDPOINT_SCOPE: &str = "e/";

/// The scope prefix of a server that is an endpoint of its own.
pub(super) const SERVER_SCOPE: &str = "s/";

/// The name in metrics and traces: the endpoint's name, or `servers/{server}` for a server of its own.
pub(super) fn display_name(scope: &str) -> Cow<'_, str> {
    match scope.strip_prefix(SERVER_SCOPE) {
        Some(server) => format!("servers/{server}").into(),
        None => scope.strip_prefix(ENDPOINT_SCOPE).unwrap_or(scope).into(),
    }
}

impl Endpoint {
    /// The name in metrics and traces.
    pub fn display_name(&self) -> Cow<'_, str> {
        display_name(&self.scope)
    }

    /// The advertised name of the tool that the server at `server_index` calls `tool`. Lists and calls both use
    /// this. Returns `None` if the endpoint hides the tool.
    pub fn tool_name<'a>(&'a self, server_index: usize, tool: &'a str) -> Option<Cow<'a, str>> {
        let Some(view) = &self.servers[server_index].tool_view else {
            return Some(self.add_prefix(server_index, tool));
        };
        if !view.is_shown(tool) {
            return None;
        }
        let renamed = view.override_of(tool).and_then(|change| change.name.as_deref());
        Some(renamed.map_or_else(|| self.add_prefix(server_index, tool), Cow::Borrowed))
    }

    /// The advertised name of a prompt. No prompt is hidden.
    pub fn prompt_name<'a>(&'a self, server_index: usize, prompt: &'a str) -> Cow<'a, str> {
        self.add_prefix(server_index, prompt)
    }

    /// The server's own name of the tool that the endpoint would advertise as `name`, derived from configuration
    /// alone. Returns `None` if the server at `server_index` cannot have a shown tool of that name. The server may
    /// not have the returned tool either.
    pub fn original_tool_name<'a>(&'a self, server_index: usize, name: &'a str) -> Option<&'a str> {
        let view = self.servers[server_index].tool_view.as_ref();
        view.and_then(|view| view.tool_renamed_to(name)).or_else(|| {
            let original = self.strip_prefix(server_index, name)?;
            (self.tool_name(server_index, original).as_deref() == Some(name)).then_some(original)
        })
    }

    /// The server's own name of the prompt that the endpoint would advertise as `name`.
    pub fn original_prompt_name<'a>(&self, server_index: usize, name: &'a str) -> Option<&'a str> {
        self.strip_prefix(server_index, name)
    }

    fn strip_prefix<'a>(&self, server_index: usize, name: &'a str) -> Option<&'a str> {
        if self.shape != EndpointShape::Aggregate(NamePrefix::Always) {
            return None;
        }
        let prefix = self.servers[server_index].prefix.as_str();
        let original = name.strip_prefix(prefix)?.strip_prefix(NAME_SEPARATOR)?;
        (!original.is_empty()).then_some(original)
    }

    fn add_prefix<'a>(&'a self, server_index: usize, original: &'a str) -> Cow<'a, str> {
        match self.shape {
            EndpointShape::Aggregate(NamePrefix::Always) => {
                Cow::Owned(format!("{}{NAME_SEPARATOR}{original}", self.servers[server_index].prefix))
            }
            EndpointShape::Aggregate(NamePrefix::Never) | EndpointShape::Single => Cow::Borrowed(original),
        }
    }
}
