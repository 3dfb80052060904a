//! What a Legacy server answers, as a Modern client reads it.

use std::borrow::Cow;
use std::collections::HashMap;

use bytes::{BufMut, Bytes, BytesMut};
use http::StatusCode;
use memchr::memmem;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::request::edited;
use crate::frame::{Envelope, Kind as FrameKind, Scanner, Span};
use crate::protocol::{Method, code};
use crate::upstream::shim::Reply;

/// The codes that the Modern era has for itself (MCP 2026-07-28, errors): a server of the other era means
/// something else by them.
const RESERVED: std::ops::RangeInclusive<i64> = -32099..=-32020;

/// The answer under the client's own id; `None` when the message is none.
pub fn answer(message: &Bytes, envelope: &Envelope, id: &Bytes, method: Option<Method>) -> Option<Reply> {
    let outcome = envelope.outcome?;
    let Some(own) = envelope.id else {
        // An error of a message that the server could not read has none.
        let message = [br#"{"jsonrpc":"2.0","id":null,"error":"#, outcome.of(message), b"}"].concat();
        let message = Bytes::from(message);
        let envelope = Scanner::new().scan(&message).ok().filter(|envelope| envelope.id.is_some())?;
        return answer(&message, &envelope, id, method);
    };
    let (status, edit) = match envelope.kind {
        FrameKind::Response => (StatusCode::OK, Some(completed(message, outcome, method)?)),
        FrameKind::Error => error(message, outcome)?,
        FrameKind::Request | FrameKind::Notification => return None,
    };
    let mut edits = vec![(own.span, id.clone())];
    edits.extend(edit);
    edits.sort_by_key(|(span, _)| span.start);
    Some(Reply { status, ..Reply::message(edited(message, &edits)?) })
}

/// What a result of the Modern era has beside what a Legacy one has (MCP 2026-07-28, basic and caching). What
/// nobody says may be kept is stale at once, and it was made for this client.
fn completed(message: &Bytes, outcome: Span, method: Option<Method>) -> Option<(Span, Bytes)> {
    let object = outcome.of(message);
    let rest = object.strip_prefix(b"{")?.trim_ascii_start();
    let said = said(object);
    let mut added = BytesMut::with_capacity(64);
    let mut add = |member: &str| {
        added.put_slice(member.as_bytes());
        added.put_u8(b',');
    };
    match said.result_type.as_deref() {
        None => add(r#""resultType":"complete""#),
        Some(b"\"complete\"") => {}
        // No word of the era that the server speaks: whoever believed it would skip what is asked of such
        // results.
        Some(_) => return None,
    }
    if method.is_some_and(is_cached) {
        if !said.ttl_ms {
            add(r#""ttlMs":0"#);
        }
        if !said.cache_scope {
            add(r#""cacheScope":"private""#);
        }
    }
    if rest.starts_with(b"}") && !added.is_empty() {
        added.truncate(added.len() - 1);
    }
    let at = outcome.start + 1;
    Some((Span { start: at, end: at }, added.freeze()))
}

/// Whether results of the method say how long they may be kept.
fn is_cached(method: Method) -> bool {
    matches!(
        method,
        Method::ToolsList
            | Method::PromptsList
            | Method::ResourcesList
            | Method::TemplatesList
            | Method::ResourcesRead
    )
}

#[derive(Default)]
struct Said {
    /// The raw value.
    result_type: Option<Bytes>,
    ttl_ms: bool,
    cache_scope: bool,
}

/// Which of the members are there already. Most results have none of the words in them, nor a name with an
/// escape, which is seen without reading.
fn said(object: &[u8]) -> Said {
    let has = |word: &str| memmem::find(object, word.as_bytes()).is_some();
    if !["\"resultType\"", "\"ttlMs\"", "\"cacheScope\"", "\\u"].into_iter().any(has) {
        return Said::default();
    }
    let members: HashMap<Cow<'_, str>, &RawValue> = serde_json::from_slice(object).unwrap_or_default();
    Said {
        result_type: members.get("resultType").map(|said| Bytes::copy_from_slice(said.get().as_bytes())),
        ttl_ms: members.contains_key("ttlMs"),
        cache_scope: members.contains_key("cacheScope"),
    }
}

/// The status of an error, and its code in place of one that means something else in the Modern era.
fn error(message: &Bytes, outcome: Span) -> Option<(StatusCode, Option<(Span, Bytes)>)> {
    let (code, span) = error_code(message, outcome)?;
    let status =
        if code == i64::from(code::METHOD_NOT_FOUND) { StatusCode::NOT_FOUND } else { StatusCode::OK };
    let instead = match code {
        _ if code == i64::from(code::LEGACY_RESOURCE_NOT_FOUND) => code::INVALID_PARAMS,
        _ if RESERVED.contains(&code) => code::INTERNAL,
        _ => return Some((status, None)),
    };
    Some((status, Some((span, instead.to_string().into()))))
}

/// The code of an error, and where it stands.
pub fn error_code(message: &Bytes, outcome: Span) -> Option<(i64, Span)> {
    #[derive(Deserialize)]
    struct Error<'a> {
        #[serde(borrow)]
        code: &'a RawValue,
    }
    let Error { code } = serde_json::from_slice(outcome.of(message)).ok()?;
    let raw = code.get();
    let span = Span::within(message, raw.as_bytes())?;
    Some((raw.parse().ok()?, span))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::shim::ReplyBody;

    #[track_caller]
    fn check(method: &str, message: &'static str, status: u16, expected: &str) {
        let message = Bytes::from_static(message.as_bytes());
        let envelope = Scanner::new().scan(&message).expect("a message");
        let method = Method::parse(method.as_bytes());
        let reply = answer(&message, &envelope, &Bytes::from_static(b"\"x\""), method);
        let Some(Reply { status: found, body: ReplyBody::Whole(body), .. }) = reply else {
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
    fn errors_mean_the_same() {
        let error = |code: &str, status: u16, expected: &str| {
            let message = format!(r#"{{"jsonrpc":"2.0","id":7,"error":{{"message":"m","code": {code}}}}}"#);
            let told =
                format!(r#"{{"jsonrpc":"2.0","id":"x","error":{{"message":"m","code": {expected}}}}}"#);
            check("tools/call", message.leak(), status, &told);
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
            let told = r#"{"jsonrpc":"2.0","id":"x","error":{"code":-32602,"message":"m"}}"#;
            check("tools/call", unread, 200, told);
        }
    }

    #[test]
    fn what_is_no_answer() {
        for message in [
            r#"{"jsonrpc":"2.0","id":7,"result":5}"#,
            r#"{"jsonrpc":"2.0","id":7,"error":{"code":"x"}}"#,
            r#"{"jsonrpc":"2.0","id":7,"method":"ping"}"#,
        ] {
            let message = Bytes::from_static(message.as_bytes());
            let envelope = Scanner::new().scan(&message).expect("a message");
            assert!(answer(&message, &envelope, &Bytes::new(), None).is_none(), "{message:?}");
        }
    }
}
