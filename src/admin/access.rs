//! What a key may see and call of one server, over all endpoints that show it. The predicate is that of the data plane.

use std::sync::Arc;

use crate::auth::Identity;
use crate::base::ServerName;
use crate::route::{Endpoint, Table};

/// The ways by which a key reaches a server: endpoints, and the server's own path.
pub struct Reach<'a> {
    identity: &'a Identity,
    server: &'a ServerName,
    ways: Vec<Arc<Endpoint>>,
}

impl<'a> Reach<'a> {
    /// `None`: by none, and then the server does not exist for that key.
    pub fn of(identity: &'a Identity, server: &'a ServerName, table: &Table) -> Option<Self> {
        let has_it = |endpoint: &&Arc<Endpoint>| endpoint.servers.iter().any(|place| place.name == *server);
        let may_enter = |endpoint: &&Arc<Endpoint>| identity.may_enter(&endpoint.scope);
        let ways: Vec<_> = table.endpoints().filter(has_it).filter(may_enter).cloned().collect();
        (!ways.is_empty()).then_some(Self { identity, server, ways })
    }

    /// Whether the key may call that tool of the server, under one of the names that those ways give it.
    pub fn admits(&self, tool: &str) -> bool {
        self.ways.iter().any(|endpoint| {
            let place = endpoint.servers.iter().position(|place| place.name == *self.server);
            let name = place.and_then(|place| endpoint.tool_name(place, tool));
            name.is_some_and(|name| self.identity.may(&endpoint.scope, &name))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{EndpointName, Glob};
    use crate::route::{EndpointConfig, Member, Members, Override, Prefix, Shows};
    use crate::store::Grants;

    #[track_caller]
    fn check(endpoints: Option<&[&str]>, tools: Option<&[&str]>, server: &str, tool: &str, expected: bool) {
        let name = |text: &str| ServerName::new(text).expect("valid");
        let endpoint = |text: &str, servers: &[&str], prefix| EndpointConfig {
            name: EndpointName::new(text).expect("valid"),
            servers: Members::whole(servers.iter().map(|text| name(text))),
            prefix,
        };
        let renamed = Override { name: Some("list".to_owned()), ..Override::default() };
        let deny = vec![Glob::new("rm*").expect("valid")];
        let shows = Shows::new(Vec::new(), deny, [("ls".to_owned(), renamed)].into());
        let partly = Members::These(vec![Member { server: name("a"), shows }]);
        let partly = EndpointConfig { servers: partly, ..endpoint("partly", &[], Prefix::Always) };
        let table = Table::build(
            &[name("a"), name("b"), name("alone")],
            &[
                endpoint("default", &["a", "b"], Prefix::Always),
                endpoint("bare", &["b"], Prefix::Never),
                partly,
            ],
        )
        .expect("all servers exist");
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let grants =
            Grants { endpoints: endpoints.map(list), tools: tools.map(list), ..Grants::everything() };
        let identity = Identity::sample_with("AAAAAAAAAAAA", &grants);
        let server = name(server);
        let found = Reach::of(&identity, &server, &table).is_some_and(|reach| reach.admits(tool));
        assert_eq!(found, expected, "{endpoints:?} {tools:?} {server} {tool}");
    }

    #[test]
    fn a_key_reaches_what_its_endpoints_show() {
        check(None, None, "a", "x", true);
        check(None, None, "alone", "x", true);
        check(Some(&["default"]), None, "a", "x", true);
        check(Some(&["bare"]), None, "a", "x", false);
        check(Some(&["bare"]), None, "b", "x", true);
        check(Some(&["other"]), None, "b", "x", false);
        check(Some(&["a"]), None, "a", "x", false);
        check(Some(&[]), None, "a", "x", false);
        check(Some(&["default"]), None, "alone", "x", false);
        check(None, Some(&["a__*"]), "a", "x", true);
        check(None, Some(&["a__*"]), "b", "x", false);
        // On the server's own path it has its own name.
        check(None, Some(&["x"]), "a", "x", true);
        check(Some(&["servers/a"]), Some(&["x"]), "a", "x", true);
        check(Some(&["servers/a"]), Some(&["a__x"]), "a", "x", false);
        check(Some(&["servers/b"]), None, "a", "x", false);
        check(Some(&["bare"]), Some(&["x"]), "b", "x", true);
        check(Some(&["default"]), Some(&["x"]), "b", "x", false);
        // By the names that the endpoint gives, and only what it shows.
        check(Some(&["partly"]), None, "a", "x", true);
        check(Some(&["partly"]), None, "a", "rm", false);
        check(Some(&["partly", "default"]), None, "a", "rm", true);
        check(Some(&["partly"]), Some(&["list"]), "a", "ls", true);
        check(Some(&["partly"]), Some(&["a__*"]), "a", "ls", false);
    }
}
