//! A server as the workers see it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::call::SseCall;
use super::session::SseHub;
use super::target::SseTarget;
use metamcp_http::UpstreamRequest;
use metamcp_http::multiplex::{CancelGuard, LocalResponse};
use metamcp_http::{FailureStage, UpstreamError};

/// A handle to a server's thread. Dropping it closes all event streams of the server.
pub struct SseServer {
    calls: mpsc::Sender<SseCall>,
    cancellations: mpsc::UnboundedSender<u64>,
    next_call: AtomicU64,
}

/// Calls on their way to the thread, which takes them at once unless it is far behind; then they wait.
const CALLS_MAX: usize = 256;

/// A TLS handshake goes deepest, with some tens of KiB. There may be hundreds of servers.
const STACK_BYTES: usize = 1 << 20;

impl SseServer {
    /// Starts the server's thread. Opens no stream.
    pub fn start(target: SseTarget) -> io::Result<Self> {
        let (calls, received_calls) = mpsc::channel(CALLS_MAX);
        // At most one message for each call, and calls are bounded.
        let (cancellations, received_cancellations) = mpsc::unbounded_channel();
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread_name = format!("sse-{}", target.name);
        thread::Builder::new().name(thread_name).stack_size(STACK_BYTES).spawn(move || {
            let hub = SseHub::new(target);
            LocalSet::new().block_on(&runtime, hub.run(received_calls, received_cancellations));
        })?;
        Ok(Self { calls, cancellations, next_call: AtomicU64::new(0) })
    }

    /// Sends a request to the server and waits for the beginning of the response. The guard cancels the call
    /// when it is dropped.
    ///
    /// Not cancel safe: dropping it cancels the call.
    pub async fn call(
        &self,
        request: UpstreamRequest,
    ) -> Result<(LocalResponse, CancelGuard), UpstreamError> {
        let number = self.next_call.fetch_add(1, Ordering::Relaxed);
        // Created first, so that it is dropped last: when the thread learns of the cancellation, the reply
        // channel is already closed.
        let guard = CancelGuard::new(self.cancellations.clone(), number);
        let (reply, response) = oneshot::channel();
        let not_sent = |_| UpstreamError::from_stage(FailureStage::NotSent);
        self.calls.send(SseCall { number, request, reply }).await.map_err(not_sent)?;
        match response.await {
            Ok(outcome) => outcome.map(|response| (response, guard)),
            Err(_gone) => Err(UpstreamError::from_stage(FailureStage::NoResponse)),
        }
    }
}
