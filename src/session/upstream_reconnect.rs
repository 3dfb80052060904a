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
use tokio::time::{Instant, sleep};

use super::upstream_session::UpstreamSession;
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
    pace: ReconnectPace,
    /// Whether the gateway has reconnected, and no event with a new id has arrived since.
    is_spent: bool,
    asking: Option<ReconnectAttempt>,
}

/// When to reconnect, and how often.
struct ReconnectPace {
    /// The server's `retry`, within bounds: the least delay before reconnecting.
    retry: Duration,
    /// Connections in a row that broke early.
    early_breaks: u32,
    /// When the newest connection was requested.
    connected_at: Instant,
}

struct ReconnectAttempt {
    /// Resolves to `None` if the server does not resume the stream.
    answer: Pin<Box<dyn Future<Output = Option<UpstreamBody>>>>,
    /// The error that broke the stream, reported if the server does not resume it.
    why: UpstreamError,
}

/// The delay if the server names none. It is not zero, because the server may be about to listen again.
const WAIT: Duration = Duration::from_millis(100);

/// Bounds of the delay: they protect the server from constant requests, and the call from a long pause.
const WAIT_MIN: Duration = Duration::from_millis(50);
const WAIT_MAX: Duration = Duration::from_secs(30);

/// A connection that breaks sooner breaks early: the next delay doubles. Servers that close their streams to be polled
/// name a `retry`, from which the delay then grows.
const STEADY_AFTER: Duration = Duration::from_secs(10);

/// Early breaks in a row before the call fails. The delays add up to more than three minutes, in which a server restarts.
const EARLY_BREAKS_MAX: u32 = 16;

impl ReconnectPace {
    fn new() -> Self {
        Self { retry: WAIT, early_breaks: 0, connected_at: Instant::now() }
    }

    /// The delay before the next connection. `None` if too many broke early.
    fn next_wait(&mut self) -> Option<Duration> {
        let is_early = self.connected_at.elapsed() < STEADY_AFTER;
        let before = if is_early { self.early_breaks } else { 0 };
        if before >= EARLY_BREAKS_MAX {
            return None;
        }
        let wait = self.retry.saturating_mul(1 << before).min(WAIT_MAX);
        (self.early_breaks, self.connected_at) = (before + 1, Instant::now() + wait);
        Some(wait)
    }
}

impl UpstreamReconnect {
    /// For a call in session `ready`, before any of its response has arrived.
    pub fn new(pool: Rc<UpstreamPool>, ready: Arc<UpstreamSession>) -> Self {
        Self { pool, ready, last_event_id: None, pace: ReconnectPace::new(), is_spent: false, asking: None }
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
        self.pace.retry = Duration::from_millis(retry_ms).clamp(WAIT_MIN, WAIT_MAX);
    }

    /// Requests the rest of a broken stream. Returns the error if the stream cannot be resumed.
    pub fn reconnect(&mut self, why: UpstreamError) -> Result<(), UpstreamError> {
        let Some(id) = self.last_event_id.clone().filter(|_| !self.is_spent) else { return Err(why) };
        let Some(wait) = self.pace.next_wait() else { return Err(why) };
        self.is_spent = true;
        let mut request = UpstreamRequest::get();
        self.ready.write_headers(&mut request);
        request.set_header(&header::LAST_EVENT_ID, &id);
        let pool = Rc::clone(&self.pool);
        let answer = Box::pin(async move {
            sleep(wait).await;
            let UpstreamResponse { head, body } = *pool.send(&request, RequestKind::Call).await.ok()?;
            (head.status.is_success() && head.is_event_stream()).then_some(body)
        });
        self.asking = Some(ReconnectAttempt { answer, why });
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
                Poll::Ready(Some(mut next)) => {
                    next.limit_messages();
                    *answer = next;
                }
                Poll::Ready(None) => return Poll::Ready(Some(Err(asking.why))),
            }
        }
        answer.poll_chunk(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Checks the delays before connections of which each lasts as long as given, in milliseconds.
    async fn check(retry: Duration, lasts_ms: &[u64], expected_ms: &[Option<u128>]) {
        let mut pace = ReconnectPace { retry, ..ReconnectPace::new() };
        let mut waits = Vec::new();
        for lasts_ms in lasts_ms {
            tokio::time::advance(Duration::from_millis(*lasts_ms)).await;
            let wait = pace.next_wait();
            tokio::time::advance(wait.unwrap_or_default()).await;
            waits.push(wait.map(|wait| wait.as_millis()));
        }
        assert_eq!(waits, expected_ms);
    }

    #[tokio::test(start_paused = true)]
    async fn delays_double_while_connections_break_early() {
        check(WAIT, &[0, 5, 9999, 0], &[Some(100), Some(200), Some(400), Some(800)]).await;
        check(WAIT, &[0, 0, 10_000, 0], &[Some(100), Some(200), Some(100), Some(200)]).await;
        check(WAIT_MAX, &[0, 0], &[Some(30_000), Some(30_000)]).await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_always_breaks_early_is_given_up() {
        let mut pace = ReconnectPace::new();
        let waits: Vec<_> = std::iter::from_fn(|| pace.next_wait()).collect();
        assert_eq!(waits.len(), EARLY_BREAKS_MAX as usize);
        assert!(waits.is_sorted() && waits.last() == Some(&WAIT_MAX));
        assert!(waits.iter().sum::<Duration>() > Duration::from_mins(3), "a server may restart meanwhile");
        tokio::time::advance(WAIT_MAX + STEADY_AFTER).await;
        assert_eq!(pace.next_wait(), Some(WAIT), "a steady connection begins anew");
    }
}
