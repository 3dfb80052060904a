//! The summary that the gateway prints at startup.

use metamcp_core::base::{EndpointName, ServerName};

use super::config_sync::MergedConfig;
use metamcp_config::Config;
use metamcp_config::sections::{AuthMode, EndpointConfig, EndpointMembers};

/// What to print once the gateway serves.
pub struct StartupInfo {
    /// `http://host:port`, `https://…`, or `unix:/path`.
    pub url: String,
    /// The key created at a first start; it is shown once and stored nowhere.
    pub first_key: Option<String>,
    /// Whether requests need a credential.
    pub requires_key: bool,
    /// The names of all servers.
    pub servers: Vec<ServerName>,
    /// Each endpoint with its servers.
    pub endpoints: Vec<(EndpointName, Vec<ServerName>)>,
    /// Whether only the demonstration server is served, because none is configured.
    pub is_demo: bool,
}

impl StartupInfo {
    /// Collects it from the configuration that is served at `url`.
    pub fn new(config: &Config, url: String, first_key: Option<String>, merged: &MergedConfig) -> Self {
        let servers: Vec<ServerName> = merged.servers.iter().map(|server| server.name.clone()).collect();
        let members = |endpoint: &EndpointConfig| match &endpoint.servers {
            EndpointMembers::All => servers.clone(),
            EndpointMembers::Listed(members) => members.iter().map(|member| member.server.clone()).collect(),
        };
        Self {
            url,
            first_key,
            requires_key: config.auth_mode == AuthMode::Keys,
            endpoints: merged
                .endpoints
                .iter()
                .map(|endpoint| (endpoint.name.clone(), members(endpoint)))
                .collect(),
            is_demo: config
                .fallback_server
                .as_ref()
                .is_some_and(|fallback_server| merged.servers.contains(fallback_server)),
            servers,
        }
    }
}
