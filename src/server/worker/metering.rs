//! What one worker counts and traces, and how it logs faults.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::clock::Clock;
use crate::catalog::Catalog;
use crate::journal::usage::WorkerCounters;
use crate::telemetry::metrics::{LabelId, MetricsWriter, OpenStreamGuard, StreamKind};
use crate::telemetry::records::CallRecorder;
use crate::telemetry::traces::Tracer;
use metamcp_core::base::{Fault, FaultOrigin, LogLimit, RequestId};

/// The counters of one worker.
pub struct Metering {
    /// Usage counters, if usage is recorded.
    pub counters: Option<WorkerCounters>,
    /// Metrics, if they are collected.
    pub metrics: Option<Rc<MetricsWriter>>,
    /// The tracer, if traces are exported.
    pub tracer: Option<Tracer>,
    /// Records calls, and tells of them, if that is wanted.
    pub recorder: CallRecorder,
    /// Distinguishes listed tools from names that clients made up.
    pub catalog: Arc<Catalog>,
    /// For request ids and trace sampling.
    pub clock: Rc<Clock>,
    pub number: usize,
    /// The number of request ids so far.
    pub requests: Cell<u64>,
    /// Of the faults that are not the client's.
    pub fault_log: RefCell<LogLimit>,
}

/// Faults of a worker that are logged in a minute. The state of a server that fails is logged besides, and all faults are
/// counted.
pub const FAULT_LOG: LogLimit = LogLimit::new(10, Duration::from_mins(1));

impl Metering {
    /// Counts an event stream until the guard is dropped.
    pub fn streaming(&self, kind: StreamKind) -> Option<OpenStreamGuard> {
        self.metrics.as_ref().map(|metrics| OpenStreamGuard::open(metrics, kind))
    }

    /// Creates an id for logs, records, and the `X-Request-Id` of a fault.
    pub fn next_request_id(&self) -> RequestId {
        let count = self.requests.get() + 1;
        self.requests.set(count);
        RequestId { second: self.clock.now_s(), worker: self.number, count }
    }

    /// Counts a fault that is sent to a client, by endpoint if there is one, and logs it. Returns the request
    /// id.
    #[cold]
    pub fn answer_fault(&self, endpoint: Option<LabelId>, fault: &Fault) -> String {
        self.metrics.iter().for_each(|metrics| metrics.record_fault(endpoint, fault.kind));
        self.note_fault(fault)
    }

    /// Logs a fault. Faults of clients, and those over the limit, are only logged for debugging. Returns the request id.
    #[cold]
    pub fn note_fault(&self, fault: &Fault) -> String {
        let request_id =
            fault.request_id.as_deref().copied().unwrap_or_else(|| self.next_request_id()).to_string();
        let kind = fault.kind.label();
        let is_clients = fault.origin == FaultOrigin::Client;
        let admitted = if is_clients { None } else { self.fault_log.borrow_mut().admit(Instant::now()) };
        match admitted {
            Some(suppressed) if suppressed > 0 => {
                tracing::warn!(request_id, kind, %fault, suppressed, "request failed, and others that were not logged");
            }
            Some(_) => tracing::warn!(request_id, kind, %fault, "request failed"),
            None => tracing::debug!(request_id, kind, %fault, "request failed"),
        }
        request_id
    }
}
