//! Calls a tool on behalf of a REST caller, who does not speak MCP.

use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::{JoinSet, spawn_local};
use tokio::time::timeout;

use crate::session::{
    BufferedRequest, ClientHandshake, MESSAGE_BYTES_MAX, UpstreamReconnect, UpstreamSession,
    UpstreamSessionSlot, deliver, refusal_of, send_message,
};
use crate::upstream::UpstreamPool;
use metamcp_core::base::{Fault, FaultKind};
use metamcp_core::frame::{EventReader, MessageKind as FrameKind, Scanner, encode_header_value};
use metamcp_core::protocol::header_param::parse_header_params;
use metamcp_core::protocol::{AnswerMatch, ClientCapabilities, Era, McpMethod, Revision, header};
use metamcp_http::{
    FailureStage, RequestKind, UpstreamBody, UpstreamError, UpstreamRequest, UpstreamResponse,
};

pub struct ToolCall {
    /// The tool's name at the server.
    pub tool: String,
    /// The arguments of the tool: the text of a JSON object.
    pub arguments: Bytes,
    /// The tool as the server listed it. It says which arguments are also sent as headers.
    pub listed_tool: Bytes,
    /// Receives notifications during the call, including progress. While the receiver does not take them,
    /// nothing more is read from the server.
    pub notifications: Option<mpsc::Sender<Bytes>>,
}

/// The answer to a call.
pub struct Outcome {
    pub message: Bytes,
    /// Whether it came with an HTTP error status.
    pub failed: bool,
}

/// The raw id of the call. There is one request per session or connection, so it can be constant.
const CALL_ID: &str = "1";

/// The caller does not wait long for the cancellation to be delivered.
const CANCEL_TIMEOUT: Duration = Duration::from_secs(2);

/// Calls a tool. With a Legacy server, the call has a session of its own, so that it does not share state
/// with any client.
///
/// Cancel safe: if dropped, the call is cancelled by closing the connection, and a session by a notification. The session is
/// terminated then.
pub async fn call_tool(pool: Rc<UpstreamPool>, era: Era, call: ToolCall) -> Result<Outcome, Fault> {
    match era {
        Era::Modern => {
            let mut request = build_message(&call, Some(modern_meta()));
            for (name, value) in &modern_headers(&call) {
                request.set_header(name, value);
            }
            send(&pool, None, request, call.notifications).await
        }
        Era::Legacy => {
            let mut session = ToolCallSession::open(pool).await?;
            let mut request = build_message(&call, None);
            session.ready.write_headers(&mut request);
            session.is_calling = true;
            let outcome = send(&session.pool, Some(&session.ready), request, call.notifications).await;
            session.is_calling = false;
            session.end().await;
            outcome
        }
    }
}

/// A session for one call, terminated on drop.
struct ToolCallSession {
    pool: Rc<UpstreamPool>,
    ready: Arc<UpstreamSession>,
    /// Whether the call is in flight.
    is_calling: bool,
    ended: bool,
}

impl ToolCallSession {
    /// Opens a session. If the future is dropped before it completes, the session is terminated as soon as it
    /// is open.
    async fn open(pool: Rc<UpstreamPool>) -> Result<Self, Fault> {
        // A separate task: if the future were dropped between the server's answer and this point, the session
        // would leak.
        let opening = spawn_local(async move {
            let introduction =
                ClientHandshake::gateway(Revision::LEGACY_LATEST, ClientCapabilities::default());
            let ready = UpstreamSessionSlot::default().open(&pool, &introduction, None).await?;
            Ok(Self { pool, ready, is_calling: false, ended: false })
        });
        let failed =
            |error| Fault::gateway(FaultKind::Internal, "opening a session failed").with_source(error);
        opening.await.map_err(failed)?
    }

    async fn end(mut self) {
        self.ready.terminate(&self.pool).await;
        self.ended = true;
    }
}

impl Drop for ToolCallSession {
    fn drop(&mut self) {
        if self.ended {
            return;
        }
        let (pool, ready, is_calling) = (Rc::clone(&self.pool), Arc::clone(&self.ready), self.is_calling);
        spawn_local(async move {
            if is_calling {
                cancel(&pool, &ready).await;
            }
            ready.terminate(&pool).await;
        });
    }
}

fn build_message(call: &ToolCall, meta: Option<Value>) -> UpstreamRequest {
    let mut meta = meta.unwrap_or_else(|| json!({}));
    if call.notifications.is_some() {
        meta["progressToken"] = 1.into();
    }
    let (name, method) = (json!(call.tool), McpMethod::ToolsCall.as_str());
    let start = format!(
        r#"{{"jsonrpc":"2.0","id":{CALL_ID},"method":"{method}","params":{{"name":{name},"_meta":{meta},"arguments":"#
    );
    // The arguments are not parsed and written again: not all JSON survives that.
    UpstreamRequest::from_message([start.as_bytes(), &call.arguments, b"}}"].concat().into())
}

/// Sends the call, in a session if the server has sessions, and reads the response.
async fn send(
    pool: &Rc<UpstreamPool>,
    session: Option<&Arc<UpstreamSession>>,
    request: UpstreamRequest,
    notifications: Option<mpsc::Sender<Bytes>>,
) -> Result<Outcome, Fault> {
    let server = pool.upstream().name();
    let answered = pool.send(&request, RequestKind::Call).await.map_err(|error| error.into_fault(server))?;
    let UpstreamResponse { head, body: mut answer } = *answered;
    let status = head.status;
    let read = if head.is_event_stream() && status.is_success() {
        read_events(pool, session, answer, notifications).await
    } else {
        answer.collect(MESSAGE_BYTES_MAX).await
    };
    let message = read.map_err(|error| error.into_fault(server))?;
    let is_answer = Scanner::new()
        .scan(&message)
        .is_ok_and(|envelope| AnswerMatch::of_envelope(&message, &envelope, CALL_ID.as_bytes()).is_answer());
    if is_answer {
        return Ok(Outcome { message, failed: !status.is_success() });
    }
    let text = format!(
        "server `{server}` responded with HTTP {} and no result; the call may have run",
        status.as_u16()
    );
    Err(Fault::upstream(FaultKind::InvalidResponse, text))
}

/// Reads the response from an event stream. Forwards notifications before it, and answers requests of the server. If the
/// stream breaks off, the server is asked for the rest, as for calls over MCP.
async fn read_events(
    pool: &Rc<UpstreamPool>,
    session: Option<&Arc<UpstreamSession>>,
    mut answer: UpstreamBody,
    notifications: Option<mpsc::Sender<Bytes>>,
) -> Result<Bytes, UpstreamError> {
    let mut reconnect = session.map(|session| UpstreamReconnect::new(Rc::clone(pool), Arc::clone(session)));
    let (mut reader, mut scanner) = (EventReader::new(), Scanner::new());
    let mut refusals = RefusalQueue::default();
    answer.limit_messages();
    loop {
        while let Some(event) = reader.next()? {
            if let Some(reconnect) = &mut reconnect {
                event.id.iter().for_each(|id| reconnect.note_id(id));
                event.retry.into_iter().for_each(|retry_ms| reconnect.note_retry(retry_ms));
            }
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = scanner.scan(&data) else { continue };
            if !envelope.kind.is_answer() {
                answer.note_message();
                reconnect.iter_mut().for_each(UpstreamReconnect::note_message);
            }
            match (envelope.kind, &notifications, session) {
                _ if AnswerMatch::of_envelope(&data, &envelope, CALL_ID.as_bytes()).is_answer() => {
                    return Ok(data);
                }
                // The receiver is gone, and will drop this future as well.
                (FrameKind::Notification, Some(notifications), _) => drop(notifications.send(data).await),
                (FrameKind::Request, _, Some(session)) => {
                    if let Some(refusal) =
                        refusal_of(&data, &envelope, "the caller cannot be asked over REST")
                    {
                        refusals.send(pool, session, refusal.into()).await;
                    }
                }
                _ => {}
            }
        }
        let chunk = match &mut reconnect {
            Some(reconnect) => poll_fn(|cx| reconnect.poll_chunk(&mut answer, cx)).await,
            None => answer.chunk().await,
        };
        let broken = match chunk {
            Some(Ok(chunk)) => {
                reader.push(chunk);
                continue;
            }
            Some(Err(error)) => error,
            None => UpstreamError::from_stage(FailureStage::BodyIncomplete),
        };
        match &mut reconnect {
            Some(reconnect) => reconnect.begin(broken)?,
            None => return Err(broken),
        }
        // The server sends an interrupted event again from its start.
        reader = EventReader::new();
    }
}

/// Answers to requests of a server that are being sent. A server that does not take one can still answer the call.
#[derive(Default)]
struct RefusalQueue(JoinSet<()>);

/// Answers to requests of a server that are sent at the same time. No server asks so much during a call; one that does
/// waits for its answers, of which each is given up in time.
const REFUSALS_MAX: usize = 8;

/// However the call ends, the server gets the answers that it waits for; each is given up in time.
impl Drop for RefusalQueue {
    fn drop(&mut self) {
        self.0.detach_all();
    }
}

impl RefusalQueue {
    /// Starts to send an answer. Waits while there are too many. Cancel safe.
    async fn send(&mut self, pool: &Rc<UpstreamPool>, session: &Arc<UpstreamSession>, refusal: Bytes) {
        while self.0.try_join_next().is_some() {}
        if self.0.len() >= REFUSALS_MAX {
            self.0.join_next().await;
        }
        let (pool, session) = (Rc::clone(pool), Arc::clone(session));
        self.0.spawn_local(async move {
            deliver(&pool, BufferedRequest::legacy(&session, McpMethod::Ping, refusal), RequestKind::Message)
                .await;
        });
    }
}

/// In the Legacy era a closed connection does not cancel a call (MCP 2025-11-25, transports).
async fn cancel(pool: &Rc<UpstreamPool>, ready: &UpstreamSession) {
    let method = McpMethod::Cancelled.as_str();
    let message = format!(
        r#"{{"jsonrpc":"2.0","method":"{method}","params":{{"requestId":{CALL_ID},"reason":"nobody waits for it any more"}}}}"#
    );
    let message = message.into();
    let cancellation =
        BufferedRequest { method: McpMethod::Cancelled, message, session: Some(ready), modern_headers: None };
    // A server that does not respond is not waited for.
    drop(timeout(CANCEL_TIMEOUT, send_message(pool, cancellation)).await);
}

/// No client capabilities are declared, because there is no client to answer a server's requests.
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
    headers.insert(header::METHOD, HeaderValue::from_static(McpMethod::ToolsCall.as_str()));
    if let Ok(name) = HeaderValue::from_str(&encode_header_value(&call.tool)) {
        headers.insert(header::NAME, name);
    }
    let listed: Value = serde_json::from_slice(&call.listed_tool).unwrap_or_default();
    let arguments = readable_members(&call.arguments);
    // A tool with an invalid annotation is left to its server to reject.
    for mark in parse_header_params(&listed["inputSchema"]).unwrap_or_default() {
        let value =
            mark.header_text(&arguments).map(|text| HeaderValue::from_str(&encode_header_value(&text)));
        if let (Ok(name), Some(Ok(value))) = (HeaderName::from_bytes(mark.header.as_bytes()), value) {
            headers.insert(name, value);
        }
    }
    headers
}

/// The arguments without the members that serde cannot read: strings with a surrogate that has no partner, and numbers out of
/// range, which no header carries.
fn readable_members(arguments: &[u8]) -> Value {
    serde_json::from_slice(arguments).unwrap_or_else(|_| {
        let members: HashMap<String, &RawValue> = serde_json::from_slice(arguments).unwrap_or_default();
        let read = |(name, value): (String, &RawValue)| Some((name, serde_json::from_str(value.get()).ok()?));
        Value::Object(members.into_iter().filter_map(read).collect())
    })
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
            arguments: Bytes::from_static(
                br#"{"region": "eu west", "n": 3, "object": {"x": 1e400}, "other": "\ud800"}"#,
            ),
            listed_tool: Bytes::from_static(listed.as_bytes()),
            notifications: None,
        };
        let headers = modern_headers(&call);
        let found: Vec<_> = headers
            .iter()
            .filter(|(name, _)| name.as_str().starts_with(header::PARAM_PREFIX))
            .map(|(name, value)| format!("{name}: {}", value.to_str().expect("ASCII")))
            .collect();
        assert_eq!(found, ["mcp-param-n: 3", "mcp-param-region: eu west"]);
        assert_eq!(headers[header::NAME], encode_header_value("zählen").as_ref());
    }
}
