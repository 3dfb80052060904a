//! `server/discover`, answered from the server's response to `initialize`.

use std::rc::Rc;
use std::sync::Arc;

use http::StatusCode;
use metamcp_core::protocol::{Revision, code};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::request::ModernRequest;
use super::session::AdapterSession;
use crate::upstream::UpstreamPool;
use metamcp_http::multiplex::LocalResponse;

/// The capabilities of a Legacy server that mean the same in the Modern era; the others do not exist there.
const SHARED_CAPABILITIES: [&str; 7] =
    ["tools", "prompts", "resources", "logging", "completions", "experimental", "extensions"];

pub async fn discover(
    session: &Arc<AdapterSession>,
    pool: &Rc<UpstreamPool>,
    request: &ModernRequest,
) -> LocalResponse {
    // No call begins here: requests that the server sends as soon as its session is open have no client to go
    // to, and are refused.
    if !session.touch() {
        return request.refusal(StatusCode::SERVICE_UNAVAILABLE, code::INTERNAL, "try again");
    }
    if let Err(fault) = session.open(pool).await {
        return request.fault_reply(&fault);
    }
    let response = session.initialize_response().unwrap_or_default();
    let (id, result) = (String::from_utf8_lossy(&request.id()).into_owned(), discover_result(&response));
    LocalResponse::from_message(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#).into())
}

fn discover_result(initialize_response: &[u8]) -> Value {
    #[derive(Deserialize, Default)]
    struct InitializeResponse {
        result: InitializeResult,
    }
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct InitializeResult {
        capabilities: Map<String, Value>,
        server_info: Value,
        instructions: Option<String>,
    }
    let InitializeResponse { result } = serde_json::from_slice(initialize_response).unwrap_or_default();
    let is_shared = |name: &String| SHARED_CAPABILITIES.contains(&name.as_str());
    let capabilities = result.capabilities.into_iter().filter(|(name, _)| is_shared(name));
    let mut discovered = json!({
        "resultType": "complete",
        "supportedVersions": [Revision::MODERN_LATEST.as_str()],
        "capabilities": capabilities.collect::<Map<_, _>>(),
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {"io.modelcontextprotocol/serverInfo": result.server_info},
    });
    if let Some(instructions) = result.instructions {
        discovered["instructions"] = instructions.into();
    }
    discovered
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn initialize_results_become_discover_results() {
        let check = |response: &str, expected: Value| {
            let found = discover_result(response.as_bytes());
            assert_eq!(found["capabilities"], expected["capabilities"], "{found}");
            assert_eq!(found["instructions"], expected["instructions"], "{found}");
            assert_eq!(
                found["_meta"]["io.modelcontextprotocol/serverInfo"], expected["serverInfo"],
                "{found}"
            );
            assert_eq!((&found["resultType"], &found["cacheScope"]), (&json!("complete"), &json!("private")));
        };
        let result = json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {"tools": {"listChanged": true}, "tasks": {"list": {}}, "logging": {}},
            "serverInfo": {"name": "x", "version": "1"},
            "instructions": "do",
        });
        let mut expected = result.clone();
        expected["capabilities"] = json!({"tools": {"listChanged": true}, "logging": {}});
        check(&json!({"jsonrpc": "2.0", "id": 0, "result": result}).to_string(), expected);
        check("nonsense", json!({"capabilities": {}}));
    }
}
