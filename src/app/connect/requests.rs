//! The client's requests that are under way.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;

use crate::protocol::Era;

/// At the endpoint at once. An agent runs tens of calls; and each may hold an answer of 32 MiB.
const ASKED_MAX: usize = 64;

/// With those that wait for their turn meanwhile. Input is read on: answers to questions of the endpoint, without
/// which those before them may never end, stand behind them.
const REQUESTS_MAX: usize = 4096;

/// Of the client's own, held until they are answered, for a session that was lost may ask for them again.
/// Four of the longest lines; alone, a request may be longer.
const BYTES_MAX: usize = 64 << 20;

/// The requests that are under way, by their ids as written.
pub struct Requests {
    all: RefCell<HashMap<Bytes, Request>>,
    bytes: Cell<usize>,
    turns: Semaphore,
    /// Apart from those, for they never end by themselves.
    listening: Semaphore,
}

impl Default for Requests {
    fn default() -> Self {
        Self {
            all: RefCell::default(),
            bytes: Cell::default(),
            turns: Semaphore::new(ASKED_MAX),
            listening: Semaphore::new(ASKED_MAX),
        }
    }
}

struct Request {
    era: Era,
    bytes: usize,
    task: Option<AbortHandle>,
    /// Whether the client has cancelled it.
    is_cancelled: bool,
}

/// A place among them, given back when dropped.
pub struct Place {
    requests: Rc<Requests>,
    id: Bytes,
}

/// Why there is no place.
#[derive(Debug, PartialEq, Eq)]
pub enum Full {
    /// Another request has the id (JSON-RPC 2.0, section 4: the client's mistake). An answer to this one
    /// would be taken for one to that.
    InUse,
    /// There are as many as there may be.
    TooMany,
}

impl Requests {
    /// A place for one more.
    pub fn admit(self: &Rc<Self>, id: &Bytes, era: Era, bytes: usize) -> Result<Place, Full> {
        let mut all = self.all.borrow_mut();
        let is_full = all.len() >= REQUESTS_MAX || (!all.is_empty() && self.bytes.get() + bytes > BYTES_MAX);
        match all.entry(id.clone()) {
            Entry::Occupied(_) => Err(Full::InUse),
            Entry::Vacant(_) if is_full => Err(Full::TooMany),
            Entry::Vacant(place) => {
                place.insert(Request { era, bytes, task: None, is_cancelled: false });
                self.bytes.set(self.bytes.get() + bytes);
                Ok(Place { requests: Rc::clone(self), id: id.clone() })
            }
        }
    }

    /// Waits until one more may be asked of the endpoint, in the order of asking. Cancel safe.
    pub async fn turn(&self, is_listening: bool) -> Option<SemaphorePermit<'_>> {
        let turns = if is_listening { &self.listening } else { &self.turns };
        // They are never closed.
        turns.acquire().await.ok()
    }

    /// By that task.
    pub fn can_be_given_up(&self, id: &Bytes, task: AbortHandle) {
        if let Some(request) = self.all.borrow_mut().get_mut(id) {
            request.task = Some(task);
        }
    }

    /// The era of one that is under way.
    pub fn era(&self, id: &Bytes) -> Option<Era> {
        self.all.borrow().get(id).map(|request| request.era)
    }

    /// The client wants no answer to it any more. One that comes while the server is told is not for the client.
    pub fn cancel(&self, id: &Bytes) {
        if let Some(request) = self.all.borrow_mut().get_mut(id) {
            request.is_cancelled = true;
        }
    }

    /// Whether the client wants no answer to it.
    pub fn is_cancelled(&self, id: &Bytes) -> bool {
        self.all.borrow().get(id).is_some_and(|request| request.is_cancelled)
    }

    /// All for which the client waits, with their eras.
    pub fn awaited(&self) -> Vec<(Bytes, Era)> {
        let all = self.all.borrow();
        let awaited = all.iter().filter(|(_, request)| !request.is_cancelled);
        awaited.map(|(id, request)| (id.clone(), request.era)).collect()
    }

    /// Gives one up: it is not answered any more.
    pub fn give_up(&self, id: &Bytes) {
        let task = self.all.borrow().get(id).and_then(|request| request.task.clone());
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if let Some(request) = self.requests.all.borrow_mut().remove(&self.id) {
            self.requests.bytes.set(self.requests.bytes.get() - request.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_bounded_and_come_back() {
        let requests = Rc::new(Requests::default());
        let admit =
            |id: &str, bytes| requests.admit(&Bytes::copy_from_slice(id.as_bytes()), Era::Legacy, bytes);
        let one = admit("1", 10).ok();
        assert_eq!(admit("1", 10).err(), Some(Full::InUse));
        assert!(admit("\"1\"", 10).is_ok(), "another id");
        assert_eq!(admit("2", BYTES_MAX).err(), Some(Full::TooMany));
        drop(one);
        let next = admit("1", 10);
        assert!(next.is_ok() && !requests.is_cancelled(&Bytes::from_static(b"1")));
        assert_eq!(requests.awaited(), [(Bytes::from_static(b"1"), Era::Legacy)]);
        requests.cancel(&Bytes::from_static(b"1"));
        assert!(requests.awaited().is_empty());
        assert!(requests.is_cancelled(&Bytes::from_static(b"1")));
        drop(next);
        assert!(!requests.is_cancelled(&Bytes::from_static(b"1")), "what has the id next is another");
        let all: Vec<_> = (0..REQUESTS_MAX).map(|id| admit(&id.to_string(), 1).ok()).collect();
        assert!(all.iter().all(Option::is_some));
        assert_eq!(admit("more", 1).err(), Some(Full::TooMany));
        drop(all);
        assert!(admit("whole", 2 * BYTES_MAX).is_ok(), "nothing is held any more");
    }
}
