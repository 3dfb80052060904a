//! Clients that call all the time and hold streams open, and that take note of everything that fails: a refused
//! connection, a connection that ends within a response or where it was to be kept, a status that is not 200, a stream
//! that is cut. A response with `Connection: close` ends its connection in good order, and a stream its last chunk.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use rustls_pki_types::{CertificateDer, ServerName};

use super::message::{MODERN, initialize, legacy_call, modern, modern_call, notification};
use super::{PATIENCE, Request};

/// What is called, and by how many.
#[derive(Clone)]
pub struct LoadPlan {
    pub address: SocketAddr,
    /// The certificates that are accepted. Without any, clients do not use TLS.
    pub certificates: Vec<CertificateDer<'static>>,
    /// The name of a server with the tools of the demonstration server, behind `/mcp`.
    pub server: String,
    /// Callers that keep their connection, and callers that open one for each call.
    pub kept: usize,
    pub fresh: usize,
    /// Streams that are open all the time: GET streams, subscriptions and calls that stream, in turn.
    pub streams: usize,
    /// Calls in a second, at most: of a caller that keeps its connection, and of one that does not.
    pub pace: (u32, u32),
}

/// Running clients.
pub struct Load {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
    begun: Instant,
}

struct Shared {
    plan: LoadPlan,
    tls: Option<Arc<ClientConfig>>,
    stop: AtomicBool,
    counts: Counts,
    failures: Mutex<Vec<String>>,
}

#[derive(Default)]
struct Counts {
    calls: AtomicU64,
    streamed_calls: AtomicU64,
    connections: AtomicU64,
    streams_open: AtomicU64,
    streams_ended: AtomicU64,
    failures: AtomicU64,
}

/// What came of it.
#[derive(Debug)]
pub struct LoadReport {
    /// Answered calls of `echo`.
    pub calls: u64,
    /// Answered calls of `countdown`.
    pub streamed_calls: u64,
    pub connections: u64,
    /// Streams that came to their end in good order.
    pub streams_ended: u64,
    pub failure_count: u64,
    /// The first of them.
    pub failures: Vec<String>,
    pub took: Duration,
}

/// Failures that are told.
const TOLD_MAX: usize = 20;

trait Socket: Read + Write + Send {}

impl<T: Read + Write + Send> Socket for T {}

struct Connection {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
}

struct Head {
    status: u16,
    is_last: bool,
    length: Option<usize>,
    session: Option<String>,
}

impl Load {
    pub fn start(plan: LoadPlan) -> Self {
        let tls = (!plan.certificates.is_empty()).then(|| {
            let mut roots = RootCertStore::empty();
            plan.certificates.iter().for_each(|certificate| roots.add(certificate.clone()).unwrap());
            let provider = Arc::new(rustls::crypto::ring::default_provider());
            let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
            Arc::new(builder.unwrap().with_root_certificates(roots).with_no_client_auth())
        });
        let (stop, counts, failures) = (AtomicBool::new(false), Counts::default(), Mutex::default());
        let shared = Arc::new(Shared { plan, tls, stop, counts, failures });
        let mut threads = Vec::new();
        let mut add = |count: usize, work: fn(&Shared, usize)| {
            threads.extend((0..count).map(|number| {
                let shared = Arc::clone(&shared);
                thread::spawn(move || work(&shared, number))
            }));
        };
        add(shared.plan.kept, Shared::call_on_one_connection);
        add(shared.plan.fresh, Shared::call_on_new_connections);
        add(shared.plan.streams, Shared::hold_streams);
        Self { shared, threads, begun: Instant::now() }
    }

    pub fn calls(&self) -> u64 {
        self.shared.counts.calls.load(Ordering::Relaxed)
    }

    pub fn streams_open(&self) -> u64 {
        self.shared.counts.streams_open.load(Ordering::Relaxed)
    }

    pub fn has_failed(&self) -> bool {
        self.shared.counts.failures.load(Ordering::Relaxed) > 0
    }

    /// Waits until so many more calls were answered, or one failed.
    pub fn wait_calls(&self, count: u64) {
        let until = self.calls() + count;
        super::until("more calls", || self.calls() >= until || self.has_failed());
    }

    pub fn stop(self) -> LoadReport {
        let took = self.begun.elapsed();
        self.shared.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        let Counts { calls, streamed_calls, connections, streams_ended, failures, .. } = &self.shared.counts;
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        LoadReport {
            calls: count(calls),
            streamed_calls: count(streamed_calls),
            connections: count(connections),
            streams_ended: count(streams_ended),
            failure_count: count(failures),
            failures: self.shared.failures.lock().unwrap().clone(),
            took,
        }
    }
}

impl Shared {
    fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Relaxed)
    }

    fn note_failure(&self, what: &str, error: &io::Error) {
        self.counts.failures.fetch_add(1, Ordering::Relaxed);
        let mut failures = self.failures.lock().unwrap();
        if failures.len() < TOLD_MAX {
            failures.push(format!("{what}: {error}"));
        }
        drop(failures);
        // What fails at once would fail a million times.
        thread::park_timeout(Duration::from_millis(50));
    }

    fn connect(&self) -> io::Result<Connection> {
        self.counts.connections.fetch_add(1, Ordering::Relaxed);
        let tcp = TcpStream::connect_timeout(&self.plan.address, PATIENCE)?;
        tcp.set_read_timeout(Some(PATIENCE))?;
        tcp.set_nodelay(true)?;
        let socket: Box<dyn Socket> = match &self.tls {
            Some(config) => {
                let name = ServerName::try_from("localhost").unwrap();
                let tls = ClientConnection::new(Arc::clone(config), name).map_err(io::Error::other)?;
                Box::new(StreamOwned::new(tls, tcp))
            }
            None => Box::new(tcp),
        };
        Ok(Connection { socket, buffer: Vec::new() })
    }

    /// A session, which outlives its connection.
    fn open_session(&self) -> io::Result<String> {
        let (head, _) = self.connect()?.exchange(&initialize("/mcp").bytes())?;
        let session = head.session.ok_or_else(|| io::Error::other("no session id"))?;
        let told = notification("/mcp", &session, "notifications/initialized", "");
        self.connect()?.exchange(&told.bytes())?;
        Ok(session)
    }

    /// Every second caller is in a session.
    fn call_request(&self, number: usize) -> Vec<u8> {
        let tool = format!("{}__echo", self.plan.server);
        let arguments = r#"{"text":"under load"}"#;
        let request = if number.is_multiple_of(2) {
            modern_call("/mcp", &tool, arguments)
        } else {
            match self.open_session() {
                Ok(session) => legacy_call("/mcp", &session, "1", &tool, arguments),
                Err(error) => {
                    self.note_failure("initialize", &error);
                    modern_call("/mcp", &tool, arguments)
                }
            }
        };
        request.bytes()
    }

    fn call_on_one_connection(&self, number: usize) {
        self.repeat(number, "kept connection", self.plan.pace.0, true);
    }

    fn call_on_new_connections(&self, number: usize) {
        self.repeat(number, "new connection", self.plan.pace.1, false);
    }

    fn repeat(&self, number: usize, what: &str, pace: u32, is_kept: bool) {
        let request = self.call_request(number);
        let period = Duration::from_secs(1) / pace;
        let mut connection = None;
        let mut due = Instant::now();
        while !self.is_stopped() {
            let asked = connection.take().map_or_else(|| self.connect(), Ok).and_then(|mut connection| {
                let (head, body) = connection.exchange(&request)?;
                if head.status == 200 && body.windows(10).any(|window| window == b"under load") {
                    Ok((connection, head.is_last))
                } else {
                    let text = String::from_utf8_lossy(&body).into_owned();
                    Err(io::Error::other(format!("HTTP {} {text}", head.status)))
                }
            });
            match asked {
                Ok((open, is_last)) => {
                    self.counts.calls.fetch_add(1, Ordering::Relaxed);
                    connection = (is_kept && !is_last).then_some(open);
                }
                Err(error) => self.note_failure(what, &error),
            }
            due += period;
            // What a slow answer delayed is made up for, but not a whole second.
            if due.elapsed() > Duration::from_secs(1) {
                due = Instant::now();
            }
            thread::park_timeout(due.saturating_duration_since(Instant::now()));
        }
    }

    fn hold_streams(&self, number: usize) {
        let (what, request) = match number % 3 {
            0 => ("GET stream", None),
            1 => ("subscription", Some(modern("/mcp", "subscriptions/listen", SUBSCRIPTION))),
            _ => ("streamed call", Some(self.countdown(number))),
        };
        let request = request.map_or_else(
            || {
                let session = self.open_session()?;
                let get = Request::new("GET", "/mcp").with("Accept", "text/event-stream");
                Ok(get.with("Mcp-Session-Id", session))
            },
            Ok,
        );
        let request = match request {
            Ok(request) => request.bytes(),
            Err(error) => return self.note_failure(what, &error),
        };
        while !self.is_stopped() {
            match self.hold_stream(&request, what == "streamed call") {
                Ok(()) => {}
                Err(error) => self.note_failure(what, &error),
            }
        }
    }

    /// Reads a stream until it ends, or until the load stops.
    fn hold_stream(&self, request: &[u8], is_call: bool) -> io::Result<()> {
        let mut connection = self.connect()?;
        let head = connection.ask(request)?;
        if head.status != 200 {
            return Err(io::Error::other(format!("HTTP {}", head.status)));
        }
        let _open = Counted::new(&self.counts.streams_open);
        let mut seen = Vec::new();
        // A call is waited for, because it is counted.
        while is_call || !self.is_stopped() {
            match connection.chunk()? {
                Some(bytes) if is_call => seen.extend(bytes),
                Some(_) => {}
                None => {
                    self.counts.streams_ended.fetch_add(1, Ordering::Relaxed);
                    let is_answered = seen.windows(9).any(|window| window == b"Lift-off!");
                    if is_call && !is_answered {
                        return Err(io::Error::other("it ended without its answer"));
                    }
                    self.counts.streamed_calls.fetch_add(u64::from(is_call), Ordering::Relaxed);
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// A call that streams its progress, for a time between one and four seconds.
    fn countdown(&self, number: usize) -> Request {
        let tool = format!("{}__countdown", self.plan.server);
        let steps = 5 + number % 15;
        let body = format!(
            r#"{{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"steps":{steps},"delay_ms":200}},"_meta":{{"progressToken":{number},"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
        );
        let request = Request::post("/mcp", body).with("MCP-Protocol-Version", MODERN);
        request.with("Mcp-Method", "tools/call").with("Mcp-Name", tool)
    }
}

const SUBSCRIPTION: &str = r#""notifications":{"toolsListChanged":true},"#;

/// Counts while it lives.
struct Counted<'a>(&'a AtomicU64);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicU64) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    fn exchange(&mut self, request: &[u8]) -> io::Result<(Head, Vec<u8>)> {
        let head = self.ask(request)?;
        let mut body = Vec::new();
        match head.length {
            Some(length) => {
                while self.buffer.len() < length {
                    self.fill()?;
                }
                body.extend(self.buffer.drain(..length));
            }
            None => {
                while let Some(bytes) = self.chunk()? {
                    body.extend(bytes);
                }
            }
        }
        Ok((head, body))
    }

    fn ask(&mut self, request: &[u8]) -> io::Result<Head> {
        self.socket.write_all(request)?;
        self.socket.flush()?;
        let head = self.line(b"\r\n\r\n")?;
        let field = |name: &str| {
            let fields = head.lines().filter_map(|line| line.split_once(": "));
            let mut named = fields.filter(|(other, _)| other.eq_ignore_ascii_case(name));
            named.next().map(|(_, value)| value)
        };
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
        Ok(Head {
            status: status.ok_or_else(|| io::Error::other(format!("no status: {head}")))?,
            is_last: field("connection") == Some("close"),
            length: field("content-length").and_then(|length| length.parse().ok()),
            session: field("mcp-session-id").map(str::to_owned),
        })
    }

    /// The next chunk of a chunked body; `None` at its end.
    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = self.line(b"\r\n")?;
        let length = usize::from_str_radix(line.trim(), 16).map_err(io::Error::other)?;
        while self.buffer.len() < length + 2 {
            self.fill()?;
        }
        let mut bytes: Vec<u8> = self.buffer.drain(..length + 2).collect();
        bytes.truncate(length);
        Ok((length > 0).then_some(bytes))
    }

    fn line(&mut self, end: &[u8]) -> io::Result<String> {
        loop {
            if let Some(at) = self.buffer.windows(end.len()).position(|window| window == end) {
                let line: Vec<u8> = self.buffer.drain(..at + end.len()).collect();
                return String::from_utf8(line).map_err(io::Error::other);
            }
            self.fill()?;
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let mut bytes = [0; 16 << 10];
        match self.socket.read(&mut bytes)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                self.buffer.extend_from_slice(&bytes[..count]);
                Ok(())
            }
        }
    }
}
