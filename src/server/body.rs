//! The bodies of responses to clients.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use super::relay::Relay;
use crate::limits::Permit;

/// Every kind of response body; a closed set, so that none is boxed for being one.
pub enum ResponseBody {
    /// A few ready pieces.
    Pieces(Pieces),
    /// A backend's answer on its way. Boxed: it is ten times the size of the others.
    Relay(Box<Relay>),
    /// An event stream of the gateway's own.
    Events(Events),
}

/// Up to three pieces, sent one behind another without joining them.
#[derive(Default)]
pub struct Pieces {
    pieces: [Bytes; 3],
    next: usize,
}

/// Events as a task makes them.
pub struct Events {
    /// Bounded: a client that does not read makes the task wait.
    receiver: mpsc::Receiver<Bytes>,
    _permit: Permit,
}

/// A body that broke off; hyper ends the connection, so that the client does not take it for whole.
pub type BodyError = Box<dyn Error + Send + Sync>;

impl ResponseBody {
    /// Nothing.
    pub fn empty() -> Self {
        Self::Pieces(Pieces::default())
    }

    /// One piece.
    pub fn whole(bytes: Bytes) -> Self {
        Self::pieces([bytes, Bytes::new(), Bytes::new()])
    }

    /// Three pieces.
    pub fn pieces(pieces: [Bytes; 3]) -> Self {
        Self::Pieces(Pieces { pieces, next: 0 })
    }

    /// What a task sends; it learns from the closed channel that the client has gone.
    pub fn events(receiver: mpsc::Receiver<Bytes>, permit: Permit) -> Self {
        Self::Events(Events { receiver, _permit: permit })
    }
}

impl Pieces {
    fn take(&mut self) -> Option<Bytes> {
        while let Some(piece) = self.pieces.get_mut(self.next) {
            self.next += 1;
            if !piece.is_empty() {
                return Some(std::mem::take(piece));
            }
        }
        None
    }

    fn left(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.len() as u64).sum()
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Pieces(pieces) => Poll::Ready(pieces.take().map(|piece| Ok(Frame::data(piece)))),
            Self::Relay(relay) => relay.poll(cx).map(|next| next.map(|bytes| bytes.map(Frame::data))),
            Self::Events(events) => {
                events.receiver.poll_recv(cx).map(|next| next.map(|e| Ok(Frame::data(e))))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Pieces(pieces) => pieces.left() == 0,
            Self::Relay(relay) => relay.is_ended(),
            Self::Events(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Pieces(pieces) => SizeHint::with_exact(pieces.left()),
            Self::Relay(relay) => relay.length().map_or_else(SizeHint::default, SizeHint::with_exact),
            Self::Events(_) => SizeHint::default(),
        }
    }
}
