//! A record while its call is handled.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use tokio::sync::Notify;
use tokio::task::spawn_local;
use tokio::time::sleep;

use metamcp_core::base::{RequestId, ServerName};

use super::json::RecordFormatter;
use super::queue::{CallRecords, RecordBatch};
use super::record::{CallDescription, CallOutcome, CallRecord, CallTarget};
use crate::telemetry::events::{CallEvent, Event, EventLog};

/// Records the calls of one worker, and tells the log of events of them. Stays on its thread, where records are formatted: what
/// they refer to is then never freed by another thread, nor are reference counts shared with one.
#[derive(Clone)]
pub struct CallRecorder {
    /// `None` if calls are not recorded.
    records: Option<Rc<WorkerRecords>>,
    events: Arc<EventLog>,
}

struct WorkerRecords {
    records: Arc<CallRecords>,
    batch: RefCell<RecordBatch>,
    formatter: RefCell<RecordFormatter>,
    /// Notified when a batch is begun.
    begun: Notify,
}

/// How long a batch is collected that does not become full.
const BATCH_DELAY: Duration = Duration::from_millis(100);

/// What records the call of one HTTP request.
#[derive(Clone, Copy)]
pub struct RequestRecorder<'a> {
    pub recorder: &'a CallRecorder,
    pub request_id: RequestId,
}

/// A call that has not ended. Recorded when it ends; dropping it before records a disconnect.
pub struct ActiveRecord {
    recorder: CallRecorder,
    /// `None` once it has ended.
    record: Option<Box<CallRecord>>,
    /// Whether the log of events knows of it.
    is_told: bool,
    began: Instant,
}

/// Hands the record of a message to what sends it to a server. What nobody takes is recorded where the message was read.
pub struct RecordTicket {
    request_id: RequestId,
    record: Cell<Option<ActiveRecord>>,
}

impl CallRecorder {
    /// Runs in a `LocalSet`, on which it spawns the task that queues batches which do not become full. `records` is `None` if
    /// calls are not recorded.
    pub fn new(records: Option<&Arc<CallRecords>>, events: &Arc<EventLog>) -> Self {
        let records = records.map(|records| {
            let worker = Rc::new(WorkerRecords {
                records: Arc::clone(records),
                batch: RefCell::new(records.new_batch()),
                formatter: RefCell::default(),
                begun: Notify::new(),
            });
            spawn_local(flush_old_batches(Rc::clone(&worker)));
            worker
        });
        Self { records, events: Arc::clone(events) }
    }

    /// Whether calls are recorded, or somebody reads their events. Asked for each call.
    pub fn is_wanted(&self) -> bool {
        self.records.is_some() || self.events.wants_calls()
    }

    /// Takes the record of a call that has ended.
    fn add(&self, record: CallRecord) {
        if self.events.wants_calls() {
            self.events.add(Event::of_call(CallEvent::Ended, &record));
        }
        if let Some(records) = &self.records {
            records.add(record);
        }
    }

    /// Begins the record of a call that arrives now.
    pub fn begin(&self, request_id: RequestId, call: CallDescription) -> ActiveRecord {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let record = CallRecord {
            request_id,
            began_unix_ms: milliseconds(now),
            call,
            server: None,
            outcome: CallOutcome::Disconnect,
            error: None,
            duration_ms: 0,
            bytes_out: 0,
        };
        let record = Some(Box::new(record));
        ActiveRecord { recorder: self.clone(), record, is_told: false, began: Instant::now() }
    }
}

/// Ends with the worker.
async fn flush_old_batches(worker: Rc<WorkerRecords>) {
    loop {
        worker.begun.notified().await;
        sleep(BATCH_DELAY).await;
        worker.flush();
    }
}

impl WorkerRecords {
    /// Adds a record to the batch, and queues the batch once it is full or old.
    fn add(&self, record: CallRecord) {
        let mut batch = self.batch.borrow_mut();
        match &mut *batch {
            RecordBatch::Lines(lines) => {
                lines.push(|line| self.formatter.borrow_mut().write(line, &record));
            }
            RecordBatch::Records(records) => records.push(record),
        }
        let records = batch.len();
        drop(batch);
        if records >= self.records.batch_records_max() {
            self.flush();
        } else if records == 1 {
            self.begun.notify_one();
        }
    }

    /// Queues the batch, unless it is empty.
    fn flush(&self) {
        let batch = self.batch.replace(self.records.new_batch());
        if batch.len() > 0 {
            self.records.enqueue(batch);
        }
    }
}

impl Drop for WorkerRecords {
    fn drop(&mut self) {
        self.flush();
    }
}

impl ActiveRecord {
    /// Notes which server is asked, and the server's own name for the item, if it differs from the name in the message.
    pub fn set_server(&mut self, server: &ServerName, original_name: Option<&str>) {
        let Some(record) = &mut self.record else { return };
        record.server = Some(server.clone());
        if let (Some(target), Some(name)) = (&mut record.call.target, original_name) {
            *target = CallTarget::new(target.kind, name);
        }
        // A read that several servers may have starts once.
        if !std::mem::replace(&mut self.is_told, true) && self.recorder.events.wants_calls() {
            self.recorder.events.add(Event::of_call(CallEvent::Started, record));
        }
    }

    /// Adds bytes of the response that are about to be handed out.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.record.iter_mut().for_each(|record| record.bytes_out += bytes as u64);
    }

    /// Notes the gateway's own error.
    pub fn set_error(&mut self, error: &'static str) {
        self.record.iter_mut().for_each(|record| record.error = Some(error));
    }

    /// Completes the record. Later calls have no effect.
    pub fn end(&mut self, outcome: CallOutcome) {
        if let Some(mut record) = self.record.take() {
            record.outcome = outcome;
            record.duration_ms = milliseconds(self.began.elapsed());
            self.recorder.add(*record);
        }
    }
}

impl Drop for ActiveRecord {
    fn drop(&mut self) {
        self.end(CallOutcome::Disconnect);
    }
}

impl RecordTicket {
    pub fn new(request_id: RequestId, record: ActiveRecord) -> Self {
        Self { request_id, record: Cell::new(Some(record)) }
    }

    pub fn request_id(&self) -> RequestId {
        self.request_id
    }

    /// The record, unless it was taken before.
    pub fn take(&self) -> Option<ActiveRecord> {
        self.record.take()
    }
}

/// Saturates after 500 million years.
fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
