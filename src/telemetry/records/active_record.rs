//! A record while its call is handled.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use metamcp_core::base::{RequestId, ServerName};

use super::queue::CallRecords;
use super::record::{CallDescription, CallOutcome, CallRecord, CallTarget};

/// A worker's access to the queue. Stays on its thread, so that a record does not touch a shared reference count.
#[derive(Clone)]
#[expect(clippy::redundant_allocation, reason = "the count of the Rc is not shared between threads")]
pub struct CallRecorder(Rc<Arc<CallRecords>>);

/// What records the call of one HTTP request.
#[derive(Clone, Copy)]
pub struct RequestRecorder<'a> {
    pub recorder: &'a CallRecorder,
    pub request_id: RequestId,
}

/// A call that has not ended. Queued when it ends; dropping it before records a disconnect.
pub struct ActiveRecord {
    recorder: CallRecorder,
    /// `None` once it is queued.
    record: Option<Box<CallRecord>>,
    began: Instant,
}

/// Hands the record of a message to what sends it to a server. What nobody takes is recorded where the message was read.
pub struct RecordTicket {
    request_id: RequestId,
    record: Cell<Option<ActiveRecord>>,
}

impl CallRecorder {
    pub fn new(records: &Arc<CallRecords>) -> Self {
        Self(Rc::new(Arc::clone(records)))
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
        ActiveRecord { recorder: self.clone(), record: Some(Box::new(record)), began: Instant::now() }
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
    }

    /// Adds bytes of the response that are about to be handed out.
    pub fn add_bytes(&mut self, bytes: usize) {
        self.record.iter_mut().for_each(|record| record.bytes_out += bytes as u64);
    }

    /// Notes the gateway's own error.
    pub fn set_error(&mut self, error: &'static str) {
        self.record.iter_mut().for_each(|record| record.error = Some(error));
    }

    /// Queues the record. Later calls have no effect.
    pub fn end(&mut self, outcome: CallOutcome) {
        if let Some(mut record) = self.record.take() {
            record.outcome = outcome;
            record.duration_ms = milliseconds(self.began.elapsed());
            self.recorder.0.enqueue(record);
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
