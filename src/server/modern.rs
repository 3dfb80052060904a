//! Requests of 2026-07-28: each stands alone, is checked against its headers, and passes.

use std::rc::Rc;

use serde_json::json;

use super::call::Call;
use super::fields::Field;
use super::local::{Candidates, Rename};
use super::meter::Meter;
use super::relay::Held;
use super::reply::{self, Reply};
use super::send::{self, held};
use super::tasks::{self, TaskIds};
use super::worker::Worker;
use super::{local, subscription};
use crate::base::{Fault, Kind};
use crate::catalog::{ListKind, View};
use crate::frame::{Kind as FrameKind, Text, decode_header};
use crate::protocol::{Era, Method, Revision};
use crate::route::Shape;
use crate::upstream::{Answered, Lane, UpstreamId};

/// Answers a message of the Modern era.
pub async fn answer(worker: &Rc<Worker>, call: Box<Call>) -> Result<Reply, Fault> {
    check(&call)?;
    call.check_grants()?;
    match call.endpoint.shape {
        Shape::Single if call.lists_in_part() && call.is_request() => {
            local::list(worker, &call, View::Modern, ListKind::Tools).await
        }
        Shape::Single => {
            local::check_approved(worker, &call, View::Modern).await?;
            forward(worker, call, 0, None).await
        }
        Shape::Aggregate(_) => aggregate(worker, call).await,
    }
}

/// On an endpoint with several servers.
async fn aggregate(worker: &Rc<Worker>, call: Box<Call>) -> Result<Reply, Fault> {
    if call.envelope.kind == FrameKind::Notification {
        // The only one of the era is a cancellation, which over HTTP is the closed connection.
        return Ok(reply::accepted());
    }
    match call.method {
        Some(Method::ToolsCall) => by_name(worker, call, ListKind::Tools).await,
        Some(Method::PromptsGet) => by_name(worker, call, ListKind::Prompts).await,
        Some(Method::ResourcesRead) => {
            let places = local::resource_places(worker, &call, View::Modern).await?;
            read(worker, call, &places).await
        }
        Some(Method::Complete) => {
            let (place, rename) = local::completion(worker, &call, View::Modern).await?;
            forward(worker, call, place, rename).await
        }
        Some(Method::Discover) => local::discover(worker, &call).await,
        Some(Method::Listen) => subscription::subscribe(worker, call),
        Some(Method::ToolsList) => local::list(worker, &call, View::Modern, ListKind::Tools).await,
        Some(Method::PromptsList) => local::list(worker, &call, View::Modern, ListKind::Prompts).await,
        Some(Method::ResourcesList) => local::list(worker, &call, View::Modern, ListKind::Resources).await,
        Some(Method::TemplatesList) => local::list(worker, &call, View::Modern, ListKind::Templates).await,
        None if call.is_task_request() && tasks::are_known(worker, &call, View::Modern) => {
            let ids = TaskIds::new(worker, &call.identity, None, &call.endpoint);
            let (place, rename) = ids.target(&call)?;
            forward(worker, call, place, rename).await
        }
        _ => {
            Err(Fault::client(Kind::UnknownMethod, "no server behind this endpoint is known for this method"))
        }
    }
}

async fn by_name(worker: &Rc<Worker>, call: Box<Call>, kind: ListKind) -> Result<Reply, Fault> {
    let (place, rename) = local::named(worker, &call, View::Modern, kind).await?;
    forward(worker, call, place, rename).await
}

/// From the first of the servers that has the resource.
async fn read(worker: &Rc<Worker>, call: Box<Call>, places: &[usize]) -> Result<Reply, Fault> {
    let [place] = places else {
        let mut candidates = Candidates::new(worker, &call, View::Modern);
        for place in places {
            let asking = async {
                let response = deliver(worker, &call, *place, None).await?;
                Ok(send::result_of(worker, response).await)
            };
            if let Some(reply) = candidates.ask(*place, asking).await {
                return Ok(reply);
            }
        }
        return Err(candidates.into_fault());
    };
    forward(worker, call, *place, None).await
}

/// To the endpoint's `place`-th server, with its own name for what is asked for.
async fn forward(
    worker: &Rc<Worker>,
    call: Box<Call>,
    place: usize,
    rename: Option<Rename>,
) -> Result<Reply, Fault> {
    let own_name = local::counted(rename.as_ref());
    let server = &call.endpoint.servers[place];
    let mut meter = Meter::begin(worker, &call, server, own_name, View::Modern);
    let response = match deliver(worker, &call, place, rename).await {
        Ok(response) => response,
        Err(fault) => return Err(send::failed(meter.as_mut(), fault)),
    };
    let endpoint = call.endpoint.clone();
    let server = &endpoint.servers[place];
    let id = call.envelope.id.map(|id| call.raw(id.span));
    // Every answer stands alone, so nothing in it is to be changed, from whichever server it comes, but the ids of tasks.
    let subscription = (call.method == Some(Method::Listen)).then_some(UpstreamId(server.upstream));
    let tasks = match endpoint.shape {
        Shape::Single => None,
        Shape::Aggregate(_) => tasks::modern(worker, &call, place).map(Box::new),
    };
    let shape = if tasks.is_some() { endpoint.shape } else { Shape::Single };
    let held = Held { meter, subscription, tasks, ..held(call.permit, call.identity) };
    send::pass(worker, server, shape, id, response, held).await
}

/// Sends the message, and waits for the head of its answer.
async fn deliver(
    worker: &Rc<Worker>,
    call: &Call,
    place: usize,
    rename: Option<Rename>,
) -> Result<Box<Answered>, Fault> {
    let server = &call.endpoint.servers[place];
    let edit = local::edit(rename.as_ref());
    let mut request = send::request_of(call, edit.as_slice())?;
    request.set_owner(Some(call.identity.key_id()));
    request.set_era(Era::Modern);
    // `Mcp-Name` says the same as the body, also after the body was changed.
    call.fields.copy_to(&mut request, rename.as_ref().map(|(_, own_name)| &own_name.header[..]));
    // A subscription may stay for days, and silent.
    let lane = if call.method == Some(Method::Listen) { Lane::Stream } else { Lane::Call };
    send::send(worker, server, &request, lane).await
}

/// What the era asks of every message and its headers (MCP 2026-07-28, transports and versioning).
fn check(call: &Call) -> Result<(), Fault> {
    if matches!(call.envelope.kind, FrameKind::Response | FrameKind::Error) {
        return Err(Fault::client(Kind::InvalidRequest, "in this revision a client sends no responses"));
    }
    check_version(call)?;
    if !call.is_request() {
        return Ok(());
    }
    let meta = &call.envelope.params.meta;
    if meta.protocol_version.is_none() || !meta.client_capabilities_is_object {
        return Err(Fault::client(
            Kind::MalformedParams,
            "params._meta needs `io.modelcontextprotocol/protocolVersion` and \
             `io.modelcontextprotocol/clientCapabilities`",
        ));
    }
    let says = |field, text: Option<Text>| {
        let said = call.fields.get(field).filter(|said| said.is_ascii() && !call.fields.is_doubled(field));
        said.zip(text)
    };
    if !says(Field::McpMethod, call.envelope.method).is_some_and(|(said, text)| text.reads(&call.body, said))
    {
        return Err(mismatch("send Mcp-Method once, with the method of the body"));
    }
    if let Some(named) = named_by_header(call) {
        let agrees = says(Field::McpName, Some(named)).is_some_and(|(said, text)| {
            // Nearly every name is written as it is.
            let literal = !said.starts_with(b"=") && text.reads(&call.body, said);
            literal || decode_header(said).is_ok_and(|said| text.reads(&call.body, said.as_bytes()))
        });
        if !agrees {
            return Err(mismatch("send Mcp-Name once, with the name or URI of the body"));
        }
    }
    Ok(())
}

/// What `Mcp-Name` mirrors, for the methods that have it.
pub fn named_by_header(call: &Call) -> Option<Text> {
    let params = &call.envelope.params;
    match call.method {
        Some(Method::ToolsCall | Method::PromptsGet) => params.name,
        Some(Method::ResourcesRead) => params.uri,
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
    let Some(asked) = call.fields.get(Field::McpProtocolVersion) else {
        return Err(mismatch("send MCP-Protocol-Version with every request"));
    };
    let in_body = call.envelope.params.meta.protocol_version;
    if in_body.is_some_and(|in_body| !in_body.reads(&call.body, asked)) {
        return Err(mismatch("MCP-Protocol-Version is not what params._meta says"));
    }
    if Revision::parse(asked).is_some_and(|revision| revision.era() == Era::Modern) {
        return Ok(());
    }
    let asked = call.fields.text(Field::McpProtocolVersion).unwrap_or_default();
    let data = json!({"supported": [Revision::MODERN_LATEST.as_str()], "requested": asked});
    Err(Fault::client(Kind::UnsupportedVersion, "this protocol version is not supported")
        .with_data(data.to_string()))
}

#[cold]
fn mismatch(text: &'static str) -> Fault {
    Fault::client(Kind::HeaderMismatch, text)
}
