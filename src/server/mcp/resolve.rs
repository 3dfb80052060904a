//! Which server of an endpoint a message goes to, by what it names: a tool, a prompt or a resource.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::call::{Call, NAME_CHARS_MAX, unknown_tool};
use super::target::Target;
use super::tasks;
use crate::catalog::{Catalog, ListKind, MergedLists, MissingServer, NAME_BYTES_MAX, MissingReason, View};
use crate::route::{Destination, Endpoint, EndpointShape, OriginalName, RoutedServer};
use crate::server::worker::TopologyFollower;
use crate::upstream::ToolPinPolicy;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{StringSpan, encode_header_value, json_string};
use metamcp_core::protocol::McpMethod;

/// Finds the servers for one call.
#[derive(Clone, Copy)]
pub struct Resolver<'a> {
    /// Tells which server lists what.
    pub catalog: &'a Catalog,
    /// Tells how a server is configured.
    pub topology: &'a TopologyFollower,
    /// What is asked.
    pub call: &'a Call,
    /// In whose eyes.
    pub view: View,
}

impl Resolver<'_> {
    /// The server that has the tool or prompt of that name, and its own name for it.
    pub async fn named(&self, kind: ListKind) -> Result<Target, Fault> {
        let Some(text) = self.call.envelope.params.name else {
            return Err(Fault::client(FaultKind::MalformedParams, "params.name is missing"));
        };
        self.at_name(kind, text).await
    }

    /// Likewise, for a name that stands anywhere in the message.
    async fn at_name(&self, kind: ListKind, text: StringSpan) -> Result<Target, Fault> {
        let name = text.decode(&self.call.body);
        // Looked for in what is known first: another server that is slow to list delays no call.
        let target = |merged: &MergedLists| -> Option<Target> {
            let Destination { server_index: place, original_name } =
                merged.listing(kind).names.find(&name)?;
            Some((*place as usize, original_name.clone().map(|original_name| (text.span, original_name))))
        };
        let catalog = self.catalog;
        if let Some(target) = catalog.snapshot(&self.call.endpoint, self.view).as_deref().and_then(target) {
            return Ok(target);
        }
        // Whether the answer may name tasks of that server is told by its lists alone.
        let needs_list = self.view == View::Modern && kind == ListKind::Tools && tasks::declares(self.call);
        let unlisted = |merged: &MergedLists| if needs_list { None } else { self.unlisted(merged, &name, kind) };
        // Of one whose lists are on their way they are waited for, as they may come in no time.
        let mut merged =
            catalog.lists_until(&self.call.endpoint, self.view, |merged| target(merged).is_some()).await;
        let may_come = target(&merged).is_none() && unlisted(&merged).is_none();
        if may_come
            && merged.missing.iter().any(|missing| may_have(&self.call.endpoint, missing.server_index, &name, kind))
        {
            merged = catalog
                .lists_until_including_slow(&self.call.endpoint, self.view, |merged| target(merged).is_some())
                .await;
        }
        let found = target(&merged).or_else(|| {
            let (place, original_name) = unlisted(&merged)?;
            Some((place, original_name.map(|original_name| (text.span, original_name))))
        });
        found.ok_or_else(|| not_found(self.call, &merged, &name, kind))
    }

    /// Whether a call that passes to the one server of its endpoint may, where only what was approved may be called: its lists
    /// pass as they are, so the catalog's own tell.
    pub async fn check_approved(&self) -> Result<(), Fault> {
        if self.call.method != Some(McpMethod::ToolsCall) {
            return Ok(());
        }
        if !self.is_vetted(&self.call.endpoint.servers[0]) {
            return Ok(());
        }
        self.named(ListKind::Tools).await.map(drop)
    }

    /// Whether only what was approved of its tools may be called. One that is gone answers nothing.
    fn is_vetted(&self, place: &RoutedServer) -> bool {
        let pool = self.topology.pool(place);
        pool.is_ok_and(|pool| pool.upstream().config.changed_tools == ToolPinPolicy::Quarantine)
    }

    /// The servers that may have the resource of a request: one that lists it or a template for it, else all
    /// that have resources, for a server may serve more than it lists. Never empty.
    pub async fn resource_places(&self) -> Result<Vec<usize>, Fault> {
        let Some(text) = self.call.envelope.params.uri else {
            return Err(Fault::client(FaultKind::MalformedParams, "params.uri is missing"));
        };
        self.uri_places(&text.decode(&self.call.body)).await
    }

    /// The one server that has the resource of a request; with several candidates it is not guessed.
    pub async fn resource_place(&self) -> Result<usize, Fault> {
        let places = self.resource_places().await?;
        let uri = self.call.text(self.call.envelope.params.uri).unwrap_or_default();
        only(&places).ok_or_else(|| no_resource(&uri))
    }

    async fn uri_places(&self, uri: &str) -> Result<Vec<usize>, Fault> {
        let catalog = self.catalog;
        let known = catalog.snapshot(&self.call.endpoint, self.view).and_then(|merged| merged.resource_server(uri));
        if let Some(place) = known {
            return Ok(vec![place as usize]);
        }
        let is_listed = |merged: &MergedLists| merged.resource_server(uri).is_some();
        let merged = catalog.lists_until(&self.call.endpoint, self.view, is_listed).await;
        if let Some(place) = merged.resource_server(uri) {
            return Ok(vec![place as usize]);
        }
        let mut merged = merged;
        if merged.resource_servers().next().is_none() {
            // It may be of one that is slow to list, and there is nobody to ask meanwhile.
            merged = catalog.lists_until_including_slow(&self.call.endpoint, self.view, is_listed).await;
            if let Some(place) = merged.resource_server(uri) {
                return Ok(vec![place as usize]);
            }
        }
        let candidates: Vec<usize> = merged.resource_servers().collect();
        if candidates.is_empty() { Err(no_resource(uri)) } else { Ok(candidates) }
    }

    /// The server whose prompt or resource is to be completed.
    pub async fn completion(&self) -> Result<Target, Fault> {
        let params = &self.call.envelope.params;
        if let Some(text) = params.ref_uri {
            let uri = text.decode(&self.call.body);
            let places = self.uri_places(&uri).await?;
            return Ok((only(&places).ok_or_else(|| no_resource(&uri))?, None));
        }
        let Some(text) = params.ref_name else {
            return Err(Fault::client(FaultKind::MalformedParams, "params.ref needs a `name` or a `uri`"));
        };
        self.at_name(ListKind::Prompts, text).await
    }

    /// The one server that is not listed and would have the item of that name by configuration, filters included, and
    /// its own name of it. Whether it has it, and whether it can be reached, it says itself when it is called: a program
    /// that takes long to start is waited for as if it were called by its own path. Not of one whose tools are called only
    /// as they were approved: the catalog tells which are.
    fn unlisted(
        &self,
        merged: &MergedLists,
        name: &str,
        kind: ListKind,
    ) -> Option<(usize, Option<Arc<OriginalName>>)> {
        let endpoint = &self.call.endpoint;
        // What is longer is hidden from lists, and so led nowhere.
        let is_open = |place: usize| kind != ListKind::Tools || !self.is_vetted(&endpoint.servers[place]);
        let away = merged
            .missing
            .iter()
            .filter(|missing| missing.reason != MissingReason::OtherEra && is_open(missing.server_index));
        let mut own_names = away.filter(|_| name.len() <= NAME_BYTES_MAX).filter_map(|missing| {
            Some((missing.server_index, original_name(endpoint, missing.server_index, name, kind)?))
        });
        let (place, own) = own_names.next()?;
        if own_names.next().is_some() {
            // Which of them it is their lists tell.
            return None;
        }
        let original_name = OriginalName {
            text: own.to_owned(),
            json: json_string(own),
            header: Bytes::from(encode_header_value(own).into_owned()),
            is_listed: false,
        };
        Some((place, (own != name).then(|| Arc::new(original_name))))
    }
}

/// What is held back is not called either.
#[cold]
fn not_approved(name: &str, why: &str) -> Fault {
    let text = format!(
        "tool `{}` is held back: {why} (`keyadm servers approve`, or POST /api/v1/mcp/servers/{{server}}/approve); the \
         call did not run",
        clip(name)
    );
    Fault::client(FaultKind::InvalidParams, text)
}

/// Whether configuration leaves it open that the server has an item of that name.
fn may_have(endpoint: &Endpoint, place: usize, name: &str, kind: ListKind) -> bool {
    let as_it_is = match kind {
        ListKind::Tools => endpoint.tool_name(place, name),
        _ => Some(endpoint.prompt_name(place, name)),
    };
    as_it_is.as_deref() == Some(name) || original_name(endpoint, place, name, kind).is_some()
}

fn original_name<'a>(endpoint: &'a Endpoint, place: usize, name: &'a str, kind: ListKind) -> Option<&'a str> {
    match kind {
        ListKind::Tools => endpoint.original_tool_name(place, name),
        _ => endpoint.original_prompt_name(place, name),
    }
}

/// A name that leads nowhere, or perhaps to a server that is away: not the same thing to the one who calls it.
#[cold]
fn not_found(call: &Call, merged: &MergedLists, name: &str, kind: ListKind) -> Fault {
    if kind == ListKind::Tools
        && let Some(why) = merged.quarantine_text(name)
    {
        return not_approved(name, why);
    }
    let endpoint = &call.endpoint;
    let is_alone = endpoint.shape == EndpointShape::Single;
    let is_away = |missing: &&MissingServer| {
        is_alone || original_name(endpoint, missing.server_index, name, kind).is_some()
    };
    if let Some(missing) = merged.missing.iter().find(is_away) {
        let (server, reason) = (&missing.server, missing.reason.text());
        let text = format!("server `{server}` is not available: {reason}; the call did not run");
        return Fault::upstream(FaultKind::Unreachable, text);
    }
    match kind {
        ListKind::Tools => unknown_tool(name),
        _ => Fault::client(FaultKind::InvalidParams, format!("Unknown prompt: {}", clip(name))),
    }
}

fn only(places: &[usize]) -> Option<usize> {
    if let [place] = places { Some(*place) } else { None }
}

/// No server has it (MCP 2026-07-28, resources: -32602 with the URI).
#[cold]
pub fn no_resource(uri: &str) -> Fault {
    Fault::client(FaultKind::InvalidParams, "no server has this resource or a template for it")
        .with_data(json!({"uri": uri}).to_string())
}

fn clip(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}
