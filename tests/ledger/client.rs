//! Clients: each sends its calls one after the other and records how each ended.

use std::collections::HashMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::{sleep, timeout};

use crate::http::{Head, Wire};
use crate::kind::Kind;
use crate::ledger::{Ledger, Outcome};
use crate::schedule::{Call, Plan};
use crate::server::{Era, Server};
use crate::support::{MODERN, PATIENCE};
use crate::tag::Tag;
use crate::work::Work;

/// What all clients share.
pub struct Shared {
    pub plan: Plan,
    pub ledger: Arc<Ledger>,
    pub servers: Vec<Arc<Server>>,
    pub keys: Vec<String>,
    /// Of the gateway; another one after it was started again.
    pub port: AtomicU16,
}

/// One client.
pub struct Client {
    shared: Arc<Shared>,
    number: u32,
    era: Era,
    key: String,
    wire: Option<Wire>,
    /// Of a Legacy client, by path.
    sessions: HashMap<String, String>,
    pad: String,
}

/// A message of the gateway.
#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    method: Option<&'a RawValue>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

/// Between two attempts to connect to a gateway that is started again.
const CONNECT_POLL: Duration = Duration::from_millis(20);

impl Client {
    pub fn new(shared: &Arc<Shared>, number: u32) -> Self {
        let key = shared.keys[number as usize % shared.keys.len()].clone();
        let pad = "0123456789abcdefghijklmnopqrstuv".repeat(1 << 10);
        let (shared, era) = (shared.clone(), Plan::era(number));
        Self { shared, number, era, key, wire: None, sessions: HashMap::new(), pad }
    }

    /// Sends all calls of this client, and ends its sessions.
    pub async fn run(mut self) {
        for sequence in 0..self.shared.plan.calls_each {
            let tag = Tag { client: self.number, sequence };
            let call = self.shared.plan.call(tag);
            let server = u8::try_from(call.server as usize % self.shared.servers.len()).unwrap_or_default();
            self.shared.ledger.begin(tag, call.kind, call.fault, server, call.is_aggregate);
            let outcome = timeout(PATIENCE, self.perform(&call)).await;
            let outcome = outcome.unwrap_or_else(|_| {
                self.wire = None;
                self.shared.ledger.report(Some(tag), format!("no outcome within {PATIENCE:?}"));
                Outcome::Missing
            });
            self.shared.ledger.finish(tag, outcome);
        }
        for (path, session) in std::mem::take(&mut self.sessions) {
            let request = format!(
                "DELETE {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nMcp-Session-Id: {session}\r\n\r\n",
                self.key
            );
            drop(timeout(PATIENCE, self.exchange(request.as_bytes())).await);
        }
    }

    async fn perform(&mut self, call: &Call) -> Outcome {
        let server = self.shared.servers[call.server as usize % self.shared.servers.len()].clone();
        let path =
            if call.is_aggregate { "/mcp".to_owned() } else { format!("/servers/{}/mcp", server.name) };
        let session = match self.era {
            Era::Modern => None,
            Era::Legacy => match self.session(&path, call).await {
                Some(session) => Some(session),
                None => return Outcome::Unsent,
            },
        };
        let tool = if call.is_aggregate { format!("{}__work", server.name) } else { "work".to_owned() };
        let seed = self.shared.plan.seed;
        let pad = &self.pad[..call.pad];
        let work = Work::new(call.tag, seed, call.kind, call.fault, call.number, pad);
        let expected = work.answer_text();
        let id = format!("\"{}\"", call.tag);
        let (method, name, params) = match call.kind {
            Kind::List => ("tools/list", None, String::new()),
            _ => ("tools/call", Some(&*tool), format!(r#""name":"{tool}","arguments":{}"#, work.json())),
        };
        let request = self.request(&path, session.as_deref(), &id, method, name, &params);
        let sent = self.exchange(request.as_bytes()).await;
        self.judge(call, &id, &expected, sent)
    }

    /// A request with all header fields.
    fn request(
        &self,
        path: &str,
        session: Option<&str>,
        id: &str,
        method: &str,
        name: Option<&str>,
        params: &str,
    ) -> String {
        let (headers, meta) = match session {
            Some(session) => {
                (format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n"), String::new())
            }
            None => {
                let name = name.map(|name| format!("Mcp-Name: {name}\r\n")).unwrap_or_default();
                let comma = if params.is_empty() { "" } else { "," };
                let meta = format!(
                    r#"{comma}"_meta":{{"io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{}}}}"#
                );
                (format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {method}\r\n{name}"), meta)
            }
        };
        let body =
            format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{meta}}}}}"#);
        self.post(path, &headers, &body)
    }

    fn post(&self, path: &str, headers: &str, body: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        )
    }

    /// The session at that path; `None` if none can be opened.
    async fn session(&mut self, path: &str, call: &Call) -> Option<String> {
        if let Some(session) = self.sessions.get(path) {
            return Some(session.clone());
        }
        let opening = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"2025-11-25","capabilities":{{}},"clientInfo":{{"name":"c{}","version":"1"}}}}}}"#,
            self.number
        );
        let request = self.post(path, "", &opening);
        let (head, body) = self.exchange(request.as_bytes()).await.ok()?;
        self.shared.ledger.check_canaries(call.tag, &body);
        let session = head.session.filter(|_| head.status == 200)?;
        let begun = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let headers = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
        let request = self.post(path, &headers, begun);
        self.exchange(request.as_bytes()).await.ok()?;
        self.sessions.insert(path.to_owned(), session.clone());
        Some(session)
    }

    async fn wire(&mut self) -> &mut Wire {
        while self.wire.is_none() {
            let port = self.shared.port.load(Ordering::Relaxed);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match Wire::connect(address).await {
                Ok(wire) => self.wire = Some(wire),
                Err(_) => sleep(CONNECT_POLL).await,
            }
        }
        self.wire.as_mut().expect("there is one now")
    }

    /// Sends a request and reads the whole response.
    async fn exchange(&mut self, request: &[u8]) -> io::Result<(Head, Vec<u8>)> {
        let wire = self.wire().await;
        let exchange = async {
            wire.send(request).await?;
            let head = wire.head().await?;
            let body = wire.body().await?;
            Ok((head, body))
        };
        let result: io::Result<(Head, Vec<u8>)> = exchange.await;
        if result.as_ref().map_or(true, |(head, _)| head.is_last) {
            self.wire = None;
        }
        result
    }

    /// What the response means for the call.
    fn judge(&mut self, call: &Call, id: &str, expected: &str, sent: io::Result<(Head, Vec<u8>)>) -> Outcome {
        let ledger = self.shared.ledger.clone();
        let (head, body) = match sent {
            Ok(response) => response,
            Err(_) => return Outcome::Broken,
        };
        ledger.check_canaries(call.tag, &body);
        let text = String::from_utf8_lossy(&body);
        let messages: Vec<&str> = if head.is_stream {
            text.lines()
                .filter_map(|line| Some(line.strip_prefix("data:")?.trim()))
                .filter(|data| !data.is_empty())
                .collect()
        } else {
            vec![&*text]
        };
        let mut outcome = None;
        for message in messages {
            let Ok(answer) = serde_json::from_str::<Answer<'_>>(message) else {
                outcome = Some(Outcome::Garbage);
                continue;
            };
            if answer.method.is_some() {
                continue;
            }
            if outcome.is_some() {
                ledger.report(Some(call.tag), format!("two answers: {text}"));
            }
            outcome = Some(self.judge_answer(call, id, expected, &head, &answer, message));
        }
        outcome.unwrap_or_else(|| {
            ledger.report(Some(call.tag), format!("HTTP {} without an answer: {text}", head.status));
            Outcome::Missing
        })
    }

    fn judge_answer(
        &mut self,
        call: &Call,
        id: &str,
        expected: &str,
        head: &Head,
        answer: &Answer<'_>,
        message: &str,
    ) -> Outcome {
        let ledger = &self.shared.ledger;
        let answer_id = answer.id.map_or("null", RawValue::get);
        if answer_id != id && (answer_id != "null" || answer.error.is_none()) {
            ledger.report(Some(call.tag), format!("answered under the id {answer_id}, not {id}: {message}"));
        }
        if let Some(result) = answer.result {
            let is_right = match call.kind {
                Kind::List => result.get().contains("\"tools\""),
                _ => result.get().contains(expected),
            };
            if !is_right {
                ledger.report(Some(call.tag), format!("answered with another result: {message}"));
            }
            return Outcome::Success;
        }
        if head.status == 404 {
            // The session is unknown.
            self.sessions.clear();
        }
        let error = answer.error.map_or("", RawValue::get);
        if error.contains("may have run") {
            Outcome::MayHaveRun
        } else if error.contains("did not run") {
            Outcome::NotRun
        } else if matches!(head.status, 401 | 403 | 404 | 429) {
            Outcome::Refused
        } else {
            Outcome::Error
        }
    }
}
