//! The framed stream: many messages of a client in one request, and their answers in its one response.
//!
//! ```text
//! request body -> MessageReader -> intake -> Call -> legacy / modern -> exchange -> Outbox -> response body
//!                                    |                                     ^
//!                                    +-- notifications, in order            +-- session_follower: messages outside of calls
//! ```
//!
//! A stream is one state machine, [`FramedBody`], which is the body of the response. It reads, answers and writes
//! whenever the connection asks for bytes. While the client does not read, it is not polled, so it reads no
//! request that it could not answer. When the connection is lost, the body is dropped, and with it everything
//! in flight.
//!
//! Invariants: a message takes the same path as a plain HTTP request, and is checked, limited and counted as
//! one; an answer passes under the id of its own request or not at all; every request is answered or
//! cancelled, or the last message of the stream states why not.
//!
//! Does not know: how a message is routed, what a server is, or whether the connection is HTTP/1.1 or HTTP/2.

mod context;
mod exchange;
mod in_flight;
mod session_follower;
mod message_fields;
mod intake;
mod open;
mod outbox;
mod stream;

pub use open::open;
