//! Sends a message to an upstream and relays its response.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};

use super::call::Call;
use super::meter::Meter;
use super::relay::{Relay, RequestResources};
use super::whole_answer::answer_under_id;
use crate::route::{EndpointShape, RoutedServer};
use crate::server::reply::body::ResponseBody;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::{CallGuard, MESSAGE_BYTES_MAX, read_terminal_message};
use crate::telemetry::metrics::OperationOutcome;
use crate::upstream::{UpstreamId, UpstreamPool};
use metamcp_core::base::{Fault, FaultKind, ServerName};
use metamcp_core::frame::{Envelope, MessageKind as FrameKind, Scanner, Span, splice};
use metamcp_core::protocol::{AnswerMatch, AnswerReader, add_answer_id, header};
use metamcp_http::{
    FailureStage, RequestKind, ResponseHead, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
};

/// A response up to this size is collected before its head is passed on, so that one that breaks off is
/// reported as an error.
const WHOLE_BYTES_MAX: usize = 64 << 10;

/// Limit for the body of an error status; a bigger one is not a JSON-RPC error.
pub const ERROR_BYTES_MAX: usize = 64 << 10;

/// The message with spans replaced, as a request to a server.
pub fn request(body: &Bytes, edits: &[(Span, Bytes)]) -> Result<UpstreamRequest, Fault> {
    let slices = splice(body, edits).map_err(|error| {
        Fault::gateway(FaultKind::Internal, "the message could not be rewritten").with_source(error)
    })?;
    Ok(UpstreamRequest::post(slices))
}

/// A client's message with spans replaced, as a request to a server. If the call is traced, `traceparent` is
/// updated.
pub fn request_of(call: &Call, edits: &[(Span, Bytes)]) -> Result<UpstreamRequest, Fault> {
    let Some(edit) = call.trace.as_ref().and_then(|trace| trace.edit()) else {
        return request(&call.body, edits);
    };
    let mut edits = [edits, &[edit]].concat();
    edits.sort_by_key(|(span, _)| span.start);
    request(&call.body, &edits)
}

/// Sends a request and waits for the head of the response.
pub async fn send(
    server: &RoutedServer,
    pool: &Rc<UpstreamPool>,
    request: &UpstreamRequest,
    lane: RequestKind,
) -> Result<Box<UpstreamResponse>, Fault> {
    pool.send(request, lane).await.map_err(|error| error.into_fault(&server.name))
}

/// A response of an upstream, ready for the client.
pub enum RelayedResponse {
    Reply(Reply),
    /// An event stream, which may be made resumable.
    Events(Box<Relay>),
}

impl RelayedResponse {
    /// Converts an event stream into a response that cannot be resumed.
    pub fn into_reply(self) -> Reply {
        match self {
            Self::Reply(reply) => reply,
            Self::Events(relay) => relay.into_reply(),
        }
    }
}

/// Relays a response to the client that made the call.
pub async fn relay(
    worker: &Rc<Worker>,
    place: &RoutedServer,
    shape: EndpointShape,
    id: Option<Bytes>,
    answered: Box<UpstreamResponse>,
    resources: RequestResources,
) -> Result<RelayedResponse, Fault> {
    let UpstreamResponse { head, body: mut answer } = *answered;
    // Declared after `answer`, so that it is dropped first: its permits are free before the server sees the
    // cancellation.
    let mut resources = resources;
    let is_changed = resources.tasks.as_ref().is_some_and(|tasks| tasks.is_in_answer());
    let begun = read_start(&place.name, &head, &mut answer, id.is_some(), is_changed).await;
    let is_events = matches!(begun, Ok(ResponseStart::Events));
    // In an event stream, what comes before the answer is passed on.
    if !is_events && resources.in_flight.as_ref().is_some_and(CallGuard::is_cancelled) {
        return Ok(RelayedResponse::Reply(cancelled(resources.meter.as_mut())));
    }
    let begun = match begun {
        Ok(begun) => begun,
        Err(fault) => return Err(failed(resources.meter.as_mut(), fault)),
    };
    match begun {
        ResponseStart::Accepted => Ok(RelayedResponse::Reply(reply::accepted())),
        ResponseStart::Refused(response) => {
            let refusal = (head.status, response);
            relay_refusal(&worker.scanner, &place.name, refusal, id.as_ref(), resources.meter.as_mut())
                .map(RelayedResponse::Reply)
        }
        ResponseStart::Events => {
            resources.meter.iter_mut().for_each(Meter::start);
            let relay = match shape {
                EndpointShape::Single if resources.refuser.is_none() => {
                    Relay::events(answer, resources, worker, &place.name, id)
                }
                EndpointShape::Single | EndpointShape::Aggregate(_) => {
                    Relay::tagged(answer, resources, worker, (&place.name, UpstreamId(place.upstream)), id)
                }
            };
            Ok(RelayedResponse::Events(Box::new(relay)))
        }
        ResponseStart::Whole(bytes) => {
            let bytes = match id {
                None => bytes,
                Some(id) => identify_answer(worker, &place.name, bytes, &id)
                    .map_err(|fault| failed(resources.meter.as_mut(), fault))?,
            };
            let bytes = match resources.tasks.take().filter(|_| is_changed) {
                Some(tasks) => tasks.message(&place.name, bytes),
                None => bytes,
            };
            Ok(RelayedResponse::Reply(whole(&head, bytes, resources)))
        }
        ResponseStart::Partial(first) => {
            let mut check = id.map(|id| Box::new(AnswerReader::new(id)));
            if let Some(check) = &mut check {
                check.push(&first);
                if check.so_far() == AnswerMatch::OtherCall {
                    return Err(failed(resources.meter.as_mut(), other_answer(&place.name)));
                }
            }
            resources.meter.iter_mut().for_each(Meter::start);
            let relay = Box::new(Relay::bytes(first, answer, resources, check));
            Ok(RelayedResponse::Reply(with_type(&head, ResponseBody::source(relay))))
        }
    }
}

/// The start of a response.
enum ResponseStart {
    /// The server accepted a notification or a response; there is no body.
    Accepted,
    /// The server rejected the message by its status; this is the body.
    Refused(Bytes),
    Events,
    Whole(Bytes),
    /// The first bytes of a body whose rest is still to come.
    Partial(Bytes),
}

/// Reads as much of a response as must arrive before any of it is passed on: all of it if it is to be
/// changed.
async fn read_start(
    server: &ServerName,
    head: &ResponseHead,
    answer: &mut UpstreamBody,
    is_awaited: bool,
    is_changed: bool,
) -> Result<ResponseStart, Fault> {
    if !head.status.is_success() {
        return read_error(server, head.status, answer).await.map(ResponseStart::Refused);
    }
    if is_awaited && !is_of_mcp(head) {
        return Err(Fault::upstream(
            FaultKind::InvalidResponse,
            format!("server `{server}` answered what is neither JSON nor an event stream, as MCP asks for"),
        ));
    }
    if head.is_event_stream() {
        return Ok(ResponseStart::Events);
    }
    let length = answer.content_length();
    let broken = |error: UpstreamError| error.into_fault(server);
    if !is_awaited {
        answer.collect(ERROR_BYTES_MAX).await.map_err(broken)?;
        return Ok(ResponseStart::Accepted);
    }
    if length == Some(0) {
        return Err(UpstreamError::from_stage(FailureStage::InvalidResponse).into_fault(server));
    }
    if is_changed {
        return answer.collect(MESSAGE_BYTES_MAX).await.map(ResponseStart::Whole).map_err(broken);
    }
    if length.is_some_and(|length| length <= WHOLE_BYTES_MAX as u64) {
        return answer.collect(WHOLE_BYTES_MAX).await.map(ResponseStart::Whole).map_err(broken);
    }
    // Most bodies of unknown length are small. One that breaks off within this prefix is reported as an
    // error.
    let awaited = if length.is_some() { 0 } else { WHOLE_BYTES_MAX };
    let first = answer.collect_prefix(awaited).await.map_err(broken)?;
    Ok(if answer.is_ended() { ResponseStart::Whole(first) } else { ResponseStart::Partial(first) })
}

/// The message, if it is the answer to the call with the raw id `id`. An error without an id gets this one. The rest of the
/// message need not be valid: it is all that the client gets.
fn identify_answer(worker: &Worker, server: &ServerName, message: Bytes, id: &Bytes) -> Result<Bytes, Fault> {
    match AnswerMatch::of_text(&message, id) {
        AnswerMatch::ThisCall => Ok(message),
        AnswerMatch::ErrorWithoutId => {
            let scanned = worker.scanner.borrow_mut().scan(&message);
            let answer = scanned.ok().and_then(|envelope| add_answer_id(&message, &envelope, id));
            answer.ok_or_else(|| no_answer(server))
        }
        AnswerMatch::OtherCall => Err(other_answer(server)),
        AnswerMatch::NotAnswer | AnswerMatch::Unidentified | AnswerMatch::Unreadable => {
            Err(no_answer(server))
        }
    }
}

/// The fault of a call whose answer has the id of another call.
#[cold]
fn other_answer(server: &ServerName) -> Fault {
    let text = format!("server `{server}` answered under the id of another call; the call may have run");
    Fault::upstream(FaultKind::InvalidResponse, text)
}

/// The fault of a call whose response has no answer.
#[cold]
fn no_answer(server: &ServerName) -> Fault {
    let text = format!("server `{server}` answered what is no JSON-RPC answer; the call may have run");
    Fault::upstream(FaultKind::InvalidResponse, text)
}

/// Counts a call as failed.
#[cold]
pub fn failed(meter: Option<&mut Meter>, fault: Fault) -> Fault {
    if let Some(meter) = meter {
        meter.fail(Some(fault.kind));
    }
    fault
}

/// The reply to a call that the client cancelled: an event stream without a response (MCP 2025-11-25, cancellation).
#[cold]
pub fn cancelled(meter: Option<&mut Meter>) -> Reply {
    if let Some(meter) = meter {
        meter.end(OperationOutcome::Disconnect);
    }
    reply::events(ResponseBody::empty())
}

/// The complete message of a response if it is a result. Used when several servers are asked in turn.
pub async fn read_result(scanner: &RefCell<Scanner>, answered: Box<UpstreamResponse>) -> Option<Bytes> {
    let UpstreamResponse { head, body: mut answer } = *answered;
    let is_stream = head.is_event_stream();
    let message = if is_stream {
        read_terminal_message(&mut answer).await.ok()?
    } else {
        answer.collect(MESSAGE_BYTES_MAX).await.ok()?
    };
    let envelope = scanner.borrow_mut().scan(&message).ok()?;
    (envelope.kind == FrameKind::Response).then_some(message)
}

/// Whether a successful response has one of MCP's two content types, without content encoding. Nothing else
/// was requested, and nothing is guessed. A response without a type counts as JSON.
fn is_of_mcp(head: &ResponseHead) -> bool {
    !head.is_encoded && (head.is_json() || head.is_event_stream())
}

/// A complete response, counted.
fn whole(head: &ResponseHead, bytes: Bytes, mut resources: RequestResources) -> Reply {
    if let Some(meter) = &mut resources.meter {
        meter.add_bytes(bytes.len());
        meter.end(OperationOutcome::Answer);
    }
    with_type(head, ResponseBody::whole(bytes))
}

fn with_type(from: &ResponseHead, body: ResponseBody) -> Reply {
    let json = || HeaderValue::from_static(header::JSON);
    Reply::typed(StatusCode::OK, from.content_type.clone().unwrap_or_else(json), body)
}

/// Reads the body of an error status that may be a protocol error. Any other status is a fault of the server.
async fn read_error(
    server: &ServerName,
    status: StatusCode,
    answer: &mut UpstreamBody,
) -> Result<Bytes, Fault> {
    let is_clients = status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 429);
    if !is_clients {
        return Err(bad_status(server, status));
    }
    answer.collect(ERROR_BYTES_MAX).await.map_err(|error| error.into_fault(server))
}

/// Passes on the server's rejection, its status and body, if it is a JSON-RPC error, and not under the id of another call.
/// Many servers write `null` instead of the id; the client gets its own.
pub fn relay_refusal(
    scanner: &RefCell<Scanner>,
    server: &ServerName,
    (status, message): (StatusCode, Bytes),
    id: Option<&Bytes>,
    meter: Option<&mut Meter>,
) -> Result<Reply, Fault> {
    let scanned = scanner.borrow_mut().scan(&message);
    let is_error = |envelope: &Envelope| envelope.kind == FrameKind::Error;
    let message = scanned.ok().filter(is_error).and_then(|envelope| match id {
        Some(id) => answer_under_id(message, &envelope, id),
        None => Some(message),
    });
    let passed = message.ok_or_else(|| bad_status(server, status));
    if let Some(meter) = meter {
        meter.fail(passed.as_ref().err().map(|fault| fault.kind));
    }
    Ok(Reply { status, ..reply::message(passed?) })
}

/// The fault for a status that MCP does not define as an answer.
#[cold]
fn bad_status(server: &ServerName, status: StatusCode) -> Fault {
    let (kind, text) = match status.as_u16() {
        401 | 403 => (
            FaultKind::UpstreamRefused,
            format!(
                "server `{server}` refuses the gateway's credentials, its configuration needs new ones; the call did not run"
            ),
        ),
        429 | 503 => (
            FaultKind::Overloaded,
            format!("server `{server}` is overloaded, try again later; the call did not run"),
        ),
        300..=399 => (
            FaultKind::InvalidResponse,
            format!(
                "server `{server}` redirects, which is not followed, configure its final address; the call did not run"
            ),
        ),
        code => (
            FaultKind::InvalidResponse,
            format!("server `{server}` answered with HTTP {code}; the call may have run"),
        ),
    };
    Fault::upstream(kind, text)
}
