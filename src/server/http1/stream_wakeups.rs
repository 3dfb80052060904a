//! What concerns every event stream of a worker, told to all of them at once: keys, servers, lists or the phase changed.
//! And what concerns each at its own time: that it was silent for as long as it may be.
//!
//! A stream has a rope in place of a timer and of a place among those who wait for each of these.
//!
//! Does not know: what changed. Whoever is woken looks.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

/// The bell of one worker.
pub struct StreamWakeups {
    ropes: RefCell<HashMap<u32, Slot, RandomState>>,
    next: Cell<u32>,
    /// How often it was rung.
    rings: Cell<u64>,
    start: Instant,
    /// When it was last looked who is due, in tenths of a second since the start.
    now: Cell<u32>,
    /// The silence that a stream may keep, likewise.
    period: u32,
}

/// Small, for there are as many as streams, and a table of them may be nearly half empty.
struct Slot {
    waker: Option<Waker>,
    /// In tenths of a second since the bell's start: four billion are thirteen years.
    due: u32,
}

/// What a stream is woken for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WakeReason {
    /// Something changed that concerns all.
    Changed,
    /// It was silent for as long as it may be, as far as the bell knows.
    Due,
}

/// One stream's hold on the bell.
pub struct WakeupRegistration {
    bell: Rc<StreamWakeups>,
    number: u32,
    heard: u64,
}

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 64;

impl StreamWakeups {
    /// For streams that may be silent for so long.
    pub fn new(period: Duration) -> Rc<Self> {
        Rc::new(Self {
            ropes: RefCell::default(),
            next: Cell::new(0),
            rings: Cell::new(0),
            start: Instant::now(),
            now: Cell::new(0),
            period: tenths(period).max(1),
        })
    }

    /// A hold on it; what changed before is not told.
    pub fn rope(self: &Rc<Self>) -> WakeupRegistration {
        let mut ropes = self.ropes.borrow_mut();
        // No worker has as many streams as there are numbers.
        while ropes.contains_key(&self.next.get()) {
            self.next.set(self.next.get().wrapping_add(1));
        }
        let number = self.next.get();
        self.next.set(number.wrapping_add(1));
        ropes.insert(number, Slot { waker: None, due: self.after(Instant::now()) });
        drop(ropes);
        WakeupRegistration { bell: Rc::clone(self), number, heard: self.rings.get() }
    }

    /// Tells all streams that something changed.
    pub fn ring(&self) {
        self.rings.set(self.rings.get() + 1);
        self.wake(|_| true);
    }

    /// Tells those that are due. To be called once a second or so: they are told that much too late.
    pub fn tick(&self) {
        let now = tenths(self.start.elapsed());
        self.now.set(now);
        self.wake(|slot| slot.due <= now);
        let mut ropes = self.ropes.borrow_mut();
        if ropes.capacity() > ROOM_MIN && ropes.len() < ropes.capacity() / 4 {
            ropes.shrink_to_fit();
        }
    }

    /// One period after that.
    fn after(&self, last: Instant) -> u32 {
        tenths(last.saturating_duration_since(self.start)).saturating_add(self.period)
    }

    fn wake(&self, is_meant: impl Fn(&Slot) -> bool) {
        let mut ropes = self.ropes.borrow_mut();
        let meant = ropes.values_mut().filter(|slot| is_meant(slot));
        let wakers: Vec<Waker> = meant.filter_map(|slot| slot.waker.take()).collect();
        // With the last waker may go what holds a rope.
        drop(ropes);
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl WakeupRegistration {
    /// Ready when something is to be looked at; who is due is told once in each period.
    pub fn poll(&mut self, cx: &Context<'_>) -> Poll<WakeReason> {
        let rings = self.bell.rings.get();
        if std::mem::replace(&mut self.heard, rings) != rings {
            return Poll::Ready(WakeReason::Changed);
        }
        let mut ropes = self.bell.ropes.borrow_mut();
        let Some(slot) = ropes.get_mut(&self.number) else { return Poll::Pending };
        if slot.due <= self.bell.now.get() {
            slot.due = self.bell.now.get().saturating_add(self.bell.period);
            return Poll::Ready(WakeReason::Due);
        }
        if !slot.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            slot.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// It is due no earlier than one period after that.
    pub fn put_off(&self, last: Instant) {
        if let Some(slot) = self.bell.ropes.borrow_mut().get_mut(&self.number) {
            slot.due = slot.due.max(self.bell.after(last));
        }
    }
}

fn tenths(duration: Duration) -> u32 {
    u32::try_from(duration.as_millis() / 100).unwrap_or(u32::MAX)
}

impl Drop for WakeupRegistration {
    fn drop(&mut self) {
        self.bell.ropes.borrow_mut().remove(&self.number);
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

    /// What the stream is told, and how often it was woken so far.
    #[track_caller]
    fn check(rope: &mut WakeupRegistration, count: &Arc<Count>, expected: (Poll<WakeReason>, usize)) {
        let waker = Waker::from(Arc::clone(count));
        let woken = count.0.load(Ordering::Relaxed);
        assert_eq!((rope.poll(&Context::from_waker(&waker)), woken), expected);
    }

    #[tokio::test(start_paused = true)]
    async fn streams_are_told_of_changes_and_of_their_silence() {
        let bell = StreamWakeups::new(Duration::from_secs(15));
        let (mut rope, count) = (bell.rope(), Arc::<Count>::default());
        check(&mut rope, &count, (Poll::Pending, 0));
        bell.ring();
        bell.ring();
        check(&mut rope, &count, (Poll::Ready(WakeReason::Changed), 1));
        check(&mut rope, &count, (Poll::Pending, 1));
        tokio::time::advance(Duration::from_secs(14)).await;
        bell.tick();
        check(&mut rope, &count, (Poll::Pending, 1));
        tokio::time::advance(Duration::from_secs(1)).await;
        bell.tick();
        check(&mut rope, &count, (Poll::Ready(WakeReason::Due), 2));
        check(&mut rope, &count, (Poll::Pending, 2));
        tokio::time::advance(Duration::from_secs(10)).await;
        rope.put_off(Instant::now());
        tokio::time::advance(Duration::from_secs(14)).await;
        bell.tick();
        check(&mut rope, &count, (Poll::Pending, 2));
        let other = bell.rope();
        assert_eq!(bell.ropes.borrow().len(), 2);
        drop((rope, other));
        assert_eq!(bell.ropes.borrow().len(), 0);
    }

    /// However short the silence that may be kept is, who is due is told once in each.
    #[tokio::test(start_paused = true)]
    async fn a_short_silence_is_a_tenth_of_a_second() {
        let bell = StreamWakeups::new(Duration::from_millis(1));
        // Numbers are used again, but none that is held.
        bell.next.set(u32::MAX);
        let (mut rope, count) = (bell.rope(), Arc::<Count>::default());
        let other = bell.rope();
        bell.next.set(u32::MAX);
        let third = bell.rope();
        assert_eq!([rope.number, other.number, third.number], [u32::MAX, 0, 1]);
        check(&mut rope, &count, (Poll::Pending, 0));
        tokio::time::advance(Duration::from_millis(100)).await;
        bell.tick();
        check(&mut rope, &count, (Poll::Ready(WakeReason::Due), 1));
        check(&mut rope, &count, (Poll::Pending, 1));
    }
}
