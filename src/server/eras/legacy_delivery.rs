//! Delivers a message to a server within the client's session.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use tokio::sync::oneshot;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::route::RoutedServer;
use crate::server::mcp::call::Call;
use crate::server::mcp::relay::gateway_stops;
use crate::server::mcp::send;
use crate::session::{
    Session, UpstreamSession, check_repeat, is_session_lost, may_have_run, replay_subscriptions,
    unproven_loss,
};
use crate::upstream::UpstreamPool;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::Span;
use metamcp_http::{RequestKind, UpstreamResponse};

/// Limits the wait for a server that opens its event stream but sends no head until it has an event.
const STREAM_SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

/// How long a server may take to open a session whose client has left. Later, the server expires it by itself.
const ABANDONED_OPEN_TIMEOUT: Duration = Duration::from_secs(5);

/// Sends the message to one server within its session.
pub async fn deliver(
    call: &Call,
    ready: &UpstreamSession,
    (server, pool): (&RoutedServer, &Rc<UpstreamPool>),
    edits: &[(Span, Bytes)],
) -> Result<Box<UpstreamResponse>, Fault> {
    let mut request = send::request_of(call, edits)?;
    call.fields.copy_to(&mut request, None);
    ready.write_headers(&mut request);
    let kind = if call.is_request() { RequestKind::Call } else { RequestKind::Message };
    send::send(server, pool, &request, kind).await
}

/// The client's session at one server, opened if needed.
async fn open(
    pool: &Rc<UpstreamPool>,
    session: &Arc<Session>,
    place: usize,
) -> Result<Arc<UpstreamSession>, Fault> {
    let upstream_session = session.upstream_slot(place);
    if let Some(ready) = upstream_session.current() {
        return Ok(ready);
    }
    if !session.has_id() {
        return open_for_one_request(pool, session, place).await;
    }
    let mut is_opened = false;
    let opening = upstream_session
        .open_with_result(pool, &session.handshake, session.log_level(), |_| is_opened = true);
    let ready = opening.await?;
    if is_opened && !session.subscriptions(place).is_empty() {
        let (pool, session, ready) = (Rc::clone(pool), Arc::clone(session), Arc::clone(&ready));
        spawn_local(async move { replay_subscriptions(&pool, &session, place, &ready).await });
    }
    session.notify_stream();
    if session.has_stream() {
        // Some servers send the client a request on their event stream as soon as the session is open, and do
        // not repeat it if no client listens.
        let _ = timeout(STREAM_SETTLE_TIMEOUT, ready.wait_stream_settled()).await;
    }
    Ok(ready)
}

/// Opens the upstream session for the session of one request, in a task: if the client leaves meanwhile, the
/// upstream session must be ended, which is possible only when the server has answered. The session holds the
/// permit of the request.
async fn open_for_one_request(
    pool: &Rc<UpstreamPool>,
    session: &Arc<Session>,
    place: usize,
) -> Result<Arc<UpstreamSession>, Fault> {
    let (mut sender, receiver) = oneshot::channel();
    let (pool, session) = (Rc::clone(pool), Arc::clone(session));
    spawn_local(async move {
        let mut opening = pin!(session.upstream_slot(place).open(&pool, &session.handshake, None));
        let opened = tokio::select! {
            opened = &mut opening => opened,
            () = sender.closed() => match timeout(ABANDONED_OPEN_TIMEOUT, opening).await {
                Ok(opened) => opened,
                Err(_elapsed) => return,
            },
        };
        if let Ok(ready) = opened.as_ref()
            && session.is_ended()
        {
            ready.terminate(&pool).await;
        }
        // If nobody waits any more, the session ends without this server's answer.
        drop(sender.send(opened));
    });
    let dropped = || gateway_stops("the call did not run");
    receiver.await.unwrap_or_else(|_dropped| Err(dropped()))
}

/// A server's reaction to a message.
pub enum DeliveryOutcome {
    /// A response whose head has arrived.
    Answered(Box<UpstreamResponse>),
    /// Status 400 or 404, with its body; not caused by a lost session.
    Refused(StatusCode, Bytes),
}

/// Delivers a message in the client's session at a server. The session is opened if needed, and once more if
/// the server shows that it lost it: a server that does not know the session does not run the call (MCP 2025-11-25,
/// session management). The call is repeated then, unless its tool is declared to change something.
pub async fn ask_server(
    pool: &Rc<UpstreamPool>,
    call: &Call,
    session: &Arc<Session>,
    place: usize,
    edits: &[(Span, Bytes)],
) -> Result<DeliveryOutcome, Fault> {
    let (lost, status) = match try_delivery(pool, call, session, place, edits).await? {
        DeliveryAttempt::Ended(outcome) => return Ok(outcome),
        DeliveryAttempt::SessionLost(lost, status) => (lost, status),
    };
    let server = &call.endpoint.servers[place].name;
    tracing::info!(%server, "the server lost its session; opening another");
    let opened = open(pool, session, place).await.map_err(|fault| {
        tracing::debug!(%server, %fault, "no other session is opened");
        // The fault of opening it would say that the call did not run.
        unproven_loss(server, status)
    })?;
    check_repeat(pool, (&lost, status), &opened, &send::request_of(call, edits)?.message()).await?;
    match try_delivery(pool, call, session, place, edits).await? {
        DeliveryAttempt::Ended(outcome) => Ok(outcome),
        DeliveryAttempt::SessionLost(..) => {
            let text = format!("server `{server}` does not keep its sessions; the call may have run");
            Err(Fault::upstream(FaultKind::Unreachable, text))
        }
    }
}

/// What one delivery came to.
enum DeliveryAttempt {
    Ended(DeliveryOutcome),
    /// The server refused the message with this status, and refuses a ping in the session too.
    SessionLost(Arc<UpstreamSession>, StatusCode),
}

/// Delivers a message in the current session at a server. A session that is lost is discarded.
async fn try_delivery(
    pool: &Rc<UpstreamPool>,
    call: &Call,
    session: &Arc<Session>,
    place: usize,
    edits: &[(Span, Bytes)],
) -> Result<DeliveryAttempt, Fault> {
    let server = &call.endpoint.servers[place];
    let ready = open(pool, session, place).await?;
    let response = deliver(call, &ready, (server, pool), edits).await?;
    let status = response.head.status;
    let may_be_lost = matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
    if !may_be_lost || ready.session_id.is_none() {
        return Ok(DeliveryAttempt::Ended(DeliveryOutcome::Answered(response)));
    }
    // Collected to its end, so that its permit at the upstream is free for the requests that follow.
    let body = { response.body }.collect(send::ERROR_BYTES_MAX).await;
    let body = body.map_err(|error| error.into_fault(&server.name))?;
    if !is_session_lost(pool, &ready, status).await {
        return Ok(DeliveryAttempt::Ended(DeliveryOutcome::Refused(status, body)));
    }
    session.upstream_slot(place).discard(&ready);
    if may_have_run(&body, &call.id()) {
        return Ok(DeliveryAttempt::Ended(DeliveryOutcome::Refused(status, body)));
    }
    Ok(DeliveryAttempt::SessionLost(ready, status))
}
