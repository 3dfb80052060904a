//! Connections on which nothing goes on: a socket each, and no task.
//!
//! One set of the kernel's (epoll) watches them all for one worker, and is itself what the worker's runtime watches.
//! A connection that says something leaves it and gets a task again; one that ends is closed where it is.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io;
use std::mem::MaybeUninit;
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam::utils::CachePadded;
use foldhash::fast::RandomState;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::time::Timespec;
use tokio::io::unix::AsyncFd;
use tokio::sync::Notify;

use super::control::Speaks;

/// The parked connections of one worker.
pub struct Parking {
    set: AsyncFd<OwnedFd>,
    parked: RefCell<HashMap<u64, Parked, RandomState>>,
    /// The number of the next one: none is used twice, so that what the kernel says of one is never taken for another.
    next: Cell<u64>,
}

/// A connection on which nothing is under way, and of which every byte that was read was used.
pub struct Parked {
    /// Open, and not blocking.
    pub socket: TcpStream,
    /// Since when nothing goes on.
    pub since: Instant,
    /// Among all connections.
    pub place: Place,
    /// The protocol, when it is known.
    pub speaks: Option<Speaks>,
}

/// What the kernel says at a time.
const EVENTS_AT_ONCE: usize = 256;

/// Room for fewer is not worth giving back.
const ROOM_MIN: usize = 64;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

impl Parking {
    /// Of the worker whose runtime this is called in.
    pub fn new() -> io::Result<Self> {
        #[expect(
            deprecated,
            reason = "what replaces it is unsafe, for descriptors that change; an `OwnedFd` does not"
        )]
        let set = AsyncFd::new(epoll::create(CreateFlags::CLOEXEC)?)?;
        Ok(Self { set, parked: RefCell::default(), next: Cell::new(0) })
    }

    /// Watches a connection from now on, also for what has come before. One that cannot be watched is closed.
    pub fn park(&self, parked: Parked) {
        let number = self.next.get();
        self.next.set(number + 1);
        let (said, what) = (EventData::new_u64(number), EventFlags::IN | EventFlags::RDHUP);
        if let Err(error) = epoll::add(self.set.get_ref(), &parked.socket, said, what) {
            tracing::warn!(%error, "cannot watch an idle connection; it was closed");
            return;
        }
        self.parked.borrow_mut().insert(number, parked);
    }

    /// Those on which something came, in `woken`. Cancel safe: they are in it or still parked.
    pub async fn wake(&self, woken: &mut Vec<Parked>) -> io::Result<()> {
        loop {
            let mut ready = self.set.readable().await?;
            if self.take_ready(woken)? == 0 {
                ready.clear_ready();
            }
            if !woken.is_empty() {
                return Ok(());
            }
        }
    }

    /// Takes out those of which the kernel has something to say; how many that was.
    fn take_ready(&self, woken: &mut Vec<Parked>) -> io::Result<usize> {
        let mut room = [const { MaybeUninit::<Event>::uninit() }; EVENTS_AT_ONCE];
        let (said, _) = epoll::wait(self.set.get_ref(), &mut room[..], Some(&NOW))?;
        let mut parked = self.parked.borrow_mut();
        for event in said.iter() {
            let Some(one) = parked.remove(&event.data.u64()) else { continue };
            let is_over = matches!(one.socket.peek(&mut [0]), Ok(0) | Err(_));
            // Closed, it leaves the set by itself.
            if !is_over && epoll::delete(self.set.get_ref(), &one.socket).is_ok() {
                woken.push(one);
            }
        }
        Ok(said.len())
    }

    /// Closes those that have been idle for too long, and gives room back.
    pub fn sweep(&self, idle_timeout: Duration) {
        let now = Instant::now();
        let mut parked = self.parked.borrow_mut();
        parked.retain(|_, one| now.saturating_duration_since(one.since) < idle_timeout);
        if parked.capacity() > ROOM_MIN && parked.len() < parked.capacity() / 4 {
            parked.shrink_to_fit();
        }
    }

    /// Closes all of them, but those on which something came: these are for the last time in `woken`.
    pub fn close(&self, woken: &mut Vec<Parked>) {
        while self.take_ready(woken).is_ok_and(|count| count > 0) {}
        self.parked.take();
    }
}

/// A place among the connections, given back when dropped.
pub struct Place(Rc<Places>);

/// The places of one worker.
pub struct Places {
    here: Cell<usize>,
    /// Told when the last one was given back.
    emptied: Notify,
    /// Over all workers.
    all: Arc<CachePadded<AtomicUsize>>,
    max: usize,
}

impl Places {
    /// All free.
    pub fn new(all: Arc<CachePadded<AtomicUsize>>, max: usize) -> Rc<Self> {
        Rc::new(Self { here: Cell::new(0), emptied: Notify::new(), all, max })
    }

    /// One of them, while there is any.
    pub fn take(self: &Rc<Self>) -> Option<Place> {
        self.here.set(self.here.get() + 1);
        let place = Place(Rc::clone(self));
        (self.all.fetch_add(1, Ordering::Relaxed) < self.max).then_some(place)
    }

    /// Waits until every place is free. Cancel safe.
    pub async fn emptied(&self) {
        while self.here.get() > 0 {
            self.emptied.notified().await;
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Self(places) = self;
        places.all.fetch_sub(1, Ordering::Relaxed);
        places.here.set(places.here.get() - 1);
        if places.here.get() == 0 {
            places.emptied.notify_waiters();
        }
    }
}
