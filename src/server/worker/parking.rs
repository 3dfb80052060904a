//! Connections on which nothing goes on: a socket each, perhaps with an event stream that is silent, and no task.
//!
//! One set of the kernel's (epoll) watches them all for one worker, and is itself what the worker's runtime watches.
//! A connection that says something leaves it and gets a task again; one that ends is closed where it is. What a
//! stream says is written from here, as long as its client takes it at once.
//!
//! Does not know: HTTP, or what a stream says.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;

use crate::server::http1::connection_slots::ConnectionSlot;
use crate::server::http1::activity::{Control, Speaks};
use crate::server::http1::socket::Still;
use crate::server::reply::response_writer::{Silence, Writing};

/// The parked connections of one worker.
pub struct Parking {
    set: AsyncFd<OwnedFd>,
    parked: RefCell<HashMap<u64, Parked, RandomState>>,
    /// The number of the next one: none is used twice, so that what is said of one is never taken for another.
    next: Cell<u64>,
    alarms: Arc<Alarms>,
    /// In the place of the one that each connection with a task has: nothing here is slow.
    control: Rc<Control>,
}

/// A connection on which nothing is under way, and of which every byte that was read was used.
pub struct Parked {
    /// Open; the runtime does not watch it.
    pub socket: TcpStream,
    /// Since when nothing goes on.
    pub since: Instant,
    /// Among all connections.
    pub place: ConnectionSlot,
    /// The protocol, when it is known.
    pub speaks: Option<Speaks>,
    /// The stream that it belongs to.
    pub stream: Option<Box<Silent>>,
}

/// An event stream of which all that has come is written.
pub struct Silent {
    left: Silence,
    /// By which it tells that it has something to say.
    alarm: Option<Waker>,
}

/// One that is parked no more.
pub struct Woken {
    /// As it was.
    pub parked: Parked,
    /// Its stream, when that has said something that is not written.
    said: Option<Box<Writing>>,
}

impl Silent {
    /// One that is to be parked with its connection.
    pub fn new(writing: Writing) -> Self {
        Self { left: writing.silence(), alarm: None }
    }
}

impl Woken {
    /// The stream that the connection belongs to.
    pub fn take_stream(&mut self) -> Option<Writing> {
        let silent = self.parked.stream.take()?;
        Some(self.said.take().map_or_else(|| silent.left.into(), |said| *said))
    }
}

/// What is done before others have their turn.
const AT_ONCE: usize = 64;

/// So many times, before others have theirs: clients may go by the thousands.
const TURNS: usize = 8;

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 64;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Parking {
    /// Of the worker whose runtime this is called in.
    ///
    /// # Errors
    /// The system has no descriptor left.
    pub fn new() -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, for descriptors that change; an `OwnedFd` does not"
        )]
        let set = AsyncFd::new(epoll::create(CreateFlags::CLOEXEC)?)?;
        let alarms = Arc::<Alarms>::default();
        Ok(Self { set, parked: RefCell::default(), next: Cell::new(0), alarms, control: Control::new() })
    }

    /// Watches a connection from now on, also for what has come before. One that cannot be watched is closed.
    pub fn park(&self, mut parked: Parked) {
        let number = self.next.get();
        self.next.set(number + 1);
        let (said, what) = (EventData::new_u64(number), EventFlags::IN | EventFlags::RDHUP);
        if let Err(error) = epoll::add(self.set.get_ref(), &parked.socket, said, what) {
            tracing::warn!(%error, "cannot watch an idle connection; it was closed");
            return;
        }
        if let Some(silent) = &mut parked.stream {
            let alarm = Arc::new(Alarm { number, alarms: Arc::clone(&self.alarms) });
            silent.alarm = Some(Waker::from(alarm));
            // It is asked once, so that it knows its alarm.
            self.alarms.ring(number);
        }
        self.parked.borrow_mut().insert(number, parked);
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.parked.borrow().len()
    }

    /// Those on which something came, or whose streams say more than their clients take at once, in `woken`. Cancel safe:
    /// they are in it or still parked.
    pub async fn wake(&self, woken: &mut Vec<Woken>) -> io::Result<()> {
        poll_fn(|cx| {
            let rung = self.alarms.take(cx.waker());
            for number in rung {
                self.ask(number, woken);
            }
            for _ in 0..TURNS {
                let Poll::Ready(ready) = self.set.poll_read_ready(cx) else {
                    return if woken.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) };
                };
                // Until it has no more to say it is not watched.
                if self.take_ready(woken)? == 0 {
                    ready?.clear_ready();
                }
            }
            cx.waker().wake_by_ref();
            if woken.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
        })
        .await
    }

    /// Asks a stream what it has to say.
    fn ask(&self, number: u64, woken: &mut Vec<Woken>) {
        // It is gone, or has a task.
        let Some(mut one) = self.parked.borrow_mut().remove(&number) else { return };
        let Some(Silent { left, alarm: Some(alarm) }) = one.stream.as_deref_mut() else { return };
        let (mut writing, mut still) = (Writing::from(std::mem::take(left)), Still(&one.socket));
        match writing.poll(&mut still, &self.control, &mut Context::from_waker(alarm)) {
            Poll::Pending if writing.is_silent() => {
                *left = writing.silence();
                self.parked.borrow_mut().insert(number, one);
            }
            Poll::Pending | Poll::Ready(true) => self.leave(one, Some(writing), woken),
            // It broke off, its client is gone, or it was the last on its connection: closed, this leaves the set by itself.
            // Asked once more, a stream that broke off would end as if it were whole.
            Poll::Ready(false) => {}
        }
    }

    /// Takes out those of which the kernel has something to say; how many that was.
    fn take_ready(&self, woken: &mut Vec<Woken>) -> io::Result<usize> {
        let mut room = [const { MaybeUninit::<Event>::uninit() }; AT_ONCE];
        let (said, _) = epoll::wait(self.set.get_ref(), &mut room[..], Some(&NOW))?;
        for event in said.iter() {
            let one = self.parked.borrow_mut().remove(&event.data.u64());
            // Closed, it leaves the set by itself.
            if let Some(one) = one.filter(Parked::is_there) {
                self.leave(one, None, woken);
            }
        }
        Ok(said.len())
    }

    fn leave(&self, parked: Parked, said: Option<Writing>, woken: &mut Vec<Woken>) {
        if epoll::delete(self.set.get_ref(), &parked.socket).is_ok() {
            woken.push(Woken { parked, said: said.map(Box::new) });
        }
    }

    /// Closes those that have been idle for too long, and gives room back.
    pub fn sweep(&self, idle_timeout: Duration) {
        let now = Instant::now();
        let stays =
            |one: &Parked| one.stream.is_some() || now.saturating_duration_since(one.since) < idle_timeout;
        let mut parked = self.parked.borrow_mut();
        let overdue: Vec<_> = parked.extract_if(|_, one| !stays(one)).collect();
        if parked.capacity() > ROOM_MIN && parked.len() < parked.capacity() / 4 {
            parked.shrink_to_fit();
        }
        drop(parked);
        drop(overdue);
    }

    /// Closes all of them, but those on which something came, and those with a stream, which has an end: these are for
    /// the last time in `woken`. Nothing is parked afterwards: whoever has a task was told to end, and does not rest.
    pub fn close(&self, woken: &mut Vec<Woken>) {
        while self.take_ready(woken).is_ok_and(|count| count > 0) {}
        for (_, one) in self.parked.take() {
            if one.stream.is_some() {
                self.leave(one, None, woken);
            }
        }
    }
}

impl Parked {
    /// Whether its client has not gone.
    fn is_there(&self) -> bool {
        matches!(self.socket.peek(&mut [0]), Ok(1..))
    }
}

/// By which streams tell that they have something to say.
#[derive(Default)]
struct Alarms(Mutex<Rung>);

/// Bound: each number stands in it once, however often it rings, and rings only while something holds its waker: what a parked
/// stream waits for, or one that has left, until that is asked by its task. So there are no more than open streams.
#[derive(Default)]
struct Rung {
    /// Those that rang first are first.
    numbers: VecDeque<u64>,
    /// The same, to be found.
    waiting: HashSet<u64, RandomState>,
    waker: Option<Waker>,
}

impl Alarms {
    fn ring(&self, number: u64) {
        let mut rung = self.lock();
        if !rung.waiting.insert(number) {
            return;
        }
        rung.numbers.push_back(number);
        let waker = rung.waker.take();
        drop(rung);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Some of those that rang, as they rang; whoever asks is woken for more.
    fn take(&self, waker: &Waker) -> Vec<u64> {
        let mut rung = self.lock();
        let count = rung.numbers.len().min(AT_ONCE);
        let taken: Vec<u64> = rung.numbers.drain(..count).collect();
        if rung.numbers.is_empty() {
            // Emptied, both would keep their room.
            *rung = Rung { waker: Some(waker.clone()), ..Rung::default() };
        } else {
            for number in &taken {
                rung.waiting.remove(number);
            }
            waker.wake_by_ref();
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, Rung> {
        // What is done under it leaves a whole value.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One stream's.
struct Alarm {
    number: u64,
    alarms: Arc<Alarms>,
}

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        self.alarms.ring(self.number);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.alarms.ring(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    /// Counts how often it wakes.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What is taken, time after time, of those that rang in this order. Who takes is woken once for each time.
    #[track_caller]
    fn check(rung: &[u64], expected: &[&[u64]]) {
        let (alarms, counter) = (Arc::<Alarms>::default(), Arc::<Counter>::default());
        let waker = Waker::from(Arc::clone(&counter));
        for _ in 0..2 {
            assert!(alarms.take(&waker).is_empty());
            for number in rung {
                alarms.ring(*number);
            }
            assert_eq!(alarms.lock().numbers.len(), expected.concat().len(), "each stands there once");
            for expected in expected {
                assert_eq!(counter.0.swap(0, Ordering::Relaxed), 1, "before {expected:?}");
                assert_eq!(alarms.take(&waker), *expected);
            }
            assert_eq!(counter.0.load(Ordering::Relaxed), 0, "there is no more");
            assert!(alarms.lock().waiting.is_empty());
        }
    }

    #[test]
    fn alarms_are_heard_in_their_order_and_each_once() {
        check(&[], &[]);
        check(&[3, 1, 3, 2, 1], &[&[3, 1, 2]]);
        let many: Vec<u64> = (0..3 * AT_ONCE as u64).rev().collect();
        check(&many[..AT_ONCE], &[&many[..AT_ONCE]]);
        let (first, rest) = many.split_at(AT_ONCE);
        let (second, third) = rest.split_at(AT_ONCE);
        check(&many, &[first, second, third]);
        check(&[&many[..], &many[..], &many[5..]].concat(), &[first, second, third]);
        check(&[first, &[1000]].concat(), &[first, &[1000]]);
    }

    #[test]
    fn one_that_rings_while_others_wait_is_behind_them() {
        let alarms = Alarms::default();
        let ring = |numbers: std::ops::Range<u64>| numbers.for_each(|number| alarms.ring(number));
        ring(0..AT_ONCE as u64 + 1);
        assert_eq!(alarms.take(Waker::noop())[0], 0);
        ring(0..1);
        assert_eq!(alarms.take(Waker::noop()), [AT_ONCE as u64, 0]);
    }
}
