//! What a Legacy client says to its servers without asking them anything: notifications, responses, the log level.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use memchr::memmem;
use tokio::time::timeout;

use super::legacy_delivery::deliver;
use crate::route::Endpoint;
use crate::server::mcp::call::Call;
use crate::server::mcp::id_prefix;
use crate::server::mcp::tasks::TaskIds;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::{BufferedRequest, Session, send_buffered};
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{IdSpan, Span};
use metamcp_core::protocol::McpMethod;

/// The client waits for its servers to take what has no answer of theirs, one after the other.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// The level holds for every server that logs: those that are open now, and those that will be.
pub async fn set_level(worker: &Worker, call: &Call, session: &Arc<Session>) -> Result<Reply, Fault> {
    let level = call
        .envelope
        .params
        .level
        .ok_or_else(|| Fault::client(FaultKind::MalformedParams, "params.level is missing"))?;
    session.set_log_level(Bytes::copy_from_slice(level.span.slice(&call.body)));
    for (place, upstream_session) in session.upstream_slots() {
        let Some(ready) = upstream_session.current().filter(|ready| ready.features.logging) else { continue };
        let server = &call.endpoint.servers[place];
        let asked = BufferedRequest {
            method: McpMethod::SetLevel,
            message: call.body.clone(),
            session: Some(&ready),
            modern_headers: None,
        };
        // A server that does not take it now gets it when its session is opened again.
        let asking = async {
            send_buffered(&worker.topology.pool(server)?, asked).await.map_err(|error| error.into_fault(&server.name))
        };
        match timeout(TELL_TIMEOUT, asking).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => drop(worker.metering.note_fault(&fault)),
            Err(_elapsed) => tracing::warn!(server = %server.name, "the log level was not taken in time"),
        }
    }
    Ok(reply::result(&call.id(), Bytes::from_static(b"{}")))
}

/// A notification of the client, for the servers that it concerns.
pub async fn notification(worker: &Worker, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    let params = &call.envelope.params;
    let targets: Vec<usize> = match call.method {
        // To the one server that holds the call.
        Some(McpMethod::Cancelled) => {
            let holder = params.request_id.and_then(|id| session.find_call(id.span.slice(&call.body)));
            if let Some((session, place)) = holder {
                tell(worker, &call, &session, place, &[]).await;
            }
            Vec::new()
        }
        Some(McpMethod::Progress) => {
            tell_tagged(worker, &call, &session, params.progress_token).await;
            Vec::new()
        }
        Some(McpMethod::RootsListChanged) => {
            let open =
                session.upstream_slots().filter(|(_, upstream_session)| upstream_session.current().is_some());
            open.map(|(place, _)| place).collect()
        }
        // Each server is told `initialized` when its own session is opened; what nobody is known for is
        // taken and dropped, as a server does with a notification it does not know.
        _ => Vec::new(),
    };
    let Some((last, others)) = targets.split_last() else { return Ok(reply::accepted()) };
    for place in others {
        tell(worker, &call, &session, *place, &[]).await;
    }
    tell(worker, &call, &session, *last, &[]).await;
    Ok(reply::accepted())
}

/// The answer of a client to a server's request goes to the server its id names.
pub async fn answer_of_client(
    worker: &Worker,
    call: Box<Call>,
    session: Arc<Session>,
) -> Result<Reply, Fault> {
    if !tell_tagged(worker, &call, &session, call.envelope.id).await {
        return Err(Fault::client(FaultKind::InvalidRequest, "this response answers no request of a server"));
    }
    // Also where nobody waits for it any more: it was accepted, as a message of its form has to be (MCP 2025-11-25,
    // Streamable HTTP, "202 Accepted with no body"). A client that is told an error by the transport there ends its
    // session, for a question that was taken back while its user thought about it.
    Ok(reply::accepted())
}

/// Tells the server that a tagged id names; false when it names none. A server that was changed or removed while a call
/// is under way there may have asked as well: it is told too, and one of the two does not know the id.
async fn tell_tagged(worker: &Worker, call: &Call, session: &Arc<Session>, id: Option<IdSpan>) -> bool {
    let mut is_known = false;
    let mut former = session.former_versions();
    former.retain(|former| former.endpoint.id != session.endpoint.id);
    for session in former.iter().chain([session]) {
        if let Some((place, edit)) = tagged(call, &session.endpoint, id) {
            let mut edits = vec![edit];
            // Of a task the answer says to which it belongs.
            if memmem::find(&call.body, b"related-task").is_some() {
                let ids = TaskIds::new(
                    worker.shared.auth.sealer(),
                    &call.identity,
                    Some(session),
                    &session.endpoint,
                );
                edits.extend(ids.related(call));
                edits.sort_by_key(|(span, _)| span.start);
            }
            tell(worker, call, session, place, &edits).await;
            is_known = true;
        }
    }
    is_known
}

/// The server a tagged id names, and the id it knows in place of the tagged one.
fn tagged(call: &Call, endpoint: &Endpoint, id: Option<IdSpan>) -> Option<(usize, (Span, Bytes))> {
    let id = id?;
    let text: String = serde_json::from_slice(id.span.slice(&call.body)).ok()?;
    let (place, raw) = id_prefix::untag(endpoint, &text)?;
    Some((place, (id.span, raw)))
}

/// Passes on what has no answer. A server without an open session is not opened for it.
async fn tell(worker: &Worker, call: &Call, session: &Session, place: usize, edits: &[(Span, Bytes)]) {
    let Some(ready) = session.upstream_slot(place).current() else { return };
    let server = &session.endpoint.servers[place];
    let telling = async {
        let pool = worker.topology.pool(server)?;
        deliver(call, &ready, (server, &pool), edits).await
    };
    match timeout(TELL_TIMEOUT, telling).await {
        Ok(Ok(_taken)) => {}
        Ok(Err(fault)) => drop(worker.metering.note_fault(&fault)),
        Err(_elapsed) => {
            tracing::warn!(server = %server.name, "a message without an answer was not taken in time");
        }
    }
}
