//! Whether a call may be repeated whose server answered that it does not know the session.

use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::timeout;

use super::buffered::{BufferedRequest, send_buffered};
use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_core::base::{Fault, FaultKind, ServerName};
use metamcp_core::frame::Scanner;
use metamcp_core::protocol::{AnswerMatch, McpMethod, code};

/// Pages of a list of tools that are read to find one tool. More than servers have: they send 50 or more tools on each.
const PAGES_MAX: usize = 32;

/// For a server to list its tools. The call waits for it.
const LIST_TIMEOUT: Duration = Duration::from_secs(5);

/// For a server to answer a ping, which needs no work. The call waits for it.
const PING_TIMEOUT: Duration = Duration::from_secs(5);

/// Whether a status means that the server lost the session. A 404 should say so (MCP 2025-03-26, session
/// management), and some servers answer 400, but both have other causes: an application behind the server may
/// answer 404 after the call ran. A ping in the same session decides, so that no call is repeated that may have run.
pub async fn is_session_lost(pool: &Rc<UpstreamPool>, session: &UpstreamSession, status: StatusCode) -> bool {
    is_refusal(status) && ping_status(pool, session).await.is_some_and(is_refusal)
}

/// Fails unless a message may be repeated whose server refused it with this status in the session `lost`, and has opened another
/// session since.
///
/// The server must show that it lost the session and does not just refuse requests: it accepts a ping in the session that it
/// opened later, and refuses the same in the lost one. A server that ran the call, and lost the session before it answered,
/// looks the same: one behind a proxy that repeats requests, for example. So a tool that is declared to change something
/// (MCP 2025-11-25, schema: `ToolAnnotations`) is not called again.
pub async fn check_repeat(
    pool: &Rc<UpstreamPool>,
    (lost, status): (&UpstreamSession, StatusCode),
    opened: &UpstreamSession,
    message: &Bytes,
) -> Result<(), Fault> {
    let server = pool.upstream().name();
    let is_proven = ping_status(pool, opened).await.is_some_and(|status| status.is_success())
        && ping_status(pool, lost).await.is_some_and(is_refusal);
    if !is_proven {
        return Err(unproven_loss(server, status));
    }
    // Sessions of a program are kept by the gateway, which gave the program nothing.
    if pool.upstream().is_program() {
        return Ok(());
    }
    let Some(tool) = called_tool(message) else { return Ok(()) };
    let why = match timeout(LIST_TIMEOUT, find_annotations(pool, opened, &tool)).await {
        Ok(Ok(annotations)) if annotations.forbid_repetition() => {
            "the tool changes something by its annotations"
        }
        Ok(Ok(_)) => return Ok(()),
        Ok(Err(NoList)) | Err(_) => "its list of tools, which says what the tool does, cannot be read",
    };
    let text = format!(
        "server `{server}` lost its session, which is open again; {why}, so it was not called again; the call may have run"
    );
    Err(Fault::upstream(FaultKind::InvalidResponse, text))
}

/// The name of the tool that a message calls.
fn called_tool(message: &Bytes) -> Option<String> {
    let envelope = Scanner::new().scan(message).ok()?;
    let is_call = envelope.method?.decode(message) == McpMethod::ToolsCall.as_str();
    envelope.params.name.filter(|_| is_call).map(|name| name.decode(message).into_owned())
}

/// What a tool is declared to do, as far as it matters here (MCP 2025-11-25, schema: `ToolAnnotations`).
#[derive(Debug, Clone, Copy, Default)]
struct ToolAnnotations {
    read_only: Option<bool>,
    destructive: Option<bool>,
    idempotent: Option<bool>,
}

impl ToolAnnotations {
    /// Reads the annotations of a tool. Whatever is no boolean says nothing.
    fn of(tool: &Value) -> Self {
        let hint = |name| tool["annotations"][name].as_bool();
        Self {
            read_only: hint("readOnlyHint"),
            destructive: hint("destructiveHint"),
            idempotent: hint("idempotentHint"),
        }
    }

    /// Whether the tool says itself that a second call has another effect than the first. Most tools say nothing, so the
    /// defaults of the specification, which assume the worst, do not count: nearly every call would fail after a restart of
    /// its server. A tool that says both that it only reads and that it destroys contradicts itself, and is not called again.
    fn forbid_repetition(self) -> bool {
        let changes_something = self.read_only == Some(false) || self.destructive == Some(true);
        changes_something && self.idempotent != Some(true)
    }
}

/// The server's list of tools cannot be read.
struct NoList;

/// Reads the server's list of tools, up to one tool. A tool that is not in the list has no annotations.
async fn find_annotations(
    pool: &Rc<UpstreamPool>,
    session: &UpstreamSession,
    tool: &str,
) -> Result<ToolAnnotations, NoList> {
    let mut params = json!({});
    for _ in 0..PAGES_MAX {
        let message = json!({"jsonrpc": "2.0", "id": 1, "method": "tools/list", "params": params});
        let request = BufferedRequest {
            method: McpMethod::ToolsList,
            message: message.to_string().into(),
            session: Some(session),
            modern_headers: None,
        };
        let response = send_buffered(pool, request).await.map_err(|_| NoList)?;
        let page: Value = serde_json::from_slice(&response.message).map_err(|_| NoList)?;
        let tools = page["result"]["tools"].as_array().ok_or(NoList)?;
        if let Some(found) = tools.iter().find(|listed| listed["name"] == tool) {
            return Ok(ToolAnnotations::of(found));
        }
        let Some(cursor) = page["result"]["nextCursor"].as_str() else {
            return Ok(ToolAnnotations::default());
        };
        params = json!({"cursor": cursor});
    }
    Err(NoList)
}

/// The fault of a call that is not repeated, because its server did not show that it had lost the session.
#[cold]
pub fn unproven_loss(server: &ServerName, status: StatusCode) -> Fault {
    let text = format!(
        "server `{server}` answered HTTP {} and did not show that it had lost the session; the call may have run",
        status.as_u16()
    );
    Fault::upstream(FaultKind::InvalidResponse, text)
}

fn is_refusal(status: StatusCode) -> bool {
    matches!(status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
}

/// The status of the answer to a ping in a session. `None` if there is none in time.
async fn ping_status(pool: &Rc<UpstreamPool>, session: &UpstreamSession) -> Option<StatusCode> {
    const PING: &[u8] = br#"{"jsonrpc":"2.0","id":"metamcp-ping","method":"ping"}"#;
    let ping = BufferedRequest {
        method: McpMethod::Ping,
        message: Bytes::from_static(PING),
        session: Some(session),
        modern_headers: None,
    };
    timeout(PING_TIMEOUT, send_buffered(pool, ping)).await.ok()?.ok().map(|response| response.status)
}

/// Whether the call with the raw id `call` may have run whose server refused it with this body, and has lost the session since
/// then: a server that knows the id has read the call. It did not run if the server says that it is no valid request of a
/// revision that it speaks, as one that was replaced by another does.
pub fn may_have_run(refusal: &[u8], call: &Bytes) -> bool {
    #[derive(Deserialize)]
    struct Refusal {
        error: RefusalError,
    }
    #[derive(Deserialize)]
    struct RefusalError {
        code: i64,
    }
    if AnswerMatch::of_text(refusal, call) != AnswerMatch::ThisCall {
        return false;
    }
    let code = serde_json::from_slice::<Refusal>(refusal).map(|refusal| refusal.error.code);
    let not_run = [code::INVALID_REQUEST, code::UNSUPPORTED_VERSION].map(i64::from);
    !code.is_ok_and(|code| not_run.contains(&code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn annotations_that_forbid_repetition() {
        #[track_caller]
        fn check(annotations: &str, expected: bool) {
            let tool = json!({"annotations": serde_json::from_str::<Value>(annotations).unwrap()});
            assert_eq!(ToolAnnotations::of(&tool).forbid_repetition(), expected, "{annotations}");
        }
        check("{}", false);
        check("null", false);
        check(r#"{"destructiveHint":"yes","readOnlyHint":false}"#, true);
        check(r#"{"title":"a tool"}"#, false);
        check(r#"{"readOnlyHint":true}"#, false);
        check(r#"{"readOnlyHint":true,"destructiveHint":true}"#, true);
        check(r#"{"readOnlyHint":true,"destructiveHint":true,"idempotentHint":true}"#, false);
        check(r#"{"readOnlyHint":true,"destructiveHint":false}"#, false);
        check(r#"{"readOnlyHint":false}"#, true);
        check(r#"{"readOnlyHint":false,"destructiveHint":false}"#, true);
        check(r#"{"destructiveHint":true}"#, true);
        check(r#"{"destructiveHint":false}"#, false);
        check(r#"{"destructiveHint":true,"idempotentHint":true}"#, false);
        check(r#"{"readOnlyHint":false,"idempotentHint":true}"#, false);
        check(r#"{"idempotentHint":false}"#, false);
    }

    #[test]
    fn tools_that_messages_call() {
        #[track_caller]
        fn check(message: &'static str, expected: Option<&str>) {
            assert_eq!(called_tool(&Bytes::from(message)).as_deref(), expected, "{message}");
        }
        check(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"a\u0062"}}"#, Some("ab"));
        check(r#"{"jsonrpc":"2.0","id":1,"method":"prompts/get","params":{"name":"a"}}"#, None);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{}}"#, None);
        check(r#"{"jsonrpc":"2.0","id":1,"method":"ping"}"#, None);
    }
}
