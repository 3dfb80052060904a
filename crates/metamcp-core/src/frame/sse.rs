//! Event streams: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
//!
//! [`EventReader`] takes a stream apart; [`Boundary`] only follows where a stream that passes untouched may
//! be cut; [`EventSplitter`] takes out what is its sender's alone. Lines end with `\n`, `\r\n` or `\r`, in any mix and
//! wherever the chunks are cut.

mod boundary;
mod reader;
mod splitter;

use bytes::{BufMut, Bytes, BytesMut};

pub use boundary::BoundaryTracker;
pub use reader::{EVENT_BYTES_MAX, Event, EventReader, SseError};
pub use splitter::{EventSplitter, EventPart};

/// A message as an event. A line break in it can only be white space between tokens, and parts data lines.
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
