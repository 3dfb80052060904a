//! Health, readiness, tokens: what is there before any administration.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use http::{HeaderMap, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;
use zeroize::Zeroizing;

use super::problem::Problem;
use super::request::{json_body, respond};
use super::views::{Health, Ready, ReadyServer, ReadyStore, ServerCondition, TokenResponse, Warning};
use super::{Admin, Call};
use crate::auth::{self, Credential, Denied, Identity, KeysFrom, Mode, Role};
use crate::base::Phase;
use crate::catalog::View;
use crate::upstream::UpstreamId;

/// The longest tool name that all known model APIs take.
const MODEL_API_NAME_BYTES_MAX: usize = 64;

/// Of a server: it is in lists, and no list was made yet.
const LISTED: &str = "ok";
const NOT_ASKED: &str = "not asked yet";

const LONG: &str =
    "these names are over 64 characters, which some model APIs refuse: shorten the server's name";

/// Names in one warning.
const NAMES_SHOWN_MAX: usize = 20;

/// Why it does not answer is for those who administer: the reason may name the machine it is on.
fn store_of(health: &auth::Health, is_admin: bool) -> ReadyStore {
    let keys_as_of = match health.keys_from {
        KeysFrom::Snapshot { written_at } => Some(written_at),
        KeysFrom::Store => None,
    };
    ReadyStore {
        answers: health.away.is_none(),
        since: health.away.as_ref().map(|away| away.since),
        reason: health.away.as_ref().filter(|_| is_admin).map(|away| away.reason.clone()),
        keys_as_of,
    }
}

impl Admin {
    pub(super) fn health() -> Response<Bytes> {
        respond(StatusCode::OK, &json!(Health { status: "ok" }))
    }

    /// 200 while requests are welcome. What is behind is told to those with a credential.
    pub(super) async fn ready(&self, headers: &HeaderMap) -> Response<Bytes> {
        let draining = *self.parts.phase.borrow() > Phase::Serve;
        let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let health = self.parts.auth.health();
        let degraded = (!health.is_good()).then_some(true);
        let mut body =
            Ready { ready: !draining, degraded, store: None, servers: None, left_out: None, warnings: None };
        if let Ok(identity) = self.identify(headers).await {
            body.servers = Some(self.servers_behind(&identity));
            let is_admin = self.sees_reasons(&identity);
            body.store = degraded.map(|_| store_of(&health, is_admin));
            // What endpoints there are is for those who administer.
            if is_admin {
                let (topology, standing) = (self.topology(), self.standing());
                let left_out = topology.left_out.iter().map(ToString::to_string);
                let left_out = left_out.chain(standing.left_out.iter().cloned());
                let left_out: Vec<_> = left_out.chain(self.parts.auth.closed()).collect();
                body.left_out = (!left_out.is_empty()).then_some(left_out);
            }
            let warnings = self.warnings(&identity);
            body.warnings = (!warnings.is_empty()).then_some(warnings);
        }
        respond(status, &json!(body))
    }

    /// Whether why something failed is told: to those who administer, and to everybody where nobody is asked for a key,
    /// for that is on this machine only.
    fn sees_reasons(&self, identity: &Identity) -> bool {
        identity.role() == Role::Admin || self.parts.auth.mode() == Mode::Open
    }

    /// Each server of the endpoints that a key may enter, and why it is missing from lists of Modern clients, when it is
    /// from all that were made.
    fn servers_behind(&self, identity: &Identity) -> Vec<ReadyServer> {
        let topology = self.topology();
        let is_admin = self.sees_reasons(identity);
        let mut servers = BTreeMap::new();
        for endpoint in topology.table.endpoints().filter(|endpoint| identity.may_enter(&endpoint.scope)) {
            let merged = self.parts.catalog.snapshot(endpoint, View::Modern);
            for (place, server) in endpoint.servers.iter().enumerate() {
                let modern = match merged.as_deref().map(|merged| merged.missing(place)) {
                    None => NOT_ASKED.to_owned(),
                    Some(None) => LISTED.to_owned(),
                    Some(Some(missing)) => missing.reason.text().to_owned(),
                };
                let known =
                    servers.entry(&server.name).or_insert_with(|| (server.upstream, NOT_ASKED.to_owned()));
                if known.1 == NOT_ASKED || modern == LISTED {
                    known.1 = modern;
                }
            }
        }
        let servers = servers.into_iter().map(|(name, (upstream, modern))| {
            let condition = topology.upstream(UpstreamId(upstream)).map(|upstream| upstream.condition());
            ReadyServer {
                name: name.as_str().to_owned(),
                modern,
                condition: ServerCondition::new(condition.unwrap_or_default(), is_admin),
            }
        });
        servers.collect()
    }

    /// What is to be looked at, of the tools that a key may call: names that are long, and those that are held back.
    fn warnings(&self, identity: &Identity) -> Vec<Warning> {
        let topology = self.topology();
        let mut named: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
        for endpoint in topology.table.endpoints().filter(|endpoint| identity.may_enter(&endpoint.scope)) {
            let Some(merged) = self.parts.catalog.snapshot(endpoint, View::Modern) else { continue };
            let long = merged.names_longer_than(MODEL_API_NAME_BYTES_MAX).into_iter();
            let held = merged.hidden.iter().filter(|item| item.is_held);
            let all = long.map(|name| (LONG, name)).chain(held.map(|item| (item.why, item.key.clone())));
            for (why, name) in all.filter(|(_, name)| identity.may(&endpoint.scope, name)) {
                let names = named.entry(why).or_default();
                if names.len() < NAMES_SHOWN_MAX {
                    names.insert(name);
                }
            }
        }
        named.into_iter().map(|(text, names)| Warning { names: names.into_iter().collect(), text }).collect()
    }

    /// A short-lived token for an API key.
    pub(super) async fn token(&self, call: &Call<'_>) -> Result<Response<Bytes>, Problem> {
        #[derive(Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Asked {
            api_key: String,
        }
        // The media type is not asked for: scripts that send a key by curl say nothing of it.
        let Ok(asked) = serde_json::from_slice::<Asked>(call.body()) else {
            json_body(call.headers(), call.body())?;
            return Err(Problem::new(StatusCode::BAD_REQUEST, "send {\"api_key\": \"mcp_…\"} as JSON"));
        };
        let api_key = Zeroizing::new(asked.api_key);
        // Only a key is exchanged: a token would else prolong itself for ever.
        let credential = Credential::from_headers(None, Some(api_key.as_bytes()))?.ok_or(Denied::Missing)?;
        let identity = self.verify(&credential).await?;
        let token = self.parts.auth.mint_token(&identity)?;
        let body = TokenResponse {
            access_token: &token.access_token,
            token_type: "Bearer",
            expires_in: token.expires_in_s,
        };
        Ok(respond(StatusCode::OK, &json!(body)))
    }
}
