//! The bridge's side of HTTP: sends the client's messages to the endpoint and reads its responses and event streams.
//!
//! Each file implements one part of [`super::bridge::StdioBridge`].

mod request;
mod response;
mod session_stream;
mod subscription;
mod tool_refresh;
