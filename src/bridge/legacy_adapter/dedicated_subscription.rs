//! The client's event stream of a session that listens for itself, because it subscribed to resources.
//!
//! A session that was in a shared subscription leaves it with an overlap: it goes on receiving the shared
//! events until the server has acknowledged the session's own subscription, and for a moment more. A list
//! change that arrives both ways reaches the client twice, which costs it one request; a change that arrives
//! neither way would be lost.
//!
//! Does not know: how a server is listened to (`listen`).

use std::cell::{Cell, RefCell};
use std::future::{pending, poll_fn};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep_until};

use super::session::{DedicatedStream, Session};
use metamcp_http::multiplex::{EventSink, EventSource};

/// Where the events of one session's own subscription go.
pub struct DedicatedSubscription {
    session: Arc<Session>,
    stream: u64,
    sink: EventSink,
    /// The events of the shared subscription, until they are forwarded.
    shared_events: RefCell<Option<EventSource>>,
    shared_exit: Cell<SharedExit>,
}

/// How far the session has left its shared subscription.
#[derive(Clone, Copy)]
enum SharedExit {
    /// The server does not serve the session's own subscription yet.
    NotYet,
    /// The server serves it; the session leaves at that time unless the stream breaks before.
    At(Instant),
    Left,
}

/// The time that an event on one stream has to arrive on the other as well. The two are read by different
/// threads, which may be busy.
const OVERLAP: Duration = Duration::from_secs(1);

impl DedicatedSubscription {
    /// Creates the subscription for the current stream of the session's client.
    pub fn new(session: Arc<Session>, dedicated: DedicatedStream) -> Self {
        let DedicatedStream { stream, sink, shared_events } = dedicated;
        let shared_exit = if shared_events.is_some() { SharedExit::NotYet } else { SharedExit::Left };
        let (shared_events, shared_exit) = (RefCell::new(shared_events), Cell::new(shared_exit));
        Self { session, stream, sink, shared_events, shared_exit }
    }

    /// Sends an event to the client. Returns false when the client has disconnected. Cancel safe, except that
    /// an event that waits for room is lost.
    pub async fn notify(&self, event: Bytes) -> bool {
        self.sink.send(event).await
    }

    /// Forwards the events of the shared subscription until the session has left it; never completes. Not
    /// cancel safe: the remaining events are lost.
    pub async fn forward_shared(&self) {
        let shared_events = self.shared_events.take();
        if let Some(events) = shared_events {
            // Boxed: most sessions have no shared events, and the others not for long.
            Box::pin(self.forward_all(events)).await;
        }
        pending::<()>().await;
    }

    /// Leaves the shared subscription once the server has served the session's own one for the overlap; never
    /// completes. Cancel safe: the overlap continues when this is called again.
    pub async fn leave_shared_after_overlap(&self) {
        if let SharedExit::NotYet = self.shared_exit.get() {
            self.shared_exit.set(SharedExit::At(Instant::now() + OVERLAP));
        }
        if let SharedExit::At(when) = self.shared_exit.get() {
            // Boxed: this wait is short, and a stream stays for days.
            Box::pin(sleep_until(when)).await;
            self.shared_exit.set(SharedExit::Left);
            self.session.leave_shared(self.stream);
        }
        pending::<()>().await;
    }

    /// Restarts the overlap, because the server's stream broke.
    pub fn reset_overlap(&self) {
        if let SharedExit::At(_) = self.shared_exit.get() {
            self.shared_exit.set(SharedExit::NotYet);
        }
    }

    /// Completes when the client has disconnected. Cancel safe.
    pub async fn closed(&self) {
        self.sink.closed().await;
    }

    async fn forward_all(&self, mut events: EventSource) {
        while let Some(Ok(event)) = poll_fn(|cx| events.poll_next(cx)).await {
            if !self.notify(event).await {
                return;
            }
        }
    }
}
