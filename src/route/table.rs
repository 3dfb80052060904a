//! From a request path to the endpoint it names.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{EndpointConfig, Prefix};
use crate::base::{EndpointName, ServerName};

/// All endpoints, and each server as an endpoint of its own.
#[derive(Default)]
pub struct Table {
    endpoints: HashMap<EndpointName, Arc<Endpoint>, RandomState>,
    servers: HashMap<ServerName, Arc<Endpoint>, RandomState>,
    /// The id of the next endpoint that is not in this table; never goes back from one table to the next.
    next_id: u32,
}

/// What a client sees as one MCP server.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Told apart by it from every other endpoint that there was or will be, its own earlier self included.
    pub id: EndpointId,
    /// What sealed ids are bound to: `e/{endpoint}` or `s/{server}`.
    pub scope: String,
    /// One server as it is, or several as one.
    pub shape: Shape,
    /// The servers behind it, in the order of configuration.
    pub servers: Vec<Place>,
}

/// One server of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its name.
    pub name: ServerName,
    /// The id of the server behind that name.
    pub backend: u32,
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

impl Table {
    /// Of these endpoints over these servers, without one before it: a server's id is its place in the list.
    pub fn build(servers: &[ServerName], endpoints: &[EndpointConfig]) -> Result<Self, TableError> {
        let places: Vec<_> =
            (0..).zip(servers).map(|(backend, name)| Place { name: name.clone(), backend }).collect();
        for endpoint in endpoints {
            if let Some(unknown) = endpoint.servers.iter().find(|name| !servers.contains(name)) {
                return Err(TableError { endpoint: endpoint.name.clone(), server: unknown.clone() });
            }
        }
        Ok(Self::default().next(&places, endpoints))
    }

    /// The table that follows this one. What is the same, servers and their ids included, stays the same endpoint;
    /// anything else is a new one. Servers that are not there are left out of the endpoints that name them.
    #[must_use]
    pub fn next(&self, servers: &[Place], endpoints: &[EndpointConfig]) -> Self {
        let by_name: HashMap<&ServerName, &Place> =
            servers.iter().map(|place| (&place.name, place)).collect();
        let mut table = Self { next_id: self.next_id, ..Self::default() };
        for config in endpoints {
            let places = config.servers.iter().filter_map(|name| by_name.get(name).copied().cloned());
            let before = self.endpoints.get(&config.name);
            let scope = format!("{ENDPOINT_SCOPE}{}", config.name);
            let endpoint = table.take_over(before, scope, Shape::Aggregate(config.prefix), places.collect());
            table.endpoints.insert(config.name.clone(), endpoint);
        }
        for place in servers {
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
        Arc::new(Endpoint { id, scope, shape, servers })
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

    /// All endpoints, servers' own included.
    pub fn endpoints(&self) -> impl Iterator<Item = &Arc<Endpoint>> {
        self.endpoints.values().chain(self.servers.values())
    }

    fn endpoint(&self, name: &str) -> Option<&Arc<Endpoint>> {
        self.endpoints.get(name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let servers = ["a", "b"].map(|name| ServerName::new(name).expect("valid"));
        let endpoint = |name: &str, servers: &[ServerName]| EndpointConfig {
            name: EndpointName::new(name).expect("valid"),
            servers: servers.to_vec(),
            prefix: Prefix::Always,
        };
        let endpoints = [endpoint("default", &servers), endpoint("only-b", &servers[1..])];
        Table::build(&servers, &endpoints).expect("all servers exist")
    }

    #[track_caller]
    fn check(path: &str, expected: Option<&str>) {
        assert_eq!(table().find(path).map(|endpoint| endpoint.scope.as_str()), expected, "{path}");
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
        let place = |text: &str, backend| Place { name: name(text), backend };
        let endpoint = |text: &str, servers: &[&str], prefix| EndpointConfig {
            name: EndpointName::new(text).expect("valid"),
            servers: servers.iter().map(|server| name(server)).collect(),
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
            servers: vec![name("gone")],
            prefix: Prefix::Never,
        };
        let error = Table::build(&[name("a")], &[endpoint]).err().expect("refused");
        assert_eq!(error.server, name("gone"));
    }
}
