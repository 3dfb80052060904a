//! Asking a server once more for what followed, when its stream broke before the answer (MCP 2025-11-25, transports,
//! resumability): the client notices a pause.

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
use crate::upstream::{
    RequestKind, UpstreamBody, UpstreamError, UpstreamPool, UpstreamRequest, UpstreamResponse,
};
use metamcp_core::protocol::header;

/// What it takes to ask again.
pub struct UpstreamReconnect {
    pool: Rc<UpstreamPool>,
    /// The session at the server.
    ready: Arc<UpstreamSession>,
    /// The server's own id of the last event that came whole.
    last_event_id: Option<HeaderValue>,
    /// As the server told it, within bounds.
    wait: Duration,
    /// Whether it was asked, and nothing with an id came since.
    is_spent: bool,
    asking: Option<Asking>,
}

struct Asking {
    /// Gives nothing where the server does not go on.
    answer: Pin<Box<dyn Future<Output = Option<UpstreamBody>>>>,
    /// What broke the stream: told when it does not go on.
    why: UpstreamError,
}

/// A server that says nothing about it is asked at once, but for this: it may be just about to listen again.
const WAIT: Duration = Duration::from_millis(100);

/// No server is asked more often than this for long, nor is a call kept waiting for longer, whatever its `retry` says.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(30);

impl UpstreamReconnect {
    /// Of a call in that session, of whose answer nothing has come yet.
    pub fn new(pool: Rc<UpstreamPool>, ready: Arc<UpstreamSession>) -> Self {
        Self { pool, ready, last_event_id: None, wait: WAIT, is_spent: false, asking: None }
    }

    /// An event came whole, with that id. Empty takes it back (WHATWG HTML, 9.2.6).
    pub fn note_id(&mut self, id: &Bytes) {
        let id = HeaderValue::from_bytes(id).ok().filter(|id| !id.is_empty());
        // The same one again is no progress.
        self.is_spent &= id == self.last_event_id;
        self.last_event_id = id;
    }

    /// The server told when it wants to be asked.
    pub fn note_retry(&mut self, retry_ms: u64) {
        self.wait = Duration::from_millis(retry_ms).clamp(WAIT_MIN, WAIT_MAX);
    }

    /// The stream broke: asks for what follows, or gives the reason back when that is not to be had.
    pub fn ask(&mut self, why: UpstreamError) -> Result<(), UpstreamError> {
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

    /// Whether the stream broke, and what takes its place is to come.
    pub fn is_asking(&self) -> bool {
        self.asking.is_some()
    }

    /// The next bytes, of this answer or of the one that takes its place.
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
