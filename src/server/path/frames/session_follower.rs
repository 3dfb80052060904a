//! Messages that the servers of a session send outside of calls, forwarded on its framed stream.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::context::FrameContext;
use super::exchange::method_number_of;
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
    pub fn start(context: &Rc<FrameContext>, session: Arc<Session>) -> Self {
        let events = event_stream::follow(&context.worker, session, context.identity.clone());
        Self { events, reader: EventReader::new() }
    }

    /// Forwards the events that have arrived. Ready when no more will come.
    pub fn poll(&mut self, context: &FrameContext, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..EVENTS_AT_ONCE {
            if !context.outbox.has_room() {
                // Polled again when the outbox has been read from.
                return Poll::Pending;
            }
            match self.reader.next() {
                Ok(Some(event)) => {
                    if let Some(data) = event.data.filter(|data| !data.is_empty()) {
                        forward(context, &data);
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
fn forward(context: &FrameContext, data: &Bytes) {
    let Ok(envelope) = context.worker.scanner.borrow_mut().scan(data) else { return };
    if matches!(envelope.kind, FrameKind::Request | FrameKind::Notification) {
        context.outbox.push(std::slice::from_ref(data), 0, method_number_of(&envelope, data));
    }
}
