//! The adapter itself: finds the session of a request and hands the message to the part that serves it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use metamcp_config::sections::BridgeConfig;
use metamcp_core::frame::{MessageKind, Scanner};
use metamcp_core::protocol::{Era, LogLevel, McpMethod, code};
use tokio::time::timeout;

use super::call::{self, CallContext};
use super::handshake::initialize;
use super::listen::Subscriptions;
use super::reply::{empty_result, gateway_reply};
use super::request::ClientMessage;
use super::session::Session;
use super::session_table::SessionTable;
use super::tool_headers::ToolHeaderCache;
use crate::upstream::{EraAdapter, ResponseFuture, UpstreamPool};
use metamcp_http::multiplex::{HttpOperation, LocalResponse};
use metamcp_http::{RequestKind, UpstreamError, UpstreamRequest, UpstreamResponse};

/// Serves Legacy clients on behalf of all servers that speak only the Modern era. There is one for the whole
/// process.
pub struct LegacyAdapter {
    sessions: SessionTable,
    tool_headers: Arc<ToolHeaderCache>,
    subscriptions: Subscriptions,
    /// How long a client may take to answer an input request of a server.
    config: Arc<ArcSwap<BridgeConfig>>,
}

/// How long `resources/subscribe` waits for the server to acknowledge the subscription, so that no change
/// after the response is missed. A server that is slow to acknowledge delays the client no longer than this.
const SETTLE_TIMEOUT: Duration = Duration::from_secs(2);

impl LegacyAdapter {
    /// Creates an adapter without sessions. `hold_timeout` of its bounds is how long a client may take to answer an
    /// input request of a server; its call, the permit of that call and its connection are held for so long.
    pub fn new(config: Arc<ArcSwap<BridgeConfig>>) -> Self {
        let tool_headers = Arc::<ToolHeaderCache>::default();
        let subscriptions = Subscriptions::new(Arc::clone(&tool_headers));
        Self { sessions: SessionTable::new(), tool_headers, subscriptions, config }
    }

    async fn handle(
        self: Arc<Self>,
        pool: Rc<UpstreamPool>,
        request: UpstreamRequest,
        kind: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        let (operation, id) = request.operation();
        let message = match &operation {
            HttpOperation::Post(bytes) => match parse_message(bytes) {
                Some(message) => Some(message),
                None => return Ok(gateway_reply(invalid_message())),
            },
            HttpOperation::Get | HttpOperation::Delete => None,
        };
        let is_initialize = |message: &&ClientMessage| message.method == Some(McpMethod::Initialize);
        if let Some(message) = message.as_ref().filter(is_initialize) {
            return initialize(&self.sessions, &pool, &request, message).await;
        }
        let session = id.as_ref().and_then(|id| self.session(&pool, id));
        let Some(session) = session else {
            return match pool.upstream().speaks(Era::Legacy) {
                // A session at the server itself: `initialize` was forwarded to it, and its eras are not
                // known yet.
                None => pool.send_direct(&request, kind).await,
                Some(_) => Ok(gateway_reply(LocalResponse::from_status(StatusCode::NOT_FOUND))),
            };
        };
        session.touch();
        match (operation, message) {
            (HttpOperation::Get, _) => Ok(self.subscriptions.open_stream(&session, &pool)),
            (HttpOperation::Post(_), Some(message)) => self.post(session, pool, request, message).await,
            (HttpOperation::Delete | HttpOperation::Post(_), _) => {
                if let Some(ended) = id.and_then(|id| self.sessions.remove(&id)) {
                    ended.end();
                }
                Ok(gateway_reply(LocalResponse::from_status(StatusCode::OK)))
            }
        }
    }

    /// Returns the live session with that id at the pool's server.
    fn session(&self, pool: &UpstreamPool, id: &HeaderValue) -> Option<Arc<Session>> {
        let is_live = |session: &Arc<Session>| session.upstream == pool.upstream().id && !session.is_ended();
        self.sessions.find(id).filter(is_live)
    }

    /// Serves a message within a session.
    async fn post(
        &self,
        session: Arc<Session>,
        pool: Rc<UpstreamPool>,
        request: UpstreamRequest,
        message: ClientMessage,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        if !message.is_request() {
            handle_one_way(&session, &message);
            return Ok(gateway_reply(LocalResponse::from_status(StatusCode::ACCEPTED)));
        }
        let reply = match message.method {
            Some(McpMethod::Ping) => empty_result(&message.id()),
            Some(McpMethod::SetLevel) if session.features.logging => set_level(&session, &message),
            Some(McpMethod::Subscribe | McpMethod::Unsubscribe) if session.features.subscribe => {
                self.subscribe(&session, &pool, &message).await
            }
            // Methods of the other era, and features that the server does not have.
            Some(
                McpMethod::SetLevel
                | McpMethod::Subscribe
                | McpMethod::Unsubscribe
                | McpMethod::Listen
                | McpMethod::Discover,
            ) => {
                let (code, text) = (code::METHOD_NOT_FOUND, "Method not found");
                LocalResponse::from_error(StatusCode::OK, &message.id(), code, text)
            }
            _ => {
                let (tool_headers, input_timeout) =
                    (Arc::clone(&self.tool_headers), self.config.load().hold_timeout);
                let context = CallContext { session, pool, tool_headers, input_timeout };
                return call::forward_call(context, request, message).await;
            }
        };
        Ok(gateway_reply(reply))
    }

    /// Answers `resources/subscribe` and `resources/unsubscribe`.
    async fn subscribe(
        &self,
        session: &Arc<Session>,
        pool: &Rc<UpstreamPool>,
        message: &ClientMessage,
    ) -> LocalResponse {
        let invalid =
            |text| LocalResponse::from_error(StatusCode::OK, &message.id(), code::INVALID_PARAMS, text);
        let Some(uri) = message.envelope.params.uri.map(|uri| uri.decode(&message.bytes)) else {
            return invalid("params.uri is missing");
        };
        let filter_version = match message.method {
            Some(McpMethod::Subscribe) => session.subscribe(&uri),
            _ => Some(session.unsubscribe(&uri)),
        };
        let Some(filter_version) = filter_version else {
            return invalid("too many subscriptions, or the URI is too long");
        };
        self.subscriptions.wake(session, pool);
        // After a timeout the subscription is pending at the server and takes effect later.
        let _ = timeout(SETTLE_TIMEOUT, session.wait_until_settled(filter_version)).await;
        empty_result(&message.id())
    }
}

impl EraAdapter for LegacyAdapter {
    fn answer(
        self: Arc<Self>,
        pool: Rc<UpstreamPool>,
        request: UpstreamRequest,
        kind: RequestKind,
    ) -> ResponseFuture {
        Box::pin(self.handle(pool, request, kind))
    }
}

fn parse_message(bytes: &Bytes) -> Option<ClientMessage> {
    let envelope = Scanner::new().scan(bytes).ok()?;
    let method = envelope.method.and_then(|method| McpMethod::parse(&method.decode_bytes(bytes)));
    Some(ClientMessage { bytes: bytes.clone(), envelope, method })
}

fn invalid_message() -> LocalResponse {
    let text = "the body is not an MCP message";
    LocalResponse::from_error(StatusCode::BAD_REQUEST, b"", code::INVALID_REQUEST, text)
}

/// Handles a message that has no response: a cancellation, or the client's response to an input request. A
/// server without sessions has no use for the other notifications.
fn handle_one_way(session: &Session, message: &ClientMessage) {
    match (message.envelope.kind, message.method) {
        (MessageKind::Notification, Some(McpMethod::Cancelled)) => {
            if let Some(id) = message.envelope.params.request_id {
                session.cancel_call(id.span.slice(&message.bytes));
            }
        }
        (MessageKind::Response | MessageKind::Error, _) => {
            let id = message.envelope.id.map(|id| id.span.slice(&message.bytes));
            let id = id.and_then(|id| serde_json::from_slice::<String>(id).ok());
            if let Some(id) = id {
                session.deliver_input(&id, message.bytes.clone());
            }
        }
        _ => {}
    }
}

fn set_level(session: &Session, message: &ClientMessage) -> LocalResponse {
    let level = message.envelope.params.level.map(|level| level.decode(&message.bytes));
    let Some(level) = level.and_then(|level| LogLevel::parse(&level)) else {
        let (code, text) = (code::INVALID_PARAMS, "unknown log level");
        return LocalResponse::from_error(StatusCode::OK, &message.id(), code, text);
    };
    session.set_log_level(format!("\"{}\"", level.name()).into());
    empty_result(&message.id())
}
