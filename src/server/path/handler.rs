//! The path of one request, from its head to the head of its response.

use std::rc::Rc;
use std::time::Instant;

use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, VARY,
};
use http::request::Parts;
use http::uri::Authority;
use http::{HeaderValue, Method, Request, StatusCode};
use hyper::body::Incoming;

use super::frames;
use crate::limits::PermitKind;
use crate::route::EndpointReference;
use crate::server::eras::{batch, legacy, message};
use crate::server::http1::activity::ConnectionActivity;
use crate::server::http1::control_plane::ControlRequest;
use crate::server::http1::fields::{Field, Fields};
use crate::server::http1::receive::{self, RequestBody};
use crate::server::http1::request::EndpointRequest;
use crate::server::mcp::call::{self, Call};
use crate::server::mcp::relay::connection_ends;
use crate::server::reply::body::ResponseBody;
use crate::server::reply::reply::{self, Reply};
use crate::server::streams::event_stream;
use crate::server::worker::credential_cache::{self, CredentialCache};
use crate::server::worker::{Metering, Worker};
use crate::telemetry::metrics::LabelId;
use crate::telemetry::records::RequestRecorder;
use metamcp_core::base::{BodyReader, Fault, FaultKind};
use metamcp_core::protocol::{Era, Revision};

/// Answers a request that hyper read. A fault becomes a response too.
///
/// Not cancel safe: dropping it, as hyper does when the client has disconnected, drops the connection to the
/// upstream with it, which tells the upstream to stop.
pub async fn handle(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    request: Request<Incoming>,
) -> Reply {
    let (head, body) = request.into_parts();
    let fields = Fields::from_map(&head.headers);
    if activity.is_closing() && activity.refuses_requests(Instant::now()) {
        let origin = worker.settings().guard.allowed_origin(&fields);
        return conclude(&worker.metering, Err(connection_ends()), None, origin);
    }
    if head.headers.len() > worker.settings().config.header_count_max {
        // hyper counts the fields of HTTP/1.1 itself, and answers the same.
        return reply::status(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    }
    let authority = head.uri.authority().cloned();
    if head.method != Method::OPTIONS
        && let Some(endpoint) = worker.topology.endpoint(head.uri.path())
    {
        let body = RequestBody::Streamed(body);
        let request = EndpointRequest { method: head.method, authority, endpoint, fields, body };
        return answer(worker, activity, request).await;
    }
    if head.method != Method::OPTIONS
        && let Some(endpoint) = worker.topology.streamed_endpoint(head.uri.path())
    {
        let origin = worker.settings().guard.allowed_origin(&fields);
        // Boxed, so that it does not grow the future of every request.
        let opened = Box::pin(frames::open(worker, activity, (&head, fields), &endpoint, body)).await;
        return conclude(&worker.metering, opened, Some(endpoint.label), origin);
    }
    let guarded = worker.settings().guard.check(&fields, authority.as_ref().map(Authority::as_str));
    let guarded = guarded.and_then(|()| CredentialCache::check_certificate(activity));
    let answered = match (guarded, reference_of(&head.method, head.uri.path())) {
        (Err(fault), _) => Err(fault),
        (Ok(()), _) if head.method == Method::OPTIONS => Ok(preflight(worker, &head)),
        // Who may not know which endpoints there are gets the answer of one that may not be used.
        (Ok(()), Some((reference, kind))) => {
            let admitted =
                worker.credentials.authenticate_and_admit(&worker.clock, activity, &fields, kind).await;
            let mode = worker.shared.auth.mode();
            Err(admitted
                .map_or_else(|fault| fault, |_| reply::no_such_endpoint(mode, &reference.display_name())))
        }
        (Ok(()), None) => Ok(ask_control_plane(worker, activity, (head, &fields), body).await),
    };
    conclude(&worker.metering, answered, None, worker.settings().guard.allowed_origin(&fields))
}

/// Answers a request to an endpoint. A fault becomes a response too. Not cancel safe, for the same reason as
/// [`handle`].
pub async fn answer(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    request: EndpointRequest,
) -> Reply {
    let origin = worker.settings().guard.allowed_origin(&request.fields);
    let label = request.endpoint.label;
    let answered = forward(worker, activity, request).await;
    conclude(&worker.metering, answered, Some(label), origin)
}

fn conclude(
    metering: &Metering,
    answered: Result<Reply, Fault>,
    endpoint: Option<LabelId>,
    origin: Option<HeaderValue>,
) -> Reply {
    let mut reply = answered.unwrap_or_else(|fault| {
        let request_id = metering.answer_fault(endpoint, &fault);
        reply::fault(&fault, &request_id)
    });
    if let Some(origin) = origin {
        allow_origin(&mut reply, origin);
    }
    reply
}

/// The path of a request to an endpoint, one step per line.
async fn forward(
    worker: &Rc<Worker>,
    activity: &Rc<ConnectionActivity>,
    request: EndpointRequest,
) -> Result<Reply, Fault> {
    let EndpointRequest { method, authority, endpoint, fields, body } = request;
    worker.settings().guard.check_on(activity, &fields, authority.as_ref().map(Authority::as_str))?;
    let kind = permit_kind_of(&method);
    let (identity, permit) =
        worker.credentials.authenticate_and_admit(&worker.clock, activity, &fields, kind).await?;
    if !identity.can_use_endpoint(&endpoint.scope) {
        // The same answer as for an unknown path, so that a key cannot find out which endpoints it may not
        // use.
        return Err(reply::no_such_endpoint(worker.shared.auth.mode(), &endpoint.display_name()));
    }
    match method {
        Method::POST => {
            receive::negotiate(&fields)?;
            let body = receive::receive(&worker.settings().config, &fields, body).await?;
            if batch::is_batch(&worker.sessions, &fields, &identity, &endpoint, &body) {
                // Boxed, like other rare cases below, so that it does not grow the future of every request.
                let batch = batch::answer(worker, activity, (&fields, &identity, &endpoint), &body, permit);
                return Box::pin(batch).await;
            }
            let scanned = call::scan(&mut worker.scanner.borrow_mut(), &body)?;
            let call = Box::new(Call::new(fields, endpoint, identity, Some(permit), body, scanned));
            let id = call.envelope.id.map(|id| call.raw(id.span));
            check_permit(&call).map_err(|fault| fault.with_id(id.clone()))?;
            message::answer(worker, call).await.map_err(|fault| fault.with_id(id))
        }
        Method::GET | Method::DELETE if is_modern(&fields) => Err(not_allowed("this revision has only POST")),
        Method::GET => {
            let session = worker.sessions.find(&fields, &identity, &endpoint)?;
            event_stream::open(worker, &fields, session, identity, permit)
        }
        Method::DELETE => {
            let session = worker.sessions.find(&fields, &identity, &endpoint)?;
            legacy::end(worker, &session);
            worker.sessions.evict_session(&fields);
            Ok(reply::status(StatusCode::OK))
        }
        _ => Err(not_allowed("use POST, or GET and DELETE within a session")),
    }
}

/// The endpoint that a path names, whether it exists or not, and the kind of permit that a request to it needs. `None` for other
/// paths.
fn reference_of<'a>(method: &Method, path: &'a str) -> Option<(EndpointReference<'a>, PermitKind)> {
    if let Some(reference) = EndpointReference::of_stream_path(path) {
        return Some((reference, PermitKind::EventStream));
    }
    EndpointReference::of_path(path).map(|reference| (reference, permit_kind_of(method)))
}

/// The kind of permit that a request to an endpoint's path for MCP needs.
fn permit_kind_of(method: &Method) -> PermitKind {
    match *method {
        Method::GET => PermitKind::EventStream,
        // Whether it is a call is known only when its body is read. A DELETE runs nothing, and ends what others wait for.
        Method::POST | Method::DELETE => PermitKind::Message,
        _ => PermitKind::Call,
    }
}

/// Checks that a request has the permit of a call.
fn check_permit(call: &Call) -> Result<(), Fault> {
    match &call.permit {
        Some(permit) if call.is_request() => permit.check_request().map_err(credential_cache::refused),
        _ => Ok(()),
    }
}

fn is_modern(fields: &Fields) -> bool {
    let revision = fields.get(Field::McpProtocolVersion).and_then(Revision::parse);
    revision.is_some_and(|revision| revision.era() == Era::Modern)
}

#[cold]
fn not_allowed(text: &'static str) -> Fault {
    Fault::client(FaultKind::MethodNotAllowed, text)
}

/// Answers every path that is not an MCP endpoint.
async fn ask_control_plane(
    worker: &Worker,
    activity: &ConnectionActivity,
    (head, fields): (Parts, &Fields),
    mut body: Incoming,
) -> Reply {
    let config = &worker.settings().config;
    let take: BodyReader<'_> = Box::new(move |bytes_max| {
        Box::pin(async move { receive::collect(config, bytes_max, fields, &mut body).await })
    });
    let (counters, metrics) = (worker.metering.counters.as_ref(), worker.metering.metrics.as_ref());
    let recorder = &worker.metering.recorder;
    let records = recorder
        .is_wanted()
        .then(|| RequestRecorder { recorder, request_id: worker.metering.next_request_id() });
    let certificate = activity.certificate.get();
    let request = ControlRequest { head, certificate, body: take, counters, metrics, records };
    let (head, body) = worker.shared.control_plane.answer(request).await.into_parts();
    Reply { headers: Some(Box::new(head.headers)), ..Reply::new(head.status, ResponseBody::control(body)) }
}

/// Answers a CORS preflight request.
fn preflight(worker: &Worker, head: &Parts) -> Reply {
    let path = head.uri.path();
    // Whether an endpoint exists is not said.
    let methods = if EndpointReference::of_stream_path(path).is_some() {
        Some("POST".to_owned())
    } else if EndpointReference::of_path(path).is_some() {
        None
    } else {
        worker.shared.control_plane.methods(path)
    };
    let mut reply = reply::status(StatusCode::NO_CONTENT);
    let headers = reply.headers_mut();
    let methods = methods.and_then(|methods| HeaderValue::from_str(&methods).ok());
    let methods = methods.unwrap_or(HeaderValue::from_static("POST, GET, DELETE"));
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, methods);
    // Any header is allowed: `Mcp-Param-*` has an open set of names, and a program could send them all
    // anyway.
    if let Some(requested) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, requested.clone());
    }
    reply
}

/// Only for an explicitly allowed origin. Without credentials mode, a page brings its own key.
fn allow_origin(reply: &mut Reply, origin: HeaderValue) {
    let headers = reply.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("mcp-session-id, mcp-protocol-version, x-request-id, etag, retry-after"),
    );
}
