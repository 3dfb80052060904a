//! Servers of the transport of 2024-11-05 (HTTP+SSE): a GET opens an event stream, whose first event says
//! where messages are sent to by POST; answers come on the stream. To the rest of the gateway each looks like
//! a Streamable HTTP server of the Legacy era: a POST, GET or DELETE in, an answer out, with sessions, event
//! streams and 404 for a session whose stream broke.
//!
//! Each server has a thread of its own, on which one task (`hub`) owns its streams: a session may be used by
//! every worker, its stream is read in one place. It is spoken to by messages over a bounded channel
//! (`server`). What runs there is in `Rc` and `RefCell`.
//!
//! Invariants: every session of a client has an event stream of its own, so that all that comes on it is for
//! that client; an id or progress token that a server sees is minted by us and never used twice on one
//! stream, so that a late answer is taken for no other call's; messages go nowhere but to the origin that the
//! stream came from; a stream that breaks fails each call under way on it once; a call is sent once.
//!
//! Does not know: endpoints of the gateway, keys, and what a method does, but for those that decide whose a
//! message is.

mod candidate;
mod endpoint;
mod hub;
mod link;
mod open;
mod said;
mod server;

pub use candidate::Candidate;
pub use server::Server;

#[cfg(test)]
mod tests;
