//! The way of one request, from its head to the head of its answer.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_REQUEST_HEADERS, VARY,
};
use http::request::Parts;
use http::{HeaderValue, Method, Request, Response, StatusCode};
use hyper::body::Incoming;

use super::body::ResponseBody;
use super::call::{self, Call};
use super::control::Control;
use super::worker::Worker;
use super::{batch, event_stream, legacy, modern, receive, reply};
use crate::base::{Fault, Kind};
use crate::protocol::{Era, Revision, header};

/// Answers a request; a fault becomes an answer too.
///
/// Not cancel safe: dropping it, as hyper does when the client has gone, drops the connection to the backend
/// with it, which tells the backend to stop.
pub async fn handle(
    worker: &Rc<Worker>,
    control: &Control,
    request: Request<Incoming>,
) -> Response<ResponseBody> {
    let origin = worker.shared.guard.allowed_origin(request.headers()).cloned();
    let mut response = match forward(worker, control, request).await {
        Ok(response) => response,
        Err(fault) => {
            let request_id = worker.note_fault(&fault);
            reply::fault(&fault, &request_id)
        }
    };
    if let Some(origin) = origin {
        allow_origin(&mut response, origin);
    }
    response
}

/// The way of a request.
async fn forward(
    worker: &Rc<Worker>,
    control: &Control,
    request: Request<Incoming>,
) -> Result<Response<ResponseBody>, Fault> {
    let (head, mut body) = request.into_parts();
    worker.shared.guard.check(&head)?;
    if head.method == Method::OPTIONS {
        return Ok(preflight(&head));
    }
    let Some(endpoint) = worker.shared.table.find(head.uri.path()) else {
        return ask_control_plane(worker, head, body).await;
    };
    let (identity, permit) = worker.let_in(control, &head.headers).await?;
    match head.method {
        Method::POST => {
            let config = &worker.shared.config;
            receive::negotiate(&head.headers)?;
            let body = receive::receive(config, config.body_bytes_max, &head.headers, &mut body).await?;
            if batch::is_batch(worker, &head.headers, &identity, endpoint, &body) {
                return batch::answer(worker, &head.headers, &identity, endpoint, &body).await;
            }
            let (envelope, method) = call::scan(&mut worker.scanner.borrow_mut(), &body)?;
            let endpoint = endpoint.clone();
            let call =
                Box::new(Call { headers: head.headers, endpoint, identity, permit, body, envelope, method });
            let id = call.envelope.id.map(|id| call.raw(id.span));
            let answer = match call.era() {
                Era::Modern => modern::answer(worker, call).await,
                Era::Legacy => legacy::answer(worker, call).await,
            };
            answer.map_err(|fault| fault.answering(id))
        }
        Method::GET | Method::DELETE if is_modern(&head) => Err(not_allowed("this revision has only POST")),
        Method::GET => {
            let session = worker.session(&head.headers, &identity, endpoint)?;
            event_stream::open(worker, &head.headers, session, identity, permit)
        }
        Method::DELETE => {
            let session = worker.session(&head.headers, &identity, endpoint)?;
            legacy::end(worker, &session);
            Ok(reply::status(StatusCode::OK))
        }
        _ => Err(not_allowed("use POST, or GET and DELETE within a session")),
    }
}

fn is_modern(head: &Parts) -> bool {
    head.headers
        .get(header::PROTOCOL_VERSION)
        .and_then(|value| Revision::parse(value.as_bytes()))
        .is_some_and(|revision| revision.era() == Era::Modern)
}

#[cold]
fn not_allowed(text: &'static str) -> Fault {
    Fault::client(Kind::MethodNotAllowed, text)
}

/// Every path that is not MCP's.
async fn ask_control_plane(
    worker: &Rc<Worker>,
    head: Parts,
    mut body: Incoming,
) -> Result<Response<ResponseBody>, Fault> {
    let control = &worker.shared.control;
    let bytes_max = control.body_bytes_max(&head);
    let body = match bytes_max {
        0 => Bytes::new(),
        _ => receive::receive(&worker.shared.config, bytes_max, &head.headers, &mut body).await?,
    };
    let response = control.answer(Request::from_parts(head, body)).await;
    Ok(response.map(ResponseBody::whole))
}

/// What a browser asks before it sends what it would not send by itself.
fn preflight(head: &Parts) -> Response<ResponseBody> {
    let mut response = reply::status(StatusCode::NO_CONTENT);
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("POST, GET, DELETE"));
    // Whatever it wants to send: `Mcp-Param-*` has no end of names, and nothing is allowed that a program
    // could not send anyway.
    if let Some(asked) = head.headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
    }
    response
}

/// Only for an Origin that was let in by name; without credentials mode, a page brings its own key.
fn allow_origin(response: &mut Response<ResponseBody>, origin: HeaderValue) {
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(VARY, HeaderValue::from_static("Origin"));
    headers.insert(
        ACCESS_CONTROL_EXPOSE_HEADERS,
        HeaderValue::from_static("mcp-session-id, mcp-protocol-version, x-request-id"),
    );
}
