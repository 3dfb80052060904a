//! The idle connections of one thread to one server.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::task::{spawn_local, yield_now};

use super::connection::Connection;

/// Connections that no request uses. Not shared between threads, so nothing here is locked.
pub struct IdleConnections {
    connections_max: usize,
    /// Older connections are closed rather than used.
    age_max: Duration,
    #[expect(clippy::vec_box, reason = "they are moved from hand to hand with every request")]
    ready: RefCell<Vec<Box<Connection>>>,
    /// Returned in this turn of the runtime. A server that sends more than one response sends it right behind
    /// the first; by the next turn it has arrived, and is seen.
    #[expect(clippy::vec_box, reason = "likewise")]
    returned: RefCell<Vec<Box<Connection>>>,
    /// Requests that wait for a connection to be opened.
    waiting: Cell<usize>,
    /// Notified of each connection that becomes ready while any request waits.
    available: Notify,
    /// The time of the last sweep, at most a second ago. Ages are off by that much, for which `age_max`
    /// allows.
    now: Cell<Instant>,
}

impl IdleConnections {
    pub fn new(connections_max: usize, age_max: Duration) -> Rc<Self> {
        Rc::new(Self {
            connections_max,
            age_max,
            ready: RefCell::default(),
            returned: RefCell::default(),
            waiting: Cell::new(0),
            available: Notify::new(),
            now: Cell::new(Instant::now()),
        })
    }

    /// Takes a connection that can be used. The youngest first, so that the old ones age and close.
    pub fn take(&self) -> Option<Box<Connection>> {
        let mut ready = self.ready.borrow_mut();
        while let Some(mut connection) = ready.pop() {
            if connection.is_fresh(self.now.get(), self.age_max) {
                return Some(connection);
            }
        }
        None
    }

    /// Waits for another request to return a connection. Cancel safe.
    pub async fn wait(&self) -> Box<Connection> {
        let _waiting = CountGuard::enter(&self.waiting);
        loop {
            self.available.notified().await;
            if let Some(connection) = self.take() {
                return connection;
            }
        }
    }

    /// Returns a connection after a response was read completely.
    pub fn put(self: &Rc<Self>, mut connection: Box<Connection>) {
        let mut returned = self.returned.borrow_mut();
        let count = self.ready.borrow().len() + returned.len();
        if count >= self.connections_max || !connection.can_be_pooled() {
            return;
        }
        connection.mark_idle(self.now.get());
        returned.push(connection);
        if returned.len() == 1 {
            let idle = Rc::clone(self);
            spawn_local(async move {
                // Continues only after the runtime has asked the kernel what arrived.
                yield_now().await;
                let mut returned = idle.returned.borrow_mut();
                for _ in 0..returned.len().min(idle.waiting.get()) {
                    idle.available.notify_one();
                }
                idle.ready.borrow_mut().append(&mut returned);
            });
        }
    }

    /// How many connections are open and unused.
    pub fn len(&self) -> usize {
        self.ready.borrow().len() + self.returned.borrow().len()
    }

    /// Closes connections that were idle for too long. Called every second.
    pub fn sweep(&self) {
        let now = Instant::now();
        self.now.set(now);
        self.ready.borrow_mut().retain_mut(|connection| connection.is_fresh(now, self.age_max));
    }
}

/// Counts a waiting request until it is dropped.
struct CountGuard<'a>(&'a Cell<usize>);

impl<'a> CountGuard<'a> {
    fn enter(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for CountGuard<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
