//! The in-flight requests of a framed stream.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;

use metamcp_core::protocol::CallsById;

/// The future that answers a request. It returns the request's id once the answer is queued.
pub type ResponseFuture = Pin<Box<dyn Future<Output = Bytes>>>;

/// All in-flight requests of one stream. Dropping it cancels them.
#[derive(Default)]
pub struct InFlightRequests {
    /// Never more entries than `futures`: a cancelled request leaves this map first.
    by_id: CallsById<InFlightRequest, IN_FLIGHT_WITH_INPUT_MAX>,
    futures: FuturesUnordered<Abortable<ResponseFuture>>,
    /// Counters over `by_id`, because every message needs them.
    opening: usize,
    endless: usize,
}

/// The record of one request in flight.
pub struct InFlightRequest {
    pub lifecycle: RequestLifecycle,
    handle: AbortHandle,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RequestLifecycle {
    /// By its answer. Its server learns of a cancellation by a message.
    Legacy,
    /// As `Legacy`, and it opens the session of the stream.
    Opening,
    /// By its answer. Its server learns of a cancellation from the closed connection.
    Modern,
    /// When the client cancels it.
    Endless,
}

/// Requests in flight, including those that wait for the client.
pub const IN_FLIGHT_WITH_INPUT_MAX: usize = 1024;

impl InFlightRequests {
    /// The number of requests in flight.
    pub fn count(&self) -> usize {
        self.futures.len()
    }

    /// Whether no request is left that ends by its answer.
    pub fn are_over(&self) -> bool {
        self.by_id.len() == self.endless
    }

    /// Whether a request is opening the session of the stream.
    pub fn is_opening(&self) -> bool {
        self.opening > 0
    }

    /// The request with that id.
    pub fn find(&self, id: &[u8]) -> Option<&InFlightRequest> {
        self.by_id.get(id)
    }

    /// Adds a request. Its id must not be in flight, and there must be fewer than [`IN_FLIGHT_WITH_INPUT_MAX`].
    pub fn add(&mut self, id: Bytes, lifecycle: RequestLifecycle, answering: ResponseFuture) {
        let (handle, registration) = AbortHandle::new_pair();
        self.opening += usize::from(lifecycle == RequestLifecycle::Opening);
        self.endless += usize::from(lifecycle == RequestLifecycle::Endless);
        let inserted = self.by_id.insert(id, InFlightRequest { lifecycle, handle });
        debug_assert_eq!(inserted, Ok(()), "the caller has checked the id and the number");
        self.futures.push(Abortable::new(answering, registration));
    }

    /// Cancels the request with this id, if it is in flight.
    pub fn cancel(&mut self, id: &[u8], cx: &mut Context<'_>) {
        if let Some(flight) = self.forget(id) {
            flight.handle.abort();
            // The future is dropped when it is next polled; one that was just added has not registered a
            // waker yet.
            cx.waker().wake_by_ref();
        }
    }

    /// Drives all requests. Returns whether one ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_ended = false;
        while let Poll::Ready(Some(ended)) = self.futures.poll_next_unpin(cx) {
            has_ended = true;
            // A cancelled request has left the map already.
            if let Ok(id) = ended {
                self.forget(&id);
            }
        }
        has_ended
    }

    fn forget(&mut self, id: &[u8]) -> Option<InFlightRequest> {
        let flight = self.by_id.remove(id)?;
        self.opening -= usize::from(flight.lifecycle == RequestLifecycle::Opening);
        self.endless -= usize::from(flight.lifecycle == RequestLifecycle::Endless);
        Some(flight)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::Waker;

    use super::*;

    /// Adds and cancels requests, of which only `r` ends by itself. `expected`: how many are left, whether
    /// all that end by an answer are over, whether one is opening a session.
    #[track_caller]
    fn check(added: &[(&'static str, RequestLifecycle)], cancelled: &[&str], expected: (usize, bool, bool)) {
        let mut flights = InFlightRequests::default();
        let cx = &mut Context::from_waker(Waker::noop());
        for (id, lifecycle) in added {
            let id = Bytes::from_static(id.as_bytes());
            let answering: ResponseFuture =
                if id == "r" { Box::pin(ready(id.clone())) } else { Box::pin(pending()) };
            flights.add(id, *lifecycle, answering);
        }
        for id in cancelled {
            flights.cancel(id.as_bytes(), cx);
        }
        flights.poll(cx);
        assert_eq!((flights.count(), flights.are_over(), flights.is_opening()), expected);
        assert!(cancelled.iter().all(|id| flights.find(id.as_bytes()).is_none()));
    }

    #[test]
    fn requests_in_flight_are_counted_by_lifecycle() {
        check(&[], &["1"], (0, true, false));
        check(&[("1", RequestLifecycle::Legacy), ("2", RequestLifecycle::Modern)], &[], (2, false, false));
        check(&[("1", RequestLifecycle::Legacy), ("2", RequestLifecycle::Endless)], &["1"], (1, true, false));
        check(
            &[("1", RequestLifecycle::Opening), ("2", RequestLifecycle::Endless)],
            &["2"],
            (1, false, true),
        );
        check(
            &[("1", RequestLifecycle::Opening), ("r", RequestLifecycle::Modern)],
            &["1", "1"],
            (0, true, false),
        );
        check(&[("r", RequestLifecycle::Opening)], &[], (0, true, false));
        // The same id, escaped.
        check(&[("\"a/b\"", RequestLifecycle::Legacy)], &["\"a\\/b\""], (0, true, false));
    }
}
