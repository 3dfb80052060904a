//! What the gateway answers itself for an endpoint with several servers, and where it sends the rest.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde_json::json;
use tokio::time::timeout;

use super::call::{Call, NAME_CHARS_MAX, unknown_tool};
use super::meter::Meter;
use super::reply::{self, Reply};
use super::tasks;
use super::worker::Worker;
use crate::base::{Fault, Kind, Origin, ServerName};
use crate::catalog::{ListKind, Merged, Missing, NAME_BYTES_MAX, Reason, View};
use crate::frame::{Span, Text, encode_header, json_string};
use crate::journal::usage::OTHER;
use crate::protocol::{Era, Method};
use crate::route::{Destination, Endpoint, OwnName, Place, Shape};
use crate::telemetry::metrics::Outcome;
use crate::upstream::ChangedTools;

/// A place in the endpoint, and what is to be replaced in the message.
pub type Target = (usize, Option<Rename>);

/// Where in the message a name stands, and what the server calls it.
pub type Rename = (Span, Arc<OwnName>);

/// What a call is counted as at its server: a name that nobody listed yet is the client's own invention, and such
/// names are counted as one, or there would be no end of them.
pub fn counted(rename: Option<&Rename>) -> Option<&str> {
    rename.map(|(_, own_name)| if own_name.is_listed { own_name.text.as_str() } else { OTHER })
}

/// The edit of the message that renames.
pub fn edit(rename: Option<&Rename>) -> Option<(Span, Bytes)> {
    rename.map(|(span, own_name)| (*span, own_name.json.clone()))
}

/// One page of a list, from the catalog.
pub async fn list(worker: &Rc<Worker>, call: &Call, view: View, kind: ListKind) -> Result<Reply, Fault> {
    let merged = worker.shared.catalog.merged(&call.endpoint, view).await;
    all_of_other_era(&merged)?;
    let cursor = call.text(call.envelope.params.cursor);
    let listing = merged.listing(kind);
    let page = if call.lists_in_part() {
        let may = |tool: &str| call.identity.may(&call.endpoint.scope, tool);
        listing.result_of(kind, cursor.as_deref(), may)
    } else {
        listing.result(kind, cursor.as_deref())
    };
    let page = page.ok_or_else(|| {
        Fault::client(
            Kind::InvalidParams,
            "this cursor is not one of this list; begin again without a cursor",
        )
    })?;
    Ok(reply::result(&call.id(), page))
}

/// `server/discover`.
pub async fn discover(worker: &Rc<Worker>, call: &Call) -> Result<Reply, Fault> {
    let merged = worker.shared.catalog.merged(&call.endpoint, View::Modern).await;
    // By now each was asked which eras it speaks.
    let hides = |place: &Place| worker.pool(place).is_ok_and(|pool| pool.upstream().hides(Era::Modern));
    if call.endpoint.servers.iter().any(hides) {
        return Err(legacy_only());
    }
    Ok(reply::result(&call.id(), merged.discover_result()))
}

fn all_of_other_era(merged: &Merged) -> Result<(), Fault> {
    let none_else = !merged.missing.is_empty()
        && merged.missing.len() == merged.generations.len()
        && merged.missing.iter().all(|missing| missing.reason == Reason::OtherEra);
    if none_else { Err(legacy_only()) } else { Ok(()) }
}

#[cold]
fn legacy_only() -> Fault {
    Fault::client(
        Kind::OtherEra,
        "servers behind this endpoint speak only revisions up to 2025-11-25; open a session by `initialize`",
    )
}

/// The server that has the tool or prompt of that name, and its own name for it.
pub async fn named(worker: &Rc<Worker>, call: &Call, view: View, kind: ListKind) -> Result<Target, Fault> {
    let Some(text) = call.envelope.params.name else {
        return Err(Fault::client(Kind::MalformedParams, "params.name is missing"));
    };
    at_name(worker, call, view, kind, text).await
}

/// Likewise, for a name that stands anywhere in the message.
async fn at_name(
    worker: &Rc<Worker>,
    call: &Call,
    view: View,
    kind: ListKind,
    text: Text,
) -> Result<Target, Fault> {
    let name = text.decode(&call.body);
    // Looked for in what is known first: another server that is slow to list delays no call.
    let target = |merged: &Merged| -> Option<Target> {
        let Destination { place, own_name } = merged.listing(kind).names.find(&name)?;
        Some((*place as usize, own_name.clone().map(|own_name| (text.span, own_name))))
    };
    let catalog = &worker.shared.catalog;
    if let Some(target) = catalog.snapshot(&call.endpoint, view).as_deref().and_then(target) {
        return Ok(target);
    }
    // Whether the answer may name tasks of that server is told by its lists alone.
    let needs_list = view == View::Modern && kind == ListKind::Tools && tasks::declares(call);
    let unlisted =
        |merged: &Merged| if needs_list { None } else { unlisted(worker, call, merged, &name, kind) };
    // Of one whose lists are on their way they are waited for, as they may come in no time.
    let mut merged = catalog.merged_until(&call.endpoint, view, |merged| target(merged).is_some()).await;
    let may_come = target(&merged).is_none() && unlisted(&merged).is_none();
    if may_come && merged.missing.iter().any(|missing| may_have(&call.endpoint, missing.place, &name, kind)) {
        merged = catalog.merged_patiently(&call.endpoint, view, |merged| target(merged).is_some()).await;
    }
    let found = target(&merged).or_else(|| {
        let (place, own_name) = unlisted(&merged)?;
        Some((place, own_name.map(|own_name| (text.span, own_name))))
    });
    found.ok_or_else(|| not_found(call, &merged, &name, kind))
}

/// Whether a call that passes to the one server of its endpoint may, where only what was approved may be called: its lists
/// pass as they are, so the catalog's own tell.
pub async fn check_approved(worker: &Rc<Worker>, call: &Call, view: View) -> Result<(), Fault> {
    if call.method != Some(Method::ToolsCall) {
        return Ok(());
    }
    if !is_vetted(worker, &call.endpoint.servers[0]) {
        return Ok(());
    }
    named(worker, call, view, ListKind::Tools).await.map(drop)
}

/// Whether only what was approved of its tools may be called. One that is gone answers nothing.
fn is_vetted(worker: &Worker, place: &Place) -> bool {
    let pool = worker.pool(place);
    pool.is_ok_and(|pool| pool.upstream().config.changed_tools == ChangedTools::Quarantine)
}

/// What is held back is not called either.
#[cold]
fn not_approved(name: &str, why: &str) -> Fault {
    let text = format!(
        "tool `{}` is held back: {why} (`keyadm servers approve`, or POST /api/v1/mcp/servers/{{server}}/approve); the \
         call did not run",
        clip(name)
    );
    Fault::client(Kind::InvalidParams, text)
}

/// The one server that is not listed and would have the item of that name by configuration, filters included, and
/// its own name of it. Whether it has it, and whether it can be reached, it says itself when it is called: a program
/// that takes long to start is waited for as if it were called by its own path. Not of one whose tools are called only
/// as they were approved: the catalog tells which are.
fn unlisted(
    worker: &Worker,
    call: &Call,
    merged: &Merged,
    name: &str,
    kind: ListKind,
) -> Option<(usize, Option<Arc<OwnName>>)> {
    let endpoint = &call.endpoint;
    // What is longer is hidden from lists, and so led nowhere.
    let is_open = |place: usize| kind != ListKind::Tools || !is_vetted(worker, &endpoint.servers[place]);
    let away =
        merged.missing.iter().filter(|missing| missing.reason != Reason::OtherEra && is_open(missing.place));
    let mut own_names = away
        .filter(|_| name.len() <= NAME_BYTES_MAX)
        .filter_map(|missing| Some((missing.place, own_name(endpoint, missing.place, name, kind)?)));
    let (place, own) = own_names.next()?;
    if own_names.next().is_some() {
        // Which of them it is their lists tell.
        return None;
    }
    let own_name = OwnName {
        text: own.to_owned(),
        json: json_string(own),
        header: Bytes::from(encode_header(own).into_owned()),
        is_listed: false,
    };
    Some((place, (own != name).then(|| Arc::new(own_name))))
}

/// Whether configuration leaves it open that the server has an item of that name.
fn may_have(endpoint: &Endpoint, place: usize, name: &str, kind: ListKind) -> bool {
    let as_it_is = match kind {
        ListKind::Tools => endpoint.tool_name(place, name),
        _ => Some(endpoint.prompt_name(place, name)),
    };
    as_it_is.as_deref() == Some(name) || own_name(endpoint, place, name, kind).is_some()
}

fn own_name<'a>(endpoint: &'a Endpoint, place: usize, name: &'a str, kind: ListKind) -> Option<&'a str> {
    match kind {
        ListKind::Tools => endpoint.own_tool(place, name),
        _ => endpoint.own_prompt(place, name),
    }
}

/// A name that leads nowhere, or perhaps to a server that is away: not the same thing to the one who calls it.
#[cold]
fn not_found(call: &Call, merged: &Merged, name: &str, kind: ListKind) -> Fault {
    if kind == ListKind::Tools
        && let Some(why) = merged.held(name)
    {
        return not_approved(name, why);
    }
    let endpoint = &call.endpoint;
    let is_alone = endpoint.shape == Shape::Single;
    let is_away = |missing: &&Missing| is_alone || own_name(endpoint, missing.place, name, kind).is_some();
    if let Some(missing) = merged.missing.iter().find(is_away) {
        let (server, reason) = (&missing.server, missing.reason.text());
        let text = format!("server `{server}` is not available: {reason}; the call did not run");
        return Fault::upstream(Kind::Unreachable, text);
    }
    match kind {
        ListKind::Tools => unknown_tool(name),
        _ => Fault::client(Kind::InvalidParams, format!("Unknown prompt: {}", clip(name))),
    }
}

/// The servers that may have the resource of a request: one that lists it or a template for it, else all
/// that have resources, for a server may serve more than it lists. Never empty.
pub async fn resource_places(worker: &Rc<Worker>, call: &Call, view: View) -> Result<Vec<usize>, Fault> {
    let Some(text) = call.envelope.params.uri else {
        return Err(Fault::client(Kind::MalformedParams, "params.uri is missing"));
    };
    uri_places(worker, call, view, &text.decode(&call.body)).await
}

/// The one server that has the resource of a request; with several candidates it is not guessed.
pub async fn resource_place(worker: &Rc<Worker>, call: &Call, view: View) -> Result<usize, Fault> {
    let places = resource_places(worker, call, view).await?;
    let uri = call.text(call.envelope.params.uri).unwrap_or_default();
    only(&places).ok_or_else(|| no_resource(&uri))
}

async fn uri_places(worker: &Rc<Worker>, call: &Call, view: View, uri: &str) -> Result<Vec<usize>, Fault> {
    let catalog = &worker.shared.catalog;
    let known = catalog.snapshot(&call.endpoint, view).and_then(|merged| merged.resource(uri));
    if let Some(place) = known {
        return Ok(vec![place as usize]);
    }
    let is_listed = |merged: &Merged| merged.resource(uri).is_some();
    let merged = catalog.merged_until(&call.endpoint, view, is_listed).await;
    if let Some(place) = merged.resource(uri) {
        return Ok(vec![place as usize]);
    }
    let mut merged = merged;
    if merged.resource_servers().next().is_none() {
        // It may be of one that is slow to list, and there is nobody to ask meanwhile.
        merged = catalog.merged_patiently(&call.endpoint, view, is_listed).await;
        if let Some(place) = merged.resource(uri) {
            return Ok(vec![place as usize]);
        }
    }
    let candidates: Vec<usize> = merged.resource_servers().collect();
    if candidates.is_empty() { Err(no_resource(uri)) } else { Ok(candidates) }
}

fn only(places: &[usize]) -> Option<usize> {
    if let [place] = places { Some(*place) } else { None }
}

/// No server has it (MCP 2026-07-28, resources: -32602 with the URI).
#[cold]
pub fn no_resource(uri: &str) -> Fault {
    Fault::client(Kind::InvalidParams, "no server has this resource or a template for it")
        .with_data(json!({"uri": uri}).to_string())
}

/// Of several servers that may have a resource, one that does not answer keeps nobody from the next.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(5);

/// Several servers that are asked for a resource, one after the other. It is one call, counted where it ended.
pub struct Candidates<'a> {
    worker: &'a Worker,
    call: &'a Call,
    view: View,
    meter: Option<Meter>,
    /// What is said when nobody has it.
    last: Fault,
}

impl<'a> Candidates<'a> {
    /// Nobody is asked yet.
    pub fn new(worker: &'a Worker, call: &'a Call, view: View) -> Self {
        let last = no_resource(&call.text(call.envelope.params.uri).unwrap_or_default());
        Self { worker, call, view, meter: None, last }
    }

    /// Asks the next one: its answer, when it has the resource.
    pub async fn ask(
        &mut self,
        place: usize,
        asking: impl Future<Output = Result<Option<Bytes>, Fault>>,
    ) -> Option<Reply> {
        let server = &self.call.endpoint.servers[place];
        match &mut self.meter {
            Some(meter) => meter.pass_on_to(self.worker, self.call, server),
            meter => *meter = Meter::begin(self.worker, self.call, server, None, self.view),
        }
        match timeout(CANDIDATE_TIMEOUT, asking).await {
            Ok(Ok(Some(message))) => {
                if let Some(mut meter) = self.meter.take() {
                    meter.pass(message.len());
                    meter.end(Outcome::Answer);
                }
                return Some(reply::message(message));
            }
            Ok(Ok(None)) => {}
            Ok(Err(fault)) => self.last = fault,
            Err(_elapsed) => self.last = slow_candidate(&server.name),
        }
        None
    }

    /// Nobody has it.
    pub fn into_fault(mut self) -> Fault {
        let kind = (self.last.origin == Origin::Upstream).then_some(self.last.kind);
        self.meter.iter_mut().for_each(|meter| meter.fail(kind));
        self.last
    }
}

/// One of several servers was asked for a resource, and did not answer in time.
#[cold]
fn slow_candidate(server: &ServerName) -> Fault {
    Fault::upstream(
        Kind::TimedOut,
        format!("server `{server}` did not say in time whether it has this resource"),
    )
}

/// The server whose prompt or resource is to be completed.
pub async fn completion(worker: &Rc<Worker>, call: &Call, view: View) -> Result<Target, Fault> {
    let params = &call.envelope.params;
    if let Some(text) = params.ref_uri {
        let uri = text.decode(&call.body);
        let places = uri_places(worker, call, view, &uri).await?;
        return Ok((only(&places).ok_or_else(|| no_resource(&uri))?, None));
    }
    let Some(text) = params.ref_name else {
        return Err(Fault::client(Kind::MalformedParams, "params.ref needs a `name` or a `uri`"));
    };
    at_name(worker, call, view, ListKind::Prompts, text).await
}

fn clip(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}
