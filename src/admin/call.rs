//! One call of a tool on behalf of somebody who speaks no MCP.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::spawn_local;
use tokio::time::timeout;

use crate::base::{Fault, Kind};
use crate::frame::{EventReader, Kind as FrameKind, Scanner, encode_header};
use crate::protocol::param::marks;
use crate::protocol::{ClientCapabilities, Era, Method, Revision, header};
use crate::session::{Ask, Introduction, MESSAGE_BYTES_MAX, Ready, UpstreamSession, ask};
use crate::upstream::{Answer, Answered, Lane, Outgoing, Pool, Stage, UpstreamError};

/// What is to be called.
pub struct ToolCall {
    /// The server's own name of it.
    pub tool: String,
    /// A JSON object.
    pub arguments: Value,
    /// As the server listed it: says which arguments go into headers too.
    pub listed: Bytes,
    /// Who wants to hear what is said on the way, word of its progress among it. While they do not take it, nothing
    /// more is read from the server.
    pub said: Option<mpsc::Sender<Bytes>>,
}

/// What came of a call.
pub struct Outcome {
    /// The result or the error.
    pub message: Bytes,
    /// Whether it came with an error status.
    pub failed: bool,
}

/// The one request in its session or connection.
const CALL_ID: u32 = 1;

/// Telling a server that the session of one call is over; the caller does not wait for it for long.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls. A server of the Legacy era gets a session for this one call: nobody else's state is met in it.
///
/// Dropped, the server is told to stop: by the end of its connection, and where there is a session, in it. The session
/// is ended then as well.
pub async fn call(pool: Rc<Pool>, era: Era, call: ToolCall) -> Result<Outcome, Fault> {
    match era {
        Era::Modern => {
            let mut request = message(&call, Some(modern_meta()));
            for (name, value) in &modern_headers(&call) {
                request.set(name, value);
            }
            send(&pool, request, call.said).await
        }
        Era::Legacy => {
            let mut visit = Visit::open(pool).await?;
            let mut request = message(&call, None);
            visit.ready.write_headers(&mut request);
            visit.is_calling = true;
            let outcome = send(&visit.pool, request, call.said).await;
            visit.is_calling = false;
            visit.end().await;
            outcome
        }
    }
}

/// A session at a server for one call, ended when dropped.
struct Visit {
    pool: Rc<Pool>,
    ready: Arc<Ready>,
    /// Whether the server has not answered yet.
    is_calling: bool,
    ended: bool,
}

impl Visit {
    /// Dropped before it has come to its end, it ends the session that is then opened.
    async fn open(pool: Rc<Pool>) -> Result<Self, Fault> {
        // A task of its own: whoever gives up between the server's answer and here would leave a session behind.
        let opening = spawn_local(async move {
            let introduction = Introduction::ours(Revision::LEGACY_LATEST, ClientCapabilities::default());
            let ready = UpstreamSession::default().open(&pool, &introduction, None).await?;
            Ok(Self { pool, ready, is_calling: false, ended: false })
        });
        let failed = |error| Fault::gateway(Kind::Internal, "no session could be opened").because(error);
        opening.await.map_err(failed)?
    }

    async fn end(mut self) {
        self.ready.part(&self.pool).await;
        self.ended = true;
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (pool, ready, is_calling) = (Rc::clone(&self.pool), Arc::clone(&self.ready), self.is_calling);
        spawn_local(async move {
            if is_calling {
                cancel(&pool, &ready).await;
            }
            ready.part(&pool).await;
        });
    }
}

fn message(call: &ToolCall, meta: Option<Value>) -> Outgoing {
    let mut params = json!({"name": call.tool, "arguments": call.arguments});
    if let Some(meta) = meta {
        params["_meta"] = meta;
    }
    if call.said.is_some() {
        params["_meta"]["progressToken"] = 1.into();
    }
    let message =
        json!({"jsonrpc": "2.0", "id": CALL_ID, "method": Method::ToolsCall.as_str(), "params": params});
    Outgoing::whole(message.to_string().into())
}

async fn send(
    pool: &Rc<Pool>,
    request: Outgoing,
    said: Option<mpsc::Sender<Bytes>>,
) -> Result<Outcome, Fault> {
    let server = pool.upstream().name();
    let answered = pool.send(&request, Lane::Call).await.map_err(|error| error.into_fault(server))?;
    let Answered { head, body: mut answer } = *answered;
    let status = head.status;
    let read = if head.is_event_stream() && status.is_success() {
        read_events(&mut answer, said).await
    } else {
        answer.collect(MESSAGE_BYTES_MAX).await
    };
    let message = read.map_err(|error| error.into_fault(server))?;
    let is_answer = Scanner::new()
        .scan(&message)
        .is_ok_and(|envelope| matches!(envelope.kind, FrameKind::Response | FrameKind::Error));
    if is_answer {
        return Ok(Outcome { message, failed: !status.is_success() });
    }
    let text = format!("server `{server}` answered with HTTP {} and no result", status.as_u16());
    Err(Fault::upstream(Kind::BadAnswer, text))
}

/// The result or error of a stream; hands on what is said before.
async fn read_events(answer: &mut Answer, said: Option<mpsc::Sender<Bytes>>) -> Result<Bytes, UpstreamError> {
    let (mut reader, mut scanner) = (EventReader::new(), Scanner::new());
    while let Some(chunk) = answer.chunk().await {
        reader.push(chunk?);
        while let Some(event) = reader.next().map_err(|error| UpstreamError::new(Stage::Nonsense, error))? {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = scanner.scan(&data) else { continue };
            match (envelope.kind, &said) {
                (FrameKind::Response | FrameKind::Error, _) => return Ok(data),
                // Whoever has gone has also dropped this.
                (FrameKind::Notification, Some(said)) => drop(said.send(data).await),
                _ => {}
            }
        }
    }
    Err(UpstreamError::bare(Stage::Body))
}

/// Closing the connection is no word to a server of that era (MCP 2025-11-25, transports).
async fn cancel(pool: &Rc<Pool>, ready: &Ready) {
    let message = json!({
        "jsonrpc": "2.0",
        "method": Method::Cancelled.as_str(),
        "params": {"requestId": CALL_ID, "reason": "nobody waits for it any more"},
    });
    let message = message.to_string().into();
    let asked = Ask { method: Method::Cancelled, message, ready: Some(ready), modern: None };
    // A server that does not listen is not waited for.
    drop(timeout(FAREWELL_TIMEOUT, ask(pool, asked)).await);
}

/// Nobody is there to be asked anything: no capability is declared.
fn modern_meta() -> Value {
    json!({
        "io.modelcontextprotocol/protocolVersion": Revision::MODERN_LATEST.as_str(),
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "metamcp", "version": env!("CARGO_PKG_VERSION")},
    })
}

fn modern_headers(call: &ToolCall) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(header::PROTOCOL_VERSION, HeaderValue::from_static(Revision::MODERN_LATEST.as_str()));
    headers.insert(header::METHOD, HeaderValue::from_static(Method::ToolsCall.as_str()));
    if let Ok(name) = HeaderValue::from_str(&encode_header(&call.tool)) {
        headers.insert(header::NAME, name);
    }
    let listed: Value = serde_json::from_slice(&call.listed).unwrap_or_default();
    // What comes of a tool with a bad mark is for its server to say.
    for mark in marks(&listed["inputSchema"]).unwrap_or_default() {
        let value = mark.text(&call.arguments).map(|text| HeaderValue::from_str(&encode_header(&text)));
        if let (Ok(name), Some(Ok(value))) = (HeaderName::from_bytes(mark.header.as_bytes()), value) {
            headers.insert(name, value);
        }
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_that_a_tool_wants_in_headers_are_there() {
        let listed = r#"{"inputSchema": {"properties": {
            "region": {"type": "string", "x-mcp-header": "Region"}, "n": {"type": "integer", "x-mcp-header": "N"},
            "object": {"type": "object"}, "other": {"type": "string"}}}}"#;
        let call = ToolCall {
            tool: "zählen".into(),
            arguments: json!({"region": "eu west", "n": 3, "object": {}, "other": "x"}),
            listed: Bytes::from_static(listed.as_bytes()),
            said: None,
        };
        let headers = modern_headers(&call);
        let found: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(header::PARAM_PREFIX))
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("ASCII")))
            .collect();
        assert_eq!(found, ["mcp-param-n: 3", "mcp-param-region: eu west"]);
        assert_eq!(headers[header::NAME], encode_header("zählen").as_ref());
    }
}
