//! Resumption of an upstream's event stream that broke before the answer (MCP 2025-11-25, transports,
//! resumability). The client notices only a pause.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use tokio::time::sleep;

use crate::session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_core::protocol::header;
use metamcp_http::{RequestKind, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse};

/// Reconnects one response of an upstream.
pub struct UpstreamReconnect {
    pool: Rc<UpstreamPool>,
    /// The session at the server.
    ready: Arc<UpstreamSession>,
    /// The server's own id of the last complete event.
    last_event_id: Option<HeaderValue>,
    /// The delay before reconnecting: the server's `retry`, within bounds.
    wait: Duration,
    /// Whether the gateway has reconnected, and no event with a new id has arrived since.
    is_spent: bool,
    asking: Option<Asking>,
}

struct Asking {
    /// Resolves to `None` if the server does not resume the stream.
    answer: Pin<Box<dyn Future<Output = Option<UpstreamBody>>>>,
    /// The error that broke the stream, reported if the server does not resume it.
    why: UpstreamError,
}

/// The delay if the server names none. It is not zero, because the server may be about to listen again.
const WAIT: Duration = Duration::from_millis(100);

/// Bounds of the server's `retry`: they protect the server from constant requests, and the call from a long
/// pause.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(30);

impl UpstreamReconnect {
    /// For a call in session `ready`, before any of its response has arrived.
    pub fn new(pool: Rc<UpstreamPool>, ready: Arc<UpstreamSession>) -> Self {
        Self { pool, ready, last_event_id: None, wait: WAIT, is_spent: false, asking: None }
    }

    /// Notes the id of a complete event. An empty id resets it (WHATWG HTML, 9.2.6).
    pub fn note_id(&mut self, id: &Bytes) {
        let id = HeaderValue::from_bytes(id).ok().filter(|id| !id.is_empty());
        // The same id again is no progress.
        self.is_spent &= id == self.last_event_id;
        self.last_event_id = id;
    }

    /// Notes the delay that the server asks for.
    pub fn note_retry(&mut self, retry_ms: u64) {
        self.wait = Duration::from_millis(retry_ms).clamp(WAIT_MIN, WAIT_MAX);
    }

    /// Requests the rest of a broken stream. Returns the error if the stream cannot be resumed.
    pub fn reconnect(&mut self, why: UpstreamError) -> Result<(), UpstreamError> {
        let Some(id) = self.last_event_id.clone().filter(|_| !self.is_spent) else { return Err(why) };
        self.is_spent = true;
        let mut request = UpstreamRequest::get();
        self.ready.write_headers(&mut request);
        request.set_header(&header::LAST_EVENT_ID, &id);
        let (pool, wait) = (Rc::clone(&self.pool), self.wait);
        let answer = Box::pin(async move {
            sleep(wait).await;
            let UpstreamResponse { head, body } = *pool.send(&request, RequestKind::Call).await.ok()?;
            (head.status.is_success() && head.is_event_stream()).then_some(body)
        });
        self.asking = Some(Asking { answer, why });
        Ok(())
    }

    /// Whether the stream broke and its replacement has not arrived yet.
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// Polls for the next bytes, of this response or of the one that replaces it.
    pub fn poll_chunk(
        &mut self,
        answer: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        if let Some(mut asking) = self.asking.take() {
            match asking.answer.as_mut().poll(cx) {
                Poll::Pending => {
                    self.asking = Some(asking);
                    return Poll::Pending;
                }
                Poll::Ready(Some(next)) => *answer = next,
                Poll::Ready(None) => return Poll::Ready(Some(Err(asking.why))),
            }
        }
        answer.poll_chunk(cx)
    }
}
