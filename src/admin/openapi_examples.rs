//! Examples for the OpenAPI document. They can be sent as they are, in the order of the document: a test does so.

use serde_json::{Value, json};

use super::routes::RouteShape;

/// Returns a request body for a route that takes one.
pub(super) fn body_example(shape: RouteShape) -> Option<Value> {
    let notes = || json!({"kind": "http", "url": "https://notes.example.com/mcp"});
    let team = || json!({"servers": [{"server": "notes", "allow": ["search", "list_*"]}]});
    Some(match shape {
        RouteShape::Token => json!({"api_key": "mcp_…"}),
        RouteShape::ServerCreate => named("notes", notes()),
        RouteShape::ServerPut => notes(),
        RouteShape::ServerPatch => json!({"call_timeout": "1m", "headers": {"X-Team": "tools"}}),
        RouteShape::Approve => json!({}),
        RouteShape::Execute => json!({"query": "invoices of May"}),
        RouteShape::EndpointCreate => named("team", team()),
        RouteShape::EndpointPut => team(),
        RouteShape::EndpointPatch => json!({"prefix": "never"}),
        RouteShape::Import => {
            json!({"mcpServers": {"search": {"type": "http", "url": "https://search.example.com/mcp"}}})
        }
        _ => return None,
    })
}

/// Returns a value for a `{…}` segment of a path. `None` if the segment is described by its values.
pub(super) fn path_example(segment: &str) -> Option<&'static str> {
    match segment {
        "server" => Some("notes"),
        "endpoint" => Some("team"),
        "tool" => Some("search"),
        _ => None,
    }
}

fn named(name: &str, mut definition: Value) -> Value {
    definition["name"] = name.into();
    definition
}
