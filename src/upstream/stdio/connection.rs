//! One process as its clients and calls see it: the state of the connection over its pipes.

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

use super::behavior::BehaviorRecorder;
use super::client_slots::{ClientSlot, ClientSlotId, ClientSlots};
use super::exit::ExitReport;
use super::lines::write_line;
use super::process_stats::ProcessCounters;
use super::request_ids::RequestIds;
use crate::runtime::LargeMessage;
use crate::telemetry::events::EventLog;
use metamcp_config::server::Program;
use metamcp_core::base::{KeyId, MemoryCharge, ServerName};
use metamcp_core::frame::{Envelope, Scanner, Span};
use metamcp_core::protocol::Era;
use metamcp_http::multiplex::{Backoff, PendingCalls, ResponseSink, ServerRequests};
use metamcp_http::{FailureStage, UpstreamError};

/// What all processes of one server share.
pub struct ServerContext {
    pub name: ServerName,
    pub program: Program,
    /// Scans all messages on this thread.
    pub scanner: RefCell<Scanner>,
    /// Where each call is, for cancellation.
    pub call_locations: RefCell<HashMap<u64, CallLocation, RandomState>>,
    pub sessions: RefCell<HashMap<HeaderValue, (Rc<ProcessConnection>, ClientSlotId), RandomState>>,
    pub connections: RefCell<Vec<Rc<ProcessConnection>>>,
    /// Also read by other threads.
    pub counters: Arc<ProcessCounters>,
    /// Notified when a process has ended.
    pub process_ended: Notify,
    /// After processes that failed to start.
    pub backoff: RefCell<Backoff>,
    /// Whether the log has the warning about requests to clients that share a process.
    pub has_warned_of_sharing: Cell<bool>,
    /// Whether the log has the warning about responses with ids of another type.
    pub has_warned_of_ids: Cell<bool>,
    pub message_counters: MessageCounters,
    /// What the program was seen to do.
    pub behavior: BehaviorRecorder,
    /// Where it is told what happens to processes.
    pub events: Option<Arc<EventLog>>,
}

/// Counters of messages, over all processes of a server.
#[derive(Default)]
pub struct MessageCounters {
    /// Lines that were not a message.
    pub invalid_lines: Cell<u64>,
    /// Messages that no one client was certainly meant by, or for a call that has ended.
    pub undeliverable: Cell<u64>,
    /// Messages that a client was too slow for.
    pub dropped: Cell<u64>,
    /// Requests of the server that could not be attributed to one client.
    pub refused_requests: Cell<u64>,
}

/// Where a call is.
pub enum CallLocation {
    /// In flight at a process, under this number there.
    InFlight(Weak<ProcessConnection>, u64),
    /// The event stream of a client.
    ClientStream(Weak<ProcessConnection>, ClientSlotId),
}

/// What waits to be written to a process, and the charge for it.
#[derive(Default)]
struct StdioOutbox {
    bytes: BytesMut,
    /// How many of them are control messages, which are not charged for.
    control_bytes: usize,
    charge: MemoryCharge,
}

/// The connection to one process.
pub struct ProcessConnection {
    pub context: Rc<ServerContext>,
    /// The era of its first message. Some servers stay with that.
    pub era: Era,
    /// The process id of its reaper.
    pub pid: u32,
    pub started_at: Instant,
    pub state: RefCell<ProcessState>,
    outbox: RefCell<StdioOutbox>,
    /// Notified when there is something to write.
    pub outbox_ready: Notify,
    /// Notified when the process is to end.
    pub end_requested: Notify,
    /// Notified when more control messages wait than may.
    pub input_stalled: Notify,
    /// The back-off of the process's slot: a client that crashes its processes delays no other.
    backoff: Rc<RefCell<Backoff>>,
    pub has_answered: Cell<bool>,
    /// Notified when the process has answered, or is closed.
    pub settled: Notify,
    /// Whether the process was started before a session needed it.
    pub is_spare: Cell<bool>,
    /// Whether it is only asked which era it speaks, and may exit at that.
    pub is_probe: Cell<bool>,
    /// Whether the process was started for one session and ends with it.
    pub is_exclusive: Cell<bool>,
    /// Whether the session that the process was started for is still being opened.
    pub is_opening: Cell<bool>,
    is_closed: Cell<bool>,
    /// Whose calls a process without sessions has received.
    callers: Cell<Callers>,
    /// The ids under which clients see its requests.
    pub request_ids: RequestIds,
    /// Set when the process failed.
    exit_report: RefCell<Option<ExitReport>>,
    last_used: Cell<Instant>,
}

/// The keys whose calls a process without sessions has received.
#[derive(Clone, Copy)]
enum Callers {
    None,
    One(KeyId),
    Several,
}

/// What is in flight at a process.
pub struct ProcessState {
    pub calls: PendingCalls<PendingCall>,
    pub clients: ClientSlots,
    pub server_requests: ServerRequests<RequestOrigin>,
    /// Consecutive lines that were not a message.
    pub invalid_lines_in_a_row: u32,
}

/// Whom a process sent a request to.
#[derive(Clone, Copy)]
pub struct RequestOrigin {
    pub client: ClientSlotId,
    /// The call during which it was sent. When that ends unanswered, the client cannot answer the request any
    /// more.
    pub during: Option<u64>,
}

pub struct PendingCall {
    /// Unique among all calls to the server; `None` for requests of the gateway.
    pub call: Option<u64>,
    /// The client, in a Legacy session.
    pub client: Option<ClientSlotId>,
    pub kind: CallKind,
    pub recipient: Recipient,
}

/// What the response to a call changes.
#[derive(Debug, PartialEq, Eq)]
pub enum CallKind {
    Call,
    /// A call that may be sent log messages, which Modern clients request call by call.
    CallWithLogs,
    /// From then on the client is sent changes of this resource.
    Subscribe(String),
    /// A Modern subscription: the response is its end.
    Listen,
}

/// Who gets the response to a call.
pub enum Recipient {
    Client(ResponseSink),
    /// The gateway itself waits for the response.
    Gateway(oneshot::Sender<(Bytes, Envelope)>),
}

/// Bytes that wait to be written to one process: a few large messages. With more, the process does not read.
const OUTBOX_BYTES_MAX: usize = 8 << 20;

/// Control messages that wait to be written to one process: some thousand, each of about a hundred bytes, so that all its
/// calls may be cancelled at once. With more, the process does not read, and is ended: it must miss none of them.
const CONTROL_BYTES_MAX: usize = 1 << 20;

/// The `params` of `logging/setLevel`: a word, and what clients put into `_meta`.
const LOG_LEVEL_BYTES_MAX: usize = 4 << 10;

impl CallKind {
    /// Returns the kind of a call that changes nothing at the gateway.
    pub fn of_call(envelope: &Envelope) -> Self {
        if envelope.params.meta.log_level.is_some() { Self::CallWithLogs } else { Self::Call }
    }
}

impl PendingCall {
    /// Sends an event ahead of the response. False when it is lost.
    pub fn send_event(&mut self, event: Bytes) -> bool {
        match &mut self.recipient {
            Recipient::Client(sink) => sink.send_event(event),
            Recipient::Gateway(_) => false,
        }
    }

    /// Reports that there will be no response.
    pub fn fail(self, stage: FailureStage) {
        if let Recipient::Client(sink) = self.recipient {
            sink.fail(UpstreamError::from_stage(stage));
        }
    }
}

impl MessageCounters {
    pub fn increment(counter: &Cell<u64>) {
        counter.set(counter.get() + 1);
    }
}

impl ProcessConnection {
    /// Creates the connection to a process that was started.
    pub fn new(
        context: &Rc<ServerContext>,
        era: Era,
        pid: u32,
        started_at: Instant,
        backoff: Rc<RefCell<Backoff>>,
    ) -> Rc<Self> {
        let state = ProcessState {
            calls: PendingCalls::default(),
            clients: ClientSlots::default(),
            server_requests: ServerRequests::default(),
            invalid_lines_in_a_row: 0,
        };
        let connection = Rc::new(Self {
            context: Rc::clone(context),
            era,
            pid,
            started_at,
            state: RefCell::new(state),
            outbox: RefCell::default(),
            outbox_ready: Notify::new(),
            end_requested: Notify::new(),
            input_stalled: Notify::new(),
            backoff,
            request_ids: RequestIds::new(),
            has_answered: Cell::new(false),
            settled: Notify::new(),
            is_spare: Cell::new(false),
            is_probe: Cell::new(false),
            is_exclusive: Cell::new(false),
            is_opening: Cell::new(false),
            is_closed: Cell::new(false),
            callers: Cell::new(Callers::None),
            exit_report: RefCell::default(),
            last_used: Cell::new(Instant::now()),
        });
        context.connections.borrow_mut().push(Rc::clone(&connection));
        connection
    }

    /// Whether messages can be sent.
    pub fn is_alive(&self) -> bool {
        !self.is_closed.get()
    }

    /// Closes the connection: fails every call, once, and forgets the sessions.
    pub fn close(&self, stage: FailureStage) {
        if self.is_closed.replace(true) {
            return;
        }
        self.settled.notify_one();
        // What was not written yet is written no more.
        *self.outbox.borrow_mut() = StdioOutbox::default();
        let mut state = self.state.borrow_mut();
        let calls: Vec<_> = state.calls.drain().collect();
        let clients: Vec<_> = state.clients.drain().collect();
        state.server_requests.clear();
        drop(state);
        for entry in calls {
            self.forget_call(&entry.call);
            entry.call.fail(stage);
        }
        let mut sessions = self.context.sessions.borrow_mut();
        for client in clients {
            sessions.remove(&client.origin.session);
        }
        self.context.connections.borrow_mut().retain(|other| !std::ptr::eq(&raw const **other, self));
    }

    /// Starts the back-off after a failure: of the process's slot, or of the whole server if the process
    /// failed to start.
    pub fn record_failure(&self) {
        let backoff = if self.has_answered.get() { &*self.backoff } else { &self.context.backoff };
        backoff.borrow_mut().fail(self.started_at.elapsed());
    }

    /// Sets why the process failed.
    pub fn set_exit_report(&self, report: ExitReport) {
        *self.exit_report.borrow_mut() = Some(report);
    }

    /// Returns the error of a caller that waited for the first response of a process that failed.
    pub fn start_error(&self) -> UpstreamError {
        let report = self.exit_report.borrow();
        let Some(ExitReport { reason, last_stderr }) = &*report else {
            return UpstreamError::start_failure("its program ended before it answered", None);
        };
        let last_stderr = last_stderr.as_ref().map(|line| format!("last line of standard error: {line:?}"));
        UpstreamError::start_failure(reason.clone(), last_stderr)
    }

    /// Requests the end of the process.
    pub fn request_end(&self) {
        self.end_requested.notify_one();
    }

    /// Forgets where a call is, after it has ended. Its guard may still be dropped later.
    pub fn forget_call(&self, call: &PendingCall) {
        if let Some(call) = call.call {
            self.context.call_locations.borrow_mut().remove(&call);
        }
    }

    /// Takes all that waits to be written.
    pub fn take_outbox(&self) -> Bytes {
        let mut outbox = self.outbox.borrow_mut();
        // A buffer that grew for long messages is not used again.
        let bytes = if LargeMessage::track(outbox.bytes.len()).is_some() {
            std::mem::take(&mut outbox.bytes)
        } else {
            outbox.bytes.split()
        };
        outbox.control_bytes = 0;
        // Until it is written.
        std::mem::take(&mut outbox.charge).attach(bytes.freeze())
    }

    /// Notes whose call is sent to a process without sessions.
    pub fn note_caller(&self, key: KeyId) {
        self.callers.set(match self.callers.get() {
            Callers::None => Callers::One(key),
            Callers::One(other) if other == key => Callers::One(key),
            Callers::One(_) | Callers::Several => Callers::Several,
        });
    }

    /// Whether clients with different keys have called a process without sessions.
    pub fn has_several_callers(&self) -> bool {
        matches!(self.callers.get(), Callers::Several)
    }

    /// Notes a call of a client during which the process may ask it something.
    pub fn note_call_of(&self, client: ClientSlotId) {
        let mut state = self.state.borrow_mut();
        let Some(client) = state.clients.get_mut(client) else { return };
        let capabilities = client.origin.capabilities;
        if client.is_client() && capabilities.can_receive_requests() {
            let is_first = !std::mem::replace(&mut client.has_called, true);
            self.context.behavior.update(|behavior| behavior.note_call(capabilities, is_first));
        }
    }

    /// Notes that a client sets its log level.
    pub fn note_log_level(&self, client: ClientSlotId, message: &Bytes, envelope: &Envelope) {
        let params = envelope.params.object.map(|span| Bytes::copy_from_slice(span.slice(message)));
        if let Some(client) = self.state.borrow_mut().clients.get_mut(client) {
            client.log_level = params.filter(|params| params.len() <= LOG_LEVEL_BYTES_MAX);
        }
    }

    /// Whether no call is in flight, nobody listens, and the process was unused for `timeout`.
    pub fn is_idle_for(&self, now: Instant, timeout: Duration) -> bool {
        let state = self.state.borrow();
        state.calls.is_empty()
            && !state.clients.is_listening()
            && now.saturating_duration_since(self.last_used.get()) >= timeout
    }

    /// Whether a session was opened a moment ago, or is being opened, and has not called yet.
    pub fn is_awaiting_call(&self, now: Instant) -> bool {
        self.is_opening.get() || self.state.borrow().clients.is_awaiting_call(now)
    }

    /// Whether no call is in flight or was for `timeout`, although clients may listen.
    pub fn is_uncalled_for(&self, now: Instant, timeout: Duration) -> bool {
        let state = self.state.borrow();
        state.calls.is_empty()
            && !self.is_opening.get()
            && now.saturating_duration_since(self.last_used.get()) >= timeout
    }

    /// Whether a client subscribed to a resource.
    pub fn has_subscriptions(&self) -> bool {
        self.state.borrow().clients.has_subscriptions()
    }

    /// Returns when a client last used the process.
    pub fn last_used(&self) -> Instant {
        self.last_used.get()
    }

    /// Notes that a client uses the process. Messages that it sends of its own accord do not count.
    pub fn touch(&self) {
        self.last_used.set(Instant::now());
    }

    /// Charges for a message that is queued next. False if the outbox is full, or if there is no memory. An empty outbox
    /// takes a message of any size.
    #[must_use]
    pub fn try_charge(&self, bytes: usize) -> bool {
        let mut outbox = self.outbox.borrow_mut();
        let waiting = outbox.bytes.len() - outbox.control_bytes;
        self.is_alive()
            && (waiting == 0 || waiting + bytes <= OUTBOX_BYTES_MAX)
            && outbox.charge.resize(waiting + bytes).is_ok()
    }

    /// Why a message was not taken.
    pub fn refusal_stage(&self) -> FailureStage {
        if self.is_alive() { FailureStage::QueueFull } else { FailureStage::NotSent }
    }

    /// Queues a short message of the gateway that the process depends on: a cancellation, a refusal, a pong. It needs
    /// no memory of those for messages, so that a full gateway frees what it can. Returns whether it was queued: if not, the
    /// process has ended, or ends because it does not read.
    pub fn queue_control(&self, message: &[u8]) -> bool {
        if !self.is_alive() {
            return false;
        }
        let mut outbox = self.outbox.borrow_mut();
        let before = outbox.bytes.len();
        if outbox.control_bytes + message.len() >= CONTROL_BYTES_MAX {
            MessageCounters::increment(&self.context.message_counters.undeliverable);
            self.input_stalled.notify_one();
            return false;
        }
        write_line(message, &[], &mut outbox.bytes);
        outbox.control_bytes += outbox.bytes.len() - before;
        drop(outbox);
        self.outbox_ready.notify_one();
        true
    }

    /// Queues a message, with parts replaced.
    pub fn queue(&self, message: &[u8], edits: &[(Span, &[u8])]) {
        write_line(message, edits, &mut self.outbox.borrow_mut().bytes);
        self.outbox_ready.notify_one();
    }
}

impl ProcessState {
    /// Returns the client that is certainly meant by a message that names no call: the only one there is, or
    /// the only one that has a call in flight, listens, is new and may be about to listen, or cancelled a
    /// call a moment ago. A call in flight makes nobody certain while another client listens: the message may
    /// be due to what the process was asked before. Clients that do none of these have mostly left without a
    /// word.
    ///
    /// `None` if the clients have different keys: what one key's call made the process say is for no other
    /// key, not even if it comes late. The gateway's own session for its lists is meant by nothing, unless it
    /// is the only one.
    pub fn only_recipient(&self) -> Option<ClientSlotId> {
        let now = Instant::now();
        if self.clients.has_several_owners(now) {
            return None;
        }
        let has_client = self.clients.has_client();
        let can_be_meant = |client: &ClientSlot| client.is_client() || !has_client;
        let has_call = |id| self.calls.iter().any(|(_, entry)| entry.call.client == Some(id));
        self.clients.find_only(|_, client| can_be_meant(client)).or_else(|| {
            self.clients.find_only(|id, client| {
                can_be_meant(client) && (client.stream.is_open() || client.is_uncertain(now) || has_call(id))
            })
        })
    }

    /// Returns the newest call of a client.
    pub fn newest_call(&self, client: ClientSlotId) -> Option<u64> {
        let calls = self.calls.iter().filter(|(_, entry)| entry.call.client == Some(client));
        calls.map(|(number, _)| number).max()
    }

    /// Sends an event to a client, with its newest call or on its own stream: what a server sends while it
    /// works on a call belongs to that call. False when it is lost.
    pub fn send_to_client(&mut self, client: ClientSlotId, event: Bytes) -> bool {
        let newest = self.newest_call(client);
        if let Some(entry) = newest.and_then(|number| self.calls.get_mut(number)) {
            return entry.call.send_event(event);
        }
        self.clients.get_mut(client).is_some_and(|client| client.stream.send(event))
    }
}
