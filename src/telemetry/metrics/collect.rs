//! Sums the cells of all workers into metric families.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::sync::Arc;

use crossbeam::utils::CachePadded;
use metamcp_core::base::FaultKind;

use super::cells::{DurationHistogram, HistogramSnapshot, SingleWriterCell};
use super::exposition::{MetricFamily, MetricSample, MetricUnit, SampleValue};
use super::label::OTHER;
use super::outcome::{OperationOutcome, STREAMED_ANSWER, StreamKind};
use super::worker::{FAULT_KINDS, OperationHistograms, WorkerMetrics};

/// Label names from OpenTelemetry's semantic conventions, with `_` for `.`.
const METHOD: &str = "mcp_method_name";
const ERROR: &str = "error_type";
/// Label names that the conventions do not define.
const ENDPOINT: &str = "metamcp_endpoint";
const SERVER: &str = "metamcp_server";
const OUTCOME: &str = "outcome";

type Workers<'a> = &'a [Arc<CachePadded<WorkerMetrics>>];

/// Names by label index.
type Names<'a> = &'a [Arc<str>];

/// By label, method and outcome.
type HistogramSums = BTreeMap<(usize, usize, usize), HistogramSnapshot>;

/// By label, or `None` for requests that named no endpoint, and by error type.
type FaultSums = BTreeMap<(Option<usize>, &'static str), u64>;

pub fn collect_families(
    workers: Workers<'_>,
    methods: &[&'static str],
    endpoints: Names<'_>,
    servers: Names<'_>,
) -> Vec<MetricFamily> {
    let mut families = endpoint_families(workers, methods, endpoints);
    families.extend(server_families(workers, methods, servers));
    families.extend(worker_families(workers));
    families
}

fn endpoint_families(workers: Workers<'_>, methods: &[&'static str], names: Names<'_>) -> Vec<MetricFamily> {
    let (mut operations, mut faults) = (HistogramSums::new(), FaultSums::new());
    let (mut request_bytes, mut response_bytes) = (BTreeMap::new(), BTreeMap::new());
    for worker in workers {
        for (label, cells) in worker.endpoints() {
            add_operations(&mut operations, label, &cells.operations);
            add_faults(&mut faults, Some(label), &cells.faults);
            request_bytes.entry(label).or_insert(0).add_assign(cells.request_bytes.get());
            response_bytes.entry(label).or_insert(0).add_assign(cells.response_bytes.get());
        }
        add_faults(&mut faults, None, &worker.faults);
    }
    let byte_counter = |name, help, sums: BTreeMap<usize, u64>| {
        let sample = |(label, bytes)| {
            MetricSample::new([(ENDPOINT, resolve_name(names, label))], SampleValue::Count(bytes))
        };
        MetricFamily::counter(name, help, MetricUnit::Bytes, sums.into_iter().map(sample).collect())
    };
    vec![
        MetricFamily::histogram(
            "mcp_server_operation_duration",
            "Messages from clients, from their arrival until the last byte of the response was handed out",
            operation_samples(operations, ENDPOINT, names, methods),
        ),
        MetricFamily::counter(
            "metamcp_faults",
            "Errors returned to clients, by type; without an endpoint where the request named none",
            MetricUnit::None,
            fault_samples(faults, ENDPOINT, names),
        ),
        byte_counter("metamcp_request", "Bytes of messages from clients", request_bytes),
        byte_counter("metamcp_response", "Bytes of the responses to them", response_bytes),
    ]
}

fn server_families(workers: Workers<'_>, methods: &[&'static str], names: Names<'_>) -> Vec<MetricFamily> {
    let (mut operations, mut faults) = (HistogramSums::new(), FaultSums::new());
    let mut first_byte: BTreeMap<usize, HistogramSnapshot> = BTreeMap::new();
    for worker in workers {
        for (label, cells) in worker.servers() {
            add_operations(&mut operations, label, &cells.operations);
            add_faults(&mut faults, Some(label), &cells.faults);
            // The first byte of an answer that arrived whole is recorded only as its duration.
            for (_, outcome, histogram) in cells.operations.iter() {
                if outcome == OperationOutcome::Answer as usize {
                    histogram.add_to(first_byte.entry(label).or_default());
                }
            }
            if let Some(histogram) = cells.first_byte.get().and_then(Option::as_deref) {
                histogram.add_to(first_byte.entry(label).or_default());
            }
        }
    }
    let first_byte = first_byte.into_iter().map(|(label, sum)| {
        MetricSample::new([(SERVER, resolve_name(names, label))], SampleValue::Histogram(Box::new(sum)))
    });
    vec![
        MetricFamily::histogram(
            "mcp_client_operation_duration",
            "Messages from clients that were sent to a server, until the last byte of its response arrived",
            operation_samples(operations, SERVER, names, methods),
        ),
        MetricFamily::histogram(
            "metamcp_time_to_first_byte",
            "Time from sending a message to a server until its response began",
            first_byte.collect(),
        ),
        MetricFamily::counter(
            "metamcp_server_faults",
            "Messages that a server failed to answer, by error type",
            MetricUnit::None,
            fault_samples(faults, SERVER, names),
        ),
    ]
}

fn worker_families(workers: Workers<'_>) -> Vec<MetricFamily> {
    let total = |cell: &dyn Fn(&WorkerMetrics) -> &SingleWriterCell| {
        // The cell of a single worker may be negative, wrapped: a stream can be opened on one and closed on another.
        let sum = workers.iter().fold(0_u64, |sum, worker| sum.wrapping_add(cell(worker).get()));
        SampleValue::Level(i64::try_from(sum).unwrap_or_default())
    };
    let streams = StreamKind::NAMES.iter().enumerate();
    let streams = streams
        .map(|(kind, name)| MetricSample::new([("kind", *name)], total(&|worker| &worker.streams[kind])));
    let states = [("open", 0), ("at_rest", 1)];
    let connections = states.map(|(name, index)| {
        MetricSample::new([("state", name)], total(&|worker| &worker.connections[index]))
    });
    vec![
        MetricFamily::gauge("metamcp_streams", "Open event streams to clients", streams.collect()),
        MetricFamily::gauge(
            "metamcp_connections",
            "Client connections: all open ones, and those of them without traffic",
            connections.into(),
        ),
        MetricFamily::gauge(
            "http_server_active_requests",
            "Requests whose response is not complete",
            vec![MetricSample::new([], total(&|worker| &worker.connections[2]))],
        ),
    ]
}

fn add_operations(sums: &mut HistogramSums, label: usize, operations: &OperationHistograms) {
    for (method, outcome, histogram) in operations.iter() {
        let outcome = if outcome == STREAMED_ANSWER { OperationOutcome::Answer as usize } else { outcome };
        DurationHistogram::add_to(histogram, sums.entry((label, method, outcome)).or_default());
    }
}

/// Adds up by error type: several fault kinds may share one.
fn add_faults(sums: &mut FaultSums, label: Option<usize>, faults: &[SingleWriterCell; FAULT_KINDS]) {
    for (kind, count) in FaultKind::ALL.into_iter().zip(faults) {
        let count = count.get();
        if count > 0 {
            *sums.entry((label, kind.label())).or_default() += count;
        }
    }
}

fn operation_samples(
    sums: HistogramSums,
    label_name: &'static str,
    names: Names<'_>,
    methods: &[&'static str],
) -> Vec<MetricSample> {
    let sample = |((label, method, outcome), sum): ((usize, usize, usize), HistogramSnapshot)| {
        let method = methods.get(method).copied().unwrap_or(OTHER);
        let outcome = OperationOutcome::NAMES[outcome];
        let labels = [(label_name, resolve_name(names, label)), (METHOD, method), (OUTCOME, outcome)];
        MetricSample::new(labels, SampleValue::Histogram(Box::new(sum)))
    };
    sums.into_iter().map(sample).collect()
}

fn fault_samples(sums: FaultSums, label_name: &'static str, names: Names<'_>) -> Vec<MetricSample> {
    let sample = |((label, error_type), count): ((Option<usize>, &'static str), u64)| {
        let name = label.map_or("", |label| resolve_name(names, label));
        MetricSample::new([(label_name, name), (ERROR, error_type)], SampleValue::Count(count))
    };
    sums.into_iter().map(sample).collect()
}

/// A name that was interned after `names` was read appears under [`OTHER`] until the next scrape.
fn resolve_name(names: Names<'_>, label: usize) -> &str {
    names.get(label).map_or(OTHER, |name| name)
}
