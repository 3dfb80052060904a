//! One message to a upstream whose answer the gateway reads itself: handshakes and lists.

use std::rc::Rc;

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use super::upstream_session::UpstreamSession;
use crate::auth::KeyId;
use crate::upstream::{
    FailureStage, RequestKind, UpstreamBody, UpstreamError, UpstreamPool, UpstreamRequest, UpstreamResponse,
};
use metamcp_core::frame::{EventReader, MessageKind as FrameKind, Scanner};
use metamcp_core::protocol::{Era, McpMethod, header};

/// A message to send.
pub struct BufferedRequest<'a> {
    /// Its method.
    pub method: McpMethod,
    /// The whole message.
    pub message: Bytes,
    /// The Legacy session it belongs to.
    pub ready: Option<&'a UpstreamSession>,
    /// The headers of a Modern request, when it is one.
    pub modern: Option<Vec<(HeaderName, HeaderValue)>>,
}

/// What came back.
pub struct BufferedResponse {
    /// The HTTP status.
    pub status: StatusCode,
    /// A session id, when one was given.
    pub session_id: Option<HeaderValue>,
    /// The terminal message, or the body of an error status; empty for 202.
    pub message: Bytes,
}

/// Short for a result.
pub type Asked = Result<BufferedResponse, UpstreamError>;

/// One message the gateway reads itself: an answer with a thousand tools has some 2 MiB.
pub const MESSAGE_BYTES_MAX: usize = 16 << 20;

/// Sends a message and reads the answer to its end. Not cancel safe: the connection is closed.
pub async fn ask(pool: &Rc<UpstreamPool>, ask: BufferedRequest<'_>) -> Asked {
    send_buffered_for(pool, ask, RequestContext::default()).await
}

/// For whom something is asked.
#[derive(Debug, Clone, Copy, Default)]
pub struct RequestContext {
    /// The key.
    pub owner: Option<KeyId>,
    /// The session of a client that is opened, whether for the first time or again.
    pub place: Option<u64>,
    /// Whether that session is to share nothing with others.
    pub is_isolated: bool,
}

/// The same, on behalf of somebody.
pub async fn send_buffered_for(
    pool: &Rc<UpstreamPool>,
    ask: BufferedRequest<'_>,
    whom: RequestContext,
) -> Asked {
    let mut request = UpstreamRequest::from_message(ask.message);
    request.set_owner(whom.owner);
    request.set_exclusive(whom.is_isolated);
    if let Some(place) = whom.place {
        request.set_client_session(place);
    }
    if let Some(ready) = ask.ready {
        ready.write_headers(&mut request);
    }
    if ask.modern.is_none() {
        request.set_era(Era::Legacy);
    }
    if let Some(modern) = ask.modern {
        for (name, value) in modern {
            request.set_header(&name, &value);
        }
        request.set_header(&header::METHOD, &HeaderValue::from_static(ask.method.as_str()));
    }
    let UpstreamResponse { head, body: mut answer } = *pool.send(&request, RequestKind::Call).await?;
    let (status, is_stream) = (head.status, head.is_event_stream());
    let message = if is_stream && status.is_success() {
        read_terminal_message(&mut answer).await?
    } else {
        answer.collect(MESSAGE_BYTES_MAX).await?
    };
    Ok(BufferedResponse { status, session_id: head.session_id, message })
}

/// Whether a server does not know a session any more: 404 says so (MCP 2025-03-26, session management). Some
/// say 400, as they do to much else; a ping tells which it was.
pub async fn is_session_lost(pool: &Rc<UpstreamPool>, ready: &UpstreamSession, status: StatusCode) -> bool {
    const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"metamcp-ping","method":"ping"}"#;
    match status {
        StatusCode::NOT_FOUND => true,
        StatusCode::BAD_REQUEST => {
            let message = Bytes::from_static(PING);
            let asked =
                BufferedRequest { method: McpMethod::Ping, message, ready: Some(ready), modern: None };
            ask(pool, asked).await.is_ok_and(|heard| heard.status.is_client_error())
        }
        _ => false,
    }
}

/// The result or error of a stream; what comes before it is of no interest here.
pub async fn read_terminal_message(answer: &mut UpstreamBody) -> Result<Bytes, UpstreamError> {
    let (mut reader, mut scanner) = (EventReader::new(), Scanner::new());
    while let Some(chunk) = answer.chunk().await {
        reader.push(chunk?);
        while let Some(event) =
            reader.next().map_err(|error| UpstreamError::new(FailureStage::InvalidResponse, error))?
        {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = scanner.scan(&data) else { continue };
            if matches!(envelope.kind, FrameKind::Response | FrameKind::Error) {
                return Ok(data);
            }
        }
    }
    Err(UpstreamError::from_stage(FailureStage::BodyIncomplete))
}
