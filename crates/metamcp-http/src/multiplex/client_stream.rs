//! What a server sends to a client outside of calls.

use std::collections::VecDeque;

use bytes::Bytes;

use super::event_channel::EventSink;

/// One client's event stream, or the events that wait for it to be opened.
#[derive(Default)]
pub struct ClientStream {
    /// The call that opened the stream, and the stream.
    open: Option<(u64, EventSink)>,
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
}

/// Events that wait for a client to open its stream, which it does at once or never.
const WAITING_MAX: usize = 64;

/// Bytes of these events together.
const WAITING_BYTES_MAX: usize = 1 << 20;

impl ClientStream {
    /// Opens the stream, in place of the one before, and sends what waited.
    pub fn open(&mut self, call: u64, sink: EventSink) {
        for event in self.waiting.drain(..) {
            sink.try_send(event);
        }
        self.waiting_bytes = 0;
        self.open = Some((call, sink));
    }

    /// Closes the stream if it is the one that `call` opened.
    pub fn close(&mut self, call: u64) {
        self.open.take_if(|(opened_by, _)| *opened_by == call);
    }

    /// Returns the call that opened the stream, if it is open.
    pub fn opened_by(&self) -> Option<u64> {
        self.open.as_ref().map(|(call, _)| *call)
    }

    pub fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// Sends an event, or keeps it until the stream is opened. False when there is no room for it.
    pub fn send(&mut self, event: Bytes) -> bool {
        if let Some((_, sink)) = &self.open {
            return sink.try_send(event);
        }
        if self.waiting.len() >= WAITING_MAX || self.waiting_bytes + event.len() > WAITING_BYTES_MAX {
            return false;
        }
        self.waiting_bytes += event.len();
        self.waiting.push_back(event);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::event_channel::event_channel;
    use super::*;

    #[test]
    fn early_events_wait() {
        let mut stream = ClientStream::default();
        let kept = (0..100).filter(|_| stream.send("x".into())).count();
        assert_eq!(kept, WAITING_MAX);
        assert!(!stream.is_open());
        let (sink, mut events) = event_channel();
        stream.open(1, sink);
        assert!(stream.send("y".into()) && stream.is_open());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..=WAITING_MAX {
            assert!(events.poll_next(&mut cx).is_ready());
        }
        assert!(events.poll_next(&mut cx).is_pending());
        let (sink, _) = event_channel();
        stream.open(2, sink);
        stream.close(1);
        assert!(stream.is_open(), "the newer one is open");
        stream.close(2);
        assert!(!stream.is_open());
        let big = Bytes::from(vec![b'x'; WAITING_BYTES_MAX / 2]);
        assert_eq!((0..3).filter(|_| stream.send(big.clone())).count(), 2);
    }
}
