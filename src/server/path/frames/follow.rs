//! Messages that the servers of a session send outside of calls, forwarded on its framed stream.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::desk::FrameContext;
use super::exchange::number;
use crate::server::streams::event_stream;
use crate::server::streams::session_stream::SessionStream;
use crate::session::Session;
use metamcp_core::frame::{EventReader, MessageKind as FrameKind};

/// The session's own event stream, read on behalf of this framed stream.
pub struct SessionFollower {
    events: Box<SessionStream>,
    reader: EventReader,
}

/// Events that are forwarded before other work gets its turn.
const EVENTS_AT_ONCE: usize = 32;

impl SessionFollower {
    /// Attaches to the session's event stream, and replaces its previous reader.
    pub fn start(desk: &Rc<FrameContext>, session: Arc<Session>) -> Self {
        let events = event_stream::follow(&desk.worker, session, desk.identity.clone());
        Self { events, reader: EventReader::new() }
    }

    /// Forwards the events that have arrived. Ready when no more will come.
    pub fn poll(&mut self, desk: &FrameContext, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..EVENTS_AT_ONCE {
            if !desk.outbox.has_room() {
                // Polled again when the outbox has been read from.
                return Poll::Pending;
            }
            match self.reader.next() {
                Ok(Some(event)) => {
                    if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                        pass(desk, &data);
                    }
                    continue;
                }
                Ok(None) => {}
                Err(_too_long) => return Poll::Ready(()),
            }
            match self.events.poll_next(cx) {
                Poll::Ready(Some(bytes)) => self.reader.push(bytes),
                Poll::Ready(None) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }
}

/// Forwards requests and notifications. Answers do not come on this stream, and a client could take an
/// unreadable message for one.
fn pass(desk: &FrameContext, data: &Bytes) {
    let Ok(envelope) = desk.worker.scanner.borrow_mut().scan(data) else { return };
    if matches!(envelope.kind, FrameKind::Request | FrameKind::Notification) {
        desk.outbox.push(std::slice::from_ref(data), 0, number(&envelope, data));
    }
}
