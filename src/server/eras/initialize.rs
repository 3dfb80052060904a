//! `initialize`: opens the session of a client (MCP 2025-11-25, lifecycle).

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::HeaderValue;

use crate::catalog::View;
use crate::route::EndpointShape;
use crate::server::mcp::call::Call;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::session::{ClientHandshake, InitializeParams, TooManySessions};
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::protocol::{ClientCapabilities, Era, Revision, header};

/// Limit of the `initialize` params, which are stored with the session; real ones have about 200 bytes.
const PARAMS_BYTES_MAX: usize = 16 << 10;

/// Opens a session and answers with the result of `initialize`.
pub async fn initialize(worker: &Rc<Worker>, call: &Call) -> Result<Reply, Fault> {
    let introduction = client_handshake(worker, call)?;
    let view = View::Legacy(introduction.params.capabilities);
    let sessions = &worker.shared.sessions;
    let create = |introduction| {
        let created = sessions.create(&call.identity, &call.endpoint, introduction, worker.clock.now_s());
        created.map_err(|TooManySessions| {
            Fault::gateway(FaultKind::Overloaded, "there are too many sessions; try again later")
        })
    };
    let (text, session, mut response) = match call.endpoint.shape {
        EndpointShape::Single => {
            let (text, session) = create(introduction)?;
            let opening = async {
                let pool = worker.topology.pool(&session.endpoint.servers[0])?;
                session.upstream_slot(0).open_for_client(&pool, &session.handshake).await
            };
            let message = opening.await.inspect_err(|_| sessions.end(&session))?;
            (text, session, reply::result(&call.id(), result_of(&message)?))
        }
        EndpointShape::Aggregate(_) => {
            let merged = worker.shared.catalog.lists(&call.endpoint, view).await;
            let result = merged.initialize_result(introduction.params.revision);
            let (text, session) = create(introduction)?;
            (text, session, reply::result(&call.id(), result))
        }
    };
    let text = Bytes::from(text);
    let value = HeaderValue::from_maybe_shared(text.clone()).map_err(|error| {
        Fault::gateway(FaultKind::Internal, "no session id could be made").with_source(error)
    })?;
    response.headers_mut().insert(header::SESSION_ID, value);
    // The client's next request follows at once, mostly on the same connection.
    worker.sessions.cache_session(text, &session);
    Ok(response)
}

/// The raw `result` of an upstream's answer to `initialize`.
fn result_of(message: &Bytes) -> Result<Bytes, Fault> {
    #[derive(serde::Deserialize)]
    struct Answer<'a> {
        #[serde(borrow)]
        result: &'a serde_json::value::RawValue,
    }
    let answer: Answer<'_> = serde_json::from_slice(message).map_err(|error| {
        Fault::gateway(FaultKind::Internal, "the answer could not be read").with_source(error)
    })?;
    Ok(message.slice_ref(answer.result.get().as_bytes()))
}

/// The client's handshake. `initialize` is rare, so serde parses it.
fn client_handshake(worker: &Worker, call: &Call) -> Result<ClientHandshake, Fault> {
    #[derive(serde::Deserialize)]
    struct Params<'a> {
        #[serde(borrow)]
        capabilities: &'a serde_json::value::RawValue,
    }
    let malformed = || {
        Fault::client(
            FaultKind::MalformedParams,
            "initialize needs params with protocolVersion, capabilities and clientInfo",
        )
    };
    let params = call.envelope.params.object.map(|span| call.raw(span)).ok_or_else(malformed)?;
    let owner = Some(call.identity.key_id());
    if let Some(params) = worker.shared.sessions.find_initialize_params(&params) {
        return Ok(ClientHandshake { params, owner, is_isolated: false });
    }
    if params.len() > PARAMS_BYTES_MAX {
        return Err(Fault::client(FaultKind::MalformedParams, "the params of initialize are over 16 KiB"));
    }
    let requested = call.text(call.envelope.params.protocol_version).ok_or_else(malformed)?;
    let read: Params<'_> = serde_json::from_slice(&params).map_err(|_| malformed())?;
    let capabilities =
        ClientCapabilities::from_json(read.capabilities.get().as_bytes()).map_err(|_| malformed())?;
    let revision = Revision::parse(requested.as_bytes())
        .filter(|revision| revision.era() == Era::Legacy)
        .unwrap_or(Revision::LEGACY_LATEST);
    // A copy, because a slice would keep the whole request alive as long as the session.
    let raw = Bytes::copy_from_slice(&params);
    let params = Arc::new(InitializeParams { revision, capabilities, raw });
    Ok(ClientHandshake { params, owner, is_isolated: false })
}
