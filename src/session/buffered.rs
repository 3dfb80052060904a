//! Requests whose responses the gateway reads itself: handshakes and lists.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use tokio::time::timeout;

use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_core::base::KeyId;
use metamcp_core::frame::{EventReader, Scanner};
use metamcp_core::protocol::{Era, McpMethod, header};
use metamcp_http::{
    FailureStage, RequestKind, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
};

/// A message whose response is read into memory.
pub struct BufferedRequest<'a> {
    pub method: McpMethod,
    /// The whole JSON-RPC message.
    pub message: Bytes,
    /// The Legacy session that the message belongs to.
    pub session: Option<&'a UpstreamSession>,
    /// The headers of a Modern request. `None` for a Legacy request.
    pub modern_headers: Option<Vec<(HeaderName, HeaderValue)>>,
}

impl<'a> BufferedRequest<'a> {
    /// A message of a Legacy session.
    pub fn legacy(session: &'a UpstreamSession, method: McpMethod, message: Bytes) -> Self {
        Self { method, message, session: Some(session), modern_headers: None }
    }
}

/// A response that was read into memory.
pub struct BufferedResponse {
    pub status: StatusCode,
    /// The value of `Mcp-Session-Id`.
    pub session_id: Option<HeaderValue>,
    /// The JSON-RPC response, or the body of an error status. Empty for 202.
    pub message: Bytes,
}

/// Bounds a message that the gateway reads itself. A list of a thousand tools has about 2 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// How long a server may take to accept a message whose response does not matter.
const NOTIFY_TIMEOUT: Duration = Duration::from_secs(5);

/// On whose behalf a request is sent.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestContext {
    pub owner: Option<KeyId>,
    /// The number of the client's session slot that the request opens or reopens.
    pub client_session: Option<u64>,
    /// Whether that session shares nothing with others.
    pub is_isolated: bool,
}

/// Sends a message and reads the whole response. Not cancel safe: dropping it closes the connection.
pub async fn send_buffered(
    pool: &Rc<UpstreamPool>,
    request: BufferedRequest<'_>,
) -> Result<BufferedResponse, UpstreamError> {
    send_buffered_for(pool, request, RequestContext::default()).await
}

/// Sends a notification, or the response to a request of the server, and reads the whole response to it.
pub async fn send_message(
    pool: &Rc<UpstreamPool>,
    message: BufferedRequest<'_>,
) -> Result<BufferedResponse, UpstreamError> {
    send_of_kind(pool, message, RequestContext::default(), RequestKind::Message).await
}

/// As [`send_buffered`], on behalf of a client.
pub async fn send_buffered_for(
    pool: &Rc<UpstreamPool>,
    request: BufferedRequest<'_>,
    context: RequestContext,
) -> Result<BufferedResponse, UpstreamError> {
    send_of_kind(pool, request, context, RequestKind::Call).await
}

async fn send_of_kind(
    pool: &Rc<UpstreamPool>,
    request: BufferedRequest<'_>,
    context: RequestContext,
    kind: RequestKind,
) -> Result<BufferedResponse, UpstreamError> {
    let BufferedRequest { method, message, session, modern_headers } = request;
    let mut request = UpstreamRequest::from_message(message);
    request.set_owner(context.owner);
    request.set_exclusive(context.is_isolated);
    if let Some(number) = context.client_session {
        request.set_client_session(number);
    }
    if let Some(session) = session {
        session.write_headers(&mut request);
    }
    if modern_headers.is_none() {
        request.set_era(Era::Legacy);
    }
    if let Some(headers) = modern_headers {
        for (name, value) in headers {
            request.set_header(&name, &value);
        }
        request.set_header(&header::METHOD, &HeaderValue::from_static(method.as_str()));
    }
    let UpstreamResponse { head, mut body } = *pool.send(&request, kind).await?;
    let (status, is_stream) = (head.status, head.is_event_stream());
    let message = if is_stream && status.is_success() {
        read_terminal_message(&mut body).await?
    } else {
        body.collect(MESSAGE_BYTES_MAX).await?
    };
    Ok(BufferedResponse { status, session_id: head.session_id, message })
}

/// Sends a message whose answer does not matter. Returns false if the server did not accept it in time.
pub async fn deliver(pool: &Rc<UpstreamPool>, message: BufferedRequest<'_>, kind: RequestKind) -> bool {
    let method = message.method;
    let sending = send_of_kind(pool, message, RequestContext::default(), kind);
    let response = timeout(NOTIFY_TIMEOUT, sending).await;
    let is_accepted = matches!(&response, Ok(Ok(response)) if response.status.is_success());
    if !is_accepted {
        tracing::debug!(server = %pool.upstream().name(), method = method.as_str(), "server did not accept a message");
    }
    is_accepted
}

/// Reads an event stream up to the JSON-RPC response, and skips the messages before it.
pub async fn read_terminal_message(body: &mut UpstreamBody) -> Result<Bytes, UpstreamError> {
    let (mut reader, mut scanner) = (EventReader::new(), Scanner::new());
    body.limit_messages();
    while let Some(chunk) = body.chunk().await {
        reader.push(chunk?);
        while let Some(event) = reader.next()? {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = scanner.scan(&data) else { continue };
            if envelope.kind.is_answer() {
                return Ok(data);
            }
            body.note_message();
        }
    }
    Err(UpstreamError::from_stage(FailureStage::BodyIncomplete))
}
