//! What a worker knows of each of its connections, and how it ends them.
//!
//! No connection has a timer of its own: the worker looks at all of them once a tick. A request costs two
//! looks at the clock instead of timers that are set and taken back.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::task::Waker;
use std::time::{Duration, Instant};

use foldhash::fast::RandomState;

use super::Config;
use super::worker::Known;

/// One connection, as its owner, its socket and its requests tell of it.
pub struct Control {
    speaks: Cell<Speaks>,
    /// Requests whose answers have not passed yet.
    answering: Cell<u32>,
    /// The last time nothing was under way any more.
    idle_since: Cell<Instant>,
    /// Since when a head is being received.
    head_since: Cell<Option<Instant>>,
    /// Since when the client takes no byte.
    stalled_since: Cell<Option<Instant>>,
    order: Cell<Order>,
    /// The Host of the last request that was let in.
    pub host: RefCell<Vec<u8>>,
    /// Who asked last on it.
    pub known: RefCell<Option<Known>>,
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

impl Control {
    /// Of a connection that nothing was asked on yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            speaks: Cell::new(Speaks::Http1),
            answering: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            stalled_since: Cell::new(None),
            order: Cell::new(Order::GoOn),
            host: RefCell::default(),
            known: RefCell::new(None),
            waker: RefCell::new(None),
        })
    }

    /// The first bytes told the protocol.
    pub fn speak(&self, speaks: Speaks) {
        self.speaks.set(speaks);
        self.head_since.set(None);
    }

    /// Bytes came.
    pub fn note_read(&self) {
        if self.speaks.get() == Speaks::Http1 && self.answering.get() == 0 && self.head_since.get().is_none()
        {
            self.head_since.set(Some(Instant::now()));
        }
    }

    /// The client took bytes, or would not.
    pub fn note_write(&self, taken: bool) {
        match (taken, self.stalled_since.get()) {
            (true, Some(_)) => self.stalled_since.set(None),
            (false, None) => self.stalled_since.set(Some(Instant::now())),
            _ => {}
        }
    }

    /// A request is under way until the guard is dropped, with the last byte of its answer.
    pub fn begin(self: &Rc<Self>) -> Active {
        self.answering.set(self.answering.get() + 1);
        self.head_since.set(None);
        Active(Rc::clone(self))
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
            if let Some(waker) = self.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }

    /// Whether the client has taken longer than it may.
    fn is_overdue(&self, now: Instant, config: &Config) -> bool {
        let over = |since: Option<Instant>, timeout: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= timeout)
        };
        let is_idle = self.answering.get() == 0 && self.head_since.get().is_none();
        over(self.head_since.get(), config.header_timeout)
            || over(self.stalled_since.get(), config.idle_timeout)
            || (is_idle && over(Some(self.idle_since.get()), config.idle_timeout))
    }
}

/// A request under way.
pub struct Active(Rc<Control>);

impl Drop for Active {
    fn drop(&mut self) {
        self.0.answering.set(self.0.answering.get() - 1);
        self.0.idle_since.set(Instant::now());
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
        for control in self.live.borrow().values().filter(|control| control.is_overdue(now, config)) {
            control.give(Order::Close);
        }
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
            ..super::super::guard::tests::config("127.0.0.1:0")
        }
    }

    #[track_caller]
    fn check(control: &Control, after_s: u64, expected: bool) {
        let now = Instant::now() + Duration::from_secs(after_s);
        assert_eq!(control.is_overdue(now, &config()), expected, "after {after_s} s");
    }

    #[test]
    fn who_takes_too_long() {
        let control = Control::new();
        check(&control, 74, false);
        check(&control, 76, true);
        control.note_read();
        check(&control, 9, false);
        check(&control, 11, true);
        let active = control.begin();
        check(&control, 3600, false);
        control.note_write(false);
        check(&control, 76, true);
        control.note_write(true);
        check(&control, 76, false);
        drop(active);
        check(&control, 76, true);
    }

    #[test]
    fn a_read_on_http2_begins_no_head() {
        let control = Control::new();
        control.speak(Speaks::Http2);
        control.note_read();
        check(&control, 11, false);
    }
}
