//! Turns the response of a Legacy server into one of the Modern era.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::request::apply_edits;
use metamcp_core::frame::{Envelope, MessageKind as FrameKind, Scanner, Span};
use metamcp_core::protocol::{McpMethod, code};
use metamcp_http::multiplex::LocalResponse;

/// The error codes that the Modern era defines (MCP 2026-07-28, errors). From a Legacy server they mean
/// something else.
const RESERVED: std::ops::RangeInclusive<i64> = -32099..=-32020;

/// Returns the response under the client's own id; `None` if the message is not a valid response.
pub fn to_modern_reply(
    message: &Bytes,
    envelope: &Envelope,
    id: &Bytes,
    method: Option<McpMethod>,
) -> Option<LocalResponse> {
    let outcome = envelope.outcome?;
    let Some(server_id) = envelope.id else {
        // An error has no id if the server could not parse the request.
        let message = [br#"{"jsonrpc":"2.0","id":null,"error":"#, outcome.slice(message), b"}"].concat();
        let message = Bytes::from(message);
        let envelope = Scanner::new().scan(&message).ok().filter(|envelope| envelope.id.is_some())?;
        return to_modern_reply(&message, &envelope, id, method);
    };
    let (status, edit) = match envelope.kind {
        FrameKind::Response => (StatusCode::OK, Some(complete_result(message, outcome, method)?)),
        FrameKind::Error => translate_error(message, outcome)?,
        FrameKind::Request | FrameKind::Notification => return None,
    };
    let mut edits = vec![(server_id.span, id.clone())];
    edits.extend(edit);
    edits.sort_by_key(|(span, _)| span.start);
    Some(LocalResponse { status, ..LocalResponse::from_message(apply_edits(message, &edits)?) })
}

/// Returns the edit that adds the members of a Modern result (MCP 2026-07-28, basic and caching). A result
/// without caching hints is stale at once and private to the client.
fn complete_result(message: &Bytes, outcome: Span, method: Option<McpMethod>) -> Option<(Span, Bytes)> {
    let object = outcome.slice(message);
    let rest = object.strip_prefix(b"{")?.trim_ascii_start();
    let present = modern_members(object);
    let mut added = BytesMut::with_capacity(64);
    let mut add = |member: &str| {
        added.put_slice(member.as_bytes());
        added.put_u8(b',');
    };
    match present.result_type.as_deref() {
        None => add(r#""resultType":"complete""#),
        Some(b"\"complete\"") => {}
        // Not valid from a Legacy server: a client that believed it would expect the other members of that
        // result type.
        Some(_) => return None,
    }
    if method.is_some_and(has_cache_hints) {
        if !present.ttl_ms {
            add(r#""ttlMs":0"#);
        }
        if !present.cache_scope {
            add(r#""cacheScope":"private""#);
        }
    }
    if rest.starts_with(b"}") && !added.is_empty() {
        added.truncate(added.len() - 1);
    }
    let at = outcome.start + 1;
    Some((Span { start: at, end: at }, added.freeze()))
}

/// Whether results of the method have caching hints.
fn has_cache_hints(method: McpMethod) -> bool {
    matches!(
        method,
        McpMethod::ToolsList
            | McpMethod::PromptsList
            | McpMethod::ResourcesList
            | McpMethod::TemplatesList
            | McpMethod::ResourcesRead
    )
}

/// The members of the Modern era that a result has already.
#[derive(Default)]
struct ModernMembers {
    /// The raw JSON of `resultType`.
    result_type: Option<Bytes>,
    ttl_ms: bool,
    cache_scope: bool,
}

/// Returns which of the members the result already has. Most results contain none of the names, nor an escape
/// in a name, which a search finds without parsing.
fn modern_members(object: &[u8]) -> ModernMembers {
    let has = |word: &str| memmem::find(object, word.as_bytes()).is_some();
    if !["\"resultType\"", "\"ttlMs\"", "\"cacheScope\"", "\\u"].into_iter().any(has) {
        return ModernMembers::default();
    }
    let members: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(object).unwrap_or_default();
    ModernMembers {
        result_type: members.get("resultType").map(|value| Bytes::copy_from_slice(value.get().as_bytes())),
        ttl_ms: members.contains_key("ttlMs"),
        cache_scope: members.contains_key("cacheScope"),
    }
}

/// Returns the status of an error, and the edit of a code that means something else in the Modern era.
fn translate_error(message: &Bytes, outcome: Span) -> Option<(StatusCode, Option<(Span, Bytes)>)> {
    let (code, span) = error_code(message, outcome)?;
    let status =
        if code == i64::from(code::METHOD_NOT_FOUND) { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let replacement = match code {
        _ if code == i64::from(code::LEGACY_RESOURCE_NOT_FOUND) => code::INVALID_PARAMS,
        _ if RESERVED.contains(&code) => code::INTERNAL,
        _ => return Some((status, None)),
    };
    Some((status, Some((span, replacement.to_string().into()))))
}

/// Returns the code of an error, and its span.
pub fn error_code(message: &Bytes, outcome: Span) -> Option<(i64, Span)> {
    #[derive(Deserialize)]
    struct ErrorObject<'a> {
        #[serde(borrow)]
        code: &'a RawValue,
    }
    let ErrorObject { code } = serde_json::from_slice(outcome.slice(message)).ok()?;
    let raw = code.get();
    let span = Span::locate(message, raw.as_bytes())?;
    Some((raw.parse().ok()?, span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_http::multiplex::LocalBody;

    #[track_caller]
    fn check(method: &str, message: &'static str, status: u16, expected: &str) {
        let message = Bytes::from_static(message.as_bytes());
        let envelope = Scanner::new().scan(&message).expect("a message");
        let method = McpMethod::parse(method.as_bytes());
        let reply = to_modern_reply(&message, &envelope, &Bytes::from_static(b"\"x\""), method);
        let Some(LocalResponse { status: found, body: LocalBody::Message(body), .. }) = reply else {
            panic!("no answer of {message:?}")
        };
        assert_eq!((found.as_u16(), &body[..]), (status, expected.as_bytes()), "{}", body.escape_ascii());
    }

    #[test]
    fn results_are_complete() {
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":7,"result":{"content": [1.0]}}"#,
            200,
            r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":"complete","content": [1.0]}}"#,
        );
        check(
            "x/y",
            r#"{"result":{ },"id":7,"jsonrpc":"2.0"}"#,
            200,
            r#"{"result":{"resultType":"complete" },"id":"x","jsonrpc":"2.0"}"#,
        );
        check(
            "resources/read",
            r#"{"jsonrpc":"2.0","id":7,"result":{"contents":[]}}"#,
            200,
            r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":"complete","ttlMs":0,"cacheScope":"private","contents":[]}}"#,
        );
        check(
            "tools/list",
            r#"{"jsonrpc":"2.0","id":7,"result":{"tools":[{"ttlMs":1}],"resultType":"complete"}}"#,
            200,
            r#"{"jsonrpc":"2.0","id":"x","result":{"ttlMs":0,"cacheScope":"private","tools":[{"ttlMs":1}],"resultType":"complete"}}"#,
        );
        check(
            "tools/call",
            r#"{"jsonrpc":"2.0","id":7,"result":{"resultType":"complete"}}"#,
            200,
            r#"{"jsonrpc":"2.0","id":"x","result":{"resultType":"complete"}}"#,
        );
    }

    #[test]
    fn error_codes_are_translated() {
        let error = |code: &str, status: u16, expected: &str| {
            let message = format!(r#"{{"jsonrpc":"2.0","id":7,"error":{{"message":"m","code": {code}}}}}"#);
            let translated =
                format!(r#"{{"jsonrpc":"2.0","id":"x","error":{{"message":"m","code": {expected}}}}}"#);
            check("tools/call", message.leak(), status, &translated);
        };
        error("-32602", 200, "-32602");
        error("-32601", 404, "-32601");
        error("-32002", 200, "-32602");
        error("-32021", 200, "-32603");
        error("-32000", 200, "-32000");
        error("7", 200, "7");
        for unread in [
            r#"{"jsonrpc":"2.0","id":null,"error":{"code":-32002,"message":"m"}}"#,
            r#"{"jsonrpc":"2.0","error":{"code":-32002,"message":"m"}}"#,
        ] {
            let translated = r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32602,"message":"m"}}"#;
            check("tools/call", unread, 200, translated);
        }
    }

    #[test]
    fn invalid_responses_are_rejected() {
        for message in [
            r#"{"jsonrpc":"2.0","id":7,"result":5}"#,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
        ] {
            let message = Bytes::from_static(message.as_bytes());
            let envelope = Scanner::new().scan(&message).expect("a message");
            assert!(to_modern_reply(&message, &envelope, &Bytes::new(), None).is_none(), "{message:?}");
        }
    }
}
