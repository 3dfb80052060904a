//! An open session of the gateway with one upstream.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::HeaderValue;
use tokio::sync::Notify;
use tokio::time::timeout;

use super::features::ServerFeatures;
use crate::upstream::UpstreamPool;
use metamcp_core::protocol::{Era, Revision, header};
use metamcp_http::{FailureStage, RequestKind, UpstreamRequest};

/// An open session with one upstream. Immutable except for its event stream's status: a lost session is
/// replaced by a new one.
pub struct UpstreamSession {
    /// The id that the server assigned. Some servers assign none.
    pub session_id: Option<HeaderValue>,
    /// The revision that the server chose, which later requests name.
    pub revision: Revision,
    /// What the server offers. Usually shared by all sessions with it.
    pub features: Arc<ServerFeatures>,
    stream: StreamStatus,
}

/// Whether the server has answered the request for the session's event stream.
#[derive(Default)]
struct StreamStatus {
    is_settled: AtomicBool,
    changed: Notify,
}

/// The outcome of the DELETE that ends a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TerminationOutcome {
    Answered,
    /// The server was asked and did not answer, or could not be reached.
    Unanswered,
    /// The server has as many requests in flight as it may have, and knows nothing of this one.
    NotSent,
}

/// How long a server may take to answer a DELETE, once it is sent. No client waits for it.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);

impl UpstreamSession {
    pub(super) fn new(
        session_id: Option<HeaderValue>,
        revision: Revision,
        features: Arc<ServerFeatures>,
    ) -> Self {
        Self { session_id, revision, features, stream: StreamStatus::default() }
    }

    /// Records that the event stream was opened or refused.
    pub fn mark_stream_settled(&self) {
        self.stream.is_settled.store(true, Ordering::Release);
        self.stream.changed.notify_waiters();
    }

    /// Waits until the event stream is opened or refused. Cancel safe.
    pub async fn wait_stream_settled(&self) {
        let changed = self.stream.changed.notified();
        tokio::pin!(changed);
        changed.as_mut().enable();
        if !self.stream.is_settled.load(Ordering::Acquire) {
            changed.await;
        }
    }

    /// Terminates the session at the server with a DELETE.
    pub async fn terminate(&self, pool: &Rc<UpstreamPool>) -> TerminationOutcome {
        let mut request = UpstreamRequest::delete();
        self.write_headers(&mut request);
        let queue_timeout = pool.upstream().config.settings.queue_timeout.min(TERMINATE_TIMEOUT);
        match timeout(queue_timeout + TERMINATE_TIMEOUT, pool.send(&request, RequestKind::Message)).await {
            Ok(Ok(_response)) => TerminationOutcome::Answered,
            Ok(Err(error)) if matches!(error.stage, FailureStage::QueueFull | FailureStage::QueueTimeout) => {
                TerminationOutcome::NotSent
            }
            Ok(Err(_)) | Err(_) => TerminationOutcome::Unanswered,
        }
    }

    /// Sets the headers that every later request of the session carries.
    pub fn write_headers(&self, request: &mut UpstreamRequest) {
        request.set_era(Era::Legacy);
        request.set_header(&header::PROTOCOL_VERSION, &HeaderValue::from_static(self.revision.as_str()));
        if let Some(id) = &self.session_id {
            request.set_header(&header::SESSION_ID, id);
        }
    }
}
