//! Requests of revision 2026-07-28. Each stands alone, and is checked against its headers before it is
//! forwarded.

use std::rc::Rc;

use serde_json::json;

use crate::catalog::View;
use crate::route::EndpointShape;
use crate::server::http1::fields::Field;
use crate::server::mcp::call::Call;
use crate::server::mcp::call_credential::CallCredential;
use crate::server::mcp::candidates::Candidates;
use crate::server::mcp::dispatch::{Dispatch, dispatch};
use crate::server::mcp::meter::Meter;
use crate::server::mcp::relay::RequestResources;
use crate::server::mcp::target::{self, Rename, Target};
use crate::server::mcp::{local, send, tasks};
use crate::server::reply::reply::{self, Reply};
use crate::server::streams::subscription;
use crate::server::worker::Worker;
use crate::server::worker::credential_cache::refused;
use crate::upstream::UpstreamId;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{MessageKind as FrameKind, StringSpan, decode_header_value};
use metamcp_core::protocol::{Era, McpMethod, Revision};
use metamcp_http::{RequestKind, UpstreamResponse};

/// Answers a message of the Modern era.
pub async fn answer(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<Reply, Fault> {
    check(&call)?;
    call.check_grants()?;
    if call.method == Some(McpMethod::Listen) {
        let stream = call.permit.take().map(|permit| permit.into_event_stream(&call.identity));
        call.permit = stream.transpose().map_err(refused)?;
    }
    if call.endpoint.shape != EndpointShape::Single {
        if call.envelope.kind == FrameKind::Notification {
            // The only notification of this era is a cancellation, which over HTTP is the closed connection.
            return Ok(reply::accepted());
        }
        match call.method {
            Some(McpMethod::Discover) => {
                return local::discover(&worker.shared.catalog, &worker.topology, &call).await;
            }
            Some(McpMethod::Listen) => return subscription::subscribe(worker, call),
            _ => {}
        }
    }
    match dispatch(worker, &call, View::Modern, None).await? {
        Dispatch::Forward(target) => forward(worker, call, target).await,
        Dispatch::TryInTurn(places) => try_in_turn(worker, &call, &places).await,
        Dispatch::List(kind) => local::list(&worker.shared.catalog, &call, View::Modern, kind).await,
    }
}

/// Answers from the first server that has the resource.
async fn try_in_turn(worker: &Rc<Worker>, call: &Call, places: &[usize]) -> Result<Reply, Fault> {
    let mut candidates = Candidates::new(worker, call, View::Modern);
    for place in places {
        let asking = async {
            let response = deliver(worker, call, *place, None).await?;
            Ok(send::read_result(&worker.scanner, response).await)
        };
        if let Some(reply) = candidates.ask(*place, asking).await? {
            return Ok(reply);
        }
    }
    Err(candidates.into_fault())
}

/// Forwards a message to the server at index `place`, with the server's own name for the requested item.
async fn forward(worker: &Rc<Worker>, call: Box<Call>, (place, rename): Target) -> Result<Reply, Fault> {
    let server = &call.endpoint.servers[place];
    let mut meter = Meter::begin(worker, &call, server, rename.as_ref(), View::Modern)?;
    let response = match deliver(worker, &call, place, rename).await {
        Ok(response) => response,
        Err(fault) => return Err(send::failed(meter.as_mut(), fault)),
    };
    let endpoint = call.endpoint.clone();
    let server = &endpoint.servers[place];
    let id = call.envelope.id.map(|id| call.raw(id.span));
    // Every answer stands alone, so nothing in it needs a change, whichever server it comes from, except task
    // ids.
    let subscription = (call.method == Some(McpMethod::Listen)).then_some(UpstreamId(server.upstream));
    let tasks = match endpoint.shape {
        EndpointShape::Single => None,
        EndpointShape::Aggregate(_) => {
            tasks::modern(&worker.shared.catalog, worker.shared.auth.sealer(), &call, place).map(Box::new)
        }
    };
    let shape = if tasks.is_some() { endpoint.shape } else { EndpointShape::Single };
    let resources =
        RequestResources { meter, subscription, tasks, ..RequestResources::new(call.permit, call.identity) };
    Ok(send::relay(worker, server, shape, id, response, resources).await?.into_reply())
}

/// Sends the message and waits for the head of the response.
async fn deliver(
    worker: &Rc<Worker>,
    call: &Call,
    place: usize,
    rename: Option<Rename>,
) -> Result<Box<UpstreamResponse>, Fault> {
    let server = &call.endpoint.servers[place];
    let edit = target::edit(rename.as_ref());
    let mut request = send::request_of(call, edit.as_slice())?;
    request.set_owner(Some(call.identity.key_id()));
    request.set_era(Era::Modern);
    // `Mcp-Name` must agree with the body, also after the body was changed.
    call.fields.copy_to(&mut request, rename.as_ref().map(|(_, original_name)| &original_name.header[..]));
    // A subscription may stay open, and silent, for days.
    let lane = if call.method == Some(McpMethod::Listen) { RequestKind::Stream } else { RequestKind::Call };
    let pool = worker.topology.pool(server)?;
    if pool.has_adapter(Era::Modern) {
        // The adapter may hold the call after its response, which no body ends then.
        request.set_credential(CallCredential::new(&worker.shared, &call.identity));
    }
    send::send(server, &pool, &request, lane).await
}

/// Checks what the era requires of every message and its headers (MCP 2026-07-28, transports and versioning).
fn check(call: &Call) -> Result<(), Fault> {
    if matches!(call.envelope.kind, FrameKind::Response | FrameKind::Error) {
        return Err(Fault::client(FaultKind::InvalidRequest, "in this revision a client sends no responses"));
    }
    check_version(call)?;
    if !call.is_request() {
        return Ok(());
    }
    let meta = &call.envelope.params.meta;
    if meta.protocol_version.is_none() || !meta.client_capabilities_is_object {
        return Err(Fault::client(
            FaultKind::MalformedParams,
            "params._meta needs `io.modelcontextprotocol/protocolVersion` and \
             `io.modelcontextprotocol/clientCapabilities`",
        ));
    }
    let says = |field, text: Option<StringSpan>| {
        let value = call.fields.get(field).filter(|value| value.is_ascii() && !call.fields.is_doubled(field));
        value.zip(text)
    };
    if !says(Field::McpMethod, call.envelope.method)
        .is_some_and(|(value, text)| text.equals(&call.body, value))
    {
        return Err(mismatch("send Mcp-Method once, with the method of the body"));
    }
    if let Some(named) = named_by_header(call) {
        let agrees = says(Field::McpName, Some(named)).is_some_and(|(value, text)| {
            // Nearly every name is written without encoding.
            let literal = !value.starts_with(b"=") && text.equals(&call.body, value);
            literal || decode_header_value(value).is_ok_and(|value| text.equals(&call.body, value.as_bytes()))
        });
        if !agrees {
            return Err(mismatch("send Mcp-Name once, with the name or URI of the body"));
        }
    }
    Ok(())
}

/// The value that `Mcp-Name` repeats, for the methods that have one.
pub fn named_by_header(call: &Call) -> Option<StringSpan> {
    let params = &call.envelope.params;
    match call.method {
        Some(McpMethod::ToolsCall | McpMethod::PromptsGet) => params.name,
        Some(McpMethod::ResourcesRead) => params.uri,
        Some(_) => None,
        None => {
            let method = call.text(call.envelope.method).unwrap_or_default();
            method.starts_with("tasks/").then_some(params.task_id).flatten()
        }
    }
}

fn check_version(call: &Call) -> Result<(), Fault> {
    if call.fields.is_doubled(Field::McpProtocolVersion) {
        return Err(mismatch("send MCP-Protocol-Version once"));
    }
    let Some(requested) = call.fields.get(Field::McpProtocolVersion) else {
        return Err(mismatch("send MCP-Protocol-Version with every request"));
    };
    let in_body = call.envelope.params.meta.protocol_version;
    if in_body.is_some_and(|in_body| !in_body.equals(&call.body, requested)) {
        return Err(mismatch("MCP-Protocol-Version is not what params._meta says"));
    }
    if Revision::parse(requested).is_some_and(|revision| revision.era() == Era::Modern) {
        return Ok(());
    }
    let requested = call.fields.text(Field::McpProtocolVersion).unwrap_or_default();
    let data = json!({"supported": [Revision::MODERN_LATEST.as_str()], "requested": requested});
    Err(Fault::client(FaultKind::UnsupportedVersion, "this protocol version is not supported")
        .with_data(data.to_string()))
}

#[cold]
fn mismatch(text: &'static str) -> Fault {
    Fault::client(FaultKind::HeaderMismatch, text)
}
