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

pub use ask::{
    Asked, BufferedRequest, BufferedResponse, MESSAGE_BYTES_MAX, ask, is_session_lost, read_terminal_message,
};
pub use farewell::SessionTerminator;
pub use feed::{ListenRequest, StreamSource, UpstreamStream, UpstreamStreamEnd};
pub use id::{SessionClaims, SessionKey};
pub use state::{CallGuard, DetachedUpstreamSession, Session, StreamGuard};
pub use stream::{
    EventId, REQUEST_ID_BYTES_MAX, ReadOutcome, ReconnectTimer, ResumableStream, ResumableStreams,
    ResumeError, StreamClosed, StreamReader, StreamWriter, StreamsConfig,
};
pub use table::{Full, SessionError, Sessions};
pub use upstream_session::{
    ClientHandshake, InitializeParams, ServerCapabilities, ServerFeatures, TaskFeatures, UpstreamSession,
    UpstreamSessionSlot,
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
