//! The era of sessions, up to 2025-11-25: `initialize` opens one, `Mcp-Session-Id` names it ever after, GET is
//! its stream for messages that belong to no request, DELETE ends it.
//! Specification: <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports>.

use std::rc::Rc;

use http::{HeaderMap, HeaderValue, StatusCode};
use serde_json::{Value, json};

use crate::{
    call::Client,
    content::Content,
    dispatch::{Server, capabilities},
    exchange::{self, Refusal, Reply, refusal},
    headers,
    message::{Message, Params, response},
    protocol::{LEGACY, LEGACY_NEWEST, RpcError, code},
    replay::parse_id,
    session::Session,
    sse::EventBody,
};

/// What a client says of itself in `initialize` is kept with its session. SDKs send a few hundred bytes.
const CLIENT_BYTES_MAX: usize = 64 << 10;

/// Answers a POST.
pub async fn post<C: Content>(server: &Rc<Server<C>>, headers: &HeaderMap, message: Message) -> Reply {
    if let Message::Request { id, method, params } = &message
        && method == "initialize"
        && !headers.contains_key(headers::SESSION_ID)
    {
        return initialize(server, id, params);
    }
    let session = match session(server, headers) {
        Ok(session) => session,
        Err(refusal) => return refusal.reply(),
    };
    match message {
        Message::Request { id, method, .. } if method == "initialize" => {
            let error = RpcError::new(code::INVALID_REQUEST, "This session is initialized already");
            refusal(StatusCode::BAD_REQUEST, &id, error)
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
pub fn get<C: Content>(server: &Server<C>, headers: &HeaderMap) -> Reply {
    match session(server, headers) {
        Err(refusal) => refusal.reply(),
        Ok(session) => match headers.get("last-event-id").filter(|_| server.options.resumable) {
            Some(id) => resume(&session, id),
            None => match session.open_stream() {
                Some(messages) => exchange::events(EventBody::new(None, messages, None)),
                None => Refusal(StatusCode::CONFLICT, "The session has a stream already").reply(),
            },
        },
    }
}

/// The client comes back to the stream of a call.
fn resume(session: &Session, id: &HeaderValue) -> Reply {
    let id = id.to_str().ok().and_then(parse_id);
    let found = id.and_then(|(stream, event)| Some((session.replay(stream)?, event)));
    match found {
        Some((replay, event)) => exchange::events(EventBody::replay(replay.resume(event))),
        None => Refusal(StatusCode::BAD_REQUEST, "Last-Event-ID names no stream that is still kept").reply(),
    }
}

/// Ends the session.
pub fn delete<C: Content>(server: &Server<C>, headers: &HeaderMap) -> Reply {
    match session(server, headers) {
        Err(refusal) => refusal.reply(),
        Ok(session) => {
            server.hub.end(&session);
            exchange::empty(StatusCode::OK)
        }
    }
}

fn initialize<C: Content>(server: &Server<C>, id: &Value, params: &Params) -> Reply {
    let field = |key: &str| params.get(key).cloned().unwrap_or_default();
    let Some(requested) = params.get("protocolVersion").and_then(Value::as_str) else {
        return refusal(StatusCode::OK, id, RpcError::invalid_params("protocolVersion must be a string"));
    };
    let (declared, info) = (field("capabilities"), field("clientInfo"));
    if declared.to_string().len() + info.to_string().len() > CLIENT_BYTES_MAX {
        let error = RpcError::invalid_params("capabilities and clientInfo are longer than 64 KiB");
        return refusal(StatusCode::OK, id, error);
    }
    // An unknown revision is answered with the newest known one; the client decides whether it goes on.
    let version = LEGACY.into_iter().find(|known| *known == requested).unwrap_or(LEGACY_NEWEST);
    let Some(session) = server.hub.create(version, declared, info) else {
        return refusal(
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

/// The session that the headers name, or what to answer when they name none.
fn session<C: Content>(server: &Server<C>, headers: &HeaderMap) -> Result<Rc<Session>, Refusal> {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap_or_default());
    if text(headers::PROTOCOL_VERSION).is_some_and(|version| !LEGACY.contains(&version)) {
        return Err(Refusal(StatusCode::BAD_REQUEST, "Unsupported protocol version"));
    }
    let Some(id) = text(headers::SESSION_ID) else {
        let hint = "The header Mcp-Session-Id is missing: send initialize first";
        return Err(Refusal(StatusCode::BAD_REQUEST, hint));
    };
    let hint = "Session not found: send initialize again";
    server.hub.session(id).ok_or(Refusal(StatusCode::NOT_FOUND, hint))
}
