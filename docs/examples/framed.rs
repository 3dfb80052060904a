//! A client of metamcp's framed stream (`docs/FRAMES.md`): the standard library, and `serde_json` for the messages.
//!
//! ```text
//! METAMCP_KEY=mcp_... cargo run --example framed -- 127.0.0.1:12009 /api/v1/mcp/stream
//! ```
//!
//! One thread reads what comes; any thread may ask, and waits on a channel of its own.

use std::collections::HashMap;
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use serde_json::{Value, json};

/// magic, version, flags, method, length: four bytes each, little endian.
const HEADER_BYTES: usize = 20;

/// The payload is a result or an error.
const ANSWER: u32 = 1;

/// An open stream.
pub struct FramedStream {
    socket: Mutex<TcpStream>,
    waiting: Mutex<Waiting>,
}

#[derive(Default)]
struct Waiting {
    next_id: u64,
    /// `None`: the stream has ended.
    answers: Option<HashMap<u64, Sender<Value>>>,
}

impl FramedStream {
    /// Opens one. `on_message` is told what nobody asked for: notifications, requests of servers, errors under no id.
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
        let status = line(&mut incoming)?;
        while !line(&mut incoming)?.is_empty() {}
        if status.split(' ').nth(1) != Some("200") {
            return Err(io::Error::other(status));
        }
        let waiting = Mutex::new(Waiting { next_id: 1, answers: Some(HashMap::new()) });
        let stream = Arc::new(Self { socket: Mutex::new(socket), waiting });
        let reading = Arc::clone(&stream);
        thread::spawn(move || {
            if let Err(error) = reading.read(&mut Chunked { incoming, left: 0 }, &on_message) {
                eprintln!("the stream broke: {error}");
            }
            // Whoever still waits learns that there is no answer from the closed channel.
            lock(&reading.waiting).answers = None;
        });
        Ok(stream)
    }

    /// Sends a request. The channel gives the whole answer, or is closed when the stream ends without.
    pub fn request(&self, method: &str, params: &Value) -> io::Result<Receiver<Value>> {
        let (sender, receiver) = channel();
        let mut waiting = lock(&self.waiting);
        let id = waiting.next_id;
        waiting.next_id += 1;
        let answers = waiting.answers.as_mut().ok_or(io::ErrorKind::BrokenPipe)?;
        answers.insert(id, sender);
        drop(waiting);
        self.send(&json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}))?;
        Ok(receiver)
    }

    /// Sends what is no request of its own: a notification, or the answer to a server's request.
    pub fn send(&self, message: &Value) -> io::Result<()> {
        let payload = message.to_string();
        let length = u32::try_from(payload.len()).map_err(io::Error::other)?;
        let flags = if message.get("method").is_some() { 0 } else { ANSWER };
        let mut frame = format!("{:x}\r\nMCPF", HEADER_BYTES + payload.len()).into_bytes();
        for word in [1, flags, 0, length] {
            frame.extend_from_slice(&word.to_le_bytes());
        }
        frame.extend_from_slice(payload.as_bytes());
        frame.extend_from_slice(b"\r\n");
        lock(&self.socket).write_all(&frame)
    }

    /// No more requests: what is under way is answered, then the stream ends.
    pub fn close(&self) -> io::Result<()> {
        lock(&self.socket).write_all(b"0\r\n\r\n")
    }

    fn read(&self, body: &mut Chunked, on_message: &impl Fn(&Self, Value)) -> io::Result<()> {
        let mut header = [0; HEADER_BYTES];
        while body.fill(&mut header)? {
            let word =
                |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
            if &header[..4] != b"MCPF" || word(4) != 1 {
                return Err(io::Error::other("what came is no frame"));
            }
            let mut payload = vec![0; usize::try_from(word(16)).map_err(io::Error::other)?];
            if payload.is_empty() {
                // It keeps the connection alive.
                continue;
            }
            body.fill(&mut payload)?;
            let message: Value = serde_json::from_slice(&payload)?;
            let id = message["id"].as_u64().filter(|_| message.get("method").is_none());
            let asked = id.and_then(|id| lock(&self.waiting).answers.as_mut()?.remove(&id));
            match asked {
                // Who asked may have gone.
                Some(asked) => drop(asked.send(message)),
                None => on_message(self, message),
            }
        }
        Ok(())
    }
}

/// The body of the response.
struct Chunked {
    incoming: BufReader<TcpStream>,
    left: usize,
}

impl Chunked {
    /// Fills the whole buffer; false at the end of the body.
    fn fill(&mut self, buffer: &mut [u8]) -> io::Result<bool> {
        let mut filled = 0;
        while filled < buffer.len() {
            if self.left == 0 {
                let size = line(&mut self.incoming)?;
                self.left = usize::from_str_radix(&size, 16).map_err(io::Error::other)?;
                if self.left == 0 {
                    return if filled == 0 { Ok(false) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                }
            }
            let part = self.left.min(buffer.len() - filled);
            self.incoming.read_exact(&mut buffer[filled..filled + part])?;
            (filled, self.left) = (filled + part, self.left - part);
            if self.left == 0 {
                line(&mut self.incoming)?;
            }
        }
        Ok(true)
    }
}

fn line(incoming: &mut BufReader<TcpStream>) -> io::Result<String> {
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

/// Opens a session, lists tools, and asks for more than one thing at a time.
pub fn tour(address: &str, path: &str, key: Option<&str>) -> Result<String, Box<dyn std::error::Error>> {
    let stream = FramedStream::open(address, path, key, |_, message| eprintln!("{message}"))?;
    let client = json!({
        "protocolVersion": "2025-11-25",
        "capabilities": {},
        "clientInfo": {"name": "framed.rs", "version": "1"},
    });
    let opened = stream.request("initialize", &client)?.recv()?;
    stream.send(&json!({"jsonrpc": "2.0", "method": "notifications/initialized"}))?;
    let listed = stream.request("tools/list", &json!({}))?.recv()?;
    let names =
        listed["result"]["tools"].as_array().into_iter().flatten().filter_map(|tool| tool["name"].as_str());
    let names: Vec<&str> = names.collect();
    let echo = names.iter().find(|name| name.ends_with("echo")).ok_or("there is no tool `echo`")?;
    let calls = (0..100).map(|n| {
        let arguments = json!({"text": format!("call {n}")});
        stream.request("tools/call", &json!({"name": echo, "arguments": arguments}))
    });
    let calls: Vec<_> = calls.collect::<Result<_, _>>()?;
    for (n, call) in calls.iter().enumerate() {
        let answer = call.recv()?.to_string();
        if !answer.contains(&format!("call {n}")) {
            return Err(format!("call {n} was answered by {answer}").into());
        }
    }
    stream.close()?;
    let server = &opened["result"]["serverInfo"]["name"];
    Ok(format!("{server}: {} tools, {} calls of {echo}", names.len(), calls.len()))
}

#[allow(
    dead_code,
    clippy::disallowed_methods,
    reason = "a test takes in the rest of this file; a program has its environment to itself"
)]
fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let address = arguments.next().unwrap_or_else(|| "127.0.0.1:12009".into());
    let path = arguments.next().unwrap_or_else(|| "/api/v1/mcp/stream".into());
    let key = std::env::var("METAMCP_KEY").ok();
    println!("{}", tour(&address, &path, key.as_deref())?);
    Ok(())
}
