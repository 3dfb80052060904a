//! How a session with a server that has none is opened: answered from what the server says of itself.

use std::rc::Rc;
use std::sync::{Arc, PoisonError};

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use super::request::{Request, own};
use super::session::{Introduced, Session};
use super::{LegacyFace, inside, result};
use crate::frame::{Kind, Scanner};
use crate::protocol::{ClientCapabilities, Era, Method, Revision, code};
use crate::session::{MESSAGE_BYTES_MAX, read_terminal};
use crate::upstream::shim::{Reply, ReplyBody};
use crate::upstream::{Answered, Lane, Outgoing, Pool, UpstreamError};

/// What a server offers that a session has to do with.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[expect(clippy::struct_excessive_bools, reason = "each is a member of its own in the protocol")]
pub struct Offers {
    /// `logging`
    pub logging: bool,
    /// `resources.subscribe`
    pub subscribe: bool,
    /// `tools.listChanged`
    pub tools_changed: bool,
    /// `prompts.listChanged`
    pub prompts_changed: bool,
    /// `resources.listChanged`
    pub resources_changed: bool,
}

/// Capabilities of servers that both eras know, with the first revision that does (MCP, lifecycle). The rest
/// is not the gateway's to promise.
const CAPABILITIES: [(&str, Revision); 6] = [
    ("experimental", Revision::V2024_11_05),
    ("logging", Revision::V2024_11_05),
    ("prompts", Revision::V2024_11_05),
    ("resources", Revision::V2024_11_05),
    ("tools", Revision::V2024_11_05),
    ("completions", Revision::V2025_03_26),
];

/// What a server says of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Discovered {
    supported_versions: Vec<String>,
    capabilities: serde_json::Map<String, Value>,
    instructions: Option<String>,
    /// Where drafts of the revision had it.
    server_info: Option<Value>,
    #[serde(rename = "_meta", default)]
    meta: DiscoveredMeta,
}

#[derive(Deserialize, Default)]
struct DiscoveredMeta {
    #[serde(rename = "io.modelcontextprotocol/serverInfo")]
    server_info: Option<Value>,
}

/// What a server made of `initialize` or `server/discover`.
enum Heard {
    /// A message, with the status that it came under, and the session that it opened.
    Message(Reply),
    /// A failure that says nothing about the era.
    Failed(Box<Answered>),
}

impl LegacyFace {
    /// Answers `initialize`. A server whose eras are not known is asked itself first; one that refuses, and
    /// says what it is when it is asked as the Modern era asks, has none of its own.
    pub async fn open(
        &self,
        pool: &Rc<Pool>,
        request: &Outgoing,
        read: &Request,
    ) -> Result<Box<Answered>, UpstreamError> {
        let upstream = pool.upstream();
        let mut refusal = None;
        if upstream.speaks(Era::Legacy).is_none() {
            match ask_itself(pool, request).await? {
                Ok(answered) => return Ok(answered),
                Err(refused) => refusal = Some(refused),
            }
        }
        let Some(introduced) = introduced(read) else {
            return Ok(inside(self::refusal(read, "initialize needs capabilities"), pool));
        };
        let introduced =
            self.introduced.lock().unwrap_or_else(PoisonError::into_inner).shared(Arc::new(introduced));
        let asker = Session::new(upstream.id, introduced, request.owner(), Offers::default());
        let Some(discover) = own(&asker, "metamcp-discover", Method::Discover, "") else {
            return Ok(inside(self::refusal(read, "initialize cannot be read"), pool));
        };
        let said = match ask(pool, &discover).await? {
            Heard::Failed(answered) if refusal.is_none() => return Ok(answered),
            Heard::Failed(_) => None,
            Heard::Message(reply) => Some(reply),
        };
        if let Some(discovered) = said.as_ref().and_then(discovered) {
            upstream.note_spoken(Era::Legacy, Some(false));
            return Ok(self.begin(pool, read, &asker, &discovered));
        }
        if upstream.speaks(Era::Legacy) == Some(false) {
            // It may not be what it was.
            upstream.note_spoken(Era::Legacy, None);
            if upstream.speaks(Era::Legacy).is_none() {
                let asked = ask_itself(pool, request).await?;
                return Ok(asked.unwrap_or_else(|refused| inside(refused, pool)));
            }
        }
        let said = said.map(|said| as_error_of(said, &read.id()));
        let reply = refusal.or(said).unwrap_or_else(|| Reply::bare(StatusCode::BAD_GATEWAY));
        Ok(inside(reply, pool))
    }

    /// The session, and the answer that opens it.
    fn begin(&self, pool: &Rc<Pool>, read: &Request, asker: &Session, said: &Discovered) -> Box<Answered> {
        let session =
            Session::new(pool.upstream().id, Arc::clone(&asker.introduced), asker.owner, said.offers());
        let revision = session.introduced.revision;
        let answer = said.initialize_result(revision, pool.upstream().name().as_str()).to_string();
        let message =
            [br#"{"jsonrpc":"2.0","id":"#, &*read.id(), br#","result":"#, answer.as_bytes(), b"}"].concat();
        let id = self.sessions.insert(session);
        let reply = Reply { session_id: Some(id), ..Reply::message(message.into()) };
        inside(reply, pool)
    }
}

/// Whether the server still says that it speaks the Modern era. One that says nothing may well do so.
pub async fn still_speaks(session: &Session, pool: &Rc<Pool>) -> bool {
    let Some(discover) = own(session, "metamcp-discover", Method::Discover, "") else { return true };
    match ask(pool, &discover).await {
        Ok(Heard::Message(reply)) => discovered(&reply).is_some(),
        Ok(Heard::Failed(_)) | Err(_) => true,
    }
}

/// Has the server open a session itself; else its refusal.
async fn ask_itself(
    pool: &Rc<Pool>,
    request: &Outgoing,
) -> Result<Result<Box<Answered>, Reply>, UpstreamError> {
    Ok(match ask(pool, request).await? {
        Heard::Failed(answered) => Ok(answered),
        Heard::Message(reply) if is_result(&reply) => {
            pool.upstream().note_spoken(Era::Legacy, Some(true));
            Ok(inside(reply, pool))
        }
        Heard::Message(reply) => Err(reply),
    })
}

fn refusal(read: &Request, text: &str) -> Reply {
    Reply::error(StatusCode::OK, &read.id(), code::INVALID_PARAMS, text)
}

/// Sends it to the server itself.
async fn ask(pool: &Rc<Pool>, request: &Outgoing) -> Result<Heard, UpstreamError> {
    let mut answered = pool.send_straight(request, Lane::Call).await?;
    let status = answered.head.status;
    // A refusal of credentials, a failure or an overload says nothing about the era.
    if !status.is_success() && (!status.is_client_error() || matches!(status.as_u16(), 401 | 403 | 407 | 429))
    {
        return Ok(Heard::Failed(answered));
    }
    let message = if status.is_success() && answered.head.is_event_stream() {
        read_terminal(&mut answered.body).await?
    } else {
        answered.body.collect(MESSAGE_BYTES_MAX).await?
    };
    let session_id = answered.head.session_id.take();
    Ok(Heard::Message(Reply { status, session_id, body: ReplyBody::Whole(message) }))
}

fn message_of(reply: &Reply) -> &[u8] {
    match &reply.body {
        ReplyBody::Whole(message) => message,
        ReplyBody::Events(_) => &[],
    }
}

fn is_result(reply: &Reply) -> bool {
    let scanned = Scanner::new().scan(message_of(reply));
    reply.status.is_success() && scanned.is_ok_and(|envelope| envelope.kind == Kind::Response)
}

/// What a server said of itself, when it speaks the Modern era.
fn discovered(reply: &Reply) -> Option<Discovered> {
    #[derive(Deserialize)]
    struct Answer {
        result: Discovered,
    }
    let Answer { result } =
        serde_json::from_slice(message_of(reply)).ok().filter(|_| reply.status.is_success())?;
    let is_modern = |version: &String| {
        Revision::parse(version.as_bytes()).is_some_and(|revision| revision.era() == Era::Modern)
    };
    result.supported_versions.iter().any(is_modern).then_some(result)
}

/// A refusal of `server/discover` as one of `initialize`: an error under the client's id. What is no error of
/// the protocol stays what it is.
fn as_error_of(reply: Reply, id: &Bytes) -> Reply {
    let message = Bytes::copy_from_slice(message_of(&reply));
    let envelope = Scanner::new().scan(&message).ok().filter(|envelope| envelope.kind == Kind::Error);
    match envelope.map(|envelope| result::read(&message, &envelope, id)) {
        Some(Ok(result::Turn::Answer(message))) => Reply::message(message),
        _ => reply,
    }
}

/// How the client introduced itself.
fn introduced(read: &Request) -> Option<Introduced> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Params<'a> {
        protocol_version: String,
        #[serde(borrow)]
        capabilities: &'a RawValue,
        #[serde(borrow)]
        client_info: Option<&'a RawValue>,
    }
    let params = read.envelope.params.object?.of(&read.message);
    let params: Params<'_> = serde_json::from_slice(params).ok()?;
    let capabilities = ClientCapabilities::from_json(params.capabilities.get().as_bytes()).ok()?;
    let revision = Revision::parse(params.protocol_version.as_bytes());
    Some(Introduced {
        revision: revision
            .filter(|revision| revision.era() == Era::Legacy)
            .unwrap_or(Revision::LEGACY_LATEST),
        capabilities,
        // Of roots that changed nobody tells a server without sessions.
        declared: capabilities.without(ClientCapabilities::ROOTS_LIST_CHANGED).to_json().into(),
        client_info: params
            .client_info
            .filter(|info| info.get().starts_with('{'))
            .map(|info| Bytes::copy_from_slice(info.get().as_bytes())),
    })
}

impl Discovered {
    fn offers(&self) -> Offers {
        let is_on = |name: &str, member: &str| {
            self.capabilities.get(name).is_some_and(|value| value[member] == Value::Bool(true))
        };
        Offers {
            logging: self.capabilities.contains_key("logging"),
            subscribe: is_on("resources", "subscribe"),
            tools_changed: is_on("tools", "listChanged"),
            prompts_changed: is_on("prompts", "listChanged"),
            resources_changed: is_on("resources", "listChanged"),
        }
    }

    /// What is said of it to a client that opens a session.
    fn initialize_result(&self, revision: Revision, name: &str) -> Value {
        let known = CAPABILITIES.iter().filter(|(_, since)| *since <= revision);
        let capabilities: serde_json::Map<_, _> = known
            .filter_map(|(name, _)| Some(((*name).to_owned(), self.capabilities.get(*name)?.clone())))
            .collect();
        let info = self.meta.server_info.as_ref().or(self.server_info.as_ref());
        // A session must have one (MCP, lifecycle); a server of the Modern era need not say who it is.
        let unsaid = || serde_json::json!({"name": name, "version": "unknown"});
        let mut result = serde_json::json!({
            "protocolVersion": revision.as_str(),
            "capabilities": capabilities,
            "serverInfo": info.filter(|info| info.is_object()).cloned().unwrap_or_else(unsaid),
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

    fn discover(result: &str) -> Option<Discovered> {
        discovered(&Reply::message(format!(r#"{{"jsonrpc":"2.0","id":1,"result":{result}}}"#).into()))
    }

    #[test]
    fn no_capability_is_invented() {
        let check = |revision, capabilities: &str, expected: &str| {
            let said = discover(&format!(
                r#"{{"supportedVersions":["2026-07-28"],"capabilities":{capabilities},"_meta":{{"io.modelcontextprotocol/serverInfo":{{"name":"s"}}}}}}"#
            ));
            let result = said.unwrap().initialize_result(revision, "a");
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
    fn what_speaks_the_other_era_says_so() {
        let check =
            |result: &str, expected: bool| assert_eq!(discover(result).is_some(), expected, "{result}");
        check(r#"{"supportedVersions":["2024-11-05","2026-07-28"],"capabilities":{}}"#, true);
        check(r#"{"supportedVersions":["2025-11-25"],"capabilities":{}}"#, false);
        check(r#"{"supportedVersions":["2026-07-28"]}"#, false);
        check("{}", false);
        assert!(discovered(&Reply::bare(StatusCode::NOT_FOUND)).is_none());
        let unnamed = discover(r#"{"supportedVersions":["2026-07-28"],"capabilities":{}}"#).unwrap();
        assert_eq!(unnamed.initialize_result(Revision::LEGACY_LATEST, "a")["serverInfo"]["name"], "a");
    }

    #[test]
    fn who_opens_is_remembered() {
        let check = |params: &str, expected: Option<(&str, &str)>| {
            let message = format!(r#"{{"jsonrpc":"2.0","id":0,"method":"initialize","params":{params}}}"#);
            let found = introduced(&read(&message));
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
