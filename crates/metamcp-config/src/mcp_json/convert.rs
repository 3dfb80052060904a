//! Server definitions from entries of `mcp.json`.

use serde_json::{Map, Value, json};

use super::entry::HttpTransport;
use super::names::server_name_for;

/// Returns the JSON definition of an HTTP entry, as read by
/// `ServerDefinition::read` of metamcp-store.
pub fn http_definition(
    written: &str,
    url: &str,
    headers: Vec<(String, String)>,
    transport: HttpTransport,
) -> Value {
    let name = server_name_for(written);
    let headers: Map<String, Value> =
        headers.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value.into())).collect();
    let kind = if transport == HttpTransport::Sse { "sse" } else { "http" };
    json!({"name": name, "kind": kind, "url": url, "headers": headers})
}

/// Returns the JSON definition of a `stdio` entry.
pub fn stdio_definition(
    written: &str,
    command: &str,
    args: &[String],
    env: &[(String, String)],
    cwd: Option<&str>,
) -> Value {
    let env: Map<String, Value> =
        env.iter().map(|(name, value)| (name.clone(), value.as_str().into())).collect();
    json!({
        "name": server_name_for(written), "kind": "stdio", "command": command, "args": args, "env": env, "cwd": cwd,
    })
}
