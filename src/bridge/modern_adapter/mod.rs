//! The adapter that serves Modern clients (MCP 2026-07-28) on behalf of a server that speaks only the Legacy
//! era (up to 2025-11-25).
//!
//! ```text
//! UpstreamPool::send --> adapter.rs: does the server speak Modern after all (era.rs)?  yes: passes unchanged
//!                          |
//!                          +-- discover.rs, subscription.rs   in the session (session/) of the client's key
//!                          +-- call/: a task per call         request.rs -> POST -> call_stream.rs
//!                          |                                     -> result.rs -> responder.rs
//!                          |      the server asks: input.rs   -> `input_required`, the call is held
//!                          +-- a retry with `requestState`    held_calls.rs finds the task, on any worker
//! ```
//!
//! A call is a task on the worker that received it, and keeps its connection to the server while it is held.
//! Sessions and held calls are found by other workers through two tables, which are locked for a few lines.
//!
//! Where a server has one channel for all calls, a call that allows input has a session to itself: one more
//! for the key, up to a bound (`session_table`).
//!
//! Invariants: the gateway creates the ids and progress tokens that a server sees, so clients of one key
//! never collide; a message of the server goes to the call whose stream it arrived on, or to the only call it
//! can be meant for, or to nobody. The exception is a request outside of any call, which waits for the next
//! call that allows input (`unsolicited`). A request of the server is always answered, if only by a refusal.
//! A held call is found by its key, for the same call, once.
//!
//! Does not know: endpoints, how connections are made, or what a tool does.

mod adapter;
mod call;
mod call_stream;
mod discover;
mod era;
mod event_queue;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod held_calls;
mod input;
mod request;
mod responder;
mod result;
mod session;
mod session_table;
mod session_task;
mod sessions;
mod subscription;
mod unsolicited;

pub use adapter::ModernAdapter;
