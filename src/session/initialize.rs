//! The `initialize` handshake with an upstream.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::buffered::{
    BufferedRequest, BufferedResponse, RequestContext, deliver, send_buffered_for, send_message,
};
use super::client_handshake::ClientHandshake;
use super::features::{OWN_ANSWER, ServerCapabilities, ServerFeatures, is_own_answer};
use super::upstream_session::UpstreamSession;
use crate::upstream::UpstreamPool;
use metamcp_core::base::{Fault, FaultKind, RecentInterner, ServerName};
use metamcp_core::protocol::{Era, LogLevel, McpMethod, Revision};
use metamcp_http::RequestKind;

/// How much of a server's error text goes into the fault.
const ERROR_CHARS_MAX: usize = 300;

/// A response to `initialize` that was parsed before.
#[derive(PartialEq, Eq)]
struct ParsedInitialize {
    message: Bytes,
    revision: Revision,
    features: Arc<ServerFeatures>,
}

thread_local! {
    /// The features of sessions opened on this thread, so that equal ones are stored once.
    static FEATURES: RefCell<RecentInterner<ServerFeatures>> = RefCell::default();

    /// Recent responses to `initialize`. A server mostly sends every session the same one, since the gateway
    /// always uses the same id. Such a response is compared with the earlier ones instead of parsed.
    static RESPONSES: RefCell<RecentInterner<ParsedInitialize>> = RefCell::default();
}

/// Longer responses are not cached. Usual ones have some hundred bytes.
const CACHED_BYTES_MAX: usize = 4 << 10;

/// Features with longer instructions are not interned. Usual instructions have some thousand bytes.
const INTERNED_BYTES_MAX: usize = 16 << 10;

/// Opens a session. Also returns the raw response. `session_number` identifies the slot that the session is
/// for.
pub(super) async fn initialize(
    pool: &Rc<UpstreamPool>,
    handshake: &ClientHandshake,
    session_number: u64,
) -> Result<(UpstreamSession, Bytes), Fault> {
    let mut response = send_initialize(pool, handshake, session_number).await?;
    if let Some(parsed) = find_parsed(&response) {
        let BufferedResponse { session_id, message, .. } = response;
        let session = UpstreamSession::new(session_id, parsed.revision, Arc::clone(&parsed.features));
        return Ok((session, message));
    }
    // A server with the transport of 2024-11-05 may not accept POST at this path.
    let is_unknown = matches!(response.status, StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED);
    if is_unknown && pool.detect_sse().await {
        response = send_initialize(pool, handshake, session_number).await?;
    }
    if is_refusal(&response) && pool.upstream().speaks(Era::Legacy) == Some(true) {
        // The server may have changed: detect its era again, which may select an adapter for it.
        pool.upstream().set_spoken(Era::Legacy, None);
        if pool.upstream().speaks(Era::Legacy).is_none() {
            response = send_initialize(pool, handshake, session_number).await?;
        }
    }
    let BufferedResponse { status, session_id, message, .. } = response;
    let (revision, features) = parse_response(status, &message, pool.upstream().name())?;
    let features = intern_features(features);
    remember_parsed(&message, revision, &features);
    Ok((UpstreamSession::new(session_id, revision, features), message))
}

async fn send_initialize(
    pool: &Rc<UpstreamPool>,
    handshake: &ClientHandshake,
    session_number: u64,
) -> Result<BufferedResponse, Fault> {
    let params = &handshake.params.raw;
    let mut message = Vec::with_capacity(params.len() + 64);
    message.extend_from_slice(br#"{"jsonrpc":"2.0","id":0,"method":"initialize","params":"#);
    message.extend_from_slice(params);
    message.push(b'}');
    let request = BufferedRequest {
        method: McpMethod::Initialize,
        message: message.into(),
        session: None,
        modern_headers: None,
    };
    let ClientHandshake { owner, is_isolated, .. } = *handshake;
    let context = RequestContext { owner, client_session: Some(session_number), is_isolated };
    let response = send_buffered_for(pool, request, context).await;
    response.map_err(|error| error.into_fault(pool.upstream().name()))
}

/// Reads the negotiated revision and the features out of a response.
fn parse_response(
    status: StatusCode,
    message: &[u8],
    server: &ServerName,
) -> Result<(Revision, ServerFeatures), Fault> {
    let invalid = || {
        let text = format!(
            "server `{server}` did not open a session (HTTP {}); the call did not run",
            status.as_u16()
        );
        Fault::upstream(FaultKind::InvalidResponse, text)
    };
    let response: InitializeResponse<'_> = serde_json::from_slice(message).map_err(|_| invalid())?;
    if let Some(error) = response.error.filter(|_| status.is_success() || status == StatusCode::BAD_REQUEST) {
        let error: String = error.get().chars().take(ERROR_CHARS_MAX).collect();
        return Err(Fault::upstream(
            FaultKind::EraMismatch,
            format!("server `{server}` refuses to open a session, and the call did not run: {error}"),
        ));
    }
    let result = response.result.filter(|_| status.is_success()).ok_or_else(invalid)?;
    if is_own_answer(&result.meta) {
        let text = format!("server `{server}` {OWN_ANSWER}; the call did not run");
        return Err(Fault::upstream(FaultKind::InvalidResponse, text));
    }
    let mut features = result.capabilities.features(result.instructions);
    // The extension belongs to the Modern era, even if the server advertises it here.
    features.tasks.extension = false;
    let revision = Revision::parse(result.protocol_version.as_bytes()).ok_or_else(invalid)?;
    Ok((revision, features))
}

/// Whether a response refuses the session permanently, as opposed to a temporary failure.
fn is_refusal(response: &BufferedResponse) -> bool {
    let is_error = || {
        let parsed: Result<InitializeResponse<'_>, _> = serde_json::from_slice(&response.message);
        parsed.is_ok_and(|parsed| parsed.error.is_some())
    };
    match response.status {
        StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS => false,
        status if status.is_success() => is_error(),
        status => status.is_client_error(),
    }
}

/// Finds the parsed form of a response that equals a recent one.
fn find_parsed(response: &BufferedResponse) -> Option<Arc<ParsedInitialize>> {
    let may_be_cached = response.status.is_success() && response.message.len() <= CACHED_BYTES_MAX;
    let find = |responses: &mut RecentInterner<ParsedInitialize>| {
        responses.find(|parsed| parsed.message == response.message)
    };
    may_be_cached.then(|| RESPONSES.with_borrow_mut(find)).flatten()
}

fn remember_parsed(message: &Bytes, revision: Revision, features: &Arc<ServerFeatures>) {
    if message.len() <= CACHED_BYTES_MAX {
        // Copied, since it may be a slice of a much longer buffer.
        let message = Bytes::copy_from_slice(message);
        let parsed = ParsedInitialize { message, revision, features: Arc::clone(features) };
        RESPONSES.with_borrow_mut(|responses| drop(responses.intern(Arc::new(parsed))));
    }
}

fn intern_features(features: ServerFeatures) -> Arc<ServerFeatures> {
    if features.instructions.as_ref().is_some_and(|text| text.len() > INTERNED_BYTES_MAX) {
        return Arc::new(features);
    }
    FEATURES.with_borrow_mut(|known| known.intern(Arc::new(features)))
}

/// Sends `notifications/initialized`, after which the session may be used.
pub(super) async fn send_initialized(
    pool: &Rc<UpstreamPool>,
    session: &UpstreamSession,
) -> Result<(), Fault> {
    const MESSAGE: &[u8] = br#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
    let request = BufferedRequest {
        method: McpMethod::Initialized,
        message: Bytes::from_static(MESSAGE),
        session: Some(session),
        modern_headers: None,
    };
    send_message(pool, request).await.map_err(|error| error.into_fault(pool.upstream().name()))?;
    Ok(())
}

/// Sends `logging/setLevel`. Waits for the answer for at most five seconds.
pub(super) async fn send_log_level(pool: &Rc<UpstreamPool>, session: &UpstreamSession, level: LogLevel) {
    let level = level.name();
    let message =
        format!(r#"{{"jsonrpc":"2.0","id":0,"method":"logging/setLevel","params":{{"level":"{level}"}}}}"#);
    // The session works without it.
    deliver(pool, BufferedRequest::legacy(session, McpMethod::SetLevel, message.into()), RequestKind::Call)
        .await;
}

/// Sends `resources/subscribe`. Waits for the answer for at most five seconds.
pub(super) async fn send_subscription(pool: &Rc<UpstreamPool>, session: &UpstreamSession, uri: &str) {
    let params = json!({ "uri": uri });
    let message = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"resources/subscribe","params":{params}}}"#);
    // The others may be accepted.
    deliver(pool, BufferedRequest::legacy(session, McpMethod::Subscribe, message.into()), RequestKind::Call)
        .await;
}

#[derive(Deserialize)]
struct InitializeResponse<'a> {
    result: Option<InitializeResult>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct InitializeResult {
    #[serde(rename = "protocolVersion")]
    protocol_version: String,
    #[serde(default)]
    capabilities: ServerCapabilities,
    instructions: Option<String>,
    /// Any JSON: a malformed member is no reason to refuse the session.
    #[serde(default, rename = "_meta")]
    meta: Value,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn response(status: StatusCode, message: &Bytes) -> BufferedResponse {
        BufferedResponse { status, session_id: None, message: message.clone() }
    }

    #[test]
    fn finds_the_parsed_form_of_an_equal_response() {
        let features = Arc::new(ServerFeatures { tools: true, ..ServerFeatures::default() });
        let check = |status: StatusCode, message: &Bytes, expected: Option<Revision>| {
            let parsed = find_parsed(&response(status, message));
            assert_eq!(parsed.as_ref().map(|parsed| parsed.revision), expected, "{status} {message:?}");
            assert!(parsed.is_none_or(|parsed| Arc::ptr_eq(&parsed.features, &features)));
        };
        let (old, new) = (Revision::V2025_03_26, Revision::V2025_11_25);
        let [first, second, third] = ["1", "2", "3"].map(|text| Bytes::from(text.repeat(100)));
        check(StatusCode::OK, &first, None);
        remember_parsed(&first, old, &features);
        remember_parsed(&second, new, &features);
        check(StatusCode::OK, &first, Some(old));
        check(StatusCode::OK, &second, Some(new));
        check(StatusCode::OK, &third, None);
        check(StatusCode::OK, &first.slice(1..), None);
        // An error status opens no session, whatever its body says.
        check(StatusCode::BAD_REQUEST, &first, None);
        let long = Bytes::from(vec![b' '; CACHED_BYTES_MAX + 1]);
        remember_parsed(&long, old, &features);
        check(StatusCode::OK, &long, None);
    }
}
