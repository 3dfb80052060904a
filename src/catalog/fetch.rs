//! Fetches all pages of all lists of one server.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Config;
use super::merge::{Item, ListKind, ServerLists};
use super::view::{modern_headers, modern_meta};
use crate::session::{
    BufferedRequest, BufferedResponse, ServerCapabilities, ServerFeatures, UpstreamSession, ask,
};
use crate::upstream::UpstreamPool;
use metamcp_core::protocol::{Era, McpMethod, code};

/// How a list is requested.
pub enum Asker<'a> {
    Legacy(&'a UpstreamSession),
    /// Without a session. Holds what `server/discover` returned.
    Modern(ServerFeatures),
}

/// Why there are no lists.
#[derive(Debug)]
pub enum FetchError {
    /// The server lost the session.
    SessionLost,
    /// The server speaks only the other era.
    OtherEra,
    /// The lists would need a session, and no client has asked for them.
    Unasked,
    /// The text is for clients.
    Failed(String),
}

/// Fetches every page of every list that the server offers.
pub async fn lists(
    pool: &Rc<UpstreamPool>,
    config: &Config,
    asker: &Asker<'_>,
) -> Result<ServerLists, FetchError> {
    let features = match asker {
        Asker::Legacy(ready) => (*ready.features).clone(),
        Asker::Modern(features) => features.clone(),
    };
    let mut lists = ServerLists { features, ..ServerLists::default() };
    for kind in ListKind::ALL {
        let offered = match kind {
            ListKind::Tools => lists.features.tools,
            ListKind::Prompts => lists.features.prompts,
            ListKind::Resources | ListKind::Templates => lists.features.resources,
        };
        if offered {
            pages(pool, config, asker, kind, &mut lists).await?;
        }
    }
    Ok(lists)
}

/// Fetches every page of one list. Bounded in pages, items and bytes; a cursor that repeats ends it.
async fn pages(
    pool: &Rc<UpstreamPool>,
    config: &Config,
    asker: &Asker<'_>,
    kind: ListKind,
    lists: &mut ServerLists,
) -> Result<(), FetchError> {
    let mut cursor: Option<String> = None;
    let mut bytes = 0;
    for page in 0..config.pages_max {
        let heard = send(pool, asker, method(kind), cursor.as_deref()).await?;
        bytes += heard.message.len();
        if bytes > config.list_bytes_max {
            return Err(too_much(kind, "bytes"));
        }
        let Some(read) = read_page(&heard, kind)? else {
            // A server may offer resources and not know `resources/templates/list`.
            return if page == 0 { Ok(()) } else { Err(too_much(kind, "errors between pages")) };
        };
        lists.ttl_ms = lists.ttl_ms.into_iter().chain(read.ttl_ms).min();
        lists.private |= read.private;
        lists.items[kind.index()].extend(read.items);
        if lists.items[kind.index()].len() > config.items_max {
            return Err(too_much(kind, "items"));
        }
        match read.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            Some(_) => return Err(too_much(kind, "pages: its cursor goes round")),
            None => return Ok(()),
        }
    }
    Err(too_much(kind, "pages"))
}

fn too_much(kind: ListKind, what: &str) -> FetchError {
    FetchError::Failed(format!("its list of {} has too many {what}", kind.member()))
}

const fn method(kind: ListKind) -> McpMethod {
    match kind {
        ListKind::Tools => McpMethod::ToolsList,
        ListKind::Prompts => McpMethod::PromptsList,
        ListKind::Resources => McpMethod::ResourcesList,
        ListKind::Templates => McpMethod::TemplatesList,
    }
}

async fn send(
    pool: &Rc<UpstreamPool>,
    asker: &Asker<'_>,
    method: McpMethod,
    cursor: Option<&str>,
) -> Result<BufferedResponse, FetchError> {
    let mut params = serde_json::Map::new();
    if let Some(cursor) = cursor {
        params.insert("cursor".into(), cursor.into());
    }
    let mut params = serde_json::Value::Object(params).to_string();
    let (ready, modern) = match asker {
        Asker::Legacy(ready) => (Some(*ready), None),
        Asker::Modern(_) => {
            let comma = if params.len() > 2 { "," } else { "" };
            params = format!("{{\"_meta\":{}{comma}{}", modern_meta(), &params[1..]);
            (None, Some(modern_headers()))
        }
    };
    let message = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}","params":{params}}}"#, method.as_str());
    let asked = BufferedRequest { method, message: message.into(), ready, modern };
    let heard = ask(pool, asked).await.map_err(|error| {
        FetchError::Failed(error.into_fault(pool.upstream().name()).for_client().to_owned())
    })?;
    let lost = matches!(heard.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
        && ready.is_some_and(|ready| ready.session_id.is_some());
    if lost { Err(FetchError::SessionLost) } else { Ok(heard) }
}

struct PageRead {
    items: Vec<Item>,
    next_cursor: Option<String>,
    ttl_ms: Option<u64>,
    private: bool,
}

/// Parses one page; `None` if the server does not have the list.
fn read_page(heard: &BufferedResponse, kind: ListKind) -> Result<Option<PageRead>, FetchError> {
    let nonsense = || FetchError::Failed(format!("its list of {} is not what MCP asks for", kind.member()));
    let answer: Answer<'_> = serde_json::from_slice(&heard.message).map_err(|_| nonsense())?;
    if let Some(error) = answer.error {
        return if error.code == code::METHOD_NOT_FOUND {
            Ok(None)
        } else {
            Err(FetchError::Failed(format!("it answered its list of {} with an error", kind.member())))
        };
    }
    let page = answer.result.ok_or_else(nonsense)?;
    let raws = match kind {
        ListKind::Tools => page.tools,
        ListKind::Prompts => page.prompts,
        ListKind::Resources => page.resources,
        ListKind::Templates => page.templates,
    };
    // An item without a usable name cannot be called; the others can.
    let items = raws.into_iter().filter_map(|raw| read_item(&heard.message, raw, kind)).collect();
    Ok(Some(PageRead {
        items,
        next_cursor: page.next_cursor,
        ttl_ms: page.ttl_ms,
        private: page.cache_scope.as_deref() == Some("private"),
    }))
}

fn read_item(message: &Bytes, raw: &RawValue, kind: ListKind) -> Option<Item> {
    let text = raw.get();
    let keys: Keys<'_> = serde_json::from_str(text).ok()?;
    let key = match kind {
        ListKind::Tools | ListKind::Prompts => keys.name,
        ListKind::Resources => keys.uri,
        ListKind::Templates => keys.uri_template,
    }?
    .get();
    // Both are slices of one text, so the difference of their addresses is the offset of the key.
    let key_start = (key.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some(Item {
        key: serde_json::from_str(key).ok()?,
        raw: message.slice_ref(text.as_bytes()),
        key_start,
        key_end: key_start + key.len(),
    })
}

/// Returns the features from `server/discover` if the server speaks the Modern era (MCP 2026-07-28,
/// versioning). Records with the upstream whether it does.
pub async fn discover(pool: &Rc<UpstreamPool>) -> Result<ServerFeatures, FetchError> {
    let discovered = ask_discover(pool).await;
    match &discovered {
        Ok(_) => pool.upstream().set_spoken(Era::Modern, Some(true)),
        Err(FetchError::OtherEra) => pool.upstream().set_spoken(Era::Modern, Some(false)),
        // An error says nothing about the era.
        Err(_) => {}
    }
    discovered
}

async fn ask_discover(pool: &Rc<UpstreamPool>) -> Result<ServerFeatures, FetchError> {
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{"_meta":{}}}}}"#,
        modern_meta()
    );
    let asked = BufferedRequest {
        method: McpMethod::Discover,
        message: message.into(),
        ready: None,
        modern: Some(modern_headers()),
    };
    let heard = ask(pool, asked).await.map_err(|error| {
        FetchError::Failed(error.into_fault(pool.upstream().name()).for_client().to_owned())
    })?;
    let status = heard.status;
    // Rejected credentials, a failure or an overload say nothing about the era.
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)
        || status.is_server_error()
    {
        return Err(FetchError::Failed(format!("it answered with HTTP {}", status.as_u16())));
    }
    let answer: Option<DiscoverAnswer> = serde_json::from_slice(&heard.message).ok();
    let Some(answer) = answer else { return Err(FetchError::OtherEra) };
    if let Some(result) = answer.result {
        return Ok(result.capabilities.features(result.instructions));
    }
    let modern_code = answer.error.is_some_and(|error| (-32022..=-32020).contains(&error.code));
    if modern_code {
        return Err(FetchError::Failed("it refuses revision 2026-07-28".to_owned()));
    }
    Err(FetchError::OtherEra)
}

#[derive(Deserialize)]
struct Answer<'a> {
    #[serde(borrow)]
    result: Option<Page<'a>>,
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct DiscoverAnswer {
    result: Option<DiscoverResult>,
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct DiscoverResult {
    capabilities: ServerCapabilities,
    instructions: Option<String>,
}

#[derive(Deserialize)]
struct ErrorObject {
    code: i32,
}

#[derive(Deserialize)]
struct Page<'a> {
    #[serde(borrow, default)]
    tools: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    prompts: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    resources: Vec<&'a RawValue>,
    #[serde(borrow, default, rename = "resourceTemplates")]
    templates: Vec<&'a RawValue>,
    #[serde(rename = "nextCursor")]
    next_cursor: Option<String>,
    #[serde(rename = "ttlMs")]
    ttl_ms: Option<u64>,
    #[serde(rename = "cacheScope")]
    cache_scope: Option<String>,
}

#[derive(Deserialize)]
struct Keys<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow, rename = "uriTemplate")]
    uri_template: Option<&'a RawValue>,
}
