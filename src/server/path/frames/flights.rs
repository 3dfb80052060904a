//! The requests of a framed stream that are under way.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use foldhash::fast::RandomState;
use futures_util::StreamExt as _;
use futures_util::future::{AbortHandle, Abortable};
use futures_util::stream::FuturesUnordered;

/// An answer on its way; gives the id back when it was told.
pub type Answering = Pin<Box<dyn Future<Output = Bytes>>>;

/// All of one stream. Dropped, all of them are cancelled.
#[derive(Default)]
pub struct Flights {
    /// By raw id. Holds no more than `under_way`: one that was given up leaves it first.
    known: HashMap<Bytes, Flight, RandomState>,
    under_way: FuturesUnordered<Abortable<Answering>>,
    /// Of those that are known, by how they end: asked for with every message.
    opening: usize,
    endless: usize,
}

/// What is known of one.
pub struct Flight {
    /// What it asks for.
    pub course: Course,
    handle: AbortHandle,
}

/// How a request ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Course {
    /// By its answer; when cancelled, its server is told by a message.
    Legacy,
    /// Likewise, and it opens the session of the stream.
    Opening,
    /// By its answer; its server learns that it is cancelled from the closed connection.
    Modern,
    /// When the client has had enough.
    Endless,
}

impl Flights {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.under_way.len()
    }

    /// Whether none is left whose answer is awaited.
    pub fn are_over(&self) -> bool {
        self.known.len() == self.endless
    }

    /// Whether one opens the session of the stream.
    pub fn is_opening(&self) -> bool {
        self.opening > 0
    }

    /// The one with that id.
    pub fn find(&self, id: &[u8]) -> Option<&Flight> {
        self.known.get(id)
    }

    /// One more, under an id that no other has.
    pub fn add(&mut self, id: Bytes, course: Course, answering: Answering) {
        let (handle, registration) = AbortHandle::new_pair();
        self.opening += usize::from(course == Course::Opening);
        self.endless += usize::from(course == Course::Endless);
        self.known.insert(id, Flight { course, handle });
        self.under_way.push(Abortable::new(answering, registration));
    }

    /// Nobody waits for its answer any more.
    pub fn cancel(&mut self, id: &[u8], cx: &mut Context<'_>) {
        if let Some(flight) = self.forget(id) {
            flight.handle.abort();
            // It is dropped when it is next polled, which one that was just added has not been yet.
            cx.waker().wake_by_ref();
        }
    }

    /// Goes on with all of them; whether one ended.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> bool {
        let mut has_ended = false;
        while let Poll::Ready(Some(ended)) = self.under_way.poll_next_unpin(cx) {
            has_ended = true;
            // One that was cancelled has left already.
            if let Ok(id) = ended {
                self.forget(&id);
            }
        }
        has_ended
    }

    fn forget(&mut self, id: &[u8]) -> Option<Flight> {
        let flight = self.known.remove(id)?;
        self.opening -= usize::from(flight.course == Course::Opening);
        self.endless -= usize::from(flight.course == Course::Endless);
        Some(flight)
    }
}

#[cfg(test)]
mod tests {
    use std::future::{pending, ready};
    use std::task::Waker;

    use super::*;

    /// What is done to requests that never end by themselves but for `r`, and what is left: how many, whether all that end
    /// are over, whether one opens.
    #[track_caller]
    fn check(added: &[(&'static str, Course)], cancelled: &[&str], expected: (usize, bool, bool)) {
        let mut flights = Flights::default();
        let cx = &mut Context::from_waker(Waker::noop());
        for (id, course) in added {
            let id = Bytes::from_static(id.as_bytes());
            let answering: Answering =
                if id == "r" { Box::pin(ready(id.clone())) } else { Box::pin(pending()) };
            flights.add(id, *course, answering);
        }
        for id in cancelled {
            flights.cancel(id.as_bytes(), cx);
        }
        flights.poll(cx);
        assert_eq!((flights.count(), flights.are_over(), flights.is_opening()), expected);
        assert!(cancelled.iter().all(|id| flights.find(id.as_bytes()).is_none()));
    }

    #[test]
    fn what_is_under_way() {
        check(&[], &["1"], (0, true, false));
        check(&[("1", Course::Legacy), ("2", Course::Modern)], &[], (2, false, false));
        check(&[("1", Course::Legacy), ("2", Course::Endless)], &["1"], (1, true, false));
        check(&[("1", Course::Opening), ("2", Course::Endless)], &["2"], (1, false, true));
        check(&[("1", Course::Opening), ("r", Course::Modern)], &["1", "1"], (0, true, false));
        check(&[("r", Course::Opening)], &[], (0, true, false));
    }
}
