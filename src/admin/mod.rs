//! The control plane over HTTP: health, readiness, tokens.
//!
//! Invariants: a path without an entry in [`Admin::answer`] does not exist; what a caller without a
//! credential is told names nothing that is configured.
//!
//! Does not know: the data plane. Both meet in snapshots: keys, the fleet, the catalog.

use std::sync::Arc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use zeroize::Zeroizing;

use crate::auth::{Authenticator, Check, Credential, Denied, Health, Identity, KeysFrom, Mode};
use crate::base::{EndpointName, Phase};
use crate::catalog::{Catalog, View};
use crate::fleet::Fleet;

const TOKEN_PATH: &str = "/api/v1/auth/token";

/// A key in JSON has some 90 bytes.
const TOKEN_REQUEST_BYTES_MAX: usize = 4 << 10;

/// The longest tool name that all known model APIs take.
const MODEL_API_NAME_BYTES_MAX: usize = 64;

/// Names in one warning; the rest is counted.
const NAMES_SHOWN_MAX: usize = 20;

/// The control plane.
pub struct Admin {
    auth: Arc<Authenticator>,
    fleet: watch::Receiver<Arc<Fleet>>,
    catalog: Arc<Catalog>,
    phase: watch::Receiver<Phase>,
}

impl Admin {
    /// From the parts it shares with the data plane.
    pub fn new(
        auth: Arc<Authenticator>,
        fleet: watch::Receiver<Arc<Fleet>>,
        catalog: Arc<Catalog>,
        phase: watch::Receiver<Phase>,
    ) -> Self {
        Self { auth, fleet, catalog, phase }
    }

    /// How long a body it takes with a request.
    pub fn body_bytes_max(&self, method: &Method, path: &str) -> usize {
        if method == Method::POST && path == TOKEN_PATH { TOKEN_REQUEST_BYTES_MAX } else { 0 }
    }

    /// Every path there is.
    pub async fn answer(&self, request: Request<Bytes>) -> Response<Bytes> {
        match (request.method(), request.uri().path()) {
            (&Method::GET | &Method::HEAD, "/health") => {
                json_response(StatusCode::OK, &json!({"status": "ok"}))
            }
            (&Method::GET | &Method::HEAD, "/ready") => self.ready(request.headers()).await,
            (&Method::POST, TOKEN_PATH) => self.token(request.body()).await,
            (_, "/health" | "/ready" | TOKEN_PATH) => {
                problem(StatusCode::METHOD_NOT_ALLOWED, "this path does not take this method")
            }
            _ => problem(
                StatusCode::NOT_FOUND,
                "MCP is served at /mcp, /mcp/{endpoint}, /metamcp/{endpoint}/mcp and /servers/{server}/mcp",
            ),
        }
    }

    /// 200 while requests are welcome. What is behind is told to those with a credential.
    async fn ready(&self, headers: &HeaderMap) -> Response<Bytes> {
        let draining = *self.phase.borrow() > Phase::Serve;
        let status = if draining { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
        let mut body = json!({"ready": !draining});
        let health = self.auth.health();
        if !health.is_good() {
            body["degraded"] = json!(true);
        }
        if self.identify(headers).await.is_ok() {
            if !health.is_good() {
                body["store"] = store(&health);
            }
            body["servers"] = self.servers();
            let fleet = self.fleet();
            if !fleet.left_out.is_empty() {
                body["left_out"] = fleet.left_out.iter().map(ToString::to_string).collect();
            }
            let long = self.long_names();
            if !long.is_empty() {
                body["warnings"] = json!([{
                    "names": long,
                    "text": "these names are over 64 characters, which some model APIs refuse: shorten the server's name",
                }]);
            }
        }
        json_response(status, &body)
    }

    /// What is served now.
    fn fleet(&self) -> Arc<Fleet> {
        Arc::clone(&self.fleet.borrow())
    }

    /// Each server of the default endpoint, and why it is missing from the lists, when it is.
    fn servers(&self) -> Value {
        let fleet = self.fleet();
        let Some(endpoint) = fleet.table.find(&format!("/mcp/{}", EndpointName::DEFAULT)) else {
            return json!([]);
        };
        let merged = self.catalog.snapshot(endpoint, View::Modern);
        let servers = endpoint.servers.iter().enumerate().map(|(place, server)| {
            let missing = merged.as_deref().and_then(|merged| merged.missing(place));
            match (&merged, missing) {
                (None, _) => json!({"name": server.name.as_str(), "modern": "not asked yet"}),
                (Some(_), None) => json!({"name": server.name.as_str(), "modern": "ok"}),
                (Some(_), Some(missing)) => {
                    json!({"name": server.name.as_str(), "modern": missing.reason.text()})
                }
            }
        });
        servers.collect()
    }

    fn long_names(&self) -> Vec<String> {
        let mut long: Vec<String> = self
            .fleet()
            .table
            .endpoints()
            .filter_map(|endpoint| self.catalog.snapshot(endpoint, View::Modern))
            .flat_map(|merged| merged.names_longer_than(MODEL_API_NAME_BYTES_MAX))
            .collect();
        long.truncate(NAMES_SHOWN_MAX);
        long
    }

    /// A short-lived token for an API key.
    async fn token(&self, body: &Bytes) -> Response<Bytes> {
        #[derive(Deserialize)]
        struct Asked {
            api_key: String,
        }
        let Ok(asked) = serde_json::from_slice::<Asked>(body) else {
            return problem(StatusCode::BAD_REQUEST, "send {\"api_key\": \"mcp_…\"} as JSON");
        };
        let api_key = Zeroizing::new(asked.api_key);
        // Only a key is exchanged: a token would else prolong itself for ever.
        let identity = match Credential::from_headers(None, Some(api_key.as_bytes())) {
            Ok(Some(credential)) => self.verify(&credential).await,
            Ok(None) => Err(Denied::Missing),
            Err(denied) => Err(denied),
        };
        match identity.and_then(|identity| self.auth.mint_token(&identity)) {
            Ok(token) => {
                let body = json!({
                    "access_token": token.access_token,
                    "token_type": "Bearer",
                    "expires_in": token.expires_in_s,
                });
                let mut response = json_response(StatusCode::OK, &body);
                response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
                response
            }
            Err(denied) => refusal(denied),
        }
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Denied> {
        if self.auth.mode() == Mode::Open {
            return Ok(self.auth.open_identity());
        }
        let value = |name: &str| headers.get(name).map(HeaderValue::as_bytes);
        let credential = Credential::from_headers(value("authorization"), value("x-api-key"))?;
        self.verify(&credential.ok_or(Denied::Missing)?).await
    }

    async fn verify(&self, credential: &Credential<'_>) -> Result<Identity, Denied> {
        match self.auth.check(credential) {
            Check::Granted(identity) => Ok(identity),
            Check::Refused(denied) => Err(denied),
            Check::Ask => self.auth.ask(credential).await,
        }
    }
}

/// What is wrong with the store, in seconds since 1970.
fn store(health: &Health) -> Value {
    let mut store = json!({"answers": health.away.is_none()});
    if let Some(away) = &health.away {
        store["since"] = away.since.into();
        store["reason"] = away.reason.as_str().into();
    }
    if let KeysFrom::Snapshot { written_at } = health.keys_from {
        store["keys_as_of"] = written_at.into();
    }
    store
}

fn refusal(denied: Denied) -> Response<Bytes> {
    let (status, name, value) = if denied == Denied::Busy {
        (StatusCode::SERVICE_UNAVAILABLE, RETRY_AFTER, "1")
    } else {
        (StatusCode::UNAUTHORIZED, WWW_AUTHENTICATE, "Bearer realm=\"metamcp\"")
    };
    let mut response = problem(status, &denied.to_string());
    response.headers_mut().insert(name, HeaderValue::from_static(value));
    response
}

/// RFC 9457.
fn problem(status: StatusCode, detail: &str) -> Response<Bytes> {
    let title = status.canonical_reason().unwrap_or("error");
    let body = json!({"type": "about:blank", "title": title, "status": status.as_u16(), "detail": detail});
    let mut response = json_response(status, &body);
    let content_type = HeaderValue::from_static("application/problem+json");
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = Response::new(Bytes::from(body.to_string()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
