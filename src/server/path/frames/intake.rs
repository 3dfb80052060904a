//! Turns each message of a framed stream into the call that a request of its own would be.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;

use super::desk::FrameContext;
use super::exchange;
use super::flights::{Answering, FlightState, InFlightRequests, UNDER_WAY_MAX};
use crate::server::mcp::call::{self, Call};
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{FLAG_RESPONSE, FrameHeader, MessageKind as FrameKind};
use metamcp_core::protocol::{Era, McpMethod, UNNUMBERED, method_name};

/// Accepts messages and drives the requests in flight.
pub struct MessageIntake {
    desk: Rc<FrameContext>,
    /// Messages received so far, including skipped ones.
    number: u64,
    flights: InFlightRequests,
    /// Messages without an answer. They are sent one after the other, because their order matters.
    waiting: VecDeque<(Box<Call>, u64)>,
    telling: Option<PendingNotification>,
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
pub enum NotificationState {
    /// All messages.
    All,
    /// No requests: only messages that help in-flight requests to complete.
    AnswersOnly,
}

/// Requests in flight, not counting those that wait for the client itself. At this limit nothing is read
/// until one is answered. Those that wait have a limit of their own ([`UNDER_WAY_MAX`]), because the message that
/// they wait for has yet to be read.
const IN_FLIGHT_MAX: usize = 256;

/// Messages without an answer that wait for earlier ones.
const WAITING_MAX: usize = 64;

/// Up to this size a message is copied out of its read buffer, so that a call in flight does not keep
/// hundreds of KiB of other messages alive.
const COPIED_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(IN_FLIGHT_MAX < UNDER_WAY_MAX);

impl MessageIntake {
    /// For a stream on which no message has arrived yet.
    pub fn new(desk: Rc<FrameContext>) -> Self {
        let (flights, waiting) = (InFlightRequests::default(), VecDeque::new());
        Self { desk, number: 0, flights, waiting, telling: None, initialized: false }
    }

    /// Messages received so far.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether one more message may be accepted: there is room for its answer, and no session is being opened
    /// that it could depend on.
    pub fn has_room(&self) -> bool {
        let count = self.flights.count();
        self.desk.outbox.has_room()
            && count.saturating_sub(self.desk.asking()) < IN_FLIGHT_MAX
            && count < UNDER_WAY_MAX
            && self.waiting.len() < WAITING_MAX
            && !self.flights.is_opening()
    }

    /// Whether nothing is in flight, subscriptions included.
    pub fn is_idle(&self) -> bool {
        self.flights.count() == 0 && self.telling.is_none()
    }

    /// Whether everything that ends by itself has ended. Subscriptions do not.
    pub fn is_over(&self) -> bool {
        self.flights.are_over() && self.telling.is_none()
    }

    /// Cancels everything in flight.
    pub fn give_up(&mut self) {
        self.flights = InFlightRequests::default();
        self.waiting.clear();
        self.telling = None;
    }

    /// The session of the stream, returned once after its client is ready for server messages.
    pub fn take_initialized(&mut self) -> Option<Arc<Session>> {
        std::mem::take(&mut self.initialized).then(|| self.desk.session()).flatten()
    }

    /// Drives everything in flight. Returns whether something ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let has_ended = self.flights.poll(cx);
        self.poll_telling(cx) || has_ended
    }

    fn poll_telling(&mut self, cx: &mut Context<'_>) -> bool {
        let mut moved = false;
        while let Some(told) = &mut self.telling {
            if told.sending.as_mut().poll(cx).is_pending() {
                break;
            }
            moved = true;
            self.initialized |= told.method == Some(McpMethod::Initialized);
            if let Some(id) = told.cancels.take() {
                self.flights.cancel(&id, cx);
            }
            self.telling = None;
            self.tell_next();
        }
        moved
    }

    /// Whether these bytes are a complete message.
    pub fn is_whole(&self, bytes: &Bytes) -> bool {
        self.desk.worker.scanner.borrow_mut().scan(bytes).is_ok()
    }

    /// Skips a message over the size limit, and reports it to the client.
    pub fn pass_over(&mut self, bytes_max: usize) {
        self.number += 1;
        let text = format!("the message is over the limit of {bytes_max} bytes (`server.body_bytes_max`)");
        self.desk.refuse(Fault::client(FaultKind::TooLarge, text), self.number);
    }

    /// Accepts one message, and answers it at once if no server is needed.
    pub fn take(
        &mut self,
        header: Option<FrameHeader>,
        bytes: Bytes,
        telling: NotificationState,
        cx: &mut Context<'_>,
    ) {
        self.number += 1;
        let body = if bytes.len() <= COPIED_BYTES_MAX { Bytes::copy_from_slice(&bytes) } else { bytes };
        if let Err(fault) = self.accept(header, body, telling, cx) {
            self.desk.refuse(fault, self.number);
        }
    }

    fn accept(
        &mut self,
        header: Option<FrameHeader>,
        body: Bytes,
        telling: NotificationState,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let desk = &self.desk;
        let (envelope, method) = call::scan(&mut desk.worker.scanner.borrow_mut(), &body)?;
        // The id of a client's answer belongs to the server's request; a fault under it would look like the
        // answer to a request of the client.
        let is_request = envelope.kind == FrameKind::Request;
        let id = envelope.id.filter(|_| is_request);
        let id = id.map(|id| body.slice(id.span.start as usize..id.span.end as usize));
        let making = || -> Result<Box<Call>, Fault> {
            let (identity, endpoint) = (desk.identity.clone(), desk.endpoint()?);
            let permit = Some(desk.worker.credentials.admit(&identity)?);
            let fields = desk.fields();
            let (is_part, trace) = (true, None);
            let mut call =
                Call { fields, endpoint, identity, permit, body, envelope, method, is_part, trace };
            if let Some(header) = header {
                check_header(header, &call)?;
            }
            if call.envelope.params.meta.protocol_version.is_some() {
                call.fields = desk.modern_fields(&call);
            }
            Ok(Box::new(call))
        };
        let call = making().map_err(|fault| fault.with_id(id.clone()))?;
        match id {
            Some(id) if telling == NotificationState::AnswersOnly => {
                let fault =
                    Fault::gateway(FaultKind::ShuttingDown, "the gateway stops; the call did not run");
                Err(fault.with_id(Some(id)))
            }
            Some(id) => self.request(id, call, cx),
            None => {
                self.tell(call, cx);
                self.poll_telling(cx);
                Ok(())
            }
        }
    }

    fn request(&mut self, id: Bytes, call: Box<Call>, cx: &mut Context<'_>) -> Result<(), Fault> {
        if self.flights.find(&id).is_some() {
            // A fault under this id would look like the answer to the other request.
            let text = "the id of this request is that of another one under way; give each its own";
            return Err(Fault::client(FaultKind::InvalidRequest, text));
        }
        let course = match (call.era(), call.method) {
            (Era::Modern, Some(McpMethod::Listen)) => FlightState::Endless,
            (Era::Modern, _) => FlightState::Modern,
            (Era::Legacy, Some(McpMethod::Initialize)) => FlightState::Opening,
            (Era::Legacy, _) => FlightState::Legacy,
        };
        if course == FlightState::Opening && self.desk.session().is_some() {
            let text = "this stream has its session; open another stream for another";
            return Err(Fault::client(FaultKind::InvalidRequest, text).with_id(Some(id)));
        }
        let mut answering: Answering = Box::pin(exchange::answer(Rc::clone(&self.desk), call, self.number));
        // Requests that the gateway answers itself are complete after this poll.
        if answering.as_mut().poll(cx).is_pending() {
            self.flights.add(id, course, answering);
        }
        Ok(())
    }

    /// Queues a message without an answer, or handles a cancellation.
    fn tell(&mut self, call: Box<Call>, cx: &mut Context<'_>) {
        if call.method == Some(McpMethod::Cancelled) {
            let id = call.envelope.params.request_id.map(|id| id.span.slice(&call.body));
            let Some(id) = id else { return };
            match self.flights.find(id).map(|flight| flight.course) {
                // The request has ended, or never existed.
                None => return,
                Some(FlightState::Modern | FlightState::Endless) => return self.flights.cancel(id, cx),
                Some(FlightState::Legacy | FlightState::Opening) => {}
            }
        }
        self.waiting.push_back((call, self.number));
        if self.telling.is_none() {
            self.tell_next();
        }
    }

    /// Starts to send the next queued message.
    fn tell_next(&mut self) {
        let Some((call, number)) = self.waiting.pop_front() else { return };
        let desk = Rc::clone(&self.desk);
        let method = call.method;
        let cancels = call.envelope.params.request_id.filter(|_| method == Some(McpMethod::Cancelled));
        let cancels = cancels.map(|id| call.raw(id.span));
        let sending = Box::pin(async move {
            if let Err(mut fault) = desk.send(call).await {
                // The id of a client's answer belongs to the server's request.
                fault.id = None;
                desk.refuse(fault, number);
            }
        });
        self.telling = Some(PendingNotification { sending, method, cancels });
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
    let said = header.method();
    if said == UNNUMBERED {
        return Ok(());
    }
    let Some(name) = method_name(said) else {
        let text = format!("method number {said} is not known here; send 0 and the name alone");
        return Err(Fault::client(FaultKind::UnknownMethodInSession, text));
    };
    if call.envelope.method.is_some_and(|method| method.equals(&call.body, name.as_bytes())) {
        return Ok(());
    }
    let text = format!("the header says `{name}`, the message says another method or none");
    Err(Fault::client(FaultKind::HeaderMismatch, text))
}
