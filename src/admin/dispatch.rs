//! Dispatches requests to handlers, after authentication and admission.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, X_CONTENT_TYPE_OPTIONS};
use http::request::Parts as Head;
use http::{HeaderValue, Method, Response, StatusCode};

use super::authenticated_request::AuthenticatedRequest;
use super::body::ControlPlaneBody;
use super::control_plane::ControlPlane;
use super::problem::Problem;
use super::routes::{Operation, Route, RouteMatch, RoutePolicy, find_route};
use super::swagger;
use crate::journal::usage::WorkerCounters;
use crate::limits::PermitKind;
use crate::telemetry::metrics::MetricsWriter;
use crate::telemetry::records::RequestRecorder;
use metamcp_config::sections::AuthMode;
use metamcp_core::base::{BodyReader, MEMORY};
use metamcp_store::auth::{ClientCertificate, Identity};
use metamcp_store::store::Role;

/// A request whose head was received.
pub struct ControlPlaneRequest<'a> {
    pub head: Head,
    /// What the certificate of the connection stands for.
    pub certificate: Option<ClientCertificate>,
    /// Reads the body, up to a limit.
    pub body: BodyReader<'a>,
    /// Where usage is counted, if it is.
    pub counters: Option<&'a WorkerCounters>,
    /// Where metrics are counted, if they are.
    pub metrics: Option<&'a Rc<MetricsWriter>>,
    /// The record of calls, if there is one.
    pub records: Option<RequestRecorder<'a>>,
}

impl ControlPlane {
    /// Responds to any request.
    pub async fn respond(&self, asked: ControlPlaneRequest<'_>) -> Response<ControlPlaneBody> {
        let mut asked_for = None;
        let answered = match find_route(&asked.head.method, asked.head.uri.path()) {
            RouteMatch::Route(route, parameters) => {
                asked_for = Some(route);
                self.admit(route, parameters, asked).await
            }
            RouteMatch::OtherMethods(allow) => Err(Problem::method_not_allowed(&allow)),
            RouteMatch::Nothing => Err(Problem::new(StatusCode::NOT_FOUND, NOT_FOUND_DETAIL)),
        };
        let mut response = answered.unwrap_or_else(|problem| {
            problem.to_response().map(|bytes| ControlPlaneBody::Whole(bytes, None))
        });
        let headers = response.headers_mut();
        headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
        headers.entry(CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
        self.metrics_state.count_response(asked_for, response.status());
        response
    }

    /// Authenticates and admits a request as the policy of its route demands, and only then reads the body:
    /// no body is read for a caller who may not use the route, or whose key has no permit left.
    async fn admit(
        &self,
        route: &Route,
        parameters: Vec<String>,
        asked: ControlPlaneRequest<'_>,
    ) -> Result<Response<ControlPlaneBody>, Problem> {
        let ControlPlaneRequest { head, certificate, body, counters, metrics, records } = asked;
        let identity = match route.policy {
            RoutePolicy::Public => None,
            RoutePolicy::Admin if route.operation == Operation::Metrics && self.metrics_are_public() => None,
            RoutePolicy::Client | RoutePolicy::Admin => {
                Some(self.identify(&head.headers, certificate).await?)
            }
        };
        if identity.as_ref().is_some_and(|identity| !route.policy.admits(identity)) {
            let detail = if self.parts.auth.mode() == AuthMode::Open {
                "a gateway that requires no keys (auth.mode = \"none\", --no-auth) is administered with keyadm alone"
            } else {
                "this requires an administrator's key; create one with `keyadm keys create --admin`"
            };
            return Err(Problem::new(StatusCode::FORBIDDEN, detail));
        }
        let kind = match (route.operation, route.policy) {
            (Operation::StreamEvents | Operation::StreamHealth, _) => Some(PermitKind::EventStream),
            (_, RoutePolicy::Client) => Some(PermitKind::Call),
            (_, RoutePolicy::Public | RoutePolicy::Admin) => None,
        };
        let works = identity.as_ref().zip(kind);
        let permit = works
            .map(|(identity, kind)| self.parts.limits.usage(identity).admit(identity, kind))
            .transpose()?;
        if works.is_some() {
            MEMORY.check_new_work()?;
        }
        let body = match route.body_bytes_max {
            0 => Bytes::new(),
            bytes_max => {
                body(bytes_max).await.map_err(|fault| Problem::unreadable_body(&fault, bytes_max))?
            }
        };
        let call = AuthenticatedRequest {
            head: &head,
            certificate,
            body,
            parameters,
            identity,
            permit,
            counters,
            metrics,
            records,
        };
        self.dispatch(route.operation, call).await
    }

    async fn dispatch(
        &self,
        operation: Operation,
        owned: AuthenticatedRequest<'_>,
    ) -> Result<Response<ControlPlaneBody>, Problem> {
        let call = &owned;
        let answered = match operation {
            Operation::Health => Ok(Self::health()),
            Operation::Ready => Ok(self.ready(call.headers(), call.certificate).await),
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
            Operation::StreamEvents => return self.stream_events(owned),
            Operation::StreamHealth => return self.stream_health(owned),
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
        answered.map(|response| response.map(|bytes| ControlPlaneBody::Whole(bytes, owned.permit)))
    }

    fn openapi(&self) -> Response<Bytes> {
        let mut response = Response::new(self.document.clone());
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

impl RoutePolicy {
    fn admits(self, identity: &Identity) -> bool {
        match self {
            Self::Public | Self::Client => true,
            Self::Admin => identity.role() == Role::Admin,
        }
    }
}

/// Returns the methods of a path in the form of `Allow`. `None` if there is no route.
pub fn methods(path: &str) -> Option<String> {
    match find_route(&Method::OPTIONS, path) {
        RouteMatch::OtherMethods(methods) => Some(methods),
        RouteMatch::Route(..) | RouteMatch::Nothing => None,
    }
}

const NOT_FOUND_DETAIL: &str = "MCP is served at /mcp, /mcp/{endpoint}, /metamcp/{endpoint}/mcp and /servers/{server}/mcp; \
                       see /swagger-ui for all other routes";
