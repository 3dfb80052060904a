//! The control plane over HTTP: health, tokens, metrics, and administration of servers and endpoints.
//!
//! Invariants: only routes in [`ROUTES`] exist, and each of them has a policy; the caller is authenticated
//! before anything else is read; no secret is ever returned; every change is in the audit log under the id of
//! the key that made it; responses to callers without a credential name nothing that is configured.
//!
//! Does not know the data plane. The two share snapshots: the keyring, the topology and the catalog.

pub mod definition;
mod routes;
mod request;
mod tag;
mod problem;
mod access;
mod health;
mod metrics;
mod standing;
mod servers;
mod files;
mod endpoints;
mod import;
mod tools;
mod vetting;
mod records;
mod errand;
mod call;
mod events;
mod tally;
mod paths;
mod prefixes;
mod views;
mod openapi;
mod swagger;

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts as Head;
use http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::auth::{AuthDenial, AuthMode, Authenticator, Credential, CredentialCheck, Identity};
use crate::catalog::{self, Catalog};
use crate::journal::usage::Counters;
use crate::limits::{Limits, Permit};
use crate::session::Sessions;
use crate::store::{Audit, Role, Store, Uuid};
use crate::telemetry::metrics::{Metrics, MetricsWriter};
use crate::topology::Topology;
use crate::upstream::TlsRoots;
use definition::{DefinitionRules, ServingPolicy};
use metamcp_core::base::{BodyReader, ShutdownPhase};
use problem::Problem;
use routes::{Found, Operation, find};

pub use errand::{ErrandRunner, Errands};
pub use events::Events;
pub use metrics::Scrapes;
pub use openapi::document;
pub use routes::{Policy, ROUTES, Route};
pub use standing::{Stand, Standing};

/// What the control plane uses of the other modules.
pub struct Parts {
    pub auth: Arc<Authenticator>,
    pub store: Store,
    pub catalog: Arc<Catalog>,
    pub catalog_config: catalog::Config,
    pub limits: Arc<Limits>,
    pub topology: watch::Receiver<Arc<Topology>>,
    /// Which rows of the store are served.
    pub standing: watch::Receiver<Arc<Standing>>,
    pub sessions: Arc<Sessions>,
    /// Runs jobs that talk to servers on the main thread.
    pub errands: Errands,
    pub roots: TlsRoots,
    /// How servers of the store are served, which also limits what may be defined.
    pub serving: Arc<ServingPolicy>,
    /// The counters of the workers, and who may read them. `None` if metrics are off.
    pub metrics: Option<(Arc<Metrics>, Scrapes)>,
    /// The phase of the shutdown.
    pub phase: watch::Receiver<ShutdownPhase>,
    /// Changes whenever keys change.
    pub keys: watch::Receiver<u64>,
}

pub struct Admin {
    parts: Parts,
    rules: DefinitionRules,
    /// A version that increases with every change of a server or an endpoint.
    changes: watch::Sender<u64>,
    document: Bytes,
    desk: metrics::Desk,
}

/// A request whose head was received.
pub struct Asked<'a> {
    pub head: Head,
    /// Reads the body, up to a limit.
    pub body: BodyReader<'a>,
    /// Where usage is counted, if it is.
    pub counters: Option<&'a Counters>,
    /// Where metrics are counted, if they are.
    pub metrics: Option<&'a Rc<MetricsWriter>>,
}

/// The body of a response.
pub enum Body {
    /// A complete body. The permit is held until it is sent.
    Whole(Bytes, Option<Permit>),
    /// The events of an in-flight call.
    Events(Pin<Box<Events>>),
}

/// An authenticated request with its body.
struct Call<'a> {
    head: &'a Head,
    body: Bytes,
    parameters: Vec<String>,
    /// `None` on public routes.
    identity: Option<Identity>,
    /// The key's permit, on routes that call servers on behalf of the key.
    permit: Option<Permit>,
    counters: Option<&'a Counters>,
    metrics: Option<&'a Rc<MetricsWriter>>,
}

impl Admin {
    pub fn new(parts: Parts) -> Self {
        let document = Bytes::from(openapi::document().to_string());
        let rules = DefinitionRules::remote(&parts.serving);
        Self { parts, rules, changes: watch::Sender::new(0), document, desk: metrics::Desk::default() }
    }

    fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.parts.topology.borrow())
    }

    /// Returns a version that increases whenever servers or endpoints change here. The topology must then be
    /// rebuilt from the store.
    pub fn topology_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Responds to any request.
    pub async fn answer(&self, asked: Asked<'_>) -> Response<Body> {
        let mut asked_for = None;
        let answered = match find(&asked.head.method, asked.head.uri.path()) {
            Found::Route(route, parameters) => {
                asked_for = Some(route);
                self.admit(route, parameters, asked).await
            }
            Found::OtherMethods(allow) => Err(Problem::wrong_method(&allow)),
            Found::Nothing => Err(Problem::new(StatusCode::NOT_FOUND, NOWHERE)),
        };
        let mut response =
            answered.unwrap_or_else(|problem| problem.respond().map(|bytes| Body::Whole(bytes, None)));
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        self.desk.note(asked_for, response.status());
        response
    }

    /// Authenticates and admits a request as the policy of its route demands, and only then reads the body:
    /// no body is read for a caller who may not use the route, or whose key has no permit left.
    async fn admit(
        &self,
        route: &Route,
        parameters: Vec<String>,
        asked: Asked<'_>,
    ) -> Result<Response<Body>, Problem> {
        let Asked { head, body, counters, metrics } = asked;
        let identity = match route.policy {
            Policy::Public => None,
            Policy::Admin if route.operation == Operation::Metrics && self.shows_metrics_to_all() => None,
            Policy::Client | Policy::Admin => Some(self.identify(&head.headers).await?),
        };
        if identity.as_ref().is_some_and(|identity| !route.policy.admits(identity)) {
            let detail = "this requires an administrator's key; create one with `keyadm keys create --admin`";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let works = identity.as_ref().filter(|_| route.policy == Policy::Client);
        let permit = works.map(|identity| self.parts.limits.usage(identity).admit(identity)).transpose()?;
        let body = match route.body_bytes_max {
            0 => Bytes::new(),
            bytes_max => body(bytes_max).await.map_err(|fault| Problem::unread(&fault, bytes_max))?,
        };
        let call = Call { head: &head, body, parameters, identity, permit, counters, metrics };
        self.operate(route.operation, call).await
    }

    async fn operate(&self, operation: Operation, owned: Call<'_>) -> Result<Response<Body>, Problem> {
        let call = &owned;
        let answered = match operation {
            Operation::Health => Ok(Self::health()),
            Operation::Ready => Ok(self.ready(call.headers()).await),
            Operation::Metrics => self.metrics(call.headers()).await,
            Operation::OpenApi => Ok(self.openapi()),
            Operation::SwaggerPage => Ok(swagger::page()),
            Operation::SwaggerAsset => swagger::asset(call.parameter(0)),
            Operation::CreateToken => self.token(call).await,
            Operation::ListServers => self.list_servers(call).await,
            Operation::CreateServer => self.create_server(call).await,
            Operation::GetServer => self.get_server(call).await,
            Operation::PutServer => self.put_server(call).await,
            Operation::PatchServer => self.patch_server(call).await,
            Operation::DeleteServer => self.delete_server(call).await,
            Operation::TestServer => self.test_server(call).await,
            Operation::GetVetting => self.get_vetting(call).await,
            Operation::ApproveTools => self.approve_tools(call).await,
            Operation::ListTools => self.list_tools(call).await,
            Operation::ExecuteTool => return self.execute_tool(owned).await,
            Operation::ListEndpoints => self.list_endpoints(call).await,
            Operation::CreateEndpoint => self.create_endpoint(call).await,
            Operation::GetEndpoint => self.get_endpoint(call).await,
            Operation::PutEndpoint => self.put_endpoint(call).await,
            Operation::PatchEndpoint => self.patch_endpoint(call).await,
            Operation::DeleteEndpoint => self.delete_endpoint(call).await,
            Operation::ListUsage => self.list_usage(call).await,
            Operation::ListAudit => self.list_audit(call).await,
            Operation::ListSessions => self.list_sessions(call).await,
            Operation::ImportServers => self.import(call).await,
        };
        answered.map(|response| response.map(|bytes| Body::Whole(bytes, owned.permit)))
    }

    fn openapi(&self) -> Response<Bytes> {
        let mut response = Response::new(self.document.clone());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }

    fn note_change(&self) {
        self.changes.send_modify(|version| *version += 1);
    }

    fn standing(&self) -> Arc<Standing> {
        Arc::clone(&self.parts.standing.borrow())
    }

    /// Waits until all changes made here are served, so that a new server can be called with the next
    /// request. Gives up after a short time; the response says whether the server is served.
    async fn taken_up(&self) {
        let changes = *self.changes.borrow();
        let mut standing = self.parts.standing.clone();
        let is_served = standing.wait_for(|standing| standing.changes >= changes);
        // An error means that the gateway is stopping.
        drop(timeout(TAKE_UP_TIMEOUT, is_served).await);
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, AuthDenial> {
        match self.known(headers)? {
            CredentialCheck::Granted(identity) => Ok(identity),
            CredentialCheck::Denied(denied) => Err(denied),
            CredentialCheck::Undecided => match credential(headers)? {
                Some(credential) => self.parts.auth.authenticate(&credential).await,
                None => Err(AuthDenial::Missing),
            },
        }
    }

    /// Checks a credential without asking the store.
    fn known(&self, headers: &HeaderMap) -> Result<CredentialCheck, AuthDenial> {
        if self.parts.auth.mode() == AuthMode::Open {
            return Ok(CredentialCheck::Granted(self.parts.auth.anonymous_identity()));
        }
        Ok(self.parts.auth.check(&credential(headers)?.ok_or(AuthDenial::Missing)?))
    }

    async fn verify(&self, credential: &Credential<'_>) -> Result<Identity, AuthDenial> {
        match self.parts.auth.check(credential) {
            CredentialCheck::Granted(identity) => Ok(identity),
            CredentialCheck::Denied(denied) => Err(denied),
            CredentialCheck::Undecided => self.parts.auth.authenticate(credential).await,
        }
    }
}

/// Adds the members that only the gateway writes: id, version, times, whether the row is served and, if not,
/// why.
fn show_row(view: &mut Value, standing: &Standing, id: Uuid, [version, created_at, changed_at]: [u64; 3]) {
    view["id"] = id.to_string().into();
    view["version"] = version.into();
    view["created_at"] = created_at.into();
    view["changed_at"] = changed_at.into();
    let stand = standing.of(id, version);
    view["served"] = stand.is_ok().into();
    if let Err(reason) = stand {
        view["reason"] = reason.into();
    }
}

impl Policy {
    fn admits(self, identity: &Identity) -> bool {
        match self {
            Self::Public | Self::Client => true,
            Self::Admin => identity.role() == Role::Admin,
        }
    }
}

impl Call<'_> {
    fn headers(&self) -> &HeaderMap {
        &self.head.headers
    }

    fn body(&self) -> &Bytes {
        &self.body
    }

    fn query(&self) -> Option<&str> {
        self.head.uri.query()
    }

    /// Returns the value of a `{…}` in the path of the route.
    fn parameter(&self, at: usize) -> &str {
        &self.parameters[at]
    }

    /// The caller. Only for routes that are not public.
    fn identity(&self) -> &Identity {
        self.identity.as_ref().expect("the route's policy let somebody in")
    }

    fn is_admin(&self) -> bool {
        self.identity().role() == Role::Admin
    }

    /// Whether the caller sees tools that no endpoint shows: an administrator whose key is not confined.
    fn sees_all_tools(&self) -> bool {
        self.is_admin() && !self.identity().is_restricted()
    }

    fn audit(&self) -> Audit {
        Audit::by(self.identity().key_id().as_str())
    }
}

/// Returns the methods of a path in the form of `Allow`. `None` if there is no route.
pub fn methods(path: &str) -> Option<String> {
    match find(&Method::OPTIONS, path) {
        Found::OtherMethods(methods) => Some(methods),
        Found::Route(..) | Found::Nothing => None,
    }
}

/// Returns the credential of a request. Two values of one header are rejected, as on the data plane: a proxy
/// in front may have checked the other one.
fn credential(headers: &HeaderMap) -> Result<Option<Credential<'_>>, AuthDenial> {
    let value = |name: &str| {
        let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let first = values.next();
        if values.next().is_some() { Err(AuthDenial::Invalid) } else { Ok(first) }
    };
    Credential::from_headers(value("authorization")?, value("x-api-key")?)
}

/// A change is usually served within milliseconds.
const TAKE_UP_TIMEOUT: Duration = Duration::from_secs(1);

const NOWHERE: &str = "MCP is served at /mcp, /mcp/{endpoint}, /metamcp/{endpoint}/mcp and /servers/{server}/mcp; \
                       see /swagger-ui for all other routes";
