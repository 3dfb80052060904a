//! Counters of a server's processes. Any thread can read them without asking the one that supervises the
//! processes.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metamcp_core::base::unix_seconds;

/// The counters of one server.
#[derive(Debug, Default)]
pub struct ProcessCounters(Mutex<ProcessStats>);

/// A snapshot of the counters.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ProcessStats {
    /// Running processes: in use, spare, or ending.
    pub running: usize,
    /// Processes started so far.
    pub started: u64,
    /// Of these, processes started in place of a failed one.
    pub restarts: u64,
    /// Processes that ended unasked or could not be started.
    pub failed: u64,
    /// Failed processes that were not replaced yet.
    pub awaiting_restart: u64,
    /// The last failure, which may be long ago.
    pub last_failure: Option<ProcessFailure>,
    /// Whether a process has answered since the last failure.
    pub is_answering: bool,
    /// The last failure that was recorded, expected or not.
    last_recorded: Option<ProcessFailure>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFailure {
    pub stage: ProcessStage,
    /// The reason. It may name the program.
    pub message: String,
    /// In seconds since 1970.
    pub at: u64,
}

/// What a process was doing when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessStage {
    Start,
    /// Time to answer `initialize`.
    Initialize,
    Run,
}

/// A process that fails again in the same way within this time is no news.
const REPEAT_INTERVAL_S: u64 = 3600;

impl ProcessStage {
    /// Returns the value of `stage` in `/ready`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Initialize => "answering initialize",
            Self::Run => "running",
        }
    }
}

impl ProcessStats {
    /// Summarizes the stats in one word.
    pub const fn state(&self) -> &'static str {
        match (self.running, self.awaiting_restart) {
            (1.., _) => "running",
            (0, 1..) => "failed",
            (0, 0) => "idle",
        }
    }
}

impl ProcessCounters {
    pub fn snapshot(&self) -> ProcessStats {
        self.lock().clone()
    }

    /// Returns the number of running processes.
    pub fn running(&self) -> usize {
        self.lock().running
    }

    /// Counts a started process. Returns whether it was started in place of a failed one.
    pub fn record_start(&self) -> bool {
        let mut stats = self.lock();
        stats.running += 1;
        stats.started += 1;
        let is_restart = stats.awaiting_restart > 0;
        if is_restart {
            stats.awaiting_restart -= 1;
            stats.restarts += 1;
        }
        is_restart
    }

    /// Counts a process that has ended.
    pub fn record_end(&self) {
        let mut stats = self.lock();
        stats.running = stats.running.saturating_sub(1);
    }

    /// Counts a failed process. Returns whether the failure is news: the last one was another, or long ago.
    pub fn record_failure(&self, stage: ProcessStage, message: impl Into<String>) -> bool {
        let mut stats = self.lock();
        stats.failed += 1;
        stats.is_answering = false;
        // One process is started in place of however many failed.
        stats.awaiting_restart = 1;
        let failure = ProcessFailure { stage, message: message.into(), at: unix_seconds() };
        let is_same = |last: &ProcessFailure| {
            let is_recent = failure.at.saturating_sub(last.at) < REPEAT_INTERVAL_S;
            // A program that never answers may end now after one message, now after another.
            let has_run = |stage| stage == ProcessStage::Run;
            is_recent && has_run(last.stage) == has_run(stage) && last.message == failure.message
        };
        let is_news = !stats.last_recorded.as_ref().is_some_and(is_same);
        stats.last_recorded = Some(failure.clone());
        stats.last_failure = Some(failure);
        is_news
    }

    /// Records that a process has answered for the first time.
    pub fn record_answer(&self) {
        self.lock().is_answering = true;
    }

    /// Whether a process has answered since the last failure.
    pub fn is_answering(&self) -> bool {
        self.lock().is_answering
    }

    /// Takes back the failures since a snapshot, because they were expected.
    pub fn restore_failures(&self, before: ProcessStats) {
        let mut stats = self.lock();
        stats.failed = before.failed;
        stats.awaiting_restart = before.awaiting_restart;
        stats.last_failure = before.last_failure;
        stats.is_answering |= before.is_answering;
    }

    fn lock(&self) -> MutexGuard<'_, ProcessStats> {
        // No panic can leave a partial change behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_failure_is_no_news() {
        let counters = ProcessCounters::default();
        let rows = [
            (ProcessStage::Start, "ended", true),
            (ProcessStage::Initialize, "ended", false),
            (ProcessStage::Start, "ended", false),
            (ProcessStage::Start, "not found", true),
            (ProcessStage::Run, "not found", true),
            (ProcessStage::Run, "not found", false),
        ];
        for (stage, message, is_news) in rows {
            assert_eq!(counters.record_failure(stage, message), is_news, "{stage:?} {message}");
        }
    }

    #[test]
    fn counts_failures_and_restarts() {
        let counters = ProcessCounters::default();
        let check = |state: &str, running: usize, restarts: u64, failed: u64| {
            let stats = counters.snapshot();
            assert_eq!(
                (stats.state(), stats.running, stats.restarts, stats.failed),
                (state, running, restarts, failed)
            );
        };
        check("idle", 0, 0, 0);
        counters.record_start();
        check("running", 1, 0, 0);
        assert!(counters.record_failure(ProcessStage::Run, "it ended"));
        counters.record_end();
        check("failed", 0, 0, 1);
        counters.record_failure(ProcessStage::Start, "no such program");
        check("failed", 0, 0, 2);
        counters.record_start();
        check("running", 1, 1, 2);
        let before = counters.snapshot();
        counters.record_failure(ProcessStage::Run, "as expected");
        counters.record_end();
        counters.restore_failures(before);
        check("idle", 0, 1, 2);
        let last = counters.snapshot().last_failure.expect("a failure");
        assert_eq!((last.stage, last.message.as_str()), (ProcessStage::Start, "no such program"));
    }
}
