//! What one call used: counted in mapped memory before its last byte is handed out, so that what a client has
//! seen is counted even when the process is killed in the next instant. How it went with its server is counted beside it.

use std::borrow::Cow;
use std::time::Instant;

use super::call::Call;
use super::trace;
use crate::catalog::View;
use crate::journal::usage::{CallCounts, CounterSlot, OTHER, tool_label};
use crate::route::{EndpointShape, RoutedServer};
use crate::server::worker::Metering;
use crate::telemetry::metrics::{OperationOutcome, UpstreamOperation};
use metamcp_core::base::FaultKind;
use metamcp_core::protocol::McpMethod;

/// One call of a server's, until it is counted. Dropped before its answer has passed, it counts as failed.
pub struct Meter {
    /// `None` where usage is not counted.
    slot: Option<CounterSlot>,
    /// `None` where there are no metrics.
    exchange: Option<UpstreamOperation>,
    began: Instant,
    /// What is still to be added.
    count: CallCounts,
    ended: bool,
    /// Whether some of an answer has passed that nobody here reads: whoever leaves then may have all it wanted.
    may_be_answered: bool,
}

impl Meter {
    /// Of a message that goes to a server, under its own name for what is asked for where that is another; `None`
    /// where nothing is counted.
    pub fn begin(
        metering: &Metering,
        call: &Call,
        server: &RoutedServer,
        original_name: Option<&str>,
        view: View,
    ) -> Option<Self> {
        if !call.is_request() {
            return None;
        }
        let slot = metering.counters.as_ref().map(|counters| {
            let tool = tool(metering, call, original_name, view);
            counters.slot(call.identity.key_id().as_str(), server.name.as_str(), &tool)
        });
        let method = call.method.map(McpMethod::index);
        let exchange = metering.metrics.as_ref().map(|metrics| {
            let exchange = UpstreamOperation::begin(metrics, server.label, method);
            let is_traced = call.trace.is_some();
            let span =
                is_traced.then(|| trace::begin_exchange(metering, call, server.name.as_str(), original_name));
            exchange.traced_by(span.flatten())
        });
        if slot.is_none() && exchange.is_none() {
            return None;
        }
        let count = CallCounts { calls: 1, bytes_in: call.body.len() as u64, ..CallCounts::default() };
        Some(Self { slot, exchange, began: Instant::now(), count, ended: false, may_be_answered: false })
    }

    /// The server that was asked does not have it, and this one is asked now: a call is counted once, where it ended.
    pub fn pass_on_to(&mut self, metering: &Metering, call: &Call, server: &RoutedServer) {
        if let Some(counters) = metering.counters.as_ref() {
            // What goes to one server after the other is no call of a tool.
            self.slot = Some(counters.slot(call.identity.key_id().as_str(), server.name.as_str(), ""));
        }
        self.exchange
            .iter_mut()
            .for_each(|exchange| exchange.redirect_to(server.label, server.name.as_str()));
    }

    /// The first of several pieces of the answer is about to pass.
    pub fn start(&mut self) {
        self.add();
        let after = self.began.elapsed();
        self.exchange.iter_mut().for_each(|exchange| exchange.record_first_byte(after));
    }

    /// So many bytes of the answer are about to pass.
    pub fn pass(&mut self, bytes: usize) {
        self.count.bytes_out += bytes as u64;
    }

    /// Some of an answer is about to pass that is not read here.
    pub fn pass_unread(&mut self) {
        self.may_be_answered = true;
    }

    /// There is no answer, by that fault; `None`: the server says what is wrong, by a status.
    #[cold]
    pub fn fail(&mut self, kind: Option<FaultKind>) {
        if let (Some(exchange), Some(kind), false) = (&mut self.exchange, kind, self.ended) {
            exchange.record_fault(kind);
        }
        self.end(OperationOutcome::Error);
    }

    /// The last of the answer is about to pass, or none will.
    pub fn end(&mut self, outcome: OperationOutcome) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let after = self.began.elapsed();
        self.count.errors = u64::from(outcome != OperationOutcome::Answer);
        self.count.millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        self.add();
        self.exchange.iter_mut().for_each(|exchange| exchange.end(outcome, after));
    }

    fn add(&mut self) {
        let count = std::mem::take(&mut self.count);
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

/// The server's own name for the tool that is called; empty for what is no call of a tool. A name that nobody
/// listed is the client's own invention: such names are counted as one, or there would be no end of them.
fn tool<'a>(metering: &Metering, call: &'a Call, original_name: Option<&'a str>, view: View) -> Cow<'a, str> {
    if call.method != Some(McpMethod::ToolsCall) {
        return Cow::Borrowed("");
    }
    let name = match original_name {
        None => call.text(call.envelope.params.name).unwrap_or_default(),
        Some(original_name) => Cow::Borrowed(original_name),
    };
    let is_listed = call.endpoint.shape != EndpointShape::Single
        || metering.catalog.has_tool(&call.endpoint, view, &name);
    if is_listed && tool_label(&name) == name { name } else { Cow::Borrowed(OTHER) }
}
