//! Health, readiness and tokens.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::authenticated_request::AuthenticatedRequest;
use super::control_plane::ControlPlane;
use super::problem::Problem;
use super::request::{json_body, json_response};
use super::views::{Health, Ready, ReadyServer, ReadyStore, ServerCondition, TokenResponse, Warning};
use crate::catalog::View;
use crate::upstream::{Upstream, UpstreamId};
use metamcp_config::sections::AuthMode;
use metamcp_core::base::ShutdownPhase;
use metamcp_store::auth::{self, AuthDenial, ClientCertificate, Credential, Identity, KeySource, Role};

/// The longest tool name that all known model APIs accept.
const MODEL_API_NAME_BYTES_MAX: usize = 64;

/// The server's items are listed.
const LISTED: &str = "ok";
const NOT_LISTED: &str = "not asked yet";

const LONG_TOOL_NAMES: &str =
    "these names are longer than 64 characters, which some model APIs reject; shorten the server's name";

/// Names in one warning.
const NAMES_SHOWN_MAX: usize = 20;

/// The reason is for administrators only, because it may name the machine of the store.
fn ready_store(health: &auth::AuthHealth, is_admin: bool) -> ReadyStore {
    let keys_as_of = match health.key_source {
        KeySource::Snapshot { written_at } => Some(written_at),
        KeySource::Store => None,
    };
    ReadyStore {
        answers: health.outage.is_none(),
        since: health.outage.as_ref().map(|away| away.since),
        reason: health.outage.as_ref().filter(|_| is_admin).map(|away| away.reason.clone()),
        keys_as_of,
    }
}

impl ControlPlane {
    pub(super) fn health() -> Response<Bytes> {
        json_response(StatusCode::OK, &json!(Health { status: "ok" }))
    }

    /// Responds with 200 until the gateway drains. Callers with a credential also see the state of the
    /// servers.
    pub(super) async fn ready(
        &self,
        headers: &HeaderMap,
        certificate: Option<ClientCertificate>,
    ) -> Response<Bytes> {
        let draining = *self.parts.phase.borrow() >= ShutdownPhase::Unready;
        let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let health = self.parts.auth.health();
        let degraded = (!health.is_healthy()).then_some(true);
        let mut body =
            Ready { ready: !draining, degraded, store: None, servers: None, left_out: None, warnings: None };
        if let Ok(identity) = self.identify(headers, certificate).await {
            body.servers = Some(self.servers_behind(&identity));
            let is_admin = self.sees_reasons(&identity);
            body.store = degraded.map(|_| ready_store(&health, is_admin));
            // Only administrators may learn which endpoints exist.
            if is_admin {
                let (topology, store_status) = (self.topology(), self.store_status());
                let rejected = topology.rejected.iter().map(ToString::to_string);
                let rejected = rejected.chain(store_status.rejected.iter().cloned());
                let rejected: Vec<_> = rejected.chain(self.parts.auth.unusable_keys()).collect();
                body.left_out = (!rejected.is_empty()).then_some(rejected);
            }
            let warnings = self.warnings(&identity);
            body.warnings = (!warnings.is_empty()).then_some(warnings);
        }
        json_response(status, &json!(body))
    }

    /// Whether the caller may see why something failed: administrators, and everybody if no key is required,
    /// as the gateway is then reachable from this machine only.
    fn sees_reasons(&self, identity: &Identity) -> bool {
        identity.role() == Role::Admin || self.parts.auth.mode() == AuthMode::Open
    }

    /// Returns every server of the endpoints that a key may enter, and why it is missing from the Modern
    /// lists, if it is missing from all of them.
    fn servers_behind(&self, identity: &Identity) -> Vec<ReadyServer> {
        let topology = self.topology();
        let is_admin = self.sees_reasons(identity);
        let mut servers = BTreeMap::new();
        for endpoint in
            topology.table.endpoints().filter(|endpoint| identity.can_use_endpoint(&endpoint.scope))
        {
            let merged = self.parts.catalog.snapshot(endpoint, View::Modern);
            for (place, server) in endpoint.servers.iter().enumerate() {
                let modern = match merged.as_deref().map(|merged| merged.missing_server(place)) {
                    None => NOT_LISTED.to_owned(),
                    Some(None) => LISTED.to_owned(),
                    Some(Some(missing)) => missing.reason.text().to_owned(),
                };
                let known =
                    servers.entry(&server.name).or_insert_with(|| (server.upstream, NOT_LISTED.to_owned()));
                if known.1 == NOT_LISTED || modern == LISTED {
                    known.1 = modern;
                }
            }
        }
        let servers = servers.into_iter().filter_map(|(name, (upstream, modern))| {
            let upstream = topology.upstream(UpstreamId(upstream))?;
            let condition = self.server_condition(upstream, is_admin);
            Some(ReadyServer { name: name.as_str().to_owned(), modern, condition })
        });
        servers.collect()
    }

    /// Reasons of failures are included for administrators only.
    pub(super) fn server_condition(&self, upstream: &Upstream, is_admin: bool) -> ServerCondition {
        ServerCondition::new(self.parts.catalog.server_state(upstream), upstream.status(), is_admin)
    }

    /// Returns warnings about tools that a key may call: long names, and tools that are quarantined.
    fn warnings(&self, identity: &Identity) -> Vec<Warning> {
        let topology = self.topology();
        let mut named: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        for endpoint in
            topology.table.endpoints().filter(|endpoint| identity.can_use_endpoint(&endpoint.scope))
        {
            // In every view: clients of one era may be the only ones that list.
            let snapshots = self.parts.catalog.snapshots_of(endpoint);
            let all = snapshots.iter().flat_map(|merged| {
                let long = merged.tool_names_longer_than(MODEL_API_NAME_BYTES_MAX).into_iter();
                let held = merged.hidden.iter().filter(|item| item.is_quarantined);
                long.map(|name| (LONG_TOOL_NAMES, name)).chain(held.map(|item| (item.why, item.key.clone())))
            });
            for (why, name) in all.filter(|(_, name)| identity.can_call_tool(&endpoint.scope, name)) {
                let names = named.entry(why).or_default();
                if names.len() < NAMES_SHOWN_MAX {
                    names.insert(name);
                }
            }
        }
        named.into_iter().map(|(text, names)| Warning { names: names.into_iter().collect(), text }).collect()
    }

    /// Exchanges an API key for a short-lived token.
    pub(super) async fn token(&self, call: &AuthenticatedRequest<'_>) -> Result<Response<Bytes>, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct TokenExchange {
            api_key: String,
        }
        // The media type is not checked, because scripts that send a key with curl usually do not set it.
        let Ok(asked) = serde_json::from_slice::<TokenExchange>(call.body()) else {
            json_body(call.headers(), call.body())?;
            return Err(Problem::new(StatusCode::BAD_REQUEST, "send {\"api_key\": \"mcp_…\"} as JSON"));
        };
        let api_key = Zeroizing::new(asked.api_key);
        // Tokens are not accepted here: a token could otherwise be renewed for ever.
        let credential =
            Credential::from_headers(None, Some(api_key.as_bytes()))?.ok_or(AuthDenial::Missing)?;
        let identity = self.verify(&credential).await?;
        let token = self.parts.auth.mint_token(&identity)?;
        let body = TokenResponse {
            access_token: &token.access_token,
            token_type: "Bearer",
            expires_in: token.expires_in_s,
        };
        Ok(json_response(StatusCode::OK, &json!(body)))
    }
}
