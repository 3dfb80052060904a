//! The queue of records between the workers and the writer.

use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam::queue::ArrayQueue;
use metamcp_config::sections::{RecordsConfig, RecordsTarget};

use super::otlp;
use super::record::CallRecord;
use crate::telemetry::exporter::{BATCH_ITEMS_MAX, ExportBatch, ExportQueue};

/// The state that all workers and the writer share: the queue and its counters.
pub struct CallRecords {
    config: RecordsConfig,
    queue: ArrayQueue<Box<CallRecord>>,
    dropped: AtomicU64,
    written: AtomicU64,
}

impl CallRecords {
    pub fn new(config: RecordsConfig) -> Self {
        let queue = ArrayQueue::new(config.queue_max.max(1));
        Self { config, queue, dropped: AtomicU64::new(0), written: AtomicU64::new(0) }
    }

    pub fn config(&self) -> &RecordsConfig {
        &self.config
    }

    /// Queues a record, or drops it when the queue is full. Never waits.
    pub fn enqueue(&self, record: Box<CallRecord>) {
        if self.queue.push(record).is_err() {
            self.add_dropped(1);
        }
    }

    /// Takes the oldest record.
    pub(super) fn dequeue(&self) -> Option<Box<CallRecord>> {
        self.queue.pop()
    }

    pub(super) fn add_written(&self, records: u64) {
        self.written.fetch_add(records, Ordering::Relaxed);
    }

    /// Records that found the queue full, or that the target did not take.
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    /// Records that the target took.
    pub fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }
}

impl ExportQueue for CallRecords {
    const ITEMS: &'static str = "call records";
    const COUNTER: &'static str = "metamcp_records_dropped_total";

    fn next_batch(&self, instance: &str) -> Option<ExportBatch> {
        let records: Vec<_> = std::iter::from_fn(|| self.dequeue()).take(BATCH_ITEMS_MAX).collect();
        let service = match &self.config.target {
            RecordsTarget::Otlp(collector) => collector.service.as_str(),
            RecordsTarget::File(_) | RecordsTarget::Syslog(_) => "",
        };
        (!records.is_empty()).then(|| ExportBatch {
            bytes: otlp::encode_batch(service, instance, &records).into(),
            items: records.len() as u64,
        })
    }

    fn queued(&self) -> usize {
        self.queue.len()
    }

    fn rejected(&self, body: &[u8]) -> u64 {
        otlp::rejected_records(body)
    }

    fn add_exported(&self, records: u64) {
        self.add_written(records);
    }

    fn add_dropped(&self, records: u64) {
        self.dropped.fetch_add(records, Ordering::Relaxed);
    }
}
