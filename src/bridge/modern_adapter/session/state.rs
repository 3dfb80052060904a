//! The session, its calls, and when it ends.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::protocol::{CallsByNumber, Era, LogLevel, McpMethod, Revision};
use metamcp_http::RequestKind;
use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::{Instant, timeout};

use super::super::event_queue::{EventReceiver, EventSender, event_queue};
use super::super::unsolicited::UnsolicitedRequests;
use super::key::AdapterSessionKey;
use super::subscribe::update_subscription;
use crate::session::{BufferedRequest, ClientHandshake, UpstreamSession, UpstreamSessionSlot, deliver};
use crate::upstream::UpstreamPool;

/// A session. Shared by all workers; opened again when the server lost it.
pub struct AdapterSession {
    pub key: AdapterSessionKey,
    upstream_slot: UpstreamSessionSlot,
    handshake: ClientHandshake,
    /// The server's whole response to `initialize`.
    initialize_response: ArcSwapOption<Bytes>,
    /// Guards what is in flight; a few lines at a time.
    state: Mutex<SessionState>,
    /// Notified when the session was opened again.
    pub reopened: Notify,
    /// Notified when the session is to end.
    pub over: Notify,
}

pub(super) struct SessionState {
    /// Calls in flight. The number of a call is its id and progress token.
    pub(super) calls: CallsByNumber<RoutedCall>,
    /// By numbers that no call has.
    pub(super) listeners: HashMap<u64, Listener>,
    /// The number of listeners of each resource.
    pub(super) resources: HashMap<String, usize>,
    /// The log level that was set at the server.
    log_level: Option<LogLevel>,
    pub(super) used: Instant,
    /// Requests of the server outside of any call.
    pub(super) unsolicited: UnsolicitedRequests,
    /// A call was cancelled so recently that the server may not know yet, and may still mean it.
    attribution_doubtful_until: Option<Instant>,
    /// Whether the session ends with its last call or listener, instead of after a while.
    ends_when_unused: bool,
    /// Whether the session accepts no calls any more.
    pub(super) is_over: bool,
}

/// A call that messages are routed to.
pub(super) struct RoutedCall {
    pub(super) sender: EventSender,
    /// Whether the server may ask its client for input.
    pub(super) allows_input: bool,
}

/// A client with a subscription.
pub(super) struct Listener {
    /// Receives the notifications; the client's subscription id is still missing in them.
    pub(super) sender: EventSender,
    /// The list changes that the client subscribed to.
    pub(super) lists: Vec<McpMethod>,
    /// The URIs that the client subscribed to.
    pub(super) resources: Vec<String>,
}

/// A call in flight, or a listener. Dropping it frees the slot of a call.
pub struct ClientSlot {
    pub session: Arc<AdapterSession>,
    /// The id and progress token of a call.
    pub number: u64,
    /// Messages on the session's event stream that are certainly meant for it.
    pub events: EventReceiver,
}

/// How long after a cancellation the server may still send messages that it means for the cancelled call.
const ATTRIBUTION_DOUBT_PERIOD: Duration = Duration::from_secs(10);

/// How long to wait for the event stream of a server that sends no response head before the first event.
const STREAM_SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

impl AdapterSession {
    /// Creates a session that is not open yet.
    pub fn new(key: AdapterSessionKey) -> Arc<Self> {
        let ours = ClientHandshake::gateway(Revision::LEGACY_LATEST, key.capabilities);
        let state = SessionState {
            calls: CallsByNumber::default(),
            listeners: HashMap::new(),
            resources: HashMap::new(),
            log_level: None,
            used: Instant::now(),
            unsolicited: UnsolicitedRequests::default(),
            attribution_doubtful_until: None,
            ends_when_unused: false,
            is_over: false,
        };
        Arc::new(Self {
            key,
            upstream_slot: UpstreamSessionSlot::default(),
            handshake: ClientHandshake { owner: key.owner, is_isolated: key.is_exclusive(), ..ours },
            initialize_response: ArcSwapOption::empty(),
            state: Mutex::new(state),
            reopened: Notify::new(),
            over: Notify::new(),
        })
    }

    /// Returns the open session at the server.
    pub fn upstream_session(&self) -> Option<Arc<UpstreamSession>> {
        self.upstream_slot.current()
    }

    /// Forgets a session that the server lost.
    pub fn forget(&self, lost: &Arc<UpstreamSession>) {
        self.upstream_slot.discard(lost);
    }

    /// Opens the session if it is not open. Cancel safe: another caller opens it then.
    pub async fn open(&self, pool: &Rc<UpstreamPool>) -> Result<Arc<UpstreamSession>, Fault> {
        let mut is_new = false;
        let store_response = |response: Bytes| {
            is_new = true;
            self.initialize_response.store(Some(Arc::new(response)));
        };
        let opened = self.upstream_slot.open_with_result(pool, &self.handshake, None, store_response).await;
        let upstream_session = opened.inspect_err(|fault| {
            if fault.kind == FaultKind::EraMismatch {
                // Another server runs at the address by now: its era is detected again.
                pool.upstream().set_spoken(Era::Modern, None);
            }
        })?;
        if is_new {
            let resources: Vec<String> = {
                let mut state = self.lock();
                state.log_level = None;
                // No client waits for answers to requests of the previous session.
                state.unsolicited = UnsolicitedRequests::default();
                state.resources.keys().cloned().collect()
            };
            self.reopened.notify_one();
            // Some servers send requests as soon as their stream is open. Those must not be taken for
            // requests of a call.
            let _ = timeout(STREAM_SETTLE_TIMEOUT, upstream_session.wait_stream_settled()).await;
            // In a task of its own: the call that found the session lost may be cancelled.
            let (pool, upstream_session) = (Rc::clone(pool), Arc::clone(&upstream_session));
            spawn_local(async move {
                for uri in resources {
                    update_subscription(&pool, &upstream_session, McpMethod::Subscribe, &uri).await;
                }
            });
        }
        Ok(upstream_session)
    }

    /// Returns the server's whole response to `initialize`.
    pub fn initialize_response(&self) -> Option<Arc<Bytes>> {
        self.initialize_response.load_full()
    }

    /// Begins a call. `allows_input` says whether the server may ask its client, which only some methods
    /// allow. `None` if the session is over.
    pub fn begin_call(self: &Arc<Self>, allows_input: bool) -> Option<ClientSlot> {
        self.begin_call_if(allows_input, |state| !state.is_over)
    }

    /// Begins a call if it is the only one, and everything that the server asks from now on belongs to it.
    pub fn begin_exclusive_call(self: &Arc<Self>, allows_input: bool) -> Option<ClientSlot> {
        self.begin_call_if(allows_input, |state| {
            !state.is_over && state.calls.is_empty() && !state.is_attribution_doubtful()
        })
    }

    fn begin_call_if(
        self: &Arc<Self>,
        allows_input: bool,
        condition: impl Fn(&SessionState) -> bool,
    ) -> Option<ClientSlot> {
        let (sender, events) = event_queue();
        let mut state = self.lock();
        if !condition(&state) {
            return None;
        }
        state.used = Instant::now();
        let number = state.calls.insert(RoutedCall { sender, allows_input });
        drop(state);
        Some(ClientSlot { session: Arc::clone(self), number, events })
    }

    /// Whether the call is the only one. Then a message of the server that names no call is certainly meant
    /// for it.
    pub fn is_only_call(&self, number: u64) -> bool {
        let state = self.lock();
        state.calls.len() == 1 && state.calls.contains(number) && !state.is_attribution_doubtful()
    }

    /// Records that a call was cancelled: for a while a message that names no call cannot be attributed.
    pub fn note_cancelled_call(&self) {
        self.lock().attribution_doubtful_until = Some(Instant::now() + ATTRIBUTION_DOUBT_PERIOD);
    }

    /// Records that the session was used now. Returns false if it is over.
    pub fn touch(&self) -> bool {
        let mut state = self.lock();
        state.used = Instant::now();
        !state.is_over
    }

    /// Returns when the session became idle; `None` if it is in use.
    pub fn idle_since(&self) -> Option<Instant> {
        let state = self.lock();
        (state.calls.is_empty() && state.listeners.is_empty()).then_some(state.used)
    }

    /// Ends the session if it has been idle for so long. Returns whether it is over.
    pub fn end_if_idle(&self, idle_for: Duration) -> bool {
        let mut state = self.lock();
        let is_idle = state.calls.is_empty() && state.listeners.is_empty();
        state.is_over |= is_idle && state.used.elapsed() >= idle_for;
        state.is_over
    }

    /// Ends the session with its last call or listener: the credential of one has ended, and the others probably end with it.
    /// If not, the next call opens another.
    pub fn end_when_unused(&self) {
        let mut state = self.lock();
        state.ends_when_unused = true;
        self.end_if_unused(&mut state);
    }

    /// Ends the session if it is unused and does not wait for another call.
    pub(super) fn end_if_unused(&self, state: &mut SessionState) {
        if state.ends_when_unused && state.calls.is_empty() && state.listeners.is_empty() {
            state.is_over = true;
            self.over.notify_one();
        }
    }

    /// Makes the server send log messages from that level on, if it does not yet.
    pub async fn lower_log_level(
        &self,
        pool: &Rc<UpstreamPool>,
        upstream_session: &UpstreamSession,
        level: LogLevel,
    ) {
        let is_low_enough = self.lock().log_level.is_some_and(|current| current <= level);
        if is_low_enough || !upstream_session.features.logging {
            return;
        }
        let name = level.name();
        let message = format!(
            r#"{{"jsonrpc":"2.0","id":"metamcp-level","method":"logging/setLevel","params":{{"level":"{name}"}}}}"#
        );
        if deliver(
            pool,
            BufferedRequest::legacy(upstream_session, McpMethod::SetLevel, message.into()),
            RequestKind::Call,
        )
        .await
        {
            self.lock().log_level = Some(level);
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, SessionState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl SessionState {
    pub(super) fn is_attribution_doubtful(&self) -> bool {
        self.attribution_doubtful_until.is_some_and(|until| Instant::now() < until)
    }
}

impl Drop for ClientSlot {
    fn drop(&mut self) {
        let mut state = self.session.lock();
        if state.calls.remove(self.number).is_some() {
            state.used = Instant::now();
        }
        self.session.end_if_unused(&mut state);
    }
}
