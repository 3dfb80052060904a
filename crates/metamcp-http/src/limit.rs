//! The bound on a server's in-flight calls.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam::utils::CachePadded;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::error::{FailureStage, UpstreamError};

/// How many calls one server may have in flight, over all workers, with a bounded queue for more.
pub struct InFlightLimit {
    permits: Arc<Semaphore>,
    permits_max: usize,
    queued: CachePadded<AtomicUsize>,
    queue_max: usize,
    queue_timeout: Duration,
}

/// Permission for one in-flight call, returned when dropped.
pub struct InFlightPermit(#[expect(dead_code, reason = "held for its drop")] OwnedSemaphorePermit);

impl InFlightLimit {
    /// Creates a limit of `in_flight_max` calls. `queue_max` more may wait, each for `queue_timeout`.
    pub fn new(in_flight_max: usize, queue_max: usize, queue_timeout: Duration) -> Self {
        let permits_max = in_flight_max.min(Semaphore::MAX_PERMITS);
        Self {
            permits: Arc::new(Semaphore::new(permits_max)),
            permits_max,
            queued: CachePadded::new(AtomicUsize::new(0)),
            queue_max,
            queue_timeout,
        }
    }

    /// Returns how many calls are in flight, and how many are queued.
    pub fn load(&self) -> (usize, usize) {
        let in_flight = self.permits_max.saturating_sub(self.permits.available_permits());
        (in_flight, self.queued.load(Ordering::Relaxed))
    }

    /// Takes a permit, now or after waiting in the queue. Cancel safe.
    pub async fn acquire(&self) -> Result<InFlightPermit, UpstreamError> {
        if let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() {
            return Ok(InFlightPermit(permit));
        }
        let _queued = QueueGuard::enter(&self.queued, self.queue_max)?;
        match timeout(self.queue_timeout, Arc::clone(&self.permits).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(InFlightPermit(permit)),
            Ok(Err(_)) | Err(_) => Err(UpstreamError::from_stage(FailureStage::QueueTimeout)),
        }
    }
}

/// Counts a queued request until it is dropped.
struct QueueGuard<'a>(&'a AtomicUsize);

impl<'a> QueueGuard<'a> {
    fn enter(count: &'a AtomicUsize, max: usize) -> Result<Self, UpstreamError> {
        let guard = Self(count);
        if count.fetch_add(1, Ordering::Relaxed) < max {
            Ok(guard)
        } else {
            Err(UpstreamError::from_stage(FailureStage::QueueFull))
        }
    }
}

impl Drop for QueueGuard<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
