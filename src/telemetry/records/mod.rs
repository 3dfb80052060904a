//! A record of each call: who called what, when, and how it ended.
//!
//! A worker fills a [`CallRecord`] while it handles a call, formats it, and puts it into a bounded queue, with others in one
//! batch. One writer takes the batches from there and delivers them: a thread for files and syslog ([`start_writer`]), a task
//! for OTLP ([`export`](super::exporter::export)).
//!
//! Invariants: each record is written once or counted as dropped, except those that are queued when the process is killed;
//! a worker never waits for the writer; a record has no argument and no result, and its size is bounded.
//!
//! Does not know: how a call is handled, or HTTP.

mod active_record;
mod file_log;
mod json;
mod lines;
mod otlp;
mod queue;
mod record;
mod syslog;
mod writer;

pub use active_record::{ActiveRecord, CallRecorder, RecordTicket, RequestRecorder};
pub use file_log::FileLog;
pub use json::endpoint_name;
pub use lines::Lines;
pub use queue::CallRecords;
pub use record::{CallDescription, CallOutcome, CallRecord, CallTarget, TargetKind};
pub use syslog::Syslog;
pub use writer::{RecordSink, RecordsWriter, start_writer};

#[cfg(test)]
mod tests;
