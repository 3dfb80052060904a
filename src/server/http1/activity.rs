//! What a worker knows of each of its connections, and how it ends them.
//!
//! No connection has a timer of its own, and no request looks at the clock: a connection counts what moves,
//! and the worker looks at all of them once a tick. What has not moved since the tick that saw it first has
//! lasted that long, or a tick longer.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::cached_credential::CachedCredential;
use crate::server::config::Config;
use crate::telemetry::metrics::ConnectionCounts;

/// One connection, as its owner, its socket and its requests tell of it.
pub struct Control {
    speaks: Cell<Speaks>,
    /// Requests whose answers have not passed yet.
    answering: Cell<u32>,
    /// Whether a head is being received.
    in_head: Cell<bool>,
    /// Heads begun, requests begun and ended.
    moves: Moves,
    /// Times that the client stopped taking bytes, and took them again: odd while it does not.
    stalls: Moves,
    order: Cell<Order>,
    /// Whether nothing was under way for a while.
    at_rest: Cell<bool>,
    /// Whether what is under way is an event stream, which may be silent for days.
    streams: Cell<bool>,
    /// Whether hyper may hold bytes that the socket has not taken.
    unwritten: Cell<bool>,
    /// The Host of the last request that was let in.
    pub host: RefCell<Vec<u8>>,
    /// Who asked last on it.
    pub known: RefCell<Option<CachedCredential>>,
    waker: RefCell<Option<Waker>>,
}

/// The protocol, as far as it decides what silence means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Speaks {
    /// A byte while nothing is under way begins a head.
    Http1,
    /// Frames come for many reasons; hyper asks whether the peer is there.
    Http2,
}

/// What the owner is to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Order {
    /// Nothing.
    GoOn,
    /// End after what is under way.
    Drain,
    /// End now.
    Close,
}

/// Long enough that a client with call after call never meets it; short beside the time that idle connections are
/// kept.
const REST_AFTER: Duration = Duration::from_secs(2);

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 64;

impl Control {
    /// Of a connection that nothing was asked on yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            speaks: Cell::new(Speaks::Http1),
            answering: Cell::new(0),
            in_head: Cell::new(false),
            moves: Moves::default(),
            stalls: Moves::default(),
            order: Cell::new(Order::GoOn),
            at_rest: Cell::new(false),
            streams: Cell::new(false),
            unwritten: Cell::new(false),
            host: RefCell::default(),
            known: RefCell::new(None),
            waker: RefCell::new(None),
        })
    }

    /// The first bytes told the protocol.
    pub fn speak(&self, speaks: Speaks) {
        self.speaks.set(speaks);
        self.in_head.set(false);
        self.moves.note();
    }

    /// Bytes came.
    pub fn note_read(&self) {
        self.at_rest.set(false);
        if self.speaks.get() == Speaks::Http1 && self.answering.get() == 0 && !self.in_head.replace(true) {
            self.moves.note();
        }
    }

    /// Something is to be written, or all of it was.
    pub fn note_unwritten(&self, is_left: bool) {
        self.unwritten.set(is_left);
    }

    /// Whether something is still to be written.
    pub fn has_unwritten(&self) -> bool {
        self.unwritten.get()
    }

    /// The client took bytes, or would not.
    pub fn note_write(&self, taken: bool) {
        if taken == self.is_stalled() {
            self.stalls.note();
        }
    }

    fn is_stalled(&self) -> bool {
        self.stalls.count.get() % 2 == 1
    }

    /// A request is under way until the guard is dropped, with the last byte of its answer.
    pub fn begin(self: &Rc<Self>) -> Active {
        self.answering.set(self.answering.get() + 1);
        self.in_head.set(false);
        self.at_rest.set(false);
        self.moves.note();
        Active(Rc::clone(self))
    }

    /// Whether what is under way from now on is an event stream.
    pub fn note_stream(&self, streams: bool) {
        self.streams.set(streams);
        self.note_passed();
    }

    /// A part of an answer was written.
    pub fn note_passed(&self) {
        self.at_rest.set(false);
        self.moves.note();
    }

    /// What the owner is to do; it is woken when that changes.
    pub fn order(&self, waker: &Waker) -> Order {
        let mut kept = self.waker.borrow_mut();
        if !kept.as_ref().is_some_and(|kept| kept.will_wake(waker)) {
            *kept = Some(waker.clone());
        }
        self.order.get()
    }

    /// Tells the owner what to do.
    pub fn give(&self, order: Order) {
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

    /// Whether nothing was under way for a while, or only a stream that was silent; who asked for the order is woken when
    /// that becomes so. Never of one that is to end: that is for its owner to see to.
    pub fn is_at_rest(&self) -> bool {
        self.at_rest.get() && self.order.get() == Order::GoOn
    }

    /// Since when nothing was under way, as far as this was looked at.
    pub fn still_since(&self) -> Instant {
        self.moves.seen.get().map_or_else(Instant::now, |(_, since)| since)
    }

    /// Notices when nothing has moved in a while. Asked once a tick.
    fn note_rest(&self, now: Instant) {
        let is_silent = (self.answering.get() == 0 || self.streams.get()) && !self.in_head.get();
        if is_silent && self.moves.still_for(now) >= REST_AFTER && !self.at_rest.replace(true) {
            self.wake();
        }
    }

    /// Whether the client has taken longer than it may. Asked once a tick.
    fn is_overdue(&self, now: Instant, config: &Config) -> bool {
        let (still, stalled) = (self.moves.still_for(now), self.stalls.still_for(now));
        let is_idle = self.answering.get() == 0 && !self.in_head.get();
        (self.in_head.get() && still >= config.header_timeout)
            || (self.is_stalled() && stalled >= config.idle_timeout)
            || (is_idle && still >= config.idle_timeout)
    }
}

/// A count of what happens, without a clock.
#[derive(Default)]
struct Moves {
    count: Cell<u32>,
    /// What the count was when it was last seen to have changed, and when that was.
    seen: Cell<Option<(u32, Instant)>>,
}

impl Moves {
    fn note(&self) {
        self.count.set(self.count.get().wrapping_add(1));
    }

    /// How long nothing happened, as far as this was asked.
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

/// A request under way.
pub struct Active(Rc<Control>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.answering.set(self.0.answering.get() - 1);
        self.0.moves.note();
    }
}

/// All connections of one worker.
#[derive(Default)]
pub struct Controls {
    live: RefCell<HashMap<u64, Rc<Control>, RandomState>>,
    next: Cell<u64>,
}

impl Controls {
    /// Looks after a connection until the guard is dropped.
    pub fn watch<'a>(&'a self, control: &Rc<Control>) -> Watched<'a> {
        let number = self.next.get();
        self.next.set(number + 1);
        self.live.borrow_mut().insert(number, Rc::clone(control));
        Watched { controls: self, number }
    }

    /// Ends those that have taken longer than they may.
    pub fn sweep(&self, config: &Config) {
        let now = Instant::now();
        for control in self.live.borrow().values() {
            control.note_rest(now);
            if control.is_overdue(now, config) {
                control.give(Order::Close);
            }
        }
        let mut live = self.live.borrow_mut();
        if live.capacity() > ROOM_MIN && live.len() < live.capacity() / 4 {
            live.shrink_to_fit();
        }
    }

    /// How many have a task.
    pub fn open(&self) -> usize {
        self.live.borrow().len()
    }

    /// How many there are, and how they are.
    pub fn count(&self) -> ConnectionCounts {
        let live = self.live.borrow();
        let at_rest = live.values().filter(|control| control.is_at_rest()).count();
        let under_way = live.values().map(|control| control.answering.get() as usize).sum();
        ConnectionCounts { open: live.len(), idle: at_rest, requests_in_flight: under_way }
    }

    /// Gives all of them the same order.
    pub fn give_all(&self, order: Order) {
        self.live.borrow().values().for_each(|control| control.give(order));
    }
}

/// A connection that is looked after.
pub struct Watched<'a> {
    controls: &'a Controls,
    number: u64,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        self.controls.live.borrow_mut().remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_secs(75),
            ..crate::server::http1::guard::tests::config("127.0.0.1:0")
        }
    }

    /// The worker looks once a second; it is overdue at one of the looks within that time, or it is not.
    #[track_caller]
    fn check(control: &Control, clock: &mut Instant, for_s: u64, expected: bool) {
        let mut is_overdue = false;
        for _ in 0..for_s {
            *clock += Duration::from_secs(1);
            is_overdue |= control.is_overdue(*clock, &config());
        }
        assert_eq!(is_overdue, expected, "within {for_s} s");
    }

    #[test]
    fn who_takes_too_long() {
        let (control, clock) = (Control::new(), &mut Instant::now());
        check(&control, clock, 75, false);
        check(&control, clock, 1, true);
        control.note_read();
        check(&control, clock, 5, false);
        // More of the head does not begin it anew.
        control.note_read();
        check(&control, clock, 5, false);
        check(&control, clock, 1, true);
        let active = control.begin();
        check(&control, clock, 3600, false);
        control.note_write(false);
        check(&control, clock, 75, false);
        control.note_write(false);
        check(&control, clock, 1, true);
        control.note_write(true);
        check(&control, clock, 3600, false);
        drop(active);
        check(&control, clock, 75, false);
        check(&control, clock, 1, true);
    }

    #[test]
    fn a_read_on_http2_begins_no_head() {
        let (control, clock) = (Control::new(), &mut Instant::now());
        control.speak(Speaks::Http2);
        control.note_read();
        check(&control, clock, 11, false);
    }

    /// A second after the other, whether it rests.
    #[track_caller]
    fn check_rest(control: &Control, clock: &mut Instant, expected: &[bool]) {
        for (second, expected) in expected.iter().enumerate() {
            *clock += Duration::from_secs(1);
            control.note_rest(*clock);
            assert_eq!(control.is_at_rest(), *expected, "{second}");
        }
    }

    #[test]
    fn who_is_to_end_never_rests() {
        let (control, clock) = (Control::new(), &mut Instant::now());
        check_rest(&control, clock, &[false, false, true, true]);
        let _active = control.begin();
        check_rest(&control, clock, &[false; 4]);
        control.note_stream(true);
        check_rest(&control, clock, &[false, false, true]);
        control.note_passed();
        control.give(Order::Drain);
        check_rest(&control, clock, &[false; 4]);
        let control = Control::new();
        check_rest(&control, clock, &[false, false, true]);
        control.give(Order::Drain);
        check_rest(&control, clock, &[false]);
    }

    #[test]
    fn a_table_that_was_much_bigger_gives_room_back() {
        let controls = Controls::default();
        let control = Control::new();
        let many: Vec<_> = (0..1000).map(|_| controls.watch(&control)).collect();
        controls.sweep(&config());
        assert_eq!(controls.open(), 1000);
        drop(many);
        controls.sweep(&config());
        assert!(controls.live.borrow().capacity() <= ROOM_MIN, "{}", controls.live.borrow().capacity());
    }
}
