//! Messages of the revisions up to 2025-11-25, within a session.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::client_messages;
use super::client_setting::{PendingSetting, observe_answer};
use super::initialize::initialize;
use super::legacy_delivery::{DeliveryOutcome, ask_server};
use crate::catalog::View;
use crate::route::EndpointShape;
use crate::server::http1::fields::Field;
use crate::server::mcp::call::Call;
use crate::server::mcp::candidates::Candidates;
use crate::server::mcp::dispatch::{Dispatch, dispatch};
use crate::server::mcp::meter::Meter;
use crate::server::mcp::relay::{RequestResources, ServerRequestRefuser, session_ended};
use crate::server::mcp::send::{self, RelayedResponse};
use crate::server::mcp::target::{self, Target};
use crate::server::mcp::{local, task_list, tasks};
use crate::server::reply::reply::{self, Reply};
use crate::server::streams::resumable::{ResumableCall, resume_mode};
use crate::server::worker::Worker;
use crate::session::{BufferedRequest, CallGuard, Session, send_message};
use crate::upstream::UpstreamId;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::MessageKind as FrameKind;
use metamcp_core::protocol::{Era, McpMethod, Revision};

/// For the servers to accept the cancellations of the calls of a session that its client ended. The end of the session at the
/// servers waits for it.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(1);

/// Cancellations that are sent at once for one session: of few servers, which take each within milliseconds.
const CANCELLATIONS_MAX: usize = 16;

/// Answers a message of the Legacy era.
pub async fn answer(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<Reply, Fault> {
    if call.method == Some(McpMethod::Initialize) && call.is_request() {
        return initialize(worker, &call).await;
    }
    let session = worker.sessions.find(&call.fields, &call.identity, &call.endpoint)?;
    if session.endpoint.id != call.endpoint.id {
        // The endpoint changed after the head of this request arrived; server indices are those of the
        // session's version.
        call.endpoint = Arc::clone(&session.endpoint);
    }
    check_version(&call)?;
    call.check_grants()?;
    if call.method == Some(McpMethod::Cancelled) {
        return cancelled(worker, call, session).await;
    }
    if !call.is_request() {
        return route(worker, call, session).await.map_err(as_answer);
    }
    let id = call.id();
    let routed = pin!(route(worker, call, Arc::clone(&session)));
    match session.until_ended(&id, routed).await {
        Some(Ok(reply)) => Ok(reply),
        // Whatever it failed with: a server that is told of the end can fail the call before this task is polled.
        Some(Err(_)) if session.has_ended_calls() => Err(session_ended()),
        Some(Err(fault)) => Err(as_answer(fault)),
        None => Err(session_ended()),
    }
}

/// Routes a message whose sender and session are verified.
pub async fn route(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    let view = View::Legacy(session.claims.capabilities);
    let catalog = &*worker.shared.catalog;
    if call.endpoint.shape != EndpointShape::Single {
        match (call.envelope.kind, call.method) {
            (FrameKind::Response | FrameKind::Error, _) => {
                return client_messages::client_response(worker, call, session).await;
            }
            (FrameKind::Notification, _) => {
                return client_messages::notification(worker, call, session).await;
            }
            (FrameKind::Request, Some(McpMethod::Ping)) => {
                return Ok(reply::result(&call.id(), Bytes::from_static(b"{}")));
            }
            (FrameKind::Request, Some(McpMethod::SetLevel)) => {
                return client_messages::set_level(worker, &call, &session).await;
            }
            (FrameKind::Request, Some(McpMethod::TasksList)) if tasks::are_known(catalog, &call, view) => {
                let sealer = worker.shared.auth.sealer();
                return task_list::list(&worker.topology, sealer, &call, &session).await;
            }
            (FrameKind::Request, _) => {}
        }
    }
    match dispatch(worker, &call, view, Some(&session)).await? {
        Dispatch::Forward(target) => forward(worker, call, session, target).await,
        Dispatch::TryInTurn(places) => try_in_turn(worker, &call, &session, &places).await,
        Dispatch::List(kind) => local::list(catalog, &call, view, kind).await,
    }
}

/// Answers from the first server that has the resource.
async fn try_in_turn(
    worker: &Worker,
    call: &Call,
    session: &Arc<Session>,
    places: &[usize],
) -> Result<Reply, Fault> {
    let mut candidates = Candidates::new(worker, call, View::Legacy(session.claims.capabilities));
    for place in places {
        let asking = async {
            let pool = worker.topology.pool(&call.endpoint.servers[*place])?;
            match ask_server(&pool, call, session, *place, &[]).await? {
                DeliveryOutcome::Answered(response) => Ok(send::read_result(&worker.scanner, response).await),
                DeliveryOutcome::Refused(..) => Ok(None),
            }
        };
        if let Some(reply) = candidates.ask(*place, asking).await? {
            return Ok(reply);
        }
    }
    Err(candidates.into_fault())
}

/// Forwards a cancellation. Then the call's stream is no longer kept for the client to resume.
async fn cancelled(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    let id = call.envelope.params.request_id.map(|id| call.raw(id.span));
    // First, because the server may end the call before it has answered this message.
    if let Some(id) = &id {
        session.cancel_call(id);
    }
    let routed = Box::pin(route(worker, call, Arc::clone(&session))).await.map_err(as_answer);
    if let Some(id) = id {
        session.cancel_stream(&id);
    }
    routed
}

/// Makes invalid params a JSON-RPC error of the one request, as servers do within a session. Status 400 would
/// be an error of the transport, after which the Python SDK 1 leaves the caller waiting.
pub fn as_answer(mut fault: Fault) -> Fault {
    if fault.kind == FaultKind::MalformedParams {
        fault.kind = FaultKind::InvalidParams;
    }
    fault
}

/// Checks `MCP-Protocol-Version` after `initialize` (MCP 2025-06-18, transports). Absent, it is the
/// negotiated revision; unknown, it is an error with status 400.
fn check_version(call: &Call) -> Result<(), Fault> {
    let Some(value) = call.fields.get(Field::McpProtocolVersion) else { return Ok(()) };
    match Revision::parse(value) {
        Some(revision) if revision.era() == Era::Legacy => Ok(()),
        _ => Err(Fault::client(
            FaultKind::InvalidRequest,
            "MCP-Protocol-Version is not a revision that sessions are spoken in; send the negotiated one",
        )),
    }
}

/// Forwards a message to the server at index `place`, in the client's session there. The session is opened if
/// needed, and once more if the server lost it: a server that does not know the session did not run the call.
async fn forward(
    worker: &Rc<Worker>,
    call: Box<Call>,
    session: Arc<Session>,
    (place, rename): Target,
) -> Result<Reply, Fault> {
    let edit = target::edit(rename.as_ref());
    let setting = PendingSetting::of(&call, &session, place);
    let (pool, delivered, in_flight, mut meter) = {
        let asking = pin!(async {
            let pool = worker.topology.pool(&call.endpoint.servers[place])?;
            let delivered = ask_server(&pool, &call, &session, place, edit.as_slice()).await?;
            Ok((pool, delivered))
        });
        // Declared after `asking`, so that both are dropped first: when the server sees the cancellation, the
        // call's id must be free again.
        let in_flight = call.is_request().then(|| begin(&session, &call, place)).transpose()?;
        let view = View::Legacy(session.claims.capabilities);
        let server = &call.endpoint.servers[place];
        let mut meter = Meter::begin(worker, &call, server, rename.as_ref(), view)?;
        let (pool, delivered) = match asking.await {
            Ok(delivered) => delivered,
            Err(_) if in_flight.as_ref().is_some_and(CallGuard::is_cancelled) => {
                return Ok(send::cancelled(meter.as_mut()));
            }
            Err(fault) => return Err(send::failed(meter.as_mut(), fault)),
        };
        (pool, delivered, in_flight, meter)
    };
    let response = match delivered {
        DeliveryOutcome::Answered(response) => response,
        DeliveryOutcome::Refused(..) if in_flight.as_ref().is_some_and(CallGuard::is_cancelled) => {
            return Ok(send::cancelled(meter.as_mut()));
        }
        DeliveryOutcome::Refused(status, body) => {
            let server = &call.endpoint.servers[place].name;
            let id = call.is_request().then(|| call.id());
            return send::relay_refusal(&worker.scanner, server, (status, body), id.as_ref(), meter.as_mut());
        }
    };
    let id = call.is_request().then(|| call.id());
    let endpoint = Arc::clone(&call.endpoint);
    let tasks = match endpoint.shape {
        EndpointShape::Single => None,
        EndpointShape::Aggregate(_) => {
            tasks::legacy(worker.shared.auth.sealer(), &call, &session, place).map(Box::new)
        }
    };
    let resources = RequestResources {
        in_flight,
        meter,
        tasks,
        refuser: ServerRequestRefuser::for_session(&session, place, &pool),
        ..RequestResources::new(call.permit, call.identity)
    };
    let relayed =
        send::relay(worker, &endpoint.servers[place], endpoint.shape, id, response, resources).await?;
    let relay = match relayed {
        RelayedResponse::Reply(reply) => return Ok(observe_answer(worker, setting, false, reply)),
        RelayedResponse::Events(relay) => relay,
    };
    let may_resume = !call.shares_response && session.has_id();
    let streams = worker.shared.streams.as_ref().filter(|_| may_resume);
    let id = call.envelope.id.map(|id| Bytes::copy_from_slice(id.span.slice(&call.body)));
    let reply = match streams.zip(id.zip(resume_mode(&call.fields, &session))) {
        Some((streams, (id, mode))) => {
            ResumableCall { id, session, place, pool, mode }.into_resumable(streams, relay)
        }
        None => relay.into_reply(),
    };
    Ok(observe_answer(worker, setting, true, reply))
}

/// Records a call. Its id must not be in use by another call of the session.
fn begin(session: &Arc<Session>, call: &Call, place: usize) -> Result<CallGuard, Fault> {
    session.begin_call(Bytes::copy_from_slice(&call.id()), place).ok_or_else(|| {
        Fault::client(
            FaultKind::InvalidRequest,
            "this id is in use by a call under way, or there are too many",
        )
    })
}

/// Ends a session and its calls in flight, here and at every server.
pub fn end(worker: &Rc<Worker>, session: &Arc<Session>) {
    let calls = session.end_calls();
    worker.shared.sessions.end(session);
    let detached = session.detached_upstream_sessions();
    if calls.is_empty() {
        return worker.terminator.enqueue(detached, &worker.topology.pools());
    }
    let (worker, session) = (Rc::clone(worker), Arc::clone(session));
    spawn_local(async move {
        let cancelling = stream::iter(calls).for_each_concurrent(CANCELLATIONS_MAX, |(id, upstream)| {
            let (worker, session) = (&worker, &session);
            async move { cancel_at_server(worker, session, &id, upstream).await }
        });
        // A server that does not take them in time learns of the end of the session.
        let _ = timeout(CANCEL_TIMEOUT, cancelling).await;
        worker.terminator.enqueue(detached, &worker.topology.pools());
    });
}

/// Sends a cancellation: a closed connection does not cancel a call (MCP 2025-11-25, transports), and not every server ends
/// the calls of a session with it.
async fn cancel_at_server(worker: &Worker, session: &Session, id: &Bytes, upstream: u32) {
    let Some(pool) = worker.topology.pools().find(UpstreamId(upstream)) else { return };
    let Some(ready) = session.find_upstream_slot(upstream).and_then(|slot| slot.current()) else { return };
    let mut message =
        br#"{"jsonrpc":"2.0","method":"notifications/cancelled","params":{"reason":"the session was ended","requestId":"#
            .to_vec();
    message.extend_from_slice(id);
    message.extend_from_slice(b"}}");
    let message = BufferedRequest::legacy(&ready, McpMethod::Cancelled, message.into());
    if let Err(error) = send_message(&pool, message).await {
        tracing::debug!(server = %pool.upstream().name(), %error, "a call of an ended session is not cancelled");
    }
}
