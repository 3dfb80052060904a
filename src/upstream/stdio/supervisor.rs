//! The task that owns the processes of one server: it takes the calls of the workers and dispatches them to
//! processes.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use foldhash::fast::RandomState;
use http::{HeaderValue, StatusCode};
use tokio::sync::{Mutex, Notify, mpsc};
use tokio::task::spawn_local;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};

use super::behavior::{BehaviorRecorder, behavior_key};
use super::call::{StdioCall, SupervisorMessage};
use super::client_slots::ClientSlotId;
use super::connection::{
    CallKind, CallLocation, MessageCounters, PendingCall, ProcessConnection, Recipient, ServerContext,
};
use super::health::{ProcessHealth, StdioHealth};
use super::process::SpawnedProcess;
use super::process_stats::ProcessCounters;
use super::slots::{ProcessKey, ProcessSlot};
use super::start_history::StartHistory;
use super::start_limit::StartLimit;
use super::target::StdioTarget;
use crate::runtime::MemoryPurger;
use metamcp_config::server::{EraChoice, Sharing};
use metamcp_core::frame::{Envelope, MessageKind, Scanner};
use metamcp_core::protocol::{Era, McpMethod, code};
use metamcp_http::FailureStage;
use metamcp_http::multiplex::{
    HttpOperation, LocalResponse, ResponseSink, event_channel, known_method, raw_id,
};

/// The processes of one server.
pub struct Supervisor {
    pub context: Rc<ServerContext>,
    /// The era from the configuration.
    pub era: EraChoice,
    /// The era that a probe detected.
    pub detected_era: Cell<Option<Era>>,
    /// Held while the era is probed.
    pub probe_lock: Mutex<()>,
    /// A process that was started ahead of need.
    pub spare: RefCell<Option<SpawnedProcess>>,
    /// Whether starts take long enough to be noticed.
    pub start_history: StartHistory,
    /// Notified when there should be a spare.
    pub spare_wanted: Notify,
    /// Whether no process may be started any more.
    pub is_stopping: Cell<bool>,
    /// Notified when that becomes true.
    pub stopping: Notify,
    pub start_limit: StartLimit,
    /// How long a session waits for the place of its process.
    pub queue_timeout: Duration,
    /// Held by the session that gets the next place.
    pub reservation_queue: Mutex<()>,
    /// Places of processes that are about to start.
    pub reserved: Cell<usize>,
    pub slots: RefCell<HashMap<ProcessKey, Rc<ProcessSlot>, RandomState>>,
}

/// Between two sweeps for idle processes, if the idle timeout is not shorter than four of these intervals.
const SWEEP_INTERVAL_MAX: Duration = Duration::from_secs(5);

const SWEEP_INTERVAL_MIN: Duration = Duration::from_millis(250);

/// Between two collections of free memory while some are due. The first one waits for a sweep.
const PURGE_INTERVAL: Duration = Duration::from_secs(1);

/// For all processes to end. Each has less than this, and all end at the same time.
const STOP_TIMEOUT: Duration = Duration::from_millis(5500);

impl Supervisor {
    /// Creates the supervisor of a server without processes.
    pub fn new(target: StdioTarget, counters: Arc<ProcessCounters>) -> Rc<Self> {
        let StdioTarget { name, program, era, queue_timeout, behavior, events } = target;
        let behavior = BehaviorRecorder::new(behavior, behavior_key(&name, &program));
        let context = ServerContext {
            name,
            program,
            scanner: RefCell::new(Scanner::new()),
            call_locations: RefCell::default(),
            sessions: RefCell::default(),
            connections: RefCell::default(),
            counters,
            process_ended: Notify::new(),
            backoff: RefCell::default(),
            has_warned_of_sharing: Cell::new(false),
            has_warned_of_ids: Cell::new(false),
            message_counters: MessageCounters::default(),
            behavior,
            events,
        };
        Rc::new(Self {
            context: Rc::new(context),
            era,
            detected_era: Cell::new(None),
            probe_lock: Mutex::default(),
            spare: RefCell::default(),
            start_history: StartHistory::default(),
            spare_wanted: Notify::new(),
            is_stopping: Cell::new(false),
            stopping: Notify::new(),
            start_limit: StartLimit::new(),
            queue_timeout,
            reservation_queue: Mutex::default(),
            reserved: Cell::new(0),
            slots: RefCell::default(),
        })
    }

    /// Dispatches calls until no worker can send any more, then ends all processes. Runs in a `LocalSet`.
    pub async fn run(
        self: Rc<Self>,
        mut messages: mpsc::Receiver<SupervisorMessage>,
        mut cancellations: mpsc::UnboundedReceiver<u64>,
    ) {
        let every =
            (self.context.program.settings.idle_timeout / 4).clamp(SWEEP_INTERVAL_MIN, SWEEP_INTERVAL_MAX);
        let mut sweep = interval(every);
        sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.request_spare();
        let memory = MemoryPurger::default();
        let mut purge = interval(PURGE_INTERVAL);
        purge.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                message = messages.recv() => match message {
                    Some(SupervisorMessage::Call(call)) => self.dispatch(call),
                    Some(SupervisorMessage::Health(reply)) => drop(reply.send(self.health())),
                    Some(SupervisorMessage::Stop(reply)) => {
                        self.stop().await;
                        // The caller may not wait.
                        let _ = reply.send(());
                    }
                    None => break,
                },
                Some(number) = cancellations.recv() => self.cancel(number),
                () = self.spare_wanted.notified() => self.start_spare(),
                _ = sweep.tick() => {
                    self.sweep();
                    memory.observe([0; 3]);
                }
                // Only then, so that the thread of a program without calls does not wake every second.
                _ = purge.tick(), if memory.is_due() => memory.observe([0; 3]),
            }
        }
        self.stop().await;
    }

    /// Returns the slot of a process.
    pub fn slot(&self, key: ProcessKey) -> Rc<ProcessSlot> {
        Rc::clone(self.slots.borrow_mut().entry(key).or_default())
    }

    /// Ends a client's session. False if there is none.
    pub fn end_session(&self, session: &HeaderValue) -> bool {
        let Some((connection, client)) = self.context.sessions.borrow_mut().remove(session) else {
            return false;
        };
        connection.remove_client(client);
        if connection.is_exclusive.get() && connection.state.borrow().clients.len() == 0 {
            connection.close(FailureStage::NoResponse);
            connection.request_end();
        }
        true
    }

    /// Dispatches a call. All errors are reported to the call itself.
    pub fn dispatch(self: &Rc<Self>, call: StdioCall) {
        match (&call.request.operation, &call.request.session) {
            (HttpOperation::Post(message), _) => {
                let message = message.clone();
                self.dispatch_message(call, message);
            }
            (HttpOperation::Get, Some(session)) => match self.find_session(session) {
                Some((connection, client)) => self.listen(call, &connection, client),
                None => call.respond(LocalResponse::from_status(StatusCode::NOT_FOUND)),
            },
            (HttpOperation::Delete, Some(session)) => {
                let status =
                    if self.end_session(session) { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND };
                call.respond(LocalResponse::from_status(status));
            }
            (HttpOperation::Get | HttpOperation::Delete, None) => {
                call.respond(LocalResponse::from_status(StatusCode::METHOD_NOT_ALLOWED));
            }
        }
    }

    fn dispatch_message(self: &Rc<Self>, call: StdioCall, message: Bytes) {
        let scanned = self.context.scanner.borrow_mut().scan(&message);
        match (scanned, call.request.session.clone()) {
            (Ok(envelope), Some(session)) => self.dispatch_in_session(call, &message, &envelope, &session),
            (Ok(envelope), None) => self.dispatch_without_session(call, message, envelope),
            (Err(refused), _) => {
                let id = refused.id.map_or(&b""[..], |id| id.span.slice(&message));
                let text = refused.error.to_string();
                let response =
                    LocalResponse::from_error(StatusCode::BAD_REQUEST, id, refused.error.code(), &text);
                call.respond(response);
            }
        }
    }

    fn find_session(&self, session: &HeaderValue) -> Option<(Rc<ProcessConnection>, ClientSlotId)> {
        let sessions = self.context.sessions.borrow();
        sessions.get(session).filter(|(connection, _)| connection.is_alive()).cloned()
    }

    /// Opens the event stream of a client.
    fn listen(&self, call: StdioCall, connection: &Rc<ProcessConnection>, client: ClientSlotId) {
        if call.reply.is_closed() {
            // It would replace a stream that is read.
            return;
        }
        let (sink, source) = event_channel();
        if let Some(client) = connection.state.borrow_mut().clients.get_mut(client) {
            client.stream.open(call.number, sink);
        }
        let location = CallLocation::ClientStream(Rc::downgrade(connection), client);
        self.context.call_locations.borrow_mut().insert(call.number, location);
        connection.touch();
        call.respond(LocalResponse::from_events(source));
    }

    /// Whether a message is about tasks on a process that all clients share, where tasks would be everybody's.
    fn is_shared_task(&self, message: &Bytes, envelope: &Envelope) -> bool {
        self.context.program.settings.sharing == Sharing::Shared
            && envelope.method.is_some_and(|method| method.decode_bytes(message).starts_with(b"tasks/"))
    }

    fn dispatch_in_session(
        self: &Rc<Self>,
        call: StdioCall,
        message: &Bytes,
        envelope: &Envelope,
        session: &HeaderValue,
    ) {
        let Some((connection, client)) = self.find_session(session) else {
            return call.respond(LocalResponse::from_status(StatusCode::NOT_FOUND));
        };
        connection.touch();
        match envelope.kind {
            MessageKind::Request if self.is_shared_task(message, envelope) => {
                let text = "this server has no tasks, because all clients share its process";
                let id = raw_id(message, envelope);
                call.respond(LocalResponse::from_error(StatusCode::OK, id, code::METHOD_NOT_FOUND, text));
            }
            MessageKind::Request => {
                if connection.is_exclusive.get() || !self.must_move(&connection, client, message, envelope) {
                    Self::send_call(call, &connection, Some(client), message, envelope);
                } else {
                    self.move_session(call, session.clone(), connection, client);
                }
            }
            MessageKind::Response | MessageKind::Error => {
                let sent = connection.receive_answer(client, message, envelope);
                if sent == Ok(false) {
                    MessageCounters::increment(&self.context.message_counters.undeliverable);
                }
                call.respond_accepted(sent.map(drop));
            }
            MessageKind::Notification => {
                let sent = match known_method(message, envelope) {
                    // The process was notified when it was initialized.
                    Some(McpMethod::Initialized) => Ok(()),
                    Some(McpMethod::Cancelled) => {
                        if let Some(id) = envelope.params.request_id {
                            connection.cancel(client, id.span.slice(message));
                        }
                        Ok(())
                    }
                    _ => connection.send_message(message),
                };
                call.respond_accepted(sent);
            }
        }
    }

    /// Dispatches a message that names no session: one of the Modern era, or the first of a Legacy session.
    fn dispatch_without_session(self: &Rc<Self>, call: StdioCall, message: Bytes, envelope: Envelope) {
        if envelope.kind != MessageKind::Request {
            // The only ones of the Modern era are cancellations, for which clients close connections.
            return call.respond(LocalResponse::from_status(StatusCode::ACCEPTED));
        }
        if known_method(&message, &envelope) == Some(McpMethod::Initialize) {
            spawn_local(Rc::clone(self).initialize(call, message, envelope));
            return;
        }
        if envelope.params.meta.protocol_version.is_none() {
            return call.respond(legacy_refusal(raw_id(&message, &envelope)));
        }
        let supervisor = Rc::clone(self);
        spawn_local(async move {
            match supervisor.is_modern().await {
                Ok(true) => match supervisor.modern_process(&call.request).await {
                    Ok(connection) => Self::send_call(call, &connection, None, &message, &envelope),
                    Err(error) => drop(call.reply.send(Err(error))),
                },
                Ok(false) => call.respond(legacy_refusal(raw_id(&message, &envelope))),
                Err(error) => drop(call.reply.send(Err(error))),
            }
        });
    }

    /// Sends a client's call to a process.
    fn send_call(
        call: StdioCall,
        connection: &Rc<ProcessConnection>,
        client: Option<ClientSlotId>,
        message: &Bytes,
        envelope: &Envelope,
    ) {
        let uri = || envelope.params.uri.map(|uri| uri.decode(message).into_owned());
        let kind = match (known_method(message, envelope), uri()) {
            (Some(McpMethod::Subscribe), Some(uri)) => CallKind::Subscribe(uri),
            (Some(McpMethod::Unsubscribe), Some(uri)) => {
                let unsubscribe = |client| connection.state.borrow_mut().clients.unsubscribe(client, &uri);
                if client.is_some_and(unsubscribe) {
                    // Another client is still subscribed, so the process must go on sending changes.
                    let id = raw_id(message, envelope);
                    let response = [br#"{"jsonrpc":"2.0","id":"#, id, br#","result":{}}"#].concat();
                    return call.respond(LocalResponse::from_message(response.into()));
                }
                CallKind::Call
            }
            (Some(McpMethod::ToolsCall | McpMethod::PromptsGet | McpMethod::ResourcesRead), _) => {
                if let Some(client) = client {
                    connection.note_call_of(client);
                }
                CallKind::of_call(envelope)
            }
            (Some(McpMethod::Listen), _) => CallKind::Listen,
            (Some(McpMethod::SetLevel), _) => {
                if let Some(client) = client {
                    connection.note_log_level(client, message, envelope);
                }
                CallKind::Call
            }
            _ => CallKind::of_call(envelope),
        };
        if call.reply.is_closed() {
            return;
        }
        let StdioCall { number, request, reply } = call;
        if let (None, Some(key)) = (client, request.owner) {
            connection.note_caller(key);
        }
        let recipient = Recipient::Client(ResponseSink::Waiting(reply));
        let pending = PendingCall { call: Some(number), client, kind, recipient };
        if let Err(pending) = connection.send_call(message, envelope, pending) {
            pending.fail(connection.refusal_stage());
        }
    }

    /// Cancels a call whose client no longer waits for it.
    fn cancel(&self, number: u64) {
        let location = self.context.call_locations.borrow_mut().remove(&number);
        match location {
            Some(CallLocation::InFlight(connection, number)) => {
                if let Some(connection) = connection.upgrade() {
                    connection.cancel_abandoned(number);
                }
            }
            Some(CallLocation::ClientStream(connection, client)) => {
                if let Some(connection) = connection.upgrade() {
                    if let Some(client) = connection.state.borrow_mut().clients.get_mut(client) {
                        client.stream.close(number);
                    }
                    connection.touch();
                }
            }
            // The call has ended, or has not begun; in that case it finds its reply channel closed.
            None => {}
        }
    }

    /// Ends processes that were idle for too long, shortens the back-off of a server whose processes run long, removes
    /// slots where nothing runs, saves what was seen of the program, and replaces or ends the spare.
    fn sweep(&self) {
        let now = Instant::now();
        let connections = self.context.connections.borrow().clone();
        let mut longest = Duration::ZERO;
        for connection in connections {
            longest = longest.max(connection.started_at.elapsed());
            if connection.is_idle_for(now, self.context.program.settings.idle_timeout) {
                tracing::debug!(server = %self.context.name, pid = connection.pid, "ending an idle process");
                connection.close(FailureStage::NoResponse);
                connection.request_end();
            }
        }
        self.context.backoff.borrow_mut().note_running(longest);
        self.slots.borrow_mut().retain(|_, slot| Rc::strong_count(slot) > 1 || slot.is_in_use());
        self.context.behavior.save();
        self.sweep_spare();
    }

    /// Ends all processes and waits until they have ended. Callers that wait for a process to be started get
    /// an error, and none is started from now on.
    pub async fn stop(&self) {
        self.is_stopping.set(true);
        self.context.behavior.save();
        self.stopping.notify_waiters();
        if let Some(spare) = self.spare.borrow_mut().take() {
            spawn_local(spare.discard(Rc::clone(&self.context)));
        }
        let connections = self.context.connections.borrow().clone();
        for connection in connections {
            connection.close(FailureStage::NoResponse);
            connection.request_end();
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        loop {
            let ended = self.context.process_ended.notified();
            tokio::pin!(ended);
            ended.as_mut().enable();
            if self.context.counters.running() == 0 {
                return;
            }
            if timeout_at(deadline, ended).await.is_err() {
                let running = self.context.counters.running();
                tracing::error!(server = %self.context.name, running, "processes do not end");
                return;
            }
        }
    }

    fn health(&self) -> StdioHealth {
        let (context, messages) = (&self.context, &self.context.message_counters);
        let stats = context.counters.snapshot();
        let process_health = |connection: &Rc<ProcessConnection>| {
            let state = connection.state.borrow();
            ProcessHealth {
                pid: connection.pid,
                era: connection.era,
                ran: connection.started_at.elapsed(),
                sessions: state.clients.len(),
                in_flight: state.calls.len(),
            }
        };
        StdioHealth {
            processes: context.connections.borrow().iter().map(process_health).collect(),
            running: stats.running,
            failures_in_a_row: context.backoff.borrow().failures(),
            next_start_in: context.backoff.borrow().wait(Instant::now()),
            started: stats.started,
            failed: stats.failed,
            invalid_lines: messages.invalid_lines.get(),
            undeliverable: messages.undeliverable.get(),
            dropped: messages.dropped.get(),
            refused_requests: messages.refused_requests.get(),
        }
    }
}

/// Refuses a Modern request. The text mentions nothing of the Modern era, so that a client that speaks both
/// eras falls back to a session.
fn legacy_refusal(id: &[u8]) -> LocalResponse {
    let text = "this server is spoken to in sessions, of revisions up to 2025-11-25; send `initialize` first";
    LocalResponse::from_error(StatusCode::BAD_REQUEST, id, code::LEGACY_TRANSPORT, text)
}
