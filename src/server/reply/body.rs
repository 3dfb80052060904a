//! The bodies of responses to clients.

use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::limits::Permit;
use crate::server::http1::activity::ActiveRequest;
use crate::server::http1::control_plane::{ControlBody, Stream};
use crate::telemetry::metrics::{Operation, OperationOutcome};
use metamcp_store::auth::Identity;

/// A response body, and the guard that tells its connection when it is complete.
pub struct ResponseBody {
    kind: Kind,
    active: Option<ActiveRequest>,
}

/// The kinds of response body. Whole bodies are not boxed just for being a variant.
enum Kind {
    Whole(Bytes),
    /// One complete piece that holds a permit. Boxed for its size.
    Held(Box<BufferedPiece>),
    /// A few complete pieces. Boxed, as everything large is, since a response is moved through many
    /// functions.
    Pieces(Box<PieceQueue>),
    /// A body that is produced while it is sent.
    Source(Box<dyn BodySource>),
    /// Events that a task sends. Boxed for its size.
    Events(Box<Events>),
    /// A streaming body of the control plane, and its owner.
    Control(Stream, Identity),
}

/// Produces a response body while it is sent: the relay of an upstream's response, or an event stream.
pub trait BodySource {
    /// Polls for the next bytes. `None` is the end. An error closes the connection, so that the client does
    /// not take a partial body for a complete one.
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>>;

    /// Whether the last byte was returned, as far as that is known before the next poll.
    fn is_ended(&self) -> bool {
        false
    }

    /// The length of the body, if it is known.
    fn length(&self) -> Option<u64> {
        None
    }

    /// Whether it may be silent for long before it ends.
    fn is_event_stream(&self) -> bool;

    /// Whose credential it needs, if it ends with it.
    fn owner(&self) -> Option<&Identity> {
        None
    }

    /// Whether the client has ended what it belongs to, and waits for it no more.
    fn is_unwanted(&self) -> bool {
        false
    }

    /// Counts the answered message. By default at once and without its bytes, which suits bodies that do not
    /// end by themselves.
    fn count(&mut self, operation: Operation) {
        operation.end(OperationOutcome::Answer);
    }
}

/// A response body, classified by what is available.
pub enum BodyPoll {
    /// A complete body made by the gateway: the response to a request, under its id.
    Pieces([Bytes; 3]),
    Whole(Bytes),
    /// A body that is not complete yet.
    Arriving(ResponseBody),
}

/// Up to three pieces that are sent without joining them.
pub struct PieceQueue {
    pieces: [Bytes; 3],
    next: usize,
}

/// One complete piece, returned in parts, and the permit that is held until the last part is taken.
struct BufferedPiece {
    bytes: Bytes,
    _permit: Permit,
}

/// Events that a task sends.
pub struct Events {
    /// Bounded, so that the task waits for a client that does not read.
    receiver: mpsc::Receiver<Bytes>,
    _permit: Option<Permit>,
    owner: Option<Identity>,
}

/// A body and what it needs until its last byte.
struct HoldingSource<R> {
    source: Box<dyn BodySource>,
    resource: Option<R>,
}

/// A body whose bytes are shown to `observe` before they are passed on.
struct ObservedSource<O> {
    source: Box<dyn BodySource>,
    observe: O,
}

/// The size of a part. A connection reads a few parts ahead of its client, which is little compared with the
/// largest response; each part has a cost, so it is not smaller.
const PART_BYTES: usize = 64 << 10;

/// A body failed. hyper closes the connection, so that the client does not take it for complete.
pub type BodyError = Box<dyn Error + Send + Sync>;

impl ResponseBody {
    pub fn empty() -> Self {
        Self::whole(Bytes::new())
    }

    pub fn whole(bytes: Bytes) -> Self {
        Self::from(Kind::Whole(bytes))
    }

    pub fn pieces(pieces: [Bytes; 3]) -> Self {
        Self::from(Kind::Pieces(Box::new(PieceQueue { pieces, next: 0 })))
    }

    /// The events that a task sends for `owner`. The task sees the closed channel when the client leaves.
    pub fn events(receiver: mpsc::Receiver<Bytes>, permit: Option<Permit>, owner: Option<Identity>) -> Self {
        Self::from(Kind::Events(Box::new(Events { receiver, _permit: permit, owner })))
    }

    /// The body that `source` produces.
    pub fn source(source: Box<dyn BodySource>) -> Self {
        Self::from(Kind::Source(source))
    }

    /// Whether it may be silent for long before it ends.
    pub fn is_stream(&self) -> bool {
        matches!(&self.kind, Kind::Source(source) if source.is_event_stream())
    }

    /// Whether its sender ends it with a last event when the credential ends.
    pub fn ends_with_credential(&self) -> bool {
        matches!(self.kind, Kind::Events(_))
    }

    /// Whether it has its bytes, and holds nothing but them.
    pub fn is_complete(&self) -> bool {
        matches!(self.kind, Kind::Whole(_) | Kind::Pieces(_))
    }

    /// The bytes of a complete body. Zero for one that is produced while it is sent.
    pub fn ready_bytes(&self) -> usize {
        match &self.kind {
            Kind::Whole(_) | Kind::Held(_) | Kind::Pieces(_) => {
                let bytes = self.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
                bytes.unwrap_or_default()
            }
            Kind::Source(_) | Kind::Events(_) | Kind::Control(..) => 0,
        }
    }

    /// Whose credential it needs, if it ends with it.
    pub fn owner(&self) -> Option<&Identity> {
        match &self.kind {
            Kind::Source(source) => source.owner(),
            Kind::Events(events) => events.owner.as_ref(),
            Kind::Control(_, owner) => Some(owner),
            Kind::Whole(_) | Kind::Held(_) | Kind::Pieces(_) => None,
        }
    }

    /// Whether its client has ended what it belongs to, and waits for it no more.
    pub fn is_unwanted(&self) -> bool {
        matches!(&self.kind, Kind::Source(source) if source.is_unwanted())
    }

    /// Classifies the body by what is available.
    pub fn into_ready(self) -> BodyPoll {
        match self.kind {
            Kind::Pieces(pieces) => BodyPoll::Pieces(pieces.pieces),
            Kind::Whole(bytes) => BodyPoll::Whole(bytes),
            Kind::Source(_) | Kind::Events(_) | Kind::Held(_) | Kind::Control(..) => BodyPoll::Arriving(self),
        }
    }

    /// Counts the message that the body answers, with the last byte; or at once, if the body is complete. A
    /// subscription counts as answered when it is acknowledged.
    pub fn count(&mut self, mut operation: Operation) {
        match &mut self.kind {
            Kind::Source(source) => source.count(operation),
            Kind::Whole(_) | Kind::Held(_) | Kind::Pieces(_) | Kind::Events(_) | Kind::Control(..) => {
                let bytes = self.size_hint().exact().and_then(|bytes| usize::try_from(bytes).ok());
                operation.add_response_bytes(bytes.unwrap_or_default());
                operation.end(OperationOutcome::Answer);
            }
        }
    }

    /// Keeps `resource` until the last byte of a source was produced. A complete body needs it no longer; the other
    /// streams belong to no call, and are not held for one.
    #[must_use]
    pub fn holding(mut self, resource: impl Sized + 'static) -> Self {
        if let Kind::Source(source) = self.kind {
            self.kind = Kind::Source(Box::new(HoldingSource { source, resource: Some(resource) }));
        }
        self
    }

    /// Shows the bytes to `observe` as they are produced: a whole body at once, a source piece by piece. The other kinds
    /// are not shown.
    #[must_use]
    pub fn observed(mut self, mut observe: impl FnMut(&Bytes) + 'static) -> Self {
        match self.kind {
            Kind::Whole(ref bytes) => observe(bytes),
            Kind::Source(source) => self.kind = Kind::Source(Box::new(ObservedSource { source, observe })),
            Kind::Held(_) | Kind::Pieces(_) | Kind::Events(_) | Kind::Control(..) => {}
        }
        self
    }

    /// A body of the control plane.
    pub fn control(body: ControlBody) -> Self {
        match body {
            ControlBody::Whole(bytes, None) => Self::whole(bytes),
            ControlBody::Whole(bytes, Some(permit)) => {
                Self::from(Kind::Held(Box::new(BufferedPiece { bytes, _permit: permit })))
            }
            ControlBody::Stream(stream, owner) => Self::from(Kind::Control(stream, owner)),
        }
    }

    /// Keeps the request in flight until the last byte.
    #[must_use]
    pub fn held_by(mut self, active: ActiveRequest) -> Self {
        self.active = Some(active);
        self
    }
}

impl<R> BodySource for HoldingSource<R> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let next = self.source.poll_bytes(cx);
        if self.source.is_ended() || matches!(next, Poll::Ready(None | Some(Err(_)))) {
            self.resource = None;
        }
        next
    }

    fn is_ended(&self) -> bool {
        self.source.is_ended()
    }

    fn length(&self) -> Option<u64> {
        self.source.length()
    }

    fn is_event_stream(&self) -> bool {
        self.source.is_event_stream()
    }

    fn owner(&self) -> Option<&Identity> {
        self.source.owner()
    }

    fn is_unwanted(&self) -> bool {
        self.source.is_unwanted()
    }

    fn count(&mut self, operation: Operation) {
        self.source.count(operation);
    }
}

impl<O: FnMut(&Bytes)> BodySource for ObservedSource<O> {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let next = self.source.poll_bytes(cx);
        if let Poll::Ready(Some(Ok(bytes))) = &next {
            (self.observe)(bytes);
        }
        next
    }

    fn is_ended(&self) -> bool {
        self.source.is_ended()
    }

    fn length(&self) -> Option<u64> {
        self.source.length()
    }

    fn is_event_stream(&self) -> bool {
        self.source.is_event_stream()
    }

    fn owner(&self) -> Option<&Identity> {
        self.source.owner()
    }

    fn is_unwanted(&self) -> bool {
        self.source.is_unwanted()
    }

    fn count(&mut self, operation: Operation) {
        self.source.count(operation);
    }
}

impl From<Kind> for ResponseBody {
    fn from(kind: Kind) -> Self {
        Self { kind, active: None }
    }
}

impl PieceQueue {
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
            Kind::Source(source) => {
                source.poll_bytes(cx).map(|next| next.map(|bytes| bytes.map(Frame::data)))
            }
            Kind::Events(events) => {
                events.receiver.poll_recv(cx).map(|next| next.map(|e| Ok(Frame::data(e))))
            }
            Kind::Control(stream, _) => stream
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
            Kind::Control(stream, _) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Kind::Held(held) => SizeHint::with_exact(held.bytes.len() as u64),
            Kind::Pieces(pieces) => SizeHint::with_exact(pieces.left()),
            Kind::Source(source) => source.length().map_or_else(SizeHint::default, SizeHint::with_exact),
            Kind::Events(_) | Kind::Control(..) => SizeHint::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::FutureExt as _;

    use super::*;
    use crate::limits::{Limits, PermitKind};
    use metamcp_config::sections::LimitsConfig;

    #[track_caller]
    fn check(bytes: usize, parts: usize) {
        let identity = Identity::sample("AAAAAAAAAAAA");
        let usage =
            Limits::new(&LimitsConfig { key_in_flight_max: 1, key_event_streams_max: 1, memory_max: 0 })
                .usage(&identity);
        let permit = usage.admit(&identity, PermitKind::Call).ok();
        let whole = Bytes::from(vec![b'x'; bytes]);
        let mut body = ResponseBody::control(ControlBody::Whole(whole, permit));
        assert_eq!(body.size_hint().exact(), Some(bytes as u64));
        let (mut taken, mut count) = (0, 0);
        while !body.is_end_stream() {
            assert!(
                usage.admit(&identity, PermitKind::Call).is_err(),
                "{bytes}: free before the last part is taken"
            );
            let frame = poll_fn(|cx| Pin::new(&mut body).poll_frame(cx)).now_or_never().flatten();
            taken += frame.expect("it is here").expect("it does not break").into_data().expect("data").len();
            count += 1;
        }
        assert_eq!((taken, count), (bytes, parts));
        drop(body);
        assert!(usage.admit(&identity, PermitKind::Call).is_ok());
    }

    #[test]
    fn the_permit_is_held_until_the_last_part_is_taken() {
        check(0, 0);
        check(1, 1);
        check(PART_BYTES, 1);
        check(PART_BYTES + 1, 2);
        check(4 << 20, 64);
    }
}
