use tokio::sync::oneshot;

use metamcp_http::UpstreamRequest;
use metamcp_http::multiplex::CallOutcome;

/// An operation that a worker asks of a server's thread.
pub struct SseCall {
    /// Unique among all calls to the server.
    pub number: u64,
    pub request: UpstreamRequest,
    pub reply: oneshot::Sender<CallOutcome>,
}

impl SseCall {
    /// Sends the result to the worker, which may be gone.
    pub fn respond(self, outcome: CallOutcome) {
        let _ = self.reply.send(outcome);
    }
}
