//! The usage and metrics of one call.
//!
//! Usage is counted in mapped memory before the last byte is handed out, so that whatever a client received
//! is counted even if the process is killed in the next instant. The outcome at the server goes to the
//! metrics, and into the record of the call.

use std::borrow::Cow;
use std::time::Instant;

use super::call::Call;
use super::target::{self, Rename};
use super::trace;
use crate::catalog::{ListKind, View};
use crate::journal::usage::{CallCounts, CounterSlot, OTHER, WorkerCounters};
use crate::limits::ReservedCall;
use crate::route::{EndpointShape, RoutedServer};
use crate::server::worker::{Metering, Worker};
use crate::telemetry::metrics::{OperationOutcome, UpstreamOperation};
use crate::telemetry::records::ActiveRecord;
use metamcp_core::base::{Fault, FaultKind, UsageLabel, unix_seconds};
use metamcp_core::protocol::McpMethod;
use metamcp_store::auth::UsedAmount;

/// One call to a server, until it is counted. If it is dropped before its answer has passed, it counts as
/// failed.
pub struct Meter {
    /// `None` if usage is not counted.
    slot: Option<CounterSlot>,
    /// `None` if metrics are off.
    exchange: Option<UpstreamOperation>,
    /// `None` if calls are not recorded.
    record: Option<ActiveRecord>,
    /// `None` if the key has no quota.
    quota: Option<ReservedCall>,
    began: Instant,
    /// Counts that have not been added to the slot yet.
    count: CallCounts,
    ended: bool,
    /// Whether part of a response passed without being parsed. A client that disconnects after that may have
    /// received its answer.
    may_be_answered: bool,
}

impl Meter {
    /// Starts the meter of a message to a server. `rename` has the server's own name for the item, if
    /// it differs from the name in the message. Returns `None` if nothing is counted, and a fault if a quota of the key is
    /// used up.
    pub fn begin(
        worker: &Worker,
        call: &Call,
        server: &RoutedServer,
        rename: Option<&Rename>,
        view: View,
    ) -> Result<Option<Self>, Fault> {
        if !call.is_request() {
            return Ok(None);
        }
        let metering = &worker.metering;
        let quota = worker.credentials.reserve_call(&call.identity)?;
        let slot = metering.counters.as_ref().map(|counters| {
            find_slot(counters, call, server, label(metering, call, target::counted(rename), view))
        });
        // Records and spans are no labels: they have the name also if no server listed it.
        let original_name = rename.map(|(_, original_name)| original_name.text.as_str());
        let method = call.method.map(McpMethod::index);
        let exchange = metering.metrics.as_ref().map(|metrics| {
            let exchange = UpstreamOperation::begin(metrics, server.label, method);
            let is_traced = call.trace.is_some();
            let span =
                is_traced.then(|| trace::begin_exchange(metering, call, server.name.as_str(), original_name));
            exchange.traced_by(span.flatten())
        });
        let mut record = call.record.as_ref().and_then(|ticket| ticket.take());
        if slot.is_none() && exchange.is_none() && record.is_none() && quota.is_none() {
            return Ok(None);
        }
        if let Some(record) = &mut record {
            record.set_server(&server.name, original_name);
        }
        let count = CallCounts { calls: 1, bytes_in: call.body.len() as u64, ..CallCounts::default() };
        Ok(Some(Self {
            slot,
            exchange,
            record,
            quota,
            began: Instant::now(),
            count,
            ended: false,
            may_be_answered: false,
        }))
    }

    /// Moves the call to the next candidate, because the last one does not have the resource. A call is
    /// counted once, at the server where it ended.
    pub fn move_to(&mut self, metering: &Metering, call: &Call, server: &RoutedServer) {
        if let Some(counters) = metering.counters.as_ref() {
            // Only resources that no server lists are tried at several.
            let label = UsageLabel::Resource(OTHER.into());
            self.slot = Some(find_slot(counters, call, server, label));
        }
        self.exchange
            .iter_mut()
            .for_each(|exchange| exchange.redirect_to(server.label, server.name.as_str()));
        self.record.iter_mut().for_each(|record| record.set_server(&server.name, None));
    }

    /// Notes that the first of several chunks of the response is about to pass.
    pub fn start(&mut self) {
        self.add();
        let after = self.began.elapsed();
        self.exchange.iter_mut().for_each(|exchange| exchange.record_first_byte(after));
    }

    /// Adds response bytes that are about to pass.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.count.bytes_out += bytes as u64;
        self.record.iter_mut().for_each(|record| record.add_bytes(bytes));
    }

    /// Notes that bytes of a response are about to pass unparsed.
    pub fn add_unparsed(&mut self) {
        self.may_be_answered = true;
    }

    /// Ends the call without an answer. `kind` is `None` if the server rejected the call with a status of its
    /// own.
    #[cold]
    pub fn fail(&mut self, kind: Option<FaultKind>) {
        if let (Some(exchange), Some(kind), false) = (&mut self.exchange, kind, self.ended) {
            exchange.record_fault(kind);
        }
        if let (Some(record), Some(kind)) = (&mut self.record, kind) {
            record.set_error(kind.label());
        }
        self.end(OperationOutcome::Error);
    }

    /// Ends the call: the last of its response is about to pass, or none will.
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

impl Drop for Meter {
    fn drop(&mut self) {
        self.end(if self.may_be_answered { OperationOutcome::Answer } else { OperationOutcome::Disconnect });
    }
}

/// What to count the call as: the server's own name of the tool or prompt, or the URI. Names that are not listed are invented by
/// clients, or match a template; they are counted as one, since their number has no bound.
fn label<'a>(
    metering: &Metering,
    call: &'a Call,
    original_name: Option<&'a str>,
    view: View,
) -> UsageLabel<'a> {
    let params = &call.envelope.params;
    let (kind, shown) = match call.method {
        Some(McpMethod::ToolsCall) => (ListKind::Tools, params.name),
        Some(McpMethod::PromptsGet) => (ListKind::Prompts, params.name),
        Some(McpMethod::ResourcesRead) => (ListKind::Resources, params.uri),
        _ => return UsageLabel::None,
    };
    // With several servers, a tool was found by its name.
    let is_found_by_name = kind == ListKind::Tools && call.endpoint.shape != EndpointShape::Single;
    let (name, is_listed) = match original_name {
        Some(original) if is_found_by_name => (Cow::Borrowed(original), true),
        _ => {
            let shown = call.text(shown).unwrap_or_default();
            let is_listed = is_found_by_name || metering.catalog.has_item(&call.endpoint, view, kind, &shown);
            (original_name.map_or(shown, Cow::Borrowed), is_listed)
        }
    };
    let label = match kind {
        ListKind::Tools => UsageLabel::Tool(name),
        ListKind::Prompts => UsageLabel::Prompt(name),
        ListKind::Resources | ListKind::Templates => UsageLabel::Resource(name),
    };
    if is_listed { label } else { label.into_other() }
}

/// The slot to count the call in.
fn find_slot(
    counters: &WorkerCounters,
    call: &Call,
    server: &RoutedServer,
    label: UsageLabel<'_>,
) -> CounterSlot {
    let (key_id, server) = (call.identity.key_id(), server.name.as_str());
    let key = key_id.as_str();
    let is_of_many = matches!(label, UsageLabel::Prompt(_) | UsageLabel::Resource(_));
    let text = label.into_text();
    if is_of_many && !counters.has_room(key, server, &text) {
        let other = UsageLabel::parse(&text).into_other().into_text();
        return counters.slot(key, server, &other);
    }
    counters.slot(key, server, &text)
}
