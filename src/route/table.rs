//! From a request path to the endpoint it names.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{EndpointConfig, Members, Prefix, SEPARATOR, Shows};
use crate::base::{EndpointName, ServerName};
use crate::telemetry::metrics::{Label, Labels};

/// All endpoints, and each server as an endpoint of its own.
#[derive(Default)]
pub struct Table {
    endpoints: HashMap<EndpointName, Arc<Endpoint>, RandomState>,
    servers: HashMap<ServerName, Arc<Endpoint>, RandomState>,
    /// The id of the next endpoint that is not in this table; never goes back from one table to the next.
    next_id: u32,
    /// What is counted by: the same from one table to the next.
    endpoint_labels: Labels,
    server_labels: Labels,
}

/// What a client sees as one MCP server.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Told apart by it from every other endpoint that there was or will be, its own earlier self included.
    pub id: EndpointId,
    /// What sealed ids are bound to: `e/{endpoint}` or `s/{server}`.
    pub scope: Arc<str>,
    /// One server as it is, or several as one.
    pub shape: Shape,
    /// The servers behind it, in the order of configuration.
    pub servers: Vec<Place>,
    /// What is asked of it is counted under this: one of its own, as long as there are such, for each path.
    pub label: Label,
}

/// One server of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: ServerName,
    /// The id of the server behind that name.
    pub upstream: u32,
    /// Stands before its tools and prompts where names are told apart.
    pub prefix: ServerName,
    /// What the endpoint shows of its tools; `None`: all of them, as they are.
    pub shows: Option<Arc<Shows>>,
    /// What it is asked is counted under this. The table gives it.
    pub label: Label,
}

impl Place {
    /// A server with everything that it has, under its own name.
    pub fn whole(name: ServerName, upstream: u32) -> Self {
        Self { prefix: name.clone(), name, upstream, shows: None, label: Label::OTHER }
    }
}

/// How an endpoint shows its servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// One server with nothing renamed and nothing answered in its stead.
    Single,
    /// Several as one, lists merged, names told apart.
    Aggregate(Prefix),
}

/// A number that no other endpoint of this process has or had; a newer one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct EndpointId(pub u32);

/// An endpoint that names a server which does not exist.
#[derive(Debug, PartialEq, Eq)]
pub struct TableError {
    /// The endpoint.
    pub endpoint: EndpointName,
    /// What it names.
    pub server: ServerName,
}

/// Begins the scope of an endpoint.
const ENDPOINT_SCOPE: &str = "e/";

/// Begins the scope of a server as an endpoint of its own.
const SERVER_SCOPE: &str = "s/";

/// As an endpoint is called in metrics and traces: by its name, or by its path where it is a server.
fn shown(scope: &str) -> Cow<'_, str> {
    match scope.strip_prefix(SERVER_SCOPE) {
        Some(server) => format!("servers/{server}").into(),
        None => scope.strip_prefix(ENDPOINT_SCOPE).unwrap_or(scope).into(),
    }
}

impl Endpoint {
    /// As it is called in metrics and traces.
    pub fn shown(&self) -> Cow<'_, str> {
        shown(&self.scope)
    }
}

/// Where the framed stream of the endpoint `default` is.
const STREAM_PATH: &str = "/api/v1/mcp/stream";

impl Table {
    /// Of these endpoints over these servers, without one before it: a server's id is its place in the list.
    pub fn build(servers: &[ServerName], endpoints: &[EndpointConfig]) -> Result<Self, TableError> {
        let places: Vec<_> =
            (0..).zip(servers).map(|(upstream, name)| Place::whole(name.clone(), upstream)).collect();
        for endpoint in endpoints {
            let Members::These(members) = &endpoint.servers else { continue };
            if let Some(unknown) = members.iter().find(|member| !servers.contains(&member.server)) {
                return Err(TableError { endpoint: endpoint.name.clone(), server: unknown.server.clone() });
            }
        }
        Ok(Self::default().next(&places, endpoints))
    }

    /// The table that follows this one. What is the same, servers and their ids included, stays the same endpoint;
    /// anything else is a new one. Servers that are not there are left out of the endpoints that name them.
    #[must_use]
    pub fn next(&self, servers: &[Place], endpoints: &[EndpointConfig]) -> Self {
        let mut table = Self {
            next_id: self.next_id,
            endpoint_labels: self.endpoint_labels.clone(),
            server_labels: self.server_labels.clone(),
            ..Self::default()
        };
        let labelled =
            |place: &Place| Place { label: table.server_labels.label(place.name.as_str()), ..place.clone() };
        let servers: Vec<Place> = servers.iter().map(labelled).collect();
        let by_name: HashMap<&ServerName, &Place> =
            servers.iter().map(|place| (&place.name, place)).collect();
        for config in endpoints {
            let places: Vec<Place> = match &config.servers {
                Members::Every => servers.clone(),
                Members::These(members) => members
                    .iter()
                    .filter_map(|member| Some((by_name.get(&member.server)?, &member.shows)))
                    .map(|(place, shows)| Place { shows: shows.clone(), ..Place::clone(place) })
                    .collect(),
            };
            let before = self.endpoints.get(&config.name);
            let scope = format!("{ENDPOINT_SCOPE}{}", config.name);
            let endpoint = table.take_over(before, scope, Shape::Aggregate(config.prefix), places);
            table.endpoints.insert(config.name.clone(), endpoint);
        }
        for place in &servers {
            let before = self.servers.get(&place.name);
            let scope = format!("{SERVER_SCOPE}{}", place.name);
            let endpoint = table.take_over(before, scope, Shape::Single, vec![place.clone()]);
            table.servers.insert(place.name.clone(), endpoint);
        }
        table
    }

    /// The endpoint as it was before, when it still is so; else a new one.
    fn take_over(
        &mut self,
        before: Option<&Arc<Endpoint>>,
        scope: String,
        shape: Shape,
        servers: Vec<Place>,
    ) -> Arc<Endpoint> {
        if let Some(before) = before.filter(|before| before.shape == shape && before.servers == servers) {
            return Arc::clone(before);
        }
        let id = EndpointId(self.next_id);
        self.next_id += 1;
        let label = self.endpoint_labels.label(&shown(&scope));
        Arc::new(Endpoint { id, scope: scope.into(), shape, servers, label })
    }

    /// The endpoint a request path names: `/mcp`, `/mcp/{endpoint}`, `/metamcp/{endpoint}/mcp`,
    /// `/servers/{server}/mcp`. Anything else, escapes included, names none.
    pub fn find(&self, path: &str) -> Option<&Arc<Endpoint>> {
        if path == "/mcp" {
            return self.endpoint(EndpointName::DEFAULT);
        }
        if let Some(name) = path.strip_prefix("/mcp/") {
            return self.endpoint(name);
        }
        if let Some(name) = path.strip_prefix("/metamcp/").and_then(|rest| rest.strip_suffix("/mcp")) {
            return self.endpoint(name);
        }
        let name = path.strip_prefix("/servers/")?.strip_suffix("/mcp")?;
        self.servers.get(name)
    }

    /// The endpoint whose framed stream a request path names: `/api/v1/mcp/stream`, `/api/v1/mcp/stream/{endpoint}`,
    /// `/api/v1/mcp/stream/servers/{server}`.
    pub fn find_streamed(&self, path: &str) -> Option<&Arc<Endpoint>> {
        let rest = path.strip_prefix(STREAM_PATH)?;
        if rest.is_empty() {
            return self.endpoint(EndpointName::DEFAULT);
        }
        let rest = rest.strip_prefix('/')?;
        match rest.strip_prefix("servers/") {
            Some(name) => self.servers.get(name),
            None => self.endpoint(rest),
        }
    }

    /// The endpoint of that scope, as it is in this table.
    pub fn of_scope(&self, scope: &str) -> Option<&Arc<Endpoint>> {
        match scope.strip_prefix(SERVER_SCOPE) {
            Some(name) => self.servers.get(name),
            None => self.endpoint(scope.strip_prefix(ENDPOINT_SCOPE)?),
        }
    }

    /// Whether that very endpoint is in this table.
    pub fn has(&self, endpoint: &Endpoint) -> bool {
        self.of_scope(&endpoint.scope).is_some_and(|known| known.id == endpoint.id)
    }

    /// The endpoints that were configured, by name; servers' own are not among them.
    pub fn named(&self) -> impl Iterator<Item = (&EndpointName, &Arc<Endpoint>)> {
        self.endpoints.iter()
    }

    /// The servers' own ones.
    pub fn servers(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.servers.values()
    }

    /// What the labels of endpoints and of servers stand for. Those of a server's own path are `servers/{server}`.
    pub fn labels(&self) -> [&Labels; 2] {
        [&self.endpoint_labels, &self.server_labels]
    }

    /// All endpoints, servers' own included.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values().chain(self.servers.values())
    }

    fn endpoint(&self, name: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(name)
    }
}

impl Endpoint {
    /// The name under which a tool of the server at `place` is listed here, and called: the one answer for lists and
    /// calls alike. `None`: it is neither. `tool` is the server's own name of it.
    pub fn tool_name<'a>(&'a self, place: usize, tool: &'a str) -> Option<Cow<'a, str>> {
        let Some(shows) = &self.servers[place].shows else { return Some(self.prefixed(place, tool)) };
        if !shows.admits(tool) {
            return None;
        }
        let renamed = shows.instead(tool).and_then(|instead| instead.name.as_deref());
        Some(renamed.map_or_else(|| self.prefixed(place, tool), Cow::Borrowed))
    }

    /// Likewise of a prompt, of which every one is.
    pub fn prompt_name<'a>(&'a self, place: usize, prompt: &'a str) -> Cow<'a, str> {
        self.prefixed(place, prompt)
    }

    /// The own name of the tool of the server at `place` that would be listed by that name, as far as configuration
    /// alone tells; `None`: it has none, or shows none, whatever it lists. The server may have none of that name either.
    pub fn own_tool<'a>(&'a self, place: usize, name: &'a str) -> Option<&'a str> {
        let renamed = self.servers[place].shows.as_ref().and_then(|shows| shows.renamed_to(name));
        renamed.or_else(|| {
            let own = self.unprefixed(place, name)?;
            (self.tool_name(place, own).as_deref() == Some(name)).then_some(own)
        })
    }

    /// Likewise of a prompt.
    pub fn own_prompt<'a>(&self, place: usize, name: &'a str) -> Option<&'a str> {
        self.unprefixed(place, name)
    }

    fn unprefixed<'a>(&self, place: usize, name: &'a str) -> Option<&'a str> {
        if self.shape != Shape::Aggregate(Prefix::Always) {
            return None;
        }
        let own = name.strip_prefix(self.servers[place].prefix.as_str())?.strip_prefix(SEPARATOR)?;
        (!own.is_empty()).then_some(own)
    }

    fn prefixed<'a>(&'a self, place: usize, own: &'a str) -> Cow<'a, str> {
        match self.shape {
            Shape::Aggregate(Prefix::Always) => {
                Cow::Owned(format!("{}{SEPARATOR}{own}", self.servers[place].prefix))
            }
            Shape::Aggregate(Prefix::Never) | Shape::Single => Cow::Borrowed(own),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let servers = ["a", "b"].map(|name| ServerName::new(name).expect("valid"));
        let endpoint = |name: &str, servers: &[ServerName]| EndpointConfig {
            name: EndpointName::new(name).expect("valid"),
            servers: Members::whole(servers.to_vec()),
            prefix: Prefix::Always,
        };
        let endpoints = [endpoint("default", &servers), endpoint("only-b", &servers[1..])];
        Table::build(&servers, &endpoints).expect("all servers exist")
    }

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(table().find(path).map(|endpoint| &*endpoint.scope), expected, "{path}");
    }

    #[test]
    fn finds_by_path() {
        check("/mcp", Some("e/default"));
        check("/mcp/default", Some("e/default"));
        check("/mcp/only-b", Some("e/only-b"));
        check("/metamcp/only-b/mcp", Some("e/only-b"));
        check("/servers/a/mcp", Some("s/a"));
    }

    #[test]
    fn finds_streams_by_path() {
        let check = |path: &str, expected: Option<&str>| {
            let found = table().find_streamed(path).map(|endpoint| endpoint.scope.clone());
            assert_eq!(found.as_deref(), expected, "{path}");
        };
        check("/api/v1/mcp/stream", Some("e/default"));
        check("/api/v1/mcp/stream/default", Some("e/default"));
        check("/api/v1/mcp/stream/only-b", Some("e/only-b"));
        check("/api/v1/mcp/stream/servers/a", Some("s/a"));
        for path in ["/api/v1/mcp/stream/", "/api/v1/mcp/streamed", "/api/v1/mcp/stream/servers/", "/mcp"] {
            check(path, None);
        }
        for path in
            ["/api/v1/mcp/stream/a", "/api/v1/mcp/stream/servers", "/api/v1/mcp/stream/servers/only-b"]
        {
            check(path, None);
        }
    }

    #[test]
    fn never_a_wider_view() {
        for path in [
            "/",
            "",
            "/mcp/",
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
            "/mcp/default/",
        ] {
            check(path, None);
        }
    }

    #[test]
    fn what_did_not_change_stays() {
        let name = |text: &str| ServerName::new(text).expect("valid");
        let place = |text: &str, upstream| Place::whole(name(text), upstream);
        let endpoint = |text: &str, servers: &[&str], prefix| EndpointConfig {
            name: EndpointName::new(text).expect("valid"),
            servers: Members::whole(servers.iter().map(|server| name(server))),
            prefix,
        };
        let first = Table::default().next(
            &[place("a", 0), place("b", 1)],
            &[
                endpoint("default", &["a", "b"], Prefix::Always),
                endpoint("only-a", &["a"], Prefix::Always),
                endpoint("gone", &["a"], Prefix::Always),
                endpoint("unnamed", &["a"], Prefix::Always),
            ],
        );
        // `b` is another server by now, and `c` is not there.
        let next = first.next(
            &[place("a", 0), place("b", 2)],
            &[
                endpoint("default", &["a", "b"], Prefix::Always),
                endpoint("only-a", &["a", "c"], Prefix::Always),
                endpoint("unnamed", &["a"], Prefix::Never),
            ],
        );
        let check = |scope: &str, stays: Option<bool>| {
            let (before, now) = (first.of_scope(scope).expect("it was there"), next.of_scope(scope));
            assert_eq!(now.map(|now| Arc::ptr_eq(before, now)), stays, "{scope}");
            assert!(now.is_none_or(|now| Arc::ptr_eq(before, now) || now.id > before.id), "{scope}");
            assert_eq!(next.has(before), stays == Some(true), "{scope}");
        };
        check("e/default", Some(false));
        check("e/only-a", Some(true));
        check("e/gone", None);
        check("e/unnamed", Some(false));
        check("s/a", Some(true));
        check("s/b", Some(false));
        let ids: std::collections::HashSet<_> = next.endpoints().map(|endpoint| endpoint.id).collect();
        assert_eq!(ids.len(), next.endpoints().count(), "every id once");
        assert!(next.of_scope("x/a").is_none());
    }

    #[test]
    fn an_unknown_server_is_named() {
        let name = |text| ServerName::new(text).expect("valid");
        let endpoint = EndpointConfig {
            name: EndpointName::new("e").expect("valid"),
            servers: Members::whole([name("gone")]),
            prefix: Prefix::Never,
        };
        let error = Table::build(&[name("a")], &[endpoint]).err().expect("refused");
        assert_eq!(error.server, name("gone"));
    }

    /// What the server `a`, called `x` in names, shows of a tool.
    #[track_caller]
    fn check_name(prefix: Prefix, shows: Option<Arc<Shows>>, tool: &str, expected: Option<&str>) {
        let name = |text: &str| ServerName::new(text).expect("valid");
        let place = Place { prefix: name("x"), ..Place::whole(name("a"), 0) };
        let endpoint = EndpointConfig {
            name: EndpointName::new("e").expect("valid"),
            servers: Members::These(vec![super::super::Member { server: name("a"), shows }]),
            prefix,
        };
        let table = Table::default().next(&[place], &[endpoint]);
        let of = |path: &str| table.find(path).expect("it is there").tool_name(0, tool).map(Cow::into_owned);
        assert_eq!(of("/mcp/e").as_deref(), expected, "{tool}");
        assert_eq!(of("/servers/a/mcp").as_deref(), Some(tool), "by itself a server is as it is");
        let endpoint = table.find("/mcp/e").expect("it is there");
        // What its server would be called for is known while that is away, unless it alone says so; and never what
        // is not shown.
        let own = |name: &str| endpoint.own_tool(0, name).map(str::to_owned);
        let is_told = expected.is_some_and(|name| name != tool);
        assert!(!is_told || own(expected.expect("it is told")).as_deref() == Some(tool), "{expected:?}");
        assert!(expected.is_some() || own(&format!("x__{tool}")).is_none(), "{tool} is not shown");
        assert!(["y__ls", "lister", "x_ls", "x__"].iter().all(|name| own(name).is_none()));
    }

    #[test]
    fn a_tool_has_one_name_or_none() {
        use super::super::Override;
        use crate::base::Glob;
        let globs = |texts: &[&str]| texts.iter().map(|text| Glob::new(text).expect("valid")).collect();
        let named = |tool: &str, name: Option<&str>| {
            let instead = Override { name: name.map(str::to_owned), ..Override::default() };
            (tool.to_owned(), instead)
        };
        let shows = |allow: &[&str], deny: &[&str]| {
            Shows::new(globs(allow), globs(deny), [named("ls", Some("list")), named("rm", None)].into())
        };
        for (prefix, shows, tool, expected) in [
            (Prefix::Always, None, "ls", Some("x__ls")),
            (Prefix::Never, None, "ls", Some("ls")),
            (Prefix::Always, shows(&[], &[]), "ls", Some("list")),
            (Prefix::Never, shows(&[], &[]), "ls", Some("list")),
            (Prefix::Always, shows(&[], &[]), "list", Some("x__list")),
            (Prefix::Always, shows(&[], &[]), "rm", Some("x__rm")),
            (Prefix::Always, shows(&["l*"], &[]), "ls", Some("list")),
            (Prefix::Always, shows(&["l*"], &[]), "rm", None),
            (Prefix::Always, shows(&["*"], &["ls"]), "ls", None),
            (Prefix::Always, shows(&[], &["list"]), "ls", Some("list")),
            (Prefix::Always, shows(&["list"], &[]), "ls", None),
            (Prefix::Always, shows(&[], &["?s"]), "rm", Some("x__rm")),
        ] {
            check_name(prefix, shows, tool, expected);
        }
        assert!(Shows::new(Vec::new(), Vec::new(), [].into()).is_none());
    }
}
