//! The queue of records between the workers and the writer.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use crossbeam::queue::SegQueue;
use metamcp_config::sections::{RecordsConfig, RecordsTarget};

use super::lines::Lines;
use super::otlp;
use super::record::CallRecord;
use crate::telemetry::exporter::{BATCH_ITEMS_MAX, ExportBatch, ExportQueue};

/// The state that all workers and the writer share: the queue and its counters.
pub struct CallRecords {
    config: RecordsConfig,
    queue: SegQueue<RecordBatch>,
    /// The records in the queue: at most `queue_max`.
    queued: AtomicUsize,
    dropped: AtomicU64,
    written: AtomicU64,
}

/// Records of one worker, in the form that the target takes.
pub(super) enum RecordBatch {
    Lines(Lines),
    Records(Vec<CallRecord>),
}

/// The most records of a batch. A worker holds less than that.
const BATCH_RECORDS_MAX: usize = 64;

impl RecordBatch {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Lines(lines) => lines.count(),
            Self::Records(records) => records.len(),
        }
    }
}

impl CallRecords {
    pub fn new(config: RecordsConfig) -> Self {
        Self {
            config,
            queue: SegQueue::new(),
            queued: AtomicUsize::new(0),
            dropped: AtomicU64::new(0),
            written: AtomicU64::new(0),
        }
    }

    pub fn config(&self) -> &RecordsConfig {
        &self.config
    }

    /// An empty batch of what the target takes.
    pub(super) fn new_batch(&self) -> RecordBatch {
        match &self.config.target {
            RecordsTarget::Otlp(_) => RecordBatch::Records(Vec::new()),
            RecordsTarget::File(_) | RecordsTarget::Syslog(_) => RecordBatch::Lines(Lines::default()),
        }
    }

    /// The records of a full batch: a small part of the queue, so that little is dropped at once.
    pub(super) fn batch_records_max(&self) -> usize {
        (self.config.queue_max / 16).clamp(1, BATCH_RECORDS_MAX)
    }

    /// Queues records, or drops them when the queue is full. Never waits.
    pub(super) fn enqueue(&self, batch: RecordBatch) {
        let records = batch.len();
        let before = self.queued.fetch_add(records, Ordering::AcqRel);
        if before + records > self.config.queue_max {
            self.queued.fetch_sub(records, Ordering::AcqRel);
            self.add_dropped(records as u64);
        } else {
            self.queue.push(batch);
        }
    }

    /// Takes the oldest batch.
    pub(super) fn dequeue(&self) -> Option<RecordBatch> {
        let batch = self.queue.pop()?;
        self.queued.fetch_sub(batch.len(), Ordering::AcqRel);
        Some(batch)
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
        let mut records = Vec::new();
        while records.len() + BATCH_RECORDS_MAX <= BATCH_ITEMS_MAX
            && let Some(RecordBatch::Records(batch)) = self.dequeue()
        {
            records.extend(batch);
        }
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
        self.queued.load(Ordering::Acquire)
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
