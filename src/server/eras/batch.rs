//! Batches: several messages in one body, which only revision 2025-03-26 allows (JSON-RPC 2.0, section 6).

use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http_body::Body as _;
use tokio::sync::mpsc;
use tokio::task::spawn_local;

use super::message;
use crate::limits::Permit;
use crate::route::Endpoint;
use crate::server::http1::fields::{Field, Fields};
use crate::server::mcp::call::{self, Call};
use crate::server::reply::body::ResponseBody;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::{SessionCache, Worker};
use crate::session::MESSAGE_BYTES_MAX;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::MessageKind as FrameKind;
use metamcp_core::frame::write_event;
use metamcp_core::protocol::{McpMethod, Revision, code, header};
use metamcp_store::auth::Identity;

/// Chunks that wait for the client to read them.
const PIECES_MAX: usize = 16;

/// Whether the body is an array, and its session is of the revision that allows batches, or the request if it
/// has no session.
pub fn is_batch(
    sessions: &SessionCache,
    fields: &Fields,
    identity: &Identity,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
) -> bool {
    body.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'[')
        && revision(sessions, fields, identity, endpoint) == Some(Revision::V2025_03_26)
}

/// The revision of the request. `None` if its session or its revision is unknown.
fn revision(
    sessions: &SessionCache,
    fields: &Fields,
    identity: &Identity,
    endpoint: &Arc<Endpoint>,
) -> Option<Revision> {
    if !fields.has(Field::McpSessionId) {
        return match fields.get(Field::McpProtocolVersion) {
            Some(revision) => Revision::parse(revision),
            None => Some(Revision::FALLBACK),
        };
    }
    sessions.find(fields, identity, endpoint).map(|session| session.claims.revision).ok()
}

/// Answers the messages in order, in one event stream. A batch needs as many of its key's permits as it has
/// messages. `permit` is the first one; it is held until the last byte, when all messages may be answered.
pub async fn answer(
    worker: &Rc<Worker>,
    fields: &Fields,
    identity: &Identity,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
    permit: Permit,
) -> Result<Reply, Fault> {
    let calls = read(worker, fields, identity, endpoint, body)?;
    let has_requests = calls.iter().any(Call::is_request);
    if !has_requests {
        for call in calls {
            message::answer(worker, Box::new(call)).await?;
        }
        return Ok(reply::accepted());
    }
    let (sender, receiver) = mpsc::channel(PIECES_MAX);
    let worker = Rc::clone(worker);
    spawn_local(async move {
        for call in calls {
            let id = call.is_request().then(|| call.id());
            // A closed channel means that the client disconnected; the rest of the batch is not started.
            let passed = tokio::select! {
                passed = answer_message(&worker, Box::new(call), id, &sender) => passed,
                () = sender.closed() => false,
            };
            if !passed {
                return;
            }
        }
    });
    Ok(reply::events(ResponseBody::events(receiver, Some(permit), Some(identity.clone()))))
}

/// Scans the messages of the batch. If one is invalid, the whole batch is rejected before any message runs.
fn read(
    worker: &Rc<Worker>,
    fields: &Fields,
    identity: &Identity,
    endpoint: &Arc<Endpoint>,
    body: &Bytes,
) -> Result<Vec<Call>, Fault> {
    let mut scanner = worker.scanner.borrow_mut();
    let items = scanner.batch_items(body).map_err(|error| {
        let kind = if error.code() == code::PARSE { FaultKind::Parse } else { FaultKind::InvalidRequest };
        Fault::client(kind, error.to_string())
    })?;
    let mut calls = Vec::with_capacity(items.len());
    for item in items {
        let body = body.slice(item.start as usize..item.end as usize);
        let (envelope, method) = call::scan(&mut scanner, &body)?;
        if method == Some(McpMethod::Initialize) {
            return Err(Fault::client(FaultKind::InvalidRequest, "initialize must not be part of a batch"));
        }
        let permit = if calls.is_empty() { None } else { Some(worker.credentials.admit(identity)?) };
        let (fields, endpoint, identity) = (fields.clone(), Arc::clone(endpoint), identity.clone());
        let (shares_response, trace) = (true, None);
        calls.push(Call {
            fields,
            endpoint,
            identity,
            permit,
            body,
            envelope,
            method,
            shares_response,
            trace,
        });
    }
    Ok(calls)
}

/// Runs one message and forwards its answer. Returns false if the client disconnected.
async fn answer_message(
    worker: &Rc<Worker>,
    call: Box<Call>,
    id: Option<Bytes>,
    sender: &mpsc::Sender<Bytes>,
) -> bool {
    let expects = call.envelope.kind == FrameKind::Request;
    let label = call.endpoint.label;
    let response = match message::answer(worker, call).await {
        Ok(response) => response,
        Err(fault) => {
            let fault = fault.with_id(id.clone());
            worker.metering.answer_fault(Some(label), &fault);
            return !expects || sender.send(reply::terminal_event(&fault)).await.is_ok();
        }
    };
    let is_stream = response.content_type.as_ref().is_some_and(|value| value == header::EVENT_STREAM);
    let mut body = response.body;
    let mut message = Vec::new();
    while let Some(frame) = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).await {
        let Ok(bytes) = frame.map(|frame| frame.into_data().unwrap_or_default()) else {
            message.clear();
            break;
        };
        if is_stream {
            if sender.send(bytes).await.is_err() {
                return false;
            }
        } else if message.len() + bytes.len() > MESSAGE_BYTES_MAX {
            message.clear();
            break;
        } else {
            message.extend_from_slice(&bytes);
        }
    }
    if is_stream || !expects {
        return true;
    }
    if message.is_empty() {
        let fault =
            Fault::upstream(FaultKind::ConnectionLost, "the answer broke off, or is too long for a batch");
        return sender.send(reply::terminal_event(&fault.with_id(id))).await.is_ok();
    }
    sender.send(write_event(&message)).await.is_ok()
}
