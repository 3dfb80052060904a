//! Capacity for one more process: how many may run, which one ends for it, and how long a session waits for it.

use std::rc::Rc;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::connection::ProcessConnection;
use super::supervisor::Supervisor;
use metamcp_http::{FailureStage, UpstreamError};

/// The place of one process among those that may run. Dropped when the process has taken it.
pub struct ProcessReservation(Rc<Supervisor>);

/// A process without a call for this long makes room even if its client listens: the client's own event
/// stream stays open, and its next call opens the session again. Most clients keep a stream open as long as
/// they run.
const LISTENER_IDLE: Duration = Duration::from_mins(1);

/// A client that called within this time is likely to call again soon. A process without a call for longer makes room as a
/// last resort: the client may have left while its event stream is kept for resumption, which the process cannot know.
const CALLER_IDLE: Duration = Duration::from_secs(2);

/// How often a session that waits for capacity looks for it. The end of a call or a stream is not announced.
const CAPACITY_POLL: Duration = Duration::from_millis(50);

impl Supervisor {
    /// Reserves the place of a process. If as many run as may, the one that was idle for longest ends; if none is
    /// idle, waits for up to `queue_timeout`, in the order of arrival. Cancel safe.
    pub async fn reserve_process(self: &Rc<Self>) -> Result<ProcessReservation, UpstreamError> {
        if let Ok(_first) = self.reservation_queue.try_lock()
            && let Some(reservation) = self.try_reserve_process()
        {
            return Ok(reservation);
        }
        let deadline = Instant::now() + self.queue_timeout;
        let waiting = async {
            let _first = self.reservation_queue.lock().await;
            loop {
                let ended = self.context.process_ended.notified();
                tokio::pin!(ended);
                ended.as_mut().enable();
                if let Some(reservation) = self.try_reserve_process() {
                    return reservation;
                }
                drop(timeout_at(Instant::now() + CAPACITY_POLL, ended).await);
            }
        };
        let none = |_elapsed| UpstreamError::from_stage(FailureStage::ProcessLimit);
        timeout_at(deadline, waiting).await.map_err(none)
    }

    fn try_reserve_process(self: &Rc<Self>) -> Option<ProcessReservation> {
        let max = self.context.program.settings.processes_max;
        // Ending a process may take seconds. Meanwhile others take its place, but not without bound.
        if self.context.counters.running() >= 2 * max {
            return None;
        }
        if self.context.connections.borrow().len() + self.reserved.get() >= max {
            let evicted = self.find_evictable()?;
            evicted.close(FailureStage::NoResponse);
            evicted.request_end();
        }
        self.reserved.set(self.reserved.get() + 1);
        Some(ProcessReservation(Rc::clone(self)))
    }

    /// Returns the process that makes room: the one that was idle for longest; otherwise the one that was not called for
    /// longest, first among those whose clients subscribed to nothing.
    fn find_evictable(&self) -> Option<Rc<ProcessConnection>> {
        let now = Instant::now();
        let connections = self.context.connections.borrow();
        let idle = connections.iter().filter(|connection| {
            connection.is_idle_for(now, Duration::ZERO) && !connection.is_awaiting_call(now)
        });
        let uncalled =
            || connections.iter().filter(|connection| connection.is_uncalled_for(now, LISTENER_IDLE));
        let quiet = || {
            connections.iter().filter(|connection| {
                connection.is_uncalled_for(now, CALLER_IDLE) && !connection.is_awaiting_call(now)
            })
        };
        let last_used = |connection: &&Rc<ProcessConnection>| connection.last_used();
        let longest = idle.min_by_key(last_used);
        let longest = longest.or_else(|| {
            uncalled().filter(|connection| !connection.has_subscriptions()).min_by_key(last_used)
        });
        longest.or_else(|| quiet().min_by_key(last_used)).cloned()
    }

    /// Whether a process may be started for a call that could use a shared one. Half of the processes are
    /// left to clients that cannot share. A shared process that is idle takes no room, and neither does a spare or
    /// an ending one: it is used, makes room or is gone before the limit is reached.
    pub fn can_start_exclusive(&self) -> bool {
        let now = Instant::now();
        let connections = self.context.connections.borrow();
        let in_use = connections.iter().filter(|connection| {
            connection.state.borrow().clients.has_additional() || !connection.is_idle_for(now, Duration::ZERO)
        });
        2 * in_use.count() < self.context.program.settings.processes_max
    }
}

impl Drop for ProcessReservation {
    fn drop(&mut self) {
        // Each reservation was counted once, when it was made.
        let reserved = self.0.reserved.get();
        debug_assert!(reserved > 0, "more reservations are dropped than were made");
        self.0.reserved.set(reserved.saturating_sub(1));
    }
}
