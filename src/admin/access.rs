//! What a key may see and call of one server, over all endpoints that show it. The predicate is that of the data plane.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::auth::Identity;
use crate::base::ServerName;
use crate::catalog::{Catalog, Merged, View, retold};
use crate::route::{Endpoint, Shape, Shows, Table};

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

    /// Whether the key may call that tool of the server by one of those ways. What is not known yet is waited for, as a
    /// call over MCP does. Cancel safe.
    pub async fn admits(&self, catalog: &Catalog, view: View, tool: &str) -> bool {
        let is_known = |way: &Arc<Endpoint>| {
            let merged = catalog.snapshot(way, view).unwrap_or_default();
            self.admits_by(way, &merged, tool)
        };
        if self.ways.iter().any(is_known) {
            return true;
        }
        let waiting = self.ways.iter().map(async |way| {
            let shows = |merged: &Merged| self.admits_by(way, merged, tool);
            let merged = catalog.merged_until(way, view, shows).await;
            shows(&merged)
        });
        join_all(waiting).await.contains(&true)
    }

    /// Whether the key may call that tool by one of those ways, where it is listed.
    pub fn may(&self, tool: &str) -> bool {
        self.ways.iter().any(|way| {
            let shown = self.place(way).and_then(|place| way.tool_name(place, tool));
            shown.is_some_and(|shown| self.identity.may(&way.scope, &shown))
        })
    }

    /// All tools of the server that the key may call. Cancel safe.
    pub async fn tools(&self, catalog: &Catalog, view: View) -> Tools<'a> {
        let waiting = self.ways.iter().map(async |way| {
            if way.shape == Shape::Single {
                // Over the server's own path nothing is hidden.
                return self.tools_by(way, &Merged::default());
            }
            // No other server is waited for, as a call waits for none.
            let place = self.place(way);
            let is_known = |merged: &Merged| place.is_some_and(|place| merged.missing(place).is_none());
            let merged = catalog.merged_until(way, view, is_known).await;
            self.tools_by(way, &merged)
        });
        join_all(waiting).await.into_iter().fold(Tools::default(), Tools::and)
    }

    /// The server's place there.
    fn place(&self, way: &Endpoint) -> Option<usize> {
        way.servers.iter().position(|place| place.name == *self.server)
    }

    /// One tool by one way. Asked with each call: no list is gone through for it.
    fn admits_by(&self, way: &Endpoint, merged: &Merged, tool: &str) -> bool {
        if way.shape == Shape::Single {
            return self.identity.may(&way.scope, tool);
        }
        let Some(place) = self.place(way) else { return false };
        way.tool_name(place, tool).is_some_and(|shown| {
            self.identity.may(&way.scope, &shown) && merged.has_tool(place, &shown, tool)
        })
    }

    /// By one way: the names that it shows, where it has names of its own.
    fn tools_by(&self, way: &Arc<Endpoint>, merged: &Merged) -> Tools<'a> {
        if way.shape == Shape::Single {
            return Tools { alone: Some((self.identity, Arc::clone(way))), shown: HashMap::new() };
        }
        let Some(place) = self.place(way) else { return Tools::default() };
        let shows = way.servers[place].shows.as_ref();
        let may = merged.tools_of(place).filter(|(shown, _)| self.identity.may(&way.scope, shown));
        let told = may.map(|(_, own)| {
            let shows = shows.filter(|shows| shows.instead(&own).is_some());
            (own.into_owned(), shows.cloned())
        });
        Tools { alone: None, shown: told.collect() }
    }
}

/// Tools of one server, by its own names for them.
#[derive(Default)]
pub struct Tools<'a> {
    /// Who may use the server's own path, where its names are as they are.
    alone: Option<(&'a Identity, Arc<Endpoint>)>,
    /// What endpoints show, with what says otherwise of it than the server; `None` where one shows it as it is.
    shown: HashMap<String, Option<Arc<Shows>>>,
}

impl Tools<'_> {
    /// Whether that one is among them.
    pub fn hold(&self, tool: &str) -> bool {
        self.hold_alone(tool) || self.shown.contains_key(tool)
    }

    /// What is said of that tool to the key, under the server's own name for it: what the server says, where the key
    /// is shown that by one of its ways, and else what the first of them says instead.
    pub fn told(&self, tool: &str, own: &Bytes) -> Bytes {
        let shows = self.shown.get(tool).and_then(Option::as_ref).filter(|_| !self.hold_alone(tool));
        match shows.and_then(|shows| shows.instead(tool)) {
            Some(instead) => retold(own, instead),
            None => own.clone(),
        }
    }

    fn hold_alone(&self, tool: &str) -> bool {
        let alone = self.alone.as_ref();
        alone.is_some_and(|(identity, endpoint)| identity.may(&endpoint.scope, tool))
    }

    fn and(mut self, other: Self) -> Self {
        self.alone = self.alone.or(other.alone);
        for (tool, shows) in other.shown {
            match self.shown.entry(tool) {
                Entry::Vacant(place) => drop(place.insert(shows)),
                // As it is, as soon as one shows it so.
                Entry::Occupied(mut place) if shows.is_none() => drop(place.insert(None)),
                Entry::Occupied(_) => {}
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{EndpointName, Glob};
    use crate::catalog::{Item, ServerLists, merge};
    use crate::route::{EndpointConfig, Member, Members, Override, Prefix, Shows};
    use crate::store::Grants;

    /// Each server lists the same, and a tool that bears its name.
    fn merged(endpoint: &Endpoint) -> Merged {
        let item = |key: &str| {
            let raw = format!(r#"{{"name":"{key}"}}"#);
            Item { key: key.to_owned(), key_start: 8, key_end: raw.len() - 1, raw: raw.into() }
        };
        let lists = endpoint.servers.iter().map(|place| {
            let tools = ["x", "ls", "rm", place.name.as_str()].map(item).into();
            let items = [tools, Vec::new(), Vec::new(), Vec::new()];
            Ok(Arc::new(ServerLists { items, ..ServerLists::default() }).into())
        });
        let lists: Vec<_> = lists.collect();
        merge(endpoint, View::Modern, &lists, vec![0; lists.len()], 100)
    }

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
        let overrides = ["ls", "unlisted"].map(|tool| (tool.to_owned(), renamed.clone()));
        let shows = Shows::new(Vec::new(), deny, overrides.into());
        let partly = Members::These(vec![Member { server: name("a"), shows }]);
        let partly = EndpointConfig { servers: partly, ..endpoint("partly", &[], Prefix::Always) };
        let table = Table::build(
            &[name("a"), name("b"), name("alone")],
            &[
                endpoint("default", &["a", "b"], Prefix::Always),
                endpoint("bare", &["b"], Prefix::Never),
                endpoint("both", &["a", "b"], Prefix::Never),
                partly,
            ],
        )
        .expect("all servers exist");
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let grants =
            Grants { endpoints: endpoints.map(list), tools: tools.map(list), ..Grants::everything() };
        let identity = Identity::sample_with("AAAAAAAAAAAA", &grants);
        let server = name(server);
        let found = Reach::of(&identity, &server, &table).is_some_and(|reach| {
            let tools = reach.ways.iter().map(|way| reach.tools_by(way, &merged(way)));
            let listed = tools.fold(Tools::default(), Tools::and).hold(tool);
            let admitted = reach.ways.iter().any(|way| reach.admits_by(way, &merged(way), tool));
            assert_eq!(admitted, listed, "what is listed may be called: {endpoints:?} {tool}");
            admitted
        });
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
        // Two servers have it under one name, so the endpoint shows neither.
        check(Some(&["both"]), None, "a", "x", false);
        check(Some(&["both"]), None, "b", "x", false);
        check(Some(&["both"]), None, "a", "a", true);
        check(Some(&["both"]), None, "b", "a", false);
        check(Some(&["both", "bare"]), None, "b", "x", true);
        check(Some(&["both", "servers/a"]), None, "a", "x", true);
        // Nobody lists it.
        check(Some(&["default"]), None, "a", "y", false);
        // By the names that the endpoint gives, and only what it shows.
        check(Some(&["partly"]), None, "a", "x", true);
        check(Some(&["partly"]), None, "a", "rm", false);
        check(Some(&["partly", "default"]), None, "a", "rm", true);
        check(Some(&["partly"]), Some(&["list"]), "a", "ls", true);
        check(Some(&["partly"]), Some(&["a__*"]), "a", "ls", false);
        // Another tool has its name.
        check(Some(&["partly"]), None, "a", "unlisted", false);
    }
}
