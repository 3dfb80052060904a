//! One message of a client, answered in its era and counted.

use std::pin::pin;
use std::rc::Rc;

use super::{legacy, modern, one_request};
use crate::server::mcp::call::Call;
use crate::server::mcp::call_record;
use crate::server::mcp::relay::credential_ended;
use crate::server::mcp::trace;
use crate::server::reply::reply;
use crate::server::reply::reply::Reply;
use crate::server::worker::Worker;
use crate::server::worker::revocable_calls::CredentialEnded;
use crate::telemetry::metrics::Operation;
use metamcp_core::base::{Fault, MEMORY};
use metamcp_core::protocol::{Era, McpMethod};

/// Answers a message, whichever way it arrived. A message without a method answers another one, and is
/// counted with that.
///
/// Not cancel safe: dropping it cancels the call.
pub async fn answer(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<Reply, Fault> {
    let metrics = worker.metering.metrics.as_ref().filter(|_| call.envelope.method.is_some());
    let operation = metrics.map(|metrics| {
        let method = call.method.map(McpMethod::index);
        let operation = Operation::begin(metrics, call.endpoint.label, method, call.body.len());
        operation.traced_by(
            worker.metering.tracer.is_some().then(|| trace::begin(&worker.metering, &mut call)).flatten(),
        )
    });
    let ticket = call_record::begin(&worker.metering, &mut call);
    let identity = call.identity.clone();
    let answering = pin!(async {
        check_memory(&call)?;
        match call.era() {
            Era::Modern => modern::answer(worker, call).await,
            // Boxed, so that it does not grow the future of every request.
            Era::Legacy if one_request::is_sessionless(&call) => {
                Box::pin(one_request::answer(worker, call)).await
            }
            Era::Legacy => legacy::answer(worker, call).await,
        }
    });
    let answered = worker.revocable_calls.until_revoked(identity, answering).await;
    let mut answered =
        answered.unwrap_or_else(|CredentialEnded| Err(credential_ended("the call may have run")));
    if let Some(ticket) = ticket {
        answered = call_record::conclude(&ticket, answered);
    }
    if let Some(operation) = operation {
        match &mut answered {
            Ok(reply) if reply.status.is_success() => reply.body.count(operation),
            Ok(reply) => operation.fail_with_status(reply.status.as_u16()),
            Err(fault) => operation.fail_with_code(fault.kind, reply::code(fault)),
        }
    }
    answered
}

/// Refuses new work while memory is short. Pings are answered, and notifications and responses of the client
/// pass, since they may end what takes the memory.
fn check_memory(call: &Call) -> Result<(), Fault> {
    if call.is_request() && call.method != Some(McpMethod::Ping) {
        MEMORY.check_new_work()?;
    }
    Ok(())
}
