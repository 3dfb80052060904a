//! One process, as the calls and seats on it see it: what is under way there, and what is to be written to
//! it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use foldhash::fast::RandomState;
use http::HeaderValue;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::super::shim::{
    Backoff, CallOutcome, CallTable, EventSink, IdMatch, LocalBody, LocalResponse, event, event_channel,
};
use super::super::{FailureStage, UpstreamError};
use super::Program;
use super::lines::write_line;
use super::seat::{SeatId, Seats};
use super::tally::Tally;
use metamcp_core::base::ServerName;
use metamcp_core::frame::{Envelope, Scanner, Span};
use metamcp_core::protocol::{Era, McpMethod, code};

/// What all processes of one server have in common.
pub struct Common {
    /// Its name.
    pub name: ServerName,
    /// How it is run.
    pub program: Program,
    /// Reads what is written and said on this thread.
    pub scanner: RefCell<Scanner>,
    /// Where each call is, for when it is given up.
    pub ways: RefCell<HashMap<u64, Way, RandomState>>,
    /// Where each session is.
    pub sessions: RefCell<HashMap<HeaderValue, (Rc<Link>, SeatId), RandomState>>,
    /// Processes that are spoken to.
    pub links: RefCell<Vec<Rc<Link>>>,
    /// How many run, and how they failed: for other threads too.
    pub tally: Arc<Tally>,
    /// Told when one of them has ended.
    pub ended: Notify,
    /// When the next may be started, after some that failed to start.
    pub backoff: RefCell<Backoff>,
    /// Whether it was said that it asks clients who share a process.
    pub told_of_sharing: Cell<bool>,
    /// Whether it was said that it answers under ids of another type.
    pub told_of_ids: Cell<bool>,
    /// What happened so far.
    pub counts: Counts,
}

/// What happened so far, over all processes of a server.
#[derive(Default)]
pub struct Counts {
    /// Lines that were no message.
    pub nonsense: Cell<u64>,
    /// Messages that were for nobody in particular, or for a call that is over.
    pub unmeant: Cell<u64>,
    /// Messages that a client was too slow for.
    pub lost: Cell<u64>,
    /// Requests of the server that no one client could be asked.
    pub refused: Cell<u64>,
}

/// Where a call is.
pub enum Way {
    /// Under way, by its number there.
    Call(Weak<Link>, u64),
    /// The event stream of a seat.
    Stream(Weak<Link>, SeatId),
}

/// One process.
pub struct Link {
    /// What it shares with the server's others.
    pub common: Rc<Common>,
    /// The era of its first message. Some servers keep to that.
    pub era: Era,
    /// The number of its keeper.
    pub pid: u32,
    /// When it was started.
    pub began: Instant,
    pub(super) state: RefCell<State>,
    outbox: RefCell<BytesMut>,
    /// Told when there is something to write.
    pub to_write: Notify,
    /// Told when it is to end.
    pub to_end: Notify,
    /// When the next of its place may be started: a client that makes its processes crash holds up no other.
    backoff: Rc<RefCell<Backoff>>,
    /// Whether it has answered anything.
    pub has_answered: Cell<bool>,
    /// Told when it has, or is over.
    pub settled: Notify,
    /// Whether it was started for one session, and ends with that.
    pub is_ones_own: Cell<bool>,
    is_over: Cell<bool>,
    /// Why it failed, once it has.
    fate: RefCell<Option<Fate>>,
    used: Cell<Instant>,
}

/// Why a process failed.
pub struct Fate {
    /// For everybody.
    pub why: String,
    /// The last line of its standard error, for those who administer.
    pub said: Option<String>,
}

/// What is under way on a process.
pub struct State {
    /// Calls.
    pub table: CallTable<Pending>,
    /// Clients.
    pub seats: Seats,
    /// Raw ids of the process's own requests, and who was asked.
    pub asked: HashMap<Bytes, Asked, RandomState>,
    /// Lines since the last one that was a message.
    pub nonsense_in_a_row: u32,
}

/// Who was asked a question of the process.
#[derive(Clone, Copy)]
pub struct Asked {
    /// The client.
    pub seat: SeatId,
    /// The call in whose answer it was asked; with its end the client has no place for the question.
    pub during: Option<u64>,
}

/// A call under way.
pub struct Pending {
    /// Its number among all calls of the server, when it is not ours.
    pub call: Option<u64>,
    /// Whose it is, in a Legacy session.
    pub seat: Option<SeatId>,
    /// What follows from its answer.
    pub what: What,
    /// Where its answer goes.
    pub to: To,
}

/// What follows from the answer of a call.
#[derive(Debug, PartialEq, Eq)]
pub enum What {
    /// Nothing.
    Call,
    /// Nothing; and it may be sent log messages, which a Modern client asks for call by call.
    Logged,
    /// From now on its client is told of changes of this resource.
    Subscribe(String),
    /// It is a subscription itself (Modern): the answer is its end.
    Listen,
}

/// Where an answer goes.
pub enum To {
    /// To a call that nothing has come for yet.
    Waiting(oneshot::Sender<CallOutcome>),
    /// Onto an event stream that has begun.
    Streaming(EventSink),
    /// To ourselves.
    Own(oneshot::Sender<(Bytes, Envelope)>),
}

/// What waits to be written to one process: a few large messages. More, and it does not read.
const OUTBOX_BYTES_MAX: usize = 8 << 20;

impl Pending {
    /// Sends an event ahead of the answer; false when it is lost.
    pub fn pass(&mut self, event: Bytes) -> bool {
        if let To::Waiting(_) = self.to {
            let (outlet, events) = event_channel();
            let begun = std::mem::replace(&mut self.to, To::Streaming(outlet));
            if let To::Waiting(reply) = begun {
                // Whoever asked may have gone; that is told otherwise.
                let _ = reply.send(Ok(LocalResponse::from_events(events)));
            }
        }
        match &self.to {
            To::Streaming(outlet) => outlet.try_send(event),
            To::Waiting(_) | To::Own(_) => false,
        }
    }

    /// There will be no answer.
    pub fn fail(self, stage: FailureStage) {
        match self.to {
            To::Waiting(reply) => drop(reply.send(Err(UpstreamError::from_stage(stage)))),
            To::Streaming(outlet) => outlet.fail(stage),
            To::Own(_) => {}
        }
    }
}

impl Counts {
    /// One more.
    pub fn add(count: &Cell<u64>) {
        count.set(count.get() + 1);
    }
}

impl Link {
    /// Of a process that was started.
    pub fn new(
        common: &Rc<Common>,
        era: Era,
        pid: u32,
        began: Instant,
        backoff: Rc<RefCell<Backoff>>,
    ) -> Rc<Self> {
        let state = State {
            table: CallTable::new(),
            seats: Seats::default(),
            asked: HashMap::default(),
            nonsense_in_a_row: 0,
        };
        let link = Rc::new(Self {
            common: Rc::clone(common),
            era,
            pid,
            began,
            state: RefCell::new(state),
            outbox: RefCell::default(),
            to_write: Notify::new(),
            to_end: Notify::new(),
            backoff,
            has_answered: Cell::new(false),
            settled: Notify::new(),
            is_ones_own: Cell::new(false),
            is_over: Cell::new(false),
            fate: RefCell::default(),
            used: Cell::new(Instant::now()),
        });
        common.links.borrow_mut().push(Rc::clone(&link));
        link
    }

    /// Whether it can be spoken to.
    pub fn is_alive(&self) -> bool {
        !self.is_over.get()
    }

    /// Asks it a question of a client's; gives it back when too much waits to be written.
    pub fn ask(
        self: &Rc<Self>,
        message: &Bytes,
        envelope: &Envelope,
        pending: Pending,
    ) -> Result<(), Pending> {
        let Some(id) = envelope.id.filter(|_| self.has_room(message.len())) else { return Err(pending) };
        self.touch();
        let token = envelope.params.meta.progress_token;
        let raw = |span: Span| message.slice(span.start as usize..span.end as usize);
        let call = pending.call;
        let number =
            self.state.borrow_mut().table.mint(raw(id.span), token.map(|token| raw(token.span)), pending);
        if let Some(call) = call {
            self.common.ways.borrow_mut().insert(call, Way::Call(Rc::downgrade(self), number));
        }
        let number = number.to_string();
        let mut edits = vec![(id.span, number.as_bytes())];
        edits.extend(token.map(|token| (token.span, number.as_bytes())));
        edits.sort_unstable_by_key(|(span, _)| span.start);
        self.write(message, &edits);
        Ok(())
    }

    /// Asks it a question of our own. `params` is raw JSON.
    pub fn ask_own(&self, method: McpMethod, params: &[u8]) -> oneshot::Receiver<(Bytes, Envelope)> {
        let (answer, heard) = oneshot::channel();
        let pending = Pending { call: None, seat: None, what: What::Call, to: To::Own(answer) };
        let number = self.state.borrow_mut().table.mint(Bytes::new(), None, pending);
        let name = method.as_str();
        let mut message =
            format!(r#"{{"jsonrpc":"2.0","id":{number},"method":"{name}","params":"#).into_bytes();
        message.extend_from_slice(params);
        message.push(b'}');
        self.write(&message, &[]);
        heard
    }

    /// Tells it something that has no answer; false when too much waits to be written.
    pub fn tell(&self, message: &[u8], edits: &[(Span, &[u8])]) -> bool {
        let has_room = self.has_room(message.len());
        if has_room {
            self.write(message, edits);
        }
        has_room
    }

    /// Answers a request of its own with an error. `id` is raw.
    pub fn refuse(&self, id: &[u8], text: &str) {
        let id = String::from_utf8_lossy(id);
        let code = code::METHOD_NOT_FOUND;
        self.tell(
            format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{{"code":{code},"message":"{text}"}}}}"#)
                .as_bytes(),
            &[],
        );
    }

    /// Nobody waits for that call any more.
    pub fn give_up(&self, number: u64) {
        let ended = self.state.borrow_mut().table.remove(number);
        if let Some(minted) = ended {
            self.tell_unanswered(number, minted.call.seat);
        }
    }

    /// A call ended, and it is the client that will not have its answer. What the process asked during it
    /// nobody answers any more; and what it says on that account for a while yet is for no other client.
    fn tell_unanswered(&self, number: u64, seat: Option<SeatId>) {
        if let Some(seat) = seat {
            self.state.borrow_mut().seats.doubt(seat);
        }
        self.tell_cancelled(number);
        self.refuse_asked_during(number);
    }

    /// Refuses what the process asked during a call that ended without an answer.
    pub fn refuse_asked_during(&self, number: u64) {
        let asked: Vec<Bytes> = {
            let mut state = self.state.borrow_mut();
            state.asked.extract_if(|_, asked| asked.during == Some(number)).map(|(id, _)| id).collect()
        };
        for id in asked {
            self.refuse(&id, "the call that it was asked in was given up");
        }
    }

    /// The client of a seat cancels its own call, by the raw id that it has there. The call is answered at
    /// once: a server says nothing more to a call that was cancelled (MCP, cancellation).
    pub fn cancel(&self, seat: SeatId, id: &[u8]) {
        let mut state = self.state.borrow_mut();
        let is_it = |pending: &Pending| pending.seat == Some(seat) && pending.call.is_some();
        let found =
            state.table.iter().find(|(_, minted)| minted.id == id && is_it(&minted.call)).map(|(n, _)| n);
        let Some((number, minted)) = found.and_then(|number| Some((number, state.table.remove(number)?)))
        else {
            return;
        };
        drop(state);
        self.tell_unanswered(number, Some(seat));
        self.forget(&minted.call);
        let reply = LocalResponse::from_error(http::StatusCode::OK, id, CANCELLED, "the call was cancelled");
        match minted.call.to {
            To::Waiting(waiting) => drop(waiting.send(Ok(reply))),
            To::Streaming(outlet) => {
                if let LocalBody::Message(message) = reply.body {
                    outlet.finish(event(&message, &[]));
                }
            }
            To::Own(_) => {}
        }
    }

    /// A client has gone for good.
    pub fn leave(&self, seat: SeatId) {
        let mut state = self.state.borrow_mut();
        let unwanted = state.seats.leave(seat);
        let asked: Vec<Bytes> =
            state.asked.extract_if(|_, asked| asked.seat == seat).map(|(id, _)| id).collect();
        let calls: Vec<u64> = state
            .table
            .iter()
            .filter(|(_, minted)| minted.call.seat == Some(seat))
            .map(|(number, _)| number)
            .collect();
        drop(state);
        for id in asked {
            self.refuse(&id, "the client has gone");
        }
        for number in calls {
            let ended = self.state.borrow_mut().table.remove(number);
            if let Some(minted) = ended {
                self.tell_cancelled(number);
                self.forget(&minted.call);
                minted.call.fail(FailureStage::BodyIncomplete);
            }
        }
        for uri in unwanted {
            let params = serde_json::json!({ "uri": uri }).to_string();
            // Whatever it says to that, nobody listens.
            drop(self.ask_own(McpMethod::Unsubscribe, params.as_bytes()));
        }
        self.used.set(Instant::now());
    }

    /// Whether that id of the process's own request was asked of that seat; no longer, from now on.
    pub fn take_asked(&self, seat: SeatId, id: &[u8]) -> bool {
        let mut state = self.state.borrow_mut();
        let is_asked = state.asked.get(id).is_some_and(|asked| asked.seat == seat);
        if is_asked {
            state.asked.remove(id);
        }
        is_asked
    }

    /// Nothing more can come of it: every call is told, once, and its sessions are known no more.
    pub fn close(&self, stage: FailureStage) {
        if self.is_over.replace(true) {
            return;
        }
        self.settled.notify_one();
        let mut state = self.state.borrow_mut();
        let calls: Vec<_> = state.table.drain().collect();
        let seats: Vec<_> = state.seats.drain().collect();
        state.asked.clear();
        drop(state);
        for minted in calls {
            self.forget(&minted.call);
            minted.call.fail(stage);
        }
        let mut sessions = self.common.sessions.borrow_mut();
        for seat in seats {
            sessions.remove(&seat.session);
        }
        self.common.links.borrow_mut().retain(|link| !std::ptr::eq(&raw const **link, self));
    }

    /// It failed. The next of its place is not started at once; and if it failed to start, none of the
    /// server.
    pub fn note_failure(&self) {
        let backoff = if self.has_answered.get() { &*self.backoff } else { &self.common.backoff };
        backoff.borrow_mut().fail(self.began.elapsed());
    }

    /// Why it failed.
    pub fn note_fate(&self, fate: Fate) {
        *self.fate.borrow_mut() = Some(fate);
    }

    /// The failure of whoever waited for its first answer.
    pub fn gone(&self) -> UpstreamError {
        let fate = self.fate.borrow();
        let Some(Fate { why, said }) = &*fate else {
            return UpstreamError::not_started("its program ended before it answered", None);
        };
        let said = said.as_ref().map(|said| format!("the last it said was {said:?}"));
        UpstreamError::not_started(why.clone(), said)
    }

    /// Asks for its end.
    pub fn end(&self) {
        self.to_end.notify_one();
    }

    /// The call is over; whoever holds it may still drop it.
    pub fn forget(&self, pending: &Pending) {
        if let Some(call) = pending.call {
            self.common.ways.borrow_mut().remove(&call);
        }
    }

    /// All that waits to be written.
    pub fn take_outbox(&self) -> Bytes {
        self.outbox.borrow_mut().split().freeze()
    }

    /// Whether it could be ended and nobody would notice, after so long.
    pub fn is_idle_for(&self, now: Instant, timeout: Duration) -> bool {
        let state = self.state.borrow();
        state.table.len() == 0
            && !state.seats.is_listening()
            && now.saturating_duration_since(self.used.get()) >= timeout
    }

    /// When it was last of use.
    pub fn last_used(&self) -> Instant {
        self.used.get()
    }

    /// It was of use to a client. What it says of its own accord is none.
    pub fn touch(&self) {
        self.used.set(Instant::now());
    }

    fn tell_cancelled(&self, number: u64) {
        self.tell(
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/cancelled","params":{{"requestId":{number},"reason":"the client gave it up"}}}}"#
            )
            .as_bytes(),
            &[],
        );
    }

    fn has_room(&self, bytes: usize) -> bool {
        let waiting = self.outbox.borrow().len();
        self.is_alive() && (waiting == 0 || waiting + bytes <= OUTBOX_BYTES_MAX)
    }

    fn write(&self, message: &[u8], edits: &[(Span, &[u8])]) {
        write_line(message, edits, &mut self.outbox.borrow_mut());
        self.to_write.notify_one();
    }
}

impl State {
    /// The client that is certainly meant by what names no call: the only one there is, or the only one that has a call
    /// under way, listens, has just come and may be about to, or gave a call up of late. A call under way makes nobody
    /// certain while another listens: a process may ask on account of what it was asked before. Those that do none of
    /// it have gone, mostly, without a word.
    pub fn sole(&self) -> Option<SeatId> {
        let now = Instant::now();
        let has_call = |id| self.table.iter().any(|(_, minted)| minted.call.seat == Some(id));
        self.seats.only(|_, _| true).or_else(|| {
            self.seats.only(|id, seat| seat.mailbox.is_open() || seat.is_doubtful(now) || has_call(id))
        })
    }

    /// The newest call of a client.
    pub fn newest_call(&self, seat: SeatId) -> Option<u64> {
        let calls = self.table.iter().filter(|(_, minted)| minted.call.seat == Some(seat));
        calls.map(|(number, _)| number).max()
    }

    /// The call that a raw id of the process stands for.
    pub fn open_call(&self, raw: &[u8]) -> Option<u64> {
        match self.table.find(raw) {
            IdMatch::Open(number) => Some(number),
            IdMatch::Over | IdMatch::Foreign => None,
        }
    }
}

/// What a call is answered that its client cancelled; no client looks at it. As the Language Server Protocol
/// numbers it.
const CANCELLED: i32 = -32800;
