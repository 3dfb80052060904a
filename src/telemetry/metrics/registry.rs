//! The metrics of all workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crossbeam::utils::CachePadded;

use super::cells::SingleWriterCell;
use super::collect;
use super::exposition::{MetricFamily, MetricSample, MetricUnit, SampleValue};
use super::label::{LabelId, LabelInterner};
use super::operation::MetricsWriter;
use super::worker::{ConnectionCounts, SeriesRegistry, WorkerMetrics};
use crate::telemetry::records::CallRecords;
use crate::telemetry::traces::Traces;

/// The metrics of all workers.
pub struct Metrics {
    workers: Box<[Arc<CachePadded<WorkerMetrics>>]>,
    /// By worker: whether its [`MetricsWriter`] was handed out.
    is_taken: Box<[AtomicBool]>,
    methods: Vec<&'static str>,
    traces: Option<Arc<Traces>>,
    records: Option<Arc<CallRecords>>,
}

impl Metrics {
    /// Creates the metrics of `workers` workers. Methods that are not in `methods` are counted under [`OTHER`].
    ///
    /// [`OTHER`]: super::OTHER
    pub fn new(workers: usize, methods: &[&'static str]) -> Self {
        let series = Arc::new(SeriesRegistry::default());
        let worker = || Arc::new(CachePadded::new(WorkerMetrics::new(Arc::clone(&series), methods.len())));
        Self {
            workers: (0..workers).map(|_| worker()).collect(),
            is_taken: (0..workers).map(|_| AtomicBool::new(false)).collect(),
            methods: methods.to_vec(),
            traces: None,
            records: None,
        }
    }

    /// Sets where the spans of traced operations go.
    #[must_use]
    pub fn with_traces(self, traces: Option<Arc<Traces>>) -> Self {
        Self { traces, ..self }
    }

    /// Sets the queue of call records, whose counters are shown.
    #[must_use]
    pub fn with_records(self, records: Option<Arc<CallRecords>>) -> Self {
        Self { records, ..self }
    }

    /// The trace pipeline, when tracing is on.
    pub fn traces(&self) -> Option<&Arc<Traces>> {
        self.traces.as_ref()
    }

    /// Returns the writer of a worker, counted from zero. `None` when there is no such worker or its writer was handed out
    /// before: a cell has one writer.
    pub fn writer(&self, number: usize) -> Option<MetricsWriter> {
        let worker = self.workers.get(number)?;
        let is_taken = self.is_taken[number].swap(true, Ordering::Relaxed);
        (!is_taken).then(|| MetricsWriter::new(Arc::clone(worker)))
    }

    /// Idle connections to a server, over all workers, at most a second old.
    pub fn idle_connections(&self, server: LabelId) -> u64 {
        self.workers.iter().map(|worker| worker.idle_connections(server)).sum()
    }

    /// Open event streams of all kinds.
    pub fn open_streams(&self) -> u64 {
        self.workers.iter().flat_map(|worker| &worker.streams).map(SingleWriterCell::get).sum()
    }

    /// The client connections of all workers.
    pub fn connection_counts(&self) -> ConnectionCounts {
        let sum = |at: usize| {
            let counts = self.workers.iter().map(|worker| worker.connections[at].get());
            usize::try_from(counts.sum::<u64>()).unwrap_or(usize::MAX)
        };
        ConnectionCounts { open: sum(0), idle: sum(1), requests_in_flight: sum(2) }
    }

    /// Sums all workers into metric families. `endpoints` and `servers` resolve the label ids to names.
    pub fn families(&self, endpoints: &LabelInterner, servers: &LabelInterner) -> Vec<MetricFamily> {
        let (endpoints, servers) = (endpoints.names(), servers.names());
        let mut families = collect::collect_families(&self.workers, &self.methods, &endpoints, &servers);
        families.extend(self.traces.as_ref().map(|traces| span_family(traces)));
        families.extend(self.records.iter().flat_map(|records| record_families(records)));
        families
    }
}

fn span_family(traces: &Traces) -> MetricFamily {
    let counts = [("exported", traces.exported()), ("dropped", traces.dropped())];
    let sample = |(outcome, count)| MetricSample::new([("outcome", outcome)], SampleValue::Count(count));
    let help =
        "Trace spans: accepted by the collector, or dropped because it refused them or the queue was full";
    MetricFamily::counter("metamcp_trace_spans", help, MetricUnit::None, counts.map(sample).into())
}

fn record_families(records: &CallRecords) -> [MetricFamily; 2] {
    let counter = |name, help, count| {
        let sample = MetricSample::new([], SampleValue::Count(count));
        MetricFamily::counter(name, help, MetricUnit::None, vec![sample])
    };
    [
        counter("metamcp_records_written", "Call records that the target took", records.written()),
        counter(
            "metamcp_records_dropped",
            "Call records that did not fit in the queue, or that the target did not take",
            records.dropped(),
        ),
    ]
}
