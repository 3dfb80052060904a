//! The client's end of a call: where its answer goes, and what comes before that.

use bytes::Bytes;
use tokio::sync::oneshot;

use super::super::level::Level;
use super::request::Asked;
use crate::frame::write_event;
use crate::upstream::UpstreamError;
use crate::upstream::shim::{Outcome, Outlet, Reply, ReplyBody, stream_of};

/// One request of a client that waits for its answer.
pub struct Client {
    to: To,
    /// Its raw id.
    pub id: Bytes,
    /// Its raw progress token, when it has one.
    pub token: Option<Bytes>,
    /// From which level on it wants to be told log messages; none: not at all.
    pub log_level: Option<Level>,
}

enum To {
    /// Nothing has come for it yet.
    Waiting(oneshot::Sender<Outcome>),
    /// An event stream has begun.
    Streaming(Outlet),
    /// It has gone.
    Nobody,
}

/// Events that wait for a slow client; then the server waits as well. One may have 4 MiB.
const EVENTS_MAX: usize = 8;

impl Client {
    /// Of a request, and where its answer comes out.
    pub fn of(asked: &Asked) -> (Self, oneshot::Receiver<Outcome>) {
        let (reply, answer) = oneshot::channel();
        let client =
            Self { to: To::Waiting(reply), id: asked.id(), token: asked.token(), log_level: asked.log_level };
        (client, answer)
    }

    /// Sends a message ahead of the answer; waits while the client is slow.
    ///
    /// Not cancel safe: the message may be lost.
    pub async fn pass(&mut self, message: &[u8]) {
        if let To::Waiting(_) = self.to {
            let (outlet, events) = stream_of(EVENTS_MAX);
            if let To::Waiting(reply) = std::mem::replace(&mut self.to, To::Streaming(outlet))
                && reply.send(Ok(Reply::events(events))).is_err()
            {
                self.to = To::Nobody;
            }
        }
        if let To::Streaming(outlet) = &self.to {
            // One who has gone is noticed by `gone`.
            let _ = outlet.send(write_event(message)).await;
        }
    }

    /// Sends the answer; false when the client has gone. Not cancel safe: it may be lost.
    pub async fn end(self, reply: Reply) -> bool {
        match (self.to, reply) {
            (To::Waiting(waiting), reply) => waiting.send(Ok(reply)).is_ok(),
            (To::Streaming(outlet), Reply { body: ReplyBody::Whole(message), .. }) => {
                outlet.send(write_event(&message)).await
            }
            // No answer here is itself a stream.
            (To::Streaming(_) | To::Nobody, _) => false,
        }
    }

    /// There will be no answer.
    pub fn fail(self, error: UpstreamError) {
        match self.to {
            To::Waiting(waiting) => drop(waiting.send(Err(error))),
            To::Streaming(outlet) => outlet.fail(error.stage),
            To::Nobody => {}
        }
    }

    /// Waits until it has gone. Cancel safe.
    pub async fn gone(&mut self) {
        match &mut self.to {
            To::Waiting(waiting) => waiting.closed().await,
            To::Streaming(outlet) => outlet.closed().await,
            To::Nobody => {}
        }
    }
}
