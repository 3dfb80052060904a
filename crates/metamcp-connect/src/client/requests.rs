//! The client's requests in flight.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use bytes::Bytes;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::task::AbortHandle;

use metamcp_core::protocol::{CallsById, Era, InsertError};

/// Requests at the endpoint at once. An agent runs tens of calls, and each may hold a response of 32 MiB.
const SENT_MAX: usize = 64;

/// Requests in flight, with those that wait to be sent. Input is read on while they wait: behind them may be the
/// responses to the endpoint's requests, without which those before them never end.
const REQUESTS_MAX: usize = 4096;

/// Bytes of all requests in flight, kept until they are answered because a lost session may need them again.
/// Four of the longest lines; a single request may be longer.
const BYTES_MAX: usize = 64 << 20;

/// The requests in flight, by their ids.
pub struct ClientRequests {
    in_flight: RefCell<CallsById<RequestEntry, REQUESTS_MAX>>,
    bytes: Cell<usize>,
    send_permits: Semaphore,
    /// Separate, because subscriptions do not end by themselves.
    subscription_permits: Semaphore,
}

impl Default for ClientRequests {
    fn default() -> Self {
        Self {
            in_flight: RefCell::default(),
            bytes: Cell::default(),
            send_permits: Semaphore::new(SENT_MAX),
            subscription_permits: Semaphore::new(SENT_MAX),
        }
    }
}

struct RequestEntry {
    era: Era,
    bytes: usize,
    task: Option<AbortHandle>,
    is_cancelled: bool,
}

/// Keeps a request among those in flight until it is dropped.
pub struct RequestPermit {
    requests: Rc<ClientRequests>,
    id: Bytes,
}

impl ClientRequests {
    /// Admits one more request of `bytes` bytes.
    pub fn admit(self: &Rc<Self>, id: &Bytes, era: Era, bytes: usize) -> Result<RequestPermit, InsertError> {
        let mut in_flight = self.in_flight.borrow_mut();
        if !in_flight.is_empty() && self.bytes.get() + bytes > BYTES_MAX && !in_flight.contains(id) {
            return Err(InsertError::TooMany);
        }
        in_flight.insert(id.clone(), RequestEntry { era, bytes, task: None, is_cancelled: false })?;
        self.bytes.set(self.bytes.get() + bytes);
        Ok(RequestPermit { requests: Rc::clone(self), id: id.clone() })
    }

    /// Waits until one more request may be sent to the endpoint, in order of arrival. Cancel safe.
    pub async fn acquire_send_permit(&self, is_subscription: bool) -> Option<SemaphorePermit<'_>> {
        let permits = if is_subscription { &self.subscription_permits } else { &self.send_permits };
        // The semaphores are never closed.
        permits.acquire().await.ok()
    }

    /// Records the task that runs a request, so that [`ClientRequests::abort`] can end it.
    pub fn set_task(&self, id: &Bytes, task: AbortHandle) {
        if let Some(request) = self.in_flight.borrow_mut().get_mut(id) {
            request.task = Some(task);
        }
    }

    /// Returns the era of a request in flight.
    pub fn era(&self, id: &Bytes) -> Option<Era> {
        self.in_flight.borrow().get(id).map(|request| request.era)
    }

    /// Marks a request as cancelled: a response that arrives while the endpoint is being notified is dropped.
    pub fn cancel(&self, id: &Bytes) {
        if let Some(request) = self.in_flight.borrow_mut().get_mut(id) {
            request.is_cancelled = true;
        }
    }

    pub fn is_cancelled(&self, id: &Bytes) -> bool {
        self.in_flight.borrow().get(id).is_some_and(|request| request.is_cancelled)
    }

    /// Returns the ids and eras of all requests that the client still waits for.
    pub fn unanswered(&self) -> Vec<(Bytes, Era)> {
        let in_flight = self.in_flight.borrow();
        let unanswered = in_flight.iter().filter(|(_, request)| !request.is_cancelled);
        unanswered.map(|(id, request)| (id.clone(), request.era)).collect()
    }

    /// Aborts the task of a request; it is not answered any more.
    pub fn abort(&self, id: &Bytes) {
        let task = self.in_flight.borrow().get(id).and_then(|request| request.task.clone());
        if let Some(task) = task {
            task.abort();
        }
    }
}

impl Drop for RequestPermit {
    fn drop(&mut self) {
        if let Some(request) = self.requests.in_flight.borrow_mut().remove(&self.id) {
            self.requests.bytes.set(self.requests.bytes.get() - request.bytes);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_bounded_and_permits_come_back() {
        let requests = Rc::new(ClientRequests::default());
        let admit =
            |id: &str, bytes| requests.admit(&Bytes::copy_from_slice(id.as_bytes()), Era::Legacy, bytes);
        let one = admit("1", 10).ok();
        assert_eq!(admit("1", 10).err(), Some(InsertError::IdInUse));
        assert!(admit("\"1\"", 10).is_ok(), "another id");
        assert_eq!(admit("2", BYTES_MAX).err(), Some(InsertError::TooMany));
        let other = admit(r#""req\/1""#, 10);
        assert_eq!(admit(r#""req/1""#, 10).err(), Some(InsertError::IdInUse), "the same id, escaped");
        requests.cancel(&Bytes::from_static(br#""req/1""#));
        assert!(requests.is_cancelled(&Bytes::from_static(br#""req\/1""#)));
        drop((one, other));
        let next = admit("1", 10);
        assert!(next.is_ok() && !requests.is_cancelled(&Bytes::from_static(b"1")));
        assert_eq!(requests.unanswered(), [(Bytes::from_static(b"1"), Era::Legacy)]);
        requests.cancel(&Bytes::from_static(b"1"));
        assert!(requests.unanswered().is_empty());
        assert!(requests.is_cancelled(&Bytes::from_static(b"1")));
        drop(next);
        assert!(!requests.is_cancelled(&Bytes::from_static(b"1")), "the id may be used again");
        let all: Vec<_> = (0..REQUESTS_MAX).map(|id| admit(&id.to_string(), 1).ok()).collect();
        assert!(all.iter().all(Option::is_some));
        assert_eq!(admit("more", 1).err(), Some(InsertError::TooMany));
        drop(all);
        assert!(admit("whole", 2 * BYTES_MAX).is_ok(), "no bytes are held any more");
    }
}
