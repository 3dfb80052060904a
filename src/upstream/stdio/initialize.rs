//! The messages by which a process is initialized or probed.

use bytes::Bytes;
use serde::Deserialize;
use serde_json::value::RawValue;

use metamcp_core::frame::{Envelope, MessageKind};
use metamcp_core::protocol::{ClientCapabilities, Era, Revision};

/// `params` of the gateway's own `server/discover` (MCP 2026-07-28, basic).
pub const DISCOVER_PARAMS: &[u8] = br#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{},"io.modelcontextprotocol/clientInfo":{"name":"metamcp","version":"1"}}}"#;

/// Error codes that only the Modern era has.
const MODERN_CODES: std::ops::RangeInclusive<i32> = -32022..=-32020;

/// Returns the era that a response to `server/discover` shows: a result, or an error that only the Modern era
/// has, is Modern; any other error is Legacy (MCP 2026-07-28, versioning).
pub fn detect_era(response: &Bytes, envelope: &Envelope) -> Era {
    #[derive(Deserialize)]
    struct ErrorObject {
        code: i32,
    }
    let outcome = envelope.outcome.map_or(&b""[..], |span| span.slice(response));
    let is_modern = match envelope.kind {
        MessageKind::Response => true,
        _ => serde_json::from_slice(outcome).is_ok_and(|ErrorObject { code }| MODERN_CODES.contains(&code)),
    };
    if is_modern { Era::Modern } else { Era::Legacy }
}

/// Returns `params` of the gateway's own `initialize`, for a process that cannot know which of its clients
/// has which capabilities.
pub fn own_initialize_params() -> Bytes {
    let revision = Revision::LEGACY_LATEST;
    let version = env!("CARGO_PKG_VERSION");
    format!(
        r#"{{"protocolVersion":"{revision}","capabilities":{{}},"clientInfo":{{"name":"metamcp","version":"{version}"}}}}"#
    )
    .into()
}

/// Reduces `params` of `initialize` to what clients that share a process must have in common: revision and
/// capabilities. Their names do not matter.
pub fn sharing_key(params: &Bytes) -> Bytes {
    #[derive(Deserialize)]
    struct InitializeParams<'a> {
        #[serde(borrow, rename = "protocolVersion")]
        revision: Option<&'a RawValue>,
        capabilities: Option<serde_json::Value>,
    }
    // What cannot be read is equal to nothing but itself.
    let Ok(read) = serde_json::from_slice::<InitializeParams<'_>>(params) else { return params.clone() };
    let revision = read.revision.map_or("null", RawValue::get);
    // The members of an object come out in one order, however they were written.
    format!("{revision} {}", read.capabilities.unwrap_or_default()).into()
}

/// Returns the capabilities that `params` of `initialize` declare. Of those that cannot be read, all are
/// assumed: the program may ask for any.
pub fn capabilities_of(params: &[u8]) -> ClientCapabilities {
    #[derive(Deserialize)]
    struct InitializeParams<'a> {
        #[serde(borrow)]
        capabilities: Option<&'a RawValue>,
    }
    let Ok(read) = serde_json::from_slice::<InitializeParams<'_>>(params) else {
        return ClientCapabilities::ALL;
    };
    let Some(capabilities) = read.capabilities else { return ClientCapabilities::default() };
    ClientCapabilities::from_json(capabilities.get().as_bytes()).unwrap_or(ClientCapabilities::ALL)
}

/// Creates a response to another client's `initialize` from the stored one: the same outcome, under the
/// client's raw id.
pub fn with_id(id: &[u8], response: &Bytes, envelope: &Envelope) -> Bytes {
    let outcome = envelope.outcome.map_or(&b"null"[..], |span| span.slice(response));
    let member: &[u8] = if envelope.kind == MessageKind::Response { b"result" } else { b"error" };
    [br#"{"jsonrpc":"2.0","id":"#, id, b",\"", member, b"\":", outcome, b"}"].concat().into()
}

/// Removes the tasks capability from a response to `initialize`. A process that all clients share would show
/// every client's tasks to every other (MCP 2025-11-25, tasks, security: requestors that cannot be told
/// apart).
pub fn without_tasks(response: Bytes) -> Bytes {
    let read: Option<serde_json::Value> = serde_json::from_slice(&response).ok();
    let Some(mut read) = read.filter(|read| !read["result"]["capabilities"]["tasks"].is_null()) else {
        return response;
    };
    if let Some(capabilities) = read["result"]["capabilities"].as_object_mut() {
        capabilities.remove("tasks");
    }
    read.to_string().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use metamcp_core::frame::Scanner;

    #[test]
    fn similar_clients_share() {
        let check = |one: &str, other: &str, is_shared: bool| {
            let (one, other) = (sharing_key(&one.to_owned().into()), sharing_key(&other.to_owned().into()));
            assert_eq!(one == other, is_shared, "{one:?} {other:?}");
        };
        let a = r#"{"protocolVersion":"2025-06-18","capabilities":{"roots":{},"sampling":{}},"clientInfo":{"name":"a"}}"#;
        let b = r#"{"clientInfo":{"name":"b"},"capabilities":{"sampling":{}, "roots":{}},"protocolVersion":"2025-06-18"}"#;
        check(a, b, true);
        check(a, &b.replace("06-18", "11-25"), false);
        check(a, &b.replace(r#", "roots":{}"#, ""), false);
        check(a, "{}", false);
        check("[1]", "[2]", false);
    }

    #[test]
    fn a_shared_process_has_no_tasks() {
        let check = |message: &'static str, expected: &str| {
            assert_eq!(without_tasks(Bytes::from_static(message.as_bytes())), expected);
        };
        check(
            r#"{"id":1,"result":{"capabilities":{"tasks":{"list":{}},"tools":{}}}}"#,
            r#"{"id":1,"result":{"capabilities":{"tools":{}}}}"#,
        );
        for same in [r#"{"id":1, "result":{"capabilities":{"tools":{}}}}"#, r#"{"id":1,"error":{}}"#, "no"] {
            check(same, same);
        }
    }

    #[test]
    fn detects_eras() {
        let check = |response: &'static str, expected: Era| {
            let response = Bytes::from_static(response.as_bytes());
            let envelope = Scanner::new().scan(&response).unwrap();
            assert_eq!(detect_era(&response, &envelope), expected, "{response:?}");
        };
        check(r#"{"jsonrpc":"2.0","id":1,"result":{"capabilities":{}}}"#, Era::Modern);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32022,"message":""}}"#, Era::Modern);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32601,"message":""}}"#, Era::Legacy);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32000,"message":""}}"#, Era::Legacy);
        check(r#"{"jsonrpc":"2.0","id":1,"error":{"message":""}}"#, Era::Legacy);
    }

    #[test]
    fn the_first_response_serves_the_next_client() {
        let check = |response: &'static str, id: &str, expected: &str| {
            let response = Bytes::from_static(response.as_bytes());
            let envelope = Scanner::new().scan(&response).unwrap();
            assert_eq!(with_id(id.as_bytes(), &response, &envelope), expected);
        };
        let response = r#"{"result": {"a": [1]}, "jsonrpc":"2.0","id":1}"#;
        check(response, "\"x\"", r#"{"jsonrpc":"2.0","id":"x","result":{"a": [1]}}"#);
        let response = r#"{"jsonrpc":"2.0","id":1,"error":{"code":1,"message":"no"}}"#;
        check(response, "0", r#"{"jsonrpc":"2.0","id":0,"error":{"code":1,"message":"no"}}"#);
    }
}
