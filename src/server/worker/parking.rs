//! Parked connections: a socket each, possibly with a silent event stream, and no task.
//!
//! One epoll instance watches all of them for a worker, and the worker's runtime watches that instance. A
//! connection that receives bytes is removed and gets a task again; a closed one is dropped here. Events of a
//! parked stream are written from here, as long as the client accepts them at once.
//!
//! Does not know: HTTP, or the contents of streams.

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet, VecDeque};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;

use crate::server::http1::activity::{ConnectionActivity, HttpVersion};
use crate::server::http1::connection_slots::ConnectionSlot;
use crate::server::http1::socket::UnwatchedSocket;
use crate::server::reply::response_writer::{KeepAliveTimer, ResponseWriter};

/// The parked connections of one worker.
pub struct Parking {
    set: AsyncFd<OwnedFd>,
    parked: RefCell<HashMap<u64, ParkedConnection, RandomState>>,
    /// The number of the next connection. Numbers are not reused, so an event is never attributed to another
    /// connection.
    next: Cell<u64>,
    alarms: Arc<StreamAlarms>,
    /// Stands in for the activity of a connection with a task. Nothing here needs timeouts.
    activity: Rc<ConnectionActivity>,
}

/// A connection without a request in flight whose received bytes were all processed.
pub struct ParkedConnection {
    /// Open, and not registered with the runtime.
    pub socket: TcpStream,
    /// When the connection became idle.
    pub since: Instant,
    pub slot: ConnectionSlot,
    /// The protocol, if it is known.
    pub protocol: Option<HttpVersion>,
    /// The event stream that the connection carries.
    pub stream: Option<Box<ParkedStream>>,
}

/// An event stream whose received events are all written.
pub struct ParkedStream {
    timer: KeepAliveTimer,
    /// Notifies the worker that the stream has events.
    alarm: Option<Waker>,
}

/// A connection that is no longer parked.
pub struct WokenConnection {
    pub parked: ParkedConnection,
    /// The response, if it has bytes that are not written.
    response: Option<Box<ResponseWriter>>,
}

impl ParkedStream {
    /// Prepares a response for parking with its connection.
    pub fn new(writing: ResponseWriter) -> Self {
        Self { timer: writing.keep_alive_timer(), alarm: None }
    }
}

impl WokenConnection {
    /// Takes the event stream that the connection carries.
    pub fn take_stream(&mut self) -> Option<ResponseWriter> {
        let silent = self.parked.stream.take()?;
        Some(self.response.take().map_or_else(|| silent.timer.into(), |response| *response))
    }
}

/// Connections handled per system call, and streams per wake-up.
const AT_ONCE: usize = 64;

/// Batches handled per poll: clients may disconnect by the thousands.
const TURNS: usize = 8;

/// A table with less capacity is not shrunk.
const ROOM_MIN: usize = 64;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Parking {
    /// Must be called within the worker's runtime.
    ///
    /// # Errors The process has no file descriptor left.
    pub fn new() -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, for descriptors that change; an `OwnedFd` does not"
        )]
        let set = AsyncFd::new(epoll::create(CreateFlags::CLOEXEC)?)?;
        let alarms = Arc::<StreamAlarms>::default();
        Ok(Self {
            set,
            parked: RefCell::default(),
            next: Cell::new(0),
            alarms,
            activity: ConnectionActivity::new(),
        })
    }

    /// Parks a connection. Bytes that arrived before are noticed too. A connection that cannot be watched is
    /// closed.
    pub fn park(&self, mut parked: ParkedConnection) {
        let number = self.next.get();
        self.next.set(number + 1);
        let (data, what) = (EventData::new_u64(number), EventFlags::IN | EventFlags::RDHUP);
        if let Err(error) = epoll::add(self.set.get_ref(), &parked.socket, data, what) {
            tracing::warn!(%error, "cannot watch an idle connection; it was closed");
            return;
        }
        if let Some(silent) = &mut parked.stream {
            let alarm = Arc::new(StreamAlarm { number, alarms: Arc::clone(&self.alarms) });
            silent.alarm = Some(Waker::from(alarm));
            // Poll the stream once, so that it registers its waker.
            self.alarms.ring(number);
        }
        self.parked.borrow_mut().insert(number, parked);
    }

    /// The number of parked connections.
    pub fn count(&self) -> usize {
        self.parked.borrow().len()
    }

    /// Waits for connections that received bytes, or whose streams have more events than the client accepts
    /// at once, and moves them to `woken`. Cancel safe: each one is in `woken` or still parked.
    pub async fn wake(&self, woken: &mut Vec<WokenConnection>) -> io::Result<()> {
        poll_fn(|cx| {
            let due = self.alarms.take_due(cx.waker());
            for number in due {
                self.poll_stream(number, woken);
            }
            for _ in 0..TURNS {
                let Poll::Ready(ready) = self.set.poll_read_ready(cx) else {
                    return if woken.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) };
                };
                // Keep polling until no event is left.
                if self.take_ready(woken)? == 0 {
                    ready?.clear_ready();
                }
            }
            cx.waker().wake_by_ref();
            if woken.is_empty() { Poll::Pending } else { Poll::Ready(Ok(())) }
        })
        .await
    }

    /// Polls the stream of a parked connection.
    fn poll_stream(&self, number: u64, woken: &mut Vec<WokenConnection>) {
        // The connection was closed or has a task.
        let Some(mut one) = self.parked.borrow_mut().remove(&number) else { return };
        let Some(ParkedStream { timer: left, alarm: Some(alarm) }) = one.stream.as_deref_mut() else {
            return;
        };
        let (mut writing, mut still) =
            (ResponseWriter::from(std::mem::take(left)), UnwatchedSocket(&one.socket));
        // This runs in the loop that accepts connections: a panic may end this connection, and no other. The stream
        // is not polled again.
        let polled = catch_unwind(AssertUnwindSafe(|| {
            writing.poll(&mut still, &self.activity, &mut Context::from_waker(alarm))
        }));
        let Ok(polled) = polled else {
            tracing::error!("an event stream panicked; its connection was closed");
            return;
        };
        match polled {
            Poll::Pending if writing.is_silent() => {
                *left = writing.keep_alive_timer();
                self.parked.borrow_mut().insert(number, one);
            }
            Poll::Pending | Poll::Ready(true) => self.leave(one, Some(writing), woken),
            // The stream broke, its client left, or the connection ends with it. Dropping the socket closes
            // it and removes it from the epoll instance. Polling again would end a broken stream as if it
            // were complete.
            Poll::Ready(false) => {}
        }
    }

    /// Removes the connections with epoll events. Returns the number of events.
    fn take_ready(&self, woken: &mut Vec<WokenConnection>) -> io::Result<usize> {
        let mut room = [const { MaybeUninit::<Event>::uninit() }; AT_ONCE];
        let (events, _) = epoll::wait(self.set.get_ref(), &mut room[..], Some(&NOW))?;
        for event in events.iter() {
            let one = self.parked.borrow_mut().remove(&event.data.u64());
            // Dropping the socket removes it from the epoll instance.
            if let Some(one) = one.filter(ParkedConnection::is_there) {
                self.leave(one, None, woken);
            }
        }
        Ok(events.len())
    }

    fn leave(
        &self,
        parked: ParkedConnection,
        response: Option<ResponseWriter>,
        woken: &mut Vec<WokenConnection>,
    ) {
        if epoll::delete(self.set.get_ref(), &parked.socket).is_ok() {
            woken.push(WokenConnection { parked, response: response.map(Box::new) });
        }
    }

    /// Closes connections that were idle for too long, and shrinks the table.
    pub fn sweep(&self, idle_timeout: Duration) {
        let now = Instant::now();
        let stays = |one: &ParkedConnection| {
            one.stream.is_some() || now.saturating_duration_since(one.since) < idle_timeout
        };
        let mut parked = self.parked.borrow_mut();
        let overdue: Vec<_> = parked.extract_if(|_, one| !stays(one)).collect();
        if parked.capacity() > ROOM_MIN && parked.len() < parked.capacity() / 4 {
            parked.shrink_to_fit();
        }
        drop(parked);
        drop(overdue);
    }

    /// Closes all connections, except those that received bytes and those with a stream, which must be ended:
    /// these are moved to `woken`. Nothing is parked afterwards, since connections with a task are ordered to
    /// close.
    pub fn close(&self, woken: &mut Vec<WokenConnection>) {
        while self.take_ready(woken).is_ok_and(|count| count > 0) {}
        for (_, one) in self.parked.take() {
            if one.stream.is_some() {
                self.leave(one, None, woken);
            }
        }
    }
}

impl ParkedConnection {
    /// Whether the client is still connected.
    fn is_there(&self) -> bool {
        matches!(self.socket.peek(&mut [0]), Ok(1..))
    }
}

/// The streams that have events.
#[derive(Default)]
struct StreamAlarms(Mutex<PendingAlarms>);

/// Bounded by the number of open streams: a stream is listed once, however often it notifies, and only while
/// something holds its waker.
#[derive(Default)]
struct PendingAlarms {
    /// In the order of notification.
    numbers: VecDeque<u64>,
    /// The same numbers as a set.
    waiting: HashSet<u64, RandomState>,
    waker: Option<Waker>,
}

impl StreamAlarms {
    fn ring(&self, number: u64) {
        let mut due = self.lock();
        if !due.waiting.insert(number) {
            return;
        }
        due.numbers.push_back(number);
        let waker = due.waker.take();
        drop(due);
        waker.into_iter().for_each(Waker::wake);
    }

    /// Takes some of the streams, in order. The task is woken for the rest.
    fn take_due(&self, waker: &Waker) -> Vec<u64> {
        let mut due = self.lock();
        let count = due.numbers.len().min(AT_ONCE);
        let taken: Vec<u64> = due.numbers.drain(..count).collect();
        if due.numbers.is_empty() {
            // Drop the empty collections, which would otherwise keep their capacity.
            *due = PendingAlarms { waker: Some(waker.clone()), ..PendingAlarms::default() };
        } else {
            for number in &taken {
                due.waiting.remove(number);
            }
            waker.wake_by_ref();
        }
        taken
    }

    fn lock(&self) -> MutexGuard<'_, PendingAlarms> {
        // The value is consistent even after a panic.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The waker of one parked stream.
struct StreamAlarm {
    number: u64,
    alarms: Arc<StreamAlarms>,
}

impl Wake for StreamAlarm {
    fn wake(self: Arc<Self>) {
        self.alarms.ring(self.number);
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.alarms.ring(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;
    use std::net::TcpListener;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use bytes::Bytes;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::server::http1::connection_slots::ConnectionSlots;
    use crate::server::http1::date;
    use crate::server::reply::body::{BodyError, BodySource, ResponseBody};
    use crate::server::reply::reply;

    /// Counts how often it wakes.
    #[derive(Default)]
    struct Counter(AtomicUsize);

    impl Wake for Counter {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Checks which streams each take returns if they notify in this order. The task is woken once for each
    /// take.
    #[track_caller]
    fn check(due: &[u64], expected: &[&[u64]]) {
        let (alarms, counter) = (Arc::<StreamAlarms>::default(), Arc::<Counter>::default());
        let waker = Waker::from(Arc::clone(&counter));
        for _ in 0..2 {
            assert!(alarms.take_due(&waker).is_empty());
            for number in due {
                alarms.ring(*number);
            }
            assert_eq!(alarms.lock().numbers.len(), expected.concat().len(), "each stands there once");
            for expected in expected {
                assert_eq!(counter.0.swap(0, Ordering::Relaxed), 1, "before {expected:?}");
                assert_eq!(alarms.take_due(&waker), *expected);
            }
            assert_eq!(counter.0.load(Ordering::Relaxed), 0, "there is no more");
            assert!(alarms.lock().waiting.is_empty());
        }
    }

    #[test]
    fn alarms_are_taken_in_order_and_once_each() {
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
    fn a_repeated_alarm_is_queued_behind_waiting_ones() {
        let alarms = StreamAlarms::default();
        let ring = |numbers: std::ops::Range<u64>| numbers.for_each(|number| alarms.ring(number));
        ring(0..AT_ONCE as u64 + 1);
        assert_eq!(alarms.take_due(Waker::noop())[0], 0);
        ring(0..1);
        assert_eq!(alarms.take_due(Waker::noop()), [AT_ONCE as u64, 0]);
    }

    /// A stream that is silent until it is to panic.
    struct BrokenSource(Rc<Cell<bool>>);

    impl BodySource for BrokenSource {
        fn poll_bytes(&mut self, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
            assert!(!self.0.get(), "it panics");
            Poll::Pending
        }

        fn is_event_stream(&self) -> bool {
            true
        }
    }

    #[tokio::test]
    async fn a_panic_of_a_parked_stream_ends_its_connection_and_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let slots = ConnectionSlots::new(Arc::default());
        let parking = Parking::new().expect("there are descriptors");
        let panics = Rc::new(Cell::new(false));
        let mut clients = Vec::new();
        for has_stream in [true, false] {
            clients.push(TcpStream::connect(listener.local_addr().expect("it has one")).expect("it listens"));
            let (socket, _) = listener.accept().expect("a connection");
            socket.set_nonblocking(true).expect("it can be");
            let stream = has_stream.then(|| {
                let reply = reply::events(ResponseBody::source(Box::new(BrokenSource(Rc::clone(&panics)))));
                let mut writing = ResponseWriter::new(reply, &date::now(), false);
                let mut context = Context::from_waker(Waker::noop());
                assert!(
                    writing.poll(&mut UnwatchedSocket(&socket), &parking.activity, &mut context).is_pending()
                );
                Box::new(ParkedStream::new(writing))
            });
            let slot = slots.acquire(2).expect("there is one");
            parking.park(ParkedConnection { socket, since: Instant::now(), slot, protocol: None, stream });
        }
        assert_eq!(parking.count(), 2);
        panics.set(true);
        let mut woken = Vec::new();
        assert!(parking.wake(&mut woken).now_or_never().is_none(), "nothing woke");
        assert_eq!((parking.count(), woken.len()), (1, 0));
        let mut head = String::new();
        clients[0].read_to_string(&mut head).expect("it is closed");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    }
}
