//! A server that may speak Streamable HTTP or HTTP+SSE.

use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};

use super::open_stream::{StreamOpening, open_stream};
use super::server::SseServer;
use super::target::SseTarget;
use metamcp_http::HttpPool;
use metamcp_http::UpstreamRequest;

/// The state of the detection.
pub struct SseCandidate {
    target: SseTarget,
    server: OnceLock<SseServer>,
    /// When the server may be probed again after a failed probe. Locked only to read or set it.
    not_before: Mutex<Option<Instant>>,
}

/// A server that refuses sessions is not probed for each client that tries to open one.
const PROBE_INTERVAL: Duration = Duration::from_secs(10);

impl SseCandidate {
    /// Creates a candidate that was not probed yet.
    pub fn new(target: SseTarget) -> Self {
        Self { target, server: OnceLock::new(), not_before: Mutex::default() }
    }

    /// Returns the server if HTTP+SSE was detected.
    pub fn server(&self) -> Option<&SseServer> {
        self.server.get()
    }

    fn not_before(&self) -> MutexGuard<'_, Option<Instant>> {
        self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Probes the server unless it was probed a moment ago: opens an event stream and waits for the
    /// `endpoint` event. Returns whether the server speaks HTTP+SSE. Cancel safe.
    pub async fn probe(&self) -> bool {
        if self.server.get().is_some() {
            return true;
        }
        if self.not_before().is_some_and(|not_before| Instant::now() < not_before) {
            return false;
        }
        let SseTarget { name, url, http, .. } = &self.target;
        let pool = HttpPool::new(http.clone());
        // Once to connect, which is bounded by itself, and as long again for the first event.
        let limit = http.settings.connect_timeout * 2;
        let opened = timeout(limit, open_stream(&pool, url, &UpstreamRequest::get())).await;
        if !matches!(opened, Ok(Ok(StreamOpening::Open(_)))) {
            *self.not_before() = Some(Instant::now() + PROBE_INTERVAL);
            return false;
        }
        match SseServer::start(self.target.clone()) {
            Ok(server) => {
                tracing::info!(server = %name, "detected transport HTTP+SSE (2024-11-05)");
                // Another worker may have probed at the same time; its handle is used then.
                let _ = self.server.set(server);
                true
            }
            Err(error) => {
                tracing::error!(server = %name, %error, "cannot start the thread of a server");
                false
            }
        }
    }
}
