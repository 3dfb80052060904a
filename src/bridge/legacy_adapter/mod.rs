//! The adapter that serves Legacy clients on behalf of a server that speaks only the Modern era: it gives
//! them sessions, requests from the server, and a GET stream.
//!
//! - `initialize` is answered from `server/discover` (`handshake`).
//! - Every other request of a session becomes a self-contained Modern request: `_meta` carries what the
//!   client declared in `initialize`, and headers mirror the message (`request`, `tool_headers`).
//! - A response loses the members that only the Modern era has (`result`). If the server needs input first,
//!   the client is asked by requests on the stream of the call, and the call is retried with its answers
//!   (`call`, `input`).
//! - A session whose client has a GET stream is served by `subscriptions/listen` (`listen`). Sessions that
//!   want the same list changes share one such request (`shared_subscription`); a session that subscribed to
//!   resources has its own (`dedicated_subscription`).
//!
//! Invariants: the server learns only of capabilities that the client declared in `initialize`;
//! `requestState` goes back byte for byte; a call is retried only if the server asked for it or rejected the
//! call before it ran; sessions, what is in flight in them and every wait have bounds; a request in a session
//! that is gone is answered with 404, and the client opens another.
//!
//! Does not know: the client beyond its key, endpoints, or how tools are named there.

mod adapter;
mod call;
mod dedicated_subscription;
mod departures;
mod handshake;
mod input;
mod json_object;
mod listen;
mod reply;
mod request;
mod result;
mod session;
mod session_table;
mod shared_subscription;
mod tool_headers;

pub use adapter::LegacyAdapter;
