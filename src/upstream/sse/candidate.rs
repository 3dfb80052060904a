//! A server of which nobody said which of the two transports of HTTP it speaks.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, timeout};
use url::Url;

use super::super::{Upstream, UpstreamPool, UpstreamRequest};
use super::open::{Opened, dial};
use super::server::Server;

/// What is known of it so far.
pub struct Candidate {
    wire: Arc<Upstream>,
    url: Url,
    found: OnceLock<Server>,
    /// When it is looked at again after a look that found none. Held for no longer than it takes to read or
    /// set it.
    not_before: Mutex<Option<Instant>>,
}

/// A server that refuses sessions is not asked for an event stream by each client that wants one.
const LOOK_AGAIN: Duration = Duration::from_secs(10);

impl Candidate {
    /// Of a server that was not looked at. `wire`: how its URL is spoken to over HTTP.
    pub fn new(wire: Arc<Upstream>, url: Url) -> Self {
        Self { wire, url, found: OnceLock::new(), not_before: Mutex::default() }
    }

    /// The server, when it is one of the transport of 2024-11-05.
    pub fn found(&self) -> Option<&Server> {
        self.found.get()
    }

    fn not_before(&self) -> MutexGuard<'_, Option<Instant>> {
        // It is one value.
        self.not_before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Opens an event stream, unless one was or none was found a moment ago, and says whether it is one that
    /// says where messages go. Cancel safe.
    pub async fn look(&self) -> bool {
        if self.found.get().is_some() {
            return true;
        }
        if self.not_before().is_some_and(|not_before| Instant::now() < not_before) {
            return false;
        }
        let pool = UpstreamPool::new(Arc::clone(&self.wire));
        let patience = self.wire.config.connect_timeout * 2;
        let opened = timeout(patience, dial(&pool, &self.url, &UpstreamRequest::get())).await;
        if !matches!(opened, Ok(Ok(Opened::Stream(_)))) {
            *self.not_before() = Some(Instant::now() + LOOK_AGAIN);
            return false;
        }
        let server = self.wire.name();
        match Server::deploy(Arc::clone(&self.wire), self.url.clone()) {
            Ok(deployed) => {
                tracing::info!(%server, "it speaks the transport of 2024-11-05 (sse)");
                // Another worker may have looked as well: then its own is used.
                let _ = self.found.set(deployed);
                true
            }
            Err(error) => {
                tracing::error!(%server, %error, "the thread that would speak to it cannot be started");
                false
            }
        }
    }
}
