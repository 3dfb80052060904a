//! The framed stream: many messages of a client in one request, and all that answers them in its one response.
//!
//! ```text
//! request body -> MessageReader -> intake -> Call -> legacy / modern -> exchange -> Outbox -> response body
//!                                    |                                     ^
//!                                    +-- notifications, answers: telling   +-- follow: what servers say outside of calls
//! ```
//!
//! All of a stream is one state machine, [`Framed`], which is the response's body: it reads, answers and writes while the
//! connection asks for bytes. What the client does not take is not asked for, so nothing is read that could not be
//! answered; when the connection is gone the body is dropped, and everything under way with it.
//!
//! Invariants: a message goes the way that a request of its own goes, and is checked, limited and counted as one; an answer
//! passes under the id of its own request or not at all; every request gets one answer or was cancelled, or the stream says
//! in its last message why not.
//!
//! Does not know: how a message is routed, what a server is, or whether HTTP/1.1 or HTTP/2 is spoken.

mod desk;
mod exchange;
mod flights;
mod follow;
mod heads;
mod intake;
mod open;
mod outbox;
mod stream;

pub use open::open;
