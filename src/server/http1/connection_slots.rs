//! The limit on open connections.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam::utils::CachePadded;
use tokio::sync::Notify;

/// A slot among the open connections. Dropping it releases the slot.
pub struct ConnectionSlot(Rc<ConnectionSlots>);

/// The open connections of one worker and of all workers.
pub struct ConnectionSlots {
    /// The open connections of this worker.
    local: Cell<usize>,
    /// Notified when the last connection of this worker closes.
    emptied: Notify,
    /// The open connections of all workers.
    total: Arc<CachePadded<AtomicUsize>>,
}

impl ConnectionSlots {
    pub fn new(total: Arc<CachePadded<AtomicUsize>>) -> Rc<Self> {
        Rc::new(Self { local: Cell::new(0), emptied: Notify::new(), total })
    }

    /// Takes a slot. Returns `None` if `max` connections are open.
    pub fn acquire(self: &Rc<Self>, max: usize) -> Option<ConnectionSlot> {
        self.local.set(self.local.get() + 1);
        let place = ConnectionSlot(Rc::clone(self));
        (self.total.fetch_add(1, Ordering::Relaxed) < max).then_some(place)
    }

    /// Waits until this worker has no connection. Cancel safe.
    pub async fn emptied(&self) {
        while self.local.get() > 0 {
            self.emptied.notified().await;
        }
    }
}

impl Drop for ConnectionSlot {
    fn drop(&mut self) {
        let Self(places) = self;
        places.total.fetch_sub(1, Ordering::Relaxed);
        places.local.set(places.local.get() - 1);
        if places.local.get() == 0 {
            places.emptied.notify_waiters();
        }
    }
}
