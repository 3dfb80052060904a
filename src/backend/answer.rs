//! The body of a backend's response, read by the task that passes it on.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body::Body;
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep, sleep};

use super::pool::{Permit, Pool};
use super::wire::{Wire, peek};
use super::{BackendError, Stage};

/// A response body on its way. Holds its connection and its place among the backend's calls until the
/// last byte; dropped before that, it closes the connection, which tells the backend to stop.
pub struct Answer {
    incoming: Incoming,
    /// `None` once the body has ended.
    wire: Option<Wire>,
    pool: Rc<Pool>,
    /// Between two reads; `None` where silence is normal.
    idle_timeout: Option<Duration>,
    /// Made when first waited for: a small answer comes in one piece with its head and needs no clock.
    idle: Option<Pin<Box<Sleep>>>,
    /// Held for its drop.
    permit: Option<Permit>,
}

impl Answer {
    pub(super) fn new(
        incoming: Incoming,
        wire: Wire,
        pool: Rc<Pool>,
        idle_timeout: Option<Duration>,
        permit: Option<Permit>,
    ) -> Self {
        Self { incoming, wire: Some(wire), pool, idle_timeout, idle: None, permit }
    }

    /// The next bytes, `None` at the regular end.
    pub fn poll_chunk(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BackendError>>> {
        let Some(wire) = &mut self.wire else { return Poll::Ready(None) };
        // Asked first, hyper learns that there is a reader; then the connection reads; then the bytes are
        // here.
        let mut polled = peek(|cx| Pin::new(&mut self.incoming).poll_frame(cx));
        if polled.is_pending() {
            wire.drive(cx);
            polled = peek(|cx| Pin::new(&mut self.incoming).poll_frame(cx));
        }
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let (Some(idle), Some(timeout)) = (&mut self.idle, self.idle_timeout) {
                    idle.as_mut().reset(Instant::now() + timeout);
                }
                match frame.into_data() {
                    Ok(bytes) => {
                        self.release_if_ended();
                        Poll::Ready(Some(Ok(bytes)))
                    }
                    // Trailers have no meaning in MCP; the end follows them.
                    Err(_trailers) => self.poll_chunk(cx),
                }
            }
            Poll::Ready(Some(Err(error))) => {
                self.wire = None;
                Poll::Ready(Some(Err(BackendError::new(Stage::Body, error))))
            }
            Poll::Ready(None) => {
                self.release();
                Poll::Ready(None)
            }
            Poll::Pending if wire.is_closed() => {
                self.wire = None;
                Poll::Ready(Some(Err(BackendError::bare(Stage::Body))))
            }
            Poll::Pending => self.poll_idle(cx),
        }
    }

    /// The next bytes. Cancel safe.
    pub async fn chunk(&mut self) -> Option<Result<Bytes, BackendError>> {
        poll_fn(|cx| self.poll_chunk(cx)).await
    }

    /// The whole body, when it is not longer than `bytes_max`. Not cancel safe: what was read is lost.
    pub async fn collect(&mut self, bytes_max: usize) -> Result<Bytes, BackendError> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() <= bytes_max && self.is_ended() {
            return Ok(first);
        }
        let mut whole = BytesMut::from(first);
        while whole.len() <= bytes_max {
            match self.chunk().await {
                Some(chunk) => whole.extend_from_slice(&chunk?),
                None => return Ok(whole.freeze()),
            }
        }
        Err(BackendError::bare(Stage::TooLarge))
    }

    /// What comes until the body ends or is longer than `bytes_min`; the rest is still to be read. Not cancel
    /// safe: what was read is lost.
    pub async fn begin(&mut self, bytes_min: usize) -> Result<Bytes, BackendError> {
        let Some(first) = self.chunk().await.transpose()? else { return Ok(Bytes::new()) };
        if first.len() > bytes_min || self.is_ended() {
            return Ok(first);
        }
        let mut begun = BytesMut::from(first);
        while begun.len() <= bytes_min {
            match self.chunk().await {
                Some(chunk) => begun.extend_from_slice(&chunk?),
                None => break,
            }
        }
        Ok(begun.freeze())
    }

    /// How many bytes are to come, when the backend said.
    pub fn length(&self) -> Option<u64> {
        self.incoming.size_hint().exact()
    }

    /// Whether the last byte was taken.
    pub fn is_ended(&self) -> bool {
        self.wire.is_none()
    }

    fn poll_idle(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BackendError>>> {
        let Some(timeout) = self.idle_timeout else { return Poll::Pending };
        let idle = self.idle.get_or_insert_with(|| Box::pin(sleep(timeout)));
        if idle.as_mut().poll(cx).is_pending() {
            return Poll::Pending;
        }
        self.wire = None;
        Poll::Ready(Some(Err(BackendError::bare(Stage::BodyIdle))))
    }

    fn release_if_ended(&mut self) {
        if self.incoming.is_end_stream() {
            self.release();
        }
    }

    fn release(&mut self) {
        if let Some(wire) = self.wire.take() {
            self.pool.put(wire);
        }
        self.permit = None;
    }
}
