//! Guards that record one message, exchange or stream on the worker that handles it.

use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use metamcp_core::base::FaultKind;

use super::label::LabelId;
use super::outcome::{OperationOutcome, STREAMED_ANSWER, StreamKind};
use super::worker::{ConnectionCounts, WorkerMetrics};
use crate::telemetry::traces::ActiveSpan;

/// The one handle through which a worker writes its metrics.
pub struct MetricsWriter {
    metrics: Arc<CachePadded<WorkerMetrics>>,
    /// Makes the type `!Send` and `!Sync`: the cells have one writing thread.
    _thread: std::marker::PhantomData<Rc<()>>,
}

/// One message from a client, from its arrival until the last byte of the response was handed out. Recorded on drop.
pub struct Operation {
    writer: Rc<MetricsWriter>,
    began: Instant,
    request_bytes: u64,
    response_bytes: u64,
    endpoint: LabelId,
    method: usize,
    /// The outcome that a drop records.
    outcome: OperationOutcome,
    /// Present when the operation is traced.
    span: Option<ActiveSpan>,
}

/// One message that was sent to a server on behalf of a client. Recorded by [`end`](Self::end).
pub struct UpstreamOperation {
    writer: Rc<MetricsWriter>,
    server: LabelId,
    method: usize,
    /// Whether the response arrived in several chunks, and its first byte was recorded.
    is_streamed: bool,
    /// Present when the operation is traced.
    span: Option<ActiveSpan>,
}

/// Counts one open event stream until it is dropped.
pub struct OpenStreamGuard {
    writer: Rc<MetricsWriter>,
    kind: StreamKind,
}

impl MetricsWriter {
    pub(super) fn new(metrics: Arc<CachePadded<WorkerMetrics>>) -> Self {
        Self { metrics, _thread: std::marker::PhantomData }
    }

    /// Counts a fault that a client was answered with. `endpoint` is `None` when the request named no endpoint.
    #[cold]
    pub fn record_fault(&self, endpoint: Option<LabelId>, kind: FaultKind) {
        let faults = match endpoint {
            Some(endpoint) => &self.metrics.endpoint(endpoint).faults,
            None => &self.metrics.faults,
        };
        faults[kind.index()].add(1);
    }

    /// Sets the gauges of the worker's client connections.
    pub fn set_connection_counts(&self, counts: ConnectionCounts) {
        let ConnectionCounts { open, idle, requests_in_flight } = counts;
        for (cell, count) in self.metrics.connections.iter().zip([open, idle, requests_in_flight]) {
            cell.set(count as u64);
        }
    }

    /// Sets the gauge of idle connections to a server.
    pub fn set_idle_connections(&self, server: LabelId, connections: usize) {
        self.metrics.server(server).idle_connections.set(connections as u64);
    }
}

impl Operation {
    /// Begins an operation. `method` is the index of the method's name, or `None` for a method without one.
    #[inline]
    pub fn begin(
        writer: &Rc<MetricsWriter>,
        endpoint: LabelId,
        method: Option<usize>,
        request_bytes: usize,
    ) -> Self {
        Self {
            writer: Rc::clone(writer),
            began: Instant::now(),
            request_bytes: request_bytes as u64,
            response_bytes: 0,
            endpoint,
            method: method.unwrap_or(usize::MAX),
            outcome: OperationOutcome::Disconnect,
            span: None,
        }
    }

    /// Attaches a span, which ends with the operation.
    #[inline]
    #[must_use]
    pub fn traced_by(self, span: Option<ActiveSpan>) -> Self {
        // No struct update: it would drop `self`, which records it.
        let mut traced = self;
        traced.span = span;
        traced
    }

    /// Adds bytes of the response that are about to be sent.
    #[inline]
    pub fn add_response_bytes(&mut self, bytes: usize) {
        self.response_bytes += bytes as u64;
    }

    /// Makes a drop count as an answer. For a response that is forwarded unread: a client that disconnects may have
    /// received all it wanted.
    pub fn mark_answered(&mut self) {
        self.outcome = OperationOutcome::Answer;
    }

    /// Ends the operation with the last chunk of the response, or without one.
    #[inline]
    pub fn end(mut self, outcome: OperationOutcome) {
        self.outcome = outcome;
    }

    /// Ends an operation whose response had begun when the fault occurred. Counts the fault, too.
    #[cold]
    pub fn fail_streaming(mut self, kind: FaultKind) {
        self.writer.record_fault(Some(self.endpoint), kind);
        self.span.iter_mut().for_each(|span| span.fail(kind));
        self.end(OperationOutcome::Error);
    }

    /// Ends an operation that is answered with a fault. `code` is the JSON-RPC error code.
    #[cold]
    pub fn fail_with_code(mut self, kind: FaultKind, code: i32) {
        self.span.iter_mut().for_each(|span| span.fail_with_code(kind, code));
        self.end(OperationOutcome::Error);
    }

    /// Ends an operation that the server refused with an HTTP status.
    #[cold]
    pub fn fail_with_status(mut self, status: u16) {
        self.span.iter_mut().for_each(|span| span.fail_with_status(status));
        self.end(OperationOutcome::Error);
    }
}

impl Drop for Operation {
    #[inline]
    fn drop(&mut self) {
        let duration = self.began.elapsed();
        let metrics = &self.writer.metrics;
        let cells = metrics.endpoint(self.endpoint);
        cells.request_bytes.add(self.request_bytes);
        cells.response_bytes.add(self.response_bytes);
        let key = (self.method, self.outcome as usize);
        metrics.record_operation(cells, self.endpoint, key, nanoseconds(duration));
        if let Some(span) = &mut self.span {
            span.end(OperationOutcome::NAMES[self.outcome as usize], duration);
        }
    }
}

impl UpstreamOperation {
    /// Begins an operation at a server. `method` as for [`Operation::begin`].
    #[inline]
    pub fn begin(writer: &Rc<MetricsWriter>, server: LabelId, method: Option<usize>) -> Self {
        let method = method.unwrap_or(usize::MAX);
        Self { writer: Rc::clone(writer), server, method, is_streamed: false, span: None }
    }

    /// Attaches a span, which ends with the operation.
    #[inline]
    #[must_use]
    pub fn traced_by(self, span: Option<ActiveSpan>) -> Self {
        Self { span, ..self }
    }

    /// Records the operation under another server, which is tried instead of the first.
    pub fn redirect_to(&mut self, server: LabelId, name: &str) {
        self.server = server;
        self.span.iter_mut().for_each(|span| span.set_server(name));
    }

    /// Records the time to the first byte of a response that is not complete yet. For a response that arrives whole, that
    /// time is its duration.
    pub fn record_first_byte(&mut self, elapsed: Duration) {
        self.is_streamed = true;
        let metrics = &self.writer.metrics;
        metrics.record_first_byte(metrics.server(self.server), self.server, nanoseconds(elapsed));
    }

    /// Records the operation and ends its span.
    #[inline]
    pub fn end(&mut self, outcome: OperationOutcome, duration: Duration) {
        if let Some(span) = &mut self.span {
            span.end(OperationOutcome::NAMES[outcome as usize], duration);
        }
        let metrics = &self.writer.metrics;
        let outcome = match outcome {
            OperationOutcome::Answer if self.is_streamed => STREAMED_ANSWER,
            outcome => outcome as usize,
        };
        let cells = metrics.server(self.server);
        metrics.record_upstream_operation(cells, self.server, (self.method, outcome), nanoseconds(duration));
    }

    /// Counts a fault of the server, and marks the span as failed.
    #[cold]
    pub fn record_fault(&mut self, kind: FaultKind) {
        self.span.iter_mut().for_each(|span| span.fail(kind));
        self.writer.metrics.server(self.server).faults[kind.index()].add(1);
    }
}

impl OpenStreamGuard {
    /// Counts a stream as open.
    pub fn open(writer: &Rc<MetricsWriter>, kind: StreamKind) -> Self {
        writer.metrics.streams[kind as usize].add(1);
        Self { writer: Rc::clone(writer), kind }
    }
}

impl Drop for OpenStreamGuard {
    fn drop(&mut self) {
        self.writer.metrics.streams[self.kind as usize].sub(1);
    }
}

/// Saturates after more than 500 years.
#[inline]
fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
