//! Opens a session: `initialize` is answered from the server's `server/discover`.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use http::StatusCode;
use metamcp_core::frame::{MessageKind, Scanner};
use metamcp_core::protocol::{ClientCapabilities, Era, McpMethod, Revision, code};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::reply::{gateway_reply, result_response};
use super::request::{ClientMessage, gateway_request};
use super::result::{self, ServerReply};
use super::session::{ClientIntroduction, Session, SessionFeatures};
use super::session_table::SessionTable;
use crate::session::{MESSAGE_BYTES_MAX, read_terminal_message};
use crate::upstream::UpstreamPool;
use metamcp_http::multiplex::{LocalBody, LocalResponse};
use metamcp_http::{RequestKind, UpstreamError, UpstreamRequest, UpstreamResponse};

/// Server capabilities that exist in both eras, with the first Legacy revision that has them (MCP,
/// lifecycle). The gateway cannot promise the others.
const CAPABILITIES: [(&str, Revision); 6] = [
    ("experimental", Revision::V2024_11_05),
    ("logging", Revision::V2024_11_05),
    ("prompts", Revision::V2024_11_05),
    ("resources", Revision::V2024_11_05),
    ("tools", Revision::V2024_11_05),
    ("completions", Revision::V2025_03_26),
];

/// The result of `server/discover`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DiscoverResult {
    supported_versions: Vec<String>,
    capabilities: serde_json::Map<String, Value>,
    instructions: Option<String>,
    /// Where drafts of the revision had it.
    server_info: Option<Value>,
    #[serde(rename = "_meta", default)]
    meta: DiscoverMeta,
}

#[derive(Deserialize, Default)]
struct DiscoverMeta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<Value>,
}

/// The server's response to `initialize` or `server/discover`.
enum HandshakeReply {
    /// A message, with its status and the session that the server opened.
    Message(LocalResponse),
    /// A failure that says nothing about the era.
    Failed(Box<UpstreamResponse>),
}

/// Answers `initialize`. A server whose eras are unknown receives the client's `initialize` first; if it
/// refuses that but answers `server/discover`, it speaks only the Modern era.
pub async fn initialize(
    sessions: &SessionTable,
    pool: &Rc<UpstreamPool>,
    request: &UpstreamRequest,
    message: &ClientMessage,
) -> Result<Box<UpstreamResponse>, UpstreamError> {
    let upstream = pool.upstream();
    let mut refusal = None;
    if upstream.speaks(Era::Legacy).is_none() {
        match forward_initialize(pool, request).await? {
            Ok(response) => return Ok(response),
            Err(refused) => refusal = Some(refused),
        }
    }
    let Some(introduction) = parse_introduction(message) else {
        return Ok(gateway_reply(invalid_params(message, "initialize needs capabilities")));
    };
    let introduction = sessions.share_introduction(introduction);
    let draft = Session::new(upstream.id, introduction, request.owner(), SessionFeatures::default());
    let Some(discover) = gateway_request(&draft, "metamcp-discover", McpMethod::Discover, "") else {
        return Ok(gateway_reply(invalid_params(message, "initialize cannot be parsed")));
    };
    let reply = match exchange(pool, &discover).await? {
        HandshakeReply::Failed(response) if refusal.is_none() => return Ok(response),
        HandshakeReply::Failed(_) => None,
        HandshakeReply::Message(reply) => Some(reply),
    };
    if let Some(discovered) = reply.as_ref().and_then(parse_discover_result) {
        upstream.set_spoken(Era::Legacy, Some(false));
        return Ok(open_session(sessions, pool, message, &draft, &discovered));
    }
    if upstream.speaks(Era::Legacy) == Some(false) {
        // Another server may run at the address by now.
        upstream.set_spoken(Era::Legacy, None);
        if upstream.speaks(Era::Legacy).is_none() {
            let forwarded = forward_initialize(pool, request).await?;
            return Ok(forwarded.unwrap_or_else(gateway_reply));
        }
    }
    let reply = reply.map(|reply| to_initialize_error(reply, &message.id()));
    let reply = refusal.or(reply).unwrap_or_else(|| LocalResponse::from_status(StatusCode::BAD_GATEWAY));
    Ok(gateway_reply(reply))
}

/// Opens a session and returns the response to `initialize`.
fn open_session(
    sessions: &SessionTable,
    pool: &Rc<UpstreamPool>,
    message: &ClientMessage,
    draft: &Session,
    discovered: &DiscoverResult,
) -> Box<UpstreamResponse> {
    let (introduction, features) = (Arc::clone(&draft.introduction), discovered.features());
    let session = Session::new(pool.upstream().id, introduction, draft.owner, features);
    let revision = session.introduction.revision;
    let result = discovered.initialize_result(revision, pool.upstream().name().as_str()).to_string();
    let id = sessions.insert(session);
    let reply = result_response(&message.id(), result.as_bytes());
    gateway_reply(LocalResponse { session_id: Some(id), ..reply })
}

/// Whether the server still says that it speaks the Modern era. A failure counts as yes: it says nothing
/// about the era.
pub async fn still_speaks_modern(session: &Session, pool: &Rc<UpstreamPool>) -> bool {
    let Some(discover) = gateway_request(session, "metamcp-discover", McpMethod::Discover, "") else {
        return true;
    };
    match exchange(pool, &discover).await {
        Ok(HandshakeReply::Message(reply)) => parse_discover_result(&reply).is_some(),
        Ok(HandshakeReply::Failed(_)) | Err(_) => true,
    }
}

/// Forwards `initialize`, so that the server opens a session of its own. The inner error is its refusal.
async fn forward_initialize(
    pool: &Rc<UpstreamPool>,
    request: &UpstreamRequest,
) -> Result<Result<Box<UpstreamResponse>, LocalResponse>, UpstreamError> {
    Ok(match exchange(pool, request).await? {
        HandshakeReply::Failed(response) => Ok(response),
        HandshakeReply::Message(reply) if is_result(&reply) => {
            pool.upstream().set_spoken(Era::Legacy, Some(true));
            Ok(gateway_reply(reply))
        }
        HandshakeReply::Message(reply) => Err(reply),
    })
}

fn invalid_params(message: &ClientMessage, text: &str) -> LocalResponse {
    LocalResponse::from_error(StatusCode::OK, &message.id(), code::INVALID_PARAMS, text)
}

/// Sends a request to the server and reads its whole response.
async fn exchange(
    pool: &Rc<UpstreamPool>,
    request: &UpstreamRequest,
) -> Result<HandshakeReply, UpstreamError> {
    let mut response = pool.send_direct(request, RequestKind::Call).await?;
    let status = response.head.status;
    // Rejected credentials, a failure or an overload say nothing about the era.
    if !status.is_success() && (!status.is_client_error() || matches!(status.as_u16(), 401 | 403 | 407 | 429))
    {
        return Ok(HandshakeReply::Failed(response));
    }
    let message = if status.is_success() && response.head.is_event_stream() {
        read_terminal_message(&mut response.body).await?
    } else {
        response.body.collect(MESSAGE_BYTES_MAX).await?
    };
    let session_id = response.head.session_id.take();
    Ok(HandshakeReply::Message(LocalResponse { status, session_id, body: LocalBody::Message(message) }))
}

fn message_of(reply: &LocalResponse) -> &[u8] {
    match &reply.body {
        LocalBody::Message(message) => message,
        LocalBody::Events(_) | LocalBody::Failed(_) => &[],
    }
}

fn is_result(reply: &LocalResponse) -> bool {
    let scanned = Scanner::new().scan(message_of(reply));
    reply.status.is_success() && scanned.is_ok_and(|envelope| envelope.kind == MessageKind::Response)
}

/// Parses the result of `server/discover`; `None` unless the server speaks the Modern era.
fn parse_discover_result(reply: &LocalResponse) -> Option<DiscoverResult> {
    #[derive(Deserialize)]
    struct DiscoverResponse {
        result: DiscoverResult,
    }
    let DiscoverResponse { result } =
        serde_json::from_slice(message_of(reply)).ok().filter(|_| reply.status.is_success())?;
    let is_modern = |version: &String| {
        Revision::parse(version.as_bytes()).is_some_and(|revision| revision.era() == Era::Modern)
    };
    result.supported_versions.iter().any(is_modern).then_some(result)
}

/// Turns a refusal of `server/discover` into one of `initialize`: an error under the client's id. A response
/// that is not a JSON-RPC error stays as it is.
fn to_initialize_error(reply: LocalResponse, id: &Bytes) -> LocalResponse {
    let message = Bytes::copy_from_slice(message_of(&reply));
    let envelope = Scanner::new().scan(&message).ok().filter(|envelope| envelope.kind == MessageKind::Error);
    match envelope.map(|envelope| result::parse_reply(&message, &envelope, id)) {
        Some(Ok(ServerReply::Final(message))) => LocalResponse::from_message(message),
        _ => reply,
    }
}

/// Parses the params of `initialize`.
fn parse_introduction(message: &ClientMessage) -> Option<ClientIntroduction> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct InitializeParams<'a> {
        protocol_version: String,
        #[serde(borrow)]
        capabilities: &'a RawValue,
        #[serde(borrow)]
        client_info: Option<&'a RawValue>,
    }
    let params = message.envelope.params.object?.slice(&message.bytes);
    let params: InitializeParams<'_> = serde_json::from_slice(params).ok()?;
    let capabilities = ClientCapabilities::from_json(params.capabilities.get().as_bytes()).ok()?;
    let revision = Revision::parse(params.protocol_version.as_bytes());
    Some(ClientIntroduction {
        revision: revision
            .filter(|revision| revision.era() == Era::Legacy)
            .unwrap_or(Revision::LEGACY_LATEST),
        capabilities,
        // The Modern era has no notification for changed roots.
        declared: capabilities.without(ClientCapabilities::ROOTS_LIST_CHANGED).to_json().into(),
        client_info: params
            .client_info
            .filter(|info| info.get().starts_with('{'))
            .map(|info| Bytes::copy_from_slice(info.get().as_bytes())),
    })
}

impl DiscoverResult {
    fn features(&self) -> SessionFeatures {
        let is_on = |name: &str, member: &str| {
            self.capabilities.get(name).is_some_and(|value| value[member] == Value::Bool(true))
        };
        SessionFeatures {
            logging: self.capabilities.contains_key("logging"),
            subscribe: is_on("resources", "subscribe"),
            tools_changed: is_on("tools", "listChanged"),
            prompts_changed: is_on("prompts", "listChanged"),
            resources_changed: is_on("resources", "listChanged"),
        }
    }

    /// Builds the result of `initialize`. `name` is the server's configured name.
    fn initialize_result(&self, revision: Revision, name: &str) -> Value {
        let common = CAPABILITIES.iter().filter(|(_, since)| *since <= revision);
        let capabilities: serde_json::Map<_, _> = common
            .filter_map(|(name, _)| Some(((*name).to_owned(), self.capabilities.get(*name)?.clone())))
            .collect();
        let info = self.meta.server_info.as_ref().or(self.server_info.as_ref());
        // `serverInfo` is required in `initialize` (MCP, lifecycle) and optional in `server/discover`.
        let unnamed = || serde_json::json!({"name": name, "version": "unknown"});
        let mut result = serde_json::json!({
            "protocolVersion": revision.as_str(),
            "capabilities": capabilities,
            "serverInfo": info.filter(|info| info.is_object()).cloned().unwrap_or_else(unnamed),
        });
        if let Some(instructions) = &self.instructions {
            result["instructions"] = Value::from(instructions.as_str());
        }
        result
    }
}

#[cfg(test)]
mod tests {
    use super::super::request::tests::read;
    use super::*;

    fn discover(result: &str) -> Option<DiscoverResult> {
        parse_discover_result(&LocalResponse::from_message(
            format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#).into(),
        ))
    }

    #[test]
    fn no_capability_is_invented() {
        let check = |revision, capabilities: &str, expected: &str| {
            let discovered = discover(&format!(
                r#"{{"supportedVersions":["2026-07-28"],"capabilities":{capabilities},"_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"s"}}}}}}"#
            ));
            let result = discovered.unwrap().initialize_result(revision, "a");
            assert_eq!(result["capabilities"].to_string(), expected);
            assert_eq!(result["serverInfo"]["name"], "s");
            assert_eq!(result["protocolVersion"], revision.as_str());
        };
        let all = r#"{"tools":{"listChanged":true},"logging":{},"completions":{},"extensions":{"x":{}}}"#;
        check(Revision::V2025_11_25, all, r#"{"completions":{},"logging":{},"tools":{"listChanged":true}}"#);
        check(Revision::V2024_11_05, all, r#"{"logging":{},"tools":{"listChanged":true}}"#);
        check(Revision::V2025_11_25, "{}", "{}");
    }

    #[test]
    fn servers_of_the_modern_era_are_recognized() {
        let check =
            |result: &str, expected: bool| assert_eq!(discover(result).is_some(), expected, "{result}");
        check(r#"{"supportedVersions":["2024-11-05","2026-07-28"],"capabilities":{}}"#, true);
        check(r#"{"supportedVersions":["2025-11-25"],"capabilities":{}}"#, false);
        check(r#"{"supportedVersions":["2026-07-28"]}"#, false);
        check("{}", false);
        assert!(parse_discover_result(&LocalResponse::from_status(StatusCode::NOT_FOUND)).is_none());
        let unnamed = discover(r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#).unwrap();
        assert_eq!(unnamed.initialize_result(Revision::LEGACY_LATEST, "a")["serverInfo"]["name"], "a");
    }

    #[test]
    fn initialize_params_are_parsed() {
        let check = |params: &str, expected: Option<(&str, &str)>| {
            let message = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#);
            let found = parse_introduction(&read(&message));
            let found = found.map(|found| (found.revision.as_str(), found.declared));
            assert_eq!(found, expected.map(|(revision, declared)| (revision, declared.to_owned().into())));
        };
        check(
            r#"{"protocolVersion":"2025-03-26","capabilities":{"roots":{"listChanged":true},"tasks":{}},"clientInfo":{"name":"c"}}"#,
            Some(("2025-03-26", r#"{"roots":{}}"#)),
        );
        check(r#"{"protocolVersion":"2026-07-28","capabilities":{}}"#, Some(("2025-11-25", "{}")));
        check(r#"{"protocolVersion":"2025-03-26"}"#, None);
    }
}
