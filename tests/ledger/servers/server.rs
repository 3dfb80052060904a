//! What scripted servers over HTTP have in common, whatever their transport: connections, sessions, questions.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::net::{TcpListener, TcpSocket, UnixListener};
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::message::Call;
use super::sse::Streams;
use super::tasks::Tasks;
use super::{Era, Transport};
use crate::http::{Request, Socket, Wire};
use crate::ledger::Ledger;

/// What is known of a server before it starts.
#[derive(Clone, Copy)]
pub struct Script {
    pub name: &'static str,
    pub era: Era,
    pub transport: Transport,
    /// Whether it does wrong what calls ask for.
    pub obeys_faults: bool,
}

/// A server, as all its connections share it.
pub struct Server {
    pub script: Script,
    place: Place,
    pub(super) ledger: Arc<Ledger>,
    /// Sessions so far; they are numbered.
    pub(super) sessions: AtomicU64,
    /// Sessions with a lower number are lost.
    first_session: AtomicU64,
    is_refusing: AtomicBool,
    /// Calls that wait for the answer of their client, by the id of the request for it.
    pub(super) questions: Mutex<HashMap<String, oneshot::Sender<String>>>,
    /// What is left of streams that were broken, by the tag of their call.
    pub(super) rests: Mutex<HashMap<String, String>>,
    /// The event streams of the sessions of the SSE transport.
    pub(super) streams: Streams,
    pub(super) tasks: Tasks,
    /// Open connections by their number: the gateway's port, the requests so far, and the last one.
    connections: Mutex<HashMap<u64, (u16, u64, String)>>,
    accepted: AtomicU64,
}

/// Where a server listens.
enum Place {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// What becomes of the connection after a response.
#[derive(PartialEq)]
pub enum After {
    Open,
    Close,
    Reset,
}

/// Between two looks whether a server that refuses connections may listen again.
const REFUSING_POLL: Duration = Duration::from_millis(5);

/// Between two events of a call that its client is to cancel, leave or resume.
pub const PACE: Duration = Duration::from_millis(8);

/// A call that is cancelled goes on for so long, in case nobody cancels it.
pub const CANCEL_MAX: Duration = Duration::from_millis(200);

/// What is kept of the last request of a connection.
const NOTE_BYTES_MAX: usize = 300;

/// How many servers this process has started on sockets of their own.
static STARTED: AtomicU64 = AtomicU64::new(0);

impl Server {
    /// Listens on a free port, or at a path of its own. Must be called within a runtime.
    pub fn start(script: Script, ledger: &Arc<Ledger>) -> io::Result<Arc<Self>> {
        let place = match script.transport {
            Transport::HttpUnix => {
                // A failing run is repeated in the same process.
                let number = STARTED.fetch_add(1, Ordering::Relaxed);
                let name = format!("metamcp-ledger-{}-{number}.sock", std::process::id());
                Place::Unix(std::env::temp_dir().join(name))
            }
            Transport::Http | Transport::Sse => Place::Tcp((Ipv4Addr::LOCALHOST, 0).into()),
        };
        let listener = place.listen()?;
        let place = match &listener {
            Listener::Tcp(listener) => Place::Tcp(listener.local_addr()?),
            Listener::Unix(_) => place,
        };
        let server = Arc::new(Self {
            script,
            place,
            ledger: ledger.clone(),
            sessions: AtomicU64::new(0),
            first_session: AtomicU64::new(0),
            is_refusing: AtomicBool::new(false),
            questions: Mutex::default(),
            rests: Mutex::default(),
            streams: Streams::default(),
            tasks: Tasks::default(),
            connections: Mutex::default(),
            accepted: AtomicU64::new(0),
        });
        tokio::spawn(server.clone().accept(listener));
        Ok(server)
    }

    /// Its URL in the configuration.
    pub fn url(&self) -> String {
        let path = if self.script.transport == Transport::Sse { "/sse" } else { "/mcp" };
        match &self.place {
            Place::Tcp(address) => format!("http://{address}{path}"),
            Place::Unix(socket) => format!("unix:{}:{path}", socket.display()),
        }
    }

    /// Refuses connections (A1), or lets them in again.
    pub fn set_refusing(&self, is_refusing: bool) {
        self.is_refusing.store(is_refusing, Ordering::Relaxed);
    }

    /// Forgets all sessions, so that requests in them get 404 (A13).
    pub fn lose_sessions(&self) {
        self.first_session.store(self.sessions.load(Ordering::Relaxed), Ordering::Relaxed);
        self.streams.close_all();
    }

    async fn accept(self: Arc<Self>, mut listener: Listener) {
        loop {
            if let Ok(Ok(wire)) = timeout(REFUSING_POLL, listener.accept()).await {
                tokio::spawn(self.clone().serve(wire));
            }
            if self.is_refusing.load(Ordering::Relaxed) {
                drop(listener);
                self.place.free();
                while self.is_refusing.load(Ordering::Relaxed) {
                    sleep(REFUSING_POLL).await;
                }
                listener = loop {
                    match self.place.listen() {
                        Ok(listener) => break listener,
                        Err(_) => sleep(REFUSING_POLL).await,
                    }
                };
            }
        }
    }

    async fn serve(self: Arc<Self>, mut wire: Wire) {
        let number = self.accepted.fetch_add(1, Ordering::Relaxed);
        let [_, port] = wire.ports();
        self.connections.lock().unwrap().insert(number, (port, 0, String::new()));
        while let Ok(Some(request)) = wire.request().await {
            self.note(number, &request);
            let responded = match self.script.transport {
                Transport::Http | Transport::HttpUnix => self.respond(&request, &mut wire).await,
                Transport::Sse => self.respond_sse(request, &mut wire).await,
            };
            match responded {
                Ok(After::Open) => {}
                Ok(After::Reset) => {
                    wire.reset();
                    break;
                }
                Ok(After::Close) | Err(_) => break,
            }
        }
        self.connections.lock().unwrap().remove(&number);
    }

    /// Keeps what is to be known of a connection that the gateway does not close.
    fn note(&self, number: u64, request: &Request) {
        let mut connections = self.connections.lock().unwrap();
        let (_, count, last) = connections.entry(number).or_default();
        *count += 1;
        last.clear();
        last.push_str(&String::from_utf8_lossy(&request.method));
        last.push_str(request.session.as_deref().unwrap_or_default());
        last.push_str(request.last_event_id.as_deref().unwrap_or_default());
        last.push_str(&String::from_utf8_lossy(&request.body[..request.body.len().min(NOTE_BYTES_MAX)]));
    }

    /// The open connections: the gateway's port, the number of requests, and the last one.
    pub fn connections(&self) -> Vec<String> {
        let connections = self.connections.lock().unwrap();
        connections
            .values()
            .map(|(port, count, last)| {
                format!("{} {}: from {port}: {count} requests, last {last}", self.script.name, self.url())
            })
            .chain(self.streams.describe())
            .collect()
    }

    /// Open event streams of sessions in which only lists were requested.
    pub fn list_streams(&self) -> usize {
        self.streams.lists()
    }

    /// The clients that have an open event stream of the SSE transport, once for each.
    pub fn streaming_clients(&self) -> Vec<u32> {
        self.streams.clients()
    }

    /// Whether the session of that number was forgotten.
    pub(super) fn is_lost(&self, session: u64) -> bool {
        session < self.first_session.load(Ordering::Relaxed)
    }

    /// A client answered what a call had asked.
    pub(super) fn take_answer(&self, id: &RawValue, body: &[u8]) {
        let id = id.get().trim_matches('"');
        if let Some(waiting) = self.questions.lock().unwrap().remove(id) {
            drop(waiting.send(String::from_utf8_lossy(body).into_owned()));
        }
    }

    /// Whether the answer of a client is that of the call's own.
    pub(super) fn is_accepted(&self, call: &Call<'_>, answer: &str) -> bool {
        call.is_answered_by(answer).unwrap_or_else(|foreign| {
            let text = format!("a server received the input of another client, {foreign}: {answer}");
            self.ledger.report(Some(call.tag), text);
            false
        })
    }

    /// Reports what is no message, or no call, of the suite.
    pub(super) fn report_unexpected(&self, body: &[u8]) {
        let text = String::from_utf8_lossy(body);
        self.ledger.report(None, format!("server {} received another message: {text}", self.script.name));
    }
}

impl Place {
    fn listen(&self) -> io::Result<Listener> {
        match self {
            Self::Tcp(address) => {
                let socket = TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Listener::Tcp(socket.listen(1024)?))
            }
            Self::Unix(path) => Ok(Listener::Unix(UnixListener::bind(path)?)),
        }
    }

    /// Removes the socket of a listener that was closed, so that it can be bound again.
    fn free(&self) {
        if let Self::Unix(path) = self {
            drop(std::fs::remove_file(path));
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.free();
    }
}

impl Listener {
    async fn accept(&self) -> io::Result<Wire> {
        Ok(Wire::new(match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Socket::Tcp(stream)
            }
            Self::Unix(listener) => Socket::Unix(listener.accept().await?.0),
        }))
    }
}
