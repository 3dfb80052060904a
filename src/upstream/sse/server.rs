//! A server as the workers see it: what they ask goes to its thread, what it answers comes back.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;
use url::Url;

use super::super::shim::{CallGuard, CallOutcome, LocalResponse};
use super::super::{FailureStage, Upstream, UpstreamError, UpstreamRequest};
use super::hub::Hub;

/// A server with the thread that speaks to it. Dropped, it closes all its streams.
pub struct Server {
    asked: mpsc::Sender<Call>,
    given_up: mpsc::UnboundedSender<u64>,
    next_call: AtomicU64,
}

/// Something that is asked of a server.
pub struct Call {
    /// No other call of the server has or had it.
    pub number: u64,
    /// What is asked, as of a Streamable HTTP server.
    pub request: UpstreamRequest,
    /// Where the answer goes.
    pub reply: oneshot::Sender<CallOutcome>,
}

/// Calls on their way to the thread, which takes them at once unless it is badly behind: then they wait.
const ASKED_MAX: usize = 256;

/// A handshake of TLS goes deepest, with some tens of KiB; there may be hundreds of servers.
const STACK_BYTES: usize = 1 << 20;

impl Server {
    /// Starts its thread. `wire`: how its URL is spoken to over HTTP. Opens nothing.
    pub fn deploy(wire: Arc<Upstream>, url: Url) -> io::Result<Self> {
        let (asked, taken) = mpsc::channel(ASKED_MAX);
        // At most one message for each call, and calls are bounded.
        let (given_up, over) = mpsc::unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let named = format!("sse-{}", wire.name());
        thread::Builder::new().name(named).stack_size(STACK_BYTES).spawn(move || {
            let hub = Hub::new(wire, url);
            LocalSet::new().block_on(&runtime, hub.run(taken, over));
        })?;
        Ok(Self { asked, given_up, next_call: AtomicU64::new(0) })
    }

    /// Asks it something, and waits for what the answer begins with. The hold gives the call up when it is
    /// dropped.
    ///
    /// Not cancel safe: dropping it gives the call up.
    pub async fn call(&self, request: UpstreamRequest) -> Result<(LocalResponse, CallGuard), UpstreamError> {
        let number = self.next_call.fetch_add(1, Ordering::Relaxed);
        // Made first, so that it is dropped last: a server that is told that the call is given up sees that
        // nobody waits.
        let hold = CallGuard::new(self.given_up.clone(), number);
        let (reply, answer) = oneshot::channel();
        let gone = |_| UpstreamError::from_stage(FailureStage::NotSent);
        self.asked.send(Call { number, request, reply }).await.map_err(gone)?;
        match answer.await {
            Ok(outcome) => outcome.map(|reply| (reply, hold)),
            Err(_gone) => Err(UpstreamError::from_stage(FailureStage::NoResponse)),
        }
    }
}
