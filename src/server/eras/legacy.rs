//! Messages of the revisions up to 2025-11-25, within a session of the client's.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use memchr::memmem;
use tokio::time::timeout;

use crate::catalog::{ListKind, View};
use super::initialize::initialize;
use crate::route::{Endpoint, EndpointShape, RoutedServer};
use crate::server::http1::fields::Field;
use crate::server::mcp::call::Call;
use crate::server::mcp::id_prefix;
use crate::server::mcp::candidates::Candidates;
use crate::server::mcp::local;
use crate::server::mcp::resolve;
use crate::server::mcp::target::{self, Target};
use crate::server::mcp::meter::Meter;
use crate::server::mcp::relay::Held;
use crate::server::mcp::send::{self, Relayed};
use crate::server::mcp::task_list;
use crate::server::mcp::tasks::{self, TaskIds};
use crate::server::reply::reply::{self, Reply};
use crate::server::streams::resumable::{Keeping, resumes};
use crate::server::worker::Worker;
use crate::session::{
    BufferedRequest, CallGuard, Session, UpstreamSession, ask,
    is_session_lost,
};
use crate::upstream::{RequestKind, UpstreamResponse};
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{IdSpan, MessageKind as FrameKind, Span};
use metamcp_core::protocol::{Era, McpMethod, Revision};

/// The client waits for its servers to take what has no answer of theirs, one after the other.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// For a server that has an event stream and does not say so until it has an event.
const STREAM_SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers a message of the Legacy era.
pub async fn answer(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<Reply, Fault> {
    if call.method == Some(McpMethod::Initialize) && call.is_request() {
        return initialize(worker, &call).await;
    }
    let session = worker.session(&call.fields, &call.identity, &call.endpoint)?;
    if session.endpoint.id != call.endpoint.id {
        // The endpoint changed after the head of this request came; places are those of the session.
        call.endpoint = Arc::clone(&session.endpoint);
    }
    check_version(&call)?;
    call.check_grants()?;
    if call.method == Some(McpMethod::Cancelled) {
        return cancelled(worker, call, session).await;
    }
    dispatch(worker, call, session).await
}

/// Likewise, when its sender and session are known.
async fn dispatch(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    match call.endpoint.shape {
        EndpointShape::Single if call.lists_in_part() && call.is_request() => {
            let view = View::Legacy(session.seal.capabilities);
            local::list(worker, &call, view, ListKind::Tools).await
        }
        EndpointShape::Single => {
            let view = View::Legacy(session.seal.capabilities);
            resolve::check_approved(worker, &call, view).await.map_err(answered)?;
            forward(worker, call, session, (0, None)).await
        }
        EndpointShape::Aggregate(_) => aggregate(worker, call, session).await.map_err(answered),
    }
}

/// The server is told, and then nobody waits for a client that has gone to come back for the call's answer.
async fn cancelled(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    let id = call.envelope.params.request_id.map(|id| call.raw(id.span));
    let told = Box::pin(dispatch(worker, call, Arc::clone(&session))).await;
    if let Some(id) = id {
        session.cancel_stream(&id);
    }
    told
}

/// Within a session, wrong params are the answer to the one request, as servers give it. A status of 400 would be one of the
/// transport: the Python SDK 1 leaves the caller waiting upon that.
fn answered(mut fault: Fault) -> Fault {
    if fault.kind == FaultKind::MalformedParams {
        fault.kind = FaultKind::InvalidParams;
    }
    fault
}

/// `MCP-Protocol-Version` after `initialize` (MCP 2025-06-18, transports): absent it is what was
/// negotiated; unknown it is 400.
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

/// On an endpoint with several servers.
async fn aggregate(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    match call.envelope.kind {
        FrameKind::Response | FrameKind::Error => answer_of_client(worker, call, session).await,
        FrameKind::Notification => notification(worker, call, session).await,
        FrameKind::Request => request(worker, call, session).await,
    }
}

async fn request(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    let view = View::Legacy(session.seal.capabilities);
    let target = match call.method {
        Some(McpMethod::ToolsCall) => resolve::named(worker, &call, view, ListKind::Tools).await?,
        Some(McpMethod::PromptsGet) => resolve::named(worker, &call, view, ListKind::Prompts).await?,
        Some(McpMethod::ResourcesRead) => {
            let places = resolve::resource_places(worker, &call, view).await?;
            return read(worker, call, session, &places).await;
        }
        Some(McpMethod::Subscribe | McpMethod::Unsubscribe) => {
            (resolve::resource_place(worker, &call, view).await?, None)
        }
        Some(McpMethod::Complete) => resolve::completion(worker, &call, view).await?,
        Some(McpMethod::ToolsList) => return local::list(worker, &call, view, ListKind::Tools).await,
        Some(McpMethod::PromptsList) => return local::list(worker, &call, view, ListKind::Prompts).await,
        Some(McpMethod::ResourcesList) => return local::list(worker, &call, view, ListKind::Resources).await,
        Some(McpMethod::TemplatesList) => return local::list(worker, &call, view, ListKind::Templates).await,
        Some(McpMethod::Ping) => return Ok(reply::result(&call.id(), Bytes::from_static(b"{}"))),
        Some(McpMethod::SetLevel) => return set_level(worker, &call, &session).await,
        Some(McpMethod::TasksList) if tasks::are_known(worker, &call, view) => {
            return task_list::list(worker, &call, &session).await;
        }
        None if call.is_task_request() && tasks::are_known(worker, &call, view) => {
            TaskIds::new(worker, &call.identity, Some(&session), &call.endpoint).target(&call)?
        }
        _ => {
            return Err(Fault::client(
                FaultKind::UnknownMethodInSession,
                "no server behind this endpoint is known for this method",
            ));
        }
    };
    forward(worker, call, session, target).await
}

/// From the first of the servers that has the resource.
async fn read(
    worker: &Rc<Worker>,
    call: Box<Call>,
    session: Arc<Session>,
    places: &[usize],
) -> Result<Reply, Fault> {
    let [place] = places else {
        let mut candidates = Candidates::new(worker, &call, View::Legacy(session.seal.capabilities));
        for place in places {
            let asking = async {
                match ask_server(worker, &call, &session, *place, &[]).await? {
                    Delivered::Answered(response) => Ok(send::result_of(worker, response).await),
                    Delivered::Refused(..) => Ok(None),
                }
            };
            if let Some(reply) = candidates.ask(*place, asking).await {
                return Ok(reply);
            }
        }
        return Err(candidates.into_fault());
    };
    forward(worker, call, session, (*place, None)).await
}

/// The level holds for every server that logs: those that are open now, and those that will be.
async fn set_level(worker: &Rc<Worker>, call: &Call, session: &Arc<Session>) -> Result<Reply, Fault> {
    let level = call
        .envelope
        .params
        .level
        .ok_or_else(|| Fault::client(FaultKind::MalformedParams, "params.level is missing"))?;
    session.set_log_level(Bytes::copy_from_slice(level.span.slice(&call.body)));
    for (place, upstream_session) in session.upstream_slots() {
        let Some(ready) = upstream_session.ready().filter(|ready| ready.features.logging) else { continue };
        let server = &call.endpoint.servers[place];
        let asked = BufferedRequest {
            method: McpMethod::SetLevel,
            message: call.body.clone(),
            ready: Some(&ready),
            modern: None,
        };
        // A server that does not take it now gets it when its session is opened again.
        let asking =
            async { ask(&worker.pool(server)?, asked).await.map_err(|error| error.into_fault(&server.name)) };
        match timeout(TELL_TIMEOUT, asking).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => drop(worker.note_fault(&fault)),
            Err(_elapsed) => tracing::warn!(server = %server.name, "the log level was not taken in time"),
        }
    }
    Ok(reply::result(&call.id(), Bytes::from_static(b"{}")))
}

async fn notification(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    let params = &call.envelope.params;
    let targets: Vec<usize> = match call.method {
        // To the one server that holds the call.
        Some(McpMethod::Cancelled) => {
            let holder = params.request_id.and_then(|id| session.holder(id.span.slice(&call.body)));
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
                session.upstream_slots().filter(|(_, upstream_session)| upstream_session.ready().is_some());
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
async fn answer_of_client(
    worker: &Rc<Worker>,
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
async fn tell_tagged(worker: &Rc<Worker>, call: &Call, session: &Arc<Session>, id: Option<IdSpan>) -> bool {
    let mut is_known = false;
    let mut former = session.former();
    former.retain(|former| former.endpoint.id != session.endpoint.id);
    for session in former.iter().chain([session]) {
        if let Some((place, edit)) = tagged(call, &session.endpoint, id) {
            let mut edits = vec![edit];
            // Of a task the answer says to which it belongs.
            if memmem::find(&call.body, b"related-task").is_some() {
                let ids = TaskIds::new(worker, &call.identity, Some(session), &session.endpoint);
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
async fn tell(worker: &Rc<Worker>, call: &Call, session: &Session, place: usize, edits: &[(Span, Bytes)]) {
    let Some(ready) = session.upstream_session(place).ready() else { return };
    let server = &session.endpoint.servers[place];
    match timeout(TELL_TIMEOUT, deliver(worker, call, &ready, server, edits)).await {
        Ok(Ok(_taken)) => {}
        Ok(Err(fault)) => drop(worker.note_fault(&fault)),
        Err(_elapsed) => {
            tracing::warn!(server = %server.name, "a message without an answer was not taken in time");
        }
    }
}

/// Sends the message to one server within its session.
async fn deliver(
    worker: &Rc<Worker>,
    call: &Call,
    ready: &UpstreamSession,
    server: &RoutedServer,
    edits: &[(Span, Bytes)],
) -> Result<Box<UpstreamResponse>, Fault> {
    let mut request = send::request_of(call, edits)?;
    call.fields.copy_to(&mut request, None);
    ready.write_headers(&mut request);
    send::send(worker, server, &request, RequestKind::Call).await
}

/// To the endpoint's `place`-th server, in the client's session there, which is opened when it is not, and
/// once more when the server lost it: a server that does not know the session did not run the call.
async fn forward(
    worker: &Rc<Worker>,
    call: Box<Call>,
    session: Arc<Session>,
    (place, rename): Target,
) -> Result<Reply, Fault> {
    let edit = target::edit(rename.as_ref());
    let (delivered, in_flight, meter) = {
        let asking = pin!(ask_server(worker, &call, &session, place, edit.as_slice()));
        // Behind it, so that both are dropped before it: a server that sees its call given up must not find the
        // call's id still taken.
        let in_flight = call.is_request().then(|| begin(&session, &call, place)).transpose()?;
        let view = View::Legacy(session.seal.capabilities);
        let server = &call.endpoint.servers[place];
        let original_name = target::counted(rename.as_ref());
        let mut meter = Meter::begin(worker, &call, server, original_name, view);
        let delivered = asking.await.map_err(|fault| send::failed(meter.as_mut(), fault))?;
        (delivered, in_flight, meter)
    };
    let response = match delivered {
        Delivered::Answered(response) => response,
        Delivered::Refused(status, said) => {
            let passed = send::pass_refusal(worker, &call.endpoint.servers[place].name, status, said);
            let kind = passed.as_ref().err().map(|fault| fault.kind);
            if let Some(mut meter) = meter {
                meter.fail(kind);
            }
            return passed;
        }
    };
    let id = call.is_request().then(|| call.id());
    let endpoint = Arc::clone(&call.endpoint);
    let tasks = match endpoint.shape {
        EndpointShape::Single => None,
        EndpointShape::Aggregate(_) => tasks::legacy(worker, &call, &session, place).map(Box::new),
    };
    let held = Held { _in_flight: in_flight, meter, tasks, ..Held::new(call.permit, call.identity) };
    let relayed = send::pass(worker, &endpoint.servers[place], endpoint.shape, id, response, held).await?;
    let relay = match relayed {
        Relayed::Reply(reply) => return Ok(reply),
        Relayed::Events(relay) => relay,
    };
    let streams = worker.shared.streams.as_ref().filter(|_| !call.is_part);
    let Some(streams) = streams else { return Ok(relay.into_reply()) };
    let id = call.envelope.id.map(|id| Bytes::copy_from_slice(id.span.slice(&call.body)));
    Ok(match id.zip(resumes(&call.fields, &session)) {
        Some((id, resumes)) => Keeping { id, session, place, resumes }.keep(worker, streams, relay),
        None => relay.into_reply(),
    })
}

/// Notes a call, under an id that no other call of the session has at the time.
fn begin(session: &Arc<Session>, call: &Call, place: usize) -> Result<CallGuard, Fault> {
    session.begin_call(Bytes::copy_from_slice(&call.id()), place).ok_or_else(|| {
        Fault::client(
            FaultKind::InvalidRequest,
            "this id is in use by a call under way, or there are too many",
        )
    })
}

/// The client's session at one server, opened when it is not.
async fn open(
    worker: &Rc<Worker>,
    call: &Call,
    session: &Session,
    place: usize,
) -> Result<Arc<UpstreamSession>, Fault> {
    let upstream_session = session.upstream_session(place);
    if let Some(ready) = upstream_session.ready() {
        return Ok(ready);
    }
    let pool = worker.pool(&call.endpoint.servers[place])?;
    let ready = upstream_session.open(&pool, &session.introduction, session.log_level()).await?;
    session.notify_stream();
    if session.has_stream() {
        // Some servers ask the client something on their event stream as soon as the session is open, and
        // do not ask again when nobody listens.
        let _ = timeout(STREAM_SETTLE_TIMEOUT, ready.wait_stream_settled()).await;
    }
    Ok(ready)
}

/// What a server made of a message.
enum Delivered {
    Answered(Box<UpstreamResponse>),
    /// 400 or 404, with its body; not for a lost session.
    Refused(StatusCode, Bytes),
}

/// Delivers a message in the client's session at a server, opened when it is not, and once more when the
/// server lost it: a server that does not know the session did not run the call.
async fn ask_server(
    worker: &Rc<Worker>,
    call: &Call,
    session: &Session,
    place: usize,
    edits: &[(Span, Bytes)],
) -> Result<Delivered, Fault> {
    let ready = open(worker, call, session, place).await?;
    let response = deliver(worker, call, &ready, &call.endpoint.servers[place], edits).await?;
    let may_be_lost = matches!(response.head.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST);
    if !may_be_lost || ready.session_id.is_none() {
        return Ok(Delivered::Answered(response));
    }
    let server = &call.endpoint.servers[place].name;
    let status = response.head.status;
    // Read to its end, so that its place among the server's calls is free for what follows.
    let said = { response.body }.collect(send::ERROR_BYTES_MAX).await;
    let said = said.map_err(|error| error.into_fault(server))?;
    if !is_session_lost(&worker.pool(&call.endpoint.servers[place])?, &ready, status).await {
        return Ok(Delivered::Refused(status, said));
    }
    tracing::info!(%server, "the server lost its session; opening another");
    session.upstream_session(place).forget(&ready);
    let ready = open(worker, call, session, place).await?;
    let response = deliver(worker, call, &ready, &call.endpoint.servers[place], edits).await?;
    Ok(Delivered::Answered(response))
}

/// Ends a session, here and at every server.
pub fn end(worker: &Rc<Worker>, session: &Arc<Session>) {
    worker.shared.sessions.end(session);
    worker.farewells.add(session.detached_upstream_sessions(), &worker.pools());
}
