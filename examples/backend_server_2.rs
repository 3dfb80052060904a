//! An MCP server with the official SDK that has more than tools: resources, a resource template, a prompt, progress, and
//! elicitation, in both eras of the protocol.
//!
//!     cargo run --example backend_server_2 [PORT | --port PORT]
//!
//! It listens on 127.0.0.1, by default on port 3002; port 0 picks a free one. To serve it through the gateway, add its
//! address to the gateway's `mcp.json`: see "Your own servers" in README.md.

use std::io::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use rmcp::handler::server::tool::InputResponses;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{
    CallToolResponse, CallToolResult, ContentBlock, ElicitRequest, ElicitRequestParams, ElicitationSchema,
    ErrorData, Implementation, InputRequest, InputRequests, InputRequiredResult, ListResourceTemplatesResult,
    ListResourcesResult, PaginatedRequestParams, ProgressNotificationParam, PromptMessage, ProtocolVersion,
    ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, Resource, ResourceContents,
    ResourceTemplate, Role, ServerCapabilities, ServerConfig,
};
use rmcp::schemars::JsonSchema;
use rmcp::service::RequestContext;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{
    RoleServer, ServerHandler, prompt, prompt_handler, prompt_router, tool, tool_handler, tool_router,
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::time::sleep;

const PORT: u16 = 3002;

/// Limits a walk to 20 seconds.
const STEPS_MAX: u32 = 100;

const STEP: Duration = Duration::from_millis(200);

const NOTES: [(&str, &str); 2] = [
    ("welcome", "This note comes from a server behind the gateway."),
    ("plan", "First the tools, then the resources, then the prompts."),
];

struct Notes;

#[derive(Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Walk {
    /// How many steps, a fifth of a second each
    steps: u32,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Topic {
    /// What the summary is about
    topic: String,
}

#[tool_router]
impl Notes {
    /// Sends progress if the request has a progress token, and ends when it is cancelled.
    #[tool(description = "Walks step by step and reports progress")]
    async fn walk(
        Parameters(Walk { steps }): Parameters<Walk>,
        context: RequestContext<RoleServer>,
    ) -> Result<String, ErrorData> {
        if steps > STEPS_MAX {
            return Err(ErrorData::invalid_params(format!("at most {STEPS_MAX} steps"), None));
        }
        let token = context.meta.get_progress_token();
        for step in 1..=steps {
            tokio::select! {
                () = sleep(STEP) => {}
                () = context.ct.cancelled() => return Err(ErrorData::internal_error("cancelled", None)),
            }
            if let Some(token) = &token {
                let progress = ProgressNotificationParam::new(token.clone(), f64::from(step))
                    .with_total(f64::from(steps))
                    .with_message(format!("step {step}"));
                // It fails if the client is gone.
                let _ = context.peer.notify_progress(progress).await;
            }
        }
        Ok(format!("{steps} steps walked"))
    }

    /// Up to 2025-11-25 the server sends a request to the client while the call waits. Since 2026-07-28 it returns the input
    /// that it needs, and the client calls again with the answer.
    #[tool(description = "Asks for a name and greets")]
    async fn greet(
        context: RequestContext<RoleServer>,
        InputResponses(responses): InputResponses,
    ) -> Result<CallToolResponse, ErrorData> {
        let is_modern =
            context.protocol_version().is_some_and(|version| version >= ProtocolVersion::V_2026_07_28);
        let question = question()?;
        let (action, content) = match (is_modern, responses.as_ref().and_then(|all| all.get("name"))) {
            (true, None) => {
                let asked = InputRequests::from([(
                    "name".to_owned(),
                    InputRequest::Elicitation(ElicitRequest::new(question)),
                )]);
                return Ok(InputRequiredResult::from_input_requests(asked).into());
            }
            (true, Some(response)) => (response["action"].clone(), response["content"].clone()),
            (false, _) => {
                let asked = context.peer.create_elicitation(question).await;
                let result = asked.map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
                (json!(result.action), result.content.unwrap_or_default())
            }
        };
        let text = match content["name"].as_str().filter(|_| action == "accept") {
            Some(name) => format!("Hello, {name}!"),
            None => "Hello, whoever you are!".to_owned(),
        };
        Ok(CallToolResult::success(vec![ContentBlock::text(text)]).into())
    }
}

fn question() -> Result<ElicitRequestParams, ErrorData> {
    let schema: Value =
        json!({"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]});
    let requested_schema: ElicitationSchema =
        serde_json::from_value(schema).map_err(|error| ErrorData::internal_error(error.to_string(), None))?;
    Ok(ElicitRequestParams::FormElicitationParams {
        meta: None,
        message: "What is your name?".into(),
        requested_schema,
    })
}

#[prompt_router]
impl Notes {
    #[prompt(description = "Asks for a summary of the notes on a topic")]
    async fn summary(&self, Parameters(Topic { topic }): Parameters<Topic>) -> Vec<PromptMessage> {
        vec![PromptMessage::new_text(Role::User, format!("Summarise the notes about {topic}."))]
    }
}

#[tool_handler]
#[prompt_handler]
impl ServerHandler for Notes {
    fn get_info(&self) -> ServerConfig {
        let capabilities =
            ServerCapabilities::builder().enable_tools().enable_prompts().enable_resources().build();
        ServerConfig::new(capabilities)
            .with_server_info(Implementation::new("notes", env!("CARGO_PKG_VERSION")))
            .with_instructions("Keeps notes as resources, and greets.")
    }

    async fn list_resources(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourcesResult, ErrorData> {
        let note = |(name, _)| Resource::new(format!("note://{name}"), name).with_mime_type("text/plain");
        Ok(ListResourcesResult::with_all_items(NOTES.map(note).to_vec()))
    }

    async fn list_resource_templates(
        &self,
        _request: Option<PaginatedRequestParams>,
        _context: RequestContext<RoleServer>,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        let template = ResourceTemplate::new("note://{name}", "note").with_mime_type("text/plain");
        Ok(ListResourceTemplatesResult::with_all_items(vec![template]))
    }

    async fn read_resource(
        &self,
        request: ReadResourceRequestParams,
        _context: RequestContext<RoleServer>,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let uri = request.uri;
        let note = NOTES.iter().find(|(name, _)| uri.strip_prefix("note://") == Some(name));
        let Some((_, text)) = note else {
            return Err(ErrorData::resource_not_found("no such note", Some(json!({"uri": uri}))));
        };
        Ok(ReadResourceResult::new(vec![ResourceContents::text(*text, uri)]).into())
    }
}

/// Reads `PORT` or `--port PORT`.
fn parse_port(mut arguments: impl Iterator<Item = String>) -> Result<u16, Error> {
    let usage = || Error::other("usage: backend_server_2 [PORT | --port PORT]");
    let port = match arguments.next() {
        None => return Ok(PORT),
        Some(flag) if flag == "--port" => arguments.next().ok_or_else(usage)?,
        Some(port) => port,
    };
    if arguments.next().is_some() {
        return Err(usage());
    }
    port.parse().map_err(|_| usage())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let port = parse_port(std::env::args().skip(1))?;
    let service = StreamableHttpService::new(
        || Ok(Notes),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, Router::new().nest_service("/mcp", service)).await
}
