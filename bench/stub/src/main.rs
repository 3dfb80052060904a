//! The backend of `bench/compare`: an MCP server of both eras that does as little as a server can.
//!
//! One thread, HTTP/1.1 with keep-alive, an answer per method that is ready but for the request's own id, token and
//! text, written at once. It finds those by looking for their names and parses nothing, so that what is measured is
//! the proxy in front of it. How a `tools/call` is answered is switched while it runs: `PUT /mode?bytes=65536`,
//! `PUT /mode?events=100&delay_ms=5`.

mod answers;
mod asked;
mod mode;
mod request;

use std::borrow::Cow;
use std::cell::Cell;
use std::net::Ipv4Addr;
use std::rc::Rc;

use bytes::{Buf, BytesMut};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::LocalSet;

use answers::{Answers, Begun};
use asked::Asked;
use mode::Mode;
use request::{HEAD_BYTES_MAX, Head, Request, Verb, next};

/// Answers MCP requests on 127.0.0.1 with as little work as possible.
#[derive(Debug, Parser)]
#[command(name = "metamcp-bench-stub", version)]
struct Args {
    /// A port on 127.0.0.1; may be repeated: each is a server of its own to whoever asks
    #[arg(long, required = true)]
    port: Vec<u16>,
    /// The size of the body that answers a `tools/call`; a smaller number than the smallest body gives that
    #[arg(long, default_value_t = 0, value_name = "N", value_parser = mode::parse_bytes)]
    bytes: usize,
    /// How many tools it has; only the first, `echo`, is ever called
    #[arg(long, default_value_t = 1, value_name = "N")]
    tools: u16,
    /// Whether GET opens an event stream, in which nothing ever comes
    #[arg(long)]
    streams: bool,
}

/// A body longer than this is no call of the comparison.
const REQUEST_BYTES_MAX: usize = 4 << 20;

/// What all connections share.
struct Stub {
    answers: Answers,
    mode: Cell<Mode>,
    streams: bool,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let mode = Cell::new(Mode { bytes: args.bytes, ..Mode::default() });
    let stub = Rc::new(Stub { answers: Answers::new(args.tools), mode, streams: args.streams });
    let local = LocalSet::new();
    for port in args.port {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
        local.spawn_local(listen(listener, Rc::clone(&stub)));
    }
    local.await;
    Ok(())
}

async fn listen(listener: TcpListener, stub: Rc<Stub>) {
    // It ends with the listener, as the program does when all have.
    while let Ok((stream, _)) = listener.accept().await {
        let stub = Rc::clone(&stub);
        // A connection that breaks is the proxy's business.
        tokio::task::spawn_local(async move { drop(serve(stream, &stub).await) });
    }
}

/// Answers one request after the other until either side closes.
async fn serve(mut stream: TcpStream, stub: &Stub) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = BytesMut::with_capacity(HEAD_BYTES_MAX);
    loop {
        match next(&received) {
            Request::Partial { missing } if received.len() + missing > REQUEST_BYTES_MAX => return Ok(()),
            Request::Partial { missing } => {
                received.reserve(missing.max(1));
                if stream.read_buf(&mut received).await? == 0 {
                    return Ok(());
                }
            }
            Request::Whole { head, body, len } => {
                let body: Cow<'_, [u8]> = match body.as_slice() {
                    [all] => Cow::Borrowed(&received[all.clone()]),
                    chunks => Cow::Owned(
                        chunks.iter().flat_map(|chunk| &received[chunk.clone()]).copied().collect(),
                    ),
                };
                answer(&mut stream, stub, &head, &body).await?;
                received.advance(len);
            }
            Request::Wrong => {
                stream.write_all(stub.answers.bad_request()).await?;
                return Ok(());
            }
        }
    }
}

async fn answer(stream: &mut TcpStream, stub: &Stub, head: &Head, body: &[u8]) -> std::io::Result<()> {
    match head.verb {
        Verb::Post => {}
        Verb::Switch(mode) => {
            stub.mode.set(mode);
            return stream.write_all(stub.answers.done()).await;
        }
        Verb::Delete => return stream.write_all(stub.answers.done()).await,
        Verb::Get if stub.streams => return stream.write_all(answers::STREAM_HEAD).await,
        Verb::Get | Verb::Other => return stream.write_all(stub.answers.not_post()).await,
    }
    match stub.answers.begin(stub.mode.get(), head.method, &Asked::of(body)) {
        Begun::Whole { front, padding, back } => {
            let mut all = Buf::chain(front.as_slice(), padding).chain(back);
            stream.write_all_buf(&mut all).await
        }
        Begun::Events { head, events, delay } => {
            stream.write_all(&head).await?;
            for event in events {
                tokio::time::sleep(delay).await;
                stream.write_all(&event).await?;
            }
            Ok(())
        }
    }
}
