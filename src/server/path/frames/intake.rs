//! Turns each message of a framed stream into the call that a request of its own would be.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;

use super::context::FrameContext;
use super::exchange;
use super::in_flight::{IN_FLIGHT_WITH_INPUT_MAX, InFlightRequests, RequestLifecycle, ResponseFuture};
use crate::server::mcp::call::{self, Call};
use crate::server::mcp::relay::{connection_ends, gateway_stops};
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{FLAG_RESPONSE, FrameHeader, MessageKind as FrameKind};
use metamcp_core::protocol::{Era, McpMethod, UNNUMBERED, method_name};

/// Accepts messages and drives the requests in flight.
pub struct MessageIntake {
    context: Rc<FrameContext>,
    /// Messages received so far, including skipped ones.
    number: u64,
    in_flight: InFlightRequests,
    /// Messages without an answer. They are sent one after the other, because their order matters.
    queued: VecDeque<(Box<Call>, u64)>,
    sending: Option<PendingNotification>,
    /// Set when the client has sent `notifications/initialized`, so that server messages may be forwarded.
    initialized: bool,
}

/// A message without an answer that is being sent.
struct PendingNotification {
    sending: Pin<Box<dyn Future<Output = ()>>>,
    method: Option<McpMethod>,
    /// The id of the request that it cancels.
    cancels: Option<Bytes>,
}

/// Which messages are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AcceptedMessages {
    All,
    /// No requests: only messages that help in-flight requests to complete.
    AnswersOnly(DrainCause),
}

/// Why a stream accepts no more requests.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DrainCause {
    Shutdown,
    /// The connection is about to end.
    ConnectionEnds,
}

impl DrainCause {
    /// The fault of a request.
    #[cold]
    fn fault(self) -> Fault {
        match self {
            Self::Shutdown => gateway_stops("the call did not run"),
            Self::ConnectionEnds => connection_ends(),
        }
    }
}

/// Requests in flight, not counting those that wait for the client itself. At this limit nothing is read
/// until one is answered. Those that wait have a limit of their own ([`IN_FLIGHT_WITH_INPUT_MAX`]), because the message that
/// they wait for has yet to be read.
const IN_FLIGHT_MAX: usize = 256;

/// Messages without an answer that wait for earlier ones.
const QUEUED_MAX: usize = 64;

/// Up to this size a message is copied out of its read buffer, so that a call in flight does not keep
/// hundreds of KiB of other messages alive.
const COPIED_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(IN_FLIGHT_MAX < IN_FLIGHT_WITH_INPUT_MAX);

impl MessageIntake {
    /// For a stream on which no message has arrived yet.
    pub fn new(context: Rc<FrameContext>) -> Self {
        let (in_flight, queued) = (InFlightRequests::default(), VecDeque::new());
        Self { context, number: 0, in_flight, queued, sending: None, initialized: false }
    }

    /// Messages received so far.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether one more message may be accepted: there is room for its answer, and no session is being opened
    /// that it could depend on.
    pub fn has_room(&self) -> bool {
        let count = self.in_flight.count();
        self.context.outbox.has_room()
            && count.saturating_sub(self.context.awaiting_input()) < IN_FLIGHT_MAX
            && count < IN_FLIGHT_WITH_INPUT_MAX
            && self.queued.len() < QUEUED_MAX
            && !self.in_flight.is_opening()
    }

    /// Whether nothing is in flight, subscriptions included.
    pub fn is_idle(&self) -> bool {
        self.in_flight.count() == 0 && self.sending.is_none()
    }

    /// Whether everything that ends by itself has ended. Subscriptions do not.
    pub fn is_over(&self) -> bool {
        self.in_flight.are_over() && self.sending.is_none()
    }

    /// Cancels everything in flight.
    pub fn cancel_all(&mut self) {
        self.in_flight = InFlightRequests::default();
        self.queued.clear();
        self.sending = None;
    }

    /// The session of the stream, returned once after its client is ready for server messages.
    pub fn take_initialized(&mut self) -> Option<Arc<Session>> {
        std::mem::take(&mut self.initialized).then(|| self.context.session()).flatten()
    }

    /// Drives everything in flight. Returns whether something ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let has_ended = self.in_flight.poll(cx);
        self.poll_sending(cx) || has_ended
    }

    fn poll_sending(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(pending) = &mut self.sending {
            if pending.sending.as_mut().poll(cx).is_pending() {
                break;
            }
            moved = true;
            self.initialized |= pending.method == Some(McpMethod::Initialized);
            if let Some(id) = pending.cancels.take() {
                self.in_flight.cancel(&id, cx);
            }
            self.sending = None;
            self.send_next();
        }
        moved
    }

    /// Whether these bytes are a complete message.
    pub fn is_whole(&self, bytes: &Bytes) -> bool {
        self.context.worker.scanner.borrow_mut().scan(bytes).is_ok()
    }

    /// Skips a message over the size limit, and reports it to the client.
    pub fn skip_oversized(&mut self, bytes_max: usize) {
        let text = format!("the message is over the limit of {bytes_max} bytes (`server.body_bytes_max`)");
        self.skip(Fault::client(FaultKind::TooLarge, text));
    }

    /// Skips a message that was not read, and reports why to the client.
    pub fn skip(&mut self, fault: Fault) {
        self.number += 1;
        self.context.send_fault(fault, self.number);
    }

    /// Accepts one message, and answers it at once if no server is needed.
    pub fn accept_message(
        &mut self,
        header: Option<FrameHeader>,
        bytes: Bytes,
        accepted: AcceptedMessages,
        cx: &mut Context<'_>,
    ) {
        self.number += 1;
        let body = if bytes.len() <= COPIED_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes };
        if let Err(fault) = self.accept(header, body, accepted, cx) {
            self.context.send_fault(fault, self.number);
        }
    }

    fn accept(
        &mut self,
        header: Option<FrameHeader>,
        body: Bytes,
        accepted: AcceptedMessages,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let context = &self.context;
        let (envelope, method) = call::scan(&mut context.worker.scanner.borrow_mut(), &body)?;
        // The id of a client's answer belongs to the server's request; a fault under it would look like the
        // answer to a request of the client.
        let is_request = envelope.kind == FrameKind::Request;
        let id = envelope.id.filter(|_| is_request);
        let id = id.map(|id| body.slice(id.span.start as usize..id.span.end as usize));
        let making = || -> Result<Box<Call>, Fault> {
            let (identity, endpoint) = (context.identity.clone(), context.endpoint()?);
            let permit = Some(context.worker.credentials.admit(&identity, &envelope)?);
            let mut call = Call::new(context.fields(), endpoint, identity, permit, body, (envelope, method));
            call.shares_response = true;
            if let Some(header) = header {
                check_header(header, &call)?;
            }
            if call.envelope.params.meta.protocol_version.is_some() {
                call.fields = context.modern_fields(&call);
            }
            Ok(Box::new(call))
        };
        let call = making().map_err(|fault| fault.with_id(id.clone()))?;
        match (id, accepted) {
            (Some(id), AcceptedMessages::AnswersOnly(cause)) => Err(cause.fault().with_id(Some(id))),
            (Some(id), AcceptedMessages::All) => self.request(id, call, cx),
            (None, _) => {
                self.enqueue(call, cx);
                self.poll_sending(cx);
                Ok(())
            }
        }
    }

    fn request(&mut self, id: Bytes, call: Box<Call>, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.in_flight.find(&id).is_some() {
            // A fault under this id would look like the answer to the other request.
            let text = "the id of this request is that of another one under way; give each its own";
            return Err(Fault::client(FaultKind::InvalidRequest, text));
        }
        let lifecycle = match (call.era(), call.method) {
            (Era::Modern, Some(McpMethod::Listen)) => RequestLifecycle::Endless,
            (Era::Modern, _) => RequestLifecycle::Modern,
            (Era::Legacy, Some(McpMethod::Initialize)) => RequestLifecycle::Opening,
            (Era::Legacy, _) => RequestLifecycle::Legacy,
        };
        if lifecycle == RequestLifecycle::Opening && self.context.session().is_some() {
            let text = "this stream has its session; open another stream for another";
            return Err(Fault::client(FaultKind::InvalidRequest, text).with_id(Some(id)));
        }
        let mut answering: ResponseFuture =
            Box::pin(exchange::answer(Rc::clone(&self.context), call, self.number));
        // Requests that the gateway answers itself are complete after this poll.
        if answering.as_mut().poll(cx).is_pending() {
            self.in_flight.add(id, lifecycle, answering);
        }
        Ok(())
    }

    /// Queues a message without an answer, or handles a cancellation.
    fn enqueue(&mut self, call: Box<Call>, cx: &mut Context<'_>) {
        if call.method == Some(McpMethod::Cancelled) {
            let id = call.envelope.params.request_id.map(|id| id.span.slice(&call.body));
            let Some(id) = id else { return };
            match self.in_flight.find(id).map(|flight| flight.lifecycle) {
                // The request has ended, or never existed.
                None => return,
                Some(RequestLifecycle::Modern | RequestLifecycle::Endless) => {
                    return self.in_flight.cancel(id, cx);
                }
                Some(RequestLifecycle::Legacy | RequestLifecycle::Opening) => {}
            }
        }
        self.queued.push_back((call, self.number));
        if self.sending.is_none() {
            self.send_next();
        }
    }

    /// Starts to send the next queued message.
    fn send_next(&mut self) {
        let Some((call, number)) = self.queued.pop_front() else { return };
        let context = Rc::clone(&self.context);
        let method = call.method;
        let cancels = call.envelope.params.request_id.filter(|_| method == Some(McpMethod::Cancelled));
        let cancels = cancels.map(|id| call.raw(id.span));
        let sending = Box::pin(async move {
            if let Err(mut fault) = context.send(call).await {
                // The id of a client's answer belongs to the server's request.
                fault.id = None;
                context.send_fault(fault, number);
            }
        });
        self.sending = Some(PendingNotification { sending, method, cancels });
    }
}

/// Checks that a frame header agrees with its message. Zero values leave the information to the message.
fn check_header(header: FrameHeader, call: &Call) -> Result<(), Fault> {
    let is_answer = matches!(call.envelope.kind, FrameKind::Response | FrameKind::Error);
    if header.flags() & FLAG_RESPONSE != 0 && !is_answer {
        return Err(Fault::client(
            FaultKind::HeaderMismatch,
            "flag 1 stands before what is no answer; send 0",
        ));
    }
    let number = header.method();
    if number == UNNUMBERED {
        return Ok(());
    }
    let Some(name) = method_name(number) else {
        let text = format!("method number {number} is not known here; send 0 and the name alone");
        return Err(Fault::client(FaultKind::UnknownMethodInSession, text));
    };
    if call.envelope.method.is_some_and(|method| method.equals(&call.body, name.as_bytes())) {
        return Ok(());
    }
    let text = format!("the header says `{name}`, the message says another method or none");
    Err(Fault::client(FaultKind::HeaderMismatch, text))
}
