//! Requests and connections of a client.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::time::sleep;

use super::{Client, Revision};
use crate::http::{Head, Wire};
use crate::kind::Kind;
use crate::schedule::{Call, Manner};
use crate::servers::Era;
use crate::support::MODERN;
use crate::work::Work;

/// A call as it is about to be sent.
pub struct Prepared {
    pub path: String,
    pub session: Option<String>,
    /// The tool as the client names it.
    pub tool: String,
    /// The raw id of the request.
    pub id: String,
    /// The text of the right answer.
    pub expected: String,
    /// The members of `params` in front of `_meta`.
    pub params: String,
}

/// Between two attempts to connect to a gateway that is started again.
const CONNECT_POLL: Duration = Duration::from_millis(20);

/// How long a slow reader does not read.
const SLOW_READER: Duration = Duration::from_millis(40);

impl Client {
    /// The path, session and message of a call; `None` if its session cannot be opened.
    pub(super) async fn prepare(&mut self, call: &Call, revision: Revision) -> Option<Prepared> {
        let path = self.path(call);
        let session = match self.era {
            Era::Modern => None,
            Era::Legacy => Some(self.session(&path, revision, call).await?),
        };
        let (tool, work) = (self.tool(call), self.work(call));
        let params = match call.kind {
            Kind::List => String::new(),
            _ => format!(r#""name":"{tool}","arguments":{}"#, work.json()),
        };
        Some(Prepared { path, session, tool, id: id(call), expected: work.answer_text(), params })
    }

    pub(super) fn name(&self, call: &Call) -> &'static str {
        self.shared.names[usize::from(self.server(call))]
    }

    pub(super) fn path(&self, call: &Call) -> String {
        if call.is_aggregate { "/mcp".to_owned() } else { format!("/servers/{}/mcp", self.name(call)) }
    }

    pub(super) fn tool(&self, call: &Call) -> String {
        if call.is_aggregate { format!("{}__record", self.name(call)) } else { "record".to_owned() }
    }

    pub(super) fn work(&self, call: &Call) -> Work<'_> {
        let seed = self.shared.plan.seed;
        Work::new(call.tag, seed, call.kind, call.fault, call.number, &self.pad[..call.pad])
    }

    /// A whole JSON-RPC message; `more` are members of `params` after the others.
    pub(super) fn message(&self, call: &Call, prepared: &Prepared, more: &str) -> String {
        let token =
            if call.is_stream() { format!(r#""progressToken":"{}""#, call.tag) } else { String::new() };
        let meta = match self.era {
            Era::Legacy => token,
            Era::Modern => {
                let comma = if token.is_empty() { "" } else { "," };
                format!("{token}{comma}{}", Self::modern_meta(call))
            }
        };
        let params = &prepared.params;
        let comma = if params.is_empty() { "" } else { "," };
        let (id, method) = (&prepared.id, method(call));
        format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}"_meta":{{{meta}}}{more}}}}}"#
        )
    }

    /// What each Modern request has in `_meta`. Only a client that wants tasks knows them.
    pub(super) fn modern_meta(call: &Call) -> String {
        let tasks = r#","extensions":{"io.modelcontextprotocol/tasks":{}}"#;
        let tasks = if call.kind == Kind::Task { tasks } else { "" };
        format!(
            r#""io.modelcontextprotocol/protocolVersion":"{MODERN}","io.modelcontextprotocol/clientCapabilities":{{"elicitation":{{"form":{{}}}}{tasks}}}"#
        )
    }

    /// The request that carries the message.
    pub(super) fn request(&self, call: &Call, prepared: &Prepared, message: &str) -> String {
        let headers = if let Some(session) = &prepared.session {
            format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n")
        } else {
            let has_name = call.kind != Kind::List;
            let name = if has_name { format!("Mcp-Name: {}\r\n", prepared.tool) } else { String::new() };
            format!("MCP-Protocol-Version: {MODERN}\r\nMcp-Method: {}\r\n{name}", method(call))
        };
        self.post(&prepared.path, &headers, message)
    }

    pub(super) fn post(&self, path: &str, headers: &str, body: &str) -> String {
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nContent-Type: application/json\r\n\
             Accept: application/json, text/event-stream\r\n{headers}Content-Length: {}\r\n\r\n{body}",
            self.key,
            body.len()
        )
    }

    /// A POST in a session.
    pub(super) fn post_in(&self, path: &str, session: &str, body: &str) -> String {
        let headers = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: 2025-11-25\r\n");
        self.post(path, &headers, body)
    }

    /// A request without a body in a session.
    pub(super) fn bare(&self, method: &str, path: &str, session: &str, headers: &str) -> String {
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {}\r\nAccept: text/event-stream\r\n\
             Mcp-Session-Id: {session}\r\n{headers}\r\n",
            self.key
        )
    }

    /// The session at that path; `None` if none can be opened.
    async fn session(&mut self, path: &str, revision: Revision, call: &Call) -> Option<String> {
        let place = (path.to_owned(), revision);
        if let Some(session) = self.sessions.get(&place) {
            return Some(session.clone());
        }
        let version = match revision {
            Revision::March => "2025-03-26",
            Revision::November => "2025-11-25",
        };
        let opening = format!(
            r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{{"protocolVersion":"{version}","capabilities":{{"elicitation":{{}}}},"clientInfo":{{"name":"c{}","version":"1"}}}}}}"#,
            self.number
        );
        let request = self.post(path, "", &opening);
        let (head, body) = self.exchange(request.as_bytes()).await.ok()?;
        self.shared.ledger.check_canaries(call.tag, &body);
        let session = head.session.filter(|_| head.status == 200)?;
        let begun = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        let headers = format!("Mcp-Session-Id: {session}\r\nMCP-Protocol-Version: {version}\r\n");
        let request = self.post(path, &headers, begun);
        self.exchange(request.as_bytes()).await.ok()?;
        self.sessions.insert(place, session.clone());
        Some(session)
    }

    pub(super) async fn end_session(&mut self, path: &str, session: &str) {
        let request = self.bare("DELETE", path, session, "");
        drop(self.exchange(request.as_bytes()).await);
    }

    /// A connection of its own, as soon as there is a gateway.
    pub(super) async fn connect(&self) -> Wire {
        loop {
            let epoch = self.shared.epoch.load(Ordering::Relaxed);
            let port = self.shared.port.load(Ordering::Relaxed);
            let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
            match self.connector.connect(address, epoch).await {
                Ok(mut wire) => {
                    wire.epoch = epoch;
                    return wire;
                }
                Err(_) => sleep(CONNECT_POLL).await,
            }
        }
    }

    /// The client's idle connection, or a new one.
    pub(super) async fn wire(&mut self) -> Wire {
        // A gateway that was started again knows nothing of the connections of the one before.
        let epoch = self.shared.epoch.load(Ordering::Relaxed);
        match self.wire.take() {
            Some(wire) if wire.epoch == epoch => wire,
            _ => self.connect().await,
        }
    }

    /// Sends a request in the manner that was drawn, and reads the head of its response.
    pub(super) async fn begin(&mut self, call: &Call, request: &[u8]) -> io::Result<(Wire, Head)> {
        let mut wire = self.wire().await;
        [self.from, _] = wire.ports();
        match call.manner {
            Manner::Bytewise => {
                for byte in request {
                    wire.send(&[*byte]).await?;
                }
            }
            Manner::Split => {
                let (first, second) = request.split_at(call.number as usize % request.len());
                wire.send(first).await?;
                tokio::task::yield_now().await;
                wire.send(second).await?;
            }
            Manner::Whole | Manner::SlowReader => wire.send(request).await?,
        }
        if call.manner == Manner::SlowReader {
            sleep(SLOW_READER).await;
        }
        let head = wire.head().await?;
        Ok((wire, head))
    }

    /// Keeps a connection whose response was read to its end.
    pub(super) fn keep(&mut self, wire: Wire, head: &Head) {
        if !head.is_last {
            self.wire = Some(wire);
        }
    }

    /// Sends a request and reads the whole response.
    pub(super) async fn exchange(&mut self, request: &[u8]) -> io::Result<(Head, Vec<u8>)> {
        let mut wire = self.wire().await;
        wire.send(request).await?;
        let head = wire.head().await?;
        let body = wire.body().await?;
        self.keep(wire, &head);
        Ok((head, body))
    }

    /// The same over a connection of its own, beside a call that is in flight. Gives the status, or 0.
    pub(super) async fn beside(&self, request: &str) -> u16 {
        let mut wire = self.connect().await;
        if wire.send(request.as_bytes()).await.is_err() {
            return 0;
        }
        wire.head().await.map_or(0, |head| head.status)
    }
}

/// The raw id of a call. Of plain calls some have the id of one that has ended.
fn id(call: &Call) -> String {
    let is_reused = call.kind == Kind::Plain && call.number.is_multiple_of(4);
    if is_reused { "1".to_owned() } else { format!("\"{}\"", call.tag) }
}

fn method(call: &Call) -> &'static str {
    if call.kind == Kind::List { "tools/list" } else { "tools/call" }
}
