//! Servers of the HTTP+SSE transport (MCP 2024-11-05). A GET opens an event stream, whose first event says
//! where messages are sent by POST; responses arrive on the stream. To the rest of the gateway each server
//! looks like a Streamable HTTP server of the Legacy era: a POST, GET or DELETE in, a response out, with
//! sessions, event streams, and 404 for a session whose stream broke.
//!
//! Each server has a thread of its own, on which one task (`dispatch`) owns its streams: every worker may use
//! a session, but its stream is read in one place. Workers talk to the task over a bounded channel
//! (`server`). State on the thread is in `Rc` and `RefCell`.
//!
//! Invariants: every session of a client has its own event stream, so that everything on it is for that
//! client; ids and progress tokens that a server sees are ours and never reused on one stream, so that a late
//! response is never taken for the response of another call; messages are sent only to the origin of the
//! stream; a broken stream fails each in-flight call on it once; a call is sent once.
//!
//! Does not know: endpoints of the gateway, keys, and what a method does, except for those that decide which
//! client a message is for.

mod call;
mod candidate;
mod delivery;
mod dispatch;
mod inbound;
mod message_endpoint;
mod open_session;
mod open_stream;
mod server;
mod session;
mod target;

pub use candidate::SseCandidate;
pub use server::SseServer;
pub use target::SseTarget;

#[cfg(test)]
mod tests;
