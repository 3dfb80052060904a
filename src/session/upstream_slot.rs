//! The slot of one upstream session: opens the session on first use, and again when the upstream loses it.

use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use tokio::task::spawn_local;

use super::client_handshake::ClientHandshake;
use super::initialize::{initialize, send_initialized, send_log_level};
use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_core::base::Fault;
use metamcp_core::protocol::LogLevel;

/// Holds the session with one upstream on behalf of one client.
pub struct UpstreamSessionSlot {
    /// Unique within the process.
    number: u64,
    current: ArcSwapOption<UpstreamSession>,
    /// Serializes opening, so that a burst of first calls opens one session.
    opening: tokio::sync::Mutex<()>,
}

/// The number of the next slot.
static NEXT_NUMBER: AtomicU64 = AtomicU64::new(0);

impl Default for UpstreamSessionSlot {
    fn default() -> Self {
        let number = NEXT_NUMBER.fetch_add(1, Ordering::Relaxed);
        Self { number, current: ArcSwapOption::default(), opening: tokio::sync::Mutex::default() }
    }
}

impl UpstreamSessionSlot {
    /// The session, if one is open. One atomic load.
    pub fn current(&self) -> Option<Arc<UpstreamSession>> {
        self.current.load_full()
    }

    /// Returns the session, and opens it first if necessary. Cancel safe: another caller then opens it.
    pub async fn open(
        &self,
        pool: &Rc<UpstreamPool>,
        handshake: &ClientHandshake,
        log_level: Option<LogLevel>,
    ) -> Result<Arc<UpstreamSession>, Fault> {
        self.open_with_result(pool, handshake, log_level, |_| {}).await
    }

    /// As [`Self::open`]. If this call opens the session, `on_result` gets the server's raw response to `initialize`.
    pub async fn open_with_result(
        &self,
        pool: &Rc<UpstreamPool>,
        handshake: &ClientHandshake,
        log_level: Option<LogLevel>,
        on_result: impl FnOnce(Bytes),
    ) -> Result<Arc<UpstreamSession>, Fault> {
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let _guard = self.opening.lock().await;
        if let Some(session) = self.current() {
            return Ok(session);
        }
        let (session, message) = initialize(pool, handshake, self.number).await?;
        on_result(message);
        let level = log_level.filter(|_| session.features.logging);
        let opened = OpenedSession { session: Some(session), pool };
        opened.finish_handshake(level).await?;
        Ok(opened.publish(self))
    }

    /// Opens the session with the client's own `initialize`, and returns the raw response. The client sends
    /// `notifications/initialized` itself.
    pub async fn open_for_client(
        &self,
        pool: &Rc<UpstreamPool>,
        handshake: &ClientHandshake,
    ) -> Result<Bytes, Fault> {
        let _guard = self.opening.lock().await;
        let (session, message) = initialize(pool, handshake, self.number).await?;
        self.publish(session);
        Ok(message)
    }

    /// Discards a session that the upstream has lost. Does nothing if a newer session has replaced it.
    pub fn discard(&self, lost: &Arc<UpstreamSession>) {
        let current = self.current.load();
        if current.as_ref().is_some_and(|session| Arc::ptr_eq(session, lost)) {
            self.current.compare_and_swap(&*current, None);
        }
    }

    fn publish(&self, session: UpstreamSession) -> Arc<UpstreamSession> {
        let session = Arc::new(session);
        self.current.store(Some(Arc::clone(&session)));
        session
    }
}

/// A session that the server has opened, and whose id nobody else knows: it is terminated if it is dropped, because the
/// handshake failed or because nobody waits for it any more.
struct OpenedSession<'a> {
    /// Taken when it is published.
    session: Option<UpstreamSession>,
    pool: &'a Rc<UpstreamPool>,
}

impl OpenedSession<'_> {
    /// Sends what follows the response to `initialize`.
    async fn finish_handshake(&self, log_level: Option<LogLevel>) -> Result<(), Fault> {
        let Some(session) = &self.session else { return Ok(()) };
        send_initialized(self.pool, session).await?;
        if let Some(level) = log_level {
            send_log_level(self.pool, session, level).await;
        }
        Ok(())
    }

    fn publish(mut self, slot: &UpstreamSessionSlot) -> Arc<UpstreamSession> {
        slot.publish(self.session.take().expect("only this takes it"))
    }
}

impl Drop for OpenedSession<'_> {
    fn drop(&mut self) {
        if let Some(session) = self.session.take() {
            let pool = Rc::clone(self.pool);
            spawn_local(async move { session.terminate(&pool).await });
        }
    }
}
