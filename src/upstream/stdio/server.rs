//! A server as the workers see it.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use tokio::runtime::Builder;
use tokio::sync::{mpsc, oneshot};
use tokio::task::LocalSet;

use super::call::{StdioCall, StdioRequest, SupervisorMessage};
use super::health::StdioHealth;
use super::process_stats::{ProcessCounters, ProcessStats};
use super::supervisor::Supervisor;
use super::target::StdioTarget;
use crate::child;
use crate::runtime::LargeMessage;
use metamcp_http::multiplex::{CancelGuard, HttpOperation, LocalResponse};
use metamcp_http::{FailureStage, UpstreamError};

/// A handle to the task that supervises a server's processes and starts them as needed. Dropping it ends them.
pub struct StdioServer {
    messages: mpsc::Sender<SupervisorMessage>,
    cancellations: mpsc::UnboundedSender<u64>,
    next_call: AtomicU64,
    counters: Arc<ProcessCounters>,
}

/// Calls on their way to the supervising task, which takes them at once unless it is far behind; then they
/// wait.
const CALLS_MAX: usize = 256;

/// Nothing on the thread goes deep, and there may be hundreds of servers.
const STACK_BYTES: usize = 512 << 10;

impl StdioServer {
    /// Starts the supervising task, on a thread of its own. A child process is bound to the life of the
    /// thread that started it (`PR_SET_PDEATHSIG`), so that thread must live as long. Starts no process,
    /// except for a spare if configured.
    pub fn start(target: StdioTarget) -> io::Result<Self> {
        child::protect_memory();
        child::adopt_orphans();
        let (messages, received_messages) = mpsc::channel(CALLS_MAX);
        // At most one message for each call, and calls are bounded.
        let (cancellations, received_cancellations) = mpsc::unbounded_channel();
        let counters = Arc::<ProcessCounters>::default();
        let supervisor_counters = Arc::clone(&counters);
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let thread_name = format!("stdio-{}", target.name);
        thread::Builder::new().name(thread_name).stack_size(STACK_BYTES).spawn(move || {
            let supervisor = Supervisor::new(target, supervisor_counters);
            LocalSet::new().block_on(&runtime, supervisor.run(received_messages, received_cancellations));
        })?;
        Ok(Self { messages, cancellations, next_call: AtomicU64::new(0), counters })
    }

    /// Sends a request to the server and waits for the beginning of the response. The guard cancels the call
    /// when it is dropped.
    ///
    /// Not cancel safe: dropping it cancels the call.
    pub async fn call(&self, request: StdioRequest) -> Result<(LocalResponse, CancelGuard), UpstreamError> {
        let number = self.next_call.fetch_add(1, Ordering::Relaxed);
        let _large = match &request.operation {
            HttpOperation::Post(message) => LargeMessage::track(message.len()),
            HttpOperation::Get | HttpOperation::Delete => None,
        };
        // Created first, so that it is dropped last: when the task learns of the cancellation, the reply
        // channel is already closed.
        let guard = CancelGuard::new(self.cancellations.clone(), number);
        let (reply, response) = oneshot::channel();
        let call = StdioCall { number, request, reply };
        let not_sent = |_| UpstreamError::from_stage(FailureStage::NotSent);
        self.messages.send(SupervisorMessage::Call(call)).await.map_err(not_sent)?;
        match response.await {
            Ok(outcome) => outcome.map(|response| (response, guard)),
            Err(_gone) => Err(UpstreamError::from_stage(FailureStage::NoResponse)),
        }
    }

    /// Returns the counters of the processes, without asking the supervising task.
    pub fn process_stats(&self) -> ProcessStats {
        self.counters.snapshot()
    }

    /// Whether a process has answered since the last failure.
    pub fn is_answering(&self) -> bool {
        self.counters.is_answering()
    }

    /// Returns the health of the server; `None` if the supervising task has ended. Cancel safe.
    pub async fn health(&self) -> Option<StdioHealth> {
        let (reply, health) = oneshot::channel();
        self.messages.send(SupervisorMessage::Health(reply)).await.ok()?;
        health.await.ok()
    }

    /// Ends all processes, and waits until they have ended: five seconds and a half at most. None is started
    /// from then on. Cancel safe: the processes end in any case.
    pub async fn stop(&self) {
        let (reply, stopped) = oneshot::channel();
        if self.messages.send(SupervisorMessage::Stop(reply)).await.is_ok() {
            // Fails only if the task has ended, and the processes with it.
            let _ = stopped.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use http::{HeaderValue, StatusCode};

    use super::*;

    #[tokio::test]
    async fn reports_health_and_stops() {
        let server = StdioServer::start(StdioTarget::sample()).expect("a thread can be started");
        let health = server.health().await.unwrap();
        assert_eq!(
            (health.running, health.started, health.processes.len()),
            (0, 0, 0),
            "nothing asked for one"
        );
        // None of these needs a process.
        let check = async |operation, session: Option<&'static str>, expected| {
            let session = session.map(HeaderValue::from_static);
            let (owner, client_session) = (None, None);
            let request = StdioRequest { operation, session, owner, client_session, is_exclusive: false };
            let (response, _guard) = server.call(request).await.unwrap();
            assert_eq!(response.status, expected);
        };
        check(HttpOperation::Get, None, StatusCode::METHOD_NOT_ALLOWED).await;
        check(HttpOperation::Get, Some("x"), StatusCode::NOT_FOUND).await;
        check(HttpOperation::Delete, Some("x"), StatusCode::NOT_FOUND).await;
        check(HttpOperation::Post("{".into()), None, StatusCode::BAD_REQUEST).await;
        let ping = br#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#;
        check(HttpOperation::Post(ping[..].into()), None, StatusCode::BAD_REQUEST).await;
        check(HttpOperation::Post(ping[..].into()), Some("x"), StatusCode::NOT_FOUND).await;
        let cancelled = br#"{"jsonrpc":"2.0","method":"notifications/cancelled"}"#;
        check(HttpOperation::Post(cancelled[..].into()), None, StatusCode::ACCEPTED).await;
        server.stop().await;
        assert!(server.health().await.is_some(), "a stopped server still reports its health");
    }
}
