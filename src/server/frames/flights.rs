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
        self.known.values().all(|flight| flight.course == Course::Endless)
    }

    /// Whether one opens the session of the stream.
    pub fn is_opening(&self) -> bool {
        self.known.values().any(|flight| flight.course == Course::Opening)
    }

    /// The one with that id.
    pub fn find(&self, id: &[u8]) -> Option<&Flight> {
        self.known.get(id)
    }

    /// One more, under an id that no other has.
    pub fn add(&mut self, id: Bytes, course: Course, answering: Answering) {
        let (handle, registration) = AbortHandle::new_pair();
        self.known.insert(id, Flight { course, handle });
        self.under_way.push(Abortable::new(answering, registration));
    }

    /// Nobody waits for its answer any more.
    pub fn cancel(&mut self, id: &[u8], cx: &mut Context<'_>) {
        if let Some(flight) = self.known.remove(id) {
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
                self.known.remove(&id);
            }
        }
        has_ended
    }
}
