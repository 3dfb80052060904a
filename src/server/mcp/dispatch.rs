//! Dispatch of requests: one table of methods for both eras.
//!
//! Does not know: how a message is delivered to a server, nor the methods of a single era that the gateway
//! answers itself.

use super::call::Call;
use super::resolve::Resolver;
use super::target::Target;
use super::tasks::{self, TaskIds};
use crate::catalog::{ListKind, View};
use crate::route::EndpointShape;
use crate::server::worker::Worker;
use crate::session::Session;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::protocol::McpMethod;

/// Where a request goes.
pub enum Dispatch {
    Forward(Target),
    /// To these servers in turn, until one has the resource. Never empty.
    TryInTurn(Vec<usize>),
    /// Nowhere: the gateway answers it from the catalog.
    List(ListKind),
}

/// Finds where a message goes. On an aggregate endpoint the message must be a request; a single endpoint
/// forwards every message that the key may send.
///
/// `session` is the client's session, in the Legacy era.
pub async fn dispatch(
    worker: &Worker,
    call: &Call,
    view: View,
    session: Option<&Session>,
) -> Result<Dispatch, Fault> {
    let (catalog, topology) = (&*worker.shared.catalog, &worker.topology);
    let resolver = Resolver { catalog, topology, call, view };
    if call.endpoint.shape == EndpointShape::Single {
        if call.lists_in_part() && call.is_request() {
            return Ok(Dispatch::List(ListKind::Tools));
        }
        resolver.check_approved().await?;
        return Ok(Dispatch::Forward((0, None)));
    }
    let is_legacy = view != View::Modern;
    let target = match call.method {
        Some(McpMethod::ToolsCall) => resolver.named(ListKind::Tools).await?,
        Some(McpMethod::PromptsGet) => resolver.named(ListKind::Prompts).await?,
        Some(McpMethod::ResourcesRead) => {
            let places = resolver.resource_places().await?;
            let [place] = places[..] else { return Ok(Dispatch::TryInTurn(places)) };
            (place, None)
        }
        Some(McpMethod::Subscribe | McpMethod::Unsubscribe) if is_legacy => {
            (resolver.resource_place().await?, None)
        }
        Some(McpMethod::Complete) => resolver.completion().await?,
        Some(McpMethod::ToolsList) => return Ok(Dispatch::List(ListKind::Tools)),
        Some(McpMethod::PromptsList) => return Ok(Dispatch::List(ListKind::Prompts)),
        Some(McpMethod::ResourcesList) => return Ok(Dispatch::List(ListKind::Resources)),
        Some(McpMethod::TemplatesList) => return Ok(Dispatch::List(ListKind::Templates)),
        None if call.is_task_request() && tasks::are_known(catalog, call, view) => {
            TaskIds::new(worker.shared.auth.sealer(), &call.identity, session, &call.endpoint).target(call)?
        }
        _ => return Err(unknown_method(is_legacy)),
    };
    Ok(Dispatch::Forward(target))
}

#[cold]
fn unknown_method(is_legacy: bool) -> Fault {
    let kind = if is_legacy { FaultKind::UnknownMethodInSession } else { FaultKind::UnknownMethod };
    Fault::client(kind, "no server behind this endpoint is known for this method")
}
