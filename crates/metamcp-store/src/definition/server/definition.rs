//! A validated server definition.

use std::fmt;

use http::{HeaderName, HeaderValue};
use serde_json::Value;

use super::super::secrets::ServerSecrets;
use super::document::ServerDocument;
use super::keywords::KindKeyword;
use crate::store::ServerKind;
use metamcp_config::server::settings::ServerSettings;
use metamcp_config::server::{ServerAddress, ServerConfig, ServingPolicy, UnservedReason};
use metamcp_core::base::ServerName;

/// A server definition that passed validation.
#[derive(Clone)]
pub struct ServerDefinition {
    /// The definition as the control plane shows it, with secrets replaced by `(sealed)`.
    pub document: ServerDocument,
    pub secrets: ServerSecrets,
    pub(super) name: ServerName,
    pub(super) alias: Option<ServerName>,
    pub(super) address: Option<ServerAddress>,
    pub(super) headers: Vec<(HeaderName, HeaderValue)>,
    pub(super) settings: ServerSettings,
}

impl ServerDefinition {
    /// Returns the definition as the control plane shows it, without secrets.
    pub fn to_json(&self) -> Value {
        serde_json::to_value(&self.document).expect("strings and numbers serialize to JSON")
    }

    /// Returns the configuration of the upstream that connects to this server, or runs it, on this machine.
    pub fn to_upstream_config(&self, serving: &ServingPolicy) -> Result<ServerConfig, UnservedReason> {
        let unserved = || UnservedReason::UnsupportedKind(self.kind().as_str());
        let address = match (self.document.kind, self.address.clone().ok_or_else(unserved)?) {
            (KindKeyword::Http | KindKeyword::Sse, address) => address,
            (KindKeyword::Stdio, ServerAddress::Stdio(program)) => {
                ServerAddress::Stdio(serving.resolve_program(program)?)
            }
            (KindKeyword::Stdio, _) => return Err(unserved()),
        };
        let config = ServerConfig::new(self.name.clone(), address, self.headers.clone(), self.settings);
        let private_addresses = self.document.allow_private.unwrap_or(serving.allow_private);
        Ok(ServerConfig { private_addresses, alias: self.alias.clone(), ..config })
    }

    pub fn name(&self) -> &ServerName {
        &self.name
    }

    pub fn kind(&self) -> ServerKind {
        self.document.kind.into()
    }

    pub fn is_enabled(&self) -> bool {
        self.document.enabled.unwrap_or(true)
    }
}

impl fmt::Debug for ServerDefinition {
    /// Prints the document only: secrets must not reach a log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.document).finish()
    }
}
