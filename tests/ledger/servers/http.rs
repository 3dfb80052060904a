//! A scripted server over HTTP, of either era.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::value::RawValue;
use tokio::net::TcpSocket;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};

use super::Era;
use super::message::{Call, Message, Params, describe, initialize_result, log_message};
use crate::fault::Fault;
use crate::http::{Request, STREAM_HEAD, Wire, chunk, event, json_response};
use crate::kind::Kind;
use crate::ledger::Ledger;
use crate::tag::Tag;

/// A server, as all its connections share it.
pub struct Server {
    pub name: &'static str,
    pub era: Era,
    pub address: SocketAddr,
    /// Whether it does wrong what calls ask for.
    pub obeys_faults: bool,
    ledger: Arc<Ledger>,
    /// Sessions so far; they are numbered.
    sessions: AtomicU64,
    /// Sessions with a lower number are lost.
    first_session: AtomicU64,
    is_refusing: AtomicBool,
    /// Calls that wait for the answer of their client, by the id of the request for it.
    questions: Mutex<HashMap<String, oneshot::Sender<String>>>,
    /// What is left of streams that were broken, by the tag of their call.
    rests: Mutex<HashMap<String, String>>,
    /// Open connections, by the gateway's port: the requests so far, and the last one.
    connections: Mutex<HashMap<u16, (u64, String)>>,
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

/// How long a server waits for its client's answer. Longer than the gateway does.
const ANSWER_MAX: Duration = Duration::from_secs(8);

/// Between two events of a call that its client is to cancel, leave or resume.
const PACE: Duration = Duration::from_millis(8);

/// A call that is cancelled goes on for so long, in case nobody cancels it.
const CANCEL_MAX: Duration = Duration::from_millis(200);

/// Broken streams that are kept; what nobody resumes is forgotten with all others.
const RESTS_MAX: usize = 1024;

/// Between two log messages on the event stream of a session.
const LOG_PACE: Duration = Duration::from_millis(10);

/// What is kept of the last request of a connection.
const NOTE_BYTES_MAX: usize = 300;

/// Then the server closes the stream; the gateway opens another.
const LOG_COUNT: usize = 50;

impl Server {
    /// Listens on a free port. Must be called within a runtime.
    pub fn start(
        name: &'static str,
        era: Era,
        obeys_faults: bool,
        ledger: &Arc<Ledger>,
    ) -> io::Result<Arc<Self>> {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
        let server = Arc::new(Self {
            name,
            era,
            address: listener.local_addr()?,
            obeys_faults,
            ledger: ledger.clone(),
            sessions: AtomicU64::new(0),
            first_session: AtomicU64::new(0),
            is_refusing: AtomicBool::new(false),
            questions: Mutex::default(),
            rests: Mutex::default(),
            connections: Mutex::default(),
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
            let accepting = timeout(REFUSING_POLL, listener.accept()).await;
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
        let port = wire.stream.peer_addr().map_or(0, |address| address.port());
        self.connections.lock().unwrap().insert(port, (0, String::new()));
        while let Ok(Some(request)) = wire.request().await {
            self.note(port, &request);
            match self.respond(&request, &mut wire).await {
                Ok(After::Open) => {}
                Ok(After::Reset) => {
                    wire.reset();
                    break;
                }
                Ok(After::Close) | Err(_) => break,
            }
        }
        self.connections.lock().unwrap().remove(&port);
    }

    /// Keeps what is to be known of a connection that the gateway does not close.
    fn note(&self, port: u16, request: &Request) {
        let mut connections = self.connections.lock().unwrap();
        let (count, last) = connections.entry(port).or_default();
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
            .iter()
            .map(|(port, (count, last))| format!("{port}: {count} requests, last {last}"))
            .collect()
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
            b"GET " => return self.listen(request, wire).await,
            _ => {
                wire.send(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n").await?;
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
            let Some(call) = Call::read(id, message.params.as_ref()) else {
                let text = String::from_utf8_lossy(&request.body);
                self.ledger.report(None, format!("server {} received another call: {text}", self.name));
                return Ok(After::Close);
            };
            return self.call(&call, wire).await;
        }
        let (status, extra, outcome) = match &**method {
            "initialize" if self.era == Era::Legacy => {
                ("200 OK", self.open_session(message.params.as_ref()), initialize_result("2025-11-25"))
            }
            method => {
                let (status, outcome) = describe(method, self.era);
                (status, String::new(), outcome.to_owned())
            }
        };
        let body = format!(r#"{{"jsonrpc":"2.0","id":{id},{outcome}}}"#);
        wire.send(&json_response(status, &extra, &body)).await?;
        Ok(After::Open)
    }

    /// A session's id has its number, and the name of its client.
    fn open_session(&self, params: Option<&Params<'_>>) -> String {
        let number = self.sessions.fetch_add(1, Ordering::Relaxed);
        let client = params.and_then(|params| params.client_info.as_ref());
        let client = client.map_or("nobody", |client| &client.name);
        format!("Mcp-Session-Id: {}-{number}-{client}\r\n", self.name)
    }

    fn is_lost(&self, session: Option<&str>) -> bool {
        let number = session.and_then(|session| session.split('-').nth(1)?.parse::<u64>().ok());
        number.is_some_and(|number| number < self.first_session.load(Ordering::Relaxed))
    }

    /// The event stream of a session, or the rest of one of a call.
    async fn listen(&self, request: &Request, wire: &mut Wire) -> io::Result<After> {
        let tag = request.last_event_id.as_ref().and_then(|id| id.split_once('/'));
        if let Some((tag, _)) = tag {
            let rest = self.rests.lock().unwrap().remove(tag);
            let Some(rest) = rest else {
                wire.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n").await?;
                return Ok(After::Open);
            };
            wire.send(format!("{STREAM_HEAD}{}{}", chunk(&rest), chunk("")).as_bytes()).await?;
            return Ok(After::Open);
        }
        let client =
            request.session.as_ref().and_then(|session| session.rsplit('-').next()?.strip_prefix('c'));
        let Some(client) = client.and_then(|client| client.parse().ok()) else {
            wire.send(b"HTTP/1.1 405 Method Not Allowed\r\nContent-Length: 0\r\n\r\n").await?;
            return Ok(After::Open);
        };
        wire.send(STREAM_HEAD.as_bytes()).await?;
        let message = log_message(Tag::of_client(client).canary(self.ledger.seed));
        for _ in 0..LOG_COUNT {
            wire.send(chunk(&event(None, &message)).as_bytes()).await?;
            sleep(LOG_PACE).await;
        }
        wire.send(chunk("").as_bytes()).await?;
        Ok(After::Open)
    }

    /// A client answered what a call had asked.
    fn take_answer(&self, id: &RawValue, body: &[u8]) {
        let id = id.get().trim_matches('"');
        if let Some(waiting) = self.questions.lock().unwrap().remove(id) {
            drop(waiting.send(String::from_utf8_lossy(body).into_owned()));
        }
    }

    /// Executes and answers, with the fault that the call asks for.
    async fn call(&self, call: &Call<'_>, wire: &mut Wire) -> io::Result<After> {
        let fault = if self.obeys_faults { call.work.fault() } else { Fault::None };
        let refusal = match fault {
            Fault::ResetBefore => return Ok(After::Reset),
            Fault::Status503 => "503 Service Unavailable",
            Fault::Status429 => "429 Too Many Requests",
            Fault::Status401 => "401 Unauthorized",
            Fault::Redirect => "307 Temporary Redirect",
            _ => "",
        };
        if !refusal.is_empty() {
            let head = format!("HTTP/1.1 {refusal}\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n");
            wire.send(head.as_bytes()).await?;
            return Ok(After::Open);
        }
        if fault == Fault::Slow {
            sleep(Duration::from_millis(u64::from(call.work.number % 30))).await;
        }
        let kind = call.work.kind().unwrap_or(Kind::Plain);
        if kind == Kind::Ask && self.era == Era::Modern {
            match self.take_input(call) {
                Ok(true) => {}
                Ok(false) => {
                    wire.send(&json_response("200 OK", "", &call.input_required())).await?;
                    return Ok(After::Open);
                }
                Err(message) => {
                    wire.send(&json_response("200 OK", "", &message)).await?;
                    return Ok(After::Open);
                }
            }
        }
        if kind.is_stream(call.work.number) {
            self.stream(call, kind, fault, wire).await
        } else {
            self.json(call, fault, wire).await
        }
    }

    /// Whether a Modern call has the input that it needs; an error message if it is declined.
    fn take_input(&self, call: &Call<'_>) -> Result<bool, String> {
        let Some(input) = call.input else { return Ok(false) };
        if call.state.is_none_or(|state| state != format!("state-{}", call.tag)) {
            self.ledger.report(Some(call.tag), format!("a server received the state {:?}", call.state));
        }
        if self.is_accepted(call, input) { Ok(true) } else { Err(call.error("no input")) }
    }

    fn is_accepted(&self, call: &Call<'_>, answer: &str) -> bool {
        call.is_answered_by(answer).unwrap_or_else(|foreign| {
            let text = format!("a server received the input of another client, {foreign}: {answer}");
            self.ledger.report(Some(call.tag), text);
            false
        })
    }

    async fn json(&self, call: &Call<'_>, fault: Fault, wire: &mut Wire) -> io::Result<After> {
        self.ledger.execute(call.tag, call.canary);
        let body = call.result();
        let response = json_response("200 OK", "", &body);
        let number = call.work.number as usize;
        match fault {
            Fault::ResetAt => {
                wire.send(&response[..number % response.len()]).await?;
                Ok(After::Reset)
            }
            Fault::ShortBody | Fault::BreakResumable => {
                let long = json_response("200 OK", "", &format!("{body}{}", " ".repeat(100)));
                wire.send(&long[..long.len() - 1 - number % 200]).await?;
                Ok(After::Close)
            }
            Fault::BadChunk => {
                let half = &body[..body.len() / 2];
                let head =
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n";
                wire.send(format!("{head}{}zz\r\n{half}\r\n", chunk(half)).as_bytes()).await?;
                Ok(After::Close)
            }
            Fault::Surplus => {
                let surplus = [&response[..], b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}\n"].concat();
                wire.send(&surplus).await?;
                Ok(After::Open)
            }
            Fault::WrongId => {
                wire.send(&json_response("200 OK", "", &call.result_under("\"99.99\""))).await?;
                Ok(After::Open)
            }
            Fault::Garbage => {
                wire.send(&json_response("200 OK", "", &format!("<html>{}", call.canary))).await?;
                Ok(After::Open)
            }
            Fault::Hang => {
                wire.closed().await;
                Ok(After::Close)
            }
            Fault::HangBody => {
                wire.send(&response[..response.len() - 1]).await?;
                wire.closed().await;
                Ok(After::Close)
            }
            Fault::Drip => {
                for byte in &response {
                    wire.send(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
                Ok(After::Open)
            }
            _ => self.status(call, fault, &response, wire).await,
        }
    }

    /// With a status after the call was executed, or as it should be.
    async fn status(
        &self,
        call: &Call<'_>,
        fault: Fault,
        response: &[u8],
        wire: &mut Wire,
    ) -> io::Result<After> {
        match fault {
            Fault::Status500 => {
                wire.send(b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n").await?;
                Ok(After::Open)
            }
            Fault::Status404 => {
                wire.send(&json_response("404 Not Found", "", &call.error("no such thing"))).await?;
                Ok(After::Open)
            }
            Fault::CloseAfter => {
                wire.send(response).await?;
                Ok(After::Close)
            }
            _ => {
                wire.send(response).await?;
                Ok(After::Open)
            }
        }
    }

    async fn stream(&self, call: &Call<'_>, kind: Kind, fault: Fault, wire: &mut Wire) -> io::Result<After> {
        wire.send(STREAM_HEAD.as_bytes()).await?;
        if kind == Kind::Ask && self.era == Era::Legacy && !self.ask(call, wire).await? {
            let error = chunk(&event(None, &call.error("no input")));
            wire.send(format!("{error}{}", chunk("")).as_bytes()).await?;
            return Ok(After::Open);
        }
        self.ledger.execute(call.tag, call.canary);
        let is_slow = matches!(kind, Kind::Cancel | Kind::Leave | Kind::Resume | Kind::EndSession);
        let has_ids = fault == Fault::BreakResumable && self.era == Era::Legacy;
        let mut events = Vec::new();
        for step in 1..=call.steps() {
            let id = has_ids.then(|| format!("{}/{step}", call.tag));
            let data = call.progress(step);
            events.push(data.map_or_else(|| ": working\n\n".to_owned(), |data| event(id.as_deref(), &data)));
        }
        if is_slow {
            for text in events.drain(..) {
                wire.send(chunk(&text).as_bytes()).await?;
                sleep(PACE).await;
            }
        }
        if kind == Kind::Cancel {
            drop(timeout(CANCEL_MAX, wire.closed()).await);
        }
        let text = match fault {
            Fault::WrongId => call.result_under("\"99.99\""),
            Fault::Garbage => format!("<html>{}", call.canary),
            _ => call.result(),
        };
        events.push(event(None, &text));
        if fault == Fault::TwoAnswers {
            events.push(event(None, &text));
        }
        self.end_stream(call, fault, has_ids, events, wire).await
    }

    /// Sends the last events, and ends the stream as the fault says.
    async fn end_stream(
        &self,
        call: &Call<'_>,
        fault: Fault,
        has_ids: bool,
        mut events: Vec<String>,
        wire: &mut Wire,
    ) -> io::Result<After> {
        let number = call.work.number as usize;
        if has_ids && call.progress_token.is_some() {
            let rest = events.pop().unwrap_or_default();
            self.keep_rest(call.tag, &rest);
            let begun = chunk(&events.concat());
            let cut = &rest[..number % rest.len()];
            let cut = if cut.is_empty() { String::new() } else { chunk(cut) };
            let begun = if events.is_empty() { String::new() } else { begun };
            wire.send(format!("{begun}{cut}").as_bytes()).await?;
            return Ok(if number.is_multiple_of(2) { After::Close } else { After::Reset });
        }
        let events: String = events.iter().map(|event| chunk(event)).collect();
        match fault {
            Fault::ResetAt | Fault::ShortBody | Fault::BreakResumable => {
                wire.send(&events.as_bytes()[..number % events.len()]).await?;
                Ok(if fault == Fault::ResetAt { After::Reset } else { After::Close })
            }
            Fault::BadChunk => {
                wire.send(format!("zz\r\n{events}").as_bytes()).await?;
                Ok(After::Close)
            }
            Fault::Hang | Fault::HangBody => {
                wire.send(&events.as_bytes()[..events.len() - 4]).await?;
                wire.closed().await;
                Ok(After::Close)
            }
            Fault::Drip => {
                for byte in format!("{events}{}", chunk("")).as_bytes() {
                    wire.send(&[*byte]).await?;
                    tokio::task::yield_now().await;
                }
                Ok(After::Open)
            }
            _ => {
                let surplus = if fault == Fault::Surplus { "HTTP/1.1 200 OK\r\n\r\n" } else { "" };
                wire.send(format!("{events}{}{surplus}", chunk("")).as_bytes()).await?;
                Ok(if fault == Fault::CloseAfter { After::Close } else { After::Open })
            }
        }
    }

    fn keep_rest(&self, tag: Tag, rest: &str) {
        let mut rests = self.rests.lock().unwrap();
        if rests.len() >= RESTS_MAX {
            rests.clear();
        }
        rests.insert(tag.to_string(), rest.to_owned());
    }

    /// Asks the client on the call's stream; true if it gave the right answer.
    async fn ask(&self, call: &Call<'_>, wire: &mut Wire) -> io::Result<bool> {
        let id = format!("ask-{}", call.tag);
        let (sender, answer) = oneshot::channel();
        self.questions.lock().unwrap().insert(id.clone(), sender);
        wire.send(chunk(&event(None, &call.question_message(&id))).as_bytes()).await?;
        let answer = tokio::select! {
            answer = timeout(ANSWER_MAX, answer) => answer.ok().and_then(Result::ok),
            () = wire.closed() => None,
        };
        self.questions.lock().unwrap().remove(&id);
        Ok(answer.is_some_and(|answer| self.is_accepted(call, &answer)))
    }
}

fn listen_again(address: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    let socket = TcpSocket::new_v4()?;
    socket.set_reuseaddr(true)?;
    socket.bind(address)?;
    socket.listen(1024)
}
