//! The outgoing messages of one framed stream, encoded in its framing and gathered into few chunks.

use std::cell::RefCell;
use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;
use tokio::sync::Notify;

use metamcp_core::base::MemoryCharge;
use metamcp_core::frame::{FLAG_RESPONSE, FRAME_HEADER_BYTES, FrameHeader, MessageFraming};

/// Messages waiting to be sent. The task that pushes is the task that takes, so there is no lock.
pub struct Outbox {
    form: MessageFraming,
    waiting: RefCell<OutboxState>,
    /// Notified when bytes are taken.
    taken: Notify,
}

#[derive(Default)]
struct OutboxState {
    ready: VecDeque<Bytes>,
    /// Small messages, copied together after those in `ready`.
    open: BytesMut,
    bytes: usize,
    /// What all of it takes of the memory for messages.
    charge: MemoryCharge,
    /// Whether the charge for what waits was refused, and no later one was granted.
    is_refused: bool,
    /// Messages pushed so far, to detect progress.
    count: u64,
}

/// At this size, callers wait before they push more. It is about what a fast client takes at once.
const BYTES_MAX: usize = 1 << 20;

/// Small messages are copied together up to this size: one write, and no more than fits the core's
/// second-level cache.
const OPEN_BYTES: usize = 64 << 10;

/// From this size on a message is shared, not copied, unless it must be changed.
const SHARED_BYTES_MIN: usize = 16 << 10;

const _: () = assert!(SHARED_BYTES_MIN <= OPEN_BYTES && OPEN_BYTES < BYTES_MAX);

impl Outbox {
    pub fn new(form: MessageFraming) -> Self {
        Self { form, waiting: RefCell::default(), taken: Notify::new() }
    }

    /// The framing of the messages.
    pub fn form(&self) -> MessageFraming {
        self.form
    }

    /// Adds a message, given in one or more pieces. `method` is the number of its method.
    pub fn push(&self, pieces: &[Bytes], flags: u32, method: u32) {
        let mut waiting = self.waiting.borrow_mut();
        let before = waiting.total();
        if self.form == MessageFraming::Frames {
            let length: usize = pieces.iter().map(Bytes::len).sum();
            // Messages are bounded far below 4 GiB.
            let header = FrameHeader::new(flags, method, u32::try_from(length).unwrap_or(u32::MAX));
            waiting.copy(header.as_bytes());
        }
        for piece in pieces {
            let has_breaks = self.form == MessageFraming::Lines && memchr2(b'\n', b'\r', piece).is_some();
            if piece.len() >= SHARED_BYTES_MIN && !has_breaks {
                waiting.close();
                waiting.bytes += piece.len();
                waiting.ready.push_back(piece.clone());
                continue;
            }
            let start = waiting.open.len();
            waiting.copy(piece);
            if has_breaks {
                // Line breaks stand only between tokens, where any white space is equivalent: a JSON string
                // contains no raw line break.
                let copied = &mut waiting.open[start..];
                copied
                    .iter_mut()
                    .filter(|byte| matches!(**byte, b'\n' | b'\r'))
                    .for_each(|byte| *byte = b' ');
            }
        }
        if self.form == MessageFraming::Lines {
            waiting.copy(b"\n");
        }
        if waiting.open.len() >= OPEN_BYTES {
            waiting.close();
        }
        debug_assert!(waiting.total() > before);
        waiting.charge_for_all();
        waiting.count += 1;
    }

    pub fn answer(&self, pieces: &[Bytes]) {
        self.push(pieces, FLAG_RESPONSE, 0);
    }

    /// Adds an empty message, so that no proxy takes the stream for dead.
    pub fn keep_alive(&self) {
        match self.form {
            MessageFraming::Lines => self.waiting.borrow_mut().copy(b"\n"),
            MessageFraming::Frames => self.waiting.borrow_mut().copy(FrameHeader::new(0, 0, 0).as_bytes()),
        }
    }

    /// Takes the next bytes to send.
    pub fn take(&self) -> Option<Bytes> {
        let mut waiting = self.waiting.borrow_mut();
        let taken = match waiting.ready.pop_front() {
            Some(taken) => {
                waiting.bytes -= taken.len();
                taken
            }
            None if waiting.open.is_empty() => return None,
            None => waiting.open.split().freeze(),
        };
        waiting.charge_for_all();
        drop(waiting);
        self.taken.notify_waiters();
        Some(taken)
    }

    /// The number of bytes waiting.
    pub fn bytes(&self) -> usize {
        self.waiting.borrow().total()
    }

    /// Whether there is enough for one write.
    pub fn is_worth_a_write(&self) -> bool {
        !self.waiting.borrow().ready.is_empty()
    }

    /// Whether one more message may be pushed. Without memory for what waits, nothing is added until the client
    /// has taken all of it.
    pub fn has_room(&self) -> bool {
        let waiting = self.waiting.borrow();
        let bytes_max = if waiting.is_refused { 1 } else { BYTES_MAX };
        waiting.total() < bytes_max
    }

    /// The number of messages pushed so far.
    pub fn count(&self) -> u64 {
        self.waiting.borrow().count
    }

    /// Waits until one more message may be pushed. Cancel safe.
    pub async fn room(&self) {
        while !self.has_room() {
            let taken = self.taken.notified();
            tokio::pin!(taken);
            taken.as_mut().enable();
            if !self.has_room() {
                taken.await;
            }
        }
    }

    /// Frees memory that a silent stream does not need.
    pub fn shrink(&self) {
        let mut waiting = self.waiting.borrow_mut();
        if waiting.open.is_empty() {
            waiting.open = BytesMut::new();
        }
    }
}

impl OutboxState {
    fn total(&self) -> usize {
        self.bytes + self.open.len()
    }

    /// Charges for all that waits. A refusal is counted once, until the charge is granted.
    fn charge_for_all(&mut self) {
        let total = self.total();
        let charged = if self.is_refused { self.charge.retry(total) } else { self.charge.resize(total) };
        self.is_refused = charged.is_err();
    }

    fn copy(&mut self, bytes: &[u8]) {
        if self.open.capacity() - self.open.len() < bytes.len() {
            // A larger reservation lets one allocation hold many messages.
            self.open.reserve(bytes.len().max(FRAME_HEADER_BYTES) + OPEN_BYTES / 4);
        }
        self.open.extend_from_slice(bytes);
    }

    /// Moves the copied messages to `ready`.
    fn close(&mut self) {
        if !self.open.is_empty() {
            let closed = self.open.split().freeze();
            self.bytes += closed.len();
            self.ready.push_back(closed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pushed(form: MessageFraming, messages: &[&[&str]]) -> Vec<u8> {
        let outbox = Outbox::new(form);
        for message in messages {
            let pieces: Vec<_> =
                message.iter().map(|piece| Bytes::copy_from_slice(piece.as_bytes())).collect();
            outbox.push(&pieces, 0, 5);
        }
        let expected = outbox.bytes();
        let mut taken = Vec::new();
        while let Some(bytes) = outbox.take() {
            taken.extend_from_slice(&bytes);
        }
        assert_eq!((taken.len(), outbox.bytes()), (expected, 0));
        taken
    }

    #[track_caller]
    fn check(message: &[&str], line: &str) {
        assert_eq!(
            pushed(MessageFraming::Lines, &[message, message]),
            format!("{line}\n{line}\n").as_bytes()
        );
        let whole = message.concat();
        let length = u32::try_from(whole.len()).expect("short");
        let frame = [FrameHeader::new(0, 5, length).as_bytes(), whole.as_bytes()].concat();
        assert_eq!(pushed(MessageFraming::Frames, &[message, message]), frame.repeat(2));
    }

    #[test]
    fn a_message_is_written_as_one_line() {
        let long = "x".repeat(SHARED_BYTES_MIN);
        let broken = "{\n \"x\":\r\n 1}\n".repeat(4096);
        check(&["{}"], "{}");
        check(&["{\"id\":", "1", "}"], "{\"id\":1}");
        check(&["{\n  \"id\":\r\n1\n}"], "{   \"id\":  1 }");
        check(&["\"", &long, "\""], &format!("\"{long}\""));
        check(&[&broken], &broken.replace(['\n', '\r'], " "));
    }

    #[test]
    fn a_full_outbox_has_room_after_take() {
        let outbox = Outbox::new(MessageFraming::Lines);
        while outbox.has_room() {
            outbox.push(&[Bytes::from(vec![b'x'; 1000])], 0, 0);
        }
        assert!(outbox.bytes() < BYTES_MAX + 2000);
        let waits = outbox.room();
        let mut waits = std::pin::pin!(waits);
        let cx = &mut std::task::Context::from_waker(std::task::Waker::noop());
        assert!(Future::poll(waits.as_mut(), cx).is_pending());
        assert!(outbox.take().is_some());
        assert!(Future::poll(waits.as_mut(), cx).is_ready());
    }
}
