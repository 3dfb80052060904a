//! What the gateway answers itself for an endpoint with several servers, and where it sends the rest.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::Response;
use serde_json::json;

use super::body::ResponseBody;
use super::call::Call;
use super::reply;
use super::worker::Worker;
use crate::base::{Fault, Kind};
use crate::catalog::{ListKind, Merged, Reason, View};
use crate::frame::Span;
use crate::route::{Destination, SEPARATOR};

/// A place in the endpoint, and what is to be replaced in the message.
pub type Target = (usize, Option<(Span, Bytes)>);

/// One page of a list, from the catalog.
pub async fn list(
    worker: &Rc<Worker>,
    call: &Call,
    view: View,
    kind: ListKind,
) -> Result<Response<ResponseBody>, Fault> {
    let merged = worker.shared.catalog.merged(&call.endpoint, view).await;
    all_of_other_era(&merged)?;
    let cursor = call.text(call.envelope.params.cursor);
    let page = merged.listing(kind).result(kind, cursor.as_deref()).ok_or_else(|| {
        Fault::client(
            Kind::InvalidParams,
            "this cursor is not one of this list; begin again without a cursor",
        )
    })?;
    Ok(reply::result(&call.id(), page))
}

/// `server/discover`. An endpoint with a server that speaks only the Legacy revisions is to be opened by
/// `initialize`, which shows all of its servers.
pub async fn discover(worker: &Rc<Worker>, call: &Call) -> Result<Response<ResponseBody>, Fault> {
    let merged = worker.shared.catalog.merged(&call.endpoint, View::Modern).await;
    if merged.missing.iter().any(|missing| missing.reason == Reason::OtherEra) {
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
        Kind::LegacyOnly,
        "servers behind this endpoint speak only revisions up to 2025-11-25; open a session by `initialize`",
    )
}

/// The server that has the tool or prompt of that name, and its own name for it.
pub async fn named(worker: &Rc<Worker>, call: &Call, view: View, kind: ListKind) -> Result<Target, Fault> {
    let Some(text) = call.envelope.params.name else {
        return Err(Fault::client(Kind::MalformedParams, "params.name is missing"));
    };
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
    let merged = catalog.merged_until(&call.endpoint, view, |merged| target(merged).is_some()).await;
    target(&merged).ok_or_else(|| not_found(&merged, &name, kind))
}

/// A name that leads nowhere, or to a server that is away: not the same thing to the one who calls it.
#[cold]
fn not_found(merged: &Arc<Merged>, name: &str, kind: ListKind) -> Fault {
    let away = merged.missing.iter().find(|missing| {
        name.strip_prefix(missing.server.as_str()).is_some_and(|rest| rest.starts_with(SEPARATOR))
    });
    match away {
        Some(missing) => Fault::backend(
            Kind::Unreachable,
            format!(
                "server `{}` is not available: {}; the call did not run",
                missing.server,
                missing.reason.text()
            ),
        ),
        None => {
            let what = if kind == ListKind::Tools { "tool" } else { "prompt" };
            Fault::client(Kind::InvalidParams, format!("Unknown {what}: {}", clip(name)))
        }
    }
}

/// The server that has a resource: by URI, by template, or the only one that has resources at all.
pub async fn resource_place(worker: &Rc<Worker>, call: &Call, view: View) -> Result<usize, Fault> {
    let Some(text) = call.envelope.params.uri else {
        return Err(Fault::client(Kind::MalformedParams, "params.uri is missing"));
    };
    uri_place(worker, call, view, &text.decode(&call.body)).await
}

async fn uri_place(worker: &Rc<Worker>, call: &Call, view: View, uri: &str) -> Result<usize, Fault> {
    let catalog = &worker.shared.catalog;
    let known = catalog.snapshot(&call.endpoint, view).and_then(|merged| merged.resource(uri));
    if let Some(place) = known {
        return Ok(place as usize);
    }
    let is_listed = |merged: &Merged| merged.resource(uri).is_some();
    let merged = catalog.merged_until(&call.endpoint, view, is_listed).await;
    if let Some(place) = merged.resource(uri) {
        return Ok(place as usize);
    }
    // A server may serve more than it lists. With one candidate there is nothing to guess.
    let mut candidates = merged.resource_servers();
    match (candidates.next(), candidates.next()) {
        (Some(place), None) => Ok(place),
        _ => Err(Fault::client(Kind::InvalidParams, "no server lists this resource or a template for it")
            .with_data(json!({"uri": uri}).to_string())),
    }
}

/// The server whose prompt or resource is to be completed.
pub async fn completion(worker: &Rc<Worker>, call: &Call, view: View) -> Result<Target, Fault> {
    let params = &call.envelope.params;
    if let Some(text) = params.ref_uri {
        return Ok((uri_place(worker, call, view, &text.decode(&call.body)).await?, None));
    }
    let Some(text) = params.ref_name else {
        return Err(Fault::client(Kind::MalformedParams, "params.ref needs a `name` or a `uri`"));
    };
    let name = text.decode(&call.body);
    let is_listed = |merged: &Merged| merged.listing(ListKind::Prompts).names.find(&name).is_some();
    let merged = worker.shared.catalog.merged_until(&call.endpoint, view, is_listed).await;
    let Destination { place, own_name } = merged
        .listing(ListKind::Prompts)
        .names
        .find(&name)
        .ok_or_else(|| not_found(&merged, &name, ListKind::Prompts))?;
    Ok((*place as usize, own_name.clone().map(|own_name| (text.span, own_name))))
}

/// A name in an error text: long enough to be known again, short enough for a log.
fn clip(name: &str) -> String {
    name.chars().take(128).collect()
}
