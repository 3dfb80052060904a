//! Usage and metrics of one tool call over REST. As for calls over MCP, a call is counted before the last
//! byte of its response is sent.

use std::time::Instant;

use bytes::Bytes;

use super::authenticated_request::AuthenticatedRequest;
use super::problem::Problem;
use crate::journal::usage::{CallCounts, CounterSlot, WorkerCounters};
use crate::limits::ReservedCall;
use crate::route::RoutedServer;
use crate::telemetry::metrics::{OperationOutcome, UpstreamOperation};
use crate::telemetry::records::{ActiveRecord, CallDescription, CallTarget, TargetKind};
use crate::telemetry::traces::TraceContext;
use metamcp_core::base::{UsageLabel, unix_seconds};
use metamcp_core::protocol::McpMethod;
use metamcp_store::auth::UsedAmount;

/// A call that is being counted. If dropped early, it counts as abandoned.
pub struct CallMeter {
    /// `None` if usage is not counted.
    slot: Option<CounterSlot>,
    /// `None` if metrics are off.
    exchange: Option<UpstreamOperation>,
    /// `None` if calls are not recorded.
    record: Option<ActiveRecord>,
    /// `None` if the key has no quota.
    quota: Option<ReservedCall>,
    began: Instant,
    /// Counts that are not added to the slot yet.
    count: CallCounts,
    ended: bool,
}

impl CallMeter {
    /// Starts counting a call to `server`. `tool` is the name at the server, and `record` what [`begin_record`] began.
    pub(super) fn begin(
        call: &AuthenticatedRequest<'_>,
        (server, tool): (&RoutedServer, &str),
        mut record: Option<ActiveRecord>,
        quota: Option<ReservedCall>,
    ) -> Self {
        if let Some(record) = &mut record {
            record.set_server(&server.name, None);
        }
        let key_id = call.identity().key_id();
        let slot = |counters: &WorkerCounters| {
            let label = UsageLabel::Tool(tool.into()).into_text();
            counters.slot(key_id.as_str(), server.name.as_str(), &label)
        };
        let method = Some(McpMethod::ToolsCall.index());
        let count = CallCounts { calls: 1, bytes_in: call.body().len() as u64, ..CallCounts::default() };
        Self {
            slot: call.counters.map(slot),
            exchange: call.metrics.map(|metrics| UpstreamOperation::begin(metrics, server.label, method)),
            record,
            quota,
            began: Instant::now(),
            count,
            ended: false,
        }
    }

    /// The first part of a streamed response is about to be sent.
    pub fn note_first_part(&mut self) {
        self.add();
        let after = self.began.elapsed();
        self.exchange.iter_mut().for_each(|exchange| exchange.record_first_byte(after));
    }

    /// That many bytes of the response are about to be sent.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.count.bytes_out += bytes as u64;
        self.record.iter_mut().for_each(|record| record.add_bytes(bytes));
    }

    /// The last part of the response is about to be sent, or there is none.
    pub fn end(&mut self, outcome: OperationOutcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let after = self.began.elapsed();
        self.count.errors = u64::from(outcome != OperationOutcome::Answer);
        self.count.millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.add();
        self.exchange.iter_mut().for_each(|exchange| exchange.end(outcome, after));
        if let Some(mut record) = self.record.take() {
            record.end(outcome.into());
        }
    }

    /// Counts a complete response.
    pub fn finish_with(mut self, answer: Result<Bytes, Problem>, failed: bool) -> Result<Bytes, Problem> {
        let bytes = match &answer {
            Ok(bytes) => bytes.len(),
            Err(problem) => problem.to_response().body().len(),
        };
        self.add_bytes(bytes);
        self.end(if failed { OperationOutcome::Error } else { OperationOutcome::Answer });
        answer
    }

    fn add(&mut self) {
        let count = std::mem::take(&mut self.count);
        if let Some(quota) = &self.quota {
            let is_in_usage = self.slot.as_ref().is_some_and(CounterSlot::has_labels);
            let bytes = count.bytes_in.saturating_add(count.bytes_out);
            quota.add(UsedAmount { calls: count.calls, bytes }, unix_seconds(), is_in_usage);
        }
        if let Some(slot) = &self.slot {
            slot.add(count);
        }
    }
}

impl Drop for CallMeter {
    fn drop(&mut self) {
        self.end(OperationOutcome::Disconnect);
    }
}

/// Begins the record of a call over REST. `None` if calls are not recorded.
pub(super) fn begin_record(call: &AuthenticatedRequest<'_>, tool: &str) -> Option<ActiveRecord> {
    let recorder = call.records?;
    let parent = call.headers().get("traceparent").and_then(|value| TraceContext::parse(value.as_bytes()));
    let description = CallDescription {
        identity: call.identity().clone(),
        scope: None,
        method: McpMethod::ToolsCall.as_str().into(),
        target: Some(CallTarget::new(TargetKind::Tool, tool)),
        id: None,
        trace: parent.map(|parent| parent.trace),
        bytes_in: call.body().len() as u64,
    };
    Some(recorder.recorder.begin(recorder.request_id, description))
}
