//! Returns free memory to the system after a peak.
//!
//! The allocator (mimalloc, version 2) returns memory that has been free for a moment, but only from within allocations and
//! deallocations of the thread that owns it. An idle thread makes none, so its memory is collected explicitly. With another
//! global allocator this does nothing.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::oneshot;
use tokio::task::spawn_blocking;

/// Counts of what takes memory, such as open connections and sessions.
pub type ResourceCounts = [usize; 3];

/// Counts the requests of all threads.
static REQUESTS: AtomicU64 = AtomicU64::new(0);

thread_local! {
    /// What was requested when a job last ended on this blocking thread, and its collections that are due.
    static BLOCKING_THREAD: (Cell<u64>, MemoryPurger) = const { (Cell::new(0), MemoryPurger::new()) };

    /// Whether this thread has freed much memory at once since the last observation, or another thread has
    /// freed what this one allocated.
    static IS_REQUESTED: Cell<bool> = const { Cell::new(false) };
}

/// A message of this size takes memory that the allocator would keep for the thread.
const LARGE_BYTES: usize = 256 << 10;

/// Held while a message of many bytes is on its way to another thread, which frees it there. Then the memory
/// of this thread is collected.
pub struct LargeMessage(());

impl LargeMessage {
    /// Returns a guard if the message is large.
    pub fn track(bytes: usize) -> Option<Self> {
        // Lazily: one that is made and dropped would request collections.
        (bytes > LARGE_BYTES).then(|| Self(()))
    }
}

impl Drop for LargeMessage {
    fn drop(&mut self) {
        MemoryPurger::request();
    }
}

/// Collects free memory of the current thread when there are fewer resources than before.
pub struct MemoryPurger {
    peak: Cell<ResourceCounts>,
    /// The number of collections that are still due.
    due: Cell<u8>,
}

/// The decrease of a count that starts collections: some hundred KiB.
const DECREASE_MIN: usize = 64;

/// Collections after a decrease, one per observation. Memory that is freed now can be returned by the next collection, and
/// other threads free memory meanwhile: ending thousands of sessions takes a while. A collection takes 0.14 ms with 20 MiB in
/// use, and 1 ms for each MiB that it returns.
const COLLECTIONS: u8 = 60;

impl MemoryPurger {
    /// A purger of the current thread, with nothing due.
    pub const fn new() -> Self {
        Self { peak: Cell::new([0; 3]), due: Cell::new(0) }
    }

    /// Requests collections of the current thread's memory, and of that of blocking threads.
    pub fn request() {
        IS_REQUESTED.set(true);
        REQUESTS.fetch_add(1, Ordering::Relaxed);
    }

    /// Whether the next observation collects, whatever the counts are.
    pub fn is_due(&self) -> bool {
        IS_REQUESTED.get() || self.due.get() > 0
    }

    /// Observes the current counts, and collects if they have decreased. Call it about once per second.
    pub fn observe(&self, counts: ResourceCounts) {
        let peak = self.peak.get();
        let is_decrease = peak.iter().zip(counts).any(|(peak, now)| peak.saturating_sub(now) >= DECREASE_MIN);
        if is_decrease || IS_REQUESTED.take() {
            self.due.set(COLLECTIONS);
        }
        let highest = |index: usize| if is_decrease { counts[index] } else { peak[index].max(counts[index]) };
        self.peak.set([highest(0), highest(1), highest(2)]);
        self.collect_if_due();
    }

    fn collect_if_due(&self) {
        if let Some(left) = self.due.get().checked_sub(1) {
            self.due.set(left);
            collect();
        }
    }
}

impl Default for MemoryPurger {
    fn default() -> Self {
        Self::new()
    }
}

/// Why work on a blocking thread has no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BlockingError {
    /// A defect, which is logged. What the work owned is lost.
    #[error("it failed unexpectedly, see the log")]
    Panicked,
    /// It never ran, because the runtime ends.
    #[error("the gateway is stopping")]
    Stopped,
}

/// Runs `work` on a blocking thread, which delivers its result, and then returns free memory if any thread has requested
/// collections since. The allocator gives a new thread what an ended one has left: a blocking thread may so get the memory of
/// large messages, and would keep it for as long as regular jobs keep the thread.
///
/// The work begins at once. Cancel safe: it runs to its end also if the result is not awaited.
pub fn run_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> impl Future<Output = Result<T, BlockingError>> {
    let (sender, receiver) = oneshot::channel();
    // Not waited for: a caller has the result before the memory is returned, which takes a while.
    drop(spawn_blocking(move || {
        // What the work has changed is dropped with it, or is the caller's to judge.
        let result = catch_unwind(AssertUnwindSafe(work)).map_err(|panic| {
            let message = panic.downcast_ref::<&str>().copied();
            let message = message.or_else(|| panic.downcast_ref::<String>().map(String::as_str));
            tracing::error!(message, "a background job panicked");
            BlockingError::Panicked
        });
        // Nobody may wait for it any more.
        drop(sender.send(result));
        BLOCKING_THREAD.with(|(seen, purger)| {
            let requests = REQUESTS.load(Ordering::Relaxed);
            if seen.replace(requests) != requests {
                purger.due.set(COLLECTIONS);
            }
            purger.collect_if_due();
        });
    }));
    async { receiver.await.unwrap_or(Err(BlockingError::Stopped)) }
}

/// Returns the free memory of this thread's heap to the system.
#[allow(unsafe_code)] // the only way to call the allocator; see the SAFETY comment
fn collect() {
    // SAFETY: `mi_collect` takes no pointer, may be called at any time from any thread, and frees only memory that is not
    // allocated. On a thread without a heap, as with another global allocator, it returns at once.
    unsafe { libmimalloc_sys::mi_collect(true) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Observes counts one after the other, and checks the number of collections that are due after each.
    #[track_caller]
    fn check(rows: &[(ResourceCounts, u8)]) {
        let purger = MemoryPurger::default();
        for (number, (counts, expected)) in rows.iter().enumerate() {
            purger.observe(*counts);
            assert_eq!(purger.due.get(), *expected, "{number}: {counts:?}");
        }
    }

    #[test]
    fn collects_after_large_messages() {
        let purger = MemoryPurger::default();
        let check = |bytes: usize, expected: u8| {
            let message = LargeMessage::track(bytes);
            purger.observe([0; 3]);
            assert!(!purger.is_due(), "{bytes}: it is still in use");
            drop(message);
            assert_eq!(purger.is_due(), expected > 0, "{bytes}");
            purger.observe([0; 3]);
            assert_eq!(purger.due.take(), expected, "{bytes}");
        };
        check(LARGE_BYTES, 0);
        check(LARGE_BYTES + 1, COLLECTIONS - 1);
        check(0, 0);
    }

    #[test]
    fn blocking_threads_collect_after_a_request() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
        let runtime = runtime.expect("a runtime can be built");
        let due_before = || {
            let due = || BLOCKING_THREAD.with(|(_, purger)| purger.due.get());
            runtime.block_on(async { run_blocking(due).await.expect("it does not panic") })
        };
        due_before();
        MemoryPurger::request();
        due_before();
        // Other tests may request more meanwhile.
        let due = due_before();
        assert!(due > 0 && due < COLLECTIONS, "{due}");
        assert!(due_before() > 0);
    }

    #[test]
    fn a_panic_differs_from_a_shutdown() {
        let runtime = tokio::runtime::Builder::new_current_thread().max_blocking_threads(1).build();
        let runtime = runtime.expect("a runtime can be built");
        let check = |work: fn() -> u8, expected| {
            assert_eq!(runtime.block_on(async { run_blocking(work).await }), expected);
        };
        check(|| 1, Ok(1));
        check(|| std::panic::resume_unwind(Box::new("a defect")), Err(BlockingError::Panicked));
        check(|| 2, Ok(2));
        let handle = runtime.handle().clone();
        drop(runtime);
        let never_run = {
            let _entered = handle.enter();
            run_blocking(|| 3)
        };
        assert_eq!(futures_util::FutureExt::now_or_never(never_run), Some(Err(BlockingError::Stopped)));
    }

    #[test]
    fn collects_after_a_decrease() {
        check(&[
            ([0; 3], 0),
            ([100, 0, 0], 0),
            ([37, 0, 0], 0),
            ([36, 0, 0], COLLECTIONS - 1),
            ([36, 0, 0], COLLECTIONS - 2),
            ([36; 3], COLLECTIONS - 3),
        ]);
        let (first, second) = (COLLECTIONS - 1, COLLECTIONS - 2);
        check(&[([0, 64, 0], 0), ([64, 0, 0], first), ([0, 64, 0], first), ([0, 64, 0], second)]);
        check(&[
            ([0, 0, 1000], 0),
            ([0, 0, 900], first),
            ([0, 0, 800], first),
            ([0, 0, 790], second),
            ([0; 3], first),
        ]);
        let mut rows = vec![([0; 3], 0), ([64; 3], 0)];
        rows.extend((0..=COLLECTIONS).rev().skip(1).map(|left| ([0; 3], left)));
        check(&rows);
    }
}
