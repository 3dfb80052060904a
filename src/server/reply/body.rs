//! The bodies of responses to clients.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::limits::Permit;
use crate::server::http1::activity::Active;
use crate::server::http1::control_plane::{ControlBody, Stream};
use crate::telemetry::metrics::{Operation, OperationOutcome};

/// A response body, and what tells its connection that it has passed.
pub struct ResponseBody {
    kind: Kind,
    active: Option<Active>,
}

/// Every kind of response body. Those that are here whole are not boxed for being one.
enum Kind {
    /// One ready piece.
    Whole(Bytes),
    /// The same, which holds the key's place. Boxed likewise.
    Held(Box<Held>),
    /// A few. Boxed, as is what is bigger: a response is moved from step to step.
    Pieces(Box<Pieces>),
    /// One that is made while it is sent.
    Source(Box<dyn BodySource>),
    /// Events as a task makes them.
    Events(Events),
    /// The control plane's.
    Control(Stream),
}

/// What makes a response body while it is sent: the relay of an upstream's response, or a stream of events.
pub trait BodySource {
    /// The next bytes; `None` at the end. An error ends the connection, so that the client does not take what it got
    /// for the whole.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;

    /// Whether the last byte was handed out, as far as that is known before the next poll.
    fn is_ended(&self) -> bool {
        false
    }

    /// How many bytes there will be, where that is known.
    fn length(&self) -> Option<u64> {
        None
    }

    /// Whether it may be silent for long before it ends.
    fn is_event_stream(&self) -> bool;

    /// Counts the message that this answers: by default now, without its bytes, as is right for what never ends by itself.
    fn count(&mut self, operation: Operation) {
        operation.end(OperationOutcome::Answer);
    }
}

/// A response body, as far as it is here.
pub enum Ready {
    /// All of it, made by the gateway: what answers a request, under its id.
    Pieces([Bytes; 3]),
    /// All of it, as somebody wrote it.
    Whole(Bytes),
    /// Some of it is to come.
    Arriving(ResponseBody),
}

/// Up to three pieces, sent one behind another without joining them.
pub struct Pieces {
    pieces: [Bytes; 3],
    next: usize,
}

/// One ready piece and a place among the key's requests, handed out in parts: what is not taken yet holds it.
struct Held {
    bytes: Bytes,
    _permit: Permit,
}

/// Events as a task makes them.
pub struct Events {
    /// Bounded: a client that does not read makes the task wait.
    receiver: mpsc::Receiver<Bytes>,
    _permit: Option<Permit>,
}

/// A connection takes a few parts ahead of what its client has read: small beside the biggest answer, big beside what
/// one costs.
const PART_BYTES: usize = 64 << 10;

/// A body that broke off; hyper ends the connection, so that the client does not take it for whole.
pub type BodyError = Box<dyn Error + Send + Sync>;

impl ResponseBody {
    /// Nothing.
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    /// One piece.
    pub fn whole(bytes: Bytes) -> Self {
        Self::from(Kind::Whole(bytes))
    }

    /// Three pieces.
    pub fn pieces(pieces: [Bytes; 3]) -> Self {
        Self::from(Kind::Pieces(Box::new(Pieces { pieces, next: 0 })))
    }

    /// What a task sends; it learns from the closed channel that the client has gone.
    pub fn events(receiver: mpsc::Receiver<Bytes>, permit: Option<Permit>) -> Self {
        Self::from(Kind::Events(Events { receiver, _permit: permit }))
    }

    /// What `source` makes while it is sent.
    pub fn source(source: Box<dyn BodySource>) -> Self {
        Self::from(Kind::Source(source))
    }

    /// Whether it may be silent for long before it ends.
    pub fn is_stream(&self) -> bool {
        matches!(&self.kind, Kind::Source(source) if source.is_event_stream())
    }

    /// What is here of it.
    pub fn into_ready(self) -> Ready {
        match self.kind {
            Kind::Pieces(pieces) => Ready::Pieces(pieces.pieces),
            Kind::Whole(bytes) => Ready::Whole(bytes),
            Kind::Source(_) | Kind::Events(_) | Kind::Held(_) | Kind::Control(_) => Ready::Arriving(self),
        }
    }

    /// The answer to a message: it is counted with the last byte, or now, when all of it is here. A subscription is
    /// answered when it is acknowledged.
    pub fn count(&mut self, mut operation: Operation) {
        match &mut self.kind {
            Kind::Source(source) => source.count(operation),
            Kind::Whole(_) | Kind::Held(_) | Kind::Pieces(_) | Kind::Events(_) | Kind::Control(_) => {
                let bytes = self.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
                operation.add_response_bytes(bytes.unwrap_or_default());
                operation.end(OperationOutcome::Answer);
            }
        }
    }

    /// Made by the control plane.
    pub fn control(body: ControlBody) -> Self {
        match body {
            ControlBody::Whole(bytes, None) => Self::whole(bytes),
            ControlBody::Whole(bytes, Some(permit)) => {
                Self::from(Kind::Held(Box::new(Held { bytes, _permit: permit })))
            }
            ControlBody::Stream(stream) => Self::from(Kind::Control(stream)),
        }
    }

    /// Keeps the request under way until the last byte.
    #[must_use]
    pub fn held_by(mut self, active: Active) -> Self {
        self.active = Some(active);
        self
    }
}

impl From<Kind> for ResponseBody {
    fn from(kind: Kind) -> Self {
        Self { kind, active: None }
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
        match &mut self.kind {
            Kind::Whole(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Kind::Held(held) => {
                let part = held.bytes.split_to(held.bytes.len().min(PART_BYTES));
                Poll::Ready((!part.is_empty()).then(|| Ok(Frame::data(part))))
            }
            Kind::Pieces(pieces) => Poll::Ready(pieces.take().map(|piece| Ok(Frame::data(piece)))),
            Kind::Source(source) => source.poll_bytes(cx).map(|next| next.map(|bytes| bytes.map(Frame::data))),
            Kind::Events(events) => {
                events.receiver.poll_recv(cx).map(|next| next.map(|e| Ok(Frame::data(e))))
            }
            Kind::Control(stream) => stream
                .as_mut()
                .poll_frame(cx)
                .map(|next| next.map(|frame| frame.map_err(|never| match never {}))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Whole(bytes) => bytes.is_empty(),
            Kind::Held(held) => held.bytes.is_empty(),
            Kind::Pieces(pieces) => pieces.left() == 0,
            Kind::Source(source) => source.is_ended(),
            Kind::Events(_) => false,
            Kind::Control(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Held(held) => SizeHint::with_exact(held.bytes.len() as u64),
            Kind::Pieces(pieces) => SizeHint::with_exact(pieces.left()),
            Kind::Source(source) => source.length().map_or_else(SizeHint::default, SizeHint::with_exact),
            Kind::Events(_) | Kind::Control(_) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::auth::Identity;
    use crate::limits::{Config, Limits};

    #[track_caller]
    fn check(bytes: usize, parts: usize) {
        let identity = Identity::sample("AAAAAAAAAAAA");
        let usage = Limits::new(Config { key_in_flight_max: 1 }).usage(&identity);
        let permit = usage.admit(&identity).ok();
        let whole = Bytes::from(vec![b'x'; bytes]);
        let mut body = ResponseBody::control(ControlBody::Whole(whole, permit));
        assert_eq!(body.size_hint().exact(), Some(bytes as u64));
        let (mut taken, mut count) = (0, 0);
        while !body.is_end_stream() {
            assert!(usage.admit(&identity).is_err(), "{bytes}: free before the last part is taken");
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never().flatten();
            taken += frame.expect("it is here").expect("it does not break").into_data().expect("data").len();
            count += 1;
        }
        assert_eq!((taken, count), (bytes, parts));
        drop(body);
        assert!(usage.admit(&identity).is_ok());
    }

    #[test]
    fn what_is_not_taken_holds_the_keys_place() {
        check(0, 0);
        check(1, 1);
        check(PART_BYTES, 1);
        check(PART_BYTES + 1, 2);
        check(4 << 20, 64);
    }
}
