use std::sync::Arc;

use rustls::RootCertStore;

use super::*;
use crate::upstream::UpstreamId;
use metamcp_config::sections::{
    EndpointConfig, EndpointMember, EndpointMembers, NamePrefix, ToolOverride, ToolView,
};
use metamcp_config::server::settings::DEFAULTS;
use metamcp_config::server::{ServerAddress, ServerConfig};
use metamcp_core::base::{EndpointName, ServerName};
use metamcp_http::TlsRoots;

/// `name` or `name=port`.
fn server(text: &str) -> ServerConfig {
    let (name, port) = text.split_once('=').unwrap_or((text, "80"));
    let address = match port {
        // Only a path can be wrong: a URL has been parsed.
        "bad" => ServerAddress::Unix { socket: "x".into(), path: "no path".into() },
        port => ServerAddress::Http(format!("http://127.0.0.1:{port}/mcp").parse().expect("a URL")),
    };
    ServerConfig::new(ServerName::new(name).expect("a name"), address, Vec::new(), DEFAULTS)
}

/// `name:server,server`.
fn endpoint(text: &str) -> EndpointConfig {
    let (name, servers) = text.split_once(':').expect("an endpoint");
    let servers = servers.split(',').map(|name| ServerName::new(name).expect("a name"));
    let name = EndpointName::new(name).expect("a name");
    EndpointConfig { name, servers: EndpointMembers::unfiltered(servers), prefix: NamePrefix::Always }
}

fn next(builder: &mut TopologyBuilder, servers: &[&str], endpoints: &[&str]) -> Arc<Topology> {
    let servers = servers.iter().map(|text| server(text)).collect();
    builder.build_next(servers, endpoints.iter().map(|text| endpoint(text)).collect())
}

fn builder() -> TopologyBuilder {
    TopologyBuilder::new(TlsRoots::from_roots(RootCertStore::empty()))
}

fn id_of(topology: &Topology, name: &str) -> Option<UpstreamId> {
    topology.upstreams().find(|upstream| upstream.name().as_str() == name).map(|upstream| upstream.id)
}

/// Checks the names added, changed and removed, each list as one text.
#[track_caller]
fn check_changes(changes: &NameChanges, expected: [&str; 3]) {
    let found = [&changes.added, &changes.changed, &changes.removed].map(|names| names.join(" "));
    assert_eq!(found, expected);
}

#[test]
fn unchanged_servers_and_endpoints_keep_their_ids() {
    let mut builder = builder();
    let first = next(&mut builder, &["a", "b", "c"], &["default:a,b,c", "x:a"]);
    let second = next(&mut builder, &["d", "b=81", "a"], &["default:d,b,a", "x:a", "y:b"]);
    assert!(second.epoch > first.epoch);
    let changes = second.changes_since(&first);
    check_changes(&changes.servers, ["d", "b", "c"]);
    check_changes(&changes.endpoints, ["y", "default", ""]);
    assert!(!changes.is_empty());
    assert_eq!(id_of(&first, "a"), id_of(&second, "a"));
    let kept = id_of(&first, "a").and_then(|id| first.upstream(id).zip(second.upstream(id)));
    assert!(kept.is_some_and(|(before, now)| Arc::ptr_eq(before, now)));
    // A configuration that is restored gets new ids, since the old ones may still be in use.
    let third = next(&mut builder, &["a", "b", "c"], &["default:a,b,c", "x:a"]);
    for name in ["b", "c"] {
        assert!(id_of(&third, name) > id_of(&first, name), "{name}");
    }
    assert!(third.changes_since(&third).is_empty());
    check_changes(&third.changes_since(&first).servers, ["", "b c", ""]);
}

/// Checks what is rejected, and that the rest is served.
#[track_caller]
fn check_rejected(servers: &[&str], endpoints: &[&str], expected: &[&str]) {
    let topology = next(&mut builder(), servers, endpoints);
    let rejected: Vec<String> = topology.rejected.iter().map(ToString::to_string).collect();
    assert_eq!(rejected, expected);
    let default = topology.table.find_by_path("/mcp").expect("the endpoint is served");
    assert_eq!(default.servers.iter().map(|server| server.name.as_str()).collect::<Vec<_>>(), ["good"]);
    assert!(topology.table.find_by_path("/servers/good/mcp").is_some());
}

#[test]
fn an_invalid_server_does_not_affect_others() {
    check_rejected(
        &["bad=bad", "good"],
        &["default:bad,good"],
        &[
            "server `bad` is not served: its path is not a request path: write it as `/mcp`",
            "endpoint `default` is served without server `bad`, which does not exist",
        ],
    );
    check_rejected(
        &["good", "good=81"],
        &["default:good,good", "default:none"],
        &[
            "server `good` is defined twice; the second definition is ignored",
            "endpoint `default` is defined twice; the second definition is ignored",
        ],
    );
    check_rejected(&["good"], &["default:good"], &[]);
}

#[test]
fn rejects_names_with_the_prefix_of_another_server() {
    let aliased = |text: &str| {
        let (text, alias) = text.split_once('~').unwrap_or((text, ""));
        ServerConfig { alias: ServerName::new(alias).ok(), ..server(text) }
    };
    let check = |servers: &[&str], names: &[(&str, &str)], expected: &[&str], rejected: &[&str]| {
        let change = |name: &str| ToolOverride { name: Some(name.to_owned()), ..ToolOverride::default() };
        let overrides = names.iter().map(|(tool, name)| ((*tool).to_owned(), change(name)));
        let tool_view = ToolView::new(Vec::new(), Vec::new(), overrides.collect());
        let members = vec![EndpointMember { server: ServerName::new("a").expect("a name"), tool_view }];
        let work = EndpointConfig { servers: EndpointMembers::Listed(members), ..endpoint("work:a") };
        let servers = servers.iter().map(|text| aliased(text)).collect();
        let topology = builder().build_next(servers, vec![work]);
        let describe = |server: &crate::route::RoutedServer| format!("{} {}", server.name, server.prefix);
        let names_of_all = topology.upstreams().map(|upstream| upstream.name().as_str());
        let mut found: Vec<_> = names_of_all
            .filter_map(|name| {
                Some(describe(&topology.table.find_by_path(&format!("/servers/{name}/mcp"))?.servers[0]))
            })
            .collect();
        let work = topology.table.find_by_path("/mcp/work").expect("it is served");
        let tools = names.iter().filter(|_| !work.servers.is_empty());
        found.extend(tools.filter_map(|(tool, _)| Some(work.tool_name(0, tool)?.into_owned())));
        found.sort_unstable();
        assert_eq!(found, expected);
        let texts: Vec<_> = topology.rejected.iter().map(ToString::to_string).collect();
        assert_eq!(texts.len(), rejected.len(), "{texts:#?}");
        assert!(texts.iter().zip(rejected).all(|(text, part)| text.contains(part)), "{texts:#?}");
    };
    check(&["a~x", "b~y", "c"], &[], &["a x", "b y", "c c"], &[]);
    check(&["a~a", "b"], &[], &["a a", "b b"], &[]);
    check(
        &["a~x", "b~x"],
        &[],
        &["a x"],
        &["server `b` is not served: its alias `x` is the name or the alias of"],
    );
    // A name takes precedence over an alias, whichever comes first.
    let texts = ["server `a` is not served: its alias `b`", "endpoint `work` is served without server `a`"];
    check(&["a~b", "b"], &[], &["b b"], &texts);
    check(&["a", "b~a"], &[], &["a a"], &["server `b` is not served: its alias `a`"]);
    // That also holds for the name of a server that has an alias.
    check(&["a~b", "b~y"], &[], &["b y"], &texts);
    let own = [("s", "a__t"), ("t", "x__t"), ("u", "z__t"), ("v", "plain")];
    check(&["a~x", "b"], &own, &["a x", "a__t", "b b", "plain", "x__t", "z__t"], &[]);
    let names = [("s", "b__t"), ("t", "y__t"), ("u", "b_t")];
    let texts = ["tool \"s\" of server `a`: its name there, `b__t`, has the prefix of server `b`", "`y__t`"];
    check(&["a", "b~y"], &names, &["a a", "b y", "b_t"], &texts);
}

#[test]
fn pools_stay_with_their_upstream() {
    let mut builder = builder();
    let first = next(&mut builder, &["a", "b"], &[]);
    let pools = UpstreamPools::new(&first);
    let ids = ["a", "b"].map(|name| id_of(&first, name).expect("the server exists"));
    let before = ids.map(|id| pools.find(id).expect("it has a pool"));
    let second = next(&mut builder, &["a", "b=81"], &[]);
    assert!(pools.adopt(&second));
    assert!(!pools.adopt(&second), "it is already followed");
    assert!(!pools.adopt(&first), "it is older");
    assert_eq!(pools.topology().epoch, second.epoch);
    assert!(pools.find(ids[0]).is_some_and(|pool| std::rc::Rc::ptr_eq(&pool, &before[0])));
    // Requests routed by the first version may still use the pool.
    pools.sweep();
    assert!(pools.find(ids[1]).is_some());
    let changed = id_of(&second, "b").expect("the server exists");
    assert!(changed != ids[1] && pools.find(changed).is_some());
}
