//! All pages of all lists of one server.

use std::rc::Rc;

use bytes::Bytes;
use http::StatusCode;
use serde::Deserialize;
use serde_json::value::RawValue;

use super::Config;
use super::merge::{Item, ListKind, ServerLists};
use super::view::{modern_headers, modern_meta};
use crate::protocol::{Era, Method, code};
use crate::session::{Ask, Capabilities, Heard, Ready, ServerFeatures, ask};
use crate::upstream::Pool;

/// In whose name a list is fetched.
pub enum Asker<'a> {
    /// Within a Legacy session.
    Legacy(&'a Ready),
    /// Stateless; what the server said of itself.
    Modern(ServerFeatures),
}

/// Why there are no lists.
#[derive(Debug)]
pub enum FetchError {
    /// The server does not know the session any more.
    SessionLost,
    /// The server speaks only the other era.
    OtherEra,
    /// It would take a session that nobody has asked for.
    Unasked,
    /// The text is for clients.
    Failed(String),
}

/// All lists the server offers, every page.
pub async fn lists(pool: &Rc<Pool>, config: &Config, asker: &Asker<'_>) -> Result<ServerLists, FetchError> {
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

/// Every page of one list. Bounded in pages, items and bytes; a cursor that leads to itself ends it.
async fn pages(
    pool: &Rc<Pool>,
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
            // A server may offer resources and know no templates.
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

const fn method(kind: ListKind) -> Method {
    match kind {
        ListKind::Tools => Method::ToolsList,
        ListKind::Prompts => Method::PromptsList,
        ListKind::Resources => Method::ResourcesList,
        ListKind::Templates => Method::TemplatesList,
    }
}

async fn send(
    pool: &Rc<Pool>,
    asker: &Asker<'_>,
    method: Method,
    cursor: Option<&str>,
) -> Result<Heard, FetchError> {
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
    let asked = Ask { method, message: message.into(), ready, modern };
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

/// One page; `None` when the server has no such list.
fn read_page(heard: &Heard, kind: ListKind) -> Result<Option<PageRead>, FetchError> {
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
    // Both are parts of one text, so the difference of their addresses is where one begins in the other.
    let key_start = (key.as_ptr() as usize).checked_sub(text.as_ptr() as usize)?;
    Some(Item {
        key: serde_json::from_str(key).ok()?,
        raw: message.slice_ref(text.as_bytes()),
        key_start,
        key_end: key_start + key.len(),
    })
}

/// What `server/discover` says, where the server speaks the Modern era (MCP 2026-07-28, versioning). Whether
/// it does is noted with the server.
pub async fn discover(pool: &Rc<Pool>) -> Result<ServerFeatures, FetchError> {
    let discovered = ask_discover(pool).await;
    match &discovered {
        Ok(_) => pool.upstream().note_spoken(Era::Modern, Some(true)),
        Err(FetchError::OtherEra) => pool.upstream().note_spoken(Era::Modern, Some(false)),
        // That says nothing about the era.
        Err(_) => {}
    }
    discovered
}

async fn ask_discover(pool: &Rc<Pool>) -> Result<ServerFeatures, FetchError> {
    let message = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"server/discover","params":{{"_meta":{}}}}}"#,
        modern_meta()
    );
    let asked = Ask {
        method: Method::Discover,
        message: message.into(),
        ready: None,
        modern: Some(modern_headers()),
    };
    let heard = ask(pool, asked).await.map_err(|error| {
        FetchError::Failed(error.into_fault(pool.upstream().name()).for_client().to_owned())
    })?;
    let status = heard.status;
    // A refusal of credentials, a failure or an overload says nothing about the era.
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
    capabilities: Capabilities,
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
