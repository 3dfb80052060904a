//! From a request path to the endpoint it names.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;

use super::{EndpointConfig, Prefix};
use crate::base::{EndpointName, ServerName};

/// All endpoints, and each server as an endpoint of its own.
pub struct Table {
    endpoints: HashMap<EndpointName, Arc<Endpoint>, RandomState>,
    servers: HashMap<ServerName, Arc<Endpoint>, RandomState>,
}

/// What a client sees as one MCP server.
#[derive(Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Its place in the list of all endpoints.
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
    /// Its place in the list of all servers.
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

/// The place of an endpoint in the list of all endpoints.
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

impl Table {
    /// Of these endpoints over these servers; a server's index is its place among the backends.
    pub fn build(servers: &[ServerName], endpoints: &[EndpointConfig]) -> Result<Self, TableError> {
        let place = |index: usize, name: &ServerName| Place {
            name: name.clone(),
            backend: u32::try_from(index).expect("fewer servers than 2^32 fit into memory"),
        };
        let mut table = Self { endpoints: HashMap::default(), servers: HashMap::default() };
        let mut next = 0;
        let mut number = || {
            next += 1;
            EndpointId(next - 1)
        };
        for config in endpoints {
            let mut places = Vec::with_capacity(config.servers.len());
            for name in &config.servers {
                let index = servers
                    .iter()
                    .position(|server| server == name)
                    .ok_or_else(|| TableError { endpoint: config.name.clone(), server: name.clone() })?;
                places.push(place(index, name));
            }
            let endpoint = Endpoint {
                id: number(),
                scope: format!("e/{}", config.name),
                shape: Shape::Aggregate(config.prefix),
                servers: places,
            };
            table.endpoints.insert(config.name.clone(), Arc::new(endpoint));
        }
        for (index, name) in servers.iter().enumerate() {
            let endpoint = Endpoint {
                id: number(),
                scope: format!("s/{name}"),
                shape: Shape::Single,
                servers: vec![place(index, name)],
            };
            table.servers.insert(name.clone(), Arc::new(endpoint));
        }
        Ok(table)
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
