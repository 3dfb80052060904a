//! The queue of ended spans between the workers and the exporter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::ArrayQueue;

use super::otlp;
use super::span::Span;
use crate::telemetry::exporter::{BATCH_ITEMS_MAX, ExportBatch, ExportQueue};
use metamcp_config::sections::TraceConfig;

/// The state that all workers and the exporter share: the configuration, the queue of ended spans, and its counters.
pub struct Traces {
    config: TraceConfig,
    queue: ArrayQueue<Box<Span>>,
    /// The bytes in the queue that clients chose: see [`Span::client_bytes`].
    queued_bytes: AtomicUsize,
    workers: usize,
    dropped: AtomicU64,
    exported: AtomicU64,
}

/// The queue holds the spans of this many seconds: two for each trace that the budgets allow.
const QUEUE_SECONDS: usize = 10;

/// Limit for queued spans, independent of the byte budget. Each has some 300 bytes in addition to those that
/// clients chose.
const QUEUE_SPANS_MAX: usize = 1 << 16;

/// Queued bytes that clients chose: names, ids and trace states. A usual span has a hundred, the largest three thousand.
const QUEUE_BYTES_MAX: usize = 16 << 20;

impl Traces {
    /// Creates an empty queue. The budgets of the configuration are divided among `workers` workers.
    pub fn new(config: TraceConfig, workers: usize) -> Arc<Self> {
        let spans = config.traces_per_second_max.saturating_mul(4 * QUEUE_SECONDS).clamp(64, QUEUE_SPANS_MAX);
        Arc::new(Self {
            config,
            queue: ArrayQueue::new(spans),
            queued_bytes: AtomicUsize::new(0),
            workers: workers.max(1),
            dropped: AtomicU64::new(0),
            exported: AtomicU64::new(0),
        })
    }

    pub fn config(&self) -> &TraceConfig {
        &self.config
    }

    /// The number of workers that share the budgets; at least one.
    pub(super) fn workers(&self) -> usize {
        self.workers
    }

    /// Queues an ended span, or drops it when the queue is full. Never waits.
    pub(super) fn enqueue(&self, span: Box<Span>) {
        let bytes = span.client_bytes();
        // Workers that do this at the same time may exceed the bound by one span each.
        let has_room = self.queued_bytes.fetch_add(bytes, Ordering::Relaxed) < QUEUE_BYTES_MAX;
        if !has_room || self.queue.push(span).is_err() {
            self.queued_bytes.fetch_sub(bytes, Ordering::Relaxed);
            self.add_dropped(1);
        }
    }

    /// Takes the oldest span.
    pub(super) fn dequeue(&self) -> Option<Box<Span>> {
        let span = self.queue.pop()?;
        self.queued_bytes.fetch_sub(span.client_bytes(), Ordering::Relaxed);
        Some(span)
    }

    /// Spans that found the queue full or that the collector did not accept.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Spans that the collector accepted.
    pub fn exported(&self) -> u64 {
        self.exported.load(Ordering::Relaxed)
    }
}

impl ExportQueue for Traces {
    const ITEMS: &'static str = "spans";
    const COUNTER: &'static str = "metamcp_trace_spans";

    fn next_batch(&self, instance: &str) -> Option<ExportBatch> {
        let spans: Vec<_> = std::iter::from_fn(|| self.dequeue()).take(BATCH_ITEMS_MAX).collect();
        (!spans.is_empty()).then(|| ExportBatch {
            bytes: otlp::encode_batch(&self.config, instance, &spans).into(),
            items: spans.len() as u64,
        })
    }

    fn queued(&self) -> usize {
        self.queue.len()
    }

    fn rejected(&self, body: &[u8]) -> u64 {
        otlp::rejected_spans(body)
    }

    fn add_exported(&self, spans: u64) {
        self.exported.fetch_add(spans, Ordering::Relaxed);
    }

    fn add_dropped(&self, spans: u64) {
        self.dropped.fetch_add(spans, Ordering::Relaxed);
    }
}
