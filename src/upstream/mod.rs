//! Upstreams: the MCP servers behind the gateway and the connections to them.
//!
//! Invariants: a connection is used by one request at a time and by nobody after a surplus byte, an early
//! response or a broken body; a request is written at most once, unless nothing of the first try was
//! written; what is under way at one upstream is bounded and takes nothing from another.
//!
//! Does not know: clients and their sessions, what a key may do, or, but for `stdio` and `sse`, what a message means.

mod answer;
mod body;
mod breaker;
mod chunked;
mod connect;
mod error;
mod face;
mod fast_lane;
mod general;
mod outgoing;
mod patience;
mod pool;
mod private;
pub mod shim;
mod sse;
pub mod stdio;
mod stream;
mod target;
mod traced;
mod wire;

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};

use breaker::Breaker;
use face::EraSupport;
use metamcp_core::base::ServerName;
use metamcp_core::protocol::{Era, header};

pub use answer::{IdleBody, ResponseHead, UpstreamBody, UpstreamResponse};
pub use breaker::{UpstreamFailure, UpstreamStatus};
pub use connect::{ConnectTarget, connect};
pub use error::{FailureStage, UpstreamError};
pub use face::{EraAdapter, ResponseFuture};
pub use outgoing::UpstreamRequest;
pub use pool::{RequestKind, UpstreamPool};
pub use private::{is_private, is_private_address};
pub use stream::Stream;
pub use target::{InvalidTarget, TlsRoots, UrlTarget, reach};
pub use traced::TraceFields;

/// One MCP server as configured.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a setting of its own")]
pub struct Config {
    /// Unique among all servers.
    pub name: ServerName,
    /// Where it is.
    pub address: ServerAddress,
    /// Sent with every request to it: its own credentials among them, marked sensitive.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Which revisions it is asked in; `Auto` finds out.
    pub era: EraChoice,
    /// From the first SYN to an established connection, TLS included.
    pub connect_timeout: Duration,
    /// From the last byte of the request to the head of the response. A long call without a stream is
    /// silent until it is done, so this bounds the longest such call.
    pub first_byte_timeout: Duration,
    /// Between two reads of a response's body; bytes of the upstream alone reset it.
    pub stream_idle_timeout: Duration,
    /// Requests under way at once, over all workers; more wait.
    pub in_flight_max: usize,
    /// How long a request may wait for its place among those.
    pub queue_timeout: Duration,
    /// How many may wait at once; one more is refused at once.
    pub queue_max: usize,
    /// Idle connections kept, per worker.
    pub idle_connections_max: usize,
    /// A connection idle for longer is closed rather than used: it must be shorter than the upstream's own
    /// keep-alive (Node: 5 s), or a request meets a closing connection.
    pub idle_age_max: Duration,
    /// Whether answers of the usual shape are read here; else hyper reads them all.
    pub fast_lane: bool,
    /// Whether, where it answers `initialize` with 404 or 405, it is looked at whether it is one of [`Address::Sse`]
    /// (MCP 2025-03-26, transports, backwards compatibility).
    pub may_be_sse: bool,
    /// Whether it is left alone for a while when it cannot be reached; else whoever asks it waits between two tries himself.
    pub has_breaker: bool,
    /// Whether it may be at a private address, looked at with each connection: names change.
    pub private_addresses: bool,
    /// Stands before the names of its tools and prompts in place of `name`, where servers are told apart so.
    pub alias: Option<ServerName>,
    /// What becomes of a tool that is not as it was approved.
    pub changed_tools: ToolPinPolicy,
}

/// What becomes of a tool that is not as it was approved: what a server listed first, and what an administrator approved
/// since.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolPinPolicy {
    /// Nothing; nothing is remembered.
    Allow,
    /// It is said, and approved.
    Warn,
    /// It is neither shown nor called until somebody approves it.
    Quarantine,
}

/// Where an MCP server listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerAddress {
    /// Streamable HTTP over TCP, TLS for an `https` URL.
    Http(url::Url),
    /// Streamable HTTP over a Unix socket: written `unix:/path/to/socket:/mcp` in configuration.
    Unix {
        /// The socket.
        socket: PathBuf,
        /// The request path, beginning with `/`.
        path: String,
    },
    /// HTTP with an event stream beside it (MCP 2024-11-05): where the stream is opened.
    Sse(url::Url),
    /// A child process, over its standard input and output.
    Stdio(Box<stdio::Program>),
}

/// Which era of MCP a server is asked in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraChoice {
    /// Probed once and remembered.
    Auto,
    /// 2026-07-28 and later only.
    Modern,
    /// 2025-11-25 and earlier only.
    Legacy,
}

/// One MCP server behind the gateway, shared by all workers.
pub struct Upstream {
    /// As configured.
    pub config: Config,
    /// What a worker finds its pool by.
    pub id: UpstreamId,
    reach: Reach,
    path: PathAndQuery,
    get: Opening,
    delete: Opening,
    post: Opening,
    bounds: pool::Bounds,
    breaker: Breaker,
    legacy: EraSupport,
    modern: EraSupport,
    /// Whether it was seen to ask a client for something.
    asks: AtomicBool,
}

/// How a server is spoken to.
enum Reach {
    /// HTTP over a connection.
    Wire(ConnectTarget),
    /// The same, until it is found to be the other.
    Unsaid(ConnectTarget, sse::Candidate),
    /// Messages to the task that owns its event streams.
    Sse(sse::Server),
    /// Messages to the task that owns its processes.
    Process(stdio::Server<stdio::Deployed>),
}

/// A number that no other server of this process has or had. One whose definition changed is another server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamId(pub u32);

impl Config {
    /// The eras that it may speak: what has a transport of one of them has no other, whatever it says while it starts.
    fn era_choice(&self) -> EraChoice {
        match self.address {
            ServerAddress::Sse(_) => EraChoice::Legacy,
            ServerAddress::Http(_) | ServerAddress::Unix { .. } | ServerAddress::Stdio(_) => self.era,
        }
    }
}

impl Upstream {
    /// Makes ready what each connection and each request needs. Opens nothing, and starts no process but the thread
    /// that will.
    pub fn new(id: UpstreamId, config: Config, roots: &TlsRoots) -> Result<Arc<Self>, InvalidTarget> {
        let target::Resolved { reach, path, host } = target::resolve(id, &config, roots)?;
        let mut headers = HeaderMap::with_capacity(16);
        headers.insert(http::header::HOST, host);
        headers.insert(
            http::header::USER_AGENT,
            HeaderValue::from_static(concat!("metamcp/", env!("CARGO_PKG_VERSION"))),
        );
        for (name, value) in &config.headers {
            headers.append(name.clone(), value.clone());
        }
        let mut listening = headers.clone();
        listening.insert(http::header::ACCEPT, HeaderValue::from_static(header::EVENT_STREAM));
        let mut posting = headers.clone();
        posting.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(header::JSON));
        posting.insert(http::header::ACCEPT, HeaderValue::from_static(header::ACCEPT_BOTH));
        let bounds = pool::Bounds::new(config.in_flight_max);
        let breaker = match &reach {
            Reach::Wire(_) | Reach::Unsaid(..) if config.has_breaker => Breaker::new(),
            // Who looks after the processes or the event streams waits between two tries, and says so.
            _ => Breaker::never_open(),
        };
        Ok(Arc::new(Self {
            legacy: EraSupport::new(Era::Legacy, config.era_choice()),
            modern: EraSupport::new(Era::Modern, config.era_choice()),
            get: Opening::new(&Method::GET, &path, listening),
            delete: Opening::new(&Method::DELETE, &path, headers),
            post: Opening::new(&Method::POST, &path, posting),
            config,
            id,
            reach,
            path,
            bounds,
            breaker,
            asks: AtomicBool::new(false),
        }))
    }

    /// Its name.
    pub fn name(&self) -> &ServerName {
        &self.config.name
    }

    /// From now on this stands in for it where it does not speak that era. Only the first counts.
    pub fn set_adapter(&self, era: Era, face: Arc<dyn EraAdapter>) {
        self.side(era).set_face(face);
    }

    /// Whether it speaks an era, when that is known.
    pub fn speaks(&self, era: Era) -> Option<bool> {
        self.side(era).is_spoken()
    }

    /// Whether it does not speak that era, and clients of both eras are to choose the other.
    pub fn hides_era(&self, era: Era) -> bool {
        self.side(era).is_hidden()
    }

    /// What was found out about that; `None`: that it is to be found out again. What is configured stays.
    pub fn set_spoken(&self, era: Era, is_spoken: Option<bool>) {
        if self.config.era_choice() == EraChoice::Auto {
            self.side(era).note(is_spoken);
        }
    }

    fn side(&self, era: Era) -> &EraSupport {
        match era {
            Era::Legacy => &self.legacy,
            Era::Modern => &self.modern,
        }
    }

    /// How its processes are, when it is a program that was not stopped. Cancel safe.
    pub async fn process_health(&self) -> Option<stdio::Health> {
        match &self.reach {
            Reach::Wire(_) | Reach::Unsaid(..) | Reach::Sse(_) => None,
            Reach::Process(server) => server.health().await,
        }
    }

    /// Whether what it says of its own accord comes over one channel for all calls of a session, whichever it is about.
    pub fn has_shared_channel(&self) -> bool {
        match &self.reach {
            Reach::Wire(_) => false,
            Reach::Unsaid(_, candidate) => candidate.found().is_some(),
            Reach::Sse(_) | Reach::Process(_) => true,
        }
    }

    /// How many calls it has under way, and how many wait for their turn, over all workers.
    pub fn load(&self) -> (usize, usize) {
        self.bounds.count(&self.config)
    }

    /// It asked a client's user or model for something.
    pub fn note_server_request(&self) {
        self.asks.store(true, Ordering::Relaxed);
    }

    /// Whether a call is to have a session to itself, so that what the server asks is certainly of that call. A program that
    /// the sessions of a key share is one process for as long as it asked nothing: it may keep there what they share.
    pub fn has_session_per_call(&self) -> bool {
        let sharing = match &self.config.address {
            ServerAddress::Stdio(program) => Some(program.settings.sharing),
            ServerAddress::Http(_) | ServerAddress::Unix { .. } | ServerAddress::Sse(_) => None,
        };
        match sharing {
            None => self.has_shared_channel(),
            Some(stdio::Sharing::Shared) => false,
            Some(stdio::Sharing::Key) => self.asks.load(Ordering::Relaxed),
            Some(stdio::Sharing::Session) => true,
        }
    }

    /// What those who asked it have learned of it.
    pub fn status(&self) -> UpstreamStatus {
        let processes = match &self.reach {
            Reach::Process(server) => Some(server.processes()),
            Reach::Wire(_) | Reach::Unsaid(..) | Reach::Sse(_) => None,
        };
        UpstreamStatus { processes, ..self.breaker.condition() }
    }

    /// Ends its processes, when it has any, and waits until they have ended. Cancel safe: they end all the same.
    pub async fn stop(&self) {
        if let Reach::Process(server) = &self.reach {
            server.stop().await;
        }
    }

    /// What every request of a method carries.
    fn head(&self, method: &Method) -> &Opening {
        match *method {
            Method::GET => &self.get,
            Method::DELETE => &self.delete,
            _ => &self.post,
        }
    }
}

/// The head of every request of one method, in both of the forms that it is written in.
struct Opening {
    /// From the request line to the last of the fields that are always the same.
    lines: Bytes,
    /// Of those, the request line.
    first_line_bytes: usize,
    /// Those fields.
    fields: HeaderMap,
}

impl Opening {
    fn new(method: &Method, path: &PathAndQuery, fields: HeaderMap) -> Self {
        let mut lines = BytesMut::new();
        outgoing::put_request_line(&mut lines, method, path);
        let first_line_bytes = lines.len();
        for (name, value) in &fields {
            lines.put_slice(name.as_str().as_bytes());
            lines.put_slice(b": ");
            lines.put_slice(value.as_bytes());
            lines.put_slice(b"\r\n");
        }
        Self { lines: lines.freeze(), first_line_bytes, fields }
    }
}
