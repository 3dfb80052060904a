//! What a worker knows about each of its connections, and how it closes those that are idle or stalled.
//!
//! No connection has a timer of its own, and no request reads the clock. A connection counts events, and the
//! worker compares the counters once per tick. What has not changed since the tick that first saw it has
//! lasted that long, or one tick longer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::cached_credential::CachedCredential;
use crate::telemetry::metrics::ConnectionCounts;
use metamcp_config::sections::HttpConfig;

/// The state of one connection, as its task, its socket and its requests report it.
pub struct ConnectionActivity {
    speaks: Cell<HttpVersion>,
    /// Requests whose responses have not been written completely.
    answering: Cell<u32>,
    /// Whether a request head has been received in part.
    in_head: Cell<bool>,
    /// Counts heads that began, and requests that began and ended.
    moves: ProgressCounter,
    /// Counts the times that the client stopped reading, and started again: odd while it does not read.
    stalls: ProgressCounter,
    order: Cell<ConnectionOrder>,
    /// Whether nothing has happened for [`PARK_AFTER`].
    at_rest: Cell<bool>,
    /// Whether the request in flight is an event stream, which may be silent for days.
    streams: Cell<bool>,
    /// Whether hyper may hold bytes that the socket has not accepted.
    unwritten: Cell<bool>,
    /// The Host of the last request that was admitted.
    pub host: RefCell<Vec<u8>>,
    /// The credential of the last request.
    pub credential: RefCell<Option<CachedCredential>>,
    waker: RefCell<Option<Waker>>,
}

/// The protocol, which determines what silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HttpVersion {
    /// A byte outside of a request begins a head.
    Http1,
    /// Frames have many purposes. hyper sends pings to check whether the peer is there.
    Http2,
}

/// The instruction to the connection's task.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConnectionOrder {
    GoOn,
    /// Close after the requests in flight.
    Drain,
    /// Close now.
    Close,
}

/// Long enough that a client that sends one call after another is never parked, and short compared with the
/// idle timeout.
const PARK_AFTER: Duration = Duration::from_secs(2);

/// A table with less capacity is not shrunk.
const ROOM_MIN: usize = 64;

impl ConnectionActivity {
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            speaks: Cell::new(HttpVersion::Http1),
            answering: Cell::new(0),
            in_head: Cell::new(false),
            moves: ProgressCounter::default(),
            stalls: ProgressCounter::default(),
            order: Cell::new(ConnectionOrder::GoOn),
            at_rest: Cell::new(false),
            streams: Cell::new(false),
            unwritten: Cell::new(false),
            host: RefCell::default(),
            credential: RefCell::new(None),
            waker: RefCell::new(None),
        })
    }

    /// Sets the protocol, once the first bytes have shown it.
    pub fn speak(&self, speaks: HttpVersion) {
        self.speaks.set(speaks);
        self.in_head.set(false);
        self.moves.note();
    }

    /// Records that bytes were received.
    pub fn note_read(&self) {
        self.at_rest.set(false);
        if self.speaks.get() == HttpVersion::Http1 && self.answering.get() == 0 && !self.in_head.replace(true)
        {
            self.moves.note();
        }
    }

    /// Records whether there are bytes left to write.
    pub fn note_unwritten(&self, is_left: bool) {
        self.unwritten.set(is_left);
    }

    /// Whether there are bytes left to write.
    pub fn has_unwritten(&self) -> bool {
        self.unwritten.get()
    }

    /// Records whether the client accepted bytes.
    pub fn note_write(&self, taken: bool) {
        if taken == self.is_stalled() {
            self.stalls.note();
        }
    }

    fn is_stalled(&self) -> bool {
        self.stalls.count.get() % 2 == 1
    }

    /// Counts a request as in flight until the guard is dropped, with the last byte of the response.
    pub fn begin(self: &Rc<Self>) -> ActiveRequest {
        self.answering.set(self.answering.get() + 1);
        self.in_head.set(false);
        self.at_rest.set(false);
        self.moves.note();
        ActiveRequest(Rc::clone(self))
    }

    /// Sets whether the request in flight is an event stream.
    pub fn note_stream(&self, streams: bool) {
        self.streams.set(streams);
        self.note_passed();
    }

    /// Records that a part of a response was written.
    pub fn note_passed(&self) {
        self.at_rest.set(false);
        self.moves.note();
    }

    /// The current order. The task is woken when it changes.
    pub fn order(&self, waker: &Waker) -> ConnectionOrder {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
        self.order.get()
    }

    /// Gives an order. An order never becomes less strict.
    pub fn give(&self, order: ConnectionOrder) {
        if order > self.order.get() {
            self.order.set(order);
            self.wake();
        }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// Whether the connection may be parked: nothing has happened for a while, and at most a silent stream is
    /// in flight. The task is woken when this becomes true. Always false for a connection that is to close,
    /// which its task does.
    pub fn is_at_rest(&self) -> bool {
        self.at_rest.get() && self.order.get() == ConnectionOrder::GoOn
    }

    /// When the connection was last seen to change.
    pub fn still_since(&self) -> Instant {
        self.moves.seen.get().map_or_else(Instant::now, |(_, since)| since)
    }

    /// Checks whether the connection may be parked. Called once per tick.
    fn note_rest(&self, now: Instant) {
        let is_silent = (self.answering.get() == 0 || self.streams.get()) && !self.in_head.get();
        if is_silent && self.moves.still_for(now) >= PARK_AFTER && !self.at_rest.replace(true) {
            self.wake();
        }
    }

    /// Whether the client has exceeded a timeout. Called once per tick.
    fn is_overdue(&self, now: Instant, config: &HttpConfig) -> bool {
        let (still, stalled) = (self.moves.still_for(now), self.stalls.still_for(now));
        let is_idle = self.answering.get() == 0 && !self.in_head.get();
        (self.in_head.get() && still >= config.header_timeout)
            || (self.is_stalled() && stalled >= config.idle_timeout)
            || (is_idle && still >= config.idle_timeout)
    }
}

/// Counts events, so that recording one does not read the clock.
#[derive(Default)]
struct ProgressCounter {
    count: Cell<u32>,
    /// The count when it was last seen to have changed, and the time of that.
    seen: Cell<Option<(u32, Instant)>>,
}

impl ProgressCounter {
    fn note(&self) {
        self.count.set(self.count.get().wrapping_add(1));
    }

    /// How long the count has not changed, as observed by calls of this method.
    fn still_for(&self, now: Instant) -> Duration {
        match self.seen.get() {
            Some((count, since)) if count == self.count.get() => now.saturating_duration_since(since),
            _ => {
                self.seen.set(Some((self.count.get(), now)));
                Duration::ZERO
            }
        }
    }
}

/// Counts a request as in flight until it is dropped.
pub struct ActiveRequest(Rc<ConnectionActivity>);

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        self.0.answering.set(self.0.answering.get() - 1);
        self.0.moves.note();
    }
}

/// The connections of one worker.
#[derive(Default)]
pub struct ConnectionRegistry {
    live: RefCell<HashMap<u64, Rc<ConnectionActivity>, RandomState>>,
    next: Cell<u64>,
}

impl ConnectionRegistry {
    /// Registers a connection until the guard is dropped.
    pub fn watch<'a>(&'a self, activity: &Rc<ConnectionActivity>) -> ConnectionRegistration<'a> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.live.borrow_mut().insert(number, Rc::clone(activity));
        ConnectionRegistration { connections: self, number }
    }

    /// Closes connections that exceeded a timeout. Called once per tick.
    pub fn sweep(&self, config: &HttpConfig) {
        let now = Instant::now();
        for activity in self.live.borrow().values() {
            activity.note_rest(now);
            if activity.is_overdue(now, config) {
                activity.give(ConnectionOrder::Close);
            }
        }
        let mut live = self.live.borrow_mut();
        if live.capacity() > ROOM_MIN && live.len() < live.capacity() / 4 {
            live.shrink_to_fit();
        }
    }

    /// The number of registered connections.
    pub fn open(&self) -> usize {
        self.live.borrow().len()
    }

    /// Counts the connections by their state, for metrics.
    pub fn count(&self) -> ConnectionCounts {
        let live = self.live.borrow();
        let at_rest = live.values().filter(|activity| activity.is_at_rest()).count();
        let under_way = live.values().map(|activity| activity.answering.get() as usize).sum();
        ConnectionCounts { open: live.len(), idle: at_rest, requests_in_flight: under_way }
    }

    /// Gives all connections the same order.
    pub fn give_all(&self, order: ConnectionOrder) {
        self.live.borrow().values().for_each(|activity| activity.give(order));
    }
}

/// A registered connection. Dropping it removes it from the registry.
pub struct ConnectionRegistration<'a> {
    connections: &'a ConnectionRegistry,
    number: u64,
}

impl Drop for ConnectionRegistration<'_> {
    fn drop(&mut self) {
        self.connections.live.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> HttpConfig {
        HttpConfig {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            ..crate::server::http1::guard::tests::config("127.0.0.1:0")
        }
    }

    /// Advances the clock by `for_s` seconds, with a tick every second, and checks whether a timeout was
    /// exceeded at any of them.
    #[track_caller]
    fn check(activity: &ConnectionActivity, clock: &mut Instant, for_s: u64, expected: bool) {
        let mut is_overdue = false;
        for _ in 0..for_s {
            *clock += Duration::from_secs(1);
            is_overdue |= activity.is_overdue(*clock, &config());
        }
        assert_eq!(is_overdue, expected, "within {for_s} s");
    }

    #[test]
    fn who_takes_too_long() {
        let (activity, clock) = (ConnectionActivity::new(), &mut Instant::now());
        check(&activity, clock, 75, false);
        check(&activity, clock, 1, true);
        activity.note_read();
        check(&activity, clock, 5, false);
        // More bytes of the head do not restart its timeout.
        activity.note_read();
        check(&activity, clock, 5, false);
        check(&activity, clock, 1, true);
        let active = activity.begin();
        check(&activity, clock, 3600, false);
        activity.note_write(false);
        check(&activity, clock, 75, false);
        activity.note_write(false);
        check(&activity, clock, 1, true);
        activity.note_write(true);
        check(&activity, clock, 3600, false);
        drop(active);
        check(&activity, clock, 75, false);
        check(&activity, clock, 1, true);
    }

    #[test]
    fn a_read_on_http2_begins_no_head() {
        let (activity, clock) = (ConnectionActivity::new(), &mut Instant::now());
        activity.speak(HttpVersion::Http2);
        activity.note_read();
        check(&activity, clock, 11, false);
    }

    /// Checks after each second whether the connection may be parked.
    #[track_caller]
    fn check_rest(activity: &ConnectionActivity, clock: &mut Instant, expected: &[bool]) {
        for (second, expected) in expected.iter().enumerate() {
            *clock += Duration::from_secs(1);
            activity.note_rest(*clock);
            assert_eq!(activity.is_at_rest(), *expected, "{second}");
        }
    }

    #[test]
    fn who_is_to_end_never_rests() {
        let (activity, clock) = (ConnectionActivity::new(), &mut Instant::now());
        check_rest(&activity, clock, &[false, false, true, true]);
        let _active = activity.begin();
        check_rest(&activity, clock, &[false; 4]);
        activity.note_stream(true);
        check_rest(&activity, clock, &[false, false, true]);
        activity.note_passed();
        activity.give(ConnectionOrder::Drain);
        check_rest(&activity, clock, &[false; 4]);
        let activity = ConnectionActivity::new();
        check_rest(&activity, clock, &[false, false, true]);
        activity.give(ConnectionOrder::Drain);
        check_rest(&activity, clock, &[false]);
    }

    #[test]
    fn a_table_that_was_much_bigger_gives_room_back() {
        let connections = ConnectionRegistry::default();
        let activity = ConnectionActivity::new();
        let many: Vec<_> = (0..1000).map(|_| connections.watch(&activity)).collect();
        connections.sweep(&config());
        assert_eq!(connections.open(), 1000);
        drop(many);
        connections.sweep(&config());
        assert!(connections.live.borrow().capacity() <= ROOM_MIN, "{}", connections.live.borrow().capacity());
    }
}
