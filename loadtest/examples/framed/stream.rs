//! One framed stream: writes messages as chunks of a request body, and reads those of the response body.

use std::io::{self, Read, Write};
use std::net::TcpStream;

/// Opens a stream. `ping` belongs to the Legacy era, so a session is initialized for it.
pub fn open_stream(socket: &mut TcpStream, is_lines: bool, method: &str) -> io::Result<StreamReader> {
    let content_type = if is_lines { "application/x-ndjson" } else { "application/vnd.metamcp.frames" };
    write!(
        socket,
        "POST /api/v1/mcp/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: {content_type}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let mut reader = StreamReader::new(socket.try_clone()?, is_lines);
    reader.read_head()?;
    if method == "ping" {
        let initialize = r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"load","version":"1"}}}"#;
        let mut bytes = Vec::new();
        append_message(&mut bytes, initialize, is_lines);
        send_chunk(socket, &bytes)?;
        reader.next(&mut Vec::new())?;
    }
    Ok(reader)
}

/// Appends a message as a line or as a frame.
pub fn append_message(bytes: &mut Vec<u8>, message: &str, is_lines: bool) {
    if is_lines {
        bytes.extend_from_slice(message.as_bytes());
        bytes.push(b'\n');
        return;
    }
    bytes.extend_from_slice(b"MCPF");
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    for word in [1, 0, 0, length] {
        bytes.extend_from_slice(&u32::to_le_bytes(word));
    }
    bytes.extend_from_slice(message.as_bytes());
}

/// Sends bytes as one chunk of the body.
pub fn send_chunk(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    let mut rest = &chunk[..];
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(count) => rest = &rest[count..],
            // The open loop has a non-blocking socket and never sleeps.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Reads the messages in a chunked response body.
pub struct StreamReader {
    socket: TcpStream,
    /// Invariant: `taken <= received <= bytes.len()`. The bytes between them are unread.
    bytes: Vec<u8>,
    taken: usize,
    received: usize,
    /// The start of a message that is not complete.
    body: Vec<u8>,
    is_lines: bool,
    is_over: bool,
}

impl StreamReader {
    fn new(socket: TcpStream, is_lines: bool) -> Self {
        Self {
            socket,
            bytes: vec![0; 256 << 10],
            taken: 0,
            received: 0,
            body: Vec::new(),
            is_lines,
            is_over: false,
        }
    }

    /// Reads more bytes from the socket.
    pub fn fill(&mut self) -> io::Result<()> {
        self.bytes.copy_within(self.taken..self.received, 0);
        (self.taken, self.received) = (0, self.received - self.taken);
        if self.received == self.bytes.len() {
            self.bytes.resize(2 * self.received, 0);
        }
        let count = self.socket.read(&mut self.bytes[self.received..])?;
        self.received += count;
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Returns the next complete line and the offset behind it.
    fn line(&self) -> Option<(String, usize)> {
        let unread = &self.bytes[self.taken..self.received];
        let end = unread.windows(2).position(|window| window == b"\r\n")?;
        Some((String::from_utf8_lossy(&unread[..end]).into_owned(), self.taken + end + 2))
    }

    fn read_head(&mut self) -> io::Result<()> {
        let mut status = None;
        loop {
            let Some((line, end)) = self.line() else {
                self.fill()?;
                continue;
            };
            self.taken = end;
            let status = status.get_or_insert_with(|| line.clone());
            if !status.starts_with("HTTP/1.1 200") {
                return Err(io::Error::other(status.clone()));
            }
            if line.is_empty() {
                return Ok(());
            }
        }
    }

    /// Waits for messages. Returns `false` at the end of the stream.
    pub fn next(&mut self, messages: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        loop {
            self.take_messages(messages)?;
            if !messages.is_empty() || self.is_over {
                return Ok(!self.is_over);
            }
            self.fill()?;
        }
    }

    /// Takes all messages that are complete.
    pub fn take_messages(&mut self, messages: &mut Vec<Vec<u8>>) -> io::Result<()> {
        while let Some((line, start)) = self.line() {
            let length = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
            if self.received < start + length + 2 {
                break;
            }
            self.body.extend_from_slice(&self.bytes[start..start + length]);
            self.taken = start + length + 2;
            self.is_over |= length == 0;
        }
        let taken = self.split_body(messages);
        self.body.drain(..taken);
        Ok(())
    }

    /// Splits the body into messages. Returns the number of bytes of the complete ones.
    fn split_body(&self, messages: &mut Vec<Vec<u8>>) -> usize {
        let mut taken = 0;
        while taken < self.body.len() {
            let rest = &self.body[taken..];
            let (start, end) = if self.is_lines {
                let Some(end) = rest.iter().position(|byte| *byte == b'\n') else { break };
                (0, end + 1)
            } else {
                let Some(length) = rest.get(16..20) else { break };
                let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]);
                (20, 20 + usize::try_from(length).unwrap_or(usize::MAX))
            };
            let Some(message) = rest.get(start..end) else { break };
            if !message.trim_ascii().is_empty() {
                messages.push(message.to_vec());
            }
            taken += end;
        }
        taken
    }
}
