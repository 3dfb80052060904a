//! What the servers of a session say outside of calls, as messages of its framed stream.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::desk::Desk;
use super::exchange::number;
use crate::server::streams::event_stream;
use crate::server::streams::session_stream::SessionStream;
use crate::session::Session;
use metamcp_core::frame::{EventReader, MessageKind as FrameKind};

/// The session's own event stream, with this stream as its client.
pub struct Follow {
    events: Box<SessionStream>,
    reader: EventReader,
}

/// Events that are passed on before others have their turn.
const EVENTS_AT_ONCE: usize = 32;

impl Follow {
    /// Takes over from the session's stream before.
    pub fn start(desk: &Rc<Desk>, session: Arc<Session>) -> Self {
        let events = event_stream::follow(&desk.worker, session, desk.identity.clone());
        Self { events, reader: EventReader::new() }
    }

    /// Passes on what has come; ready when nothing more will.
    pub fn poll(&mut self, desk: &Desk, cx: &mut Context<'_>) -> Poll<()> {
        for _ in 0..EVENTS_AT_ONCE {
            if !desk.outbox.has_room() {
                // Polled again when something was taken.
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

/// Answers do not come here, and what cannot be read could be taken for one.
fn pass(desk: &Desk, data: &Bytes) {
    let Ok(envelope) = desk.worker.scanner.borrow_mut().scan(data) else { return };
    if matches!(envelope.kind, FrameKind::Request | FrameKind::Notification) {
        desk.outbox.push(std::slice::from_ref(data), 0, number(&envelope, data));
    }
}
