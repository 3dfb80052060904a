//! The few parts of HTTP/1.1 that the load and the stub need.

use std::io;
use std::net::{Ipv4Addr, TcpStream};

pub fn connect(port: u64) -> io::Result<TcpStream> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// The length of the message at the start of `bytes`, or `usize::MAX` while its head is not complete.
pub fn message_bytes(bytes: &[u8]) -> usize {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return usize::MAX };
    end + 4 + content_length(&bytes[..end])
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    length.and_then(|length| length.trim().parse().ok()).unwrap_or_default()
}
