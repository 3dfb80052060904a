//! The summary that the gateway prints at startup.

use std::path::PathBuf;

use metamcp_core::base::{EndpointName, ServerName};

use super::config_sync::MergedConfig;
use super::first_key::{FirstKey, UndeliverableKey};
use metamcp_config::Config;
use metamcp_config::sections::{EndpointConfig, EndpointMembers};

/// What to print once the gateway serves.
pub struct StartupInfo {
    /// `http://host:port`, `https://…`, or `unix:/path`.
    pub url: String,
    pub keys: StartupKeys,
    /// Whether the gateway never ran with this data directory.
    pub is_first_start: bool,
    pub data_dir: PathBuf,
    /// The database, without a password.
    pub database: String,
    /// Whether the database is in the data directory.
    pub is_embedded_database: bool,
    /// The names of all servers.
    pub servers: Vec<ServerName>,
    /// Each endpoint with its servers.
    pub endpoints: Vec<(EndpointName, Vec<ServerName>)>,
    /// Whether only the demonstration server is served, because none is configured.
    pub is_demo: bool,
}

/// What a start finds out about keys.
pub enum StartupKeys {
    /// Requests need no key, since the gateway is open.
    NotRequired,
    /// The first one was created.
    Created(FirstKey),
    /// None was created, since it could not be shown to anybody.
    NotCreated(UndeliverableKey),
    /// There is one that is accepted, as far as that is known.
    Active,
    /// All are switched off or expired.
    NoneActive,
}

impl StartupInfo {
    /// Collects it from the configuration that is served at `url`.
    pub fn new(
        config: &Config,
        url: String,
        keys: StartupKeys,
        is_first_start: bool,
        merged: &MergedConfig,
    ) -> Self {
        let servers: Vec<ServerName> = merged.servers.iter().map(|server| server.name.clone()).collect();
        let members = |endpoint: &EndpointConfig| match &endpoint.servers {
            EndpointMembers::All => servers.clone(),
            EndpointMembers::Listed(members) => members.iter().map(|member| member.server.clone()).collect(),
        };
        Self {
            url,
            keys,
            is_first_start,
            data_dir: config.data_dir.clone(),
            database: match &config.database {
                Some(database) => format!("PostgreSQL {database}"),
                None => "SQLite".to_owned(),
            },
            is_embedded_database: config.database.is_none(),
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
