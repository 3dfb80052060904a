//! The sessions of one server: the state that its thread holds.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::{Rc, Weak};
use std::time::Duration;

use foldhash::fast::RandomState;
use http::HeaderValue;
use http::uri::PathAndQuery;
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use bytes::Bytes;

use super::target::SseTarget;
use metamcp_core::frame::Scanner;
use metamcp_http::multiplex::{
    Backoff, CallOutcome, ClientStream, EventSink, PendingCalls, ResponseSink, ServerRequests,
};
use metamcp_http::{FailureStage, UpstreamError};
use metamcp_http::{HttpPool, UpstreamResponse};
use metamcp_http::{RequestKind, UpstreamRequest};

/// The event streams of one server, and what they share.
pub struct SseHub {
    pub target: SseTarget,
    pub http: HttpPool,
    /// Scans all messages on this thread.
    pub scanner: RefCell<Scanner>,
    /// Where each call is, for cancellation.
    pub call_locations: RefCell<HashMap<u64, CallLocation, RandomState>>,
    pub sessions: RefCell<HashMap<HeaderValue, Rc<SseSession>, RandomState>>,
    pub failures: RefCell<OpenFailures>,
}

/// Where a call is.
pub enum CallLocation {
    /// In flight in a session, under this number there.
    InFlight(Weak<SseSession>, u64),
    /// The client's event stream.
    ClientStream(Weak<SseSession>),
    /// The `initialize` that opens this session.
    Opening(Weak<SseSession>),
}

/// Failed attempts to open a session, and when the next attempt may start.
#[derive(Default)]
pub struct OpenFailures {
    backoff: Backoff,
    last: Option<Instant>,
}

/// One session, with its event stream.
pub struct SseSession {
    pub hub: Rc<SseHub>,
    /// The id by which the rest of the gateway knows the session.
    pub id: HeaderValue,
    /// The target of messages to the server.
    pub endpoint: PathAndQuery,
    /// The call that opens the session.
    pub opened_by: u64,
    /// When opening the session began.
    pub opening_since: Instant,
    pub state: RefCell<SessionState>,
    /// Whether `initialize` was answered.
    pub is_open: Cell<bool>,
    pub is_closed: Cell<bool>,
    closed: Notify,
    /// Messages of our own that are being posted.
    pub background_posts: Cell<usize>,
    pub last_used: Cell<Instant>,
}

/// What is in flight in a session.
pub struct SessionState {
    pub calls: PendingCalls<PendingCall>,
    /// What the server sends outside of calls.
    pub client_stream: ClientStream,
    /// Each with the call during which the server sent it.
    pub server_requests: ServerRequests<Option<u64>>,
    /// Cancellations, by call, that wait until the call itself is delivered: ahead of it they mean nothing.
    pub deferred_cancellations: HashMap<u64, UpstreamRequest, RandomState>,
}

pub struct PendingCall {
    /// Unique among all calls to the server.
    pub call: u64,
    pub kind: CallKind,
    pub sink: ResponseSink,
    /// Whether the server has accepted the POST.
    pub is_delivered: bool,
}

/// What the response to a call changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallKind {
    Call,
    Initialize,
}

/// Sessions of one server at once. Each is a connection: some 10 KiB here, and a descriptor.
const SESSIONS_MAX: usize = 10_000;

impl OpenFailures {
    /// Returns the number of consecutive failures.
    pub fn count(&self) -> u32 {
        self.backoff.failures()
    }

    /// Returns how long to wait before the next attempt.
    pub fn wait(&self, now: Instant) -> Duration {
        self.backoff.wait(now)
    }

    /// Records the failure of an attempt that began at `began`. Attempts that were in flight when another
    /// failed count as one failure with it: a hundred clients that arrive at once count no more than one.
    fn record(&mut self, began: Instant) {
        if self.last.is_some_and(|last| began <= last) {
            return;
        }
        self.last = Some(Instant::now());
        self.backoff.fail(Duration::ZERO);
    }
}

impl SseHub {
    /// Creates the state of a server without sessions.
    pub fn new(target: SseTarget) -> Rc<Self> {
        Rc::new(Self {
            http: HttpPool::new(target.http.clone()),
            target,
            scanner: RefCell::new(Scanner::new()),
            call_locations: RefCell::default(),
            sessions: RefCell::default(),
            failures: RefCell::default(),
        })
    }

    pub fn connect_timeout(&self) -> Duration {
        self.http.settings().connect_timeout
    }

    /// Whether another session may be opened.
    pub fn has_room(&self) -> bool {
        self.sessions.borrow().len() < SESSIONS_MAX
    }

    pub fn find_session(&self, id: &HeaderValue) -> Option<Rc<SseSession>> {
        self.sessions.borrow().get(id).map(Rc::clone)
    }

    /// Sends a POST, within the limit on those in flight of its kind.
    pub async fn post(
        &self,
        request: &UpstreamRequest,
        kind: RequestKind,
    ) -> Result<Box<UpstreamResponse>, UpstreamError> {
        let limit = match kind {
            RequestKind::Message => &self.target.message_limit,
            RequestKind::Call | RequestKind::Stream => &self.target.post_limit,
        };
        let permit = limit.acquire().await?;
        self.http.send(request, kind, Some(permit)).await
    }

    /// Records a failed attempt to open a session, after which the next must wait.
    pub fn record_failure(&self, began: Instant, reason: &str) {
        tracing::debug!(server = %self.target.name, reason, "cannot open a session");
        self.failures.borrow_mut().record(began);
    }

    /// Resets the failures after a session was opened.
    pub fn record_success(&self) {
        *self.failures.borrow_mut() = OpenFailures::default();
    }
}

impl PendingCall {
    /// Creates a call that the server has not accepted yet.
    pub fn new(call: u64, kind: CallKind, reply: oneshot::Sender<CallOutcome>) -> Self {
        Self { call, kind, sink: ResponseSink::Waiting(reply), is_delivered: false }
    }
}

impl SseSession {
    /// Creates a session on an event stream whose `endpoint` event was read.
    pub fn new(
        hub: &Rc<SseHub>,
        id: HeaderValue,
        endpoint: PathAndQuery,
        opened_by: u64,
        opening_since: Instant,
    ) -> Rc<Self> {
        let state = SessionState {
            calls: PendingCalls::default(),
            client_stream: ClientStream::default(),
            server_requests: ServerRequests::default(),
            deferred_cancellations: HashMap::default(),
        };
        Rc::new(Self {
            hub: Rc::clone(hub),
            id,
            endpoint,
            opened_by,
            opening_since,
            state: RefCell::new(state),
            is_open: Cell::new(false),
            is_closed: Cell::new(false),
            closed: Notify::new(),
            background_posts: Cell::new(0),
            last_used: Cell::new(Instant::now()),
        })
    }

    /// Removes a server's request if the client was asked it. Returns whether it was.
    pub fn take_server_request(&self, id: &[u8]) -> bool {
        self.state.borrow_mut().server_requests.remove(id).is_some()
    }

    /// Opens the client's event stream.
    pub fn open_client_stream(&self, call: u64, sink: EventSink) {
        self.last_used.set(Instant::now());
        self.state.borrow_mut().client_stream.open(call, sink);
    }

    /// Closes the client's event stream if it is the one that this call opened.
    pub fn close_client_stream(&self, call: u64) {
        self.last_used.set(Instant::now());
        self.state.borrow_mut().client_stream.close(call);
    }

    /// Closes the session because of the server. If the session was not open yet, the next attempt must wait.
    pub fn fail(&self, stage: FailureStage) {
        if !self.is_open.get() && !self.is_closed.get() {
            self.hub.record_failure(self.opening_since, "`initialize` was not answered");
        }
        self.close(stage);
    }

    /// Ends the session: closes its stream, fails every call that the server has accepted, once, and forgets
    /// the session. A call that is still being posted learns from the server's response whether it was
    /// accepted.
    pub fn close(&self, stage: FailureStage) {
        if self.is_closed.replace(true) {
            return;
        }
        self.closed.notify_waiters();
        self.hub.sessions.borrow_mut().remove(&self.id);
        self.hub.call_locations.borrow_mut().remove(&self.opened_by);
        let mut state = self.state.borrow_mut();
        let delivered = state.calls.iter().filter(|(_, entry)| entry.call.is_delivered);
        let delivered: Vec<u64> = delivered.map(|(number, _)| number).collect();
        let calls: Vec<_> = delivered.into_iter().filter_map(|number| state.calls.remove(number)).collect();
        state.client_stream = ClientStream::default();
        state.server_requests.clear();
        drop(state);
        for entry in calls {
            self.forget_call(&entry.call);
            entry.call.sink.fail(UpstreamError::from_stage(stage));
        }
    }

    /// Waits until the session is closed. Cancel safe.
    pub async fn closed(&self) {
        let closed = self.closed.notified();
        tokio::pin!(closed);
        closed.as_mut().enable();
        if !self.is_closed.get() {
            closed.await;
        }
    }

    /// Whether nothing is in flight, nobody listens, and the session was unused for `timeout`.
    pub fn is_idle_for(&self, now: Instant, timeout: Duration) -> bool {
        let state = self.state.borrow();
        state.calls.is_empty()
            && !state.client_stream.is_open()
            && now.saturating_duration_since(self.last_used.get()) >= timeout
    }

    /// Forgets where a call is, after it has ended. Its guard may still be dropped later.
    pub fn forget_call(&self, call: &PendingCall) {
        if call.kind == CallKind::Call {
            self.hub.call_locations.borrow_mut().remove(&call.call);
        }
    }
}

impl SessionState {
    /// Returns the call to which a message that names no call belongs: the only call in flight; with several,
    /// none if the client listens, and otherwise the newest, because the message is for that client in any
    /// case.
    pub fn associated_call(&self) -> Option<u64> {
        let calls = self.calls.iter().filter(|(_, entry)| entry.call.kind == CallKind::Call);
        let (count, newest) =
            calls.fold((0, None), |(count, newest), (number, _)| (count + 1, newest.max(Some(number))));
        newest.filter(|_| count == 1 || !self.client_stream.is_open())
    }

    /// Sends an event to the client, with the associated call or on the client's own stream. False when it is
    /// lost.
    pub fn send_to_client(&mut self, event: Bytes) -> bool {
        match self.associated_call().and_then(|number| self.calls.get_mut(number)) {
            Some(entry) => entry.call.sink.send_event(event),
            None => self.client_stream.send(event),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn concurrent_failures_count_once() {
        let mut failures = OpenFailures::default();
        let began = Instant::now();
        sleep(Duration::from_secs(1)).await;
        (0..100).for_each(|_| failures.record(began));
        assert_eq!(failures.count(), 1);
        assert!(failures.wait(Instant::now()) <= Duration::from_millis(500));
        sleep(Duration::from_secs(1)).await;
        failures.record(Instant::now());
        assert_eq!(failures.count(), 2);
    }
}
