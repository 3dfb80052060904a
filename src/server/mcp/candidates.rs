//! Reading a resource that several servers may have: they are asked in turn.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::call::Call;
use super::meter::Meter;
use super::resolve::no_resource;
use crate::catalog::View;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Worker;
use crate::telemetry::metrics::OperationOutcome;
use metamcp_core::base::{Fault, FaultKind, FaultOrigin, ServerName};

/// Timeout for each candidate, so that one silent server does not keep the client from the next.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(5);

/// The candidates for one resource. All attempts are one call, counted at the server where it ended.
pub struct Candidates<'a> {
    worker: &'a Worker,
    call: &'a Call,
    view: View,
    meter: Option<Meter>,
    /// The fault to report if no candidate has the resource.
    last: Fault,
}

impl<'a> Candidates<'a> {
    /// Starts with no candidate asked.
    pub fn new(worker: &'a Worker, call: &'a Call, view: View) -> Self {
        let last = no_resource(&call.text(call.envelope.params.uri).unwrap_or_default());
        Self { worker, call, view, meter: None, last }
    }

    /// Asks the next candidate. Returns its answer if it has the resource, and a fault if a quota of the key is used up.
    pub async fn ask(
        &mut self,
        place: usize,
        asking: impl Future<Output = Result<Option<Bytes>, Fault>>,
    ) -> Result<Option<Reply>, Fault> {
        let server = &self.call.endpoint.servers[place];
        match &mut self.meter {
            Some(meter) => meter.move_to(&self.worker.metering, self.call, server),
            meter => *meter = Meter::begin(self.worker, self.call, server, None, self.view)?,
        }
        match timeout(CANDIDATE_TIMEOUT, asking).await {
            Ok(Ok(Some(message))) => {
                if let Some(mut meter) = self.meter.take() {
                    meter.add_bytes(message.len());
                    meter.end(OperationOutcome::Answer);
                }
                return Ok(Some(reply::message(message)));
            }
            Ok(Ok(None)) => {}
            Ok(Err(fault)) => self.last = fault,
            Err(_elapsed) => self.last = slow_candidate(&server.name),
        }
        Ok(None)
    }

    /// The fault to report when no candidate had the resource.
    pub fn into_fault(mut self) -> Fault {
        let kind = (self.last.origin == FaultOrigin::Upstream).then_some(self.last.kind);
        self.meter.iter_mut().for_each(|meter| meter.fail(kind));
        self.last
    }
}

/// The fault for a candidate that did not answer in time.
#[cold]
fn slow_candidate(server: &ServerName) -> Fault {
    Fault::upstream(
        FaultKind::TimedOut,
        format!("server `{server}` did not say in time whether it has this resource"),
    )
}
