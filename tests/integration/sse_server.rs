//! A server of the transport of 2024-11-05, that can misbehave in the ways that real ones do. Test equipment.

use std::collections::{HashMap, HashSet};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::PATIENCE;

/// The server. It lives as long as the test process.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    shared: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    ways: Ways,
    sessions: HashMap<usize, TcpStream>,
    opened: usize,
    gets: usize,
    /// Every message that came in a session, with that, and the head that it came with.
    seen: Vec<(usize, Value, String)>,
    /// Texts of the calls of `canary`, and how often each came: these are too many to keep them as they came.
    canaries: HashMap<String, usize>,
    /// The sessions that these came in.
    canary_sessions: HashSet<usize>,
    /// Streams that the other side closed.
    closed: usize,
}

/// How it is.
#[derive(Clone)]
pub struct Ways {
    /// The first event, with `N` for the number of the session; nothing: none.
    pub first: String,
    /// What a GET is answered, where that is no event stream.
    pub get: Option<&'static str>,
    /// The head of its event streams.
    pub head: &'static str,
    /// What a POST is answered by a server that has no such tool as `refused`.
    pub refusal: &'static str,
    /// Whether `notifications/initialized` is not answered for now.
    pub holds_initialized: bool,
}

impl Default for Ways {
    fn default() -> Self {
        Self {
            first: "event: endpoint\ndata: /message?sessionId=N\n\n".into(),
            get: None,
            head: "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n",
            refusal: "500 Internal Server Error",
            holds_initialized: false,
        }
    }
}

impl Server {
    pub fn start() -> Self {
        Self::with(Ways::default())
    }

    pub fn with(ways: Ways) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self { address: listener.local_addr().unwrap(), shared: Arc::default() };
        server.edit(|state| state.ways = ways);
        let accepting = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), server) = (stream, accepting.clone()) else { return };
                thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    /// Forgets all sessions and ends their streams, as when it is started anew.
    pub fn restart(&self) {
        self.edit(|state| {
            for (_, stream) in state.sessions.drain() {
                drop(stream.shutdown(Shutdown::Both));
            }
        });
    }

    /// Forgets all sessions, and leaves their streams open.
    pub fn forget(&self) {
        let sessions = self.edit(|state| std::mem::take(&mut state.sessions));
        // They stay open as long as the process.
        std::mem::forget(sessions);
    }

    pub fn change(&self, change: impl FnOnce(&mut Ways)) {
        self.edit(|state| change(&mut state.ways));
    }

    /// Sessions opened so far.
    pub fn opened(&self) -> usize {
        self.edit(|state| state.opened)
    }

    /// Event streams asked for so far.
    pub fn gets(&self) -> usize {
        self.edit(|state| state.gets)
    }

    /// Says something on every open stream.
    pub fn say(&self, message: &Value) {
        let sessions: Vec<usize> = self.edit(|state| state.sessions.keys().copied().collect());
        for session in sessions {
            self.send(session, message);
        }
    }

    /// The messages of that method, with the number of their sessions.
    pub fn seen(&self, method: &str) -> Vec<(usize, Value)> {
        let all = self.edit(|state| state.seen.clone());
        let of_method = all.into_iter().filter(|(_, message, _)| message["method"] == method);
        of_method.map(|(session, message, _)| (session, message)).collect()
    }

    /// All messages.
    pub fn seen_all(&self) -> Vec<Value> {
        self.edit(|state| state.seen.iter().map(|(_, message, _)| message.clone()).collect())
    }

    /// The head of the first request of that method.
    pub fn head_of(&self, method: &str) -> String {
        let all = self.edit(|state| state.seen.clone());
        let found = all.into_iter().find(|(_, message, _)| message["method"] == method);
        found.map(|(_, _, head)| head).unwrap_or_default()
    }

    /// How often each canary was called, and in which sessions.
    pub fn canaries(&self) -> (HashMap<String, usize>, HashSet<usize>) {
        self.edit(|state| (std::mem::take(&mut state.canaries), std::mem::take(&mut state.canary_sessions)))
    }

    /// Waits until that holds.
    #[track_caller]
    pub fn wait(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let mut guard = self.shared.0.lock().unwrap();
        let begun = std::time::Instant::now();
        loop {
            drop(guard);
            if holds(self) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "waited in vain for {what}");
            guard = self.shared.0.lock().unwrap();
            guard = self.shared.1.wait_timeout(guard, Duration::from_millis(20)).unwrap().0;
        }
    }

    /// Streams that the other side closed.
    pub fn closed(&self) -> usize {
        self.edit(|state| state.closed)
    }

    fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.shared.0.lock().unwrap());
        self.shared.1.notify_all();
        outcome
    }

    fn serve(&self, mut stream: TcpStream) {
        stream.set_nodelay(true).unwrap();
        while let Some((head, body)) = read(&mut stream) {
            if head.starts_with("GET ") {
                return self.open(stream, &head);
            }
            let taken = self.post(&head, &body, &mut stream);
            let (status, text) = taken.err().unwrap_or(("202 Accepted", "Accepted"));
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n\r\n{text}", text.len());
            if stream.write_all(answer.as_bytes()).is_err() {
                return;
            }
        }
    }

    /// An event stream, as long as either side holds it.
    fn open(&self, mut stream: TcpStream, head: &str) {
        let ways = self.edit(|state| {
            state.gets += 1;
            state.ways.clone()
        });
        if !head.starts_with("GET /sse") {
            drop(
                stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            );
            return;
        }
        if let Some(status) = ways.get {
            let answer = format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
            drop(stream.write_all(answer.as_bytes()));
            return;
        }
        let session = self.edit(|state| {
            state.opened += 1;
            state.sessions.insert(state.opened, stream.try_clone().unwrap());
            state.seen.push((state.opened, json!({"method": "GET"}), head.to_owned()));
            state.opened
        });
        let first = ways.first.replace('N', &session.to_string());
        drop(stream.write_all(format!("{}{first}", ways.head).as_bytes()));
        // Nothing comes on it any more but its end.
        drop(stream.read(&mut [0]));
        self.edit(|state| {
            state.sessions.remove(&session);
            state.closed += 1;
        });
    }

    fn post(
        &self,
        head: &str,
        body: &[u8],
        stream: &mut TcpStream,
    ) -> Result<(), (&'static str, &'static str)> {
        let target = head.split(' ').nth(1).unwrap_or_default();
        let Some(session) = target.strip_prefix("/message?sessionId=").and_then(|text| text.parse().ok())
        else {
            return Err(("405 Method Not Allowed", ""));
        };
        let Ok(message) = serde_json::from_slice::<Value>(body) else {
            return Err(("400 Bad Request", "no JSON"));
        };
        let refusal = self.edit(|state| {
            let is_known = state.sessions.contains_key(&session);
            if is_known && message["params"]["name"] == "canary" {
                let text = message["params"]["arguments"]["text"].as_str().unwrap_or_default();
                // What is behind its number is there to be compared, and much.
                let short = text.trim_end_matches('x').to_owned();
                *state.canaries.entry(short).or_default() += 1;
                state.canary_sessions.insert(session);
            } else if is_known {
                state.seen.push((session, message.clone(), head.to_owned()));
            }
            is_known.then_some(state.ways.refusal)
        });
        let Some(refusal) = refusal else { return Err(("404 Not Found", "no such session")) };
        if message["method"] == "notifications/initialized" {
            self.wait("the release of the handshake", |server| {
                server.edit(|state| !state.ways.holds_initialized)
            });
        }
        match message["params"]["name"].as_str() {
            Some("refused") => {
                return Err((
                    refusal,
                    r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32600,"message":"not so"}}"#,
                ));
            }
            Some("drop") => {
                drop(stream.shutdown(Shutdown::Both));
                return Ok(());
            }
            // The answer is there before the message was taken.
            Some("early") => self.take(session, &message),
            _ => {
                let server = self.clone();
                thread::spawn(move || server.take(session, &message));
            }
        }
        Ok(())
    }

    fn take(&self, session: usize, message: &Value) {
        let (id, params) = (&message["id"], &message["params"]);
        if params["clientInfo"]["name"] == "unwelcome" {
            let error = json!({"code": -32602, "message": "not you"});
            return self.send(session, &json!({"jsonrpc": "2.0", "id": id, "error": error}));
        }
        let result = match message["method"].as_str() {
            Some("initialize") => json!({
                "protocolVersion": "2024-11-05",
                "capabilities": {"tools": {"listChanged": true}, "logging": {}},
                "serverInfo": {"name": "old", "version": "1"},
                "instructions": format!("session {session}"),
            }),
            Some("tools/list") => {
                let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
                let names = [
                    "echo", "progress", "ask", "hang", "break", "refused", "drop", "twice", "log", "early",
                    "canary",
                ];
                let all = names.into_iter().chain(["inquire"]).map(tool);
                json!({"tools": all.collect::<Vec<_>>()})
            }
            Some("ping" | "logging/setLevel") => json!({}),
            Some("tools/call") => match self.call(session, id, params) {
                Some(text) => json!({"content": [{"type": "text", "text": text}]}),
                None => return,
            },
            // The rest has no answer; of those that were answers, `ask` looks for its own.
            _ => return,
        };
        self.send(session, &json!({"jsonrpc": "2.0", "id": id, "result": result}));
    }

    fn call(&self, session: usize, id: &Value, params: &Value) -> Option<String> {
        let arguments = &params["arguments"];
        match params["name"].as_str().unwrap_or_default() {
            "progress" => {
                for step in 0..arguments["steps"].as_u64().unwrap_or(3) {
                    let token = &params["_meta"]["progressToken"];
                    let told = json!({"progressToken": token, "progress": step});
                    self.send(
                        session,
                        &json!({"jsonrpc": "2.0", "method": "notifications/progress", "params": told}),
                    );
                }
                Some("done".into())
            }
            "ask" => {
                self.send(session, &json!({"jsonrpc": "2.0", "id": "s-1", "method": "roots/list"}));
                let answer = |server: &Self| {
                    let seen = server.edit(|state| state.seen.clone());
                    seen.into_iter().find(|(at, message, _)| *at == session && message["id"] == "s-1")
                };
                self.wait("the answer of a client", |server| answer(server).is_some());
                answer(self).map(|(_, message, _)| message.to_string())
            }
            "inquire" => Some(self.inquire(session, id, arguments)),
            "hang" => None,
            "break" => {
                let stream = self.edit(|state| state.sessions.remove(&session));
                drop(stream.map(|stream| stream.shutdown(Shutdown::Both)));
                None
            }
            "twice" => {
                // An answer to nothing, one that is no message, and its own in one piece with a second of its
                // kind.
                let answer = |id: &Value, text: &str| {
                    let content = json!([{"type": "text", "text": text}]);
                    let message = json!({"jsonrpc": "2.0", "id": id, "result": {"content": content}});
                    format!("event: message\r\ndata: {message}\r\n\r\n")
                };
                let all = [
                    answer(&json!(987_654), "foreign"),
                    answer(&json!("0"), "foreign"),
                    ": comment\n\nevent: ping\ndata: x\n\ndata: {\"no\": \"message\"}\n\nevent: endpoint\ndata: /evil\n\n"
                        .into(),
                    answer(id, "first"),
                    answer(id, "second"),
                ];
                self.write(session, all.concat().as_bytes());
                None
            }
            "log" => {
                let params = json!({"level": "info", "data": "logged"});
                self.send(
                    session,
                    &json!({"jsonrpc": "2.0", "method": "notifications/message", "params": params}),
                );
                Some("done".into())
            }
            _ => {
                let ms = arguments["ms"].as_u64().unwrap_or(0);
                thread::park_timeout(Duration::from_millis(ms));
                Some(arguments["text"].as_str().unwrap_or("none").to_owned())
            }
        }
    }

    /// Asks all of it, one after the other, and gives the answers.
    fn inquire(&self, session: usize, id: &Value, arguments: &Value) -> String {
        let questions = arguments["questions"].as_array().unwrap();
        let answers = questions.iter().enumerate().map(|(at, question)| {
            let asked = json!(format!("i{at}-{id}"));
            let mut request = question.clone();
            request["jsonrpc"] = json!("2.0");
            request["id"] = asked.clone();
            self.send(session, &request);
            let find = |server: &Self| {
                let seen = server.edit(|state| state.seen.clone());
                seen.into_iter().rfind(|(at, message, _)| *at == session && message["id"] == asked)
            };
            self.wait("the answer of a client", |server| find(server).is_some());
            find(self).map_or(Value::Null, |(_, message, _)| message)
        });
        Value::from(answers.collect::<Vec<_>>()).to_string()
    }

    fn send(&self, session: usize, message: &Value) {
        self.write(session, format!("event: message\ndata: {message}\n\n").as_bytes());
    }

    fn write(&self, session: usize, bytes: &[u8]) {
        // Under the lock, so that events do not mix.
        self.edit(|state| {
            if let Some(stream) = state.sessions.get_mut(&session) {
                drop(stream.write_all(bytes));
            }
        });
    }
}

/// One request: its head and its body. `None` at the end.
fn read(stream: &mut TcpStream) -> Option<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    let end = loop {
        if let Some(at) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            break at + 4;
        }
        let mut more = [0; 16 << 10];
        let count = stream.read(&mut more).ok().filter(|count| *count > 0)?;
        bytes.extend_from_slice(&more[..count]);
    };
    let mut body = bytes.split_off(end);
    let head = String::from_utf8(bytes).unwrap();
    let lower = head.to_ascii_lowercase();
    let length = lower.lines().find_map(|line| line.strip_prefix("content-length: "));
    let length: usize = length.map_or(0, |length| length.parse().unwrap());
    let begun = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[begun..]).ok()?;
    Some((head, body))
}
