//! The path of a request, from its head to its response: plain HTTP requests and framed streams.
//!
//! Invariants: a request is authenticated and admitted before its body is read, and its message is checked
//! before anything is sent to an upstream.
//!
//! Does not know: sockets, or which engine read the request.

pub mod frames;
pub mod handler;
