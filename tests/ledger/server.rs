//! Scripted servers: each executes calls, records that in the ledger, answers with what it executed, and does wrong what
//! the call asks for.

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::fault::Fault;
use crate::http::{Request, STREAM_HEAD, Wire, chunk, json_response};
use crate::kind::Kind;
use crate::ledger::Ledger;
use crate::tag::{Canary, Tag};
use crate::work::Work;

/// Which revisions are spoken: up to 2025-11-25, or 2026-07-28.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Era {
    Legacy,
    Modern,
}

/// A server, as all its connections share it.
pub struct Server {
    pub name: &'static str,
    pub number: u8,
    pub era: Era,
    pub address: SocketAddr,
    ledger: Arc<Ledger>,
    /// Sessions so far; they are numbered.
    sessions: AtomicU64,
    /// Sessions with a lower number are lost.
    first_session: AtomicU64,
    is_refusing: AtomicBool,
    /// Calls that wait for the answer of their client, by the id of the request for it.
    questions: Mutex<HashMap<String, oneshot::Sender<String>>>,
}

/// What comes from the gateway.
#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<Cow<'a, str>>,
    #[serde(borrow)]
    params: Option<Params<'a>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Params<'a> {
    #[serde(borrow)]
    arguments: Option<&'a RawValue>,
    #[serde(borrow, rename = "_meta")]
    meta: Option<Meta<'a>>,
    client_info: Option<ClientInfo>,
    request_state: Option<String>,
    #[serde(borrow)]
    input_responses: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Meta<'a> {
    #[serde(borrow)]
    progress_token: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ClientInfo {
    name: String,
}

/// What becomes of the connection after a response.
#[derive(PartialEq)]
enum After {
    Open,
    Close,
    Reset,
}

/// Between two looks whether a server that refuses connections may listen again.
const REFUSING_POLL: Duration = Duration::from_millis(5);

impl Server {
    /// Listens on a free port. Must be called within a runtime.
    pub fn start(name: &'static str, number: u8, era: Era, ledger: &Arc<Ledger>) -> io::Result<Arc<Self>> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = Arc::new(Self {
            name,
            number,
            era,
            address: listener.local_addr()?,
            ledger: ledger.clone(),
            sessions: AtomicU64::new(0),
            first_session: AtomicU64::new(0),
            is_refusing: AtomicBool::new(false),
            questions: Mutex::default(),
        });
        listener.set_nonblocking(true)?;
        let listener = tokio::net::TcpListener::from_std(listener)?;
        tokio::spawn(server.clone().accept(listener));
        Ok(server)
    }

    /// Refuses connections (A1), or lets them in again.
    pub fn set_refusing(&self, is_refusing: bool) {
        self.is_refusing.store(is_refusing, Ordering::Relaxed);
    }

    /// Forgets all sessions, so that requests in them get 404 (A13).
    pub fn lose_sessions(&self) {
        self.first_session.store(self.sessions.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    async fn accept(self: Arc<Self>, mut listener: tokio::net::TcpListener) {
        loop {
            let accepting = tokio::time::timeout(REFUSING_POLL, listener.accept()).await;
            if let Ok(Ok((stream, _))) = accepting {
                drop(stream.set_nodelay(true));
                tokio::spawn(self.clone().serve(Wire::new(stream)));
            }
            if self.is_refusing.load(Ordering::Relaxed) {
                drop(listener);
                while self.is_refusing.load(Ordering::Relaxed) {
                    sleep(REFUSING_POLL).await;
                }
                listener = loop {
                    match listen_again(self.address) {
                        Ok(listener) => break listener,
                        Err(_) => sleep(REFUSING_POLL).await,
                    }
                };
            }
        }
    }

    async fn serve(self: Arc<Self>, mut wire: Wire) {
        while let Ok(Some(request)) = wire.request().await {
            match self.respond(&request, &mut wire).await {
                Ok(After::Open) => {}
                Ok(After::Reset) => return wire.reset(),
                Ok(After::Close) | Err(_) => return,
            }
        }
    }

    async fn respond(&self, request: &Request, wire: &mut Wire) -> io::Result<After> {
        if self.is_lost(request.session.as_deref()) {
            let error =
                r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32001,"message":"Session not found"}}"#;
            wire.send(&json_response("404 Not Found", "", error)).await?;
            return Ok(After::Open);
        }
        match &request.method {
            b"POST" => {}
            b"DELE" => {
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
                return Ok(After::Open);
            }
            _ => {
                wire.send(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await?;
                return Ok(After::Open);
            }
        }
        let Ok(message) = serde_json::from_slice::<Message<'_>>(&request.body) else {
            let text = String::from_utf8_lossy(&request.body);
            self.ledger.report(None, format!("server {} received what is no message: {text}", self.name));
            return Ok(After::Close);
        };
        let (Some(id), Some(method)) = (message.id, &message.method) else {
            if let (Some(id), None) = (message.id, &message.method) {
                self.take_answer(id, &request.body);
            }
            wire.send(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(After::Open);
        };
        if method == "tools/call" {
            return self.call(id, message.params.as_ref(), request, wire).await;
        }
        let (status, extra, outcome) = self.describe(method, message.params.as_ref());
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},{outcome}}}"#);
        wire.send(&json_response(status, &extra, &body)).await?;
        Ok(After::Open)
    }

    fn is_lost(&self, session: Option<&str>) -> bool {
        let number = session.and_then(|session| session.split('-').nth(1)?.parse::<u64>().ok());
        number.is_some_and(|number| number < self.first_session.load(Ordering::Relaxed))
    }

    /// The answer to anything but a call: status, header fields, and the member `result` or `error`.
    fn describe(&self, method: &str, params: Option<&Params<'_>>) -> (&'static str, String, String) {
        let mut extra = String::new();
        let result = match (method, self.era) {
            ("initialize", Era::Legacy) => {
                let number = self.sessions.fetch_add(1, Ordering::Relaxed);
                let client = params.and_then(|params| params.client_info.as_ref());
                let client = client.map_or("nobody", |client| &client.name);
                extra = format!("Mcp-Session-Id: {}-{number}-{client}\r\n", self.name);
                r#"{"protocolVersion":"2025-11-25","capabilities":{"tools":{}},"serverInfo":{"name":"ledger","version":"1"}}"#
            }
            ("server/discover", Era::Modern) => {
                r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"serverInfo":{"name":"ledger","version":"1"}}"#
            }
            ("tools/list", _) => {
                r#"{"resultType":"complete","tools":[{"name":"work","inputSchema":{"type":"object"}}]}"#
            }
            ("ping", _) => "{}",
            _ => {
                let error = r#""error":{"code":-32601,"message":"Method not found"}"#;
                return ("404 Not Found", extra, error.into());
            }
        };
        ("200 OK", extra, format!(r#""result":{result}"#))
    }

    async fn call(
        &self,
        id: &RawValue,
        params: Option<&Params<'_>>,
        request: &Request,
        wire: &mut Wire,
    ) -> io::Result<After> {
        let arguments = params.and_then(|params| params.arguments).map_or("null", RawValue::get);
        let parse = |work: Work<'_>| Some((work.tag()?, work.canary()?, work.kind()?));
        let work: Option<Work<'_>> = serde_json::from_str(arguments).ok();
        let Some((work, (tag, canary, kind))) = work.and_then(|work| Some((work.clone(), parse(work)?)))
        else {
            let text = String::from_utf8_lossy(&request.body);
            self.ledger.report(None, format!("server {} received another call: {text}", self.name));
            return Ok(After::Close);
        };
        self.fail(id, &work, (tag, canary, kind), params, wire).await
    }

    /// Executes and answers, with the fault that the call asks for.
    async fn fail(
        &self,
        id: &RawValue,
        work: &Work<'_>,
        (tag, canary, _kind): (Tag, Canary, Kind),
        _params: Option<&Params<'_>>,
        wire: &mut Wire,
    ) -> io::Result<After> {
        let fault = work.fault();
        match fault {
            Fault::ResetBefore => return Ok(After::Reset),
            Fault::Slow => sleep(Duration::from_millis(u64::from(work.number % 30))).await,
            _ => {}
        }
        self.ledger.execute(tag, canary);
        let body = result_message(id, work);
        let response = json_response("200 OK", "", &body);
        match fault {
            Fault::ResetAt => {
                let cut = work.number as usize % response.len();
                wire.send(&response[..cut]).await?;
                wire.stream.flush().await?;
                Ok(After::Reset)
            }
            Fault::ShortBody => {
                let long = format!("{body}{}", " ".repeat(100));
                let response = json_response("200 OK", "", &long);
                wire.send(&response[..response.len() - 1 - work.number as usize % 200]).await?;
                Ok(After::Close)
            }
            Fault::Surplus => {
                let surplus = [&response[..], b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n"].concat();
                wire.send(&surplus).await?;
                Ok(After::Open)
            }
            Fault::CloseAfter => {
                wire.send(&response).await?;
                Ok(After::Close)
            }
            _ => {
                wire.send(&response).await?;
                Ok(After::Open)
            }
        }
    }

    /// A client answered what a call had asked.
    fn take_answer(&self, id: &RawValue, body: &[u8]) {
        let id = id.get().trim_matches('"');
        if let Some(waiting) = self.questions.lock().unwrap().remove(id) {
            drop(waiting.send(String::from_utf8_lossy(body).into_owned()));
        }
    }
}

fn result_message(id: &RawValue, work: &Work<'_>) -> String {
    format!(
        r#"{{"jsonrpc":"2.0","id":{id},"result":{{"resultType":"complete","content":[{{"type":"text","text":"{}"}}]}}}}"#,
        work.answer_text()
    )
}

fn listen_again(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
