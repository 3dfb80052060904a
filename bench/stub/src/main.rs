//! The server of `bench/compare`: an MCP server of both eras that does as little as possible.
//!
//! One thread, HTTP/1.1 with keep-alive, and one prepared response per method in which only the id, the token and the text of
//! the request are filled in. It finds these by name and parses nothing, so that the measurement is that of the proxy in front of
//! it. The response to `tools/call` can be changed at run time: `PUT /mode?bytes=65536`, `PUT /mode?events=100&delay_ms=5`.

mod mode;
mod request;
mod request_parts;
mod responses;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use bytes::{Buf, BytesMut};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use mode::Mode;
use request::{HEAD_BYTES_MAX, ParsedRequest, RequestHead, RequestVerb, parse_request};
use request_parts::RequestParts;
use responses::{Responses, StubResponse};

/// MCP server on 127.0.0.1 that does as little work as possible
#[derive(Debug, Parser)]
#[command(name = "metamcp-bench-stub", version)]
struct Args {
    /// A port on 127.0.0.1; may be repeated, each port appears as a separate server
    #[arg(long, required = true)]
    port: Vec<u16>,
    /// The size of the response body of `tools/call`, at least that of the smallest body
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = mode::parse_bytes)]
    bytes: usize,
    /// The number of tools; only the first, `echo`, is called
    #[arg(long, default_value_t = 1, value_name = "N")]
    tools: u16,
    /// Open an event stream without events on GET
    #[arg(long)]
    streams: bool,
}

/// The longest request; those of the comparison are shorter.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// What all connections share.
struct Stub {
    responses: Responses,
    mode: Cell<Mode>,
    streams: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let mode = Cell::new(Mode { bytes: args.bytes, ..Mode::default() });
    let stub = Rc::new(Stub { responses: Responses::new(args.tools), mode, streams: args.streams });
    let local = LocalSet::new();
    for port in args.port {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        local.spawn_local(listen(listener, Rc::clone(&stub)));
    }
    local.await;
    Ok(())
}

async fn listen(listener: TcpListener, stub: Rc<Stub>) {
    // It ends with the listener.
    while let Ok((stream, _)) = listener.accept().await {
        let stub = Rc::clone(&stub);
        // The proxy handles a connection that breaks.
        tokio::task::spawn_local(async move { drop(serve(stream, &stub).await) });
    }
}

/// Serves one request after the other until either side closes.
async fn serve(mut stream: TcpStream, stub: &Stub) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = BytesMut::with_capacity(HEAD_BYTES_MAX);
    loop {
        match parse_request(&received) {
            ParsedRequest::Partial { missing } if received.len() + missing > REQUEST_BYTES_MAX => {
                return Ok(());
            }
            ParsedRequest::Partial { missing } => {
                received.reserve(missing.max(1));
                if stream.read_buf(&mut received).await? == 0 {
                    return Ok(());
                }
            }
            ParsedRequest::Whole { head, body, len } => {
                let body: Cow<'_, [u8]> = match body.as_slice() {
                    [all] => Cow::Borrowed(&received[all.clone()]),
                    chunks => Cow::Owned(
                        chunks.iter().flat_map(|chunk| &received[chunk.clone()]).copied().collect(),
                    ),
                };
                respond(&mut stream, stub, &head, &body).await?;
                received.advance(len);
            }
            ParsedRequest::Invalid => {
                stream.write_all(stub.responses.bad_request()).await?;
                return Ok(());
            }
        }
    }
}

async fn respond(
    stream: &mut TcpStream,
    stub: &Stub,
    head: &RequestHead,
    body: &[u8],
) -> std::io::Result<()> {
    match head.verb {
        RequestVerb::Post => {}
        RequestVerb::Switch(mode) => {
            stub.mode.set(mode);
            return stream.write_all(stub.responses.done()).await;
        }
        RequestVerb::Delete => return stream.write_all(stub.responses.done()).await,
        RequestVerb::Get if stub.streams => return stream.write_all(responses::STREAM_HEAD).await,
        RequestVerb::Get | RequestVerb::Other => return stream.write_all(stub.responses.not_post()).await,
    }
    match stub.responses.respond(stub.mode.get(), head.method, &RequestParts::find(body)) {
        StubResponse::Whole { front, padding, back } => {
            let mut all = Buf::chain(front.as_slice(), padding).chain(back);
            stream.write_all_buf(&mut all).await
        }
        StubResponse::Events { head, events, delay } => {
            stream.write_all(&head).await?;
            for event in events {
                tokio::time::sleep(delay).await;
                stream.write_all(&event).await?;
            }
            Ok(())
        }
    }
}
