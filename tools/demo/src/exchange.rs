//! Runs a request and chooses the form of its response: JSON if the response is the handler's first message, an event stream
//! if other messages come before it.

use std::{cell::Cell, rc::Rc};

use bytes::Bytes;
use http::{HeaderValue, Response, StatusCode, header};
use serde_json::Value;
use tokio::sync::mpsc;

use crate::{
    call::{Call, Client},
    content::ServerContent,
    dispatch::{Server, dispatch, finish},
    message::{Params, response},
    protocol::{Era, LEGACY_NEWEST, RpcError, code},
    session::Session,
    sse::{AbortOnDrop, EventBody, QUEUE_MESSAGES_MAX, ReplyBody},
};

/// An HTTP response of this server.
pub type Reply = Response<ReplyBody>;

/// Builds a response without a body.
pub fn empty(status: StatusCode) -> Reply {
    with_status(status, ReplyBody::Whole(None))
}

/// Builds a response whose body is one JSON-RPC message.
pub fn json(status: StatusCode, message: &Value) -> Reply {
    let mut reply = with_status(status, ReplyBody::Whole(Some(Bytes::from(message.to_string()))));
    reply.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    reply
}

/// Builds a response whose body is a JSON-RPC error.
pub fn error_reply(status: StatusCode, id: &Value, error: RpcError) -> Reply {
    json(status, &response(id, &Err(error)))
}

/// Why an HTTP request is rejected before its message is read; the error has the id null.
#[derive(Debug)]
pub struct Rejection(pub StatusCode, pub &'static str);

impl Rejection {
    /// Builds the response. The specification names no error code; this is the one that the SDKs send.
    pub fn reply(&self) -> Reply {
        error_reply(self.0, &Value::Null, RpcError::new(code::SESSION, self.1))
    }
}

/// Builds a response with an event stream.
pub fn events(body: EventBody) -> Reply {
    let mut reply = with_status(StatusCode::OK, ReplyBody::Events(body));
    let headers = reply.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    // Tells nginx and similar proxies not to buffer events.
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
/// Modern era: dropping this future, or the body it returns, cancels the request. Legacy era: only a notification cancels;
/// a handler continues after its stream is gone.
pub async fn run<C: ServerContent>(
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
            let _running = session.map(|session| RunningCall { session, id: id.clone() });
            let answer = dispatch(&server, &method, &call).await;
            let (code, outcome) = finish(&method, era, &server.content.info(), answer);
            status.set(code);
            // It fails if the client is gone.
            let _ = call.stream.send(response(&id, &outcome)).await;
        }
    });
    let guard = match session {
        Some(session) if session.begin(&id, task.abort_handle()) => None,
        Some(_) => {
            task.abort();
            let text = "The id belongs to a request in flight, or there are too many requests in flight";
            return error_reply(StatusCode::OK, &id, RpcError::new(code::INVALID_REQUEST, text));
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
        // Without any message the call was cancelled; the stream is empty.
        first => events(EventBody::new(first, messages, guard)),
    }
}

/// Removes a call from its session when it ends.
struct RunningCall {
    session: Rc<Session>,
    id: Value,
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.session.finish(&self.id);
    }
}
