//! The Legacy era, up to 2025-11-25: `initialize` opens a session, the header `Mcp-Session-Id` names it, GET opens its stream
//! for messages that belong to no request, and DELETE ends it.
//! Specification: <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports>.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::{
    call::Client,
    content::ServerContent,
    dispatch::{Server, capabilities},
    exchange::{self, Rejection, Reply, error_reply},
    headers,
    message::{Message, Params, response},
    protocol::{LEGACY, LEGACY_NEWEST, RpcError, code},
    replay::parse_id,
    session::Session,
    sse::EventBody,
};

/// The capabilities and info that a client sends in `initialize` are kept with its session. SDKs send a few hundred bytes.
const CLIENT_BYTES_MAX: usize = 64 << 10;

pub async fn post<C: ServerContent>(server: &Rc<Server<C>>, headers: &HeaderMap, message: Message) -> Reply {
    if let Message::Request { id, method, params } = &message
        && method == "initialize"
        && !headers.contains_key(headers::SESSION_ID)
    {
        return initialize(server, id, params);
    }
    let session = match session(server, headers) {
        Ok(session) => session,
        Err(rejection) => return rejection.reply(),
    };
    match message {
        Message::Request { id, method, .. } if method == "initialize" => {
            let error = RpcError::new(code::INVALID_REQUEST, "This session is already initialized");
            error_reply(StatusCode::BAD_REQUEST, &id, error)
        }
        Message::Request { id, method, params } => {
            let client = Client {
                version: session.version,
                capabilities: session.capabilities.clone(),
                info: session.client_info.clone(),
                log_level: None,
                session: Some(session),
            };
            exchange::run(server, id, method, params, client).await
        }
        Message::Notification { method, params } => {
            if method == "notifications/cancelled"
                && let Some(id) = params.get("requestId")
            {
                session.cancel(id);
            }
            exchange::empty(StatusCode::ACCEPTED)
        }
        Message::Response { id, outcome } => {
            session.reply(&id, outcome);
            exchange::empty(StatusCode::ACCEPTED)
        }
    }
}

/// Opens the session's stream for messages that belong to no request.
pub fn get<C: ServerContent>(server: &Server<C>, headers: &HeaderMap) -> Reply {
    match session(server, headers) {
        Err(rejection) => rejection.reply(),
        Ok(session) => match headers.get("last-event-id").filter(|_| server.options.resumable) {
            Some(id) => resume(&session, id),
            None => match session.open_stream() {
                Some(messages) => exchange::events(EventBody::new(None, messages, None)),
                None => Rejection(StatusCode::CONFLICT, "The session already has a stream").reply(),
            },
        },
    }
}

/// Resumes the stream of a call.
fn resume(session: &Session, id: &HeaderValue) -> Reply {
    let id = id.to_str().ok().and_then(parse_id);
    let found = id.and_then(|(stream, event)| Some((session.replay(stream)?, event)));
    match found {
        Some((replay, event)) => exchange::events(EventBody::replay(replay.resume(event))),
        None => {
            Rejection(StatusCode::BAD_REQUEST, "Last-Event-ID names a stream that does not exist any more")
                .reply()
        }
    }
}

pub fn delete<C: ServerContent>(server: &Server<C>, headers: &HeaderMap) -> Reply {
    match session(server, headers) {
        Err(rejection) => rejection.reply(),
        Ok(session) => {
            server.hub.end(&session);
            exchange::empty(StatusCode::OK)
        }
    }
}

fn initialize<C: ServerContent>(server: &Server<C>, id: &Value, params: &Params) -> Reply {
    let field = |key: &str| params.get(key).cloned().unwrap_or_default();
    let Some(requested) = params.get("protocolVersion").and_then(Value::as_str) else {
        return error_reply(StatusCode::OK, id, RpcError::invalid_params("protocolVersion must be a string"));
    };
    let (declared, info) = (field("capabilities"), field("clientInfo"));
    if declared.to_string().len() + info.to_string().len() > CLIENT_BYTES_MAX {
        let error = RpcError::invalid_params("capabilities and clientInfo are longer than 64 KiB");
        return error_reply(StatusCode::OK, id, error);
    }
    // For an unknown revision, offer the newest known one; the client decides whether to continue.
    let version = LEGACY.into_iter().find(|known| *known == requested).unwrap_or(LEGACY_NEWEST);
    let Some(session) = server.hub.create(version, declared, info) else {
        return error_reply(
            StatusCode::INTERNAL_SERVER_ERROR,
            id,
            RpcError::new(code::INTERNAL, "No session id"),
        );
    };
    let mut result = json!({
        "protocolVersion": version,
        "capabilities": capabilities(),
        "serverInfo": server.content.info(),
    });
    if let Some(instructions) = server.content.instructions() {
        result["instructions"] = json!(instructions);
    }
    let mut reply = exchange::json(StatusCode::OK, &response(id, &Ok(result)));
    if let Ok(value) = HeaderValue::from_str(&session.id) {
        reply.headers_mut().insert(headers::SESSION_ID, value);
    }
    reply
}

/// Finds the session that the headers name.
fn session<C: ServerContent>(server: &Server<C>, headers: &HeaderMap) -> Result<Rc<Session>, Rejection> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if text(headers::PROTOCOL_VERSION).is_some_and(|version| !LEGACY.contains(&version)) {
        return Err(Rejection(StatusCode::BAD_REQUEST, "Unsupported protocol version"));
    }
    let Some(id) = text(headers::SESSION_ID) else {
        let hint = "The header Mcp-Session-Id is missing: send initialize first";
        return Err(Rejection(StatusCode::BAD_REQUEST, hint));
    };
    let hint = "Session not found: send initialize again";
    server.hub.session(id).ok_or(Rejection(StatusCode::NOT_FOUND, hint))
}
