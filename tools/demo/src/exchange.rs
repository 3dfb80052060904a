//! Runs a request and decides how its answer travels: as JSON when the answer is the first thing the handler
//! has to say, as a stream of events when something else comes before it.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    call::{Call, Client},
    content::Content,
    dispatch::{Server, dispatch, finish},
    message::{Params, response},
    protocol::{Era, LEGACY_NEWEST, RpcError, code},
    session::Session,
    sse::{AbortOnDrop, EventBody, QUEUE_MESSAGES_MAX, ReplyBody},
};

/// What a request is answered with.
pub type Reply = Response<ReplyBody>;

/// Any status without a body.
pub fn empty(status: StatusCode) -> Reply {
    with_status(status, ReplyBody::Whole(None))
}

/// A JSON-RPC message as the whole body.
pub fn json(status: StatusCode, message: &Value) -> Reply {
    let mut reply = with_status(status, ReplyBody::Whole(Some(Bytes::from(message.to_string()))));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// A JSON-RPC error as the whole body.
pub fn refusal(status: StatusCode, id: &Value, error: RpcError) -> Reply {
    json(status, &response(id, &Err(error)))
}

/// Why a request is refused before it is one: answered under the id null.
#[derive(Debug)]
pub struct Refusal(pub StatusCode, pub &'static str);

impl Refusal {
    /// The response that says so. The specification names no code; this is what the SDKs send.
    pub fn reply(&self) -> Reply {
        refusal(self.0, &Value::Null, RpcError::new(code::SESSION, self.1))
    }
}

/// A stream of events.
pub fn events(body: EventBody) -> Reply {
    let mut reply = with_status(StatusCode::OK, ReplyBody::Events(body));
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Asks nginx and its kin not to hold events back.
    headers.insert("x-accel-buffering", HeaderValue::from_static("no"));
    reply
}

fn with_status(status: StatusCode, body: ReplyBody) -> Reply {
    let mut reply = Response::new(body);
    *reply.status_mut() = status;
    reply
}

/// Runs one request to its end.
///
/// Modern: dropping this future, or the body it gives, cancels the request. Legacy: only the client's word
/// cancels; a handler whose stream has gone runs on.
pub async fn run<C: Content>(
    server: &Rc<Server<C>>,
    id: Value,
    method: String,
    params: Params,
    client: Client,
) -> Reply {
    let (stream, mut messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
    let era = if client.session.is_some() { Era::Legacy } else { Era::Modern };
    let session = client.session.clone();
    let resumable = server.options.resumable && client.version == LEGACY_NEWEST;
    let replay = session.as_ref().filter(|_| resumable).map(|session| session.open_replay());
    let call = Call { era, params, client, hub: Rc::clone(&server.hub), stream, replay: replay.clone() };
    let status = Rc::new(Cell::new(StatusCode::OK));
    let task = tokio::task::spawn_local({
        let (server, id, status, session) =
            (Rc::clone(server), id.clone(), Rc::clone(&status), session.clone());
        async move {
            let _running = session.map(|session| Running { session, id: id.clone() });
            let answer = dispatch(&server, &method, &call).await;
            let (code, outcome) = finish(&method, era, &server.content.info(), answer);
            status.set(code);
            // Nobody may be left to read it.
            let _ = call.stream.send(response(&id, &outcome)).await;
        }
    });
    let guard = match session {
        Some(session) if session.begin(&id, task.abort_handle()) => None,
        Some(_) => {
            task.abort();
            let text = "The id belongs to a request still under way, or there are too many of them";
            return refusal(StatusCode::OK, &id, RpcError::new(code::INVALID_REQUEST, text));
        }
        None => Some(AbortOnDrop(task.abort_handle())),
    };
    if let Some(replay) = replay {
        let reader = replay.begin();
        tokio::task::spawn_local(async move {
            while let Some(message) = messages.recv().await {
                replay.push(message);
            }
            replay.finish();
        });
        return events(EventBody::replay(reader));
    }
    match messages.recv().await {
        // The response is the only message without a method.
        Some(first) if first.get("method").is_none() => json(status.get(), &first),
        // Without any message the call was cancelled: an empty stream.
        first => events(EventBody::new(first, messages, guard)),
    }
}

/// A call that the session knows of for as long as it runs.
struct Running {
    session: Rc<Session>,
    id: Value,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.session.finish(&self.id);
    }
}
