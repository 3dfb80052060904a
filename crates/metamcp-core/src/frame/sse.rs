//! Event streams: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
//!
//! [`EventReader`] parses the events of a stream. [`BoundaryTracker`] finds where a forwarded stream may be cut between events.
//! [`EventSplitter`] removes event ids and other fields that only the sender understands. Lines end with `\n`, `\r\n` or `\r` in
//! any mix, and chunks may be split anywhere.

mod boundary;
mod data;
mod reader;
mod retry;
mod splitter;

use bytes::{BufMut, Bytes, BytesMut};

pub use boundary::BoundaryTracker;
pub use data::DataReader;
pub use reader::{EVENT_BYTES_MAX, Event, EventReader, SseError};
pub use splitter::{EventPart, EventSplitter};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// Encodes a message as an event. A line break in a JSON message is white space between tokens, and starts a new data line.
pub fn write_event(message: &[u8]) -> Bytes {
    let mut event = BytesMut::with_capacity(message.len() + 32);
    event.put_slice(b"event: message\n");
    for line in message.split(|byte| matches!(byte, b'\n' | b'\r')) {
        event.put_slice(b"data: ");
        event.put_slice(line);
        event.put_u8(b'\n');
    }
    event.put_u8(b'\n');
    event.freeze()
}

#[cfg(test)]
mod tests;
