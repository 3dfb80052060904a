use std::time::Duration;

use rustls::RootCertStore;

use super::*;
use crate::route::{EndpointConfig, Member, Members, Override, Prefix, Shows};
use crate::upstream::{Address, ChangedTools, Config, EraChoice, TlsRoots};

/// `name` or `name=port`.
fn server(text: &str) -> Config {
    let (name, port) = text.split_once('=').unwrap_or((text, "80"));
    let address = match port {
        // Only a path can be wrong: a URL has been parsed.
        "bad" => Address::Unix { socket: "x".into(), path: "no path".into() },
        port => Address::Http(format!("http://127.0.0.1:{port}/mcp").parse().expect("a URL")),
    };
    Config {
        name: ServerName::new(name).expect("a name"),
        address,
        headers: Vec::new(),
        era: EraChoice::Auto,
        connect_timeout: Duration::from_secs(1),
        first_byte_timeout: Duration::from_secs(1),
        stream_idle_timeout: Duration::from_secs(1),
        in_flight_max: 1,
        queue_timeout: Duration::from_secs(1),
        queue_max: 1,
        idle_connections_max: 1,
        idle_age_max: Duration::from_secs(1),
        fast_lane: true,
        private_addresses: true,
        may_be_sse: false,
        left_alone: true,
        alias: None,
        changed_tools: ChangedTools::Warn,
    }
}

/// `name:server,server`.
fn endpoint(text: &str) -> EndpointConfig {
    let (name, servers) = text.split_once(':').expect("an endpoint");
    let servers = servers.split(',').map(|name| ServerName::new(name).expect("a name"));
    let name = EndpointName::new(name).expect("a name");
    EndpointConfig { name, servers: Members::whole(servers), prefix: Prefix::Always }
}

fn next(builder: &mut TopologyBuilder, servers: &[&str], endpoints: &[&str]) -> Arc<Topology> {
    let servers = servers.iter().map(|text| server(text)).collect();
    builder.next(servers, endpoints.iter().map(|text| endpoint(text)).collect())
}

fn builder() -> TopologyBuilder {
    TopologyBuilder::new(TlsRoots::from_roots(RootCertStore::empty()))
}

fn id_of(topology: &Topology, name: &str) -> Option<UpstreamId> {
    topology.upstreams().find(|upstream| upstream.name().as_str() == name).map(|upstream| upstream.id)
}

/// Each of added, changed, removed as one text.
#[track_caller]
fn check_moves(moves: &Moves, expected: [&str; 3]) {
    let found = [&moves.added, &moves.changed, &moves.removed].map(|names| names.join(" "));
    assert_eq!(found, expected);
}

#[test]
fn what_did_not_change_stays() {
    let mut builder = builder();
    let first = next(&mut builder, &["a", "b", "c"], &["default:a,b,c", "x:a"]);
    let second = next(&mut builder, &["d", "b=81", "a"], &["default:d,b,a", "x:a", "y:b"]);
    assert!(second.epoch > first.epoch);
    let changes = second.changes_since(&first);
    check_moves(&changes.servers, ["d", "b", "c"]);
    check_moves(&changes.endpoints, ["y", "default", ""]);
    assert!(!changes.is_empty());
    assert_eq!(id_of(&first, "a"), id_of(&second, "a"));
    let kept = id_of(&first, "a").and_then(|id| first.upstream(id).zip(second.upstream(id)));
    assert!(kept.is_some_and(|(before, now)| Arc::ptr_eq(before, now)));
    // Back to what it was: another server all the same, for the ids of the first may still be in use.
    let third = next(&mut builder, &["a", "b", "c"], &["default:a,b,c", "x:a"]);
    for name in ["b", "c"] {
        assert!(id_of(&third, name) > id_of(&first, name), "{name}");
    }
    assert!(third.changes_since(&third).is_empty());
    check_moves(&third.changes_since(&first).servers, ["", "b c", ""]);
}

/// What is left out, and that the rest is served.
#[track_caller]
fn check_left_out(servers: &[&str], endpoints: &[&str], expected: &[&str]) {
    let topology = next(&mut builder(), servers, endpoints);
    let left_out: Vec<String> = topology.left_out.iter().map(ToString::to_string).collect();
    assert_eq!(left_out, expected);
    let default = topology.table.find("/mcp").expect("the endpoint is served");
    assert_eq!(default.servers.iter().map(|place| place.name.as_str()).collect::<Vec<_>>(), ["good"]);
    assert!(topology.table.find("/servers/good/mcp").is_some());
}

#[test]
fn one_that_is_wrong_takes_nobody_with_it() {
    check_left_out(
        &["bad=bad", "good"],
        &["default:bad,good"],
        &[
            "server `bad` is left out: its path is not a request path: write it as `/mcp`",
            "endpoint `default` is served without server `bad`, which is not there",
        ],
    );
    check_left_out(
        &["good", "good=81"],
        &["default:good,good", "default:none"],
        &[
            "server `good` is there twice: the second is left out",
            "endpoint `default` is there twice: the second is left out",
        ],
    );
    check_left_out(&["good"], &["default:good"], &[]);
}

#[test]
fn no_tool_is_named_like_one_of_another_server() {
    let aliased = |text: &str| {
        let (text, alias) = text.split_once('~').unwrap_or((text, ""));
        Config { alias: ServerName::new(alias).ok(), ..server(text) }
    };
    let check = |servers: &[&str], names: &[(&str, &str)], expected: &[&str], left_out: &[&str]| {
        let instead = |name: &str| Override { name: Some(name.to_owned()), ..Override::default() };
        let overrides = names.iter().map(|(tool, name)| ((*tool).to_owned(), instead(name)));
        let shows = Shows::new(Vec::new(), Vec::new(), overrides.collect());
        let members = vec![Member { server: ServerName::new("a").expect("a name"), shows }];
        let work = EndpointConfig { servers: Members::These(members), ..endpoint("work:a") };
        let servers = servers.iter().map(|text| aliased(text)).collect();
        let topology = builder().next(servers, vec![work]);
        let place = |place: &crate::route::Place| format!("{} {}", place.name, place.prefix);
        let every = topology.upstreams().map(|upstream| upstream.name().as_str());
        let mut found: Vec<_> = every
            .filter_map(|name| Some(place(&topology.table.find(&format!("/servers/{name}/mcp"))?.servers[0])))
            .collect();
        let work = topology.table.find("/mcp/work").expect("it is served");
        let tools = names.iter().filter(|_| !work.servers.is_empty());
        found.extend(tools.filter_map(|(tool, _)| Some(work.tool_name(0, tool)?.into_owned())));
        found.sort_unstable();
        assert_eq!(found, expected);
        let told: Vec<_> = topology.left_out.iter().map(ToString::to_string).collect();
        assert_eq!(told.len(), left_out.len(), "{told:#?}");
        assert!(told.iter().zip(left_out).all(|(told, part)| told.contains(part)), "{told:#?}");
    };
    check(&["a~x", "b~y", "c"], &[], &["a x", "b y", "c c"], &[]);
    check(&["a~a", "b"], &[], &["a a", "b b"], &[]);
    check(
        &["a~x", "b~x"],
        &[],
        &["a x"],
        &["server `b` is left out: its alias `x` is the name or the alias of"],
    );
    // A name is not taken away by an alias, whichever comes first.
    let told = ["server `a` is left out: its alias `b`", "endpoint `work` is served without server `a`"];
    check(&["a~b", "b"], &[], &["b b"], &told);
    check(&["a", "b~a"], &[], &["a a"], &["server `b` is left out: its alias `a`"]);
    // Nor is one that nothing is named by just now.
    check(&["a~b", "b~y"], &[], &["b y"], &told);
    let own = [("s", "a__t"), ("t", "x__t"), ("u", "z__t"), ("v", "plain")];
    check(&["a~x", "b"], &own, &["a x", "a__t", "b b", "plain", "x__t", "z__t"], &[]);
    let names = [("s", "b__t"), ("t", "y__t"), ("u", "b_t")];
    let told = ["tool \"s\" of server `a`: its name there, `b__t`, is one of server `b`", "`y__t`"];
    check(&["a", "b~y"], &names, &["a a", "b y", "b_t"], &told);
}

#[test]
fn connections_stay_with_their_server() {
    let mut builder = builder();
    let first = next(&mut builder, &["a", "b"], &[]);
    let pools = Pools::new(&first);
    let ids = ["a", "b"].map(|name| id_of(&first, name).expect("it is there"));
    let before = ids.map(|id| pools.find(id).expect("it has connections"));
    let second = next(&mut builder, &["a", "b=81"], &[]);
    assert!(pools.adopt(&second));
    assert!(!pools.adopt(&second), "it is followed already");
    assert!(!pools.adopt(&first), "it is older");
    assert_eq!(pools.topology().epoch, second.epoch);
    assert!(pools.find(ids[0]).is_some_and(|pool| std::rc::Rc::ptr_eq(&pool, &before[0])));
    // For requests that came before.
    pools.sweep();
    assert!(pools.find(ids[1]).is_some());
    let changed = id_of(&second, "b").expect("it is there");
    assert!(changed != ids[1] && pools.find(changed).is_some());
}
