//! The parts that relayed event streams share, whichever way their events are passed.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::request_resources::RequestResources;
use crate::server::http1::cached_credential::CredentialEpoch;
use crate::server::reply::reply;
use crate::server::worker::{SharedState, Worker};
use crate::session::{CallGuard, UpstreamReconnect};
use crate::telemetry::metrics::{OpenStreamGuard, StreamKind};
use crate::topology::Topology;
use crate::upstream::UpstreamId;
use metamcp_core::base::{Fault, FaultKind, ServerName, ShutdownPhase};
use metamcp_http::{UpstreamBody, UpstreamError};
use metamcp_store::auth::Identity;

/// A comment. Clients ignore it, and it keeps load balancers from closing an idle stream.
pub const COMMENT: &[u8] = b": keep-alive\n\n";

/// The shared state of a relayed event stream.
pub struct RelayedStream {
    pub worker: Rc<Worker>,
    _streaming: Option<OpenStreamGuard>,
    pub server: ServerName,
    /// The session's record of the call.
    in_flight: Option<CallGuard>,
    /// The id of the request, for an error event at the end.
    pub id: Option<Bytes>,
    pub ready: VecDeque<Bytes>,
    /// When the client last received something.
    pub last: Instant,
    pub keep_alive: Option<Pin<Box<Sleep>>>,
    /// Whether the last event was handed out.
    pub ended: bool,
    /// The kind of the gateway's own error, if the stream ended with one.
    pub failed: Option<FaultKind>,
    /// Completes when the stream must be cut. Created at the first poll.
    pub cut: Option<Pin<Box<dyn Future<Output = ()>>>>,
    pub is_cut: bool,
    pub identity: Identity,
    /// The credential epoch in which the key was last checked.
    pub checked: CredentialEpoch,
    pub subscription: Option<UpstreamId>,
    /// Reconnects to the server, if the answer is resumable.
    pub reconnect: Option<Box<UpstreamReconnect>>,
}

impl RelayedStream {
    pub fn new(
        worker: &Rc<Worker>,
        server: &ServerName,
        id: Option<Bytes>,
        resources: &mut RequestResources,
    ) -> Self {
        Self {
            worker: Rc::clone(worker),
            _streaming: worker.metering.streaming(match resources.subscription {
                None => StreamKind::Call,
                Some(_) => StreamKind::Subscription,
            }),
            server: server.clone(),
            in_flight: resources.in_flight.take(),
            id,
            ready: VecDeque::new(),
            last: Instant::now(),
            keep_alive: None,
            ended: false,
            failed: None,
            cut: None,
            is_cut: false,
            identity: resources.identity.clone(),
            // Not the current one: the key may have been revoked before this stream existed.
            checked: CredentialEpoch::NEVER,
            subscription: resources.subscription,
            reconnect: None,
        }
    }

    /// Polls for the server's next bytes.
    pub fn poll_chunk(
        &mut self,
        answer: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match &mut self.reconnect {
            None => answer.poll_chunk(cx),
            Some(reconnect) => reconnect.poll_chunk(answer, cx),
        }
    }

    /// Notes that a message of the call is complete.
    pub fn note_message(&mut self, answer: &mut UpstreamBody) {
        answer.note_message();
        self.reconnect.iter_mut().for_each(|reconnect| reconnect.note_message());
    }

    /// Asks the server for the rest. Returns the error if the stream cannot be resumed.
    #[cold]
    pub fn resume(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        match &mut self.reconnect {
            None => Err(error),
            Some(reconnect) => reconnect.begin(error),
        }
    }

    pub fn emit(&mut self, bytes: Bytes) -> Poll<Option<Bytes>> {
        self.last = Instant::now();
        Poll::Ready(Some(bytes))
    }

    /// Whether the stream must end: the key was revoked, the client ended the session, the gateway aborts in-flight calls, or
    /// the subscription is over.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> bool {
        let (shared, identity) = (&self.worker.shared, &self.identity);
        let cut = self.cut.get_or_insert_with(|| match self.subscription {
            None => Box::pin(call_over(Arc::clone(shared), identity.clone())),
            Some(upstream) => Box::pin(subscription_over(Arc::clone(shared), identity.clone(), upstream)),
        });
        let is_ended = self.in_flight.as_mut().is_some_and(|call| call.poll_session_ended(cx.waker()));
        self.is_cut = self.is_cut || is_ended || cut.as_mut().poll(cx).is_ready();
        self.is_cut
    }

    /// Whether the key is no longer valid. It covers a server whose bytes never let the relay wait. It costs
    /// one comparison until a key changes or the second is over; a key that expires sends no notification.
    pub fn is_revoked(&mut self) -> bool {
        let now = self.worker.clock.credential_epoch();
        if std::mem::replace(&mut self.checked, now) != now {
            self.is_cut = self.is_cut || !self.worker.shared.auth.is_still_valid(&self.identity);
        }
        self.is_cut
    }

    /// Ends a stream that is cut between two events.
    #[cold]
    pub fn end_cut(&mut self, answered: bool) -> Option<Bytes> {
        self.ended = true;
        if answered || self.subscription.is_some() {
            return None;
        }
        let outcome = "the call may have run";
        let fault = if !self.worker.shared.auth.is_still_valid(&self.identity) {
            credential_ended(outcome)
        } else if self.is_session_ended() {
            session_ended()
        } else {
            gateway_stops(outcome)
        };
        self.failed = Some(fault.kind);
        Some(reply::terminal_event(&fault.with_id(self.id.clone())))
    }

    /// Polls while the server is silent: sends a keep-alive comment where one is allowed, and checks the key.
    /// If the key is no longer valid, it sets `is_cut` and returns pending.
    pub fn poll_silence(&mut self, may_comment: bool, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let due = self.last + self.worker.settings().config.keep_alive;
        let sleep = self.keep_alive.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() < due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            self.last = Instant::now();
            sleep.as_mut().reset(self.last + self.worker.settings().config.keep_alive);
            self.is_cut = self.is_cut || !self.worker.shared.auth.is_still_valid(&self.identity);
            if self.is_cut {
                break;
            }
            if may_comment {
                return Poll::Ready(Some(Bytes::from_static(COMMENT)));
            }
        }
        Poll::Pending
    }

    /// Whether the client cancelled the call, so that it gets no response.
    pub fn is_cancelled(&self) -> bool {
        self.in_flight.as_ref().is_some_and(CallGuard::is_cancelled)
    }

    /// Whether the client ended the session of the call.
    pub fn is_session_ended(&self) -> bool {
        self.in_flight.as_ref().is_some_and(CallGuard::is_session_ended)
    }

    /// Ends the stream. Returns the event that says why, unless the client cancelled the call.
    #[cold]
    pub fn terminal_event(&mut self, error: UpstreamError) -> Option<Bytes> {
        if self.is_cancelled() {
            self.ended = true;
            return None;
        }
        let fault = if self.is_session_ended() { session_ended() } else { error.into_fault(&self.server) };
        let fault = fault.with_id(self.id.clone());
        (self.ended, self.failed) = (true, Some(fault.kind));
        self.worker.metering.note_fault(&fault);
        Some(reply::terminal_event(&fault))
    }
}

/// The fault of a call that the end of the gateway cuts off. `outcome` says whether it may have run.
pub fn gateway_stops(outcome: &str) -> Fault {
    Fault::gateway(FaultKind::ShuttingDown, format!("the gateway stops; {outcome}"))
}

/// The fault of a call whose session was ended by its client.
#[cold]
pub fn session_ended() -> Fault {
    let text = "the session was ended by its client, and the call with it; the call may have run";
    Fault::client(FaultKind::SessionUnknown, text)
}

/// The fault of a call on a connection that is about to end.
#[cold]
pub fn connection_ends() -> Fault {
    let text = "this connection is ending: open another one; the call did not run";
    Fault::gateway(FaultKind::ShuttingDown, text)
}

/// The fault of a call whose credential is no longer valid. `outcome` says whether it may have run.
pub fn credential_ended(outcome: &str) -> Fault {
    let text = format!("the key was switched off or changed, or it has expired; {outcome}");
    Fault::client(FaultKind::Unauthenticated, text)
}

async fn reached(mut phase: watch::Receiver<ShutdownPhase>, least: ShutdownPhase) {
    // A closed channel means that the process ends.
    let _ = phase.wait_for(|phase| *phase >= least).await;
}

/// Completes when the key is revoked or the gateway aborts in-flight calls.
async fn call_over(shared: Arc<SharedState>, identity: Identity) {
    tokio::select! {
        () = shared.auth.wait_for_revocation(&identity, shared.keys.clone()) => {}
        () = reached(shared.phase.clone(), ShutdownPhase::Abort) => {}
    }
}

/// Completes when the key is revoked, the server is removed, or the gateway drains.
async fn subscription_over(shared: Arc<SharedState>, identity: Identity, upstream: UpstreamId) {
    let mut topologies = shared.topology.clone();
    let is_gone = |topology: &Arc<Topology>| topology.upstream(upstream).is_none();
    tokio::select! {
        () = shared.auth.wait_for_revocation(&identity, shared.keys.clone()) => {}
        _ = topologies.wait_for(is_gone) => {}
        () = reached(shared.phase.clone(), ShutdownPhase::Drain) => {}
    }
}
