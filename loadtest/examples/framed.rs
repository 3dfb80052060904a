//! How many answers a second the framed stream gives, what they cost, and how long they take; with a server of its own to
//! stand behind the gateway. The standard library alone, so that it costs little itself.
//!
//! ```text
//! framed stub PORT                             a server with 20 tools that answers under the id it is asked with
//! framed load PORT PID METHOD [OPTION VALUE]... one stream: asks, counts, and looks at the CPU time of PID
//!   METHOD: ping | tools/list | refused | tools/call      --single 1: requests of their own on CONNECTIONS connections
//!   --seconds 5  --window 256  --batch 16  --rate 0 (a second; 0: as fast as it goes)  --lines 0  --connections 16
//! ```

#![allow(clippy::disallowed_methods, reason = "its threads are its own: there is no worker to stop")]

use std::collections::HashMap;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

const META: &str = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;

/// More than any window, so that the time of an id is not overwritten while it waits.
const TIMES: usize = 1 << 14;

/// What has not been answered so long after the last request never is.
const LAST_NANOS: u64 = 1_000_000_000;

fn main() -> io::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["stub", port] => stub(number(port)),
        ["load", port, pid, method, options @ ..] => {
            let given = options.chunks_exact(2).map(|pair| (pair[0], number(pair[1])));
            let mut plan: HashMap<&str, u64> = [
                ("--seconds", 5),
                ("--window", 256),
                ("--batch", 16),
                ("--rate", 0),
                ("--lines", 0),
                ("--single", 0),
                ("--connections", 16),
            ]
            .into();
            plan.extend(given);
            load(number(port), pid, method, &plan)
        }
        _ => Err(io::Error::other("framed stub PORT | framed load PORT PID METHOD [OPTION VALUE]...")),
    }
}

fn number(text: &str) -> u64 {
    text.parse().unwrap_or_else(|_| panic!("{text} is no number"))
}

fn connect(port: u64) -> io::Result<TcpStream> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    let socket = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

/// A Modern message of that method; `ping` is Legacy's.
fn message(method: &str, id: u64) -> String {
    match method {
        "ping" => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"ping"}}"#),
        "refused" => format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"nobody__knows","arguments":{{}},{META}}}}}"#
        ),
        "tools/call" => format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"s__tool_00","arguments":{{"text":"hello"}},{META}}}}}"#
        ),
        method => format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{META}}}}}"#),
    }
}

/// CPU seconds of a process so far, in user and kernel.
fn cpu_s(pid: &str) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    // utime and stime, in hundredths (proc(5)).
    let ticks: f64 = [11, 12].iter().filter_map(|at| fields.get(*at)?.parse::<f64>().ok()).sum();
    ticks / 100.0
}

/// What one run has counted.
#[derive(Default)]
struct Tally {
    answers: AtomicU64,
    wrong: AtomicU64,
    /// Nanoseconds since the start, by id.
    sent: Vec<AtomicU64>,
    over: AtomicBool,
    /// Requests under way; told when one was answered.
    window: (Mutex<u64>, Condvar),
}

impl Tally {
    fn new() -> Self {
        Self { sent: (0..TIMES).map(|_| AtomicU64::new(0)).collect(), ..Self::default() }
    }

    fn answered(&self, answers: u64) {
        self.answers.fetch_add(answers, Ordering::Relaxed);
        let mut under_way = self.window.0.lock().unwrap_or_else(PoisonError::into_inner);
        *under_way -= answers;
        self.window.1.notify_one();
    }
}

fn load(port: u64, pid: &str, method: &str, plan: &HashMap<&str, u64>) -> io::Result<()> {
    let seconds = plan["--seconds"];
    let tally = Arc::new(Tally::new());
    let begun = Instant::now();
    let mut threads = Vec::new();
    let (cpu, at) = if plan["--single"] == 1 {
        for _ in 0..plan["--connections"] {
            let (mut socket, tally, method) = (connect(port)?, Arc::clone(&tally), method.to_owned());
            threads.push(thread::spawn(move || single(&mut socket, &tally, &method, begun)));
        }
        (cpu_s(pid), Instant::now())
    } else {
        let mut socket = connect(port)?;
        let is_lines = plan["--lines"] == 1;
        let mut chunks = open(&mut socket, is_lines, method)?;
        let measured = (cpu_s(pid), Instant::now());
        let (reading, writing, method) = (Arc::clone(&tally), Arc::clone(&tally), method.to_owned());
        let (window, batch, rate) = (plan["--window"], plan["--batch"], plan["--rate"]);
        if rate == 0 {
            threads.push(thread::spawn(move || read_answers(&mut chunks, &reading, begun)));
            threads.push(thread::spawn(move || {
                write_requests(&mut socket, &writing, &method, is_lines, (window, batch), begun)
            }));
        } else {
            threads.push(thread::spawn(move || {
                let what = (method.as_str(), is_lines);
                pace(&mut socket, &mut chunks, &writing, what, (window, batch, rate), begun)
            }));
        }
        measured
    };
    thread::sleep(Duration::from_secs(seconds));
    tally.over.store(true, Ordering::Relaxed);
    let (answers, elapsed, cpu) =
        (tally.answers.load(Ordering::Relaxed), at.elapsed().as_secs_f64(), cpu_s(pid) - cpu);
    let mut times: Vec<u64> = Vec::new();
    for thread in threads {
        times.extend(thread.join().map_err(|_| io::Error::other("a thread of the load failed"))??);
    }
    times.sort_unstable();
    let percentile =
        |per_mille: usize| times.get(times.len() * per_mille / 1000).copied().unwrap_or_default() / 1000;
    #[allow(clippy::cast_precision_loss)] // counts of a run are far below 2^52
    let answers_f = answers as f64;
    println!(
        "{method}: {answers} answers, {:.0} a second, {:.2} us of CPU each ({:.0} a second and core), \
         p50 {} us, p99 {} us, p99.9 {} us, {} wrong",
        answers_f / elapsed,
        cpu * 1e6 / answers_f,
        answers_f / cpu,
        percentile(500),
        percentile(990),
        percentile(999),
        tally.wrong.load(Ordering::Relaxed),
    );
    Ok(())
}

/// Opens a stream, and a session in it where the method is one of sessions.
fn open(socket: &mut TcpStream, is_lines: bool, method: &str) -> io::Result<Chunks> {
    let kind = if is_lines { "application/x-ndjson" } else { "application/vnd.metamcp.frames" };
    write!(
        socket,
        "POST /api/v1/mcp/stream HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n"
    )?;
    let mut chunks = Chunks::new(socket.try_clone()?, is_lines);
    chunks.head()?;
    if method == "ping" {
        let hello = r#"{"jsonrpc":"2.0","id":"i","method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"load","version":"1"}}}"#;
        let mut bytes = Vec::new();
        put(&mut bytes, hello, is_lines);
        send(socket, &bytes)?;
        chunks.next(&mut Vec::new())?;
    }
    Ok(chunks)
}

fn put(bytes: &mut Vec<u8>, message: &str, is_lines: bool) {
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

/// As one chunk.
fn send(socket: &mut TcpStream, bytes: &[u8]) -> io::Result<()> {
    let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
    chunk.extend_from_slice(bytes);
    chunk.extend_from_slice(b"\r\n");
    let mut rest = &chunk[..];
    while !rest.is_empty() {
        match socket.write(rest) {
            Ok(count) => rest = &rest[count..],
            // Who paces never sleeps.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn write_requests(
    socket: &mut TcpStream,
    tally: &Tally,
    method: &str,
    is_lines: bool,
    (window, batch): (u64, u64),
    begun: Instant,
) -> io::Result<Vec<u64>> {
    let mut bytes = Vec::new();
    let mut id: u64 = 0;
    while !tally.over.load(Ordering::Relaxed) {
        let under_way = tally.window.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (mut under_way, _) = tally
            .window
            .1
            .wait_timeout_while(under_way, Duration::from_millis(100), |count| *count + batch > window)
            .unwrap_or_else(PoisonError::into_inner);
        if *under_way + batch > window {
            continue;
        }
        *under_way += batch;
        drop(under_way);
        bytes.clear();
        let now = nanos(begun);
        for _ in 0..batch {
            tally.sent[slot(id)].store(now, Ordering::Relaxed);
            put(&mut bytes, &message(method, id), is_lines);
            id += 1;
        }
        send(socket, &bytes)?;
    }
    socket.write_all(b"0\r\n\r\n")?;
    Ok(Vec::new())
}

fn read_answers(chunks: &mut Chunks, tally: &Tally, begun: Instant) -> io::Result<Vec<u64>> {
    let (mut messages, mut times) = (Vec::new(), Vec::new());
    while chunks.next(&mut messages)? {
        tally.answered(note(&mut messages, tally, begun, &mut times));
    }
    Ok(times)
}

/// How many of them are answers; when each was asked for is known.
fn note(messages: &mut Vec<Vec<u8>>, tally: &Tally, begun: Instant, times: &mut Vec<u64>) -> u64 {
    let now = nanos(begun);
    let mut answers = 0;
    for message in messages.drain(..) {
        let Some(id) = id_of(&message) else {
            tally.wrong.fetch_add(1, Ordering::Relaxed);
            continue;
        };
        answers += 1;
        times.push(now.saturating_sub(tally.sent[slot(id)].load(Ordering::Relaxed)));
    }
    answers
}

/// Asks at a rate and reads on one thread that never sleeps: with two of them, and the gateway, on two cores, one would wait
/// until the scheduler takes another's turn away. Times are those since a request was due, so that one who asks late does
/// not hide it.
fn pace(
    socket: &mut TcpStream,
    chunks: &mut Chunks,
    tally: &Tally,
    (method, is_lines): (&str, bool),
    (window, batch, rate): (u64, u64, u64),
    begun: Instant,
) -> io::Result<Vec<u64>> {
    socket.set_nonblocking(true)?;
    let (mut messages, mut times, mut bytes) = (Vec::new(), Vec::new(), Vec::new());
    let (mut id, mut under_way, start) = (0, 0, nanos(begun));
    let mut ends = u64::MAX;
    loop {
        let (now, due) = (nanos(begun), start + id * 1_000_000_000 / rate);
        let is_over = tally.over.load(Ordering::Relaxed);
        if is_over {
            ends = ends.min(now + LAST_NANOS);
            if under_way == 0 || now >= ends {
                break;
            }
        }
        if !is_over && now >= due && under_way + batch <= window {
            bytes.clear();
            for _ in 0..batch {
                tally.sent[slot(id)].store(due, Ordering::Relaxed);
                put(&mut bytes, &message(method, id), is_lines);
                id += 1;
            }
            under_way += batch;
            send(socket, &bytes)?;
        }
        match chunks.fill() {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => std::hint::spin_loop(),
            other => other?,
        }
        chunks.take(&mut messages)?;
        let answers = note(&mut messages, tally, begun, &mut times);
        under_way -= answers;
        tally.answers.fetch_add(answers, Ordering::Relaxed);
    }
    tally.wrong.fetch_add(under_way, Ordering::Relaxed);
    Ok(times)
}

fn nanos(begun: Instant) -> u64 {
    u64::try_from(begun.elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn slot(id: u64) -> usize {
    usize::try_from(id).unwrap_or_default() % TIMES
}

fn id_of(message: &[u8]) -> Option<u64> {
    let at = message.windows(5).position(|window| window == b"\"id\":")? + 5;
    let digits: Vec<u8> = message[at..].iter().copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// The messages in the body of a response.
struct Chunks {
    socket: TcpStream,
    /// What was read and not taken is at `taken..read`.
    bytes: Vec<u8>,
    taken: usize,
    read: usize,
    /// The messages that came in part.
    body: Vec<u8>,
    is_lines: bool,
    is_over: bool,
}

impl Chunks {
    fn new(socket: TcpStream, is_lines: bool) -> Self {
        Self {
            socket,
            bytes: vec![0; 256 << 10],
            taken: 0,
            read: 0,
            body: Vec::new(),
            is_lines,
            is_over: false,
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        self.bytes.copy_within(self.taken..self.read, 0);
        (self.taken, self.read) = (0, self.read - self.taken);
        if self.read == self.bytes.len() {
            self.bytes.resize(2 * self.read, 0);
        }
        let count = self.socket.read(&mut self.bytes[self.read..])?;
        self.read += count;
        if count == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// The next line that is there, and where it ends.
    fn line(&self) -> Option<(String, usize)> {
        let left = &self.bytes[self.taken..self.read];
        let end = left.windows(2).position(|window| window == b"\r\n")?;
        Some((String::from_utf8_lossy(&left[..end]).into_owned(), self.taken + end + 2))
    }

    fn head(&mut self) -> io::Result<()> {
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

    /// Waits for some messages; false at the end.
    fn next(&mut self, messages: &mut Vec<Vec<u8>>) -> io::Result<bool> {
        loop {
            self.take(messages)?;
            if !messages.is_empty() || self.is_over {
                return Ok(!self.is_over);
            }
            self.fill()?;
        }
    }

    /// All messages that are there as a whole.
    fn take(&mut self, messages: &mut Vec<Vec<u8>>) -> io::Result<()> {
        while let Some((line, start)) = self.line() {
            let length = usize::from_str_radix(&line, 16).map_err(io::Error::other)?;
            if self.read < start + length + 2 {
                break;
            }
            self.body.extend_from_slice(&self.bytes[start..start + length]);
            self.taken = start + length + 2;
            self.is_over |= length == 0;
        }
        let taken = self.split(messages);
        self.body.drain(..taken);
        Ok(())
    }

    fn split(&self, messages: &mut Vec<Vec<u8>>) -> usize {
        let mut at = 0;
        while at < self.body.len() {
            let rest = &self.body[at..];
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
            at += end;
        }
        at
    }
}

/// The same calls as requests of their own, one after the other on each connection.
fn single(socket: &mut TcpStream, tally: &Tally, method: &str, begun: Instant) -> io::Result<Vec<u64>> {
    let body = message(method, 1);
    let name = match method {
        "tools/call" => "s__tool_00",
        "refused" => "nobody__knows",
        _ => "",
    };
    let mcp_method = if method == "refused" { "tools/call" } else { method };
    let name = if name.is_empty() { String::new() } else { format!("Mcp-Name: {name}\r\n") };
    let request = format!(
        "POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\n\
         Mcp-Method: {mcp_method}\r\n{name}Content-Length: {}\r\n\r\n{body}",
        body.len(),
    );
    let (mut times, mut buffer) = (Vec::new(), vec![0; 256 << 10]);
    while !tally.over.load(Ordering::Relaxed) {
        let at = nanos(begun);
        socket.write_all(request.as_bytes())?;
        let (mut have, mut whole) = (0, usize::MAX);
        while have < whole {
            let count = socket.read(&mut buffer[have..])?;
            if count == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            have += count;
            if whole == usize::MAX {
                whole = response_bytes(&buffer[..have]);
            }
        }
        times.push(nanos(begun) - at);
        tally.answers.fetch_add(1, Ordering::Relaxed);
        if !buffer.starts_with(b"HTTP/1.1 200") {
            tally.wrong.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(times)
}

/// Of the response that begins there, when its head has come.
fn response_bytes(bytes: &[u8]) -> usize {
    let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { return usize::MAX };
    end + 4 + content_length(&bytes[..end])
}

fn content_length(head: &[u8]) -> usize {
    let head = String::from_utf8_lossy(head).to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
    length.and_then(|length| length.trim().parse().ok()).unwrap_or_default()
}

/// A server of 2026-07-28 that does as little as one can that answers under the id it was asked with.
fn stub(port: u64) -> io::Result<()> {
    let port = u16::try_from(port).map_err(io::Error::other)?;
    for socket in TcpListener::bind((Ipv4Addr::LOCALHOST, port))?.incoming() {
        let mut socket = socket?;
        // A connection that breaks is the proxy's business.
        thread::spawn(move || drop(serve(&mut socket)));
    }
    Ok(())
}

fn serve(socket: &mut TcpStream) -> io::Result<()> {
    socket.set_nodelay(true)?;
    let (mut buffer, mut have) = (vec![0; 256 << 10], 0);
    let tools: Vec<String> = (0..20).map(tool).collect();
    let listed = format!(
        r#""resultType":"complete","tools":[{}],"ttlMs":3600000,"cacheScope":"public""#,
        tools.join(",")
    );
    loop {
        let count = socket.read(&mut buffer[have..])?;
        if count == 0 {
            return Ok(());
        }
        have += count;
        loop {
            let whole = response_bytes(&buffer[..have]);
            if have < whole || whole == usize::MAX {
                break;
            }
            let request = &buffer[..whole];
            let result = match method_of(request).as_str() {
                "server/discover" => {
                    r#""resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public""#
                }
                "tools/list" => &listed,
                _ => r#""resultType":"complete","content":[{"type":"text","text":"hello"}]"#,
            };
            let body = format!(r#"{{"jsonrpc":"2.0","id":{},"result":{{{result}}}}}"#, raw_id(request));
            let answer = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                body.len()
            );
            socket.write_all(answer.as_bytes())?;
            buffer.copy_within(whole..have, 0);
            have -= whole;
        }
    }
}

fn tool(number: usize) -> String {
    format!(
        r#"{{"name":"tool_{number:02}","description":"Does what tool number {number} does, as a tool of its kind is told of in some words.","inputSchema":{{"type":"object","properties":{{"text":{{"type":"string","description":"What it is about"}},"count":{{"type":"integer"}}}},"required":["text"]}}}}"#
    )
}

fn method_of(request: &[u8]) -> String {
    let head = String::from_utf8_lossy(&request[..request.len().min(1024)]).into_owned();
    let lower = head.to_ascii_lowercase();
    let at = lower.find("mcp-method: ").map(|at| at + 12);
    at.and_then(|at| head[at..].lines().next()).unwrap_or_default().to_owned()
}

/// As it stands there, quotes and all.
fn raw_id(request: &[u8]) -> String {
    let text = String::from_utf8_lossy(request);
    let rest = text.split("\"id\":").nth(1).unwrap_or("null").trim_start();
    let end = rest.find([',', '}']).unwrap_or(rest.len());
    rest[..end].to_owned()
}
