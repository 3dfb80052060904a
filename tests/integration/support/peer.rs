//! A server that answers handshakes and lists by itself and calls by a script.

use std::collections::VecDeque;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::PATIENCE;
use super::script::{After, Gate, Step, answer};

/// The server. It lives as long as the test process.
#[derive(Clone)]
pub struct Peer {
    pub address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

#[derive(Default)]
struct State {
    scripts: VecDeque<Vec<Step>>,
    /// Likewise, for requests for an event stream of a session.
    streams: VecDeque<Vec<Step>>,
    /// Whether they are for sessions of clients only, and which those are.
    streams_of_clients: bool,
    of_clients: Vec<usize>,
    /// Likewise, for those that go on where one broke.
    resumptions: VecDeque<Vec<Step>>,
    seen: Vec<Seen>,
    /// Connections that the gateway closed, and when that was noticed.
    closed: Vec<(usize, Instant)>,
    /// How many connections scripts have ended.
    ended: usize,
    connections: usize,
    sent: usize,
    /// Sessions opened; those before `lost` are unknown, with that status.
    sessions: usize,
    lost: usize,
    lost_status: &'static str,
    /// Whether lists and handshakes are answered.
    silent: bool,
    /// The method whose requests are not answered.
    held: Option<&'static str>,
    refused: Option<&'static str>,
    /// The whole answer to `tools/list`, in place of the usual one.
    tools: Option<String>,
    /// What makes the result of `tools/list`, of the request and its message.
    lists: Option<Lists>,
    /// What `initialize` is answered behind.
    opening: Option<Gate>,
    offer: Offer,
    /// What is sent right behind each answer to a call.
    surplus: Vec<u8>,
}

/// What it has besides tools.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Offer {
    #[default]
    Nothing,
    /// Resources, none of which it lists. It takes a log level, too.
    HiddenResources,
    /// The prompt `greet`, the resource `x://listed`, and a resource whose URI is long.
    Items,
}

impl Offer {
    fn capabilities(self) -> Value {
        match self {
            Self::Nothing => json!({"tools": {}}),
            Self::HiddenResources => json!({"tools": {}, "resources": {}, "logging": {}}),
            Self::Items => json!({"tools": {}, "resources": {}, "prompts": {}}),
        }
    }

    fn resources(self) -> Value {
        let uris = match self {
            Self::Items => vec!["x://listed".to_owned(), format!("x://{}", "y".repeat(296))],
            Self::Nothing | Self::HiddenResources => Vec::new(),
        };
        let items = uris.iter().enumerate().map(|(at, uri)| json!({"uri": uri, "name": at.to_string()}));
        json!({"resources": items.collect::<Vec<_>>(), "resultType": "complete"})
    }
}

type Lists = Box<dyn Fn(&Seen, &Value) -> Value + Send>;

/// A request as it came.
#[derive(Clone, Debug)]
pub struct Seen {
    /// Which connection it came on, from 0.
    pub connection: usize,
    /// Request line and headers.
    pub head: String,
    pub body: Vec<u8>,
    /// Of its message.
    method: String,
}

impl Seen {
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(other, _)| other.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    /// The raw id of its message.
    fn id(&self) -> String {
        let message: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        message["id"].to_string()
    }

    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    /// Whether it is of that method.
    pub fn is(&self, method: &str) -> bool {
        self.method == method
    }

    /// Whether it is none of those that a gateway sends of its own accord.
    pub fn is_call(&self) -> bool {
        const OWN: [&str; 9] = [
            "server/discover",
            "initialize",
            "notifications/initialized",
            "tools/list",
            "prompts/list",
            "resources/list",
            "resources/templates/list",
            "subscriptions/listen",
            "ping",
        ];
        self.head.starts_with("POST ") && !OWN.contains(&self.method.as_str())
    }
}

impl Peer {
    /// Each call is answered by the next script; those after the last are echoed.
    pub fn script(scripts: impl IntoIterator<Item = Vec<Step>>) -> Self {
        let peer = Self::start(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap());
        peer.push(scripts);
        peer
    }

    /// Answers nothing at all, not even a handshake.
    pub fn hanging() -> Self {
        let peer = Self::script([]);
        peer.edit(|state| state.silent = true);
        peer
    }

    pub fn push(&self, scripts: impl IntoIterator<Item = Vec<Step>>) {
        self.edit(|state| state.scripts.extend(scripts));
    }

    /// The next requests for an event stream of a session are answered so; those after the last are refused.
    pub fn push_streams(&self, scripts: impl IntoIterator<Item = Vec<Step>>) {
        self.edit(|state| state.streams.extend(scripts));
    }

    /// Likewise, of sessions that are clients': the gateway has some of its own.
    pub fn push_streams_of_clients(&self, scripts: impl IntoIterator<Item = Vec<Step>>) {
        self.edit(|state| state.streams_of_clients = true);
        self.push_streams(scripts);
    }

    /// The next requests for what followed in a stream that broke are answered so; those after the last are refused.
    pub fn push_resumptions(&self, scripts: impl IntoIterator<Item = Vec<Step>>) {
        self.edit(|state| state.resumptions.extend(scripts));
    }

    /// Forgets the scripts for resumptions that are left.
    pub fn clear_resumptions(&self) {
        self.edit(|state| state.resumptions.clear());
    }

    /// Answers `tools/list` so.
    pub fn list_tools(&self, message: &str) {
        self.edit(|state| state.tools = Some(message.to_owned()));
    }

    /// Answers each `tools/list` with a result made for it.
    pub fn list_by(&self, lists: impl Fn(&Seen, &Value) -> Value + Send + 'static) {
        self.edit(|state| state.lists = Some(Box::new(lists)));
    }

    /// Lists the prompt `greet`, the resource `x://listed`, and one whose URI has 300 characters.
    pub fn list_items(&self) {
        self.edit(|state| state.offer = Offer::Items);
    }

    /// Has resources that it does not list: reading one is a call.
    pub fn hide_resources(&self) {
        self.edit(|state| state.offer = Offer::HiddenResources);
    }

    /// From now on, answers no request of this method.
    pub fn hold(&self, method: &'static str) {
        self.edit(|state| state.held = Some(method));
    }

    /// From now on, answers requests of this method with 404, in whichever session.
    pub fn refuse(&self, method: &'static str) {
        self.edit(|state| state.refused = Some(method));
    }

    /// Answers `initialize` only when the gate is open.
    pub fn open_behind(&self, gate: &Gate) {
        self.edit(|state| state.opening = Some(gate.clone()));
    }

    /// Sends these bytes right behind each answer to a call that no script answers.
    pub fn send_behind_answers(&self, surplus: &[u8]) {
        self.edit(|state| state.surplus = surplus.to_vec());
    }

    /// Forgets all sessions; requests within them are answered with this status.
    pub fn lose_sessions(&self, status: &'static str) {
        self.edit(|state| (state.lost, state.lost_status) = (state.sessions, status));
    }

    /// The calls that came, in order.
    pub fn calls(&self) -> Vec<Seen> {
        self.edit(|state| state.seen.iter().filter(|seen| seen.is_call()).cloned().collect())
    }

    /// Everything that came, as text.
    pub fn all(&self) -> Vec<Seen> {
        self.edit(|state| state.seen.clone())
    }

    /// How many messages of that method came.
    pub fn count(&self, method: &str) -> usize {
        self.edit(|state| state.seen.iter().filter(|seen| seen.is(method)).count())
    }

    /// How many bytes scripts have sent.
    pub fn sent(&self) -> usize {
        self.edit(|state| state.sent)
    }

    pub fn connections(&self) -> usize {
        self.edit(|state| state.connections)
    }

    /// Waits until so many calls came.
    #[track_caller]
    pub fn wait_calls(&self, count: usize) {
        self.wait("calls", |state| state.seen.iter().filter(|seen| seen.is_call()).count() >= count);
    }

    /// How many connections scripts have ended.
    pub fn ended(&self) -> usize {
        self.edit(|state| state.ended)
    }

    /// Waits until scripts have ended so many connections.
    #[track_caller]
    pub fn wait_ended(&self, count: usize) {
        self.wait("connections to be ended", |state| state.ended >= count);
    }

    /// Waits until that holds, as more comes.
    #[track_caller]
    pub fn wait_until(&self, what: &str, holds: impl Fn(&Self) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < deadline, "waited in vain for {what}");
            let guard = self.state.0.lock().unwrap();
            drop(self.state.1.wait_timeout(guard, QUIET).unwrap());
        }
    }

    /// Waits until nothing was sent for a while: whoever should read does not.
    pub fn wait_quiet(&self) {
        let mut guard = self.state.0.lock().unwrap();
        loop {
            let before = guard.sent;
            let moved = |state: &mut State| state.sent == before;
            let (next, waited) = self.state.1.wait_timeout_while(guard, QUIET, moved).unwrap();
            if waited.timed_out() {
                return;
            }
            guard = next;
        }
    }

    /// Waits until the gateway closed that connection, and says when.
    #[track_caller]
    pub fn wait_closed(&self, connection: usize) -> Instant {
        let closed =
            move |state: &State| state.closed.iter().find(|(other, _)| *other == connection).copied();
        self.wait("a closed connection", |state| closed(state).is_some());
        self.edit(|state| closed(state).unwrap().1)
    }

    #[track_caller]
    fn wait(&self, what: &str, mut reached: impl FnMut(&State) -> bool) {
        let guard = self.state.0.lock().unwrap();
        let (_guard, waited) =
            self.state.1.wait_timeout_while(guard, PATIENCE, |state| !reached(state)).unwrap();
        assert!(!waited.timed_out(), "waited in vain for {what}");
    }

    fn edit<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let outcome = change(&mut self.state.0.lock().unwrap());
        self.state.1.notify_all();
        outcome
    }

    /// Listens there.
    pub fn start(listener: TcpListener) -> Self {
        let address = listener.local_addr().unwrap();
        let peer = Self { address, state: Arc::default() };
        let accepting = peer.clone();
        thread::spawn(move || {
            for stream in listener.incoming() {
                let (Ok(stream), peer) = (stream, accepting.clone()) else { return };
                let connection = peer.edit(|state| {
                    state.connections += 1;
                    state.connections - 1
                });
                thread::spawn(move || peer.serve(stream, connection));
            }
        });
        peer
    }

    fn serve(&self, mut stream: TcpStream, connection: usize) {
        stream.set_nodelay(true).unwrap();
        while let Some(seen) = read(&mut stream, connection) {
            // At once: who waits for a call may send the next one, and each is to have its own script.
            let steps = self.edit(|state| {
                state.seen.push(seen.clone());
                state.steps(&seen)
            });
            for step in steps {
                let step = match step {
                    Step::Answer(message) => {
                        Step::Send(answer("200 OK", &message.replace("@id", &seen.id())))
                    }
                    step => step,
                };
                match step.run(&mut stream, |count| self.edit(|state| state.sent += count)) {
                    After::Open => {}
                    After::Closed => {
                        drop(stream);
                        self.edit(|state| state.ended += 1);
                        return;
                    }
                    After::ClosedByGateway => {
                        self.edit(|state| state.closed.push((connection, Instant::now())));
                        return;
                    }
                }
            }
        }
        self.edit(|state| state.closed.push((connection, Instant::now())));
    }
}

impl State {
    fn steps(&mut self, seen: &Seen) -> Vec<Step> {
        if self.silent || self.held.is_some_and(|method| seen.is(method)) {
            return vec![Step::Hold];
        }
        if self.refused.is_some_and(|method| seen.is(method)) {
            return vec![Step::Send(answer("404 Not Found", ""))];
        }
        let session: Option<usize> =
            seen.header("mcp-session-id").and_then(|id| id.strip_prefix("peer-")?.parse().ok());
        if seen.header("last-event-id").is_some()
            && let Some(steps) = self.resumptions.pop_front()
        {
            return steps;
        }
        let is_clients = session.is_some_and(|session| self.of_clients.contains(&session));
        if seen.head.starts_with("GET ")
            && (!self.streams_of_clients || is_clients)
            && let Some(steps) = self.streams.pop_front()
        {
            return steps;
        }
        if !seen.head.starts_with("POST ") {
            return vec![Step::Send(answer("405 Method Not Allowed", ""))];
        }
        if session.is_some_and(|number| number < self.lost) {
            let body = r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32000,"message":"no such session"}}"#;
            return vec![Step::Send(answer(self.lost_status, body))];
        }
        if seen.is_call()
            && let Some(steps) = self.scripts.pop_front()
        {
            return steps;
        }
        let mut answer = self.by_itself(seen);
        if seen.is_call() {
            answer.extend_from_slice(&self.surplus);
        }
        let opening = self.opening.clone().filter(|_| seen.is("initialize")).map(Step::Wait);
        opening.into_iter().chain([Step::Send(answer)]).collect()
    }

    /// What an ordinary server would say.
    fn by_itself(&mut self, seen: &Seen) -> Vec<u8> {
        let message: Value = serde_json::from_slice(&seen.body).unwrap_or_default();
        let id = &message["id"];
        if id.is_null() {
            return answer("202 Accepted", "");
        }
        let capabilities = self.offer.capabilities();
        let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
        let result = match message["method"].as_str().unwrap_or_default() {
            "server/discover" => json!({
                "resultType": "complete",
                "supportedVersions": ["2026-07-28"],
                "capabilities": capabilities,
                "serverInfo": {"name": "peer", "version": "1"},
            }),
            "initialize" => {
                let result = json!({
                    "protocolVersion": "2025-11-25",
                    "capabilities": capabilities,
                    "serverInfo": {"name": "peer", "version": "1"},
                });
                let body = json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string();
                if message["params"]["clientInfo"]["name"] == "test" {
                    self.of_clients.push(self.sessions);
                }
                self.sessions += 1;
                return format!(
                    "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nMcp-Session-Id: peer-{}\r\n\
                     Content-Length: {}\r\n\r\n{body}",
                    self.sessions - 1,
                    body.len(),
                )
                .into_bytes();
            }
            "tools/list" if self.tools.is_some() => {
                return answer("200 OK", self.tools.as_deref().unwrap_or_default());
            }
            "tools/list" if self.lists.is_some() => {
                self.lists.as_ref().map(|lists| lists(seen, &message)).unwrap_or_default()
            }
            "tools/list" => json!({"tools": [tool("echo"), tool("other")], "resultType": "complete"}),
            "prompts/list" => json!({"prompts": [{"name": "greet"}], "resultType": "complete"}),
            "resources/list" => self.offer.resources(),
            "resources/templates/list" => json!({"resourceTemplates": [], "resultType": "complete"}),
            "ping" => json!({}),
            "logging/setLevel" | "resources/subscribe"
                if message["params"].to_string().contains("refused") =>
            {
                let error = json!({"code": -32602, "message": "not that"});
                let body = json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string();
                return answer("200 OK", &body);
            }
            "subscriptions/listen" => {
                let error = json!({"code": -32601, "message": "not here"});
                let body = json!({"jsonrpc": "2.0", "id": id, "error": error}).to_string();
                return answer("404 Not Found", &body);
            }
            _ => json!({
                "content": [{"type": "text", "text": message["params"]["arguments"].to_string()}],
                "resultType": "complete",
            }),
        };
        answer("200 OK", &json!({"jsonrpc": "2.0", "id": id, "result": result}).to_string())
    }
}

/// A sender that has not moved in this time waits for its reader.
const QUIET: Duration = Duration::from_millis(500);

/// One request with its body, which a gateway frames by Content-Length; `None` at the end.
fn read(stream: &mut TcpStream, connection: usize) -> Option<Seen> {
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
    // Field values need not be UTF-8.
    let head = String::from_utf8_lossy(&bytes).into_owned();
    let mut seen = Seen { connection, head, body: Vec::new(), method: String::new() };
    let length: usize = seen.header("content-length").map_or(0, |length| length.parse().unwrap());
    assert!(
        body.len() <= length,
        "more came than the Content-Length said: {}",
        String::from_utf8_lossy(&body)
    );
    let begun = body.len();
    body.resize(length, 0);
    stream.read_exact(&mut body[begun..]).ok()?;
    let message: Value = serde_json::from_slice(&body).unwrap_or_default();
    message["method"].as_str().unwrap_or_default().clone_into(&mut seen.method);
    seen.body = body;
    stream.flush().ok()?;
    Some(seen)
}
