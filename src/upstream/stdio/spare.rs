//! One process that is kept started for the next session, so that its client does not wait for the start.

use std::rc::Rc;

use tokio::task::spawn_local;
use tokio::time::Instant;

use super::connection::ProcessConnection;
use super::exit::ExitCause;
use super::process::SpawnedProcess;
use super::process_stats::ProcessStage;
use super::supervisor::Supervisor;

impl Supervisor {
    /// Requests a spare, if there should be one.
    pub fn request_spare(&self) {
        if self.wants_spare() {
            self.spare_wanted.notify_one();
        }
    }

    /// Whether a spare is configured, or would spare the next session a slow start.
    fn wants_spare(&self) -> bool {
        self.context.program.settings.prewarm.unwrap_or_else(|| {
            let connections = self.context.connections.borrow();
            self.start_history.is_slow() && connections.iter().any(|connection| connection.is_exclusive.get())
        })
    }

    /// Notes the time from the start of a process to its answer to `initialize`, which it has sent now. A spare was started
    /// long before, and tells nothing.
    pub fn note_start(&self, connection: &ProcessConnection) {
        let time = Some(connection.started_at.elapsed()).filter(|_| !connection.is_spare.get());
        self.start_history.note(time);
    }

    /// Starts a spare, unless there is one, as many processes run as may, or the server is failing.
    pub fn start_spare(&self) {
        let context = &self.context;
        let taken = context.counters.running() + self.reserved.get();
        let is_full = taken >= context.program.settings.processes_max;
        let may_start = context.backoff.borrow().wait(Instant::now()).is_zero();
        if self.spare.borrow().is_some() || is_full || !may_start {
            return;
        }
        // A failure was recorded; the sweep tries again.
        if let Ok(spawned) = self.spawn() {
            *self.spare.borrow_mut() = Some(spawned);
        }
    }

    /// Takes the spare, if there is one that still runs. One that has ended counts as a failed start.
    pub fn take_spare(&self) -> Option<SpawnedProcess> {
        let mut spare = self.spare.borrow_mut().take()?;
        let Some(status) = spare.try_wait() else { return Some(spare) };
        let context = &self.context;
        let reason = ExitCause::Exited(status).describe(&context.program);
        context.counters.record_failure(ProcessStage::Start, &*reason);
        context.backoff.borrow_mut().fail(spare.started_at.elapsed());
        tracing::debug!(server = %context.name, reason, "spare process has ended");
        spawn_local(spare.discard(Rc::clone(context)));
        None
    }

    /// Replaces a spare that has ended, and ends one that is not wanted any more.
    pub fn sweep_spare(&self) {
        match self.take_spare() {
            Some(spare) if self.wants_spare() => *self.spare.borrow_mut() = Some(spare),
            Some(spare) => drop(spawn_local(spare.discard(Rc::clone(&self.context)))),
            None => self.request_spare(),
        }
    }
}
