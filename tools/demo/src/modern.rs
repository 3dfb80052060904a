//! The Modern era, 2026-07-28: every request contains all that is needed to handle it, and headers that repeat what routing
//! needs. Specification: <https://modelcontextprotocol.io/specification/2026-07-28>.

use std::rc::Rc;

use http::{HeaderMap, StatusCode};
use serde_json::{Value, json};
use tokio::sync::mpsc;

use crate::{
    call::modern_client,
    content::ServerContent,
    dispatch::{Server, modern_status},
    exchange::{self, Reply, error_reply},
    headers,
    hub::SubscriptionFilter,
    message::{Message, Params, notification},
    protocol::{Era, MODERN, RpcError, code, meta},
    sse::{EventBody, QUEUE_MESSAGES_MAX},
};

pub async fn post<C: ServerContent>(server: &Rc<Server<C>>, headers: &HeaderMap, message: Message) -> Reply {
    let (id, method, params) = match message {
        Message::Request { id, method, params } => (id, method, params),
        Message::Notification { .. } => return exchange::empty(StatusCode::ACCEPTED),
        Message::Response { id, .. } => {
            let text = "Clients send no responses in this revision";
            return error_reply(StatusCode::BAD_REQUEST, &id, RpcError::new(code::INVALID_REQUEST, text));
        }
    };
    if let Err(error) = check(server, headers, &method, &params) {
        // Without the required `_meta` the HTTP request is malformed too; otherwise -32602 has the status 200.
        let status =
            if error.code == code::INVALID_PARAMS { StatusCode::BAD_REQUEST } else { modern_status(&error) };
        return error_reply(status, &id, error);
    }
    let client = match modern_client(&params["_meta"], MODERN) {
        Ok(client) => client,
        Err(error) => return error_reply(StatusCode::BAD_REQUEST, &id, error),
    };
    if method == "subscriptions/listen" {
        return listen(server, &id, &params);
    }
    exchange::run(server, id, method, params, client).await
}

/// Checks all that can be checked before the method is dispatched.
fn check<C: ServerContent>(
    server: &Server<C>,
    headers: &HeaderMap,
    method: &str,
    params: &Params,
) -> Result<(), RpcError> {
    if !headers.contains_key(headers::PROTOCOL_VERSION) {
        return Err(RpcError::new(code::HEADER_MISMATCH, "The header MCP-Protocol-Version is missing"));
    }
    let meta = params.get("_meta").unwrap_or(&Value::Null);
    let (Some(version), true) =
        (meta[meta::PROTOCOL_VERSION].as_str(), meta[meta::CLIENT_CAPABILITIES].is_object())
    else {
        let text =
            format!("params._meta must hold {} and {}", meta::PROTOCOL_VERSION, meta::CLIENT_CAPABILITIES);
        return Err(RpcError::invalid_params(text));
    };
    headers::require(headers, headers::PROTOCOL_VERSION, version)?;
    if version != MODERN {
        return Err(RpcError::unsupported_version(version));
    }
    headers::require(headers, "mcp-method", method)?;
    let subject = match method {
        "tools/call" | "prompts/get" => params.get("name"),
        "resources/read" => params.get("uri"),
        _ => None,
    };
    if let Some(subject) = subject.and_then(Value::as_str) {
        headers::require(headers, "mcp-name", subject)?;
        if method == "tools/call" {
            let tools = server.content.tools(Era::Modern);
            let schema = tools.iter().find(|tool| tool["name"] == subject).map(|tool| &tool["inputSchema"]);
            let arguments = params.get("arguments").and_then(Value::as_object);
            headers::check_params(headers, schema.unwrap_or(&Value::Null), arguments)?;
        }
    }
    Ok(())
}

/// Opens a subscription stream. The client ends it by closing the connection.
fn listen<C: ServerContent>(server: &Rc<Server<C>>, id: &Value, params: &Params) -> Reply {
    let filter = SubscriptionFilter::parse(params.get("notifications").unwrap_or(&Value::Null));
    let acknowledged = notification(
        "notifications/subscriptions/acknowledged",
        &json!({ "_meta": { meta::SUBSCRIPTION_ID: id }, "notifications": filter.to_value() }),
    );
    let (stream, messages) = mpsc::channel(QUEUE_MESSAGES_MAX);
    if !server.hub.listen(id.clone(), filter, stream) {
        let error = RpcError::new(code::INTERNAL, "Too many streams are open: try again later");
        return error_reply(StatusCode::SERVICE_UNAVAILABLE, id, error);
    }
    exchange::events(EventBody::new(Some(acknowledged), messages, None))
}
