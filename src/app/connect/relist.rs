//! Asking the endpoint for its tools, for a call whose head did not say what the tool's schema asks for.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::answer::Hearing;
use super::message::Message;
use super::trouble::Trouble;
use super::{Bridge, heard};
use crate::upstream::Lane;

/// Only a loop has more.
const PAGES_MAX: usize = 100;

/// No request of the client's is asked for by it: the answer is not passed on.
const ID: &str = "metamcp-tools";

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "nextCursor")]
    next_cursor: Option<String>,
}

impl Bridge {
    /// Lists the tools again, in the name of that call (MCP 2026-07-28, Streamable HTTP: once after a
    /// mismatch). Whether something else is marked of its tool now.
    pub(super) async fn learn_again(&self, call: &Message) -> bool {
        let tool = call.tool();
        let before = self.params.borrow().of_tool(&tool);
        tracing::info!("the endpoint misses a header of a call; listing its tools to learn which");
        if let Err(trouble) = self.list_tools(call).await {
            tracing::warn!("the tools could not be listed: {trouble}");
        }
        self.params.borrow().of_tool(&tool) != before
    }

    async fn list_tools(&self, call: &Message) -> Result<(), Trouble> {
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let page = Message::scan(&mut self.scanner.borrow_mut(), request(call, cursor.as_deref()).into());
            let page = page.map_err(|_| Trouble::NotMcp)?;
            let (answered, _) = self.exchange(&page, Lane::Call).await?;
            let id = page.id();
            // By the way, what is marked is learnt.
            let answer = self.hear(&page, *answered, None, &mut Hearing::of(&id)).await?;
            let result =
                heard::result(&answer).and_then(|result| serde_json::from_str::<Page>(result.get()).ok());
            cursor = result.and_then(|page| page.next_cursor);
            if cursor.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// As the client would ask: with what it said of itself in the call, and without what was of the call alone.
fn request(call: &Message, cursor: Option<&str>) -> String {
    let meta = &call.envelope.params.meta;
    let raw = |span: Option<crate::frame::Span>| {
        let text = span.and_then(|span| std::str::from_utf8(span.of(&call.bytes)).ok());
        text.and_then(|text| serde_json::from_str::<&RawValue>(text).ok())
    };
    let mut params = json!({"_meta": {
        "io.modelcontextprotocol/protocolVersion": raw(meta.protocol_version.map(|text| text.span)),
        "io.modelcontextprotocol/clientCapabilities": raw(meta.client_capabilities),
    }});
    if let Some(cursor) = cursor {
        params["cursor"] = cursor.into();
    }
    json!({"jsonrpc": "2.0", "id": ID, "method": "tools/list", "params": params}).to_string()
}
