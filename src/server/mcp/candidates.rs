//! Several servers that may have one resource, asked in turn.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::timeout;

use super::call::Call;
use super::meter::Meter;
use super::resolve::no_resource;
use crate::catalog::View;
use crate::server::reply::reply::{self, Reply};
use crate::server::worker::Metering;
use crate::telemetry::metrics::OperationOutcome;
use metamcp_core::base::{Fault, FaultKind, FaultOrigin, ServerName};

/// Of several servers that may have a resource, one that does not answer keeps nobody from the next.
const CANDIDATE_TIMEOUT: Duration = Duration::from_secs(5);

/// Several servers that are asked for a resource, one after the other. It is one call, counted where it ended.
pub struct Candidates<'a> {
    metering: &'a Metering,
    call: &'a Call,
    view: View,
    meter: Option<Meter>,
    /// What is said when nobody has it.
    last: Fault,
}

impl<'a> Candidates<'a> {
    /// Nobody is asked yet.
    pub fn new(metering: &'a Metering, call: &'a Call, view: View) -> Self {
        let last = no_resource(&call.text(call.envelope.params.uri).unwrap_or_default());
        Self { metering, call, view, meter: None, last }
    }

    /// Asks the next one: its answer, when it has the resource.
    pub async fn ask(
        &mut self,
        place: usize,
        asking: impl Future<Output = Result<Option<Bytes>, Fault>>,
    ) -> Option<Reply> {
        let server = &self.call.endpoint.servers[place];
        match &mut self.meter {
            Some(meter) => meter.pass_on_to(self.metering, self.call, server),
            meter => *meter = Meter::begin(self.metering, self.call, server, None, self.view),
        }
        match timeout(CANDIDATE_TIMEOUT, asking).await {
            Ok(Ok(Some(message))) => {
                if let Some(mut meter) = self.meter.take() {
                    meter.pass(message.len());
                    meter.end(OperationOutcome::Answer);
                }
                return Some(reply::message(message));
            }
            Ok(Ok(None)) => {}
            Ok(Err(fault)) => self.last = fault,
            Err(_elapsed) => self.last = slow_candidate(&server.name),
        }
        None
    }

    /// Nobody has it.
    pub fn into_fault(mut self) -> Fault {
        let kind = (self.last.origin == FaultOrigin::Upstream).then_some(self.last.kind);
        self.meter.iter_mut().for_each(|meter| meter.fail(kind));
        self.last
    }
}

/// One of several servers was asked for a resource, and did not answer in time.
#[cold]
fn slow_candidate(server: &ServerName) -> Fault {
    Fault::upstream(
        FaultKind::TimedOut,
        format!("server `{server}` did not say in time whether it has this resource"),
    )
}
