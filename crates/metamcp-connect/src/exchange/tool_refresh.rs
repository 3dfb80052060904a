//! Lists the endpoint's tools again after a call whose head lacked a parameter header.

use serde::Deserialize;
use serde_json::json;
use serde_json::value::RawValue;

use super::super::bridge::StdioBridge;
use super::super::client::ClientMessage;
use super::super::endpoint::{self, EventStreamState};
use super::super::error::RequestError;
use metamcp_core::frame::Span;
use metamcp_http::RequestKind;

/// More pages than this mean that the cursors form a loop.
const PAGES_MAX: usize = 100;

/// The id of the bridge's own `tools/list`, whose response does not go to the client.
const ID: &str = "metamcp-tools";

#[derive(Deserialize)]
struct Page {
    #[serde(rename = "nextCursor")]
    next_cursor: Option<String>,
}

impl StdioBridge {
    /// Lists the tools on behalf of a call (MCP 2026-07-28, Streamable HTTP: once after a header mismatch).
    /// Returns whether the annotated arguments of the called tool have changed.
    pub async fn refresh_param_headers(&self, call: &ClientMessage) -> bool {
        let tool = call.tool();
        let before = self.param_headers.borrow().of_tool(&tool);
        tracing::info!("a call lacked a parameter header; listing the endpoint's tools");
        if let Err(error) = self.list_tools(call).await {
            tracing::warn!("cannot list the endpoint's tools: {error}");
        }
        self.param_headers.borrow().of_tool(&tool) != before
    }

    async fn list_tools(&self, call: &ClientMessage) -> Result<(), RequestError> {
        let mut cursor = None;
        for _ in 0..PAGES_MAX {
            let request = list_request(call, cursor.as_deref()).into();
            let page = ClientMessage::scan(&mut self.scanner.borrow_mut(), request);
            let page = page.map_err(|_| RequestError::NotMcp)?;
            let (response, _) = self.exchange(&page, RequestKind::Call).await?;
            let id = page.id();
            // `read_response` learns the annotations.
            let mut stream = EventStreamState::for_request(&id);
            let response = self.read_response(&page, *response, None, &mut stream).await?;
            let page = endpoint::result(&response)
                .and_then(|result| serde_json::from_str::<Page>(result.get()).ok());
            cursor = page.and_then(|page| page.next_cursor);
            if cursor.is_none() {
                break;
            }
        }
        Ok(())
    }
}

/// Builds a `tools/list` with the `_meta` of the call, except for what concerns that call alone.
fn list_request(call: &ClientMessage, cursor: Option<&str>) -> String {
    let meta = &call.envelope.params.meta;
    let raw = |span: Option<Span>| {
        let text = span.and_then(|span| std::str::from_utf8(span.slice(&call.bytes)).ok());
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
