//! A response of an upstream, as the body of a response to a client.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::event_pass_through::EventPassThrough;
use super::event_tagger::EventTagger;
use super::relayed_stream::RelayedStream;
use super::request_resources::RequestResources;
use crate::server::mcp::meter::Meter;
use crate::server::reply::body::{BodyError, BodySource, ResponseBody};
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::{CallGuard, UpstreamReconnect};
use crate::telemetry::metrics::{Operation, OperationOutcome as Came};
use crate::upstream::UpstreamId;
use metamcp_core::base::{FaultKind, ServerName};
use metamcp_core::protocol::{AnswerMatch, AnswerReader};
use metamcp_http::{FailureStage, UpstreamBody, UpstreamError};
use metamcp_store::auth::Identity;

/// A response that is being relayed.
pub struct Relay {
    /// The first field, so that it is dropped before the server sees the cancellation.
    resources: RequestResources,
    /// Before the answer for the same reason: it holds the session's record of the call.
    mode: RelayMode,
    answer: UpstreamBody,
    /// Counts the client's message, if the client receives the answer from this body.
    operation: Option<Operation>,
    /// Whether the last bytes, or the fault that ended the response, were handed out.
    done: bool,
}

/// How the bytes of a response are passed on.
enum RelayMode {
    /// As they arrive, after this prefix. They are read meanwhile, so that only the answer to the call passes as a whole.
    Bytes(Bytes, Option<Box<AnswerReader>>),
    /// As they arrive, except that an incomplete event is held back, so that it never looks complete.
    Events(RelayedStream, EventPassThrough),
    /// Event by event, so that ids can carry their server.
    Tagged(RelayedStream, Box<EventTagger>),
}

impl Relay {
    /// Bytes as they arrive, after `first`, which `check` has read.
    pub fn bytes(
        first: Bytes,
        answer: UpstreamBody,
        resources: RequestResources,
        check: Option<Box<AnswerReader>>,
    ) -> Self {
        Self { resources, answer, mode: RelayMode::Bytes(first, check), operation: None, done: false }
    }

    /// An event stream whose events pass unchanged, except answers to other calls.
    pub fn events(
        mut answer: UpstreamBody,
        mut resources: RequestResources,
        worker: &Rc<Worker>,
        server: &ServerName,
        id: Option<Bytes>,
    ) -> Self {
        let stream = RelayedStream::new(worker, server, id, &mut resources);
        answer.limit_messages();
        Self {
            resources,
            answer,
            mode: RelayMode::Events(stream, EventPassThrough::default()),
            operation: None,
            done: false,
        }
    }

    /// An event stream from one of several servers, or from a server whose requests are refused.
    pub fn tagged(
        mut answer: UpstreamBody,
        mut resources: RequestResources,
        worker: &Rc<Worker>,
        server: (&ServerName, UpstreamId),
        id: Option<Bytes>,
    ) -> Self {
        let stream = RelayedStream::new(worker, server.0, id, &mut resources);
        answer.limit_messages();
        let (tasks, refuser) = (resources.tasks.take(), resources.refuser.take());
        let tagging = Box::new(EventTagger::new(server.1, stream.id.clone(), tasks, refuser));
        Self { resources, answer, mode: RelayMode::Tagged(stream, tagging), operation: None, done: false }
    }

    /// The response with this event stream as its body.
    pub fn into_reply(self: Box<Self>) -> Reply {
        reply::events(ResponseBody::source(self))
    }

    /// Reconnects to the server when its stream breaks. From now on, a stream that ends without an answer
    /// counts as broken.
    pub fn reconnect_with(&mut self, reconnect: Box<UpstreamReconnect>) {
        if let Some(stream) = self.stream() {
            stream.reconnect = Some(reconnect);
        }
    }

    /// Whether the answer was handed out, as far as that is known for a resumable stream.
    pub fn is_answered(&self) -> bool {
        match &self.mode {
            RelayMode::Bytes(..) => false,
            RelayMode::Events(stream, whole) => stream.ready.is_empty() && whole.is_answered(),
            RelayMode::Tagged(_, tagging) => tagging.is_answered(),
        }
    }

    /// Stops reconnecting, because no client waits for the answer: if the stream is broken, it ends.
    pub fn stop_reconnecting(&mut self) {
        if let Some(stream) = self.stream() {
            stream.ended |= stream.reconnect.take().is_some_and(|reconnect| reconnect.is_asking());
        }
    }

    /// Completes when the stream must end, whether or not its bytes are taken: its key was revoked, or the gateway aborts
    /// in-flight calls. Never completes for a body that is no event stream. Cancel safe.
    pub async fn cut(&mut self) {
        poll_fn(|cx| {
            let is_cut = self.stream().is_some_and(|stream| stream.poll_cut(cx));
            if is_cut { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    /// The reconnection state, if the stream has one.
    pub fn reconnect(&mut self) -> Option<&mut UpstreamReconnect> {
        self.stream()?.reconnect.as_deref_mut()
    }

    fn stream(&mut self) -> Option<&mut RelayedStream> {
        match &mut self.mode {
            RelayMode::Bytes(..) => None,
            RelayMode::Events(stream, _) | RelayMode::Tagged(stream, _) => Some(stream),
        }
    }

    /// Counts the outcome of the call. Only the first call has an effect.
    fn end(&mut self, failure: Option<FaultKind>) {
        let answer = if self.is_cancelled() { Came::Disconnect } else { Came::Answer };
        let (meter, operation) = (self.resources.meter.as_mut(), self.operation.take());
        if let Some(meter) = meter {
            match failure {
                None => meter.end(answer),
                Some(kind) => meter.fail(Some(kind)),
            }
        }
        if let Some(operation) = operation {
            match failure {
                None => operation.end(answer),
                Some(kind) => operation.fail_streaming(kind),
            }
        }
    }

    /// Whether the stream ended without a response because the client cancelled the call.
    fn is_cancelled(&self) -> bool {
        match &self.mode {
            RelayMode::Bytes(..) => false,
            RelayMode::Events(stream, _) | RelayMode::Tagged(stream, _) => {
                stream.ended && stream.is_cancelled()
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.done {
            return Poll::Ready(None);
        }
        match &mut self.mode {
            RelayMode::Bytes(first, _) if !first.is_empty() => Poll::Ready(Some(Ok(std::mem::take(first)))),
            RelayMode::Bytes(_, check) => {
                let mut next = self.answer.poll_chunk(cx);
                let in_flight = self.resources.in_flight.as_mut();
                if next.is_pending() && in_flight.is_some_and(|call| call.poll_session_ended(cx.waker())) {
                    let error = UpstreamError::from_stage(FailureStage::BodyIncomplete);
                    next = Poll::Ready(Some(Err(error)));
                }
                if let Some(check) = check {
                    if let Poll::Ready(Some(Ok(bytes))) = &next {
                        check.push(bytes);
                    }
                    // An error without an id could not be given one any more.
                    let is_refused = if self.answer.is_ended() {
                        check.finish() != AnswerMatch::ThisCall
                    } else {
                        check.so_far() == AnswerMatch::OtherCall
                    };
                    // The client sees that the last part is missing.
                    if is_refused && matches!(next, Poll::Ready(None | Some(Ok(_)))) {
                        let error = UpstreamError::from_stage(FailureStage::InvalidResponse);
                        next = Poll::Ready(Some(Err(error)));
                    }
                }
                self.done = matches!(next, Poll::Ready(None | Some(Err(_))));
                next.map(|next| next.map(|bytes| bytes.map_err(BodyError::from)))
            }
            RelayMode::Events(stream, whole) => {
                let next = whole.poll(stream, &mut self.answer, cx);
                self.done |= matches!(next, Poll::Ready(None | Some(Err(_))));
                next
            }
            RelayMode::Tagged(stream, tagging) => {
                let next = tagging.poll(stream, &mut self.answer, cx).map(|next| next.map(Ok));
                self.done |= matches!(next, Poll::Ready(None));
                next
            }
        }
    }

    /// The kind of the gateway's own error that replaced the server's answer.
    pub fn failure(&self) -> Option<FaultKind> {
        match &self.mode {
            RelayMode::Bytes(..) => None,
            RelayMode::Events(stream, _) | RelayMode::Tagged(stream, _) => stream.failed,
        }
    }
}

impl BodySource for Relay {
    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        let next = self.poll_next(cx);
        match &next {
            Poll::Pending => {}
            Poll::Ready(Some(Ok(bytes))) => {
                self.resources.meter.iter_mut().for_each(|meter| meter.add_bytes(bytes.len()));
                self.operation.iter_mut().for_each(|operation| operation.add_response_bytes(bytes.len()));
                match &self.mode {
                    // The answer itself, or something after it.
                    RelayMode::Tagged(_, tagging) if tagging.is_answered() => self.end(self.failure()),
                    RelayMode::Events(..) => {
                        self.resources.meter.iter_mut().for_each(Meter::add_unparsed);
                        self.operation.iter_mut().for_each(Operation::mark_answered);
                    }
                    _ => {}
                }
            }
            Poll::Ready(Some(Err(_))) => self.end(Some(FaultKind::ConnectionLost)),
            Poll::Ready(None) => {}
        }
        if self.is_ended() {
            // Count before the last bytes pass, not when this body is dropped.
            self.end(self.failure());
        }
        next
    }

    fn is_ended(&self) -> bool {
        let has_no_more = matches!(&self.mode, RelayMode::Bytes(first, _) if first.is_empty());
        self.done || (has_no_more && self.answer.is_ended())
    }

    fn length(&self) -> Option<u64> {
        match &self.mode {
            RelayMode::Bytes(first, _) => Some(self.answer.content_length()? + first.len() as u64),
            _ => None,
        }
    }

    fn is_event_stream(&self) -> bool {
        !matches!(self.mode, RelayMode::Bytes(..))
    }

    fn owner(&self) -> Option<&Identity> {
        Some(&self.resources.identity)
    }

    fn is_unwanted(&self) -> bool {
        match &self.mode {
            RelayMode::Bytes(..) => {
                self.resources.in_flight.as_ref().is_some_and(CallGuard::is_session_ended)
            }
            RelayMode::Events(stream, _) | RelayMode::Tagged(stream, _) => stream.is_session_ended(),
        }
    }

    fn count(&mut self, operation: Operation) {
        self.operation = Some(operation);
    }
}
