//! Maps a method to the content that handles it, and an [`HandlerResult`] to its form on the wire.
//!
//! Knows the methods and result fields of both eras, but neither headers nor sockets.

use std::rc::Rc;

use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    call::Call,
    content::{ServerContent, text},
    handler_result::{HandlerError, HandlerResult},
    hub::Hub,
    protocol::{Era, LogLevel, MODERN, RpcError, SupportedEras, code, meta},
};

/// How long a client may cache a list, in milliseconds. Clients with a stream are notified of changes; the others lag behind
/// by at most this time.
const LIST_TTL_MS: u64 = 300_000;

/// The behaviour of a server, apart from its content.
#[derive(Clone, Debug, Default)]
pub struct ServerOptions {
    /// The eras that it speaks.
    pub eras: SupportedEras,
    /// Entries on one page of a list; `None` puts all on one page.
    pub page_size: Option<usize>,
    /// Whether clients of 2025-11-25 can resume the stream of a call. Every call then has a stream.
    pub resumable: bool,
}

/// One server: its content and its connected clients.
pub struct Server<C> {
    pub content: C,
    pub options: ServerOptions,
    pub hub: Rc<Hub>,
}

/// Returns the capabilities of every server on this layer; the same in both eras.
pub fn capabilities() -> Value {
    json!({
        "tools": { "listChanged": true },
        "prompts": { "listChanged": true },
        "resources": { "subscribe": true, "listChanged": true },
        "completions": {},
        "logging": {},
    })
}

pub async fn dispatch<C: ServerContent>(server: &Server<C>, method: &str, call: &Call) -> HandlerResult {
    let content = &server.content;
    match (method, call.era) {
        ("tools/list", era) => page(&server.options, call, "tools", content.tools(era)),
        ("prompts/list", _) => page(&server.options, call, "prompts", content.prompts()),
        ("resources/list", _) => page(&server.options, call, "resources", content.resources()),
        ("resources/templates/list", _) => {
            page(&server.options, call, "resourceTemplates", content.resource_templates())
        }
        ("tools/call", _) => call_tool(server, call).await,
        ("prompts/get", _) => content.get_prompt(named(call, "name")?, call).await,
        ("resources/read", _) => content.read_resource(named(call, "uri")?, call).await,
        ("completion/complete", _) => complete(content, call),
        ("server/discover", Era::Modern) => Ok(discover(content)),
        (_, Era::Legacy) => legacy(method, call),
        _ => Err(RpcError::method_not_found().into()),
    }
}

/// The methods that 2026-07-28 removed.
fn legacy(method: &str, call: &Call) -> HandlerResult {
    let Some(session) = &call.client.session else { return Err(RpcError::method_not_found().into()) };
    match method {
        "ping" => {}
        "logging/setLevel" => {
            let level = LogLevel::parse(named(call, "level")?);
            session.log_level.set(level.ok_or_else(|| RpcError::invalid_params("The log level is unknown"))?);
        }
        "resources/subscribe" => session.subscribe(named(call, "uri")?)?,
        "resources/unsubscribe" => session.unsubscribe(named(call, "uri")?),
        _ => return Err(RpcError::method_not_found().into()),
    }
    Ok(json!({}))
}

fn discover<C: ServerContent>(content: &C) -> Value {
    let mut result = json!({ "supportedVersions": [MODERN], "capabilities": capabilities() });
    if let Some(instructions) = content.instructions() {
        result["instructions"] = json!(instructions);
    }
    result
}

async fn call_tool<C: ServerContent>(server: &Server<C>, call: &Call) -> HandlerResult {
    let name = named(call, "name")?;
    if call.params.get("arguments").is_some_and(|arguments| !arguments.is_object()) {
        return Err(RpcError::invalid_params("arguments must be an object").into());
    }
    let count = call.hub.count_call();
    let answer = server.content.call_tool(name, call).await;
    count.finish();
    match answer {
        Err(HandlerError::Failed(reason)) => {
            let mut result = text(reason);
            result["isError"] = json!(true);
            Ok(result)
        }
        answer => answer,
    }
}

fn complete<C: ServerContent>(content: &C, call: &Call) -> HandlerResult {
    let part = |key: &str| call.params.get("argument").and_then(|argument| argument[key].as_str());
    let (Some(reference), Some(argument), Some(prefix)) =
        (call.params.get("ref"), part("name"), part("value"))
    else {
        return Err(RpcError::invalid_params("ref and argument {name, value} are required").into());
    };
    // At most 100 values may be sent: https://modelcontextprotocol.io/specification/2026-07-28/server/utilities/completion
    let mut values = content.complete(reference, argument, prefix);
    let total = values.len();
    values.truncate(100);
    Ok(json!({ "completion": { "values": values, "total": total, "hasMore": total > 100 } }))
}

fn named<'a>(call: &'a Call, key: &str) -> Result<&'a str, HandlerError> {
    let missing = || RpcError::invalid_params(format!("{key} must be a string"));
    call.params.get(key).and_then(Value::as_str).ok_or_else(|| missing().into())
}

/// Returns one page of a list. A cursor holds the number of entries before the page, which clients must not rely on.
fn page(options: &ServerOptions, call: &Call, key: &str, entries: Vec<Value>) -> HandlerResult {
    let total = entries.len();
    let size = options.page_size.unwrap_or(total).max(1);
    let start = match call.params.get("cursor") {
        None => 0,
        Some(cursor) => {
            let start =
                cursor.as_str().and_then(|cursor| cursor.strip_prefix("after-")?.parse::<usize>().ok());
            let known = start.filter(|start| options.page_size.is_some() && (1..=total).contains(start));
            known.ok_or_else(|| RpcError::invalid_params("The cursor is not one of this list"))?
        }
    };
    let entries: Vec<Value> = entries.into_iter().skip(start).take(size).collect();
    let end = start + entries.len();
    let mut result = json!({ key: entries });
    if end < total {
        result["nextCursor"] = json!(format!("after-{end}"));
    }
    Ok(result)
}

/// Returns the HTTP status and the result or error of a finished request.
pub fn finish(
    method: &str,
    era: Era,
    info: &Value,
    answer: HandlerResult,
) -> (StatusCode, Result<Value, RpcError>) {
    let outcome = match (answer, era) {
        (Ok(result), Era::Legacy) => Ok(result),
        (Ok(result), Era::Modern) => Ok(modern_result(method, info, result)),
        (Err(HandlerError::Error(error)), _) => Err(error),
        (Err(HandlerError::Failed(reason)), _) => Err(RpcError::new(code::INTERNAL, reason)),
        (Err(HandlerError::InputRequired { requests, state }), _) => {
            let mut result = json!({ "resultType": "input_required", "inputRequests": requests });
            if let Some(state) = state {
                result["requestState"] = json!(state);
            }
            result["_meta"] = json!({ meta::SERVER_INFO: info });
            Ok(result)
        }
    };
    let status = match (&outcome, era) {
        (Err(error), Era::Modern) => modern_status(error),
        _ => StatusCode::OK,
    };
    (status, outcome)
}

/// Adds the members that every complete Modern result has.
fn modern_result(method: &str, info: &Value, mut result: Value) -> Value {
    result["resultType"] = json!("complete");
    result["_meta"] = json!({ meta::SERVER_INFO: info });
    let hint = match method {
        "tools/list" | "prompts/list" | "resources/list" | "resources/templates/list" | "server/discover" => {
            Some((LIST_TTL_MS, "public"))
        }
        // A resource may change at any time, and may depend on the client.
        "resources/read" => Some((0, "private")),
        _ => None,
    };
    if let Some((ttl_ms, scope)) = hint {
        result["ttlMs"] = json!(ttl_ms);
        result["cacheScope"] = json!(scope);
    }
    result
}

/// Returns the HTTP status of a Modern error, if no stream has begun.
pub fn modern_status(error: &RpcError) -> StatusCode {
    match error.code {
        code::METHOD_NOT_FOUND => StatusCode::NOT_FOUND,
        code::PARSE
        | code::INVALID_REQUEST
        | code::HEADER_MISMATCH
        | code::MISSING_CAPABILITY
        | code::UNSUPPORTED_VERSION => StatusCode::BAD_REQUEST,
        _ => StatusCode::OK,
    }
}
