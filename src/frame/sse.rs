//! Event streams: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
//!
//! [`EventReader`] takes a stream apart; [`Boundary`] only follows where a stream that passes untouched may
//! be cut. Lines end with `\n`, `\r\n` or `\r`, in any mix and wherever the chunks are cut.

mod boundary;
mod reader;

pub use boundary::Boundary;
pub use reader::{EVENT_BYTES_MAX, Event, EventReader, SseError};

#[cfg(test)]
mod tests;
