//! How the processes of a server are, for whoever looks: read from any thread, without asking the one that
//! supervises them.

use std::sync::{Mutex, MutexGuard, PoisonError};

use metamcp_core::base::unix_seconds;

/// What happened to the processes of one server.
#[derive(Debug, Default)]
pub struct Tally(Mutex<Processes>);

/// How the processes of a server are.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Processes {
    /// Those that run: spoken to, spare, or ending.
    pub running: usize,
    /// Started so far.
    pub started: u64,
    /// Of these, in place of one that had failed.
    pub restarts: u64,
    /// Ended when nobody had asked for it, or not started at all.
    pub failed: u64,
    /// Failed, and none was started in its place yet.
    pub owed: u64,
    /// How the last one failed, which may be long ago.
    pub last_failure: Option<ProcessFailure>,
}

/// How a process failed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProcessFailure {
    /// What it was at.
    pub stage: ProcessStage,
    /// Why; it may name the program.
    pub message: String,
    /// When, in seconds since 1970.
    pub at: u64,
}

/// What a process was at when it failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProcessStage {
    /// It was to be started.
    Start,
    /// It was asked for its first answer.
    Introduce,
    /// It ran.
    Run,
}

impl ProcessStage {
    /// In the words of `/ready`.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Start => "starting",
            Self::Introduce => "answering initialize",
            Self::Run => "running",
        }
    }
}

impl Processes {
    /// In one word.
    pub const fn state(&self) -> &'static str {
        match (self.running, self.owed) {
            (1.., _) => "running",
            (0, 1..) => "failed",
            (0, 0) => "idle",
        }
    }
}

impl Tally {
    /// As it is now.
    pub fn look(&self) -> Processes {
        self.lock().clone()
    }

    /// How many run.
    pub fn running(&self) -> usize {
        self.lock().running
    }

    /// One was started.
    pub fn start(&self) {
        let mut now = self.lock();
        now.running += 1;
        now.started += 1;
        if now.owed > 0 {
            now.owed -= 1;
            now.restarts += 1;
        }
    }

    /// One has ended.
    pub fn end(&self) {
        let mut now = self.lock();
        now.running = now.running.saturating_sub(1);
    }

    /// One failed.
    pub fn fail(&self, stage: ProcessStage, message: impl Into<String>) {
        let mut now = self.lock();
        now.failed += 1;
        // One at a time is started in place of however many.
        now.owed = 1;
        now.last_failure = Some(ProcessFailure { stage, message: message.into(), at: unix_seconds() });
    }

    /// What failed since then did what was expected of it.
    pub fn forgive(&self, before: Processes) {
        let mut now = self.lock();
        (now.failed, now.owed, now.last_failure) = (before.failed, before.owed, before.last_failure);
    }

    /// Every change under the lock is whole when it is let go.
    fn lock(&self) -> MutexGuard<'_, Processes> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_failed_is_replaced_and_told() {
        let tally = Tally::default();
        let check = |state: &str, running: usize, restarts: u64, failed: u64| {
            let now = tally.look();
            assert_eq!(
                (now.state(), now.running, now.restarts, now.failed),
                (state, running, restarts, failed)
            );
        };
        check("idle", 0, 0, 0);
        tally.start();
        check("running", 1, 0, 0);
        tally.fail(ProcessStage::Run, "it ended");
        tally.end();
        check("failed", 0, 0, 1);
        tally.fail(ProcessStage::Start, "no such program");
        check("failed", 0, 0, 2);
        tally.start();
        check("running", 1, 1, 2);
        let before = tally.look();
        tally.fail(ProcessStage::Run, "as expected");
        tally.end();
        tally.forgive(before);
        check("idle", 0, 1, 2);
        let last = tally.look().last_failure.expect("a failure");
        assert_eq!((last.stage, last.message.as_str()), (ProcessStage::Start, "no such program"));
    }
}
