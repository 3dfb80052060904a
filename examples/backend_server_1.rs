//! An MCP server with the official SDK: it echoes and calculates.
//!
//!     cargo run --example backend_server_1 [PORT | --port PORT]
//!
//! It listens on 127.0.0.1, by default on port 3001; port 0 picks a free one. To serve it through the gateway, add its
//! address to the gateway's `mcp.json`: see "Your own servers" in README.md.

use std::io::Error;
use std::net::Ipv4Addr;
use std::sync::Arc;

use axum::Router;
use rmcp::handler::server::wrapper::Parameters;
use rmcp::model::{Implementation, ServerCapabilities, ServerConfig};
use rmcp::schemars::JsonSchema;
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::streamable_http_server::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{Json, ServerHandler, tool, tool_handler, tool_router};
use serde::{Deserialize, Serialize};
use tokio::net::TcpListener;

const PORT: u16 = 3001;

struct Calculator;

#[derive(Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Text {
    /// The text to return
    text: String,
}

#[derive(Deserialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Operands {
    a: f64,
    b: f64,
}

#[derive(Serialize, JsonSchema)]
#[schemars(crate = "rmcp::schemars")]
struct Outcome {
    result: f64,
}

#[tool_router]
impl Calculator {
    #[tool(description = "Returns the text it is given", annotations(read_only_hint = true))]
    fn echo(Parameters(Text { text }): Parameters<Text>) -> String {
        text
    }

    #[tool(description = "a + b", annotations(read_only_hint = true))]
    fn add(Parameters(Operands { a, b }): Parameters<Operands>) -> Json<Outcome> {
        Json(Outcome { result: a + b })
    }

    /// An `Err` becomes a result with `isError`, so that the model can read it and correct the call.
    #[tool(description = "a / b", annotations(read_only_hint = true))]
    fn divide(Parameters(Operands { a, b }): Parameters<Operands>) -> Result<Json<Outcome>, String> {
        if b == 0.0 {
            return Err("b is 0: cannot divide by zero".into());
        }
        Ok(Json(Outcome { result: a / b }))
    }
}

#[tool_handler]
impl ServerHandler for Calculator {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new("calculator", env!("CARGO_PKG_VERSION")))
            .with_instructions("Calculates with two numbers, and echoes text.")
    }
}

/// Reads `PORT` or `--port PORT`.
fn parse_port(mut arguments: impl Iterator<Item = String>) -> Result<u16, Error> {
    let usage = || Error::other("usage: backend_server_1 [PORT | --port PORT]");
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
        || Ok(Calculator),
        Arc::new(LocalSessionManager::default()),
        StreamableHttpServerConfig::default(),
    );
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await?;
    println!("listening on http://{}/mcp", listener.local_addr()?);
    axum::serve(listener, Router::new().nest_service("/mcp", service)).await
}
