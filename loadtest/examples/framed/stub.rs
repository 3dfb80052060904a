//! A server of 2026-07-28 that does as little as possible: constant results under the id of the request.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::thread;

use super::http::message_bytes;

pub fn run_stub(port: u64) -> io::Result<()> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    for socket in TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.incoming() {
        let mut socket = socket?;
        // The gateway handles a connection that breaks.
        thread::spawn(move || drop(serve(&mut socket)));
    }
    Ok(())
}

fn serve(socket: &mut TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut buffer, mut received) = (vec![0; 256 << 10], 0);
    let tools: Vec<String> = (0..20).map(tool).collect();
    let list = format!(
        r#""resultType":"complete","tools":[{}],"ttlMs":3600000,"cacheScope":"public""#,
        tools.join(",")
    );
    loop {
        let count = socket.read(&mut buffer[received..])?;
        if count == 0 {
            return Ok(());
        }
        received += count;
        loop {
            let length = message_bytes(&buffer[..received]);
            if received < length || length == usize::MAX {
                break;
            }
            let request = &buffer[..length];
            let result = match method_of(request).as_str() {
                "server/discover" => {
                    r#""resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public""#
                }
                "tools/list" => &list,
                _ => r#""resultType":"complete","content":[{"type":"text","text":"hello"}]"#,
            };
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{{result}}}}}"#, raw_id(request));
            let response = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(response.as_bytes())?;
            buffer.copy_within(length..received, 0);
            received -= length;
        }
    }
}

/// A tool definition of typical length.
fn tool(number: usize) -> String {
    format!(
        r#"{{"name":"tool_{number:02}","description":"Does what tool number {number} does, as a tool of its kind is told of in some words.","inputSchema":{{"type":"object","properties":{{"text":{{"type":"string","description":"What it is about"}},"count":{{"type":"integer"}}}},"required":["text"]}}}}"#
    )
}

fn method_of(request: &[u8]) -> String {
    let head = String::from_utf8_lossy(&request[..request.len().min(1024)]).into_owned();
    let lower = head.to_ascii_lowercase();
    let start = lower.find("mcp-method: ").map(|at| at + 12);
    start.and_then(|start| head[start..].lines().next()).unwrap_or_default().to_owned()
}

/// The id as it was sent, with its quotes.
fn raw_id(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let rest = text.split("\"id\":").nth(1).unwrap_or("null").trim_start();
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    rest[..end].to_owned()
}
