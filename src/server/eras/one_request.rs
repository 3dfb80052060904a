//! Requests of the Legacy era without a session. Some clients never send `initialize`. Each of their requests
//! gets a session of its own, which is opened at the servers that the request needs, as for a client without
//! capabilities, and ends with the response.
//!
//! Nothing outlives the request, so what only makes sense within a session is refused: tasks and resource
//! subscriptions. Requests of the server are refused too, because the client's response could not be
//! assigned to a session.

use std::rc::Rc;
use std::sync::Arc;

use super::legacy::{self, as_answer};
use crate::server::http1::fields::{Field, Fields};
use crate::server::mcp::call::Call;
use crate::server::mcp::tasks;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::MessageKind as FrameKind;
use metamcp_core::protocol::{McpMethod, Revision};

/// Whether a message of the Legacy era belongs to no session, nor opens one.
pub fn is_sessionless(call: &Call) -> bool {
    let opens_session = call.method == Some(McpMethod::Initialize) && call.is_request();
    !call.fields.has(Field::McpSessionId) && !opens_session
}

/// The revision of a request without a session (MCP 2025-06-18, transports): the one that its header names,
/// which is known to be of the Legacy era.
pub fn revision(fields: &Fields) -> Revision {
    fields.get(Field::McpProtocolVersion).and_then(Revision::parse).unwrap_or(Revision::FALLBACK)
}

/// Answers a message that belongs to no session.
pub async fn answer(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<Reply, Fault> {
    call.check_grants()?;
    match call.envelope.kind {
        FrameKind::Request => check_method(&call)?,
        // A notification concerns a session or one of its calls, and there is none. It is accepted, as by a
        // server that does not know it: clients that never open a session take an error for a failure.
        FrameKind::Notification => return Ok(reply::accepted()),
        FrameKind::Response | FrameKind::Error => {
            return Err(Fault::client(
                FaultKind::InvalidRequest,
                "this response answers no request of a server: without a session none is sent to the client",
            ));
        }
    }
    let session = Session::for_one_request(
        call.identity.key_id(),
        Arc::clone(&call.endpoint),
        revision(&call.fields),
        worker.clock.now_s(),
        call.permit.take(),
    );
    let guard = OneRequestGuard { worker: Rc::clone(worker), session: Arc::clone(&session) };
    let mut reply = legacy::route(worker, call, session).await.map_err(as_answer)?;
    reply.body = reply.body.holding(guard);
    Ok(reply)
}

/// Refuses methods whose effect ends with the session.
fn check_method(call: &Call) -> Result<(), Fault> {
    let text = match call.method {
        Some(McpMethod::Subscribe | McpMethod::Unsubscribe) => {
            "resources are subscribed to within a session; open one by `initialize`"
        }
        Some(McpMethod::TasksList) => TASKS_NEED_SESSION,
        Some(McpMethod::ToolsCall) if tasks::asks_for_task(call) => TASKS_NEED_SESSION,
        None if call.is_task_request() => TASKS_NEED_SESSION,
        _ => return Ok(()),
    };
    Err(Fault::client(FaultKind::SessionMissing, text))
}

const TASKS_NEED_SESSION: &str =
    "a task belongs to the session that it was started in; open one by `initialize`";

/// Ends the session of a request when the request is over, however it ended.
struct OneRequestGuard {
    worker: Rc<Worker>,
    session: Arc<Session>,
}

impl Drop for OneRequestGuard {
    fn drop(&mut self) {
        self.session.end();
        let detached = self.session.detached_upstream_sessions();
        self.worker.terminator.enqueue(detached, &self.worker.topology.pools());
    }
}
