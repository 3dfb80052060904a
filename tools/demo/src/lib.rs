//! A small MCP server for both eras over Streamable HTTP, written without an SDK. The gateway serves it when no other server
//! is configured, and tests use it.
//!
//! In reading order: `server` reads an HTTP request and detects its era; `legacy` (sessions) or `modern` (stateless)
//! validates it; `exchange` runs it and chooses between a JSON response and an event stream; `dispatch` selects the method;
//! a [`ServerContent`] handles it, given a [`Call`]. `demo` is the smallest useful content. To serve other content, implement
//! [`ServerContent`] and pass it to [`serve_content`].
//!
//! Everything runs on the thread that calls [`serve`]; nothing here needs to be `Send`.

#![cfg_attr(test, allow(clippy::unwrap_used))] // in a test a panic is the report

mod call;
mod content;
mod demo;
mod dispatch;
mod event;
mod exchange;
mod handler_result;
mod headers;
mod hub;
mod legacy;
mod message;
mod modern;
mod protocol;
mod replay;
mod server;
mod session;
mod sse;

use std::{convert::Infallible, io, rc::Rc};

pub use crate::{
    call::{Call, Client, InputRequest},
    content::{ServerContent, structured, text, text_resource, user_prompt},
    demo::Demo,
    dispatch::ServerOptions,
    handler_result::{HandlerError, HandlerResult},
    hub::{CallCount, ContentChange, Hub},
    protocol::{Era, LEGACY, LogLevel, MODERN, RpcError, SupportedEras, code, meta},
    server::PATH,
    session::Session,
};

/// Serves the demonstration content on `listener`, in both eras, for as long as the process lives.
///
/// Blocks the calling thread. Fails if the listener cannot be used.
pub fn serve(listener: std::net::TcpListener) -> io::Result<Infallible> {
    serve_content(listener, Demo, ServerOptions::default())
}

/// Serves other content; see [`serve`].
pub fn serve_content<C: ServerContent>(
    listener: std::net::TcpListener,
    content: C,
    options: ServerOptions,
) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let server = Rc::new(dispatch::Server { content, options, hub: Rc::default() });
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        server::accept(listener, server).await
    })
}
