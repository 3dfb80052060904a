//! Answers requests of a server in the place of a client that cannot be asked.

use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use crate::session::{BufferedRequest, Session, UpstreamSession, deliver};
use crate::upstream::UpstreamPool;
use metamcp_core::protocol::McpMethod;
use metamcp_http::RequestKind;

/// Refuses the requests of a server during one call, one after the other: the stream is not read while a
/// refusal is being sent, so a server cannot make the gateway queue refusals.
pub struct ServerRequestRefuser {
    pool: Rc<UpstreamPool>,
    upstream_session: Arc<UpstreamSession>,
    sending: Option<Pin<Box<dyn Future<Output = ()>>>>,
}

impl ServerRequestRefuser {
    /// For a call in a session that has no id. A client that has one can be asked.
    pub fn for_session(session: &Session, place: usize, pool: &Rc<UpstreamPool>) -> Option<Box<Self>> {
        let upstream_session = if session.has_id() { None } else { session.upstream_slot(place).current() }?;
        Some(Box::new(Self { pool: Rc::clone(pool), upstream_session, sending: None }))
    }

    /// Starts to send the answer. The previous one must be sent.
    pub fn send(&mut self, refusal: Bytes) {
        let (pool, upstream_session) = (Rc::clone(&self.pool), Arc::clone(&self.upstream_session));
        self.sending = Some(Box::pin(async move {
            deliver(
                &pool,
                BufferedRequest::legacy(&upstream_session, McpMethod::Ping, refusal),
                RequestKind::Message,
            )
            .await;
        }));
    }

    /// Polls until the answer is sent, or given up.
    pub fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(sending) = &mut self.sending {
            std::task::ready!(sending.as_mut().poll(cx));
            self.sending = None;
        }
        Poll::Ready(())
    }
}
