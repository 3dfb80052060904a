//! What the configuration says about endpoints.

use std::sync::Arc;

use super::tool_view::ToolView;
use metamcp_core::base::{EndpointName, ServerName};

/// One endpoint as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointConfig {
    /// The path segment under `/mcp/`.
    pub name: EndpointName,
    /// The servers behind it.
    pub servers: EndpointMembers,
    /// How tools and prompts of different servers are distinguished.
    pub prefix: NamePrefix,
}

/// The servers of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum EndpointMembers {
    /// Every configured server, including those added later.
    All,
    /// These servers, listed in this order. An empty list is valid: the endpoint then serves empty lists.
    Listed(Vec<EndpointMember>),
}

/// A server of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EndpointMember {
    pub server: ServerName,
    /// Which of the server's tools the endpoint shows, and how. `None` shows all of them unchanged.
    pub tool_view: Option<Arc<ToolView>>,
}

impl EndpointMembers {
    /// Lists these servers with all of their tools.
    pub fn unfiltered(servers: impl IntoIterator<Item = ServerName>) -> Self {
        Self::Listed(servers.into_iter().map(|server| EndpointMember { server, tool_view: None }).collect())
    }
}

/// How an endpoint names the tools and prompts of its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamePrefix {
    /// `{server}__{tool}`. The name depends on configuration only, not on what other servers offer.
    Always,
    /// The server's own name. If two servers use the same name, both items are hidden and the conflict is
    /// logged.
    Never,
}

/// Separates the server prefix from the item name in an advertised name.
pub const NAME_SEPARATOR: &str = "__";
