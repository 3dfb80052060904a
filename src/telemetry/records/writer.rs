//! The thread that writes records.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use metamcp_core::base::{OutageLine, OutageLog};
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::lines::Lines;
use super::queue::{CallRecords, RecordBatch};
use crate::telemetry::exporter::ExportQueue as _;

/// A target of lines. Only the writer's thread uses it, so it may wait.
pub trait RecordSink: Send {
    /// For the log: which file or socket it is.
    fn name(&self) -> String;

    /// Writes lines, or some of the first of them. Returns how many were written; the writer passes the others again.
    fn write(&mut self, lines: &Lines) -> (usize, io::Result<()>);

    /// Opens the target anew.
    fn reopen(&mut self);
}

/// The running writer, which ends when it is stopped.
pub struct RecordsWriter {
    thread: Thread,
    signals: Arc<WriterSignals>,
    ended: oneshot::Receiver<()>,
}

#[derive(Default)]
struct WriterSignals {
    reopen: AtomicBool,
    stop: AtomicBool,
}

/// Lines that are written at once: one system call for some 200 calls.
const BATCH_BYTES: usize = 64 << 10;

/// Between two looks at the queue while there are records. Workers do not wake the writer, because that takes a system call.
const BUSY_POLL: Duration = Duration::from_millis(20);

/// The same while there are none.
const IDLE_POLL: Duration = Duration::from_millis(200);

/// Between two attempts to write after an error.
const RETRY: Duration = Duration::from_secs(1);

/// For writing what is left when the gateway stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two looks at the number of dropped records.
const DROP_CHECK: Duration = Duration::from_secs(1);

/// Starts the thread that writes records to `sink`.
///
/// # Errors
/// The system has no thread left.
pub fn start_writer(records: Arc<CallRecords>, sink: Box<dyn RecordSink>) -> io::Result<RecordsWriter> {
    let signals = Arc::new(WriterSignals::default());
    let (ending, ended) = oneshot::channel();
    let mut writer = Writer {
        records,
        sink,
        signals: Arc::clone(&signals),
        lines: Lines::default(),
        outage: OutageLog::default(),
        dropped: DropLog::default(),
    };
    let spawned = thread::Builder::new().name("records".into()).spawn(move || {
        writer.run();
        // Nobody waits if the gateway was stopped at once.
        let _ = ending.send(());
    });
    Ok(RecordsWriter { thread: spawned?.thread().clone(), signals, ended })
}

impl RecordsWriter {
    /// A function that makes the writer open its target anew, for programs that rotate logs.
    pub fn reopener(&self) -> impl Fn() + 'static {
        let (signals, thread) = (Arc::clone(&self.signals), self.thread.clone());
        move || {
            signals.reopen.store(true, Ordering::Release);
            thread.unpark();
        }
    }

    /// Writes what is queued, and ends. A target that does not take it in time is left behind.
    pub async fn stop(self) {
        self.signals.stop.store(true, Ordering::Release);
        self.thread.unpark();
        if timeout(STOP_TIMEOUT * 2, self.ended).await.is_err() {
            tracing::warn!("call records are still being written; the last ones are lost");
        }
    }
}

struct Writer {
    records: Arc<CallRecords>,
    sink: Box<dyn RecordSink>,
    signals: Arc<WriterSignals>,
    /// Lines that the target has not taken yet.
    lines: Lines,
    outage: OutageLog,
    dropped: DropLog,
}

impl Writer {
    /// Runs until the writer is stopped and the queue is empty, or the target does not take the rest in time.
    fn run(&mut self) {
        let mut has_written = false;
        while !self.signals.stop.load(Ordering::Acquire) {
            let poll = match self.step() {
                Progress::Written => {
                    has_written = true;
                    continue;
                }
                Progress::Idle if std::mem::take(&mut has_written) => BUSY_POLL,
                Progress::Idle => IDLE_POLL,
                Progress::Failed => RETRY,
            };
            thread::park_timeout(poll);
        }
        let deadline = Instant::now() + STOP_TIMEOUT;
        while Instant::now() < deadline && matches!(self.step(), Progress::Written) {}
        let rest = self.lines.count() + self.records.queued();
        if rest > 0 {
            self.records.add_dropped(rest as u64);
            tracing::error!(records = rest, "the last call records were not written");
        }
    }

    /// Writes what is queued, up to a limit.
    fn step(&mut self) -> Progress {
        if self.signals.reopen.swap(false, Ordering::AcqRel) {
            self.sink.reopen();
        }
        self.dropped.check(&self.records);
        while self.lines.bytes().len() < BATCH_BYTES {
            let Some(RecordBatch::Lines(lines)) = self.records.dequeue() else { break };
            self.lines.append(&lines);
        }
        if self.lines.is_empty() {
            return Progress::Idle;
        }
        let (written, outcome) = self.sink.write(&self.lines);
        self.lines.remove(written);
        self.records.add_written(written as u64);
        match outcome {
            Ok(()) => {
                if self.outage.succeed(Instant::now()).is_some() {
                    tracing::info!(target = self.sink.name(), "call records are written again");
                }
                Progress::Written
            }
            Err(error) => {
                let target = self.sink.name();
                match self.outage.fail(Instant::now()) {
                    Some(OutageLine::Begin) => {
                        tracing::error!(%error, target, "cannot write call records; trying again every second");
                    }
                    Some(OutageLine::Continue { failures }) => {
                        tracing::error!(%error, target, failures, "call records still cannot always be written");
                    }
                    None => {}
                }
                Progress::Failed
            }
        }
    }
}

/// What one step came to.
enum Progress {
    Written,
    /// The queue was empty.
    Idle,
    Failed,
}

/// Logs when records begin to be dropped, and when that ends.
#[derive(Default)]
struct DropLog {
    checked: Option<Instant>,
    seen: u64,
    /// The count when records were last logged as no longer dropped.
    before: u64,
    outage: OutageLog,
}

impl DropLog {
    fn check(&mut self, records: &CallRecords) {
        if self.checked.is_some_and(|checked| checked.elapsed() < DROP_CHECK) {
            return;
        }
        let now = Instant::now();
        self.checked = Some(now);
        let total = records.dropped();
        let dropped = total - self.before;
        if total == self.seen {
            if self.outage.succeed(now).is_some() {
                self.before = total;
                tracing::warn!(dropped, "call records are no longer dropped");
            }
            return;
        }
        self.seen = total;
        match self.outage.fail(now) {
            Some(OutageLine::Begin) => {
                tracing::warn!("call records are dropped: the queue is full (records.queue_max)");
            }
            Some(OutageLine::Continue { .. }) => tracing::warn!(dropped, "call records are still dropped"),
            None => {}
        }
    }
}
