//! A gateway in this process with servers and a client over Unix sockets, to measure whole requests without a network.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use metamcp::app::{App, FirstKey, Launch, StartupKeys};
use metamcp_config::{Cli, ProcessEnv};
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// Tools per server.
pub const TOOLS: usize = 20;

/// Progress events before the response of the tool `events`.
const EVENTS: usize = 100;

/// The size of the response of the tool `big`.
const BIG_BYTES: usize = 64 << 10;

const INITIALIZE: &str = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-11-25","capabilities":{},"clientInfo":{"name":"c","version":"1"}}}"#;
const INITIALIZED: &str = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
const LEGACY_CALL: &str = r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"s0__echo","arguments":{"text":"xxxxx"}}}"#;

/// A gateway with one worker, and the key of all requests.
pub struct Gateway {
    dir: PathBuf,
    key: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// Starts a gateway with servers `s0` and following of the given era.
    pub fn start(servers: usize, era: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("metamcp-bench-{}-{era}-{servers}", std::process::id()));
        fs::create_dir_all(&dir).expect("there is room for temporary files");
        let mut toml = "[log]\nfilter = \"error\"\n".to_owned();
        for number in 0..servers {
            let socket = dir.join(format!("s{number}"));
            let listener = UnixListener::bind(&socket).expect("the directory is new");
            thread::spawn(move || accept(&listener));
            let url = socket.display();
            let _ = writeln!(toml, "[servers.s{number}]\nurl = \"unix:{url}:/mcp\"\nera = \"{era}\"");
        }
        fs::write(dir.join("metamcp.toml"), toml).expect("the directory is there");
        let (stop, stopped) = oneshot::channel();
        let (started, wait_started) = mpsc::channel();
        let at = dir.clone();
        let thread = thread::spawn(move || run(&at, &started, stopped));
        let key = wait_started.recv().expect("it starts");
        Self { dir, key, stop: Some(stop), thread: Some(thread) }
    }

    pub fn connect(&self) -> Client {
        self.connect_to("door")
    }

    /// Connects to the first server without the gateway.
    #[allow(dead_code, reason = "not every bench measures the server alone")]
    pub fn connect_server(&self) -> Client {
        self.connect_to("s0")
    }

    fn connect_to(&self, name: &str) -> Client {
        let socket = UnixStream::connect(self.dir.join(name)).expect("it listens");
        Client { socket, buffer: vec![0; 1 << 16] }
    }

    /// Encodes a request of revision 2026-07-28.
    pub fn request(&self, method: &str, name: Option<&str>, params: &str) -> Vec<u8> {
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
        let body = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{{{params}{meta}}}}}"#);
        let name = name.map_or_else(String::new, |name| format!("Mcp-Name: {name}\r\n"));
        format!(
            "POST /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\nMCP-Protocol-Version: 2026-07-28\r\nMcp-Method: {method}\r\n\
             {name}Content-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        )
        .into_bytes()
    }

    /// Encodes a request of revision 2025-11-25, in a session if there is one.
    fn legacy_request(&self, method: &str, session: Option<&str>, body: &str) -> Vec<u8> {
        let key = &self.key;
        let session = session.map_or_else(String::new, |id| {
            format!("MCP-Protocol-Version: 2025-11-25\r\nMcp-Session-Id: {id}\r\n")
        });
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        format!(
            "{method} /mcp HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {key}\r\n\
             Content-Type: application/json\r\nAccept: application/json, text/event-stream\r\n{session}{length}\r\n{body}"
        )
        .into_bytes()
    }

    /// Encodes a call of a tool of the first server, with a text of `text_bytes` bytes.
    pub fn call(&self, tool: &str, text_bytes: usize) -> Vec<u8> {
        let name = format!("s0__{tool}");
        let text = "x".repeat(text_bytes);
        let params = format!(r#""name":"{name}","arguments":{{"text":"{text}"}},"#);
        self.request("tools/call", Some(&name), &params)
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        drop(self.stop.take());
        self.thread.take().map(JoinHandle::join);
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn run(dir: &Path, started: &mpsc::Sender<String>, stopped: oneshot::Receiver<()>) {
    let mut cli = Cli::default();
    cli.flags.data_dir = Some(dir.join("data"));
    cli.flags.workers = Some(1);
    let load = move |cwd: &Path| metamcp_config::load(&cli, &ProcessEnv, cwd);
    let mut config = load(dir).expect("the configuration has no mistake");
    config.server.drain_delay = std::time::Duration::ZERO;
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    LocalSet::new().block_on(&runtime, async {
        let reload = Box::new(|| unreachable!("nobody sends SIGHUP"));
        let launch = Launch::private(config, dir.join("door"), reload);
        let app = App::start(launch).await.expect("it starts");
        let key = match &app.info.keys {
            StartupKeys::Created(FirstKey::Printed(key)) => key.clone(),
            StartupKeys::Created(FirstKey::File(path)) => {
                fs::read_to_string(path).expect("it was just written").trim().to_owned()
            }
            _ => panic!("there is none yet"),
        };
        started.send(key).expect("somebody waits for it");
        let client = async { drop(stopped.await) };
        app.run(client).await.expect("it ends well");
    });
}

/// A client that waits for each response.
pub struct Client {
    socket: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Sends a request, and returns the length of the response.
    ///
    /// # Panics
    ///
    /// If the response is not 200 or does not arrive.
    pub fn send(&mut self, request: &[u8]) -> usize {
        let response = self.exchange(request);
        assert!(response.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(response));
        response.len()
    }

    /// Runs a whole session with one call.
    ///
    /// # Panics
    ///
    /// If a response is wrong or does not arrive.
    pub fn run_session(&mut self, gateway: &Gateway) {
        let response = self.exchange(&gateway.legacy_request("POST", None, INITIALIZE));
        let id = header(response, "mcp-session-id").expect("it has sessions").to_owned();
        let requests = [("POST", INITIALIZED, "202"), ("POST", LEGACY_CALL, "200"), ("DELETE", "", "200")];
        for (method, body, status) in requests {
            let response = self.exchange(&gateway.legacy_request(method, Some(&id), body));
            assert_eq!(&response[9..12], status.as_bytes(), "{}", String::from_utf8_lossy(response));
        }
    }

    fn exchange(&mut self, request: &[u8]) -> &[u8] {
        self.socket.write_all(request).expect("the gateway reads");
        let mut len = 0;
        loop {
            if len == self.buffer.len() {
                self.buffer.resize(2 * len, 0);
            }
            let count = self.socket.read(&mut self.buffer[len..]).expect("the gateway responds");
            assert!(count > 0, "the gateway closed: {}", String::from_utf8_lossy(&self.buffer[..len]));
            len += count;
            if is_complete(&self.buffer[..len]) {
                return &self.buffer[..len];
            }
        }
    }
}

/// Whether a message is complete.
fn is_complete(received: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(received, b"\r\n\r\n") else { return false };
    match header(received, "content-length") {
        Some(length) => received.len() >= head + 4 + length.parse::<usize>().expect("a number"),
        None => header(received, "transfer-encoding").is_none() || received.ends_with(b"\r\n0\r\n\r\n"),
    }
}

/// Returns the value of a header of a message whose head is complete.
fn header<'a>(received: &'a [u8], name: &str) -> Option<&'a str> {
    let head = std::str::from_utf8(&received[..memchr::memmem::find(received, b"\r\n\r\n")?]).ok()?;
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find_map(|(field, value)| field.eq_ignore_ascii_case(name).then(|| value.trim()))
}

fn accept(listener: &UnixListener) {
    let responses = Arc::new(ServerResponses::new());
    while let Ok((socket, _)) = listener.accept() {
        let responses = Arc::clone(&responses);
        // It ends when the gateway closes the connection.
        thread::spawn(move || drop(serve(socket, &responses)));
    }
}

fn serve(mut socket: UnixStream, responses: &ServerResponses) -> io::Result<()> {
    // Small at first: whether the allocator has to clear a large one differs from run to run, and would be counted.
    let mut buffer = vec![0; 1 << 14];
    loop {
        let mut len = 0;
        while !is_complete(&buffer[..len]) {
            if len == buffer.len() {
                buffer.resize(2 * len, 0);
            }
            match socket.read(&mut buffer[len..])? {
                0 => return Ok(()),
                count => len += count,
            }
        }
        socket.write_all(responses.respond_to(&buffer[..len]))?;
    }
}

/// The encoded responses of the servers.
struct ServerResponses {
    discover: Vec<u8>,
    tools: Vec<u8>,
    small: Vec<u8>,
    big: Vec<u8>,
    events: Vec<u8>,
    initialize: Vec<u8>,
    unknown: Vec<u8>,
}

const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n";
const SESSION_CLOSED: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
/// The response to a GET for an event stream.
const NO_STREAM: &[u8] =
    b"HTTP/1.1 405 Method Not Allowed\r\nAllow: POST, DELETE\r\nContent-Length: 0\r\n\r\n";

impl ServerResponses {
    fn new() -> Self {
        let named = ["echo", "big", "events"].map(str::to_owned);
        let others = (named.len()..TOOLS).map(|number| format!("tool_{number}"));
        let definition = |name: String| {
            format!(
                r#"{{"name":"{name}","description":"ServerResponses with a text","inputSchema":{{"type":"object"}}}}"#
            )
        };
        let tools: Vec<_> = named.into_iter().chain(others).map(definition).collect();
        let tool_list = format!(r#""tools":[{}],"ttlMs":3600000,"cacheScope":"public""#, tools.join(","));
        let discover = r#""supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public""#;
        let text = |bytes: usize| format!(r#""content":[{{"type":"text","text":"{}"}}]"#, "x".repeat(bytes));
        let progress = |number| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{number}}}}}"#
            )
        };
        let events: Vec<_> = (0..EVENTS).map(progress).chain([result(&text(5))]).collect();
        Self {
            discover: json(&result(discover)),
            tools: json(&result(&tool_list)),
            small: json(&result(&text(5))),
            big: json(&result(&text(BIG_BYTES))),
            events: stream(&events),
            initialize: initialize_response(),
            unknown: json(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"unknown"}}"#),
        }
    }

    fn respond_to(&self, request: &[u8]) -> &[u8] {
        let head = &request[..request.len().min(1024)];
        let has = |text: &str| memchr::memmem::find(head, text.as_bytes()).is_some();
        match () {
            () if head.starts_with(b"DELETE ") => SESSION_CLOSED,
            () if head.starts_with(b"GET ") => NO_STREAM,
            () if has(r#""method":"initialize""#) => &self.initialize,
            () if has("notifications/initialized") => ACCEPTED,
            () if has("server/discover") => &self.discover,
            () if has("tools/list") => &self.tools,
            () if has(r#""name":"big""#) => &self.big,
            () if has(r#""name":"events""#) => &self.events,
            () if has("tools/call") => &self.small,
            () => &self.unknown,
        }
    }
}

/// The response to `initialize`.
fn initialize_response() -> Vec<u8> {
    let mut response = json(
        r#"{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"s","version":"1"}}}"#,
    );
    let at = memchr::memmem::find(&response, b"Content-Length").expect("it has a length");
    response.splice(at..at, *b"Mcp-Session-Id: 4d8e2b1a-0f1c-4a57-9b57-7d2f3a1c9e60\r\n");
    response
}

fn result(members: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":1,"result":{{"resultType":"complete",{members}}}}}"#)
}

fn json(body: &str) -> Vec<u8> {
    let len = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len}\r\n\r\n{body}").into()
}

fn stream(messages: &[String]) -> Vec<u8> {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let chunks = messages.iter().map(|message| {
        let event = format!("event: message\ndata: {message}\n\n");
        format!("{:x}\r\n{event}\r\n", event.len())
    });
    [head.to_owned()].into_iter().chain(chunks).chain(["0\r\n\r\n".to_owned()]).collect::<String>().into()
}
