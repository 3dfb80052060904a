//! The OpenAPI 3.1 document. Paths come from the table of routes, schemas from the types that are read and
//! written.

use serde_json::{Map, Value, json};

use super::openapi_examples::{body_example, path_example};
use super::openapi_schemas::{reference, schemas};
use super::routes::{ROUTES, Route, RoutePolicy, RouteShape, TOOL_NAME_CHARS_MAX};
use crate::telemetry::events::{EventKind, Severity};

/// The description of a route in the document.
#[derive(Default)]
struct RouteDescription {
    /// Name, schema and description.
    query: Vec<(&'static str, Value, &'static str)>,
    /// Names and descriptions of the response headers.
    headers: Vec<(&'static str, &'static str)>,
    /// Media types and their common schema.
    body: Option<(&'static [&'static str], Value)>,
    /// Status, description, media type with schema, and headers.
    answers: Vec<Answer>,
    /// Error statuses in addition to those that follow from policy, path and body.
    problems: Vec<u16>,
}

type Answer = (u16, &'static str, Option<(&'static str, Value)>, &'static [&'static str]);

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const JSON_ONLY: &[&str] = &[JSON];
const PATCHES: &[&str] = &["application/merge-patch+json", JSON];
const IF_MATCH: (&str, &str) = (
    "If-Match",
    "The ETag that the object must have. Without it the last write wins. The part after the `~` covers what the gateway reports (`served`, `reason`, `condition`) and is not compared here",
);
const IF_NONE_MATCH: (&str, &str) = ("If-None-Match", "`*`: only if the object does not exist");
const IF_CHANGED: (&str, &str) = ("If-None-Match", "An ETag that the client already has");

const LAST_EVENT_ID: (&str, &str) =
    ("Last-Event-ID", "The id of the last event that was received: the stream continues after it");

/// Returns the whole document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for route in ROUTES {
        let item = paths.entry(route.path).or_insert_with(|| json!({}));
        item[route.method.to_ascii_lowercase()] = operation(route);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "metamcp",
            "description": "Administration of a metamcp gateway, and tool calls for programs that do not speak MCP.",
            "license": {"name": "MIT", "identifier": "MIT"},
            "version": env!("CARGO_PKG_VERSION"),
        },
        "servers": [{"url": "/"}],
        "paths": paths,
        "components": {
            "schemas": schemas(),
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer", "description": "An API key, or a token issued for one"},
                "api_key": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "An API key"},
            },
        },
        "tags": [
            {"name": "public", "description": "No credential required"},
            {"name": "client", "description": "Requires a key; limited to the grants of the key"},
            {"name": "admin", "description": "Requires an administrator's key (`keyadm keys create --admin`)"},
        ],
    })
}

fn operation(route: &Route) -> Value {
    let described = describe(route.shape);
    let mut parameters: Vec<Value> = Vec::new();
    for name in route.path.split('/').filter_map(|segment| segment.strip_prefix('{')?.strip_suffix('}')) {
        let (what, max) = match name {
            "server" | "endpoint" => ("Name or UUID", 128),
            "tool" => ("The tool's name at the server", TOOL_NAME_CHARS_MAX),
            _ => ("File name", 128),
        };
        let schema = json!({"type": "string", "minLength": 1, "maxLength": max});
        let mut parameter =
            json!({"name": name, "in": "path", "required": true, "description": what, "schema": schema});
        if let Some(example) = path_example(name) {
            parameter["example"] = example.into();
        }
        parameters.push(parameter);
    }
    for (name, schema, what) in &described.query {
        parameters.push(
            json!({"name": name, "in": "query", "required": false, "description": what, "schema": schema}),
        );
    }
    for (name, what) in &described.headers {
        let schema = json!({"type": "string"});
        parameters.push(
            json!({"name": name, "in": "header", "required": false, "description": what, "schema": schema}),
        );
    }
    let mut responses = Map::new();
    for (status, what, content, headers) in &described.answers {
        responses.insert(status.to_string(), answer(what, content.as_ref(), headers));
    }
    for status in problems(route, &described) {
        responses.entry(status.to_string()).or_insert_with(|| problem(status));
    }
    let name = format!("{:?}", route.operation);
    let id = name[..1].to_ascii_lowercase() + &name[1..];
    let mut operation = json!({
        "tags": [route.policy.as_str()],
        "summary": route.summary,
        "operationId": id,
        "responses": responses,
        "security": match (route.policy, route.shape) {
            // Without a key, it says less.
            (RoutePolicy::Public, RouteShape::Ready) => json!([{}, {"bearer": []}, {"api_key": []}]),
            (RoutePolicy::Public, _) => json!([]),
            (RoutePolicy::Client | RoutePolicy::Admin, _) => json!([{"bearer": []}, {"api_key": []}]),
        },
    });
    if !parameters.is_empty() {
        operation["parameters"] = parameters.into();
    }
    if let Some((media_types, schema)) = described.body {
        let content = json!({"schema": schema, "example": body_example(route.shape)});
        let content: Map<_, _> =
            media_types.iter().map(|media| ((*media).to_owned(), content.clone())).collect();
        operation["requestBody"] = json!({"required": true, "content": content});
    }
    operation
}

fn answer(what: &str, content: Option<&(&str, Value)>, headers: &[&str]) -> Value {
    let mut answer = json!({"description": what});
    if let Some((media, schema)) = content {
        answer["content"] = json!({*media: {"schema": schema}});
        if let Some(events) = schema.get("x-events") {
            answer["content"] = events.clone();
        }
    }
    for name in headers {
        answer["headers"][*name] = json!({"schema": {"type": "string"}, "required": true});
    }
    answer
}

/// Returns the error statuses of a route.
fn problems(route: &Route, described: &RouteDescription) -> Vec<u16> {
    let mut problems = described.problems.clone();
    if route.policy != RoutePolicy::Public {
        problems.extend([401, 500, 503]);
    }
    if route.policy == RoutePolicy::Admin {
        problems.push(403);
    }
    if route.policy == RoutePolicy::Client {
        problems.push(429);
    }
    if route.path.contains('{') {
        problems.push(404);
    }
    if !described.query.is_empty() || !described.headers.is_empty() {
        problems.push(400);
    }
    if route.body_bytes_max > 0 {
        problems.extend([400, 408, 413, 415]);
    }
    problems.sort_unstable();
    problems.dedup();
    problems
}

fn problem(status: u16) -> Value {
    let code = http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
    let mut value = json!({"description": code.unwrap_or("Problem")});
    value["content"] = json!({"application/problem+json": {"schema": reference("Problem")}});
    match status {
        401 => value["headers"]["WWW-Authenticate"] = json!({"schema": {"type": "string"}, "required": true}),
        429 | 503 => {
            value["headers"]["Retry-After"] = json!({"schema": {"type": "string"}, "required": true});
        }
        _ => {}
    }
    value
}

fn page_of(items: &Value) -> Value {
    json!({
        "type": "object",
        "required": ["items"],
        "properties": {
            "items": {"type": "array", "items": items},
            "next_cursor": {"type": "string", "description": "The cursor of the next page, if there is one"},
        },
    })
}

fn paging() -> Vec<(&'static str, Value, &'static str)> {
    vec![
        (
            "limit",
            json!({"type": "integer", "minimum": 1, "maximum": 500, "default": 100}),
            "The number of items on a page",
        ),
        ("cursor", json!({"type": "string"}), "`next_cursor` of the previous page"),
    ]
}

fn texts(names: &[(&'static str, &'static str)]) -> Vec<(&'static str, Value, &'static str)> {
    names.iter().map(|(name, what)| (*name, json!({"type": "string"}), *what)).collect()
}

fn times() -> Vec<(&'static str, Value, &'static str)> {
    let seconds = json!({"type": "integer", "minimum": 0, "maximum": i64::MAX});
    vec![
        ("from", seconds.clone(), "At or after this time, in seconds since 1970"),
        ("until", seconds, "Before this time, in seconds since 1970"),
    ]
}

fn describe(shape: RouteShape) -> RouteDescription {
    match shape {
        RouteShape::Health => one(200, "The process is alive", JSON, reference("Health")),
        RouteShape::Ready => RouteDescription {
            answers: vec![
                (200, "The gateway accepts requests", Some((JSON, reference("Ready"))), &[]),
                (503, "The gateway is draining", Some((JSON, reference("Ready"))), &[]),
            ],
            ..RouteDescription::default()
        },
        RouteShape::Metrics => metrics(),
        RouteShape::Document => one(200, "The document", JSON, json!({"type": "object"})),
        RouteShape::Page => one(200, "The page", "text/html", json!({"type": "string"})),
        RouteShape::Asset => RouteDescription {
            answers: vec![(200, "The file", Some(("", asset_content())), &[])],
            ..RouteDescription::default()
        },
        RouteShape::Token => RouteDescription {
            body: Some((JSON_ONLY, reference("TokenRequest"))),
            problems: vec![401, 503],
            ..one(200, "A token", JSON, reference("TokenResponse"))
        },
        RouteShape::ServerList => list(&reference("Server"), Vec::new()),
        RouteShape::EndpointList => list(&reference("Endpoint"), Vec::new()),
        RouteShape::ServerGet => get("Server"),
        RouteShape::EndpointGet => get("Endpoint"),
        RouteShape::ServerCreate => create("Server", "ServerWrite"),
        RouteShape::EndpointCreate => create("Endpoint", "EndpointWrite"),
        RouteShape::ServerPut => put("Server", "ServerPut"),
        RouteShape::EndpointPut => put("Endpoint", "EndpointPut"),
        RouteShape::ServerPatch => patch("Server", "ServerPatch"),
        RouteShape::EndpointPatch => patch("Endpoint", "EndpointPatch"),
        RouteShape::Delete => RouteDescription {
            headers: vec![IF_MATCH],
            answers: vec![(204, "Deleted", None, &[])],
            problems: vec![409, 412],
            ..RouteDescription::default()
        },
        RouteShape::Test => RouteDescription {
            problems: vec![409],
            ..one(200, "The result of the test", JSON, reference("TestResult"))
        },
        RouteShape::Vetting => {
            one(200, "Tools of the server that need attention", JSON, reference("ServerVetting"))
        }
        RouteShape::Approve => approve(),
        RouteShape::Tools => RouteDescription {
            problems: vec![409],
            ..list(&json!({"type": "object", "description": "`Tool` of MCP"}), Vec::new())
        },
        RouteShape::Execute => execute(),
        RouteShape::Usage => usage(),
        RouteShape::Audit => audit(),
        RouteShape::Events => events(),
        RouteShape::HealthEvents => one(200, "Events `gateway.health`", EVENTS, json!({"type": "string"})),
        RouteShape::Sessions => list(&reference("SessionView"), texts(&[("key_id", "Only this key")])),
        RouteShape::Import => RouteDescription {
            query: vec![("replace", json!({"type": "boolean"}), "Whether to replace existing servers")],
            body: Some((JSON_ONLY, mcp_servers())),
            problems: vec![422],
            ..one(200, "The outcome of each entry", JSON, reference("ImportReport"))
        },
    }
}

fn usage() -> RouteDescription {
    let filters = [
        ("key_id", "Only this key"),
        ("server", "Only this server"),
        ("tool", "Only this tool"),
        ("prompt", "Only this prompt, if no tool is given"),
        ("resource", "Only this resource, by its URI, if neither a tool nor a prompt is given"),
    ];
    list(&reference("Usage"), [times(), texts(&filters)].concat())
}

fn events() -> RouteDescription {
    let severity = json!({"type": "string", "enum": Severity::ALL.map(Severity::as_str)});
    let what = format!(
        "An event for each thing that happens, and `missed` if some were dropped before they were read. The data is JSON with \
         `id`, `type`, `timestamp`, `severity`, `server`, `endpoint`, `key_id` and `data`. Types: {}",
        EventKind::ALL.map(EventKind::as_str).join(", ")
    );
    let query = texts(&[
        ("type", "Only these types, separated by commas: names, or groups such as `call.*`"),
        ("server", "Only events of this server"),
        ("endpoint", "Only events of this endpoint, or of `servers/NAME`"),
        ("key", "Only events of the key with this id; for administrators"),
    ]);
    RouteDescription {
        query: query
            .into_iter()
            .chain([("severity", severity, "Only events of at least this severity")])
            .collect(),
        headers: vec![LAST_EVENT_ID],
        problems: vec![429],
        ..one(200, "Events", EVENTS, json!({"type": "string", "description": what}))
    }
}

fn audit() -> RouteDescription {
    let kind = json!({"type": "string", "enum": ["key", "server", "endpoint", "jwt_key"]});
    let filters = [
        ("actor", "Only changes by this actor"),
        ("action", "Only this action, such as `server.create`"),
        ("object_id", "Only this object"),
    ];
    let kind = vec![("object_kind", kind, "Only objects of this kind")];
    list(&reference("AuditEntry"), [times(), texts(&filters), kind].concat())
}

fn one(status: u16, what: &'static str, media: &'static str, schema: Value) -> RouteDescription {
    RouteDescription {
        answers: vec![(status, what, Some((media, schema)), &[])],
        ..RouteDescription::default()
    }
}

fn list(items: &Value, filters: Vec<(&'static str, Value, &'static str)>) -> RouteDescription {
    RouteDescription { query: [filters, paging()].concat(), ..one(200, "One page", JSON, page_of(items)) }
}

fn get(schema: &'static str) -> RouteDescription {
    RouteDescription {
        headers: vec![IF_CHANGED],
        answers: vec![
            (200, "The current state", Some((JSON, reference(schema))), &["ETag"]),
            (304, "The client's ETag is current", None, &["ETag"]),
        ],
        ..RouteDescription::default()
    }
}

fn create(schema: &'static str, body: &'static str) -> RouteDescription {
    RouteDescription {
        body: Some((JSON_ONLY, reference(body))),
        answers: vec![(201, "Created", Some((JSON, reference(schema))), &["ETag", "Location"])],
        problems: vec![409, 422],
        ..RouteDescription::default()
    }
}

fn put(schema: &'static str, body: &'static str) -> RouteDescription {
    RouteDescription {
        headers: vec![IF_MATCH, IF_NONE_MATCH],
        body: Some((JSON_ONLY, reference(body))),
        answers: vec![
            (200, "Replaced, or already in this state", Some((JSON, reference(schema))), &["ETag"]),
            (201, "Created", Some((JSON, reference(schema))), &["ETag", "Location"]),
        ],
        problems: vec![409, 412, 422],
        ..RouteDescription::default()
    }
}

fn patch(schema: &'static str, body: &'static str) -> RouteDescription {
    RouteDescription {
        headers: vec![IF_MATCH],
        body: Some((PATCHES, reference(body))),
        answers: vec![(200, "The new state", Some((JSON, reference(schema))), &["ETag"])],
        problems: vec![409, 412, 422],
        ..RouteDescription::default()
    }
}

fn approve() -> RouteDescription {
    RouteDescription {
        body: Some((JSON_ONLY, reference("ApproveTools"))),
        problems: vec![409, 422],
        ..one(200, "The tools that were approved", JSON, reference("ApprovedTools"))
    }
}

fn execute() -> RouteDescription {
    let result = json!({"type": "object", "description": "`CallToolResult` of MCP"});
    let events = json!({
        JSON: {"schema": result},
        "text/event-stream": {"schema": {"type": "string", "description":
            "With `Accept: text/event-stream`: an event `notification` for each notification of the server, then one `result`, or one `error` with problem details"}},
    });
    RouteDescription {
        body: Some((JSON_ONLY, json!({"type": "object", "description": "The tool's arguments"}))),
        problems: vec![409, 422, 502, 504],
        ..one(200, "The result; `isError` says whether the tool failed", JSON, json!({"x-events": events}))
    }
}

fn asset_content() -> Value {
    let binary = json!({"schema": {"type": "string"}});
    json!({"x-events": {"text/javascript": binary, "text/css": binary}})
}

fn metrics() -> RouteDescription {
    let text = json!({"schema": {"type": "string"}});
    let content = json!({"x-events": {"text/plain": text, "application/openmetrics-text": text}});
    RouteDescription {
        answers: vec![(200, "The metrics", Some(("", content)), &[])],
        problems: vec![404],
        ..RouteDescription::default()
    }
}

fn mcp_servers() -> Value {
    json!({
        "type": "object",
        "required": ["mcpServers"],
        "properties": {"mcpServers": {"type": "object", "description": "Servers by name. Errors in an entry are reported in the response"}},
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_document_is_openapi() {
        let document = document();
        let read: utoipa::openapi::OpenApi = serde_json::from_value(document.clone()).expect("it is OpenAPI");
        let paths = document["paths"].as_object().expect("there are paths");
        assert_eq!(read.paths.paths.len(), paths.len());
        // Every reference has a target.
        let text = document.to_string();
        for (at, prefix) in text.match_indices("#/components/schemas/") {
            let name = text[at + prefix.len()..].split('"').next().unwrap_or_default();
            assert!(document["components"]["schemas"].get(name).is_some(), "{name} does not exist");
        }
        for name in document["components"]["schemas"].as_object().expect("there are schemas").keys() {
            assert!(text.contains(&format!("schemas/{name}\"")), "{name} is not used");
        }
    }
}
