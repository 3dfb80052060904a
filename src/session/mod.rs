//! Legacy sessions: sealed ids towards clients, and one session with each upstream.
//!
//! Invariants:
//! - An id presented with another key or at another endpoint is treated like an unknown one.
//! - State in memory can be rebuilt from the id alone.
//! - An upstream never sees a capability that the client did not declare.
//!
//! Does not know: HTTP towards clients, routing, or the contents of lists.

mod buffered;
mod claims;
mod calls_in_flight;
mod client_handshake;
mod client_settings;
mod features;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod initialize;
mod refusal;
mod repeat;
mod replay;
mod state;
mod stream;
mod table;
mod terminator;
mod upstream_reconnect;
mod upstream_session;
mod upstream_slot;
mod upstream_stream;

pub use buffered::{
    BufferedRequest, BufferedResponse, MESSAGE_BYTES_MAX, deliver, read_terminal_message, send_buffered,
    send_message,
};
pub use claims::{SessionClaims, SessionKey};
pub use client_handshake::{ClientHandshake, InitializeParams};
pub use features::{OWN_ANSWER, ServerCapabilities, ServerFeatures, TaskFeatures, is_own_answer};
pub use refusal::{is_ping, refusal_of, refuse};
pub use repeat::{check_repeat, is_session_lost, may_have_run, unproven_loss};
pub use replay::replay_subscriptions;
pub use state::{CallGuard, DetachedUpstreamSession, Session, StreamGuard};
pub use stream::{
    EventId, REQUEST_ID_BYTES_MAX, ReadOutcome, ReconnectTimer, ResumableStream, ResumableStreams,
    ResumeError, StreamClosed, StreamReader, StreamWriter,
};
pub use table::{SessionError, SessionTable, TooManySessions};
pub use terminator::SessionTerminator;
pub use upstream_reconnect::UpstreamReconnect;
pub use upstream_session::UpstreamSession;
pub use upstream_slot::UpstreamSessionSlot;
pub use upstream_stream::{ListenRequest, StreamSource, UpstreamStream, UpstreamStreamEnd};
