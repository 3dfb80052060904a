//! Wakes the event streams of a worker: all of them when keys, servers, lists or the phase change, and each
//! one when it has been silent for the keep-alive period.
//!
//! A registration replaces a timer and several subscriptions per stream.
//!
//! Does not know: what changed. A stream that is woken finds out itself.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// The registered event streams of one worker.
pub struct StreamWakeups {
    registrations: RefCell<HashMap<u32, Slot, RandomState>>,
    next: Cell<u32>,
    /// The number of changes so far.
    rings: Cell<u64>,
    start: Instant,
    /// The time of the last tick, in tenths of a second since `start`.
    now: Cell<u32>,
    /// The keep-alive period in tenths of a second.
    period: Cell<u32>,
}

/// One stream. Small, since there are many streams, and up to half of the table may be empty.
struct Slot {
    waker: Option<Waker>,
    /// When the stream is due for a keep-alive, in tenths of a second since `start`. Sufficient for thirteen
    /// years.
    due: u32,
}

/// Why a stream is woken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// Something changed that may concern any stream.
    Changed,
    /// The stream has been silent for the keep-alive period, as far as is known here.
    Due,
}

/// The registration of one stream. Dropping it removes the stream.
pub struct WakeupRegistration {
    stream_wakeups: Rc<StreamWakeups>,
    number: u32,
    seen_rings: u64,
}

/// A table with less capacity is not shrunk.
const ROOM_MIN: usize = 64;

impl StreamWakeups {
    /// `period`: how long a stream may be silent.
    pub fn new(period: Duration) -> Rc<Self> {
        Rc::new(Self {
            registrations: RefCell::default(),
            next: Cell::new(0),
            rings: Cell::new(0),
            start: Instant::now(),
            now: Cell::new(0),
            period: Cell::new(tenths(period).max(1)),
        })
    }

    /// Changes the period, for each stream from its next comment on.
    pub fn set_period(&self, period: Duration) {
        self.period.set(tenths(period).max(1));
    }

    /// Registers a stream. It is only notified of later changes.
    pub fn register(self: &Rc<Self>) -> WakeupRegistration {
        let mut registrations = self.registrations.borrow_mut();
        // No worker has as many streams as there are numbers, so this terminates.
        while registrations.contains_key(&self.next.get()) {
            self.next.set(self.next.get().wrapping_add(1));
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        registrations.insert(number, Slot { waker: None, due: self.after(Instant::now()) });
        drop(registrations);
        WakeupRegistration { stream_wakeups: Rc::clone(self), number, seen_rings: self.rings.get() }
    }

    /// Wakes all streams because something changed.
    pub fn notify_all(&self) {
        self.rings.set(self.rings.get() + 1);
        self.wake(|_| true);
    }

    /// Wakes the streams that are due. Called about once per second, which is how late a stream may be woken.
    pub fn tick(&self) {
        let now = tenths(self.start.elapsed());
        self.now.set(now);
        self.wake(|slot| slot.due <= now);
        let mut registrations = self.registrations.borrow_mut();
        if registrations.capacity() > ROOM_MIN && registrations.len() < registrations.capacity() / 4 {
            registrations.shrink_to_fit();
        }
    }

    /// The time one period after `last`.
    fn after(&self, last: Instant) -> u32 {
        tenths(last.saturating_duration_since(self.start)).saturating_add(self.period.get())
    }

    fn wake(&self, is_meant: impl Fn(&Slot) -> bool) {
        let mut registrations = self.registrations.borrow_mut();
        let matching = registrations.values_mut().filter(|slot| is_meant(slot));
        let wakers: Vec<Waker> = matching.filter_map(|slot| slot.waker.take()).collect();
        // Waking may drop a registration, which borrows the table.
        drop(registrations);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl WakeupRegistration {
    /// Ready if something changed, or if the stream is due. A due stream is notified once per period.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<WakeReason> {
        let rings = self.stream_wakeups.rings.get();
        if std::mem::replace(&mut self.seen_rings, rings) != rings {
            return Poll::Ready(WakeReason::Changed);
        }
        let mut registrations = self.stream_wakeups.registrations.borrow_mut();
        let Some(slot) = registrations.get_mut(&self.number) else { return Poll::Pending };
        if slot.due <= self.stream_wakeups.now.get() {
            slot.due = self.stream_wakeups.now.get().saturating_add(self.stream_wakeups.period.get());
            return Poll::Ready(WakeReason::Due);
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Postpones the keep-alive to one period after `last`.
    pub fn defer(&self, last: Instant) {
        if let Some(slot) = self.stream_wakeups.registrations.borrow_mut().get_mut(&self.number) {
            slot.due = slot.due.max(self.stream_wakeups.after(last));
        }
    }
}

fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}

impl Drop for WakeupRegistration {
    fn drop(&mut self) {
        self.stream_wakeups.registrations.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Checks the stream's next wake reason, and how often it was woken so far.
    #[track_caller]
    fn check(registration: &mut WakeupRegistration, count: &Arc<Count>, expected: (Poll<WakeReason>, usize)) {
        let waker = Waker::from(Arc::clone(count));
        let woken = count.0.load(Ordering::Relaxed);
        assert_eq!((registration.poll(&Context::from_waker(&waker)), woken), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_woken_by_changes_and_when_keep_alive_is_due() {
        let stream_wakeups = StreamWakeups::new(Duration::from_secs(15));
        let (mut registration, count) = (stream_wakeups.register(), Arc::<Count>::default());
        check(&mut registration, &count, (Poll::Pending, 0));
        stream_wakeups.notify_all();
        stream_wakeups.notify_all();
        check(&mut registration, &count, (Poll::Ready(WakeReason::Changed), 1));
        check(&mut registration, &count, (Poll::Pending, 1));
        tokio::time::advance(Duration::from_secs(14)).await;
        stream_wakeups.tick();
        check(&mut registration, &count, (Poll::Pending, 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        stream_wakeups.tick();
        check(&mut registration, &count, (Poll::Ready(WakeReason::Due), 2));
        check(&mut registration, &count, (Poll::Pending, 2));
        tokio::time::advance(Duration::from_secs(10)).await;
        registration.defer(Instant::now());
        tokio::time::advance(Duration::from_secs(14)).await;
        stream_wakeups.tick();
        check(&mut registration, &count, (Poll::Pending, 2));
        let other = stream_wakeups.register();
        assert_eq!(stream_wakeups.registrations.borrow().len(), 2);
        drop((registration, other));
        assert_eq!(stream_wakeups.registrations.borrow().len(), 0);
    }

    /// However short the period is, a due stream is notified once per period.
    #[tokio::test(start_paused = true)]
    async fn the_shortest_period_is_a_tenth_of_a_second() {
        let stream_wakeups = StreamWakeups::new(Duration::from_millis(1));
        // Numbers are reused, except those of registered streams.
        stream_wakeups.next.set(u32::MAX);
        let (mut registration, count) = (stream_wakeups.register(), Arc::<Count>::default());
        let other = stream_wakeups.register();
        stream_wakeups.next.set(u32::MAX);
        let third = stream_wakeups.register();
        assert_eq!([registration.number, other.number, third.number], [u32::MAX, 0, 1]);
        check(&mut registration, &count, (Poll::Pending, 0));
        tokio::time::advance(Duration::from_millis(100)).await;
        stream_wakeups.tick();
        check(&mut registration, &count, (Poll::Ready(WakeReason::Due), 1));
        check(&mut registration, &count, (Poll::Pending, 1));
    }
}
