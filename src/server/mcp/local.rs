//! Requests to an aggregate endpoint that the gateway answers itself.

use super::call::Call;
use crate::catalog::{Catalog, ListKind, MergedLists, MissingReason, View};
use crate::route::RoutedServer;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::TopologyFollower;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::protocol::Era;

/// Answers a list request with one page from the catalog.
pub async fn list(catalog: &Catalog, call: &Call, view: View, kind: ListKind) -> Result<Reply, Fault> {
    let merged = catalog.lists(&call.endpoint, view).await;
    all_of_other_era(&merged)?;
    let cursor = call.text(call.envelope.params.cursor);
    let listing = merged.listing(kind);
    let page = if call.lists_in_part() {
        let may = |tool: &str| call.identity.can_call_tool(&call.endpoint.scope, tool);
        listing.restricted_page_result(kind, cursor.as_deref(), may)
    } else {
        listing.page_result(kind, cursor.as_deref())
    };
    let page = page.ok_or_else(|| {
        Fault::client(
            FaultKind::InvalidParams,
            "this cursor is not one of this list; begin again without a cursor",
        )
    })?;
    Ok(reply::result(&call.id(), page))
}

pub async fn discover(catalog: &Catalog, topology: &TopologyFollower, call: &Call) -> Result<Reply, Fault> {
    let merged = catalog.lists(&call.endpoint, View::Modern).await;
    // `lists` has probed the era of every server by now.
    let hides =
        |place: &RoutedServer| topology.pool(place).is_ok_and(|pool| pool.upstream().hides_era(Era::Modern));
    if call.endpoint.servers.iter().any(hides) {
        return Err(legacy_only());
    }
    Ok(reply::result(&call.id(), merged.discover_result()))
}

fn all_of_other_era(merged: &MergedLists) -> Result<(), Fault> {
    let none_else = !merged.missing.is_empty()
        && merged.missing.len() == merged.generations.len()
        && merged.missing.iter().all(|missing| missing.reason == MissingReason::OtherEra);
    if none_else { Err(legacy_only()) } else { Ok(()) }
}

#[cold]
fn legacy_only() -> Fault {
    Fault::client(
        FaultKind::EraMismatch,
        "servers behind this endpoint speak only revisions up to 2025-11-25; open a session by `initialize`",
    )
}
