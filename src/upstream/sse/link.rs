//! One session: its event stream, the calls under way on it, and what is sent for it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::uri::PathAndQuery;
use http::{HeaderValue, StatusCode};
use tokio::sync::{Notify, oneshot};
use tokio::task::spawn_local;
use tokio::time::{Instant, sleep};

use super::super::shim::{
    CallEntry, CallOutcome, CallTable, EventSink, IdMatch, LocalBody, LocalResponse, Mailbox, event,
    event_channel, rewritten,
};
use super::super::{FailureStage, RequestKind, UpstreamError, UpstreamRequest, UpstreamResponse};
use super::hub::{Hub, Way, answer};
use super::open::{ERROR_BYTES_MAX, is_failure};
use super::server::Call;
use metamcp_core::frame::{Envelope, SplicedMessage, Span};
use metamcp_core::protocol::code;

/// One session.
pub struct Link {
    pub(super) hub: Rc<Hub>,
    /// What the rest of the gateway calls it.
    pub(super) session: HeaderValue,
    /// Where its messages go.
    endpoint: PathAndQuery,
    /// The call that opened it, and when that was begun.
    pub(super) opened: (u64, Instant),
    pub(super) state: RefCell<State>,
    /// Whether `initialize` was answered.
    pub(super) is_open: Cell<bool>,
    is_over: Cell<bool>,
    /// Told when it is.
    ended: Notify,
    /// Messages of our own on their way.
    telling: Cell<usize>,
    used: Cell<Instant>,
}

/// What is under way in a session.
pub struct State {
    /// Calls.
    pub table: CallTable<Pending>,
    /// What the server says outside of them.
    pub mailbox: Mailbox,
    /// Raw ids of the server's own requests that its client has not answered, and the call in whose answer
    /// they were asked.
    pub asked: HashMap<Bytes, Option<u64>, RandomState>,
    /// Cancellations, by the call, that wait until the call itself was delivered: ahead of it they mean
    /// nothing.
    withdrawn: HashMap<u64, UpstreamRequest, RandomState>,
}

/// A call under way.
pub struct Pending {
    /// Its number among all calls of the server.
    pub call: u64,
    /// What follows from its answer.
    pub what: What,
    /// Where its answer goes.
    pub waiter: Waiter,
    /// Whether the server has taken it.
    pub is_delivered: bool,
}

/// What follows from the answer of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// Nothing.
    Call,
    /// The session is open.
    Initialize,
}

/// Where an answer goes.
pub enum Waiter {
    /// To a call that nothing has come for yet.
    Waiting(oneshot::Sender<CallOutcome>),
    /// Onto an event stream that has begun.
    Streaming(EventSink),
}

/// Messages of our own at once in one session: answers to pings, refusals, cancellations.
const TELLING_MAX: usize = 64;

/// What a call is answered that its client cancelled; no client looks at it. As the Language Server Protocol
/// numbers it.
const CANCELLED: i32 = -32800;

impl Pending {
    /// One that the server has not taken yet.
    pub fn new(call: u64, what: What, reply: oneshot::Sender<CallOutcome>) -> Self {
        Self { call, what, waiter: Waiter::Waiting(reply), is_delivered: false }
    }
}

impl Waiter {
    /// Sends an event ahead of the answer; false when it is lost.
    pub fn pass(&mut self, event: Bytes) -> bool {
        if let Self::Waiting(_) = self {
            let (outlet, events) = event_channel();
            let begun = std::mem::replace(self, Self::Streaming(outlet));
            if let Self::Waiting(reply) = begun {
                // Whoever asked may have gone; that is told otherwise.
                let _ = reply.send(Ok(LocalResponse::from_events(events)));
            }
        }
        match self {
            Self::Streaming(outlet) => outlet.try_send(event),
            Self::Waiting(_) => false,
        }
    }

    /// Sends the answer, with parts replaced.
    pub fn finish(self, message: &Bytes, edits: &[(Span, &[u8])]) {
        match self {
            Self::Waiting(reply) => {
                drop(reply.send(Ok(LocalResponse::from_message(rewritten(message, edits)))))
            }
            Self::Streaming(outlet) => outlet.finish(event(message, edits)),
        }
    }

    /// There will be no answer.
    pub fn fail(self, error: UpstreamError) {
        match self {
            Self::Waiting(reply) => drop(reply.send(Err(error))),
            Self::Streaming(outlet) => outlet.fail(error.stage),
        }
    }

    /// The server refused to take the call.
    fn refuse(self, status: StatusCode, said: Bytes) {
        match self {
            Self::Waiting(reply) => {
                drop(reply.send(Ok(LocalResponse { status, ..LocalResponse::from_message(said) })))
            }
            Self::Streaming(outlet) => outlet.fail(FailureStage::BodyIncomplete),
        }
    }
}

impl Link {
    /// A session whose event stream said where messages go. `opened`: the call that opens it, and when that
    /// was begun.
    pub fn new(
        hub: &Rc<Hub>,
        session: HeaderValue,
        endpoint: PathAndQuery,
        opened: (u64, Instant),
    ) -> Rc<Self> {
        let state = State {
            table: CallTable::new(),
            mailbox: Mailbox::default(),
            asked: HashMap::default(),
            withdrawn: HashMap::default(),
        };
        Rc::new(Self {
            hub: Rc::clone(hub),
            session,
            endpoint,
            opened,
            state: RefCell::new(state),
            is_open: Cell::new(false),
            is_over: Cell::new(false),
            ended: Notify::new(),
            telling: Cell::new(0),
            used: Cell::new(Instant::now()),
        })
    }

    /// Asks the server a client's question, under an id and a progress token of ours.
    pub fn ask(self: &Rc<Self>, call: Call, message: &Bytes, envelope: &Envelope, what: What) {
        // A request always has an id.
        let Some(id) = envelope.id.filter(|_| !call.reply.is_closed()) else { return };
        let Call { number: call, request, reply } = call;
        let token = envelope.params.meta.progress_token;
        // Copies: a slice would keep the whole message until the answer.
        let raw = |span: Span| Bytes::copy_from_slice(span.slice(message));
        let pending = Pending::new(call, what, reply);
        let number =
            self.state.borrow_mut().table.mint(raw(id.span), token.map(|token| raw(token.span)), pending);
        if what == What::Call {
            self.hub.ways.borrow_mut().insert(call, Way::Call(Rc::downgrade(self), number));
        }
        let minted = number.to_string();
        let mut edits = vec![(id.span, minted.as_bytes())];
        edits.extend(token.map(|token| (token.span, minted.as_bytes())));
        edits.sort_unstable_by_key(|(span, _)| span.start);
        let outgoing = self.outgoing(rewritten(message, &edits)).with_fields_of(&request);
        spawn_local(Rc::clone(self).deliver(number, outgoing));
    }

    /// Passes on what has no answer but a status.
    pub fn pass(self: &Rc<Self>, call: Call, message: Bytes) {
        let outgoing = self.outgoing(message).with_fields_of(&call.request);
        let link = Rc::clone(self);
        spawn_local(async move {
            let outcome = match link.post(&outgoing).await {
                Ok(Taken::Yes) => Ok(LocalResponse::from_status(StatusCode::ACCEPTED)),
                Ok(Taken::No(status, said)) => {
                    Ok(LocalResponse { status, ..LocalResponse::from_message(said) })
                }
                Err(error) => Err(error),
            };
            answer(call, outcome);
        });
    }

    /// Answers a request of the server with an error. `id` is raw.
    pub fn refuse(self: &Rc<Self>, id: &[u8], text: &str) {
        if let LocalBody::Message(message) =
            LocalResponse::from_error(StatusCode::OK, id, code::METHOD_NOT_FOUND, text).body
        {
            self.tell(self.outgoing(message));
        }
    }

    /// Tells the server something of our own, of which nobody waits for what becomes of it.
    pub fn tell(self: &Rc<Self>, outgoing: UpstreamRequest) {
        if self.is_over.get() || self.telling.get() >= TELLING_MAX {
            return;
        }
        self.telling.set(self.telling.get() + 1);
        let link = Rc::clone(self);
        spawn_local(async move {
            if let Err(error) = link.post(&outgoing).await {
                tracing::debug!(server = %link.hub.name, %error, "a message of ours was not taken");
            }
            link.telling.set(link.telling.get() - 1);
        });
    }

    /// Nobody waits for that call any more.
    pub fn give_up(self: &Rc<Self>, number: u64) {
        let ended = self.state.borrow_mut().table.remove(number);
        if let Some(minted) = ended {
            let message = format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client gave it up"}}}}"#
            );
            self.withdraw(number, &minted.call, self.outgoing(message.into()));
            self.refuse_asked_during(number);
        }
    }

    /// Refuses what the server asked during a call that ended without an answer.
    pub fn refuse_asked_during(self: &Rc<Self>, number: u64) {
        let asked: Vec<Bytes> = {
            let mut state = self.state.borrow_mut();
            state.asked.extract_if(|_, during| *during == Some(number)).map(|(id, _)| id).collect()
        };
        for id in asked {
            self.refuse(&id, "the call that it was asked in was given up");
        }
    }

    /// The client cancels its own call, which `id` in the message names as it has it. The call is answered at
    /// once: a server says nothing more to a call that was cancelled (MCP, cancellation).
    pub fn cancel(self: &Rc<Self>, request: &UpstreamRequest, message: &Bytes, id: Span) {
        let raw = id.slice(message);
        let mut state = self.state.borrow_mut();
        let found = state.table.iter().find(|(_, minted)| minted.id == raw && minted.call.what == What::Call);
        let Some((number, minted)) =
            found.map(|(number, _)| number).and_then(|number| Some((number, state.table.remove(number)?)))
        else {
            return;
        };
        drop(state);
        self.forget(&minted.call);
        let told = rewritten(message, &[(id, number.to_string().as_bytes())]);
        self.withdraw(number, &minted.call, self.outgoing(told).with_fields_of(request));
        self.refuse_asked_during(number);
        let reply = LocalResponse::from_error(StatusCode::OK, raw, CANCELLED, "the call was cancelled");
        if let LocalBody::Message(answer) = reply.body {
            minted.call.waiter.finish(&answer, &[]);
        }
    }

    /// Whether that id of the server's own request was asked of the client; no longer, from now on.
    pub fn take_asked(&self, id: &[u8]) -> bool {
        self.state.borrow_mut().asked.remove(id).is_some()
    }

    /// The client listens.
    pub fn listen(&self, call: u64, outlet: EventSink) {
        self.used.set(Instant::now());
        self.state.borrow_mut().mailbox.open(call, outlet);
    }

    /// It does no longer, on the stream that this call opened.
    pub fn stop_listening(&self, call: u64) {
        self.used.set(Instant::now());
        self.state.borrow_mut().mailbox.close(call);
    }

    /// The server let it down. Where the session was not open yet, the next is not opened at once.
    pub fn break_off(&self, stage: FailureStage) {
        if !self.is_open.get() && !self.is_over.get() {
            self.hub.note_failure(self.opened.1, "`initialize` was not answered");
        }
        self.close(stage);
    }

    /// Nothing more can come of it: its stream is closed, every call that the server has taken is told, once,
    /// and the session is known no more. Of a call that is on its way the server says itself whether it took
    /// it.
    pub fn close(&self, stage: FailureStage) {
        if self.is_over.replace(true) {
            return;
        }
        self.ended.notify_waiters();
        self.hub.sessions.borrow_mut().remove(&self.session);
        self.hub.ways.borrow_mut().remove(&self.opened.0);
        let mut state = self.state.borrow_mut();
        let taken = state.table.iter().filter(|(_, minted)| minted.call.is_delivered);
        let taken: Vec<u64> = taken.map(|(number, _)| number).collect();
        let calls: Vec<_> = taken.into_iter().filter_map(|number| state.table.remove(number)).collect();
        state.mailbox = Mailbox::default();
        state.asked.clear();
        drop(state);
        for minted in calls {
            self.forget(&minted.call);
            minted.call.waiter.fail(UpstreamError::from_stage(stage));
        }
    }

    /// Waits until it is closed. Cancel safe.
    pub async fn over(&self) {
        let ended = self.ended.notified();
        tokio::pin!(ended);
        ended.as_mut().enable();
        if !self.is_over.get() {
            ended.await;
        }
    }

    /// Whether it could be closed and nobody would notice, after so long.
    pub fn is_idle_for(&self, now: Instant, timeout: Duration) -> bool {
        let state = self.state.borrow();
        state.table.len() == 0
            && !state.mailbox.is_open()
            && now.saturating_duration_since(self.used.get()) >= timeout
    }

    /// The call is over; whoever holds it may still drop it.
    pub fn forget(&self, pending: &Pending) {
        if pending.what == What::Call {
            self.hub.ways.borrow_mut().remove(&pending.call);
        }
    }

    /// A message to where those of the session go.
    pub fn outgoing(&self, message: Bytes) -> UpstreamRequest {
        UpstreamRequest::post(SplicedMessage::unedited(message)).to(self.endpoint.clone())
    }

    /// Brings a call to the server. Its answer comes on the stream, and may be there before the server says
    /// that it took the call.
    async fn deliver(self: Rc<Self>, number: u64, outgoing: UpstreamRequest) {
        let overdue = async {
            self.over().await;
            sleep(self.hub.pool.upstream().config.connect_timeout).await;
        };
        let outcome = tokio::select! {
            biased;
            outcome = self.post(&outgoing) => outcome,
            () = overdue => Err(UpstreamError::from_stage(FailureStage::BodyIncomplete)),
        };
        let is_over = self.is_over.get();
        let mut state = self.state.borrow_mut();
        let withdrawn = state.withdrawn.remove(&number);
        if !is_over && matches!(outcome, Ok(Taken::Yes)) {
            if let Some(minted) = state.table.get(number) {
                minted.call.is_delivered = true;
            }
            drop(state);
            if let Some(withdrawn) = withdrawn {
                self.tell(withdrawn);
            }
            return;
        }
        let ended = state.table.remove(number);
        drop(state);
        let Some(CallEntry { call: pending, .. }) = ended else { return };
        self.forget(&pending);
        let is_failure = match &outcome {
            Ok(Taken::No(status, _)) => is_failure(*status),
            Ok(Taken::Yes) | Err(_) => true,
        };
        match outcome {
            // A server that was started anew: it did not run the call, which may be asked again in another
            // session.
            Ok(Taken::No(status, _)) if is_over && matches!(status.as_u16(), 400 | 404 | 410) => {
                pending.waiter.refuse(StatusCode::NOT_FOUND, Bytes::new());
            }
            Ok(Taken::No(status, said)) => pending.waiter.refuse(status, said),
            // Its answer can come no more.
            Ok(Taken::Yes) => pending.waiter.fail(UpstreamError::from_stage(FailureStage::BodyIncomplete)),
            Err(error) => pending.waiter.fail(error),
        }
        match pending.what {
            What::Initialize if is_failure => self.break_off(FailureStage::NoResponse),
            What::Initialize => self.close(FailureStage::NoResponse),
            What::Call => {}
        }
    }

    /// POSTs a message. 404: the server does not know the session any more.
    async fn post(self: &Rc<Self>, outgoing: &UpstreamRequest) -> Result<Taken, UpstreamError> {
        self.used.set(Instant::now());
        let UpstreamResponse { head, mut body } = *self.hub.pool.send(outgoing, RequestKind::Call).await?;
        if head.status.is_success() {
            if !body.is_ended() {
                // Read to its end, so that the connection can be used again. The server has the message.
                spawn_local(async move { body.collect(ERROR_BYTES_MAX).await });
            }
            return Ok(Taken::Yes);
        }
        let said = body.collect(ERROR_BYTES_MAX).await.unwrap_or_default();
        if head.status == StatusCode::NOT_FOUND && self.is_open.get() {
            tracing::info!(server = %self.hub.name, "the server does not know a session whose stream is open");
            let link = Rc::clone(self);
            // Behind the answer of this call, which did not run; the others may have.
            spawn_local(async move { link.close(FailureStage::BodyIncomplete) });
        }
        Ok(Taken::No(head.status, said))
    }

    /// Tells the server of the end of a call that it has taken, or as soon as it has.
    fn withdraw(self: &Rc<Self>, number: u64, pending: &Pending, told: UpstreamRequest) {
        if pending.is_delivered {
            self.tell(told);
        } else {
            self.state.borrow_mut().withdrawn.insert(number, told);
        }
    }
}

/// What a server made of a message.
enum Taken {
    Yes,
    No(StatusCode, Bytes),
}

impl State {
    /// The call that a raw id of the server stands for.
    pub fn open_call(&self, raw: &[u8]) -> Option<u64> {
        match self.table.find(raw) {
            IdMatch::Open(number) => Some(number),
            IdMatch::Over | IdMatch::Foreign => None,
        }
    }

    /// The call that what names none goes with: the only one under way, to which it must belong; none where
    /// there is not one and the client listens; and where it does not, the newest call, for it is for that
    /// client in any case.
    pub fn companion(&self) -> Option<u64> {
        let calls = self.table.iter().filter(|(_, minted)| minted.call.what == What::Call);
        let (count, newest) =
            calls.fold((0, None), |(count, newest), (number, _)| (count + 1, newest.max(Some(number))));
        newest.filter(|_| count == 1 || !self.mailbox.is_open())
    }

    /// With that call, or else on the client's own stream. False when it is lost.
    pub fn send(&mut self, event: Bytes) -> bool {
        match self.companion().and_then(|number| self.table.get(number)) {
            Some(minted) => minted.call.waiter.pass(event),
            None => self.mailbox.send(event),
        }
    }
}
