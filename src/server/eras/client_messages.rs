//! Messages of a Legacy client that no single server answers: notifications, responses, the log level.

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
use metamcp_core::protocol::{LogLevel, McpMethod};

/// Timeout for a server to accept such a message. The client waits while servers receive it in turn.
const FORWARD_TIMEOUT: Duration = Duration::from_secs(2);

/// Sets the log level of every server with logging: those with an open session now, the others when they open
/// one.
pub async fn set_level(worker: &Worker, call: &Call, session: &Arc<Session>) -> Result<Reply, Fault> {
    let malformed = |text| Fault::client(FaultKind::MalformedParams, text);
    let level = call.envelope.params.level.ok_or_else(|| malformed("params.level is missing"))?;
    let level = LogLevel::parse(&level.decode(&call.body));
    session.set_log_level(level.ok_or_else(|| malformed("params.level is no log level"))?);
    for (place, upstream_session) in session.upstream_slots() {
        let Some(ready) = upstream_session.current().filter(|ready| ready.features.logging) else { continue };
        let server = &call.endpoint.servers[place];
        let request = BufferedRequest {
            method: McpMethod::SetLevel,
            message: call.body.clone(),
            session: Some(&ready),
            modern_headers: None,
        };
        // A server that does not accept it now gets it when its session is opened again.
        let asking = async {
            send_buffered(&worker.topology.pool(server)?, request)
                .await
                .map_err(|error| error.into_fault(&server.name))
        };
        match timeout(FORWARD_TIMEOUT, asking).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => drop(worker.metering.note_fault(&fault)),
            Err(_elapsed) => tracing::warn!(server = %server.name, "the log level was not taken in time"),
        }
    }
    Ok(reply::result(&call.id(), Bytes::from_static(b"{}")))
}

/// Forwards a client's notification to the servers that it concerns.
pub async fn notification(worker: &Worker, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    let params = &call.envelope.params;
    let targets: Vec<usize> = match call.method {
        // Only to the server that runs the call.
        Some(McpMethod::Cancelled) => {
            let holder = params.request_id.and_then(|id| session.find_call(id.span.slice(&call.body)));
            if let Some((session, place)) = holder {
                note_failure(worker, forward(worker, &call, &session, place, &[]).await);
            }
            Vec::new()
        }
        Some(McpMethod::Progress) => {
            // Progress that a server cannot take now is out of date later.
            let forwarded = forward_by_prefix(worker, &call, &session, params.progress_token).await;
            note_failure(worker, forwarded);
            Vec::new()
        }
        Some(McpMethod::RootsListChanged) => {
            let open =
                session.upstream_slots().filter(|(_, upstream_session)| upstream_session.current().is_some());
            open.map(|(place, _)| place).collect()
        }
        // A server gets its own `initialized` when its session is opened. A notification that concerns no
        // known server is accepted and dropped, as a server does with a notification that it does not know.
        _ => Vec::new(),
    };
    for place in targets {
        note_failure(worker, forward(worker, &call, &session, place, &[]).await);
    }
    Ok(reply::accepted())
}

/// Counts a notification that was not forwarded. Its client is not told: some end their session on an error.
fn note_failure<T>(worker: &Worker, forwarded: Result<T, Fault>) {
    if let Err(fault) = forwarded {
        drop(worker.metering.note_fault(&fault));
    }
}

/// Forwards a client's answer to the server that its id names. A server that is too busy to take it waits on, and the
/// client is told to send it again.
pub async fn client_response(
    worker: &Worker,
    call: Box<Call>,
    session: Arc<Session>,
) -> Result<Reply, Fault> {
    let refusal = match forward_by_prefix(worker, &call, &session, call.envelope.id).await? {
        Recipient::Unknown => Some("this response answers no request of a server"),
        // After a hand-over or a restart. The call that the server asked during waits in the other process, if it still
        // runs: that it goes on would be a lie.
        Recipient::WithoutSession => Some(
            "this response cannot be delivered, because another process of the gateway forwarded the server's request; cancel the call that it belongs to, and make it again if it may run twice",
        ),
        Recipient::WithSession => None,
    };
    if let Some(text) = refusal {
        return Err(Fault::client(FaultKind::InvalidRequest, text));
    }
    // Accepted even if the server no longer waits for it, as the transport requires of a well-formed message
    // (MCP 2025-11-25, Streamable HTTP, "202 Accepted with no body"). Clients end their session on a
    // transport error, which a question that the server cancelled while its user thought about it would
    // cause.
    Ok(reply::accepted())
}

/// The server that a message of a client is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Recipient {
    /// No server of the endpoint has this id.
    Unknown,
    /// It has no session in this process, so it was not sent the message.
    WithoutSession,
    /// It was sent the message, as far as it took it.
    WithSession,
}

/// Forwards a message to the server that a prefixed id names. While a call is
/// in flight at a changed or removed server, that version may have sent the request, so it gets the message
/// too; the version that does not know the id ignores it.
///
/// # Errors
/// A server is too busy to take the message: the client can send it again.
async fn forward_by_prefix(
    worker: &Worker,
    call: &Call,
    session: &Arc<Session>,
    id: Option<IdSpan>,
) -> Result<Recipient, Fault> {
    let (mut recipient, mut busy) = (Recipient::Unknown, Ok(()));
    let mut former = session.former_versions();
    former.retain(|former| former.endpoint.id != session.endpoint.id);
    for session in former.iter().chain([session]) {
        if let Some((place, edit)) = find_prefixed(call, &session.endpoint, id) {
            let mut edits = vec![edit];
            // An answer that belongs to a task names the task's id.
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
            match forward(worker, call, session, place, &edits).await {
                Ok(found) => recipient = recipient.max(found),
                Err(fault) => busy = busy.and(Err(fault)),
            }
        }
    }
    busy.map(|()| recipient)
}

/// The server that a prefixed id names, and the edit that restores the server's own id.
fn find_prefixed(call: &Call, endpoint: &Endpoint, id: Option<IdSpan>) -> Option<(usize, (Span, Bytes))> {
    let id = id?;
    let text: String = serde_json::from_slice(id.span.slice(&call.body)).ok()?;
    let (place, raw) = id_prefix::parse_prefixed_id(endpoint, &text)?;
    Some((place, (id.span, raw)))
}

/// Forwards a message without an answer. No session is opened for it.
///
/// # Errors
/// The server is too busy to take it. All other failures are counted and logged: the message would fail again.
async fn forward(
    worker: &Worker,
    call: &Call,
    session: &Session,
    place: usize,
    edits: &[(Span, Bytes)],
) -> Result<Recipient, Fault> {
    let Some(ready) = session.upstream_slot(place).current() else { return Ok(Recipient::WithoutSession) };
    let server = &session.endpoint.servers[place];
    let sending = async {
        let pool = worker.topology.pool(server)?;
        deliver(call, &ready, (server, &pool), edits).await
    };
    match timeout(FORWARD_TIMEOUT, sending).await {
        Ok(Ok(_taken)) => {}
        Ok(Err(fault)) if fault.kind == FaultKind::Overloaded => return Err(fault),
        Ok(Err(fault)) => drop(worker.metering.note_fault(&fault)),
        Err(_elapsed) => {
            tracing::warn!(server = %server.name, "a message without an answer was not taken in time");
        }
    }
    Ok(Recipient::WithSession)
}
