//! A small MCP server of both eras over Streamable HTTP, by hand: something to call when nothing else is
//! configured, something to test against, and something to read.
//!
//! In reading order: `server` takes a request off the wire and asks which era it speaks; `legacy` (sessions)
//! or `modern` (stateless) checks it; `exchange` runs it and decides between JSON and a stream of events;
//! `dispatch` finds the method; a [`Content`] answers, with a [`Call`] in hand. `demo` is the smallest useful
//! content. To offer something else, implement [`Content`] and pass it to [`serve_content`].
//!
//! Everything runs on the thread that calls [`serve`]; nothing here needs to be `Send`.

#![cfg_attr(test, allow(clippy::unwrap_used))] // in a test a panic is the report

mod call;
mod content;
mod demo;
mod dispatch;
mod exchange;
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
    call::{Call, Client, Input},
    content::{Answer, Content, Stop, structured, text, text_resource, user_prompt},
    demo::Demo,
    dispatch::Options,
    hub::{CallCount, Change, Hub},
    protocol::{Era, Eras, LEGACY, Level, MODERN, RpcError, code, meta},
    server::PATH,
    session::Session,
};

/// Serves the demonstration on `listener`, in both eras, for as long as the process lives.
///
/// Blocks the calling thread: give it one of its own. Errors: the listener cannot be used.
pub fn serve(listener: std::net::TcpListener) -> io::Result<Infallible> {
    serve_content(listener, Demo, Options::default())
}

/// Serves any content; else as [`serve`].
pub fn serve_content<C: Content>(
    listener: std::net::TcpListener,
    content: C,
    options: Options,
) -> io::Result<Infallible> {
    listener.set_nonblocking(true)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build()?;
    let server = Rc::new(dispatch::Server { content, options, hub: Rc::default() });
    tokio::task::LocalSet::new().block_on(&runtime, async {
        let listener = tokio::net::TcpListener::from_std(listener)?;
        server::accept(listener, server).await
    })
}
