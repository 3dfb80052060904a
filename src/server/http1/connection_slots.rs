//! How many connections there may be.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;
use tokio::sync::Notify;

/// A place among the connections, given back when dropped.
pub struct ConnectionSlot(Rc<ConnectionSlots>);

/// The places of one worker.
pub struct ConnectionSlots {
    here: Cell<usize>,
    /// Told when the last one was given back.
    emptied: Notify,
    /// Over all workers.
    all: Arc<CachePadded<AtomicUsize>>,
    max: usize,
}

impl ConnectionSlots {
    /// All free.
    pub fn new(all: Arc<CachePadded<AtomicUsize>>, max: usize) -> Rc<Self> {
        Rc::new(Self { here: Cell::new(0), emptied: Notify::new(), all, max })
    }

    /// One of them, while there is any.
    pub fn take(self: &Rc<Self>) -> Option<ConnectionSlot> {
        self.here.set(self.here.get() + 1);
        let place = ConnectionSlot(Rc::clone(self));
        (self.all.fetch_add(1, Ordering::Relaxed) < self.max).then_some(place)
    }

    /// Waits until every place is free. Cancel safe.
    pub async fn emptied(&self) {
        while self.here.get() > 0 {
            self.emptied.notified().await;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let Self(places) = self;
        places.all.fetch_sub(1, Ordering::Relaxed);
        places.here.set(places.here.get() - 1);
        if places.here.get() == 0 {
            places.emptied.notify_waiters();
        }
    }
}
