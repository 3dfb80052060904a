//! Streams that outlive their connection (2025-11-25): each event has an id, and a client whose connection was lost or closed
//! by the server requests the later events by GET with `Last-Event-ID`.
//!
//! Invariant: a stream has at most one reader; a new reader ends the one before.

use std::{
    cell::{Cell, RefCell},
    collections::VecDeque,
    rc::Rc,
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use serde_json::Value;

use crate::event::event;

/// Messages kept of one stream; the oldest are dropped first.
const MESSAGES_MAX: usize = 256;

/// How long a client should wait before it reconnects, in milliseconds.
const RETRY_MS: u64 = 500;

/// The stored messages of one stream.
#[derive(Debug)]
pub struct Replay {
    /// The stream's number, unique in the session.
    pub number: u64,
    messages: RefCell<VecDeque<Value>>,
    /// How many messages were dropped.
    dropped: Cell<u64>,
    done: Cell<bool>,
    reader: Cell<u64>,
    waker: RefCell<Option<Waker>>,
}

impl Replay {
    /// Creates a stream without messages.
    pub fn new(number: u64) -> Self {
        Self {
            number,
            messages: RefCell::default(),
            dropped: Cell::new(0),
            done: Cell::new(false),
            reader: Cell::new(0),
            waker: RefCell::default(),
        }
    }

    pub fn push(&self, message: Value) {
        let mut messages = self.messages.borrow_mut();
        if messages.len() == MESSAGES_MAX {
            messages.pop_front();
            self.dropped.set(self.dropped.get() + 1);
        }
        messages.push_back(message);
        self.wake();
    }

    /// Marks the stream as complete.
    pub fn finish(&self) {
        self.done.set(true);
        self.wake();
    }

    /// Ends the current reader, but not the stream.
    pub fn disconnect(&self) {
        self.reader.set(self.reader.get() + 1);
        self.wake();
    }

    /// Reads from the beginning.
    pub fn begin(self: &Rc<Self>) -> ReplayReader {
        ReplayReader { primed: false, ..self.resume(0) }
    }

    /// Reads from after the event with this number.
    pub fn resume(self: &Rc<Self>, after: u64) -> ReplayReader {
        self.disconnect();
        ReplayReader { stream: Rc::clone(self), number: self.reader.get(), read: after, primed: true }
    }

    fn wake(&self) {
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }
}

/// Parses a `Last-Event-ID` into the numbers of the stream and of the event.
pub fn parse_id(id: &str) -> Option<(u64, u64)> {
    let (stream, number) = id.split_once('-')?;
    Some((stream.parse().ok()?, number.parse().ok()?))
}

/// Reads a stream for one connection.
#[derive(Debug)]
pub struct ReplayReader {
    stream: Rc<Replay>,
    /// The number of this reader among the stream's readers.
    number: u64,
    /// The number of the last event that was read.
    read: u64,
    /// Whether the client has received an event id to resume after.
    primed: bool,
}

impl ReplayReader {
    /// Polls for the next event; `None` at the end of the stream or of this reader.
    pub fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if !self.primed {
            // An id without a message, so that the client can resume even before the first message.
            self.primed = true;
            let text = format!("id: {}-0\nretry: {RETRY_MS}\ndata: \n\n", self.stream.number);
            return Poll::Ready(Some(Bytes::from(text)));
        }
        if self.number != self.stream.reader.get() {
            return Poll::Ready(None);
        }
        let dropped = self.stream.dropped.get();
        self.read = self.read.max(dropped);
        let index = usize::try_from(self.read - dropped).unwrap_or(usize::MAX);
        if let Some(message) = self.stream.messages.borrow().get(index) {
            self.read += 1;
            let id = format!("id: {}-{}\n", self.stream.number, self.read);
            return Poll::Ready(Some(Bytes::from([id.as_bytes(), &event(message)].concat())));
        }
        if self.stream.done.get() {
            return Poll::Ready(None);
        }
        *self.stream.waker.borrow_mut() = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Reads all available events; returns their numbers, and whether the reader has ended.
    fn drain(reader: &mut ReplayReader) -> (Vec<u64>, bool) {
        let mut context = Context::from_waker(Waker::noop());
        let mut numbers = Vec::new();
        loop {
            match reader.poll_event(&mut context) {
                Poll::Pending => return (numbers, false),
                Poll::Ready(None) => return (numbers, true),
                Poll::Ready(Some(bytes)) => {
                    let text = std::str::from_utf8(&bytes).unwrap();
                    let id = text.strip_prefix("id: ").unwrap().split('\n').next().unwrap();
                    numbers.push(parse_id(id).unwrap().1);
                }
            }
        }
    }

    /// Checks which events a client receives after `pushed` messages, if it resumes after the event `after` or never left.
    fn check(pushed: u64, after: Option<u64>, expected: &[u64]) {
        let stream = Rc::new(Replay::new(3));
        (1..=pushed).for_each(|number| stream.push(json!(number)));
        let mut reader = after.map_or_else(|| stream.begin(), |after| stream.resume(after));
        assert_eq!(drain(&mut reader), (expected.to_vec(), false), "{pushed} {after:?}");
        stream.finish();
        assert_eq!(drain(&mut reader), (vec![], true));
    }

    #[test]
    fn replays() {
        check(0, None, &[0]);
        check(2, None, &[0, 1, 2]);
        check(2, Some(0), &[1, 2]);
        check(2, Some(1), &[2]);
        check(2, Some(2), &[]);
        check(2, Some(u64::MAX), &[]);
        let kept: Vec<u64> = (4..=MESSAGES_MAX as u64 + 3).collect();
        check(MESSAGES_MAX as u64 + 3, Some(1), &kept);
    }

    #[test]
    fn a_new_reader_ends_the_one_before() {
        let stream = Rc::new(Replay::new(1));
        let mut first = stream.begin();
        assert_eq!(drain(&mut first), (vec![0], false));
        let mut second = stream.resume(0);
        stream.push(json!(1));
        assert_eq!(drain(&mut first), (vec![], true));
        assert_eq!(drain(&mut second), (vec![1], false));
        stream.disconnect();
        assert_eq!(drain(&mut second), (vec![], true));
    }

    #[test]
    fn ids() {
        assert_eq!(parse_id("3-14"), Some((3, 14)));
        for id in ["", "3", "3-", "-3", "a-b", "3-1-4"] {
            assert_eq!(parse_id(id), None, "{id}");
        }
    }
}
