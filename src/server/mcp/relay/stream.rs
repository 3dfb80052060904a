//! What the event streams of upstreams have in common, however their events are passed.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::sync::watch;
use tokio::time::{Instant, Sleep, sleep_until};

use super::held::Held;
use crate::auth::Identity;
use crate::server::http1::cached_credential::CredentialEpoch;
use crate::server::mcp::reconnect::UpstreamReconnect;
use crate::server::reply::reply;
use crate::server::worker::{Shared, Worker};
use crate::telemetry::metrics::{OpenStreamGuard, StreamKind};
use crate::topology::Topology;
use crate::upstream::{UpstreamBody, UpstreamError, UpstreamId};
use metamcp_core::base::{Fault, FaultKind, ServerName, ShutdownPhase};

/// A comment: no client sees it, no load balancer thinks the stream idle.
pub const COMMENT: &[u8] = b": keep-alive\n\n";

/// What every event stream has.
pub struct Stream {
    pub worker: Rc<Worker>,
    _streaming: Option<OpenStreamGuard>,
    pub server: ServerName,
    /// The request it answers, for an error event at the end.
    pub id: Option<Bytes>,
    pub ready: VecDeque<Bytes>,
    /// When the client last got something.
    pub last: Instant,
    pub keep_alive: Option<Pin<Box<Sleep>>>,
    /// Whether its last event was handed out.
    pub ended: bool,
    /// Whether that is an error of ours, and of which kind.
    pub failed: Option<FaultKind>,
    /// Completes when the stream is to be cut. Made when first waited for.
    pub cut: Option<Pin<Box<dyn Future<Output = ()>>>>,
    pub is_cut: bool,
    pub identity: Identity,
    /// As of when the key was last checked.
    pub checked: CredentialEpoch,
    pub subscription: Option<UpstreamId>,
    /// Of an answer that its client can take up again.
    pub again: Option<Box<UpstreamReconnect>>,
}

impl Stream {
    pub fn new(worker: &Rc<Worker>, server: &ServerName, id: Option<Bytes>, held: &Held) -> Self {
        Self {
            worker: Rc::clone(worker),
            _streaming: worker.metering.streaming(match held.subscription {
                None => StreamKind::Call,
                Some(_) => StreamKind::Subscription,
            }),
            server: server.clone(),
            id,
            ready: VecDeque::new(),
            last: Instant::now(),
            keep_alive: None,
            ended: false,
            failed: None,
            cut: None,
            is_cut: false,
            identity: held.identity.clone(),
            // None of them: the key may have been taken back before there was a stream.
            checked: CredentialEpoch::NEVER,
            subscription: held.subscription,
            again: None,
        }
    }

    /// The server's next bytes.
    pub fn poll_chunk(
        &mut self,
        answer: &mut UpstreamBody,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Bytes, UpstreamError>>> {
        match &mut self.again {
            None => answer.poll_chunk(cx),
            Some(again) => again.poll_chunk(answer, cx),
        }
    }

    /// Asks the server for what follows; gives the error back when that is not to be had.
    #[cold]
    pub fn ask_again(&mut self, error: UpstreamError) -> Result<(), UpstreamError> {
        match &mut self.again {
            None => Err(error),
            Some(again) => again.ask(error),
        }
    }

    pub fn pass(&mut self, bytes: Bytes) -> Poll<Option<Bytes>> {
        self.last = Instant::now();
        Poll::Ready(Some(bytes))
    }

    /// Whether the key was taken back, the gateway cuts what is still under way, or a subscription's time is over.
    pub fn poll_cut(&mut self, cx: &mut Context<'_>) -> bool {
        let (shared, identity) = (&self.worker.shared, &self.identity);
        let cut = self.cut.get_or_insert_with(|| match self.subscription {
            None => Box::pin(call_over(Arc::clone(shared), identity.clone())),
            Some(upstream) => Box::pin(subscription_over(Arc::clone(shared), identity.clone(), upstream)),
        });
        self.is_cut = self.is_cut || cut.as_mut().poll(cx).is_ready();
        self.is_cut
    }

    /// The same of the key alone, for a server that never lets anybody wait. Costs a comparison, until a key changes or
    /// the second is over: nobody tells of a key that expires.
    pub fn is_taken_back(&mut self) -> bool {
        let now = self.worker.clock.credential_epoch();
        if std::mem::replace(&mut self.checked, now) != now {
            self.is_cut = self.is_cut || !self.worker.shared.auth.is_still_valid(&self.identity);
        }
        self.is_cut
    }

    /// The end of a stream that is cut between two events.
    #[cold]
    pub fn end_cut(&mut self, answered: bool) -> Option<Bytes> {
        self.ended = true;
        if answered || self.subscription.is_some() {
            return None;
        }
        let fault = if self.worker.shared.auth.is_still_valid(&self.identity) {
            Fault::gateway(FaultKind::ShuttingDown, "the gateway stops; the call may have run")
        } else {
            Fault::client(
                FaultKind::Unauthenticated,
                "the key was switched off or changed, or it has expired; the call may have run",
            )
        };
        self.failed = Some(fault.kind);
        Some(reply::terminal_event(&fault.with_id(self.id.clone())))
    }

    /// While nothing comes: a comment now and then, where one may stand, and a look at the key. Pending and cut, when
    /// that has expired.
    pub fn poll_silence(&mut self, may_comment: bool, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let due = self.last + self.worker.shared.config.keep_alive;
        let sleep = self.keep_alive.get_or_insert_with(|| Box::pin(sleep_until(due)));
        if sleep.deadline() < due {
            sleep.as_mut().reset(due);
        }
        while sleep.as_mut().poll(cx).is_ready() {
            self.last = Instant::now();
            sleep.as_mut().reset(self.last + self.worker.shared.config.keep_alive);
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

    #[cold]
    pub fn terminal_event(&mut self, error: UpstreamError) -> Bytes {
        let fault = error.into_fault(&self.server).with_id(self.id.clone());
        (self.ended, self.failed) = (true, Some(fault.kind));
        self.worker.metering.note_fault(&fault);
        reply::terminal_event(&fault)
    }
}

async fn reached(mut phase: watch::Receiver<ShutdownPhase>, least: ShutdownPhase) {
    // A sender that is gone means that the process ends.
    let _ = phase.wait_for(|phase| *phase >= least).await;
}

/// The key was taken back, or the gateway cuts what is still under way.
async fn call_over(shared: Arc<Shared>, identity: Identity) {
    tokio::select! {
        () = shared.auth.wait_for_revocation(&identity, shared.keys.clone()) => {}
        () = reached(shared.phase.clone(), ShutdownPhase::Abort) => {}
    }
}

/// The key was taken back, the server is gone, or the gateway drains.
async fn subscription_over(shared: Arc<Shared>, identity: Identity, upstream: UpstreamId) {
    let mut topologies = shared.topology.clone();
    let is_gone = |topology: &Arc<Topology>| topology.upstream(upstream).is_none();
    tokio::select! {
        () = shared.auth.wait_for_revocation(&identity, shared.keys.clone()) => {}
        _ = topologies.wait_for(is_gone) => {}
        () = reached(shared.phase.clone(), ShutdownPhase::Drain) => {}
    }
}
