//! The table of all routes with their policies. Dispatch, the OpenAPI document and the table in
//! `docs/SECURITY.md` are derived from it.

use http::Method;

/// One method of one path.
#[derive(Debug)]
pub struct Route {
    pub method: &'static str,
    /// `{…}` stands for one segment.
    pub path: &'static str,
    /// Who may use the route. Required, so that no route is open by accident.
    pub policy: RoutePolicy,
    pub operation: Operation,
    /// One line for the documentation.
    pub summary: &'static str,
    /// The largest body; 0 if the route takes none.
    pub body_bytes_max: usize,
    /// The inputs and outputs, for the documentation.
    pub shape: RouteShape,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RoutePolicy {
    /// Everybody, without a key.
    Public,
    /// Callers with a key, within the grants of the key.
    Client,
    /// Callers with an administrator's key.
    Admin,
}

/// The handler of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Health,
    Ready,
    Metrics,
    OpenApi,
    SwaggerPage,
    SwaggerAsset,
    CreateToken,
    ListServers,
    CreateServer,
    GetServer,
    PutServer,
    PatchServer,
    DeleteServer,
    TestServer,
    GetVetting,
    ApproveTools,
    ListTools,
    ExecuteTool,
    ListEndpoints,
    CreateEndpoint,
    GetEndpoint,
    PutEndpoint,
    PatchEndpoint,
    DeleteEndpoint,
    ListUsage,
    ListAudit,
    ListSessions,
    ImportServers,
    StreamEvents,
    StreamHealth,
}

/// The inputs and outputs of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RouteShape {
    Health,
    Ready,
    Metrics,
    Document,
    Page,
    Asset,
    Token,
    ServerList,
    ServerCreate,
    ServerGet,
    ServerPut,
    ServerPatch,
    Delete,
    Test,
    Vetting,
    Approve,
    Tools,
    Execute,
    EndpointList,
    EndpointCreate,
    EndpointGet,
    EndpointPut,
    EndpointPatch,
    Usage,
    Audit,
    Sessions,
    Import,
    Events,
    HealthEvents,
}

/// The result of looking up a request.
#[derive(Debug)]
pub enum RouteMatch {
    /// The route, with the percent-decoded values of its `{…}` segments.
    Route(&'static Route, Vec<String>),
    /// The path exists, with these methods.
    OtherMethods(String),
    /// The path does not exist.
    Nothing,
}

impl RoutePolicy {
    /// Returns the name used in the documentation.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }
}

/// Looks up a request. HEAD uses the route of GET.
pub fn find_route(method: &Method, path: &str) -> RouteMatch {
    let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
    let mut methods: Vec<&str> = Vec::new();
    // People write it with a slash at the end, as they may write `/mcp/`.
    let path = if path == "/swagger-ui/" { "/swagger-ui" } else { path };
    for route in ROUTES {
        let Some(parameters) = match_path(route.path, path) else { continue };
        if route.method == wanted {
            return RouteMatch::Route(route, parameters);
        }
        methods.push(route.method);
        if route.method == "GET" {
            methods.push("HEAD");
        }
    }
    if methods.is_empty() { RouteMatch::Nothing } else { RouteMatch::OtherMethods(methods.join(", ")) }
}

/// Matches a path against a pattern, and returns the values of the `{…}` segments. An empty or invalid
/// segment does not match.
fn match_path(pattern: &str, path: &str) -> Option<Vec<String>> {
    if path.len() > PATH_BYTES_MAX {
        return None;
    }
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut parameters = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(parameters),
            (Some(wanted), Some(given)) if wanted.starts_with('{') => parameters.push(decode_segment(given)?),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// Percent-decodes a segment. `None` if it is empty, malformed, or not UTF-8.
fn decode_segment(segment: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(segment.len());
    let mut rest = segment.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        if byte == b'%' {
            let (hex, after) = rest.split_at_checked(2)?;
            let digit = |byte: u8| char::from(byte).to_digit(16);
            bytes.push(u8::try_from(digit(hex[0])? * 16 + digit(hex[1])?).ok()?);
            rest = after;
        } else {
            bytes.push(byte);
        }
    }
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.contains('\0'))
}

/// A name has at most 128 bytes, three times as many when escaped. Longer paths match no route.
const PATH_BYTES_MAX: usize = 1024;

/// A key in JSON has about 90 bytes.
const TOKEN_BYTES_MAX: usize = 4 << 10;

/// Enough for 64 headers of 8 KiB and the rest of a definition.
const DEFINITION_BYTES_MAX: usize = 1 << 20;

/// A thousand servers with some KiB each.
const IMPORT_BYTES_MAX: usize = 4 << 20;

/// The default limit of a message to `/mcp`.
const ARGUMENTS_BYTES_MAX: usize = 4 << 20;

/// The limit of tool names (MCP 2026-07-28, tools).
pub const TOOL_NAME_CHARS_MAX: usize = 128;

const fn route(
    method: &'static str,
    path: &'static str,
    policy: RoutePolicy,
    operation: Operation,
    body_bytes_max: usize,
    shape: RouteShape,
    summary: &'static str,
) -> Route {
    Route { method, path, policy, operation, summary, body_bytes_max, shape }
}

use Operation as O;
use RoutePolicy::{Admin, Client, Public};

#[rustfmt::skip] // a table reads better as one
pub static ROUTES: &[Route] = &[
    route("GET", "/health", Public, O::Health, 0, RouteShape::Health, "Liveness of the process"),
    route("GET", "/ready", Public, O::Ready, 0, RouteShape::Ready, "Readiness of the gateway; with a key, also the state of its servers"),
    route("GET", "/metrics", Admin, O::Metrics, 0, RouteShape::Metrics, "Metrics for Prometheus; `telemetry.metrics` controls who may read them"),
    route("GET", "/api-docs/openapi.json", Public, O::OpenApi, 0, RouteShape::Document, "This document"),
    route("GET", "/swagger-ui", Public, O::SwaggerPage, 0, RouteShape::Page, "Swagger UI for this document"),
    route("GET", "/swagger-ui/{asset}", Public, O::SwaggerAsset, 0, RouteShape::Asset, "A file of Swagger UI"),
    route("POST", "/api/v1/auth/token", Public, O::CreateToken, TOKEN_BYTES_MAX, RouteShape::Token, "Exchange an API key for a short-lived token"),
    route("GET", "/api/v1/mcp/servers", Admin, O::ListServers, 0, RouteShape::ServerList, "List all servers: those of files, then those of the store, by name"),
    route("POST", "/api/v1/mcp/servers", Admin, O::CreateServer, DEFINITION_BYTES_MAX, RouteShape::ServerCreate, "Add a server"),
    route("GET", "/api/v1/mcp/servers/{server}", Admin, O::GetServer, 0, RouteShape::ServerGet, "Get a server"),
    route("PUT", "/api/v1/mcp/servers/{server}", Admin, O::PutServer, DEFINITION_BYTES_MAX, RouteShape::ServerPut, "Create or replace a server; idempotent"),
    route("PATCH", "/api/v1/mcp/servers/{server}", Admin, O::PatchServer, DEFINITION_BYTES_MAX, RouteShape::ServerPatch, "Change members of a server (JSON merge patch)"),
    route("DELETE", "/api/v1/mcp/servers/{server}", Admin, O::DeleteServer, 0, RouteShape::Delete, "Delete a server, and remove it from every endpoint"),
    route("POST", "/api/v1/mcp/servers/{server}/test", Admin, O::TestServer, 0, RouteShape::Test, "Connect to a server and count what it offers"),
    route("GET", "/api/v1/mcp/servers/{server}/vetting", Admin, O::GetVetting, 0, RouteShape::Vetting, "List tools of a server that wait for approval, or that contain invisible characters"),
    route("POST", "/api/v1/mcp/servers/{server}/approve", Admin, O::ApproveTools, DEFINITION_BYTES_MAX, RouteShape::Approve, "Approve changed tools"),
    route("GET", "/api/v1/mcp/servers/{server}/tools", Client, O::ListTools, 0, RouteShape::Tools, "List the tools of a server that the key may call"),
    route("POST", "/api/v1/mcp/servers/{server}/tools/{tool}/execute", Client, O::ExecuteTool, ARGUMENTS_BYTES_MAX, RouteShape::Execute, "Call a tool with the arguments in the body"),
    route("GET", "/api/v1/mcp/endpoints", Admin, O::ListEndpoints, 0, RouteShape::EndpointList, "List the stored endpoints, by name"),
    route("POST", "/api/v1/mcp/endpoints", Admin, O::CreateEndpoint, DEFINITION_BYTES_MAX, RouteShape::EndpointCreate, "Add an endpoint"),
    route("GET", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::GetEndpoint, 0, RouteShape::EndpointGet, "Get an endpoint"),
    route("PUT", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::PutEndpoint, DEFINITION_BYTES_MAX, RouteShape::EndpointPut, "Create or replace an endpoint; idempotent"),
    route("PATCH", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::PatchEndpoint, DEFINITION_BYTES_MAX, RouteShape::EndpointPatch, "Change members of an endpoint (JSON merge patch)"),
    route("DELETE", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::DeleteEndpoint, 0, RouteShape::Delete, "Delete an endpoint"),
    route("GET", "/api/v1/usage", Admin, O::ListUsage, 0, RouteShape::Usage, "List usage by hour, key, server, and tool, prompt or resource"),
    route("GET", "/api/v1/audit", Admin, O::ListAudit, 0, RouteShape::Audit, "List administrative changes, newest first"),
    route("GET", "/api/v1/sessions", Admin, O::ListSessions, 0, RouteShape::Sessions, "List sessions of this process, oldest first"),
    route("GET", "/api/v1/events", Client, O::StreamEvents, 0, RouteShape::Events, "Stream what happens: servers, calls, keys, configuration"),
    route("GET", "/api/v1/events/health", Admin, O::StreamHealth, 0, RouteShape::HealthEvents, "Stream how the gateway is, every five seconds"),
    route("POST", "/api/v1/import", Admin, O::ImportServers, IMPORT_BYTES_MAX, RouteShape::Import, "Import the servers of an `mcpServers` file; errors in an entry do not affect the others"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, path: &str, expected: &str) {
        let found = match find_route(&method.parse().expect("a method"), path) {
            RouteMatch::Route(route, parameters) => format!("{:?} {}", route.operation, parameters.join(",")),
            RouteMatch::OtherMethods(allow) => allow,
            RouteMatch::Nothing => "nothing".into(),
        };
        assert_eq!(found.trim(), expected, "{method} {path}");
    }

    #[test]
    fn finds_routes() {
        check("GET", "/health", "Health");
        check("HEAD", "/health", "Health");
        check("GET", "/swagger-ui/", "SwaggerPage");
        check("POST", "/health", "GET, HEAD");
        check("DELETE", "/api/v1/mcp/servers", "GET, HEAD, POST");
        check("GET", "/api/v1/mcp/servers/a", "GetServer a");
        check("GET", "/api/v1/mcp/servers/a%2Fb", "GetServer a/b");
        check("POST", "/api/v1/mcp/servers/a/tools/x%20y/execute", "ExecuteTool a,x y");
    }

    #[test]
    fn finds_nothing_for_similar_paths() {
        for path in [
            "/",
            "",
            "/health/",
            "//health",
            "/HEALTH",
            "/api/v1/mcp/servers/",
            "/api/v1/mcp/servers//tools",
            "/api/v1/mcp/servers/a/",
            "/api/v1/mcp/servers/%",
            "/api/v1/mcp/servers/%zz",
            "/api/v1/mcp/servers/%ff",
            "/api/v1/mcp/servers/%00",
            "/api/v1/mcp/servers/../audit",
            "/api/v1/mcp/servers/a/../../audit",
            "/api/v1/%61udit",
            "/api/v2/audit",
            "/api/v1/keys",
        ] {
            check("GET", path, "nothing");
        }
        check("GET", &format!("/api/v1/mcp/servers/{}", "a".repeat(2000)), "nothing");
    }

    #[test]
    fn routes_are_unique() {
        for (at, route) in ROUTES.iter().enumerate() {
            let twin =
                ROUTES[..at].iter().any(|other| (other.method, other.path) == (route.method, route.path));
            assert!(!twin, "{} {}", route.method, route.path);
        }
    }
}
