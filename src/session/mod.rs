//! Legacy sessions: towards clients by sealed ids, towards each upstream one of its own.
//!
//! Invariants: an id presented by another key or on another endpoint is as unknown as a random one; what
//! is held in memory is soft state and can be rebuilt from the id alone; a upstream is never told of a
//! capability that the client did not declare.
//!
//! Does not know: HTTP towards clients, routing, or what the lists hold.

mod ask;
mod farewell;
mod feed;
mod id;
mod state;
mod stream;
mod table;
mod upstream_session;

use std::time::Duration;

pub use ask::{Ask, Asked, Heard, MESSAGE_BYTES_MAX, ask, is_lost, read_terminal};
pub use farewell::Farewells;
pub use feed::{Feed, FeedEnd, Listen, Source};
pub use id::{Seal, SessionKey};
pub use state::{InFlight, Leftover, OpenStream, Session};
pub use stream::{
    Config as StreamsConfig, Gone, Mark, Next, NotHere, REQUEST_ID_BYTES_MAX, Reader, Stream, Streams, Wait,
    Writer,
};
pub use table::{Full, NotFound, Sessions};
pub use upstream_session::{
    Capabilities, Introduction, Ready, Said, ServerFeatures, TaskFeatures, UpstreamSession,
};

/// Bounds of sessions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// From `initialize` on; afterwards the id is refused with 404 and the client opens another.
    pub lifetime: Duration,
    /// Soft state unused for this long is dropped; the id stays valid and the state is rebuilt.
    pub idle_timeout: Duration,
    /// Soft states held at once, over all keys.
    pub sessions_max: usize,
    /// Bounds of event streams that can be taken up again, when they can.
    pub streams: Option<StreamsConfig>,
}
