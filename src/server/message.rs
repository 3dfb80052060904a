//! One message of a client: answered in its era, and counted.

use std::rc::Rc;

use super::call::Call;
use super::reply::Reply;
use super::worker::Worker;
use super::{legacy, modern, reply, trace};
use crate::base::Fault;
use crate::protocol::{Era, Method};
use crate::telemetry::metrics::Operation;

/// Answers a message, by whichever way it came. What has no method answers something else, and is counted with that.
///
/// Not cancel safe: dropping it gives the call up.
pub async fn answer(worker: &Rc<Worker>, mut call: Box<Call>) -> Result<Reply, Fault> {
    let metrics = worker.metrics.as_ref().filter(|_| call.envelope.method.is_some());
    let operation = metrics.map(|metrics| {
        let method = call.method.map(Method::index);
        let operation = Operation::begin(metrics, call.endpoint.label, method, call.body.len());
        operation.traced_by(worker.tracer.is_some().then(|| trace::begin(worker, &mut call)).flatten())
    });
    let mut answered = match call.era() {
        Era::Modern => modern::answer(worker, call).await,
        Era::Legacy => legacy::answer(worker, call).await,
    };
    if let Some(operation) = operation {
        match &mut answered {
            Ok(reply) if reply.status.is_success() => reply.body.count(operation),
            Ok(reply) => operation.refuse(reply.status.as_u16()),
            Err(fault) => operation.fail(fault.kind, reply::code(fault)),
        }
    }
    answered
}
