//! Every route there is, each with who may use it. The dispatch, the OpenAPI document and the table in
//! `docs/SECURITY.md` are this table.

use http::Method;

use super::openapi::Shape;

/// One method on one path.
#[derive(Debug)]
pub struct Route {
    /// As HTTP writes it.
    pub method: &'static str,
    /// `{…}` stands for one segment.
    pub path: &'static str,
    /// Who may use it. There is no route without one.
    pub policy: Policy,
    /// What it does.
    pub operation: Operation,
    /// In a few words.
    pub summary: &'static str,
    /// Its largest body; 0: it takes none.
    pub body_bytes_max: usize,
    /// What goes in and comes out.
    pub shape: Shape,
}

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Policy {
    /// Everybody.
    Public,
    /// Whoever has a key, within what the key may do.
    Client,
    /// Whoever has an administrator's key.
    Admin,
}

/// What a route does.
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
}

/// What a path and a method lead to.
#[derive(Debug)]
pub enum Found {
    /// A route, with what stands for its `{…}`, percent-decoded.
    Route(&'static Route, Vec<String>),
    /// The path is there, with these methods.
    OtherMethods(String),
    /// Nothing.
    Nothing,
}

impl Policy {
    /// As the documents write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Public => "public",
            Self::Client => "client",
            Self::Admin => "admin",
        }
    }
}

/// Looks a request up. HEAD goes wherever GET does.
pub fn find(method: &Method, path: &str) -> Found {
    let wanted = if method == Method::HEAD { "GET" } else { method.as_str() };
    let mut methods: Vec<&str> = Vec::new();
    for route in ROUTES {
        let Some(parameters) = matches(route.path, path) else { continue };
        if route.method == wanted {
            return Found::Route(route, parameters);
        }
        methods.push(route.method);
        if route.method == "GET" {
            methods.push("HEAD");
        }
    }
    if methods.is_empty() { Found::Nothing } else { Found::OtherMethods(methods.join(", ")) }
}

/// The segments that stand for `{…}`, when the path is of the pattern. An empty one, or one that is no text, is none.
fn matches(pattern: &str, path: &str) -> Option<Vec<String>> {
    if path.len() > PATH_BYTES_MAX {
        return None;
    }
    let (mut wanted, mut given) = (pattern.split('/'), path.split('/'));
    let mut parameters = Vec::new();
    loop {
        match (wanted.next(), given.next()) {
            (None, None) => return Some(parameters),
            (Some(wanted), Some(given)) if wanted.starts_with('{') => parameters.push(decode(given)?),
            (Some(wanted), Some(given)) if wanted == given => {}
            _ => return None,
        }
    }
}

/// Percent-decoded; `None` for what is empty, malformed, or not UTF-8.
fn decode(segment: &str) -> Option<String> {
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

/// A name has 128 bytes at most, thrice that when escaped; longer paths lead nowhere.
const PATH_BYTES_MAX: usize = 1024;

/// A key in JSON has some 90 bytes.
const TOKEN_BYTES_MAX: usize = 4 << 10;

/// 64 headers of 8 KiB, and the rest of a definition; an endpoint with a thousand long descriptions is not one.
const DEFINITION_BYTES_MAX: usize = 1 << 20;

/// A thousand servers, some KiB each.
const IMPORT_BYTES_MAX: usize = 4 << 20;

/// As large as a message to `/mcp` may be where nothing is configured.
const ARGUMENTS_BYTES_MAX: usize = 4 << 20;

const fn route(
    method: &'static str,
    path: &'static str,
    policy: Policy,
    operation: Operation,
    body_bytes_max: usize,
    shape: Shape,
    summary: &'static str,
) -> Route {
    Route { method, path, policy, operation, summary, body_bytes_max, shape }
}

use Operation as O;
use Policy::{Admin, Client, Public};

/// All of them.
#[rustfmt::skip] // a table reads better as one
pub static ROUTES: &[Route] = &[
    route("GET", "/health", Public, O::Health, 0, Shape::Health, "Whether the process lives"),
    route("GET", "/ready", Public, O::Ready, 0, Shape::Ready, "Whether requests are welcome; with a key, also what is behind"),
    route("GET", "/metrics", Admin, O::Metrics, 0, Shape::Metrics, "Counters, histograms and gauges, for Prometheus; who may look says `telemetry.metrics`"),
    route("GET", "/api-docs/openapi.json", Public, O::OpenApi, 0, Shape::Document, "This document"),
    route("GET", "/swagger-ui", Public, O::SwaggerPage, 0, Shape::Page, "This document, to be read and tried"),
    route("GET", "/swagger-ui/{asset}", Public, O::SwaggerAsset, 0, Shape::Asset, "A part of that page"),
    route("POST", "/api/v1/auth/token", Public, O::CreateToken, TOKEN_BYTES_MAX, Shape::Token, "A short-lived token for an API key"),
    route("GET", "/api/v1/mcp/servers", Admin, O::ListServers, 0, Shape::ServerList, "All servers: those of files, then those of the store, by name"),
    route("POST", "/api/v1/mcp/servers", Admin, O::CreateServer, DEFINITION_BYTES_MAX, Shape::ServerCreate, "Add a server"),
    route("GET", "/api/v1/mcp/servers/{server}", Admin, O::GetServer, 0, Shape::ServerGet, "One server"),
    route("PUT", "/api/v1/mcp/servers/{server}", Admin, O::PutServer, DEFINITION_BYTES_MAX, Shape::ServerPut, "See to it that a server is so; the same twice changes nothing"),
    route("PATCH", "/api/v1/mcp/servers/{server}", Admin, O::PatchServer, DEFINITION_BYTES_MAX, Shape::ServerPatch, "Change some of a server (JSON merge patch)"),
    route("DELETE", "/api/v1/mcp/servers/{server}", Admin, O::DeleteServer, 0, Shape::Delete, "Take a server out, also of every endpoint"),
    route("POST", "/api/v1/mcp/servers/{server}/test", Admin, O::TestServer, 0, Shape::Test, "Connect to a stored server and list what it has"),
    route("GET", "/api/v1/mcp/servers/{server}/vetting", Admin, O::GetVetting, 0, Shape::Vetting, "Which tools of a server wait to be approved, and which hold what nobody sees"),
    route("POST", "/api/v1/mcp/servers/{server}/approve", Admin, O::ApproveTools, DEFINITION_BYTES_MAX, Shape::Approve, "Approve tools that changed"),
    route("GET", "/api/v1/mcp/servers/{server}/tools", Client, O::ListTools, 0, Shape::Tools, "The tools of a served server that the key may call"),
    route("POST", "/api/v1/mcp/servers/{server}/tools/{tool}/execute", Client, O::ExecuteTool, ARGUMENTS_BYTES_MAX, Shape::Execute, "Call a tool: its arguments in, its result out"),
    route("GET", "/api/v1/mcp/endpoints", Admin, O::ListEndpoints, 0, Shape::EndpointList, "All stored endpoints, by name"),
    route("POST", "/api/v1/mcp/endpoints", Admin, O::CreateEndpoint, DEFINITION_BYTES_MAX, Shape::EndpointCreate, "Add an endpoint"),
    route("GET", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::GetEndpoint, 0, Shape::EndpointGet, "One endpoint"),
    route("PUT", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::PutEndpoint, DEFINITION_BYTES_MAX, Shape::EndpointPut, "See to it that an endpoint is so; the same twice changes nothing"),
    route("PATCH", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::PatchEndpoint, DEFINITION_BYTES_MAX, Shape::EndpointPatch, "Change some of an endpoint (JSON merge patch)"),
    route("DELETE", "/api/v1/mcp/endpoints/{endpoint}", Admin, O::DeleteEndpoint, 0, Shape::Delete, "Take an endpoint out"),
    route("GET", "/api/v1/usage", Admin, O::ListUsage, 0, Shape::Usage, "Counters by hour, key, server and tool"),
    route("GET", "/api/v1/audit", Admin, O::ListAudit, 0, Shape::Audit, "Administrative changes, newest first"),
    route("GET", "/api/v1/sessions", Admin, O::ListSessions, 0, Shape::Sessions, "Sessions that this process holds, oldest first"),
    route("POST", "/api/v1/import", Admin, O::ImportServers, IMPORT_BYTES_MAX, Shape::Import, "Add the servers of an `mcpServers` file; a mistake in one does not stop the others"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(method: &str, path: &str, expected: &str) {
        let found = match find(&method.parse().expect("a method"), path) {
            Found::Route(route, parameters) => format!("{:?} {}", route.operation, parameters.join(",")),
            Found::OtherMethods(allow) => allow,
            Found::Nothing => "nothing".into(),
        };
        assert_eq!(found.trim(), expected, "{method} {path}");
    }

    #[test]
    fn finds() {
        check("GET", "/health", "Health");
        check("HEAD", "/health", "Health");
        check("POST", "/health", "GET, HEAD");
        check("DELETE", "/api/v1/mcp/servers", "GET, HEAD, POST");
        check("GET", "/api/v1/mcp/servers/a", "GetServer a");
        check("GET", "/api/v1/mcp/servers/a%2Fb", "GetServer a/b");
        check("POST", "/api/v1/mcp/servers/a/tools/x%20y/execute", "ExecuteTool a,x y");
    }

    #[test]
    fn never_something_else() {
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
    fn no_route_is_there_twice() {
        for (at, route) in ROUTES.iter().enumerate() {
            let twin =
                ROUTES[..at].iter().any(|other| (other.method, other.path) == (route.method, route.path));
            assert!(!twin, "{} {}", route.method, route.path);
        }
    }
}
