//! A counter by which sessions tell a shared subscription that they left it.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Notify;

/// Counts the departures since the last walk over the members of a shared subscription. A session that left
/// and joined again in between is counted too.
#[derive(Default)]
pub struct DepartureCounter {
    count: AtomicUsize,
    recorded: Notify,
}

impl DepartureCounter {
    /// Records one departure and wakes the subscription.
    pub fn record(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
        self.wake();
    }

    /// Wakes the subscription without a departure.
    pub fn wake(&self) {
        self.recorded.notify_one();
    }

    /// Waits for the next departure or wake-up. Cancel safe.
    pub async fn recorded(&self) {
        self.recorded.notified().await;
    }

    /// Returns the number of departures since the last [`reset`](Self::reset).
    pub fn count(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }

    /// Starts counting from zero.
    pub fn reset(&self) {
        self.count.store(0, Ordering::Relaxed);
    }
}
