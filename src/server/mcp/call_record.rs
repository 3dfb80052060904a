//! The record of a message: begun when the message has been read, and ended by the meter of the server that is asked, or here
//! if none is.

use std::rc::Rc;

use super::call::Call;
use crate::server::http1::fields::Field;
use crate::server::reply::reply::Reply;
use crate::server::worker::Metering;
use crate::telemetry::records::{CallDescription, CallOutcome, CallTarget, RecordTicket, TargetKind};
use crate::telemetry::traces::{TraceContext, TraceId};
use metamcp_core::base::Fault;
use metamcp_core::protocol::McpMethod;

/// Begins the record of a request. `None` if nobody wants it.
pub fn begin(metering: &Metering, call: &mut Call) -> Option<Rc<RecordTicket>> {
    let recorder = &metering.recorder;
    if !recorder.is_wanted() || !call.is_request() {
        return None;
    }
    let request_id = metering.next_request_id();
    let record = recorder.begin(request_id, describe(call));
    let ticket = Rc::new(RecordTicket::new(request_id, record));
    call.record = Some(Rc::clone(&ticket));
    Some(ticket)
}

/// Ends the record of a message for which no server was asked, and gives a fault the id of the record.
pub fn conclude(ticket: &RecordTicket, answered: Result<Reply, Fault>) -> Result<Reply, Fault> {
    let record = ticket.take();
    match answered {
        Ok(reply) => {
            if let Some(mut record) = record {
                record.add_bytes(reply.body.ready_bytes());
                let is_answer = reply.status.is_success();
                record.end(if is_answer { CallOutcome::Answer } else { CallOutcome::Refusal });
            }
            Ok(reply)
        }
        Err(fault) => {
            if let Some(mut record) = record {
                record.set_error(fault.kind.label());
                record.end(CallOutcome::Refusal);
            }
            Err(fault.with_request_id(ticket.request_id()))
        }
    }
}

fn describe(call: &Call) -> CallDescription {
    let params = &call.envelope.params;
    let (kind, name) = match call.method {
        Some(McpMethod::ToolsCall) => (TargetKind::Tool, params.name),
        Some(McpMethod::PromptsGet) => (TargetKind::Prompt, params.name),
        Some(McpMethod::ResourcesRead | McpMethod::Subscribe | McpMethod::Unsubscribe) => {
            (TargetKind::Resource, params.uri)
        }
        _ => (TargetKind::Tool, None),
    };
    CallDescription {
        identity: call.identity.clone(),
        scope: Some(call.endpoint.scope.clone()),
        method: match call.method {
            Some(method) => method.as_str().into(),
            None => CallDescription::short_method(&call.text(call.envelope.method).unwrap_or_default()),
        },
        target: call.text(name).map(|name| CallTarget::new(kind, &name)),
        id: call.envelope.id.and_then(|id| CallDescription::short_id(id.span.slice(&call.body))),
        trace: trace_of(call),
        bytes_in: call.body.len() as u64,
    }
}

/// The trace that the message belongs to: its own span's if it is traced here, or else the one in the client's header.
fn trace_of(call: &Call) -> Option<TraceId> {
    match &call.trace {
        Some(trace) => Some(trace.server.trace),
        None => {
            call.fields.get(Field::Traceparent).and_then(TraceContext::parse).map(|context| context.trace)
        }
    }
}
