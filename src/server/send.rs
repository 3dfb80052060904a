//! A message on its way to a backend, and its answer on the way back.

use std::rc::Rc;

use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};

use super::body::ResponseBody;
use super::relay::{Held, Relay, bad_status};
use super::worker::Worker;
use super::{call::Call, reply};
use crate::backend::{Answer, BackendError, Lane, RequestBody, Stage};
use crate::base::{Fault, Kind, ServerName};
use crate::frame::{Kind as FrameKind, Span, splice};
use crate::protocol::header;
use crate::route::{Place, Shape};
use crate::session::{MESSAGE_BYTES_MAX, is_event_stream, read_terminal};

/// Headers of a client that a server may see, beside `Mcp-Param-*`. Anything else stays here: credentials,
/// cookies, and what belongs to the one connection.
const FORWARDED: [HeaderName; 6] = [
    header::PROTOCOL_VERSION,
    header::METHOD,
    header::NAME,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("baggage"),
];

/// An answer of this size or smaller is taken whole before its head is passed on, so that one that breaks
/// off is told as such.
const WHOLE_BYTES_MAX: usize = 64 << 10;

/// The body of an error status; bigger ones are no JSON-RPC errors.
pub const ERROR_BYTES_MAX: usize = 64 << 10;

/// The message with parts replaced, as a request to the server with what every request carries.
pub fn request(
    worker: &Worker,
    place: &Place,
    body: &Bytes,
    edits: &[(Span, Bytes)],
) -> Result<Request<RequestBody>, Fault> {
    let slices = splice(body, edits).map_err(|error| {
        Fault::gateway(Kind::Internal, "the message could not be rewritten").because(error)
    })?;
    Ok(worker.pool(place.backend).backend().post(RequestBody::new(slices)))
}

/// Copies what a server may see.
pub fn copy_headers(from: &HeaderMap, to: &mut HeaderMap) {
    for (name, value) in from {
        // Most headers are told apart by their first letter.
        let may_be = matches!(name.as_str().as_bytes().first(), Some(b'm' | b't' | b'b'));
        if may_be && (FORWARDED.contains(name) || name.as_str().starts_with(header::PARAM_PREFIX)) {
            to.append(name.clone(), value.clone());
        }
    }
}

/// Sends, and waits for the head of the answer.
pub async fn send(
    worker: &Rc<Worker>,
    place: &Place,
    request: Request<RequestBody>,
    lane: Lane,
) -> Result<Response<Answer>, Fault> {
    let pool = worker.pool(place.backend);
    pool.send(request, lane).await.map_err(|error| error.into_fault(&place.name))
}

/// Passes an answer on to the client that made the call.
pub async fn pass(
    worker: &Rc<Worker>,
    place: &Place,
    shape: Shape,
    id: Option<Bytes>,
    response: Response<Answer>,
    held: Held,
) -> Result<Response<ResponseBody>, Fault> {
    let (head, mut answer) = response.into_parts();
    if !head.status.is_success() {
        return pass_error(worker, &place.name, head.status, answer).await;
    }
    if id.is_some() && !is_of_mcp(&head.headers) {
        return Err(Fault::backend(
            Kind::BadAnswer,
            format!(
                "server `{}` answered what is neither JSON nor an event stream, as MCP asks for",
                place.name
            ),
        ));
    }
    if is_event_stream(&head.headers) {
        let relay = match shape {
            Shape::Single => Relay::events(answer, held, worker, &place.name, id),
            Shape::Aggregate(_) => {
                let backend = worker.pool(place.backend).backend().id;
                Relay::tagged(answer, held, worker, (&place.name, backend), id)
            }
        };
        return Ok(reply::events(ResponseBody::relay(relay)));
    }
    let length = answer.length();
    if id.is_none() {
        // A notification or response was taken; there is nothing to say about it.
        answer.collect(ERROR_BYTES_MAX).await.map_err(|error| error.into_fault(&place.name))?;
        return Ok(reply::accepted());
    }
    if length == Some(0) {
        return Err(BackendError::bare(Stage::Nonsense).into_fault(&place.name));
    }
    if length.is_some_and(|length| length <= WHOLE_BYTES_MAX as u64) {
        let bytes = answer.collect(WHOLE_BYTES_MAX).await.map_err(|error| error.into_fault(&place.name))?;
        return Ok(with_type(&head.headers, ResponseBody::whole(bytes)));
    }
    // Of unknown length, most are small. What breaks off within the part that is awaited is told as such.
    let awaited = if length.is_some() { 0 } else { WHOLE_BYTES_MAX };
    let first = answer.begin(awaited).await.map_err(|error| error.into_fault(&place.name))?;
    if answer.is_ended() {
        return Ok(with_type(&head.headers, ResponseBody::whole(first)));
    }
    let relay = ResponseBody::relay(Relay::bytes(first, answer, held));
    Ok(with_type(&head.headers, relay))
}

/// The whole message of an answer, when it is a result: for asking several servers in turn.
pub async fn result_of(worker: &Rc<Worker>, response: Response<Answer>) -> Option<Bytes> {
    let is_stream = is_event_stream(response.headers());
    let mut answer = response.into_body();
    let message = if is_stream {
        read_terminal(&mut answer).await.ok()?
    } else {
        answer.collect(MESSAGE_BYTES_MAX).await.ok()?
    };
    let envelope = worker.scanner.borrow_mut().scan(&message).ok()?;
    (envelope.kind == FrameKind::Response).then_some(message)
}

/// Whether a success is in one of the two forms of MCP, unpacked: nothing else was asked for, and nothing is
/// guessed. Without a type it is taken for JSON.
fn is_of_mcp(headers: &HeaderMap) -> bool {
    let is_plain =
        headers.get(CONTENT_ENCODING).is_none_or(|value| value.as_bytes().eq_ignore_ascii_case(b"identity"));
    let is_json = headers.get(CONTENT_TYPE).is_none_or(super::receive::is_json);
    is_plain && (is_json || is_event_stream(headers))
}

fn with_type(from: &HeaderMap, body: ResponseBody) -> Response<ResponseBody> {
    let mut response = Response::new(body);
    let json = || HeaderValue::from_static(header::JSON);
    let content_type = from.get(CONTENT_TYPE).cloned().unwrap_or_else(json);
    response.headers_mut().insert(CONTENT_TYPE, content_type);
    response
}

/// An error of the protocol passes with its status and bytes; any other status is the server's failure.
async fn pass_error(
    worker: &Rc<Worker>,
    server: &ServerName,
    status: StatusCode,
    mut answer: Answer,
) -> Result<Response<ResponseBody>, Fault> {
    let is_clients = status.is_client_error() && !matches!(status.as_u16(), 401 | 403 | 407 | 429);
    if !is_clients {
        return Err(bad_status(server, status));
    }
    let said = answer.collect(ERROR_BYTES_MAX).await.map_err(|error| error.into_fault(server))?;
    pass_refusal(worker, server, status, said)
}

/// As the server said it, when that is an error of the protocol.
pub fn pass_refusal(
    worker: &Worker,
    server: &ServerName,
    status: StatusCode,
    said: Bytes,
) -> Result<Response<ResponseBody>, Fault> {
    let scanned = worker.scanner.borrow_mut().scan(&said);
    if !scanned.is_ok_and(|envelope| envelope.kind == FrameKind::Error) {
        return Err(bad_status(server, status));
    }
    let mut response = reply::message(said);
    *response.status_mut() = status;
    Ok(response)
}

/// What a call holds until its answer has passed.
pub fn held(call: Box<Call>) -> Held {
    Held { permit: Some(call.permit), in_flight: None, subscriber: None }
}
