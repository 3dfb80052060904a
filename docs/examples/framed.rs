//! A client for metamcp's framed stream (`docs/FRAMES.md`). Uses the standard library, and `serde_json` for messages.
//!
//! ```text
//! METAMCP_KEY=mcp_... cargo run --example framed_client -- 127.0.0.1:12009 /api/v1/mcp/stream
//! ```
//!
//! One thread reads the stream. Any thread may send requests, and receives each response on a channel.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// Magic, version, flags, method and length, with four bytes each, little-endian.
const HEADER_BYTES: usize = 20;

/// The flag of a payload that is a response.
const RESPONSE_FLAG: u32 = 1;

/// An open stream.
pub struct FramedStream {
    socket: Mutex<TcpStream>,
    pending: Mutex<PendingRequests>,
}

#[derive(Default)]
struct PendingRequests {
    next_id: u64,
    /// The channels of requests in flight; `None` after the end of the stream.
    responses: Option<HashMap<u64, Sender<Value>>>,
}

impl FramedStream {
    /// Opens a stream. `on_message` gets all messages that are not responses to requests: notifications, requests from servers,
    /// and errors without an id.
    pub fn open(
        address: &str,
        path: &str,
        key: Option<&str>,
        on_message: impl Fn(&Self, Value) + Send + 'static,
    ) -> io::Result<Arc<Self>> {
        let mut socket = TcpStream::connect(address)?;
        socket.set_nodelay(true)?;
        let key = key.map(|key| format!("Authorization: Bearer {key}\r\n")).unwrap_or_default();
        write!(
            socket,
            "POST {path} HTTP/1.1\r\nHost: {address}\r\n{key}\
             Content-Type: application/vnd.metamcp.frames\r\nTransfer-Encoding: chunked\r\n\r\n"
        )?;
        let mut incoming = BufReader::new(socket.try_clone()?);
        let status = read_line(&mut incoming)?;
        while !read_line(&mut incoming)?.is_empty() {}
        if status.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(status));
        }
        let pending = Mutex::new(PendingRequests { next_id: 1, responses: Some(HashMap::new()) });
        let stream = Arc::new(Self { socket: Mutex::new(socket), pending });
        let reading = Arc::clone(&stream);
        thread::spawn(move || {
            if let Err(error) = reading.read(&mut ChunkedBody { incoming, left: 0 }, &on_message) {
                eprintln!("stream error: {error}");
            }
            // Closes the channels of the requests in flight.
            lock(&reading.pending).responses = None;
        });
        Ok(stream)
    }

    /// Sends a request. The channel receives the response, or is closed if the stream ends before.
    pub fn request(&self, method: &str, params: &Value) -> io::Result<Receiver<Value>> {
        let (sender, receiver) = channel();
        let mut pending = lock(&self.pending);
        let id = pending.next_id;
        pending.next_id += 1;
        let responses = pending.responses.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        responses.insert(id, sender);
        drop(pending);
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        Ok(receiver)
    }

    /// Sends a message: a notification, or the response to a server's request.
    pub fn send(&self, message: &Value) -> io::Result<()> {
        let payload = message.to_string();
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let flags = if message.get("method").is_some() { 0 } else { RESPONSE_FLAG };
        let mut frame = format!("{:x}\r\nMCPF", HEADER_BYTES + payload.len()).into_bytes();
        for word in [1, flags, 0, length] {
            frame.extend_from_slice(&word.to_le_bytes());
        }
        frame.extend_from_slice(payload.as_bytes());
        frame.extend_from_slice(b"\r\n");
        lock(&self.socket).write_all(&frame)
    }

    /// Ends the requests. The gateway responds to those in flight, then ends the stream.
    pub fn close(&self) -> io::Result<()> {
        lock(&self.socket).write_all(b"0\r\n\r\n")
    }

    fn read(&self, body: &mut ChunkedBody, on_message: &impl Fn(&Self, Value)) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        while body.fill(&mut header)? {
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            if &header[..4] != b"MCPF" || word(4) != 1 {
                return Err(io::Error::other("invalid frame"));
            }
            let mut payload = vec![0; usize::try_from(word(16)).map_err(io::Error::other)?];
            if payload.is_empty() {
                // An empty frame keeps the connection alive.
                continue;
            }
            body.fill(&mut payload)?;
            let message: Value = serde_json::from_slice(&payload)?;
            let id = message["id"].as_u64().filter(|_| message.get("method").is_none());
            let sender = id.and_then(|id| lock(&self.pending).responses.as_mut()?.remove(&id));
            match sender {
                // The receiver may be dropped.
                Some(sender) => drop(sender.send(message)),
                None => on_message(self, message),
            }
        }
        Ok(())
    }
}

/// The chunked body of the HTTP response.
struct ChunkedBody {
    incoming: BufReader<TcpStream>,
    left: usize,
}

impl ChunkedBody {
    /// Fills the whole buffer. Returns `false` at the end of the body.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.left == 0 {
                let size = read_line(&mut self.incoming)?;
                self.left = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                if self.left == 0 {
                    return if filled == 0 { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
            }
            let part = self.left.min(buffer.len() - filled);
            self.incoming.read_exact(&mut buffer[filled..filled + part])?;
            (filled, self.left) = (filled + part, self.left - part);
            if self.left == 0 {
                read_line(&mut self.incoming)?;
            }
        }
        Ok(true)
    }
}

fn read_line(incoming: &mut BufReader<TcpStream>) -> io::Result<String> {
    let mut line = String::new();
    if incoming.read_line(&mut line)? == 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    line.truncate(line.trim_end().len());
    Ok(line)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Opens a session, lists the tools, and calls one of them concurrently.
pub fn tour(address: &str, path: &str, key: Option<&str>) -> Result<String, Box<dyn std::error::Error>> {
    let stream = FramedStream::open(address, path, key, |_, message| eprintln!("{message}"))?;
    let client = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "framed.rs", "version": "1"},
    });
    let initialized = stream.request("initialize", &client)?.recv()?;
    stream.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
    let list = stream.request("tools/list", &json!({}))?.recv()?;
    let names =
        list["result"]["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str());
    let names: Vec<&str> = names.collect();
    let echo = names.iter().find(|name| name.ends_with("echo")).ok_or("there is no tool `echo`")?;
    let calls = (0..100).map(|n| {
        let arguments = json!({"text": format!("call {n}")});
        stream.request("tools/call", &json!({"name": echo, "arguments": arguments}))
    });
    let calls: Vec<_> = calls.collect::<Result<_, _>>()?;
    for (n, call) in calls.iter().enumerate() {
        let response = call.recv()?.to_string();
        if !response.contains(&format!("call {n}")) {
            return Err(format!("call {n} got the response {response}").into());
        }
    }
    stream.close()?;
    let server = &initialized["result"]["serverInfo"]["name"];
    Ok(format!("{server}: {} tools, {} calls of {echo}", names.len(), calls.len()))
}

#[allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "a test includes this file; a program may read its environment"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:12009".into());
    let path = arguments.next().unwrap_or_else(|| "/api/v1/mcp/stream".into());
    let key = std::env::var("METAMCP_KEY").ok();
    println!("{}", tour(&address, &path, key.as_deref())?);
    Ok(())
}
