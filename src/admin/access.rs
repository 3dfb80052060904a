//! Which tools of one server a key may list and call, over all endpoints that show them. Uses the same
//! predicate as the data plane.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;

use crate::catalog::{Catalog, MergedLists, View, apply_override};
use crate::route::{Endpoint, EndpointShape, RouteTable};
use metamcp_config::sections::ToolView;
use metamcp_core::base::ServerName;
use metamcp_store::auth::Identity;

/// The endpoints through which a key reaches a server, including the server's single endpoint.
pub struct ServerReach<'a> {
    identity: &'a Identity,
    server: &'a ServerName,
    ways: Vec<Arc<Endpoint>>,
}

impl<'a> ServerReach<'a> {
    /// `None` if there is no such endpoint. For this key the server then does not exist.
    pub fn of(identity: &'a Identity, server: &'a ServerName, table: &RouteTable) -> Option<Self> {
        let has_it = |endpoint: &&Arc<Endpoint>| endpoint.servers.iter().any(|place| place.name == *server);
        let may_enter = |endpoint: &&Arc<Endpoint>| identity.can_use_endpoint(&endpoint.scope);
        let ways: Vec<_> = table.endpoints().filter(has_it).filter(may_enter).cloned().collect();
        (!ways.is_empty()).then_some(Self { identity, server, ways })
    }

    /// Whether the key may call the tool through one of the endpoints. Waits for lists that are not known
    /// yet, as a call over MCP does. Cancel safe.
    pub async fn admits(&self, catalog: &Catalog, view: View, tool: &str) -> bool {
        let is_known = |way: &Arc<Endpoint>| {
            let merged = catalog.snapshot(way, view).unwrap_or_default();
            self.admits_by(way, &merged, tool)
        };
        if self.ways.iter().any(is_known) {
            return true;
        }
        let waiting = self.ways.iter().map(async |way| {
            let is_shown = |merged: &MergedLists| self.admits_by(way, merged, tool);
            let merged = catalog.lists_until(way, view, is_shown).await;
            is_shown(&merged)
        });
        join_all(waiting).await.contains(&true)
    }

    /// Whether the key may call the tool through one of the endpoints, provided that it is listed there.
    pub fn may(&self, tool: &str) -> bool {
        self.ways.iter().any(|way| {
            let shown = self.place(way).and_then(|place| way.tool_name(place, tool));
            shown.is_some_and(|shown| self.identity.can_call_tool(&way.scope, &shown))
        })
    }

    /// Returns the tools of the server that the key may call. Cancel safe.
    pub async fn tools(&self, catalog: &Catalog, view: View) -> ReachableTools<'a> {
        let waiting = self.ways.iter().map(async |way| {
            if way.shape == EndpointShape::Single {
                // A single endpoint hides no tools.
                return self.tools_by(way, &MergedLists::default());
            }
            // Lists of other servers are not waited for, as calls do not wait for them either.
            let place = self.place(way);
            let is_known =
                |merged: &MergedLists| place.is_some_and(|place| merged.missing_server(place).is_none());
            let merged = catalog.lists_until(way, view, is_known).await;
            self.tools_by(way, &merged)
        });
        join_all(waiting).await.into_iter().fold(ReachableTools::default(), ReachableTools::and)
    }

    /// The index of the server in an endpoint.
    fn place(&self, way: &Endpoint) -> Option<usize> {
        way.servers.iter().position(|place| place.name == *self.server)
    }

    /// Checks one tool at one endpoint without walking the list, as every call does this.
    fn admits_by(&self, way: &Endpoint, merged: &MergedLists, tool: &str) -> bool {
        if way.shape == EndpointShape::Single {
            return self.identity.can_call_tool(&way.scope, tool);
        }
        let Some(place) = self.place(way) else { return false };
        way.tool_name(place, tool).is_some_and(|shown| {
            self.identity.can_call_tool(&way.scope, &shown) && merged.has_tool(place, &shown, tool)
        })
    }

    /// Returns the tools that one endpoint shows, unless it is a single endpoint.
    fn tools_by(&self, way: &Arc<Endpoint>, merged: &MergedLists) -> ReachableTools<'a> {
        if way.shape == EndpointShape::Single {
            return ReachableTools { alone: Some((self.identity, Arc::clone(way))), shown: HashMap::new() };
        }
        let Some(place) = self.place(way) else { return ReachableTools::default() };
        let tool_view = way.servers[place].tool_view.as_ref();
        let may =
            merged.server_tools(place).filter(|(shown, _)| self.identity.can_call_tool(&way.scope, shown));
        let told = may.map(|(_, own)| {
            let tool_view = tool_view.filter(|tool_view| tool_view.override_of(&own).is_some());
            (own.into_owned(), tool_view.cloned())
        });
        ReachableTools { alone: None, shown: told.collect() }
    }
}

/// The tools of one server that a key may call, by their names at the server.
#[derive(Default)]
pub struct ReachableTools<'a> {
    /// Set if the key may use the single endpoint, where the names are those of the server.
    alone: Option<(&'a Identity, Arc<Endpoint>)>,
    /// Tools shown by aggregate endpoints, with the view that overrides them. `None` if some endpoint shows
    /// the tool unchanged.
    shown: HashMap<String, Option<Arc<ToolView>>>,
}

impl ReachableTools<'_> {
    /// Whether the key may call the tool.
    pub fn hold(&self, tool: &str) -> bool {
        self.hold_alone(tool) || self.shown.contains_key(tool)
    }

    /// Returns the definition of a tool as the key sees it, under its name at the server: unchanged if one of
    /// the endpoints shows it unchanged, otherwise with the overrides of the first endpoint.
    pub fn told(&self, tool: &str, own: &Bytes) -> Bytes {
        let tool_view = self.shown.get(tool).and_then(Option::as_ref).filter(|_| !self.hold_alone(tool));
        match tool_view.and_then(|tool_view| tool_view.override_of(tool)) {
            Some(instead) => apply_override(own, instead),
            None => own.clone(),
        }
    }

    fn hold_alone(&self, tool: &str) -> bool {
        let alone = self.alone.as_ref();
        alone.is_some_and(|(identity, endpoint)| identity.can_call_tool(&endpoint.scope, tool))
    }

    fn and(mut self, other: Self) -> Self {
        self.alone = self.alone.or(other.alone);
        for (tool, tool_view) in other.shown {
            match self.shown.entry(tool) {
                Entry::Vacant(place) => drop(place.insert(tool_view)),
                // One endpoint that shows the tool unchanged is enough.
                Entry::Occupied(mut place) if tool_view.is_none() => drop(place.insert(None)),
                Entry::Occupied(_) => {}
            }
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::catalog::{ListItem, ServerLists, merge};
    use metamcp_config::sections::{
        EndpointConfig, EndpointMember, EndpointMembers, NamePrefix, ToolOverride, ToolView,
    };
    use metamcp_core::base::{EndpointName, Glob};
    use metamcp_store::store::Grants;

    /// Each server lists the same tools, and one that has the server's own name.
    fn merged(endpoint: &Endpoint) -> MergedLists {
        let item = |key: &str| {
            let raw = format!(r#"{{"name":"{key}"}}"#);
            ListItem { key: key.to_owned(), key_start: 8, key_end: raw.len() - 1, raw: raw.into() }
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
            servers: EndpointMembers::unfiltered(servers.iter().map(|text| name(text))),
            prefix,
        };
        let renamed = ToolOverride { name: Some("list".to_owned()), ..ToolOverride::default() };
        let deny = vec![Glob::new("rm*").expect("valid")];
        let overrides = ["ls", "unlisted"].map(|tool| (tool.to_owned(), renamed.clone()));
        let tool_view = ToolView::new(Vec::new(), deny, overrides.into());
        let partly = EndpointMembers::Listed(vec![EndpointMember { server: name("a"), tool_view }]);
        let partly = EndpointConfig { servers: partly, ..endpoint("partly", &[], NamePrefix::Always) };
        let table = RouteTable::build(
            &[name("a"), name("b"), name("alone")],
            &[
                endpoint("default", &["a", "b"], NamePrefix::Always),
                endpoint("bare", &["b"], NamePrefix::Never),
                endpoint("both", &["a", "b"], NamePrefix::Never),
                partly,
            ],
        )
        .expect("all servers exist");
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect();
        let grants =
            Grants { endpoints: endpoints.map(list), tools: tools.map(list), ..Grants::everything() };
        let identity = Identity::sample_with("AAAAAAAAAAAA", &grants);
        let server = name(server);
        let found = ServerReach::of(&identity, &server, &table).is_some_and(|reach| {
            let tools = reach.ways.iter().map(|way| reach.tools_by(way, &merged(way)));
            let listed = tools.fold(ReachableTools::default(), ReachableTools::and).hold(tool);
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
        // A single endpoint uses the names of the server.
        check(None, Some(&["x"]), "a", "x", true);
        check(Some(&["servers/a"]), Some(&["x"]), "a", "x", true);
        check(Some(&["servers/a"]), Some(&["a__x"]), "a", "x", false);
        check(Some(&["servers/b"]), None, "a", "x", false);
        check(Some(&["bare"]), Some(&["x"]), "b", "x", true);
        check(Some(&["default"]), Some(&["x"]), "b", "x", false);
        // Two servers list this name, so the endpoint shows neither tool.
        check(Some(&["both"]), None, "a", "x", false);
        check(Some(&["both"]), None, "b", "x", false);
        check(Some(&["both"]), None, "a", "a", true);
        check(Some(&["both"]), None, "b", "a", false);
        check(Some(&["both", "bare"]), None, "b", "x", true);
        check(Some(&["both", "servers/a"]), None, "a", "x", true);
        // No server lists it.
        check(Some(&["default"]), None, "a", "y", false);
        // By the names that the endpoint gives, and only the tools that it shows.
        check(Some(&["partly"]), None, "a", "x", true);
        check(Some(&["partly"]), None, "a", "rm", false);
        check(Some(&["partly", "default"]), None, "a", "rm", true);
        check(Some(&["partly"]), Some(&["list"]), "a", "ls", true);
        check(Some(&["partly"]), Some(&["a__*"]), "a", "ls", false);
        // Another tool was given this name.
        check(Some(&["partly"]), None, "a", "unlisted", false);
    }
}
