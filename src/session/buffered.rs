//! Requests whose responses the gateway reads itself: handshakes and lists.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use serde::Deserialize;
use tokio::time::timeout;

use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_core::base::{Fault, FaultKind, KeyId, ServerName};
use metamcp_core::frame::{EventReader, Scanner};
use metamcp_core::protocol::{AnswerMatch, Era, McpMethod, code, header};
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

/// Whether a status means that the server lost the session. A 404 should say so (MCP 2025-03-26, session
/// management), and some servers answer 400, but both have other causes: an application behind the server may
/// answer 404 after the call ran. A ping in the same session decides, so that no call is repeated that may have run.
pub async fn is_session_lost(pool: &Rc<UpstreamPool>, session: &UpstreamSession, status: StatusCode) -> bool {
    is_refusal(status) && ping_status(pool, session).await.is_some_and(is_refusal)
}

/// Whether a server shows that it lost a session and not just refuses requests: it accepts a ping in a session that it opened
/// later, and refuses the same in the lost one. Only then is a call repeated. A server that ran the call, and lost the session
/// before it answered 404, cannot be told from one that did not run it.
pub async fn is_loss_proven(
    pool: &Rc<UpstreamPool>,
    lost: &UpstreamSession,
    opened: &UpstreamSession,
) -> bool {
    ping_status(pool, opened).await.is_some_and(|status| status.is_success())
        && ping_status(pool, lost).await.is_some_and(is_refusal)
}

/// The fault of a call that is not repeated, because its server did not show that it had lost the session.
#[cold]
pub fn unproven_loss(server: &ServerName, status: StatusCode) -> Fault {
    let text = format!(
        "server `{server}` answered HTTP {} and did not show that it had lost the session; the call may have run",
        status.as_u16()
    );
    Fault::upstream(FaultKind::InvalidResponse, text)
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
}

/// The status of the answer to a ping in a session. `None` if there is none.
async fn ping_status(pool: &Rc<UpstreamPool>, session: &UpstreamSession) -> Option<StatusCode> {
    const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"metamcp-ping","method":"ping"}"#;
    let ping = BufferedRequest::legacy(session, McpMethod::Ping, Bytes::from_static(PING));
    send_buffered(pool, ping).await.ok().map(|response| response.status)
}

/// Whether the call with the raw id `call` may have run whose server refused it with this body, and has lost the session since
/// then: a server that knows the id has read the call. It did not run if the server says that it is no valid request of a
/// revision that it speaks, as one that was replaced by another does.
pub fn may_have_run(refusal: &[u8], call: &Bytes) -> bool {
    #[derive(Deserialize)]
    struct Refusal {
        error: RefusalError,
    }
    #[derive(Deserialize)]
    struct RefusalError {
        code: i64,
    }
    if AnswerMatch::of_text(refusal, call) != AnswerMatch::ThisCall {
        return false;
    }
    let code = serde_json::from_slice::<Refusal>(refusal).map(|refusal| refusal.error.code);
    let not_run = [code::INVALID_REQUEST, code::UNSUPPORTED_VERSION].map(i64::from);
    !code.is_ok_and(|code| not_run.contains(&code))
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
