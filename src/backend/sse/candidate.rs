//! A server of which nobody said which of the two transports of HTTP it speaks.

use std::sync::{Arc, OnceLock};

use tokio::time::timeout;
use url::Url;

use super::super::{Backend, Outgoing, Pool};
use super::open::{Opened, dial};
use super::server::Server;

/// What is known of it so far.
pub struct Candidate {
    wire: Arc<Backend>,
    url: Url,
    found: OnceLock<Server>,
}

impl Candidate {
    /// Of a server that was not looked at. `wire`: how its URL is spoken to over HTTP.
    pub fn new(wire: Arc<Backend>, url: Url) -> Self {
        Self { wire, url, found: OnceLock::new() }
    }

    /// The server, when it is one of the transport of 2024-11-05.
    pub fn found(&self) -> Option<&Server> {
        self.found.get()
    }

    /// Opens an event stream, unless one was, and says whether it is one that says where messages go. Cancel safe.
    pub async fn look(&self) -> bool {
        if self.found.get().is_some() {
            return true;
        }
        let pool = Pool::new(Arc::clone(&self.wire));
        let patience = self.wire.config.connect_timeout * 2;
        let opened = timeout(patience, dial(&pool, &self.url, &Outgoing::get())).await;
        if !matches!(opened, Ok(Ok(Opened::Stream(_)))) {
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
