//! Event streams: <https://html.spec.whatwg.org/multipage/server-sent-events.html#event-stream-interpretation>
//!
//! [`EventReader`] takes a stream apart; [`Boundary`] only follows where a stream that passes untouched may
//! be cut; [`EventSplitter`] takes out what is its sender's alone. Lines end with `\n`, `\r\n` or `\r`, in any mix and wherever the chunks are cut.

mod boundary;
mod reader;
mod splitter;

pub use boundary::Boundary;
pub use reader::{EVENT_BYTES_MAX, Event, EventReader, SseError};
pub use splitter::{EventSplitter, Part};

#[cfg(test)]
mod tests;
