//! The backend of `bench/compare`: an MCP server of 2026-07-28 that does as little as a server can.
//!
//! One thread, HTTP/1.1 with keep-alive, one fixed answer per method, each written at once. It believes
//! `Mcp-Method` and never looks into a body, so that what is measured is the proxy in front of it. Every
//! answer carries the id 1, which is what the load and the gateway's own questions send.

mod answers;
mod request;

use std::net::Ipv4Addr;
use std::sync::Arc;

use bytes::{Buf, BytesMut};
use clap::Parser;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use answers::Answers;
use request::{HEAD_BYTES_MAX, Request, next};

/// Answers MCP requests on 127.0.0.1 with fixed bytes.
#[derive(Debug, Parser)]
#[command(name = "metamcp-bench-stub", version)]
struct Args {
    /// The port on 127.0.0.1
    #[arg(long)]
    port: u16,
    /// The size of the body that answers a `tools/call`; a smaller number than the smallest body gives that
    #[arg(long, default_value_t = 0, value_name = "N")]
    bytes: usize,
}

/// A body longer than this is no call of the comparison.
const REQUEST_BYTES_MAX: usize = 4 << 20;

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let args = Args::parse();
    let answers = Arc::new(Answers::new(args.bytes));
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, args.port)).await?;
    loop {
        let (stream, _) = listener.accept().await?;
        let answers = Arc::clone(&answers);
        // A connection that breaks is the proxy's business.
        tokio::spawn(async move { drop(serve(stream, &answers).await) });
    }
}

/// Answers one request after the other until either side closes.
async fn serve(mut stream: TcpStream, answers: &Answers) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut received = BytesMut::with_capacity(HEAD_BYTES_MAX);
    loop {
        match next(&received) {
            Request::Partial if received.len() > REQUEST_BYTES_MAX => return Ok(()),
            Request::Partial => {
                if stream.read_buf(&mut received).await? == 0 {
                    return Ok(());
                }
            }
            Request::Whole { method, len } => {
                stream.write_all(answers.to(method)).await?;
                received.advance(len);
            }
            Request::Wrong => {
                stream.write_all(answers.bad_request()).await?;
                return Ok(());
            }
        }
    }
}
