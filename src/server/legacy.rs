//! Messages of the revisions up to 2025-11-25, within a session of the client's.

use std::pin::pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use memchr::memmem;
use tokio::time::timeout;

use super::call::Call;
use super::fields::Field;
use super::kept::{Keeping, resumes};
use super::local::{self, Candidates};
use super::meter::Meter;
use super::relay::Held;
use super::reply::{self, Reply};
use super::send;
use super::tag;
use super::task_list;
use super::tasks::{self, TaskIds};
use super::worker::Worker;
use crate::base::{Fault, Kind};
use crate::catalog::{ListKind, View};
use crate::frame::{Id, Kind as FrameKind, Span};
use crate::protocol::{ClientCapabilities, Era, Method, Revision, header};
use crate::route::{Endpoint, Place, Shape};
use crate::session::{Ask, Full, InFlight, Introduction, Ready, Said, Session, ask, is_lost};
use crate::upstream::{Answered, Lane};

/// What a client says of itself is kept for its session; real ones have some 200 bytes.
const INTRODUCTION_BYTES_MAX: usize = 16 << 10;

/// The client waits for its servers to take what has no answer of theirs, one after the other.
const TELL_TIMEOUT: Duration = Duration::from_secs(2);

/// For a server that has an event stream and does not say so until it has an event.
const STREAM_SETTLE_TIMEOUT: Duration = Duration::from_millis(500);

/// Answers a message of the Legacy era.
pub async fn answer(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<Reply, Fault> {
    if call.method == Some(Method::Initialize) && call.is_request() {
        return initialize(worker, &call).await;
    }
    let session = worker.session(&call.fields, &call.identity, &call.endpoint)?;
    if session.endpoint.id != call.endpoint.id {
        // The endpoint changed after the head of this request came; places are those of the session.
        call.endpoint = Arc::clone(&session.endpoint);
    }
    check_version(&call)?;
    call.check_grants()?;
    if call.method == Some(Method::Cancelled) {
        return cancelled(worker, call, session).await;
    }
    dispatch(worker, call, session).await
}

/// Likewise, when its sender and session are known.
async fn dispatch(worker: &Rc<Worker>, call: Box<Call>, session: Arc<Session>) -> Result<Reply, Fault> {
    match call.endpoint.shape {
        Shape::Single if call.lists_in_part() && call.is_request() => {
            let view = View::Legacy(session.seal.capabilities);
            local::list(worker, &call, view, ListKind::Tools).await
        }
        Shape::Single => {
            let view = View::Legacy(session.seal.capabilities);
            local::check_approved(worker, &call, view).await.map_err(answered)?;
            forward(worker, call, session, (0, None)).await
        }
        Shape::Aggregate(_) => aggregate(worker, call, session).await.map_err(answered),
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
    if fault.kind == Kind::MalformedParams {
        fault.kind = Kind::InvalidParams;
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
            Kind::InvalidRequest,
            "MCP-Protocol-Version is not a revision that sessions are spoken in; send the negotiated one",
        )),
    }
}

/// Opens a session.
async fn initialize(worker: &Rc<Worker>, call: &Call) -> Result<Reply, Fault> {
    let introduction = introduction(worker, call)?;
    let view = View::Legacy(introduction.said.capabilities);
    let sessions = &worker.shared.sessions;
    let create = |introduction| {
        let created = sessions.create(&call.identity, &call.endpoint, introduction, worker.now_s());
        created
            .map_err(|Full| Fault::gateway(Kind::Overloaded, "there are too many sessions; try again later"))
    };
    let (text, session, mut response) = match call.endpoint.shape {
        Shape::Single => {
            let (text, session) = create(introduction)?;
            let opening = async {
                let pool = worker.pool(&session.endpoint.servers[0])?;
                session.upstream_session(0).open_for_client(&pool, &session.introduction).await
            };
            let message = opening.await.inspect_err(|_| sessions.end(&session))?;
            (text, session, reply::result(&call.id(), result_of(&message)?))
        }
        Shape::Aggregate(_) => {
            let merged = worker.shared.catalog.merged(&call.endpoint, view).await;
            let result = merged.initialize_result(introduction.said.revision);
            let (text, session) = create(introduction)?;
            (text, session, reply::result(&call.id(), result))
        }
    };
    let text = Bytes::from(text);
    let value = HeaderValue::from_maybe_shared(text.clone())
        .map_err(|error| Fault::gateway(Kind::Internal, "no session id could be made").because(error))?;
    response.headers_mut().insert(header::SESSION_ID, value);
    // The client asks on at once, mostly on the same connection.
    worker.have_at_hand(text, &session);
    Ok(response)
}

/// The raw `result` of a upstream's answer to `initialize`.
fn result_of(message: &Bytes) -> Result<Bytes, Fault> {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        result: &'a serde_json::value::RawValue,
    }
    let answer: Answer<'_> = serde_json::from_slice(message)
        .map_err(|error| Fault::gateway(Kind::Internal, "the answer could not be read").because(error))?;
    Ok(message.slice_ref(answer.result.get().as_bytes()))
}

/// What the client says of itself. Off the usual path, so read with serde.
fn introduction(worker: &Worker, call: &Call) -> Result<Introduction, Fault> {
    #[derive(serde::Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        capabilities: &'a serde_json::value::RawValue,
    }
    let malformed = || {
        Fault::client(
            Kind::MalformedParams,
            "initialize needs params with protocolVersion, capabilities and clientInfo",
        )
    };
    let params = call.envelope.params.object.map(|span| call.raw(span)).ok_or_else(malformed)?;
    let owner = Some(call.identity.key_id());
    if let Some(said) = worker.shared.sessions.said(&params) {
        return Ok(Introduction { said, owner, is_apart: false });
    }
    if params.len() > INTRODUCTION_BYTES_MAX {
        return Err(Fault::client(Kind::MalformedParams, "the params of initialize are over 16 KiB"));
    }
    let asked = call.text(call.envelope.params.protocol_version).ok_or_else(malformed)?;
    let read: Params<'_> = serde_json::from_slice(&params).map_err(|_| malformed())?;
    let capabilities =
        ClientCapabilities::from_json(read.capabilities.get().as_bytes()).map_err(|_| malformed())?;
    let revision = Revision::parse(asked.as_bytes())
        .filter(|revision| revision.era() == Era::Legacy)
        .unwrap_or(Revision::LEGACY_LATEST);
    // A copy: a slice would keep the whole request for as long as the session.
    let params = Bytes::copy_from_slice(&params);
    let said = Arc::new(Said { revision, capabilities, params });
    Ok(Introduction { said, owner, is_apart: false })
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
        Some(Method::ToolsCall) => local::named(worker, &call, view, ListKind::Tools).await?,
        Some(Method::PromptsGet) => local::named(worker, &call, view, ListKind::Prompts).await?,
        Some(Method::ResourcesRead) => {
            let places = local::resource_places(worker, &call, view).await?;
            return read(worker, call, session, &places).await;
        }
        Some(Method::Subscribe | Method::Unsubscribe) => {
            (local::resource_place(worker, &call, view).await?, None)
        }
        Some(Method::Complete) => local::completion(worker, &call, view).await?,
        Some(Method::ToolsList) => return local::list(worker, &call, view, ListKind::Tools).await,
        Some(Method::PromptsList) => return local::list(worker, &call, view, ListKind::Prompts).await,
        Some(Method::ResourcesList) => return local::list(worker, &call, view, ListKind::Resources).await,
        Some(Method::TemplatesList) => return local::list(worker, &call, view, ListKind::Templates).await,
        Some(Method::Ping) => return Ok(reply::result(&call.id(), Bytes::from_static(b"{}"))),
        Some(Method::SetLevel) => return set_level(worker, &call, &session).await,
        Some(Method::TasksList) if tasks::are_known(worker, &call, view) => {
            return task_list::list(worker, &call, &session).await;
        }
        None if call.is_task_request() && tasks::are_known(worker, &call, view) => {
            TaskIds::new(worker, &call.identity, Some(&session), &call.endpoint).target(&call)?
        }
        _ => {
            return Err(Fault::client(
                Kind::UnknownMethodInSession,
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
        .ok_or_else(|| Fault::client(Kind::MalformedParams, "params.level is missing"))?;
    session.remember_log_level(Bytes::copy_from_slice(level.span.of(&call.body)));
    for (place, upstream_session) in session.upstream_sessions() {
        let Some(ready) = upstream_session.ready().filter(|ready| ready.features.logging) else { continue };
        let server = &call.endpoint.servers[place];
        let asked =
            Ask { method: Method::SetLevel, message: call.body.clone(), ready: Some(&ready), modern: None };
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
        Some(Method::Cancelled) => {
            let holder = params.request_id.and_then(|id| session.holder(id.span.of(&call.body)));
            if let Some((session, place)) = holder {
                tell(worker, &call, &session, place, &[]).await;
            }
            Vec::new()
        }
        Some(Method::Progress) => {
            tell_tagged(worker, &call, &session, params.progress_token).await;
            Vec::new()
        }
        Some(Method::RootsListChanged) => {
            let open = session
                .upstream_sessions()
                .filter(|(_, upstream_session)| upstream_session.ready().is_some());
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
        return Err(Fault::client(Kind::InvalidRequest, "this response answers no request of a server"));
    }
    // Also where nobody waits for it any more: it was accepted, as a message of its form has to be (MCP 2025-11-25,
    // Streamable HTTP, "202 Accepted with no body"). A client that is told an error by the transport there ends its
    // session, for a question that was taken back while its user thought about it.
    Ok(reply::accepted())
}

/// Tells the server that a tagged id names; false when it names none. A server that was changed or removed while a call
/// is under way there may have asked as well: it is told too, and one of the two does not know the id.
async fn tell_tagged(worker: &Rc<Worker>, call: &Call, session: &Arc<Session>, id: Option<Id>) -> bool {
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
fn tagged(call: &Call, endpoint: &Endpoint, id: Option<Id>) -> Option<(usize, (Span, Bytes))> {
    let id = id?;
    let text: String = serde_json::from_slice(id.span.of(&call.body)).ok()?;
    let (place, raw) = tag::untag(endpoint, &text)?;
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
    ready: &Ready,
    server: &Place,
    edits: &[(Span, Bytes)],
) -> Result<Box<Answered>, Fault> {
    let mut request = send::request_of(call, edits)?;
    call.fields.copy_to(&mut request, None);
    ready.write_headers(&mut request);
    send::send(worker, server, &request, Lane::Call).await
}

/// To the endpoint's `place`-th server, in the client's session there, which is opened when it is not, and
/// once more when the server lost it: a server that does not know the session did not run the call.
async fn forward(
    worker: &Rc<Worker>,
    call: Box<Call>,
    session: Arc<Session>,
    (place, rename): local::Target,
) -> Result<Reply, Fault> {
    let edit = local::edit(rename.as_ref());
    let (delivered, in_flight, meter) = {
        let asking = pin!(ask_server(worker, &call, &session, place, edit.as_slice()));
        // Behind it, so that both are dropped before it: a server that sees its call given up must not find the
        // call's id still taken.
        let in_flight = call.is_request().then(|| begin(&session, &call, place)).transpose()?;
        let view = View::Legacy(session.seal.capabilities);
        let server = &call.endpoint.servers[place];
        let own_name = local::counted(rename.as_ref());
        let mut meter = Meter::begin(worker, &call, server, own_name, view);
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
        Shape::Single => None,
        Shape::Aggregate(_) => tasks::legacy(worker, &call, &session, place).map(Box::new),
    };
    let held = Held { in_flight, meter, tasks, ..send::held(call.permit, call.identity) };
    let reply = send::pass(worker, &endpoint.servers[place], endpoint.shape, id, response, held).await?;
    let streams = worker.shared.streams.as_ref().filter(|_| reply.body.is_events() && !call.is_part);
    let Some(streams) = streams else { return Ok(reply) };
    let id = call.envelope.id.map(|id| Bytes::copy_from_slice(id.span.of(&call.body)));
    Ok(match id.zip(resumes(&call.fields, &session)) {
        Some((id, resumes)) => Keeping { id, session, place, resumes }.keep(worker, streams, reply),
        None => reply,
    })
}

/// Notes a call, under an id that no other call of the session has at the time.
fn begin(session: &Arc<Session>, call: &Call, place: usize) -> Result<InFlight, Fault> {
    session.begin_call(Bytes::copy_from_slice(&call.id()), place).ok_or_else(|| {
        Fault::client(Kind::InvalidRequest, "this id is in use by a call under way, or there are too many")
    })
}

/// The client's session at one server, opened when it is not.
async fn open(
    worker: &Rc<Worker>,
    call: &Call,
    session: &Session,
    place: usize,
) -> Result<Arc<Ready>, Fault> {
    let upstream_session = session.upstream_session(place);
    if let Some(ready) = upstream_session.ready() {
        return Ok(ready);
    }
    let pool = worker.pool(&call.endpoint.servers[place])?;
    let ready = upstream_session.open(&pool, &session.introduction, session.log_level()).await?;
    session.touch_stream();
    if session.has_stream() {
        // Some servers ask the client something on their event stream as soon as the session is open, and
        // do not ask again when nobody listens.
        let _ = timeout(STREAM_SETTLE_TIMEOUT, ready.stream_settled()).await;
    }
    Ok(ready)
}

/// What a server made of a message.
enum Delivered {
    Answered(Box<Answered>),
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
    if !is_lost(&worker.pool(&call.endpoint.servers[place])?, &ready, status).await {
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
    worker.farewells.add(session.leftovers(), &worker.pools());
}
