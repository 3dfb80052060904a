//! Merges the lists of several servers into the lists of one endpoint.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};
use metamcp_core::frame::{encode_header_value, json_string};
use serde_json::json;

use super::capabilities::{TTL_MS_DEFAULT, add_features, server_info};
use super::list::{KEY_BYTES_MAX, ListItem, ListKind, NAME_BYTES_MAX};
use super::listing::Listing;
use super::merged::{HiddenItem, MergedLists, ServerListing};
use super::missing::{MissingReason, MissingServer};
use super::quarantine::QuarantineReason;
use super::tool_override::{apply_override, without_task_support};
use super::view::View;
use crate::route::{Destination, Endpoint, OriginalName, UriTemplate};
use crate::session::TaskFeatures;
use metamcp_config::sections::ToolOverride;

/// Hidden items that one page names: a server may hide all that it has.
const HIDDEN_LISTED_MAX: usize = 100;

/// Merges the lists of an endpoint's servers; `servers` is in the order of the endpoint.
pub fn merge(
    endpoint: &Endpoint,
    view: View,
    servers: &[Result<ServerListing, MissingReason>],
    generations: Vec<u64>,
    page_items: usize,
) -> MergedLists {
    let mut merged = MergedLists { generations, ..MergedLists::default() };
    for (server_index, listing) in servers.iter().enumerate() {
        let server = &endpoint.servers[server_index].name;
        merged.tasks.push(
            listing.as_ref().map_or_else(|_| TaskFeatures::default(), |listing| listing.lists.features.tasks),
        );
        match listing {
            Ok(ServerListing { lists, .. }) => {
                add_features(&mut merged.features, server, &lists.features);
                if lists.features.resources {
                    merged.resource_servers.push(server_index);
                }
            }
            Err(reason) => {
                merged.is_loading |= matches!(reason, MissingReason::Loading | MissingReason::NotRequested);
                let (server, reason) = (server.clone(), reason.clone());
                merged.missing.push(MissingServer { server, server_index, reason });
            }
        }
    }
    let entries =
        ListKind::ALL.map(|kind| collect_entries(endpoint, (view, kind), servers, &mut merged.hidden));
    let tails = [page_tail(view, servers, &merged, false), page_tail(view, servers, &merged, true)];
    for (kind, entries) in ListKind::ALL.into_iter().zip(entries) {
        if kind == ListKind::Templates {
            merged.templates = collect_templates(&entries);
        }
        let entries = entries.into_iter().map(|entry| (entry.key, entry.json, entry.destination));
        merged.listings[kind.index()] = Listing::new(kind, entries, tails.clone(), page_items);
    }
    merged
}

/// An item under its advertised key.
struct MergeEntry<'a> {
    key: String,
    /// The server's own key.
    original_key: &'a str,
    json: Bytes,
    destination: Destination,
    quarantine: Option<QuarantineReason>,
}

/// Collects the items of one kind under their advertised keys, in ascending order of these.
fn collect_entries<'a>(
    endpoint: &Endpoint,
    (view, kind): (View, ListKind),
    servers: &'a [Result<ServerListing, MissingReason>],
    hidden: &mut Vec<HiddenItem>,
) -> Vec<MergeEntry<'a>> {
    let mut entries = Vec::new();
    for (server_index, listing) in servers.iter().enumerate() {
        let Ok(ServerListing { lists, quarantined }) = listing else { continue };
        let tool_view = endpoint.servers[server_index].tool_view.as_ref().filter(|_| kind == ListKind::Tools);
        for item in &lists.items[kind.index()] {
            let name = match kind {
                ListKind::Tools => endpoint.tool_name(server_index, &item.key),
                ListKind::Prompts => Some(endpoint.prompt_name(server_index, &item.key)),
                ListKind::Resources | ListKind::Templates => Some(Cow::Borrowed(&*item.key)),
            };
            // The endpoint does not show the item.
            let Some(name) = name else { continue };
            let bytes_max = if kind.has_names() { NAME_BYTES_MAX } else { KEY_BYTES_MAX };
            if name.len() > bytes_max {
                let why = "its name is too long";
                hidden.push(HiddenItem { key: name.into_owned(), why, is_quarantined: false });
            } else {
                let tool_override = tool_view.and_then(|tool_view| tool_view.override_of(&item.key));
                let mut entry = advertise(item, name, server_index, tool_override);
                // The endpoint offers tasks if any of its servers does; the tools of the others must not (MCP
                // 2025-11-25, tasks).
                if kind == ListKind::Tools && view != View::Modern && !lists.features.tasks.calls {
                    entry.json = without_task_support(entry.json);
                }
                entry.quarantine = quarantined.get(&item.key).filter(|_| kind == ListKind::Tools).copied();
                entries.push(entry);
            }
        }
    }
    // Stable, so that among equal keys the one of the first server comes first.
    entries.sort_by(|a, b| a.key.cmp(&b.key));
    let mut visible = hide_collisions(kind, entries, hidden);
    // After the collisions: a quarantined tool must not make room for a tool of the same name of another
    // server.
    visible.retain(|entry| {
        let Some(quarantine) = entry.quarantine else { return true };
        hidden.push(HiddenItem { key: entry.key.clone(), why: quarantine.text(), is_quarantined: true });
        false
    });
    visible
}

/// Resolves equal keys. Two tools of one name are both hidden, because which one is called must not depend on
/// which server answers first. A resource is the same whichever server has it, so the first server serves it.
fn hide_collisions<'a>(
    kind: ListKind,
    entries: Vec<MergeEntry<'a>>,
    hidden: &mut Vec<HiddenItem>,
) -> Vec<MergeEntry<'a>> {
    let mut visible: Vec<MergeEntry<'_>> = Vec::with_capacity(entries.len());
    let mut entries = entries.into_iter().peekable();
    while let Some(entry) = entries.next() {
        let server_index = entry.destination.server_index;
        let mut collision = None;
        while let Some(other) = entries.next_if(|next| next.key == entry.key) {
            if other.destination.server_index != server_index {
                collision = Some("several servers have it");
            } else if other.original_key != entry.original_key {
                collision = collision.or(Some("several tools of its server are shown under it"));
            }
            // Otherwise the server lists the same item twice; the first one counts.
        }
        match collision.filter(|_| kind.has_names()) {
            Some(why) => hidden.push(HiddenItem { key: entry.key, why, is_quarantined: false }),
            None => visible.push(entry),
        }
    }
    visible
}

fn collect_templates(entries: &[MergeEntry<'_>]) -> Vec<(UriTemplate, u32)> {
    let mut templates: Vec<_> = entries
        .iter()
        .filter_map(|entry| Some((UriTemplate::parse(&entry.key)?, entry.destination.server_index)))
        .collect();
    templates.sort_by_key(|(template, _)| std::cmp::Reverse(template.literal_bytes()));
    templates
}

/// Writes an item under its advertised name.
fn advertise<'a>(
    item: &'a ListItem,
    name: Cow<'_, str>,
    server_index: usize,
    tool_override: Option<&ToolOverride>,
) -> MergeEntry<'a> {
    let server_index = u32::try_from(server_index).expect("an endpoint has fewer servers than 2^32");
    let (mut json, original_name) = if *name == item.key {
        (item.raw.clone(), None)
    } else {
        let advertised = json_string(&name);
        let mut json = BytesMut::with_capacity(item.raw.len() + advertised.len());
        json.put_slice(&item.raw[..item.key_start]);
        json.put_slice(&advertised);
        json.put_slice(&item.raw[item.key_end..]);
        let original_name = OriginalName {
            text: item.key.clone(),
            json: item.raw.slice(item.key_start..item.key_end),
            header: Bytes::from(encode_header_value(&item.key).into_owned()),
            is_listed: true,
        };
        (json.freeze(), Some(Arc::new(original_name)))
    };
    if let Some(tool_override) = tool_override {
        json = apply_override(&json, tool_override);
    }
    let destination = Destination { server_index, original_name };
    MergeEntry { key: name.into_owned(), original_key: &item.key, json, destination, quarantine: None }
}

/// Returns what follows the items of every page: the members of a Modern result, and what is missing.
/// `is_restricted` is for clients that do not see every item.
fn page_tail(
    view: View,
    servers: &[Result<ServerListing, MissingReason>],
    merged: &MergedLists,
    is_restricted: bool,
) -> Bytes {
    let mut meta = serde_json::Map::new();
    if !merged.missing.is_empty() {
        let missing: Vec<_> = merged.missing.iter().map(MissingServer::to_json).collect();
        meta.insert("dev.metamcp/missing".into(), missing.into());
    }
    // A client that does not see every item does not learn of the hidden ones either.
    if !merged.hidden.is_empty() && !is_restricted {
        let hidden = merged.hidden.iter().take(HIDDEN_LISTED_MAX);
        let hidden: Vec<_> = hidden.map(|item| json!({"name": item.key, "reason": item.why})).collect();
        meta.insert("dev.metamcp/hidden".into(), hidden.into());
    }
    let mut tail = String::new();
    if view == View::Modern {
        let known = servers.iter().flatten().map(|listing| &listing.lists);
        let ttl_ms = known.clone().filter_map(|lists| lists.ttl_ms).min().unwrap_or(TTL_MS_DEFAULT);
        let ttl_ms = if merged.missing.is_empty() { ttl_ms } else { 0 };
        let scope =
            if is_restricted || known.clone().any(|lists| lists.private) { "private" } else { "public" };
        tail = format!(r#","resultType":"complete","ttlMs":{ttl_ms},"cacheScope":"{scope}""#);
        meta.insert("io.modelcontextprotocol/serverInfo".into(), server_info());
    }
    if !meta.is_empty() {
        tail.push_str(",\"_meta\":");
        tail.push_str(&serde_json::Value::Object(meta).to_string());
    }
    tail.push('}');
    tail.into()
}
