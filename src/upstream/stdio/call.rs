use http::{HeaderValue, StatusCode};
use tokio::sync::oneshot;

use super::health::StdioHealth;
use metamcp_core::base::KeyId;
use metamcp_http::multiplex::{CallOutcome, HttpOperation, LocalResponse};
use metamcp_http::{FailureStage, UpstreamError};

/// A message to the task that supervises a server.
pub enum SupervisorMessage {
    Call(StdioCall),
    /// Asks for the health of the server.
    Health(oneshot::Sender<StdioHealth>),
    /// Ends all processes; answered when they have ended.
    Stop(oneshot::Sender<()>),
}

/// An operation that a worker asks of a server's thread.
pub struct StdioCall {
    /// Unique among all calls to the server.
    pub number: u64,
    pub request: StdioRequest,
    pub reply: oneshot::Sender<CallOutcome>,
}

/// What is asked, and for whom.
pub struct StdioRequest {
    pub operation: HttpOperation,
    /// The session that the request names, if any.
    pub session: Option<HeaderValue>,
    /// The key on whose behalf the request is sent.
    pub owner: Option<KeyId>,
    /// Which session of a client the request opens, whether for the first time or again.
    pub client_session: Option<u64>,
    /// Whether the session that the request opens must have a process to itself.
    pub is_exclusive: bool,
}

impl StdioCall {
    /// Sends the response to the worker, which may be gone.
    pub fn respond(self, response: LocalResponse) {
        let _ = self.reply.send(Ok(response));
    }

    /// Reports to the worker whether the process takes a message that has no response.
    pub fn respond_accepted(self, sent: Result<(), FailureStage>) {
        let accepted = || LocalResponse::from_status(StatusCode::ACCEPTED);
        let _ = self.reply.send(sent.map(|()| accepted()).map_err(UpstreamError::from_stage));
    }
}
