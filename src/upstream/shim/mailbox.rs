//! What a server says to a client outside of calls: the client's event stream, and what waits for it to be
//! opened.

use std::collections::VecDeque;

use bytes::Bytes;

use super::outlet::EventSink;

/// One client's event stream.
#[derive(Default)]
pub struct Mailbox {
    /// The stream, and the call that opened it.
    stream: Option<(u64, EventSink)>,
    /// Events for a stream that is not open yet.
    waiting: VecDeque<Bytes>,
    waiting_bytes: usize,
}

/// Events that wait for a client to open its stream, which it does at once or never.
const WAITING_MAX: usize = 64;

/// Bytes of them.
const WAITING_BYTES_MAX: usize = 1 << 20;

impl Mailbox {
    /// Opens its event stream, in place of the one before; what waited goes first.
    pub fn open(&mut self, call: u64, outlet: EventSink) {
        for event in self.waiting.drain(..) {
            outlet.try_send(event);
        }
        self.waiting_bytes = 0;
        self.stream = Some((call, outlet));
    }

    /// The stream that was opened by that call is closed.
    pub fn close(&mut self, call: u64) {
        self.stream.take_if(|(opened_by, _)| *opened_by == call);
    }

    /// Whether its stream is open.
    pub fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Sends an event, or keeps it until the stream is opened; false when it is lost.
    pub fn send(&mut self, event: Bytes) -> bool {
        if let Some((_, outlet)) = &self.stream {
            return outlet.try_send(event);
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
    use super::super::outlet::event_channel;
    use super::*;

    #[test]
    fn what_comes_early_waits() {
        let mut mailbox = Mailbox::default();
        let kept = (0..100).filter(|_| mailbox.send("x".into())).count();
        assert_eq!(kept, WAITING_MAX);
        assert!(!mailbox.is_open());
        let (outlet, mut events) = event_channel();
        mailbox.open(1, outlet);
        assert!(mailbox.send("y".into()) && mailbox.is_open());
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        for _ in 0..=WAITING_MAX {
            assert!(events.poll_next(&mut cx).is_ready());
        }
        assert!(events.poll_next(&mut cx).is_pending());
        let (outlet, _) = event_channel();
        mailbox.open(2, outlet);
        mailbox.close(1);
        assert!(mailbox.is_open(), "the newer one is open");
        mailbox.close(2);
        assert!(!mailbox.is_open());
        let big = Bytes::from(vec![b'x'; WAITING_BYTES_MAX / 2]);
        assert_eq!((0..3).filter(|_| mailbox.send(big.clone())).count(), 2);
    }
}
