//! One call of a tool on behalf of somebody who speaks no MCP.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::backend::{Answer, Answered, BackendError, Lane, Outgoing, Pool, Stage};
use crate::base::{Fault, Kind};
use crate::frame::{EventReader, Kind as FrameKind, Scanner, encode_header};
use crate::protocol::{ClientCapabilities, Era, Method, Revision, header};
use crate::session::{Introduction, MESSAGE_BYTES_MAX, Ready, Upstream};

/// What is to be called.
pub struct ToolCall {
    /// The server's own name of it.
    pub tool: String,
    /// A JSON object.
    pub arguments: Value,
    /// As the server listed it: says which arguments go into headers too.
    pub listed: Bytes,
    /// Whether word of its progress is wanted.
    pub progress: bool,
}

/// What came of a call.
pub struct Outcome {
    /// What was said on the way.
    pub notifications: Vec<Bytes>,
    /// The result or the error.
    pub message: Bytes,
}

/// Telling a server that the session of one call is over; the caller does not wait for it for long.
const FAREWELL_TIMEOUT: Duration = Duration::from_secs(2);

/// Notifications kept of one call; those beyond are dropped.
const NOTIFICATIONS_MAX: usize = 1000;

/// Calls. A server of the Legacy era gets a session for this one call: nobody else's state is met in it.
///
/// Not cancel safe: the connection is closed, which tells the server to stop.
pub async fn call(pool: Rc<Pool>, era: Era, call: ToolCall) -> Result<Outcome, Fault> {
    match era {
        Era::Modern => {
            let mut request = message(&call, Some(modern_meta()));
            for (name, value) in &modern_headers(&call) {
                request.set(name, value);
            }
            send(&pool, request).await
        }
        Era::Legacy => {
            let introduction = Introduction::ours(Revision::LEGACY_LATEST, ClientCapabilities::default());
            let ready = Upstream::default().open(&pool, &introduction, None).await?;
            let mut request = message(&call, None);
            ready.write_headers(&mut request);
            let outcome = send(&pool, request).await;
            farewell(&pool, &ready).await;
            outcome
        }
    }
}

fn message(call: &ToolCall, meta: Option<Value>) -> Outgoing {
    let mut params = json!({"name": call.tool, "arguments": call.arguments});
    if let Some(meta) = meta {
        params["_meta"] = meta;
    }
    if call.progress {
        params["_meta"]["progressToken"] = 1.into();
    }
    let message = json!({"jsonrpc": "2.0", "id": 1, "method": Method::ToolsCall.as_str(), "params": params});
    Outgoing::whole(message.to_string().into())
}

async fn send(pool: &Rc<Pool>, request: Outgoing) -> Result<Outcome, Fault> {
    let server = pool.backend().name();
    let answered = pool.send(&request, Lane::Call).await.map_err(|error| error.into_fault(server))?;
    let Answered { head, body: mut answer } = *answered;
    let status = head.status;
    let read = if head.is_event_stream() && status.is_success() {
        read_events(&mut answer).await
    } else {
        answer.collect(MESSAGE_BYTES_MAX).await.map(|message| Outcome { notifications: Vec::new(), message })
    };
    let outcome = read.map_err(|error| error.into_fault(server))?;
    let is_answer = Scanner::new()
        .scan(&outcome.message)
        .is_ok_and(|envelope| matches!(envelope.kind, FrameKind::Response | FrameKind::Error));
    if is_answer {
        return Ok(outcome);
    }
    let text = format!("server `{server}` answered with HTTP {} and no result", status.as_u16());
    Err(Fault::backend(Kind::BadAnswer, text))
}

/// All of a stream up to its result or error.
async fn read_events(answer: &mut Answer) -> Result<Outcome, BackendError> {
    let (mut reader, mut scanner) = (EventReader::new(), Scanner::new());
    let (mut notifications, mut bytes) = (Vec::new(), 0);
    while let Some(chunk) = answer.chunk().await {
        reader.push(chunk?);
        while let Some(event) = reader.next().map_err(|error| BackendError::new(Stage::Nonsense, error))? {
            let Some(data) = event.data.filter(|data| !data.is_empty()) else { continue };
            let Ok(envelope) = scanner.scan(&data) else { continue };
            bytes += data.len();
            if bytes > MESSAGE_BYTES_MAX {
                return Err(BackendError::bare(Stage::TooLarge));
            }
            match envelope.kind {
                FrameKind::Response | FrameKind::Error => {
                    return Ok(Outcome { notifications, message: data });
                }
                FrameKind::Notification if notifications.len() < NOTIFICATIONS_MAX => {
                    notifications.push(data);
                }
                _ => {}
            }
        }
    }
    Err(BackendError::bare(Stage::Body))
}

async fn farewell(pool: &Rc<Pool>, ready: &Ready) {
    if ready.session_id.is_none() {
        return;
    }
    let mut request = Outgoing::delete();
    ready.write_headers(&mut request);
    // A server that does not listen ends its sessions by itself.
    drop(timeout(FAREWELL_TIMEOUT, pool.send(&request, Lane::Call)).await);
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
    let properties = listed["inputSchema"]["properties"].as_object();
    for (property, schema) in properties.into_iter().flatten() {
        let Some(name) = schema["x-mcp-header"].as_str() else { continue };
        let value = match &call.arguments[property] {
            Value::String(text) => text.clone(),
            value @ (Value::Number(_) | Value::Bool(_)) => value.to_string(),
            _ => continue,
        };
        let name = HeaderName::from_bytes(format!("{}{name}", header::PARAM_PREFIX).as_bytes());
        if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(&encode_header(&value))) {
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
            "object": {"x-mcp-header": "O"}, "other": {"type": "string"}, "odd": {"x-mcp-header": "no header"}}}}"#;
        let call = ToolCall {
            tool: "zählen".into(),
            arguments: json!({"region": "eu west", "n": 3, "object": {}, "other": "x", "odd": "x"}),
            listed: Bytes::from_static(listed.as_bytes()),
            progress: false,
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
