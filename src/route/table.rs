//! Maps request paths to endpoints.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::endpoint::{
    ENDPOINT_SCOPE, Endpoint, EndpointId, EndpointShape, RoutedServer, SERVER_SCOPE, display_name,
};
use crate::telemetry::metrics::LabelInterner;
use metamcp_config::sections::{EndpointConfig, EndpointMembers};
use metamcp_core::base::{EndpointName, ServerName};

/// All configured endpoints, and each server as an endpoint of its own.
#[derive(Default)]
pub struct RouteTable {
    endpoints: HashMap<EndpointName, Arc<Endpoint>, RandomState>,
    servers: HashMap<ServerName, Arc<Endpoint>, RandomState>,
    /// The id of the next new endpoint. Never decreases from one table to the next.
    next_id: u32,
    /// The metrics labels, kept from one table to the next.
    endpoint_labels: LabelInterner,
    server_labels: LabelInterner,
}

/// An endpoint names a server that does not exist.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownServerError {
    pub endpoint: EndpointName,
    pub server: ServerName,
}

/// The path of the framed stream of the endpoint `default`.
const STREAM_PATH: &str = "/api/v1/mcp/stream";

/// The endpoint that a request path names, whether it exists or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EndpointReference<'a> {
    /// The aggregate endpoint of this name.
    Named(&'a str),
    /// The endpoint of the server of this name.
    Server(&'a str),
}

impl<'a> EndpointReference<'a> {
    /// Reads `/mcp`, `/mcp/{endpoint}`, `/metamcp/{endpoint}/mcp` or `/servers/{server}/mcp`, each also with a slash at its
    /// end. No other path names an endpoint, and escapes are not decoded.
    pub fn of_path(path: &'a str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        if path == "/mcp" {
            return Some(Self::Named(EndpointName::DEFAULT));
        }
        if let Some(name) = path.strip_prefix("/mcp/") {
            return Some(Self::Named(name));
        }
        if let Some(name) = path.strip_prefix("/metamcp/").and_then(|rest| rest.strip_suffix("/mcp")) {
            return Some(Self::Named(name));
        }
        path.strip_prefix("/servers/")?.strip_suffix("/mcp").map(Self::Server)
    }

    /// The name of the endpoint, as [`Endpoint::display_name`] writes it.
    pub fn display_name(self) -> Cow<'a, str> {
        match self {
            Self::Named(name) => name.into(),
            Self::Server(name) => format!("servers/{name}").into(),
        }
    }

    /// Reads the path of a framed stream: `/api/v1/mcp/stream`, `/api/v1/mcp/stream/{endpoint}` or
    /// `/api/v1/mcp/stream/servers/{server}`, each also with a slash at its end.
    pub fn of_stream_path(path: &'a str) -> Option<Self> {
        let path = path.strip_suffix('/').unwrap_or(path);
        let rest = path.strip_prefix(STREAM_PATH)?;
        if rest.is_empty() {
            return Some(Self::Named(EndpointName::DEFAULT));
        }
        let rest = rest.strip_prefix('/')?;
        Some(rest.strip_prefix("servers/").map_or(Self::Named(rest), Self::Server))
    }
}

impl RouteTable {
    /// Builds the first table. The id of each server is its index in `servers`.
    pub fn build(servers: &[ServerName], endpoints: &[EndpointConfig]) -> Result<Self, UnknownServerError> {
        let routed: Vec<_> = (0..)
            .zip(servers)
            .map(|(upstream, name)| RoutedServer::unfiltered(name.clone(), upstream))
            .collect();
        for endpoint in endpoints {
            let EndpointMembers::Listed(members) = &endpoint.servers else { continue };
            if let Some(unknown) = members.iter().find(|member| !servers.contains(&member.server)) {
                let (endpoint, server) = (endpoint.name.clone(), unknown.server.clone());
                return Err(UnknownServerError { endpoint, server });
            }
        }
        Ok(Self::default().rebuild(&routed, endpoints))
    }

    /// Builds the table that replaces this one. An endpoint whose definition, servers and server ids are the same
    /// keeps its `Arc` and id; any other gets a new id. Servers missing from `servers` are dropped from endpoints.
    #[must_use]
    pub fn rebuild(&self, servers: &[RoutedServer], endpoints: &[EndpointConfig]) -> Self {
        let mut table = Self {
            next_id: self.next_id,
            endpoint_labels: self.endpoint_labels.clone(),
            server_labels: self.server_labels.clone(),
            ..Self::default()
        };
        let add_label = |server: &RoutedServer| RoutedServer {
            label: table.server_labels.intern(server.name.as_str()),
            ..server.clone()
        };
        let servers: Vec<RoutedServer> = servers.iter().map(add_label).collect();
        let by_name: HashMap<&ServerName, &RoutedServer> =
            servers.iter().map(|server| (&server.name, server)).collect();
        for config in endpoints {
            let members: Vec<RoutedServer> = match &config.servers {
                EndpointMembers::All => servers.clone(),
                EndpointMembers::Listed(members) => members
                    .iter()
                    .filter_map(|member| Some((by_name.get(&member.server)?, &member.tool_view)))
                    .map(|(server, view)| RoutedServer {
                        tool_view: view.clone(),
                        ..RoutedServer::clone(server)
                    })
                    .collect(),
            };
            let before = self.endpoints.get(&config.name);
            let scope = format!("{ENDPOINT_SCOPE}{}", config.name);
            let shape = EndpointShape::Aggregate(config.prefix);
            let endpoint = table.reuse_or_create(before, scope, shape, members);
            table.endpoints.insert(config.name.clone(), endpoint);
        }
        for server in &servers {
            let before = self.servers.get(&server.name);
            let scope = format!("{SERVER_SCOPE}{}", server.name);
            let endpoint = table.reuse_or_create(before, scope, EndpointShape::Single, vec![server.clone()]);
            table.servers.insert(server.name.clone(), endpoint);
        }
        table
    }

    /// Returns `before` if it is unchanged, else a new endpoint.
    fn reuse_or_create(
        &mut self,
        before: Option<&Arc<Endpoint>>,
        scope: String,
        shape: EndpointShape,
        servers: Vec<RoutedServer>,
    ) -> Arc<Endpoint> {
        if let Some(before) = before.filter(|before| before.shape == shape && before.servers == servers) {
            return Arc::clone(before);
        }
        let id = EndpointId(self.next_id);
        self.next_id += 1;
        let label = self.endpoint_labels.intern(&display_name(&scope));
        Arc::new(Endpoint { id, scope: scope.into(), shape, servers, label })
    }

    /// Finds the endpoint of a request path, as [`EndpointReference::of_path`] reads it.
    pub fn find_by_path(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.find_by_reference(EndpointReference::of_path(path)?)
    }

    /// Finds the endpoint of a framed stream's path, as [`EndpointReference::of_stream_path`] reads it.
    pub fn find_by_stream_path(&self, path: &str) -> Option<&Arc<Endpoint>> {
        self.find_by_reference(EndpointReference::of_stream_path(path)?)
    }

    fn find_by_reference(&self, reference: EndpointReference<'_>) -> Option<&Arc<Endpoint>> {
        match reference {
            EndpointReference::Named(name) => self.find_by_name(name),
            EndpointReference::Server(name) => self.servers.get(name),
        }
    }

    /// The current version of the endpoint with this scope.
    pub fn find_by_scope(&self, scope: &str) -> Option<&Arc<Endpoint>> {
        match scope.strip_prefix(SERVER_SCOPE) {
            Some(name) => self.servers.get(name),
            None => self.find_by_name(scope.strip_prefix(ENDPOINT_SCOPE)?),
        }
    }

    /// Whether this very version of the endpoint is in the table.
    pub fn contains(&self, endpoint: &Endpoint) -> bool {
        self.find_by_scope(&endpoint.scope).is_some_and(|current| current.id == endpoint.id)
    }

    /// The configured endpoints by name, without the servers' own.
    pub fn configured_endpoints(&self) -> impl Iterator<Item = (&EndpointName, &Arc<Endpoint>)> {
        self.endpoints.iter()
    }

    /// The endpoints that are one server each.
    pub fn server_endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.servers.values()
    }

    /// The metrics labels of endpoints and of servers. The endpoint label of a server's own path is
    /// `servers/{server}`.
    pub fn labels(&self) -> [&LabelInterner; 2] {
        [&self.endpoint_labels, &self.server_labels]
    }

    /// All endpoints, including the servers' own.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values().chain(self.servers.values())
    }

    fn find_by_name(&self, name: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(name)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use metamcp_config::sections::{EndpointMember, NamePrefix, ToolOverride, ToolView};
    use metamcp_core::base::Glob;

    fn table() -> RouteTable {
        let servers = ["a", "b"].map(|name| ServerName::new(name).expect("valid"));
        let endpoint = |name: &str, servers: &[ServerName]| EndpointConfig {
            name: EndpointName::new(name).expect("valid"),
            servers: EndpointMembers::unfiltered(servers.to_vec()),
            prefix: NamePrefix::Always,
        };
        let endpoints = [endpoint("default", &servers), endpoint("only-b", &servers[1..])];
        RouteTable::build(&servers, &endpoints).expect("all servers exist")
    }

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(table().find_by_path(path).map(|endpoint| &*endpoint.scope), expected, "{path}");
    }

    #[test]
    fn finds_by_path() {
        check("/mcp", Some("e/default"));
        check("/mcp/default", Some("e/default"));
        check("/mcp/only-b", Some("e/only-b"));
        check("/metamcp/only-b/mcp", Some("e/only-b"));
        check("/servers/a/mcp", Some("s/a"));
        for path in ["/mcp/", "/mcp/default/", "/metamcp/default/mcp/"] {
            check(path, Some("e/default"));
        }
        check("/servers/a/mcp/", Some("s/a"));
    }

    #[test]
    fn finds_streams_by_path() {
        let check = |path: &str, expected: Option<&str>| {
            let found = table().find_by_stream_path(path).map(|endpoint| endpoint.scope.clone());
            assert_eq!(found.as_deref(), expected, "{path}");
        };
        check("/api/v1/mcp/stream", Some("e/default"));
        check("/api/v1/mcp/stream/default", Some("e/default"));
        check("/api/v1/mcp/stream/only-b", Some("e/only-b"));
        check("/api/v1/mcp/stream/servers/a", Some("s/a"));
        check("/api/v1/mcp/stream/", Some("e/default"));
        check("/api/v1/mcp/stream/only-b/", Some("e/only-b"));
        check("/api/v1/mcp/stream/servers/a/", Some("s/a"));
        for path in ["/api/v1/mcp/stream//", "/api/v1/mcp/streamed", "/api/v1/mcp/stream/servers/", "/mcp"] {
            check(path, None);
        }
        for path in
            ["/api/v1/mcp/stream/a", "/api/v1/mcp/stream/servers", "/api/v1/mcp/stream/servers/only-b"]
        {
            check(path, None);
        }
    }

    #[test]
    fn other_paths_match_no_endpoint() {
        for path in [
            "/",
            "",
            "/mcp//",
            "/mcp/none",
            "/mcp/../mcp",
            "/mcp/%64efault",
            "/MCP",
            "/mcp/a",
            "/servers/a",
            "/servers//mcp",
            "/servers/only-b/mcp",
            "/metamcp/mcp",
            "/metamcp//mcp",
            "/mcp/default//",
        ] {
            check(path, None);
        }
    }

    #[test]
    fn rebuild_keeps_unchanged_endpoints() {
        let name = |text: &str| ServerName::new(text).expect("valid");
        let server = |text: &str, upstream| RoutedServer::unfiltered(name(text), upstream);
        let endpoint = |text: &str, servers: &[&str], prefix| EndpointConfig {
            name: EndpointName::new(text).expect("valid"),
            servers: EndpointMembers::unfiltered(servers.iter().map(|text| name(text))),
            prefix,
        };
        let first = RouteTable::default().rebuild(
            &[server("a", 0), server("b", 1)],
            &[
                endpoint("default", &["a", "b"], NamePrefix::Always),
                endpoint("only-a", &["a"], NamePrefix::Always),
                endpoint("gone", &["a"], NamePrefix::Always),
                endpoint("unnamed", &["a"], NamePrefix::Always),
            ],
        );
        // `b` is another server now, and `c` does not exist.
        let next = first.rebuild(
            &[server("a", 0), server("b", 2)],
            &[
                endpoint("default", &["a", "b"], NamePrefix::Always),
                endpoint("only-a", &["a", "c"], NamePrefix::Always),
                endpoint("unnamed", &["a"], NamePrefix::Never),
            ],
        );
        let check = |scope: &str, is_kept: Option<bool>| {
            let (before, now) =
                (first.find_by_scope(scope).expect("the endpoint existed"), next.find_by_scope(scope));
            assert_eq!(now.map(|now| Arc::ptr_eq(before, now)), is_kept, "{scope}");
            assert!(now.is_none_or(|now| Arc::ptr_eq(before, now) || now.id > before.id), "{scope}");
            assert_eq!(next.contains(before), is_kept == Some(true), "{scope}");
        };
        check("e/default", Some(false));
        check("e/only-a", Some(true));
        check("e/gone", None);
        check("e/unnamed", Some(false));
        check("s/a", Some(true));
        check("s/b", Some(false));
        let ids: std::collections::HashSet<_> = next.endpoints().map(|endpoint| endpoint.id).collect();
        assert_eq!(ids.len(), next.endpoints().count(), "ids are unique");
        assert!(next.find_by_scope("x/a").is_none());
    }

    #[test]
    fn build_reports_an_unknown_server() {
        let name = |text| ServerName::new(text).expect("valid");
        let endpoint = EndpointConfig {
            name: EndpointName::new("e").expect("valid"),
            servers: EndpointMembers::unfiltered([name("gone")]),
            prefix: NamePrefix::Never,
        };
        let error = RouteTable::build(&[name("a")], &[endpoint]).err().expect("refused");
        assert_eq!(error.server, name("gone"));
    }

    /// Checks the advertised name of a tool of server `a`, whose prefix is `x`.
    #[track_caller]
    fn check_name(prefix: NamePrefix, tool_view: Option<Arc<ToolView>>, tool: &str, expected: Option<&str>) {
        let name = |text: &str| ServerName::new(text).expect("valid");
        let server = RoutedServer { prefix: name("x"), ..RoutedServer::unfiltered(name("a"), 0) };
        let endpoint = EndpointConfig {
            name: EndpointName::new("e").expect("valid"),
            servers: EndpointMembers::Listed(vec![EndpointMember { server: name("a"), tool_view }]),
            prefix,
        };
        let table = RouteTable::default().rebuild(&[server], &[endpoint]);
        let name_at = |path: &str| {
            table.find_by_path(path).expect("the endpoint exists").tool_name(0, tool).map(Cow::into_owned)
        };
        assert_eq!(name_at("/mcp/e").as_deref(), expected, "{tool}");
        assert_eq!(name_at("/servers/a/mcp").as_deref(), Some(tool), "a server of its own is unchanged");
        let endpoint = table.find_by_path("/mcp/e").expect("the endpoint exists");
        // The original name is known while the server is away if the advertised name differs from it. It is never
        // known for a hidden tool.
        let original = |name: &str| endpoint.original_tool_name(0, name).map(str::to_owned);
        let is_renamed = expected.is_some_and(|name| name != tool);
        let advertised = expected.unwrap_or_default();
        assert!(!is_renamed || original(advertised).as_deref() == Some(tool), "{expected:?}");
        assert!(expected.is_some() || original(&format!("x__{tool}")).is_none(), "{tool} is hidden");
        assert!(["y__ls", "lister", "x_ls", "x__"].iter().all(|name| original(name).is_none()));
    }

    #[test]
    fn names_a_tool_once_or_hides_it() {
        let globs = |texts: &[&str]| texts.iter().map(|text| Glob::new(text).expect("valid")).collect();
        let named = |tool: &str, name: Option<&str>| {
            let change = ToolOverride { name: name.map(str::to_owned), ..ToolOverride::default() };
            (tool.to_owned(), change)
        };
        let tool_view = |allow: &[&str], deny: &[&str]| {
            ToolView::new(globs(allow), globs(deny), [named("ls", Some("list")), named("rm", None)].into())
        };
        for (prefix, tool_view, tool, expected) in [
            (NamePrefix::Always, None, "ls", Some("x__ls")),
            (NamePrefix::Never, None, "ls", Some("ls")),
            (NamePrefix::Always, tool_view(&[], &[]), "ls", Some("list")),
            (NamePrefix::Never, tool_view(&[], &[]), "ls", Some("list")),
            (NamePrefix::Always, tool_view(&[], &[]), "list", Some("x__list")),
            (NamePrefix::Always, tool_view(&[], &[]), "rm", Some("x__rm")),
            (NamePrefix::Always, tool_view(&["l*"], &[]), "ls", Some("list")),
            (NamePrefix::Always, tool_view(&["l*"], &[]), "rm", None),
            (NamePrefix::Always, tool_view(&["*"], &["ls"]), "ls", None),
            (NamePrefix::Always, tool_view(&[], &["list"]), "ls", Some("list")),
            (NamePrefix::Always, tool_view(&["list"], &[]), "ls", None),
            (NamePrefix::Always, tool_view(&[], &["?s"]), "rm", Some("x__rm")),
        ] {
            check_name(prefix, tool_view, tool, expected);
        }
        assert!(ToolView::new(Vec::new(), Vec::new(), [].into()).is_none());
    }
}
