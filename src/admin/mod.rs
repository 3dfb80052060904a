//! The control plane over HTTP: health, tokens, and the administration of servers and endpoints.
//!
//! Invariants: a path without an entry in [`ROUTES`] does not exist, and an entry without a policy does not compile;
//! who asks is known before anything else is looked at; no secret comes out again; every change is in the audit log
//! under the id of the key that made it. What a caller without a credential is told names nothing that is configured.
//!
//! Does not know: the data plane. Both meet in snapshots: keys, the topology, the catalog.

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

use crate::auth::{Authenticator, Check, Credential, Denied, Identity, Mode};
use crate::base::{Phase, TakeBody};
use crate::catalog::{self, Catalog};
use crate::journal::usage::Counters;
use crate::limits::{Limits, Permit};
use crate::session::Sessions;
use crate::store::{Audit, Role, Store, Uuid};
use crate::telemetry::metrics::{Metrics, Writer};
use crate::topology::Topology;
use crate::upstream::TlsRoots;
use definition::{Rules, Serving};
use problem::Problem;
use routes::{Found, Operation, find};

pub use errand::{ErrandRunner, Errands};
pub use events::Events;
pub use metrics::Scrapes;
pub use openapi::document;
pub use routes::{Policy, ROUTES, Route};
pub use standing::{Stand, Standing};

/// What the control plane is made of.
pub struct Parts {
    /// Keys and tokens.
    pub auth: Arc<Authenticator>,
    /// What it writes.
    pub store: Store,
    /// Lists.
    pub catalog: Arc<Catalog>,
    /// Their bounds.
    pub catalog_config: catalog::Config,
    /// Per key.
    pub limits: Arc<Limits>,
    /// What is served.
    pub topology: watch::Receiver<Arc<Topology>>,
    /// What became of what is stored.
    pub standing: watch::Receiver<Arc<Standing>>,
    /// Legacy sessions.
    pub sessions: Arc<Sessions>,
    /// Where servers are talked to.
    pub errands: Errands,
    /// Whom connections to them trust.
    pub roots: TlsRoots,
    /// What is done for servers that are defined here, and so what may be.
    pub serving: Arc<Serving>,
    /// What the workers count, and who may look at it; `None`: nothing is counted.
    pub metrics: Option<(Arc<Metrics>, Scrapes)>,
    /// How far the gateway is on its way out.
    pub phase: watch::Receiver<Phase>,
    /// Moves when keys changed.
    pub keys: watch::Receiver<u64>,
}

/// The control plane.
pub struct Admin {
    parts: Parts,
    /// What may be defined.
    rules: Rules,
    /// Moves with every change of a server or an endpoint.
    changes: watch::Sender<u64>,
    document: Bytes,
    desk: metrics::Desk,
}

/// A request whose head has come.
pub struct Asked<'a> {
    /// Its head.
    pub head: Head,
    /// Takes its body, when that has no more bytes than are said.
    pub body: TakeBody<'a>,
    /// Where what is used is counted, when it is.
    pub counters: Option<&'a Counters>,
    /// How it goes, likewise.
    pub metrics: Option<&'a Rc<Writer>>,
}

/// The body of an answer.
pub enum Body {
    /// It is here. A key's place is held until it has passed.
    Whole(Bytes, Option<Permit>),
    /// Events of a call that is under way.
    Events(Pin<Box<Events>>),
}

/// A request whose caller is known, with its body.
struct Call<'a> {
    head: &'a Head,
    body: Bytes,
    parameters: Vec<String>,
    /// `None` on public routes.
    identity: Option<Identity>,
    /// The key's place among its requests under way, on routes that call servers on its behalf.
    permit: Option<Permit>,
    counters: Option<&'a Counters>,
    metrics: Option<&'a Rc<Writer>>,
}

impl Admin {
    /// From its parts.
    pub fn new(parts: Parts) -> Self {
        let document = Bytes::from(openapi::document().to_string());
        let rules = Rules::remote(&parts.serving);
        Self { parts, rules, changes: watch::Sender::new(0), document, desk: metrics::Desk::default() }
    }

    /// What is served now.
    fn topology(&self) -> Arc<Topology> {
        Arc::clone(&self.parts.topology.borrow())
    }

    /// Moves when servers or endpoints were changed here: what is served is then to be built anew from the store.
    pub fn topology_changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Answers every request there is.
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

    /// Lets in whom the route's policy lets in, and only then takes the body: nobody without the right to the route has
    /// a byte of it read, nor one who has as much under way as the key may.
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
            let detail = "this takes an administrator's key: make one with `keyadm keys create --admin`";
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let works = identity.as_ref().filter(|_| route.policy == Policy::Client);
        let permit = works.map(|identity| self.parts.limits.gauge(identity).admit(identity)).transpose()?;
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

    /// Waits until what was changed here so far is served, so that whoever made a server can call it next. Not for
    /// long: what is shown says whether it is.
    async fn taken_up(&self) {
        let changes = *self.changes.borrow();
        let mut standing = self.parts.standing.clone();
        let is_served = standing.wait_for(|standing| standing.changes >= changes);
        // An error: the gateway is stopping.
        drop(timeout(TAKE_UP_TIMEOUT, is_served).await);
    }

    async fn identify(&self, headers: &HeaderMap) -> Result<Identity, Denied> {
        match self.known(headers)? {
            Check::Granted(identity) => Ok(identity),
            Check::Refused(denied) => Err(denied),
            Check::Ask => match credential(headers)? {
                Some(credential) => self.parts.auth.ask(&credential).await,
                None => Err(Denied::Missing),
            },
        }
    }

    /// What can be said of a caller at once.
    fn known(&self, headers: &HeaderMap) -> Result<Check, Denied> {
        if self.parts.auth.mode() == Mode::Open {
            return Ok(Check::Granted(self.parts.auth.open_identity()));
        }
        Ok(self.parts.auth.check(&credential(headers)?.ok_or(Denied::Missing)?))
    }

    async fn verify(&self, credential: &Credential<'_>) -> Result<Identity, Denied> {
        match self.parts.auth.check(credential) {
            Check::Granted(identity) => Ok(identity),
            Check::Refused(denied) => Err(denied),
            Check::Ask => self.parts.auth.ask(credential).await,
        }
    }
}

/// Says of a row what only the gateway writes: its id and version, when it was made and changed, whether it is served, and
/// if not, why.
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

    /// What stands for the route's `{…}`.
    fn parameter(&self, at: usize) -> &str {
        &self.parameters[at]
    }

    /// Who asks. Only for routes that are not public.
    fn identity(&self) -> &Identity {
        self.identity.as_ref().expect("the route's policy let somebody in")
    }

    fn is_admin(&self) -> bool {
        self.identity().role() == Role::Admin
    }

    /// Whether it sees tools also where no endpoint shows them: an administrator's key that nothing is kept from.
    fn sees_all_tools(&self) -> bool {
        self.is_admin() && !self.identity().is_confined()
    }

    fn audit(&self) -> Audit {
        Audit::by(self.identity().key_id().as_str())
    }
}

/// The methods that a path takes, as `Allow` has them; `None` where there is no route.
pub fn methods(path: &str) -> Option<String> {
    match find(&Method::OPTIONS, path) {
        Found::OtherMethods(methods) => Some(methods),
        Found::Route(..) | Found::Nothing => None,
    }
}

/// One credential, as the data plane takes it: two of one header are refused, for a proxy in front may have looked at
/// the other one.
fn credential(headers: &HeaderMap) -> Result<Option<Credential<'_>>, Denied> {
    let value = |name: &str| {
        let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        let first = values.next();
        if values.next().is_some() { Err(Denied::Invalid) } else { Ok(first) }
    };
    Credential::from_headers(value("authorization")?, value("x-api-key")?)
}

/// Whoever changes something waits so long for it to be served; usually it takes milliseconds.
const TAKE_UP_TIMEOUT: Duration = Duration::from_secs(1);

const NOWHERE: &str = "MCP is served at /mcp, /mcp/{endpoint}, /metamcp/{endpoint}/mcp and /servers/{server}/mcp; \
                       what else there is, at /swagger-ui";
