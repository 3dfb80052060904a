//! What becomes of the messages of a framed stream: each is made the call that a request of its own would be.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;

use super::desk::Desk;
use super::exchange;
use super::flights::{Answering, Course, Flights};
use crate::server::mcp::call::{self, Call};
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{FLAG_RESPONSE, FrameHeader, MessageKind as FrameKind};
use metamcp_core::protocol::{Era, McpMethod, UNNUMBERED, method_name};

/// Takes messages, and looks after what is under way.
pub struct Intake {
    desk: Rc<Desk>,
    /// Messages that came so far, those that were passed over included.
    number: u64,
    flights: Flights,
    /// Messages without an answer go one after the other: their order means something.
    waiting: VecDeque<(Box<Call>, u64)>,
    telling: Option<Told>,
    /// Set when the client said that it is ready for what servers say by themselves.
    initialized: bool,
}

/// A message without an answer, on its way.
struct Told {
    sending: Pin<Box<dyn Future<Output = ()>>>,
    method: Option<McpMethod>,
    /// The request that it cancels.
    cancels: Option<Bytes>,
}

/// What is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Telling {
    /// Everything.
    All,
    /// No requests: what comes must help what is under way to its end.
    AnswersOnly,
}

/// Requests under way at once, beside those that wait for the client itself. Over it nothing is read until one is answered.
const IN_FLIGHT_MAX: usize = 256;

/// Those that wait for the client included. These cannot count as the others do: what they wait for is yet to be read.
const UNDER_WAY_MAX: usize = 1024;

/// Messages without an answer that wait for those before them.
const WAITING_MAX: usize = 64;

/// Up to this size a message is copied out of what was read with it, so that one call does not hold hundreds of KiB of
/// others while it waits for its answer.
const COPIED_BYTES_MAX: usize = 64 << 10;

const _: () = assert!(IN_FLIGHT_MAX < UNDER_WAY_MAX);

impl Intake {
    /// Of a stream on which nothing was said yet.
    pub fn new(desk: Rc<Desk>) -> Self {
        let (flights, waiting) = (Flights::default(), VecDeque::new());
        Self { desk, number: 0, flights, waiting, telling: None, initialized: false }
    }

    /// Messages that came so far.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Whether one more message may be taken: there is room for what comes of it, and what it depends on is known.
    pub fn has_room(&self) -> bool {
        let count = self.flights.count();
        self.desk.outbox.has_room()
            && count.saturating_sub(self.desk.asking()) < IN_FLIGHT_MAX
            && count < UNDER_WAY_MAX
            && self.waiting.len() < WAITING_MAX
            && !self.flights.is_opening()
    }

    /// Whether nothing is under way, subscriptions included.
    pub fn is_idle(&self) -> bool {
        self.flights.count() == 0 && self.telling.is_none()
    }

    /// Whether everything that ends by itself has.
    pub fn is_over(&self) -> bool {
        self.flights.are_over() && self.telling.is_none()
    }

    /// Cancels all that is under way.
    pub fn give_up(&mut self) {
        self.flights = Flights::default();
        self.waiting.clear();
        self.telling = None;
    }

    /// The session of the stream, once its client is ready to hear of it.
    pub fn take_initialized(&mut self) -> Option<Arc<Session>> {
        std::mem::take(&mut self.initialized).then(|| self.desk.session()).flatten()
    }

    /// Goes on with what is under way; whether something ended.
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

    /// Whether these bytes are a message.
    pub fn is_whole(&self, bytes: &Bytes) -> bool {
        self.desk.worker.scanner.borrow_mut().scan(bytes).is_ok()
    }

    /// One message was longer than may be.
    pub fn pass_over(&mut self, bytes_max: usize) {
        self.number += 1;
        let text = format!("the message is over the limit of {bytes_max} bytes (`server.body_bytes_max`)");
        self.desk.refuse(Fault::client(FaultKind::TooLarge, text), self.number);
    }

    /// Takes one message. What can be answered at once is.
    pub fn take(
        &mut self,
        header: Option<FrameHeader>,
        bytes: Bytes,
        telling: Telling,
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
        telling: Telling,
        cx: &mut Context<'_>,
    ) -> Result<(), Fault> {
        let desk = &self.desk;
        let (envelope, method) = call::scan(&mut desk.worker.scanner.borrow_mut(), &body)?;
        // Of an answer it is the server's, and would be taken for one of the client's own.
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
            Some(id) if telling == Telling::AnswersOnly => {
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
            // Under the id it would be taken for the answer to the other one.
            let text = "the id of this request is that of another one under way; give each its own";
            return Err(Fault::client(FaultKind::InvalidRequest, text));
        }
        let course = match (call.era(), call.method) {
            (Era::Modern, Some(McpMethod::Listen)) => Course::Endless,
            (Era::Modern, _) => Course::Modern,
            (Era::Legacy, Some(McpMethod::Initialize)) => Course::Opening,
            (Era::Legacy, _) => Course::Legacy,
        };
        if course == Course::Opening && self.desk.session().is_some() {
            let text = "this stream has its session; open another stream for another";
            return Err(Fault::client(FaultKind::InvalidRequest, text).with_id(Some(id)));
        }
        let mut answering: Answering = Box::pin(exchange::answer(Rc::clone(&self.desk), call, self.number));
        // What the gateway answers itself is answered by now.
        if answering.as_mut().poll(cx).is_pending() {
            self.flights.add(id, course, answering);
        }
        Ok(())
    }

    /// A message without an answer.
    fn tell(&mut self, call: Box<Call>, cx: &mut Context<'_>) {
        if call.method == Some(McpMethod::Cancelled) {
            let id = call.envelope.params.request_id.map(|id| id.span.slice(&call.body));
            let Some(id) = id else { return };
            match self.flights.find(id).map(|flight| flight.course) {
                // It has ended, or there was none.
                None => return,
                Some(Course::Modern | Course::Endless) => return self.flights.cancel(id, cx),
                Some(Course::Legacy | Course::Opening) => {}
            }
        }
        self.waiting.push_back((call, self.number));
        if self.telling.is_none() {
            self.tell_next();
        }
    }

    /// Begins with the next one.
    fn tell_next(&mut self) {
        let Some((call, number)) = self.waiting.pop_front() else { return };
        let desk = Rc::clone(&self.desk);
        let method = call.method;
        let cancels = call.envelope.params.request_id.filter(|_| method == Some(McpMethod::Cancelled));
        let cancels = cancels.map(|id| call.raw(id.span));
        let sending = Box::pin(async move {
            if let Err(mut fault) = desk.send(call).await {
                // That of an answer is its server's.
                fault.id = None;
                desk.refuse(fault, number);
            }
        });
        self.telling = Some(Told { sending, method, cancels });
    }
}

/// What a header says of its message must be so; what it does not say is read from the message.
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
