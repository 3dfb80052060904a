//! Resolves the server of an endpoint that a message goes to, from the tool, prompt or resource that it
//! names.

use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;

use super::call::{Call, NAME_CHARS_MAX, unknown_tool};
use super::target::Target;
use super::tasks;
use crate::catalog::{Catalog, ListKind, MergedLists, MissingReason, MissingServer, NAME_BYTES_MAX, View};
use crate::route::{Destination, Endpoint, EndpointShape, OriginalName, RoutedServer};
use crate::server::worker::TopologyFollower;
use metamcp_config::server::ToolPinPolicy;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{StringSpan, encode_header_value, json_string};
use metamcp_core::protocol::McpMethod;

/// Finds the servers for one call.
#[derive(Clone, Copy)]
pub struct Resolver<'a> {
    /// The lists of every server.
    pub catalog: &'a Catalog,
    /// The configuration of every server.
    pub topology: &'a TopologyFollower,
    /// The call to resolve.
    pub call: &'a Call,
    /// The view of the catalog that the client gets.
    pub view: View,
}

impl Resolver<'_> {
    /// The server that has the named tool or prompt, and its own name for it.
    pub async fn named(&self, kind: ListKind) -> Result<Target, Fault> {
        let Some(text) = self.call.envelope.params.name else {
            return Err(Fault::client(FaultKind::MalformedParams, "params.name is missing"));
        };
        self.at_name(kind, text).await
    }

    /// As [`Self::named`], for a name at any place in the message.
    async fn at_name(&self, kind: ListKind, text: StringSpan) -> Result<Target, Fault> {
        let name = text.decode(&self.call.body);
        // The cached snapshot comes first, so that another server that lists slowly does not delay the call.
        let target = |merged: &MergedLists| -> Option<Target> {
            let Destination { server_index: place, original_name } =
                merged.listing(kind).names.find(&name)?;
            Some((*place as usize, original_name.clone().map(|original_name| (text.span, original_name))))
        };
        let catalog = self.catalog;
        if let Some(target) = catalog.snapshot(&self.call.endpoint, self.view).as_deref().and_then(target) {
            return Ok(target);
        }
        // Only the server's lists tell whether its answer may name tasks.
        let needs_list = self.view == View::Modern && kind == ListKind::Tools && tasks::declares(self.call);
        let unlisted =
            |merged: &MergedLists| if needs_list { None } else { self.unlisted(merged, &name, kind) };
        // Waits for lists that are being fetched, because they may arrive soon.
        let mut merged =
            catalog.lists_until(&self.call.endpoint, self.view, |merged| target(merged).is_some()).await;
        let may_come = target(&merged).is_none() && unlisted(&merged).is_none();
        if may_come
            && merged
                .missing
                .iter()
                .any(|missing| may_have(&self.call.endpoint, missing.server_index, &name, kind))
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

    /// On a single endpoint, checks that the called tool is approved if the server allows only approved
    /// tools. Its lists are forwarded unchanged there, so the catalog's own lists decide.
    pub async fn check_approved(&self) -> Result<(), Fault> {
        if self.call.method != Some(McpMethod::ToolsCall) {
            return Ok(());
        }
        if !self.is_vetted(&self.call.endpoint.servers[0]) {
            return Ok(());
        }
        self.named(ListKind::Tools).await.map(drop)
    }

    /// Whether only approved tools of the server may be called. For a removed server the answer is no.
    fn is_vetted(&self, place: &RoutedServer) -> bool {
        let pool = self.topology.pool(place);
        pool.is_ok_and(|pool| pool.upstream().config.settings.changed_tools == ToolPinPolicy::Quarantine)
    }

    /// The servers that may have the requested resource: the one that lists it or a matching template, else
    /// all servers with resources, since a server may serve more than it lists. Never empty.
    pub async fn resource_places(&self) -> Result<Vec<usize>, Fault> {
        let Some(text) = self.call.envelope.params.uri else {
            return Err(Fault::client(FaultKind::MalformedParams, "params.uri is missing"));
        };
        self.uri_places(&text.decode(&self.call.body)).await
    }

    /// The one server that has the requested resource. With several candidates this is an error, not a guess.
    pub async fn resource_place(&self) -> Result<usize, Fault> {
        let places = self.resource_places().await?;
        let uri = self.call.text(self.call.envelope.params.uri).unwrap_or_default();
        only(&places).ok_or_else(|| no_resource(&uri))
    }

    async fn uri_places(&self, uri: &str) -> Result<Vec<usize>, Fault> {
        let catalog = self.catalog;
        let known =
            catalog.snapshot(&self.call.endpoint, self.view).and_then(|merged| merged.resource_server(uri));
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
            // A server that lists slowly may have it, and there is no other candidate to ask meanwhile.
            merged = catalog.lists_until_including_slow(&self.call.endpoint, self.view, is_listed).await;
            if let Some(place) = merged.resource_server(uri) {
                return Ok(vec![place as usize]);
            }
        }
        let candidates: Vec<usize> = merged.resource_servers().collect();
        if candidates.is_empty() { Err(no_resource(uri)) } else { Ok(candidates) }
    }

    /// The server whose prompt or resource a completion refers to.
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

    /// The only server without lists whose configuration (filters included) allows an item of that name, with
    /// its own name for the item. The server itself reports whether it has the item and whether it is
    /// reachable, when it is called: a program that starts slowly is waited for as on its single endpoint.
    /// Servers whose tools must be approved are excluded, since only the catalog knows which tools are.
    fn unlisted(
        &self,
        merged: &MergedLists,
        name: &str,
        kind: ListKind,
    ) -> Option<(usize, Option<Arc<OriginalName>>)> {
        let endpoint = &self.call.endpoint;
        // Longer names are hidden from lists, so they resolve to nothing.
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
            // Only their lists can tell which of them has it.
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

/// The fault for a tool that is not approved.
#[cold]
fn not_approved(name: &str, why: &str) -> Fault {
    let text = format!(
        "tool `{}` is quarantined: {why} (`keyadm servers approve`, or POST /api/v1/mcp/servers/{{server}}/approve); the \
         call did not run",
        clip(name)
    );
    Fault::client(FaultKind::InvalidParams, text)
}

/// Whether the server's configuration allows an item of that name.
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

/// The fault for a name that no server lists. If a server that may have it is unavailable, the fault says so.
#[cold]
fn not_found(call: &Call, merged: &MergedLists, name: &str, kind: ListKind) -> Fault {
    if kind == ListKind::Tools
        && let Some(why) = merged.quarantine_text(name)
    {
        return not_approved(name, why);
    }
    let endpoint = &call.endpoint;
    let is_alone = endpoint.shape == EndpointShape::Single;
    let is_away = |missing: &&MissingServer| is_alone || may_have(endpoint, missing.server_index, name, kind);
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

/// The fault for a resource that no server has (MCP 2026-07-28, resources: -32602 with the URI).
#[cold]
pub fn no_resource(uri: &str) -> Fault {
    Fault::client(FaultKind::InvalidParams, "no server has this resource or a template for it")
        .with_data(json!({"uri": uri}).to_string())
}

fn clip(name: &str) -> String {
    name.chars().take(NAME_CHARS_MAX).collect()
}
