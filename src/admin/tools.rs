//! REST handlers that talk to servers: testing a server, and listing and calling its tools.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::header::ACCEPT;
use http::{HeaderMap, Response, StatusCode};
use serde_json::json;
use serde_json::value::RawValue;
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::access::{ReachableTools, ServerReach};
use super::authenticated_request::AuthenticatedRequest;
use super::body::ControlPlaneBody;
use super::call::{self, ToolCall};
use super::call_meter::{CallMeter, begin_record};
use super::control_plane::ControlPlane;
use super::event_stream::stream_response;
use super::events::{CallEvents, CallStart, KeyInvalidation};
use super::paths::single_endpoint;
use super::problem::Problem;
use super::request::{QueryReader, arguments_body, json_bytes_response, ok_response, page_response};
use super::routes::TOOL_NAME_CHARS_MAX;
use super::servers::unprocessable;
use super::tool_result::result_of;
use super::views::{TestResult, TestSummary};
use crate::catalog::{ListKind, MergedLists, MissingReason, View, probe};
use crate::limits::ReservedCall;
use crate::route::{Endpoint, RouteTable};
use crate::telemetry::metrics;
use crate::telemetry::records::CallOutcome;
use crate::upstream::{Upstream, UpstreamId, UpstreamPool};
use metamcp_config::server::ServerConfig;
use metamcp_core::base::{Fault, FaultKind, ShutdownPhase, unix_seconds};
use metamcp_core::protocol::{ClientCapabilities, Era, header};
use metamcp_store::auth::Identity;
use metamcp_store::definition::{FieldError, ServerDefinition};
use metamcp_store::store::Uuid;

/// A person waits for the result of a test.
const TEST_TIMEOUT: Duration = Duration::from_secs(15);

/// As long as a server without a stream may be silent by default (`backend.first_byte_timeout`).
const EXECUTE_TIMEOUT: Duration = Duration::from_mins(5);

/// The interval at which an event stream checks whether its key has expired, which is not notified. The same
/// interval as on the data plane.
const KEY_CHECK_INTERVAL: Duration = Duration::from_secs(1);

/// Notifications that are buffered for a slow caller before the server is no longer read. Most have a hundred
/// bytes, but each may have up to 4 MiB.
const NOTIFICATIONS_MAX: usize = 2;

/// A served server with its lists.
struct ServedServer {
    endpoint: Arc<Endpoint>,
    merged: Arc<MergedLists>,
    era: Era,
}

/// A tool that is about to be called.
struct CalledTool {
    listed: ServedServer,
    upstream: Arc<Upstream>,
    /// The tool as the server listed it.
    item: Bytes,
}

impl ServedServer {
    /// The view of clients of the server's era.
    fn view(&self) -> View {
        match self.era {
            Era::Modern => View::Modern,
            Era::Legacy => View::Legacy(ClientCapabilities::default()),
        }
    }
}

/// Adds the reason of the last failure to a text for clients; for administrators only.
fn with_reason(text: String, upstream: &Upstream) -> String {
    match upstream.status().last_failure {
        Some(failure) if !failure.reason.is_empty() => {
            format!("{text} ({})", failure.reason)
        }
        _ => text,
    }
}

impl ControlPlane {
    /// Connects to a server of a file that is served, or to a stored server, served or not. The caller cannot influence the
    /// address.
    pub(super) async fn test_server(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let config = match self.file_server_config(call.parameter(0))? {
            Some(config) => config,
            None => self.stored_server_config(call.parameter(0)).await?,
        };
        let begun = Instant::now();
        let tested = self.test_upstream(config).await;
        let milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (found, reason) = match tested {
            Ok(found) => (Some(found), None),
            Err(reason) => (None, Some(reason)),
        };
        Ok(ok_response(&json!(TestResult { ok: found.is_some(), reason, found, milliseconds })))
    }

    async fn stored_server_config(&self, reference: &str) -> Result<ServerConfig, Problem> {
        let row = self.server_row(reference).await?;
        let server = ServerDefinition::from_row(&row, self.parts.auth.sealer())
            .map_err(|error| Problem::new(StatusCode::CONFLICT, error.to_string()))?;
        server
            .to_upstream_config(&self.parts.serving.load())
            .map_err(|unserved| Problem::new(StatusCode::CONFLICT, unserved.to_string()))
    }

    async fn test_upstream(&self, config: ServerConfig) -> Result<TestSummary, String> {
        let (roots, catalog) = (self.parts.roots.clone(), self.parts.catalog.config().as_ref().clone());
        let probed = self.parts.admin_jobs.run(TEST_TIMEOUT, move || async move {
            let upstream =
                Upstream::new(UpstreamId(0), config, &roots).map_err(|invalid| invalid.to_string())?;
            let found = probe(&UpstreamPool::new(Arc::clone(&upstream)), &catalog).await;
            let found = found.map_err(|text| with_reason(text, &upstream))?;
            let count = |kind: ListKind| found.lists.items[kind.index()].len();
            Ok(TestSummary {
                era: if found.era == Era::Modern { "modern" } else { "legacy" },
                tools: count(ListKind::Tools),
                prompts: count(ListKind::Prompts),
                resources: count(ListKind::Resources),
                resource_templates: count(ListKind::Templates),
            })
        });
        probed.await.unwrap_or_else(|problem| Err(problem.into_parts().0))
    }

    pub(super) async fn list_tools(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Response<Bytes>, Problem> {
        let mut query = QueryReader::new(call.query());
        let page = query.page::<String>();
        query.finish()?;
        let listed = self.find_served_server(call).await?;
        let topology = self.topology();
        let server = &listed.endpoint.servers[0].name;
        let reached = match ServerReach::of(call.identity(), server, &topology.table)
            .filter(|_| !call.sees_all_tools())
        {
            Some(reach) => reach.tools(&self.parts.catalog, listed.view()).await,
            None => ReachableTools::default(),
        };
        let is_seen = |tool: &str| call.sees_all_tools() || reached.hold(tool);
        let behind = listed.merged.listing(ListKind::Tools).items_after(page.after.as_deref());
        let mut seen = behind.iter().filter(|(key, _)| is_seen(key));
        let shown: Vec<&(String, Bytes)> = seen.by_ref().take(page.items).collect();
        let next = shown.last().filter(|_| seen.next().is_some()).map(|(key, _)| key);
        let views = shown.iter().map(|(key, json)| reached.told(key, json));
        let items: Vec<Box<RawValue>> = views.filter_map(|json| serde_json::from_slice(&json).ok()).collect();
        Ok(page_response(items, next))
    }

    pub(super) async fn execute_tool(
        &self,
        call: AuthenticatedRequest<'_>,
    ) -> Result<Response<ControlPlaneBody>, Problem> {
        let arguments = arguments_body(call.headers(), call.body())?;
        if !arguments.starts_with(b"{") {
            return Err(unprocessable(vec![FieldError::new(
                "",
                "is not an object: send the tool's arguments",
            )]));
        }
        let mut record = begin_record(&call, call.parameter(1));
        let found = self.find_called_tool(&call).await;
        let (called, quota) = found.inspect_err(|_| {
            if let Some(record) = &mut record {
                record.end(CallOutcome::Refusal);
            }
        })?;
        let CalledTool { listed, upstream, item } = called;
        let (server, tool) = (&listed.endpoint.servers[0], call.parameter(1).to_owned());
        let identity = call.identity().clone();
        let mut meter = CallMeter::begin(&call, (server, &tool), record, quota);
        let (era, admin_jobs, mut phase) =
            (listed.era, self.parts.admin_jobs.clone(), self.parts.phase.clone());
        let run = async move |tool_call: ToolCall| {
            let calling = admin_jobs
                .run(EXECUTE_TIMEOUT, move || call::call_tool(UpstreamPool::new(upstream), era, tool_call));
            tokio::select! {
                outcome = calling => outcome?.map_err(|fault| from_fault(&fault)),
                Ok(_) = phase.wait_for(|phase| *phase == ShutdownPhase::Abort) => {
                    Err(Problem::unavailable("the gateway stops; the call may have run"))
                }
            }
        };
        let tool_call = ToolCall { tool, arguments, listed_tool: item, notifications: None };
        if accepts_events(call.headers()) {
            let permit = call.permit.ok_or_else(|| Problem::unavailable("the key has no permit left"))?;
            let (sender, notifications) = mpsc::channel(NOTIFICATIONS_MAX);
            let key_over = self.key_invalidation(identity.clone());
            let running =
                Box::pin(async move { run(ToolCall { notifications: Some(sender), ..tool_call }).await });
            let begun = CallEvents::begin(running, notifications, meter, key_over, permit).await;
            return answer_events(begun, identity);
        }
        let key_over = self.key_invalidation(identity);
        let outcome = tokio::select! {
            outcome = run(tool_call) => outcome,
            () = key_over => Err(Problem::key_invalidated()),
        };
        let outcome = outcome.inspect_err(|_| meter.end(metrics::OperationOutcome::Error))?;
        let answer = result_of(&outcome.message);
        meter.finish_with(answer, outcome.failed).map(|result| {
            json_bytes_response(result).map(|bytes| ControlPlaneBody::Whole(bytes, call.permit))
        })
    }

    /// Finds the tool that a caller may call, and counts the call against the quotas of the caller's key.
    async fn find_called_tool(
        &self,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<(CalledTool, Option<ReservedCall>), Problem> {
        let tool = call.parameter(1);
        // Checked before the server is asked: no server lists such a name.
        if tool.chars().count() > TOOL_NAME_CHARS_MAX {
            return Err(Problem::not_found("tool"));
        }
        let listed = self.find_served_server(call).await?;
        let (server, topology) = (&listed.endpoint.servers[0], self.topology());
        let item = listed.merged.listing(ListKind::Tools).item(tool).cloned();
        let reach = ServerReach::of(call.identity(), &server.name, &topology.table);
        let held = listed.merged.quarantine_text(tool).filter(|_| item.is_none());
        let Some(reach) = reach else { return Err(Problem::not_found("tool")) };
        if let Some(why) = held.filter(|_| reach.may(tool)) {
            let detail = format!("the tool is quarantined: {why}; nothing was called");
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        let Some(item) = item else { return Err(Problem::not_found("tool")) };
        if !reach.admits(&self.parts.catalog, listed.view(), tool).await {
            return Err(Problem::not_found("tool"));
        }
        let upstream = topology
            .upstream(UpstreamId(server.upstream))
            .cloned()
            .ok_or_else(|| Problem::not_found("server"))?;
        let quota = self.reserve_call(call.identity())?;
        Ok((CalledTool { listed, upstream, item }, quota))
    }

    /// Counts a call against the quotas of its key. `None` if it has none.
    fn reserve_call(&self, identity: &Identity) -> Result<Option<ReservedCall>, Problem> {
        let Some(quotas) = identity.quotas() else { return Ok(None) };
        let usage = self.parts.limits.usage(identity);
        Ok(Some(ReservedCall::reserve(usage, quotas, unix_seconds())?))
    }

    /// Completes when the key is no longer valid.
    pub(super) fn key_invalidation(&self, identity: Identity) -> KeyInvalidation {
        let (auth, changes) = (Arc::clone(&self.parts.auth), self.parts.keys.clone());
        Box::pin(async move {
            while timeout(KEY_CHECK_INTERVAL, auth.wait_for_revocation(&identity, changes.clone()))
                .await
                .is_err()
            {}
        })
    }

    /// Returns the server of a call with its lists. To a key that cannot reach the server, it does not exist.
    async fn find_served_server(&self, call: &AuthenticatedRequest<'_>) -> Result<ServedServer, Problem> {
        let reference = call.parameter(0);
        let topology = self.topology();
        let endpoint = match single_endpoint(&topology.table, reference) {
            Some(endpoint) => Some(endpoint),
            None => self.served_by_id(reference, &topology.table, call).await?,
        };
        let endpoint = endpoint.ok_or_else(|| Problem::not_found("server"))?;
        let server = &endpoint.servers[0].name;
        let reaches = ServerReach::of(call.identity(), server, &topology.table).is_some();
        if !reaches && !call.sees_all_tools() {
            return Err(Problem::not_found("server"));
        }
        let catalog = &self.parts.catalog;
        // Modern clients see the tools of Legacy servers too; here such a server is called in its own era.
        let upstream = topology.upstream(UpstreamId(endpoint.servers[0].upstream));
        let legacy_only = upstream.is_some_and(|upstream| upstream.speaks(Era::Modern) == Some(false));
        let reason = if legacy_only {
            Some(MissingReason::OtherEra)
        } else {
            let merged = catalog.lists(&endpoint, View::Modern).await;
            let missing = merged.missing_server(0).map(|missing| missing.reason.clone());
            if missing.is_none()
                && upstream.is_none_or(|upstream| upstream.speaks(Era::Modern) != Some(false))
            {
                return Ok(ServedServer { endpoint, merged, era: Era::Modern });
            }
            missing
        };
        match reason {
            None | Some(MissingReason::OtherEra | MissingReason::NotRequested) => {
                let merged = catalog.lists(&endpoint, View::Legacy(ClientCapabilities::default())).await;
                match merged.missing_server(0) {
                    None => Ok(ServedServer { endpoint, merged, era: Era::Legacy }),
                    Some(missing) => Err(unavailable(&missing.reason)),
                }
            }
            Some(reason) => Err(unavailable(&reason)),
        }
    }

    /// Looks up a server by UUID. A server that is stored but not served does not exist for clients;
    /// administrators get an explanation.
    async fn served_by_id(
        &self,
        reference: &str,
        table: &RouteTable,
        call: &AuthenticatedRequest<'_>,
    ) -> Result<Option<Arc<Endpoint>>, Problem> {
        // Calls of clients do not wait for the store, unless they use a UUID, which only the store knows.
        if !call.is_admin() && Uuid::parse_str(reference).is_err() {
            return Ok(None);
        }
        let Some(row) = self.parts.store.server(reference).await? else { return Ok(None) };
        // A server of a file may be served under the name of this one.
        let is_served = self.store_status().is_served(row.id);
        let endpoint = single_endpoint(table, &row.name).filter(|_| is_served);
        if endpoint.is_none() && call.is_admin() {
            let detail = "this server is stored but not served; GET it to see why";
            return Err(Problem::new(StatusCode::CONFLICT, detail));
        }
        Ok(endpoint)
    }
}

fn unavailable(reason: &MissingReason) -> Problem {
    Problem::unavailable(format!("the server is not available: {}; nothing was called", reason.text()))
}

fn accepts_events(headers: &HeaderMap) -> bool {
    let values = headers.get_all(ACCEPT).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|range| {
        range.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(header::EVENT_STREAM)
    })
}

fn answer_events(begun: CallStart, owner: Identity) -> Result<Response<ControlPlaneBody>, Problem> {
    Ok(stream_response(match begun {
        CallStart::Events(events) => ControlPlaneBody::Stream(events, owner),
        CallStart::Whole(event, permit) => ControlPlaneBody::Whole(event?, Some(permit)),
    }))
}

fn from_fault(fault: &Fault) -> Problem {
    let status = match fault.kind {
        FaultKind::Overloaded | FaultKind::OutOfMemory => return Problem::unavailable(fault.for_client()),
        FaultKind::TimedOut => StatusCode::GATEWAY_TIMEOUT,
        _ => StatusCode::BAD_GATEWAY,
    };
    tracing::warn!(kind = fault.kind.label(), %fault, "a tool call over REST failed");
    Problem::new(status, fault.for_client())
}
