//! A gateway in this process, with a server behind it and a client in front, over Unix sockets: the whole way of a
//! request without a network.

use std::fmt::Write as _;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};

use metamcp::app::App;
use metamcp::config::{self, Cli, ProcessEnv};
use metamcp::server::Door;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tokio::task::LocalSet;

/// Tools that each server lists.
pub const TOOLS: usize = 20;

/// Events in front of the answer of the tool `events`.
const EVENTS: usize = 100;

/// The size of the answer of the tool `big`.
const BIG_BYTES: usize = 64 << 10;

/// One worker, and a key that every request shows.
pub struct Gateway {
    dir: PathBuf,
    key: String,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Gateway {
    /// In front of so many servers, `s0` and on.
    pub fn start(servers: usize) -> Self {
        let dir = std::env::temp_dir().join(format!("metamcp-bench-{}-{servers}", std::process::id()));
        fs::create_dir_all(&dir).expect("there is room for temporary files");
        let mut toml = "[log]\nfilter = \"error\"\n".to_owned();
        for number in 0..servers {
            let socket = dir.join(format!("s{number}"));
            let listener = UnixListener::bind(&socket).expect("the directory is new");
            thread::spawn(move || accept(&listener));
            let _ = writeln!(toml, "[servers.s{number}]\nurl = \"unix:{}:/mcp\"", socket.display());
        }
        fs::write(dir.join("metamcp.toml"), toml).expect("the directory is there");
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::channel();
        let at = dir.clone();
        let thread = thread::spawn(move || run(&at, &tell, stopped));
        let key = told.recv().expect("it starts");
        Self { dir, key, stop: Some(stop), thread: Some(thread) }
    }

    pub fn connect(&self) -> Client {
        self.connect_to("door")
    }

    /// To the first server, past the gateway.
    #[allow(dead_code, reason = "not every bench takes apart what is not the gateway's part")]
    pub fn connect_server(&self) -> Client {
        self.connect_to("s0")
    }

    fn connect_to(&self, name: &str) -> Client {
        let socket = UnixStream::connect(self.dir.join(name)).expect("it listens");
        Client { socket, buffer: vec![0; 1 << 16] }
    }

    /// A request of revision 2026-07-28.
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

    /// A call of a tool of the first server, with a text of so many bytes.
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

fn run(dir: &Path, tell: &mpsc::Sender<String>, stopped: oneshot::Receiver<()>) {
    let mut cli = Cli::default();
    cli.flags.data_dir = Some(dir.join("data"));
    cli.flags.workers = Some(1);
    let load = move |cwd: &Path| config::load(&cli, &ProcessEnv, cwd);
    let mut config = load(dir).expect("the configuration has no mistake");
    config.server.drain_delay = std::time::Duration::ZERO;
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime starts");
    LocalSet::new().block_on(&runtime, async {
        let reload = Box::new(|| unreachable!("nobody sends SIGHUP"));
        let app = App::start(config, Door::Private(dir.join("door")), reload).await.expect("it starts");
        tell.send(app.greeting.first_key.clone().expect("there is none yet")).expect("somebody waits for it");
        let client = async { drop(stopped.await) };
        app.run(client).await.expect("it ends well");
    });
}

/// A client, which waits for each answer.
pub struct Client {
    socket: UnixStream,
    buffer: Vec<u8>,
}

impl Client {
    /// Sends it, and gives how many bytes the whole answer has.
    ///
    /// # Panics
    ///
    /// When the answer is not 200, or does not come.
    pub fn ask(&mut self, request: &[u8]) -> usize {
        self.socket.write_all(request).expect("the gateway reads");
        let mut len = 0;
        loop {
            if len == self.buffer.len() {
                self.buffer.resize(2 * len, 0);
            }
            let count = self.socket.read(&mut self.buffer[len..]).expect("the gateway answers");
            assert!(count > 0, "the gateway closed: {}", String::from_utf8_lossy(&self.buffer[..len]));
            len += count;
            if is_whole(&self.buffer[..len]) {
                let came = &self.buffer[..len];
                assert!(came.starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(came));
                return len;
            }
        }
    }
}

/// Whether a message has come to its end.
fn is_whole(came: &[u8]) -> bool {
    let Some(head) = memchr::memmem::find(came, b"\r\n\r\n") else { return false };
    match content_length(&came[..head]) {
        Some(length) => came.len() >= head + 4 + length,
        None => came.ends_with(b"\r\n0\r\n\r\n"),
    }
}

fn content_length(head: &[u8]) -> Option<usize> {
    let head = std::str::from_utf8(head).ok()?.to_ascii_lowercase();
    head.lines().find_map(|line| line.strip_prefix("content-length:"))?.trim().parse().ok()
}

fn accept(listener: &UnixListener) {
    let answers = Arc::new(Answers::new());
    while let Ok((socket, _)) = listener.accept() {
        let answers = Arc::clone(&answers);
        // It ends when the gateway closes the connection.
        thread::spawn(move || drop(serve(socket, &answers)));
    }
}

fn serve(mut socket: UnixStream, answers: &Answers) -> io::Result<()> {
    let mut buffer = vec![0; 2 << 20];
    loop {
        let mut len = 0;
        while !is_whole(&buffer[..len]) {
            match socket.read(&mut buffer[len..])? {
                0 => return Ok(()),
                count => len += count,
            }
        }
        socket.write_all(answers.to(&buffer[..len]))?;
    }
}

/// What the servers say, as it is sent.
struct Answers {
    discovered: Vec<u8>,
    listed: Vec<u8>,
    small: Vec<u8>,
    big: Vec<u8>,
    events: Vec<u8>,
    unknown: Vec<u8>,
}

impl Answers {
    fn new() -> Self {
        let named = ["echo", "big", "events"].map(str::to_owned);
        let others = (named.len()..TOOLS).map(|number| format!("tool_{number}"));
        let described = |name: String| {
            format!(
                r#"{{"name":"{name}","description":"Answers with a text","inputSchema":{{"type":"object"}}}}"#
            )
        };
        let tools: Vec<_> = named.into_iter().chain(others).map(described).collect();
        let listed = format!(r#""tools":[{}],"ttlMs":3600000,"cacheScope":"public""#, tools.join(","));
        let discovered = r#""supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public""#;
        let text = |bytes: usize| format!(r#""content":[{{"type":"text","text":"{}"}}]"#, "x".repeat(bytes));
        let progress = |number| {
            format!(
                r#"{{"jsonrpc":"2.0","method":"notifications/progress","params":{{"progressToken":1,"progress":{number}}}}}"#
            )
        };
        let events: Vec<_> = (0..EVENTS).map(progress).chain([result(&text(5))]).collect();
        Self {
            discovered: json(&result(discovered)),
            listed: json(&result(&listed)),
            small: json(&result(&text(5))),
            big: json(&result(&text(BIG_BYTES))),
            events: stream(&events),
            unknown: json(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":"unknown"}}"#),
        }
    }

    fn to(&self, request: &[u8]) -> &[u8] {
        let head = &request[..request.len().min(1024)];
        let has = |text: &str| memchr::memmem::find(head, text.as_bytes()).is_some();
        match () {
            () if has("server/discover") => &self.discovered,
            () if has("tools/list") => &self.listed,
            () if has(r#""name":"big""#) => &self.big,
            () if has(r#""name":"events""#) => &self.events,
            () if has("tools/call") => &self.small,
            () => &self.unknown,
        }
    }
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
