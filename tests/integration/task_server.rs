//! A server with tasks, of either era: what is called goes on until it is told to end. Test equipment.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{self, Sender};
use std::sync::{Arc, Mutex};
use std::thread;

use serde_json::{Value, json};

/// The extension of the Modern era.
pub const EXTENSION: &str = "io.modelcontextprotocol/tasks";

const RELATED: &str = "io.modelcontextprotocol/related-task";

/// The server. It lives as long as the test process.
#[derive(Clone)]
pub struct Server {
    pub address: SocketAddr,
    modern: bool,
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    sessions: usize,
    /// By session and id: what it says of itself. One of the Modern era has no session.
    tasks: Vec<(String, String, Value)>,
    /// Who listens: by session, or by the id of the subscription.
    streams: HashMap<String, Sender<String>>,
    /// Who waits for the answer to what was asked under that id.
    asked: HashMap<String, Sender<Value>>,
    /// Every `Mcp-Name` that came.
    names: Vec<String>,
}

impl Server {
    pub fn start(modern: bool) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let server = Self { address: listener.local_addr().unwrap(), modern, state: Arc::default() };
        let accepting = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let server = accepting.clone();
                thread::spawn(move || server.serve(stream));
            }
        });
        server
    }

    pub fn names(&self) -> Vec<String> {
        self.state.lock().unwrap().names.clone()
    }

    fn serve(&self, mut stream: TcpStream) {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some((head, body)) = read(&mut reader) {
            let session = header(&head, "mcp-session-id").unwrap_or_default();
            self.state.lock().unwrap().names.extend(header(&head, "mcp-name"));
            if head.starts_with("GET ") {
                return self.listen(&mut stream, session, None);
            }
            let message: Value = serde_json::from_slice(&body).unwrap_or_default();
            if head.starts_with("DELETE ") || message["id"].is_null() || message["method"].is_null() {
                self.answered(&message);
                drop(stream.write_all(b"HTTP/1.1 202 Accepted\r\nContent-Length: 0\r\n\r\n"));
                continue;
            }
            match message["method"].as_str().unwrap() {
                "subscriptions/listen" => {
                    let id = message["id"].clone();
                    let ack = json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged", "params": {
                        "_meta": {"io.modelcontextprotocol/subscriptionId": id},
                        "notifications": message["params"]["notifications"],
                    }});
                    return self.listen(&mut stream, id.to_string(), Some(&ack));
                }
                "tasks/result" if !self.modern && self.task(&session, &message).is_some() => {
                    return self.result(&mut stream, &session, &message);
                }
                _ => {}
            }
            let (outcome, opened) = self.answer(&session, &message);
            let member = if outcome["code"].is_null() { "result" } else { "error" };
            let body = json!({"jsonrpc": "2.0", "id": message["id"], member: outcome}).to_string();
            let opened = opened.map(|id| format!("Mcp-Session-Id: {id}\r\n")).unwrap_or_default();
            let head = format!(
                "HTTP/1.1 200 OK\r\n{opened}Content-Type: application/json\r\nContent-Length: {}\r\n\r\n",
                body.len()
            );
            drop(stream.write_all(format!("{head}{body}").as_bytes()));
        }
    }

    /// An event stream, until the other side has gone.
    fn listen(&self, stream: &mut TcpStream, key: String, first: Option<&Value>) {
        let (sender, events) = mpsc::channel();
        self.state.lock().unwrap().streams.insert(key, sender);
        drop(stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n"));
        let first = first.map(Value::to_string);
        for event in first.into_iter().chain(events) {
            if stream.write_all(format!("data: {event}\n\n").as_bytes()).is_err() {
                return;
            }
        }
    }

    fn answered(&self, message: &Value) {
        let asked = message["id"].as_str().and_then(|id| self.state.lock().unwrap().asked.remove(id));
        asked.map(|asked| asked.send(message.clone()));
    }

    fn task(&self, session: &str, message: &Value) -> Option<Value> {
        let state = self.state.lock().unwrap();
        let own =
            |(of, id, _): &&(String, String, Value)| of == session && message["params"]["taskId"] == **id;
        state.tasks.iter().find(own).map(|(_, _, task)| task.clone())
    }

    /// The result of a task, for which it asks the client something first.
    fn result(&self, stream: &mut TcpStream, session: &str, message: &Value) {
        let id = &message["params"]["taskId"];
        let meta = json!({RELATED: {"taskId": id}});
        let (sender, answer) = mpsc::channel();
        let asked = format!("ask-{session}-{id}");
        self.state.lock().unwrap().asked.insert(asked.clone(), sender);
        let params = json!({"message": "Go on?", "requestedSchema": {"type": "object"}, "_meta": meta});
        let question =
            json!({"jsonrpc": "2.0", "id": asked, "method": "elicitation/create", "params": params});
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
        drop(stream.write_all(format!("{head}data: {question}\n\n").as_bytes()));
        let Ok(answer) = answer.recv() else { return };
        let text = answer["result"].to_string();
        let result = json!({"content": [{"type": "text", "text": text}], "_meta": meta});
        let message = json!({"jsonrpc": "2.0", "id": message["id"], "result": result});
        drop(stream.write_all(format!("data: {message}\n\n").as_bytes()));
    }

    /// The result or error, and the session that it opens.
    fn answer(&self, session: &str, message: &Value) -> (Value, Option<String>) {
        let params = &message["params"];
        let unknown = || json!({"code": -32602, "message": "Unknown task"});
        let outcome = match (message["method"].as_str().unwrap(), self.modern) {
            ("initialize", false) => {
                let mut state = self.state.lock().unwrap();
                state.sessions += 1;
                let tasks = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
                let result = json!({
                    "protocolVersion": "2025-11-25",
                    "capabilities": {"tools": {}, "tasks": tasks},
                    "serverInfo": {"name": "tasks", "version": "1"},
                });
                return (result, Some(format!("s{}", state.sessions)));
            }
            ("server/discover", true) => json!({
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"tools": {}, "extensions": {EXTENSION: {}}},
            }),
            ("tools/list", _) => {
                let tool = json!({"name": "slow", "inputSchema": {"type": "object"}, "execution": {"taskSupport": "optional"}});
                json!({"tools": [tool], "ttlMs": 0, "cacheScope": "public"})
            }
            ("tools/call", _) => self.call(session, params),
            ("tasks/list", false) => self.list(session, params),
            ("tasks/get", _) => self.task(session, message).unwrap_or_else(unknown),
            ("tasks/update", true) => match self.task(session, message) {
                Some(mut task) => {
                    task["status"] = json!("completed");
                    task["result"] = params["inputResponses"].clone();
                    self.tell("notifications/tasks", &task);
                    json!({})
                }
                None => unknown(),
            },
            ("tasks/cancel", modern) => match self.task(session, message) {
                Some(_) if modern => json!({}),
                Some(mut task) => {
                    task["status"] = json!("cancelled");
                    self.tell("notifications/tasks/status", &task);
                    task
                }
                None => unknown(),
            },
            _ => json!({"code": -32601, "message": "Method not found"}),
        };
        let mut outcome = outcome;
        if self.modern && outcome["code"].is_null() && outcome["resultType"].is_null() {
            outcome["resultType"] = json!("complete");
        }
        (outcome, None)
    }

    fn call(&self, session: &str, params: &Value) -> Value {
        let declared =
            &params["_meta"]["io.modelcontextprotocol/clientCapabilities"]["extensions"][EXTENSION];
        if params["task"].is_null() && declared.is_null() {
            return json!({"content": [{"type": "text", "text": "at once"}]});
        }
        let mut state = self.state.lock().unwrap();
        // Alike at every server, and in every session.
        let id = format!("t{}", 1 + state.tasks.iter().filter(|(of, ..)| of == session).count());
        let mut task = json!({"taskId": id, "status": "working", "createdAt": "2026-11-21T00:00:00Z",
            "lastUpdatedAt": "2026-11-21T00:00:00Z"});
        task[if self.modern { "ttlMs" } else { "ttl" }] = json!(60_000);
        state.tasks.push((session.to_owned(), id, task.clone()));
        if !self.modern {
            return json!({"task": task});
        }
        task["resultType"] = json!("task");
        task
    }

    /// One on each page.
    fn list(&self, session: &str, params: &Value) -> Value {
        let at: usize = params["cursor"].as_str().map_or(0, |cursor| cursor.parse().unwrap());
        let state = self.state.lock().unwrap();
        let own: Vec<_> = state.tasks.iter().filter(|(of, ..)| of == session).collect();
        let page: Vec<_> = own.iter().skip(at).take(1).map(|(_, _, task)| task.clone()).collect();
        let mut result = json!({"tasks": page});
        if at + 1 < own.len() {
            result["nextCursor"] = json!((at + 1).to_string());
        }
        result
    }

    /// Says on every stream what became of a task.
    fn tell(&self, method: &str, task: &Value) {
        for (key, stream) in &self.state.lock().unwrap().streams {
            let mut params = task.clone();
            if self.modern {
                let id: Value = serde_json::from_str(key).unwrap();
                params["_meta"] = json!({"io.modelcontextprotocol/subscriptionId": id});
            }
            drop(stream.send(json!({"jsonrpc": "2.0", "method": method, "params": params}).to_string()));
        }
    }
}

fn header(head: &str, name: &str) -> Option<String> {
    let lines = head.lines().filter_map(|line| line.split_once(": "));
    lines.into_iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.to_owned())
}

/// The head of a request, and its body.
fn read(reader: &mut impl BufRead) -> Option<(String, Vec<u8>)> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        reader.read_line(&mut head).ok().filter(|count| *count > 0)?;
    }
    let length = header(&head, "content-length").map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some((head, body))
}
