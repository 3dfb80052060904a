//! Fetches all pages of all lists of one server.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::list::{ListItem, ListKind, ServerLists};
use super::view::{modern_headers, modern_meta};
use crate::session::{
    BufferedRequest, BufferedResponse, OWN_ANSWER, ServerCapabilities, ServerFeatures, UpstreamSession,
    is_own_answer, send_buffered,
};
use crate::upstream::UpstreamPool;
use metamcp_config::sections::CatalogConfig;
use metamcp_core::protocol::{Era, McpMethod, code};

/// How a list is requested.
pub enum FetchMode<'a> {
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
    NotRequested,
    /// The text is for clients.
    Failed(String),
}

/// Fetches every page of every list that the server offers.
pub async fn fetch_lists(
    pool: &Rc<UpstreamPool>,
    config: &CatalogConfig,
    mode: &FetchMode<'_>,
) -> Result<ServerLists, FetchError> {
    let features = match mode {
        FetchMode::Legacy(upstream_session) => (*upstream_session.features).clone(),
        FetchMode::Modern(features) => features.clone(),
    };
    let mut lists = ServerLists { features, ..ServerLists::default() };
    for kind in ListKind::ALL {
        let offered = match kind {
            ListKind::Tools => lists.features.tools,
            ListKind::Prompts => lists.features.prompts,
            ListKind::Resources | ListKind::Templates => lists.features.resources,
        };
        if offered {
            fetch_list(pool, config, mode, kind, &mut lists).await?;
        }
    }
    Ok(lists)
}

/// Fetches every page of one list. Bounded in pages, items and bytes; a cursor that repeats ends it.
async fn fetch_list(
    pool: &Rc<UpstreamPool>,
    config: &CatalogConfig,
    mode: &FetchMode<'_>,
    kind: ListKind,
    lists: &mut ServerLists,
) -> Result<(), FetchError> {
    let mut cursor: Option<String> = None;
    let mut bytes = 0;
    for page in 0..config.pages_max {
        let response = request_page(pool, mode, method(kind), cursor.as_deref()).await?;
        bytes += response.message.len();
        if bytes > config.list_bytes_max {
            return Err(too_many(kind, "bytes"));
        }
        let Some(parsed) = parse_page(&response, kind)? else {
            // A server may offer resources and not know `resources/templates/list`.
            return if page == 0 { Ok(()) } else { Err(too_many(kind, "errors between pages")) };
        };
        lists.ttl_ms = lists.ttl_ms.into_iter().chain(parsed.ttl_ms).min();
        lists.private |= parsed.private;
        lists.items[kind.index()].extend(parsed.items);
        if lists.items[kind.index()].len() > config.items_max {
            return Err(too_many(kind, "items"));
        }
        match parsed.next_cursor {
            Some(next) if cursor.as_ref() != Some(&next) => cursor = Some(next),
            Some(_) => return Err(too_many(kind, "pages: its cursor repeats")),
            None => return Ok(()),
        }
    }
    Err(too_many(kind, "pages"))
}

fn too_many(kind: ListKind, what: &str) -> FetchError {
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

async fn request_page(
    pool: &Rc<UpstreamPool>,
    mode: &FetchMode<'_>,
    method: McpMethod,
    cursor: Option<&str>,
) -> Result<BufferedResponse, FetchError> {
    let mut params = serde_json::Map::new();
    if let Some(cursor) = cursor {
        params.insert("cursor".into(), cursor.into());
    }
    let mut params = serde_json::Value::Object(params).to_string();
    let (upstream_session, modern_headers) = match mode {
        FetchMode::Legacy(upstream_session) => (Some(*upstream_session), None),
        FetchMode::Modern(_) => {
            let comma = if params.len() > 2 { "," } else { "" };
            params = format!("{{\"_meta\":{}{comma}{}", modern_meta(), &params[1..]);
            (None, Some(modern_headers()))
        }
    };
    let message = format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{}","params":{params}}}"#, method.as_str());
    let request =
        BufferedRequest { method, message: message.into(), session: upstream_session, modern_headers };
    let response = send_buffered(pool, request).await.map_err(|error| {
        FetchError::Failed(error.into_fault(pool.upstream().name()).for_client().to_owned())
    })?;
    let lost = matches!(response.status, StatusCode::NOT_FOUND | StatusCode::BAD_REQUEST)
        && upstream_session.is_some_and(|session| session.session_id.is_some());
    if lost { Err(FetchError::SessionLost) } else { Ok(response) }
}

struct ListPage {
    items: Vec<ListItem>,
    next_cursor: Option<String>,
    ttl_ms: Option<u64>,
    private: bool,
}

/// Parses one page; `None` if the server does not have the list.
fn parse_page(response: &BufferedResponse, kind: ListKind) -> Result<Option<ListPage>, FetchError> {
    let invalid = || FetchError::Failed(format!("its list of {} does not conform to MCP", kind.member()));
    let answer: ListResponse<'_> = serde_json::from_slice(&response.message).map_err(|_| invalid())?;
    if let Some(error) = answer.error {
        return if error.code == code::METHOD_NOT_FOUND {
            Ok(None)
        } else {
            Err(FetchError::Failed(format!("it answered its list of {} with an error", kind.member())))
        };
    }
    let page = answer.result.ok_or_else(invalid)?;
    let raws = match kind {
        ListKind::Tools => page.tools,
        ListKind::Prompts => page.prompts,
        ListKind::Resources => page.resources,
        ListKind::Templates => page.templates,
    };
    // An item without a usable name cannot be called; the others can.
    let items = raws.into_iter().filter_map(|raw| parse_item(&response.message, raw, kind)).collect();
    Ok(Some(ListPage {
        items,
        next_cursor: page.next_cursor,
        ttl_ms: page.ttl_ms,
        private: page.cache_scope.as_deref() == Some("private"),
    }))
}

fn parse_item(message: &Bytes, raw: &RawValue, kind: ListKind) -> Option<ListItem> {
    let text = raw.get();
    let keys: ItemKeys<'_> = serde_json::from_str(text).ok()?;
    let key = match kind {
        ListKind::Tools | ListKind::Prompts => keys.name,
        ListKind::Resources => keys.uri,
        ListKind::Templates => keys.uri_template,
    }?
    .get();
    // Both are slices of one text, so the difference of their addresses is the offset of the key.
    let key_start = (key.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some(ListItem {
        key: serde_json::from_str(key).ok()?,
        raw: message.slice_ref(text.as_bytes()),
        key_start,
        key_end: key_start + key.len(),
    })
}

/// Returns the features from `server/discover` if the server speaks the Modern era (MCP 2026-07-28,
/// versioning). Records with the upstream whether it does.
pub async fn discover(pool: &Rc<UpstreamPool>) -> Result<ServerFeatures, FetchError> {
    let discovered = request_discover(pool).await;
    match &discovered {
        Ok(_) => pool.upstream().set_spoken(Era::Modern, Some(true)),
        Err(FetchError::OtherEra) => pool.upstream().set_spoken(Era::Modern, Some(false)),
        // An error says nothing about the era.
        Err(_) => {}
    }
    discovered
}

async fn request_discover(pool: &Rc<UpstreamPool>) -> Result<ServerFeatures, FetchError> {
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{"_meta":{}}}}}"#,
        modern_meta()
    );
    let request = BufferedRequest {
        method: McpMethod::Discover,
        message: message.into(),
        session: None,
        modern_headers: Some(modern_headers()),
    };
    let response = send_buffered(pool, request).await.map_err(|error| {
        FetchError::Failed(error.into_fault(pool.upstream().name()).for_client().to_owned())
    })?;
    let status = response.status;
    // Rejected credentials, a failure or an overload say nothing about the era.
    if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN | StatusCode::TOO_MANY_REQUESTS)
        || status.is_server_error()
    {
        return Err(FetchError::Failed(format!("it answered with HTTP {}", status.as_u16())));
    }
    let answer: Option<DiscoverResponse> = serde_json::from_slice(&response.message).ok();
    let Some(answer) = answer else { return Err(FetchError::OtherEra) };
    if let Some(result) = answer.result {
        if is_own_answer(&result.meta) {
            return Err(FetchError::Failed(format!("it {OWN_ANSWER}")));
        }
        return Ok(result.capabilities.features(result.instructions));
    }
    let modern_code = answer.error.is_some_and(|error| (-32022..=-32020).contains(&error.code));
    if modern_code {
        return Err(FetchError::Failed("it rejects revision 2026-07-28".to_owned()));
    }
    Err(FetchError::OtherEra)
}

#[derive(Deserialize)]
struct ListResponse<'a> {
    #[serde(borrow)]
    result: Option<RawPage<'a>>,
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct DiscoverResponse {
    result: Option<DiscoverResult>,
    error: Option<ErrorObject>,
}

#[derive(Deserialize)]
struct DiscoverResult {
    capabilities: ServerCapabilities,
    instructions: Option<String>,
    /// Any JSON: a malformed member says nothing about the era.
    #[serde(default, rename = "_meta")]
    meta: serde_json::Value,
}

#[derive(Deserialize)]
struct ErrorObject {
    code: i32,
}

#[derive(Deserialize)]
struct RawPage<'a> {
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
struct ItemKeys<'a> {
    #[serde(borrow)]
    name: Option<&'a RawValue>,
    #[serde(borrow)]
    uri: Option<&'a RawValue>,
    #[serde(borrow, rename = "uriTemplate")]
    uri_template: Option<&'a RawValue>,
}
