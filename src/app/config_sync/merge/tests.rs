use rustls::RootCertStore;
use serde_json::{Value, json};

use super::*;
use crate::topology::TopologyBuilder;
use metamcp_config::server::settings::{self, DEFAULTS};
use metamcp_config::server::{AllowedCommand, EnvPattern, ServerAddress, ServerConfig, StdioAllowlist};
use metamcp_http::TlsRoots;
use metamcp_store::auth::EncryptionKey;
use metamcp_store::store::{Plaintext, SealedValue, ServerKind, ToolOverride};

fn sealer() -> Sealer {
    Sealer::new(&[EncryptionKey { version: 1, key: zeroize::Zeroizing::new([7; 32]) }]).unwrap()
}

fn serving(allow_private: bool) -> ServingPolicy {
    let inherited = vec![("PATH".to_owned(), "/usr/bin".to_owned())];
    ServingPolicy { allow_private, allowed: allowed(&["/usr/bin/notes"]), inherited }
}

fn allowed(paths: &[&str]) -> StdioAllowlist {
    let commands = paths.iter().map(|path| AllowedCommand { path: (*path).to_owned(), args: vec![] });
    let env = vec![EnvPattern::new("NOTES_*").unwrap()];
    StdioAllowlist { commands: commands.collect(), env, dirs: vec!["/srv".to_owned()] }
}

fn file(name: &str) -> ServerConfig {
    let url = format!("http://file.example/{name}").parse().unwrap();
    ServerConfig::new(ServerName::new(name).unwrap(), ServerAddress::Http(url), Vec::new(), DEFAULTS)
}

/// A server row; `more` are further members of its definition.
fn row(name: &str, more: &Value) -> ServerRow {
    let mut definition = json!({"url": format!("http://store.example/{name}")});
    definition.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    sealed(ServerRow {
        id: id_of(name),
        name: name.to_owned(),
        kind: ServerKind::Http,
        definition,
        secrets: SealedValue::default(),
        version: 3,
        created_at: 0,
        changed_at: 0,
    })
}

/// Seals the row, as it is in the store.
fn sealed(row: ServerRow) -> ServerRow {
    ServerRow { secrets: sealer().seal_row(SealedRow::Server(&row), &Plaintext::nothing()), ..row }
}

fn sealed_endpoint(row: EndpointRow) -> EndpointRow {
    EndpointRow { seal: sealer().seal_row(SealedRow::Endpoint(&row), &Plaintext::nothing()), ..row }
}

fn id_of(name: &str) -> Uuid {
    let bytes = name.bytes().fold(0u128, |id, byte| id << 8 | u128::from(byte));
    Uuid::from_u128(bytes)
}

fn endpoint(name: &str, servers: &[&str]) -> EndpointRow {
    let servers = servers.iter().map(|server| EndpointServer::unfiltered(id_of(server))).collect();
    let id = Uuid::from_u128(id_of(name).as_u128() << 64);
    sealed_endpoint(EndpointRow {
        id,
        name: name.into(),
        prefix: PrefixMode::Always,
        servers,
        version: 3,
        created_at: 0,
        changed_at: 0,
        seal: SealedValue::default(),
    })
}

/// Checks each endpoint with its servers, each server with its origin, and what is left out.
#[track_caller]
fn check(
    files: &FileConfig,
    stored: &StoredConfig,
    endpoints: &[&str],
    servers: &[&str],
    rejected: &[&str],
) -> MergedConfig {
    let sealer = sealer();
    let merged = merge(files, Some(stored), RowContext { sealer: &sealer, serving: &serving(false) });
    let mut builder = TopologyBuilder::new(TlsRoots::from_roots(RootCertStore::empty()));
    let topology = builder.build_next(merged.servers.clone(), merged.endpoints.clone());
    let mut found: Vec<String> = topology
        .table
        .configured_endpoints()
        .map(|(name, endpoint)| {
            let servers: Vec<_> = endpoint.servers.iter().map(|place| place.name.as_str()).collect();
            format!("{name}: {}", servers.join(" "))
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, endpoints);
    let mut found: Vec<String> = topology
        .upstreams()
        .map(|upstream| {
            let (ServerAddress::Http(url) | ServerAddress::Sse(url)) = &upstream.config.address else {
                panic!("by http")
            };
            format!("{} {}", upstream.name(), url.host_str().unwrap().replace(".example", ""))
        })
        .collect();
    found.sort_unstable();
    assert_eq!(found, servers);
    let store_status = merged.store_status(&topology, 0);
    let mut told: Vec<String> = store_status.rejected.clone();
    told.extend(topology.rejected.iter().map(ToString::to_string));
    assert_eq!(told.len(), rejected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(rejected) {
        assert!(told.contains(expected), "{expected:?} is not in {told:?}");
    }
    merged
}

#[test]
fn both_sources_are_served_and_files_take_precedence() {
    let files = FileConfig { servers: vec![file("a"), file("both")], ..FileConfig::default() };
    let none = json!({});
    let stored = StoredConfig {
        servers: vec![row("both", &none), row("off", &json!({"enabled": false})), row("s", &none)],
        endpoints: vec![endpoint("work", &["s", "both", "off", "gone"])],
    };
    let merged = check(
        &files,
        &stored,
        &["default: a both s", "work: s"],
        &["a file", "both file", "s store"],
        &[
            "server `both` of the store is left out: metamcp.toml",
            "endpoint `work` of the store is served without server `both`: metamcp.toml",
        ],
    );
    let mut builder = TopologyBuilder::new(TlsRoots::from_roots(RootCertStore::empty()));
    let topology = builder.build_next(merged.servers.clone(), merged.endpoints.clone());
    let store_status = merged.store_status(&topology, 7);
    assert_eq!(store_status.changes, 7);
    assert_eq!(store_status.row_status(id_of("s"), 3), Ok(()));
    assert!(store_status.row_status(id_of("s"), 4).is_err() && store_status.is_served(id_of("s")));
    assert_eq!(store_status.row_status(id_of("off"), 3), Err(DISABLED));
    assert!(store_status.row_status(id_of("both"), 3).is_err() && !store_status.is_served(id_of("both")));
    assert_eq!(store_status.row_status(stored.endpoints[0].id, 3), Ok(()));
}

#[test]
fn an_endpoint_in_both_sources_is_taken_from_the_files() {
    let name = EndpointName::new("work").unwrap();
    let of_files = EndpointConfig { name, servers: EndpointMembers::All, prefix: NamePrefix::Never };
    let files = FileConfig { servers: vec![file("a")], endpoints: vec![of_files], fallback_server: None };
    let stored = StoredConfig {
        servers: vec![row("s", &json!({}))],
        endpoints: vec![endpoint("default", &["s"]), endpoint("work", &["s"])],
    };
    check(
        &files,
        &stored,
        &["default: s", "work: a s"],
        &["a file", "s store"],
        &["endpoint `work` of the store is left out: metamcp.toml"],
    );
}

#[test]
fn an_unreadable_row_does_not_affect_others() {
    let unsealed = SealedValue { bytes: vec![1, 2, 3], key_version: 1 };
    let none = json!({});
    let mut stdio = row("process", &json!({"command": "/bin/true"}));
    stdio.kind = ServerKind::Stdio;
    stdio.definition.as_object_mut().unwrap().remove("url");
    let stdio = sealed(stdio);
    let stored = StoredConfig {
        servers: vec![
            ServerRow { secrets: unsealed, ..row("closed", &none) },
            row("good", &none),
            stdio,
            sealed(ServerRow { definition: Value::Null, ..row("torn", &none) }),
            row("un__named", &none),
        ],
        endpoints: vec![endpoint("work", &["closed", "good", "process"]), endpoint("a b", &["good"])],
    };
    let mut sse = row("old", &none);
    sse.kind = ServerKind::Sse;
    let sse = sealed(sse);
    let stored = StoredConfig { servers: [vec![sse], stored.servers].concat(), ..stored };
    check(
        &FileConfig::default(),
        &stored,
        &["default: old good", "work: good"],
        &["good store", "old store"],
        &[
            "server `closed` was altered outside of keyadm and the gateway",
            "its command \"/bin/true\" is not among the programs that may be run: add \"/bin/true\" to `stdio_commands` in [admin]",
            "the definition of server `torn`",
            "the definition of server `un__named`",
            "endpoint `a b` of the store is left out",
            "endpoint `work` of the store is served without server `closed`: server `closed` was altered",
            "endpoint `work` of the store is served without server `process`: its command \"/bin/true\" is not among",
        ],
    );
}

#[test]
fn an_allowed_program_runs_with_the_inherited_environment() {
    let mut notes =
        row("notes", &json!({"url": null, "command": "/usr/bin/notes", "cwd": "/srv", "sharing": "shared"}));
    notes.kind = ServerKind::Stdio;
    let notes = sealed(notes);
    let stored = StoredConfig { servers: vec![notes], endpoints: Vec::new() };
    let sealer = sealer();
    let run = |serving: &ServingPolicy| {
        let merged = merge(&FileConfig::default(), Some(&stored), RowContext { sealer: &sealer, serving });
        merged.servers.into_iter().map(|server| server.address).next()
    };
    let Some(ServerAddress::Stdio(program)) = run(&serving(true)) else { panic!("it is on the list") };
    assert_eq!((program.command.as_str(), program.cwd), ("/usr/bin/notes", Some("/srv".into())));
    assert_eq!(program.env, serving(true).inherited);
    assert_eq!(
        program.settings,
        metamcp_config::server::ProcessSettings {
            sharing: metamcp_config::server::Sharing::Shared,
            ..settings::default_process_settings()
        }
    );
    for paths in [&[][..], &["/usr/bin/notes "], &["/usr/bin"], &["/usr/bin//notes"], &["notes"]] {
        assert_eq!(run(&ServingPolicy { allowed: allowed(paths), ..serving(true) }), None);
    }
}

#[test]
fn an_endpoint_with_an_unreadable_filter_is_left_out() {
    let with = |change: &dyn Fn(&mut EndpointServer)| {
        let mut row = endpoint("default", &["s"]);
        change(&mut row.servers[0]);
        StoredConfig { servers: vec![self::row("s", &json!({}))], endpoints: vec![sealed_endpoint(row)] }
    };
    let tool_override = |annotations: Option<Value>, name: Option<&str>| ToolOverride {
        tool: "t".into(),
        name: name.map(str::to_owned),
        title: None,
        description: None,
        annotations,
    };
    let files = FileConfig::default();
    let said = "endpoint `default` of the store is left out";
    let served = |stored: StoredConfig| check(&files, &stored, &["default: s"], &["s store"], &[]);
    let refused = |stored: StoredConfig| check(&files, &stored, &[], &["s store"], &[said]);
    refused(with(&|of| of.deny = vec!["a b".into()]));
    refused(with(&|of| of.allow = vec![String::new()]));
    refused(with(&|of| of.overrides = vec![tool_override(Some(Value::Null), None)]));
    refused(with(&|of| of.overrides = vec![tool_override(Some(json!({"title": "x".repeat(5000)})), None)]));
    refused(with(&|of| of.overrides = vec![tool_override(None, Some("a b"))]));
    refused(with(&|of| of.overrides = vec![tool_override(None, Some(&"x".repeat(129)))]));
    let merged = served(with(&|of| of.overrides = vec![tool_override(None, Some(""))]));
    let EndpointMembers::Listed(members) = &merged.endpoints[0].servers else { panic!("of the store") };
    assert_eq!(members[0].tool_view, None, "an empty override is none");
    let merged = served(with(&|of| of.deny = vec!["t*".into()]));
    let EndpointMembers::Listed(members) = &merged.endpoints[0].servers else { panic!("of the store") };
    assert!(members[0].tool_view.is_some());
}

#[test]
fn private_addresses_and_aliases_follow_the_row() {
    let stored = StoredConfig {
        servers: vec![
            row("a", &json!({"allow_private": true, "alias": "x"})),
            row("b", &json!({"allow_private": false})),
            row("c", &json!({})),
        ],
        endpoints: Vec::new(),
    };
    let sealer = sealer();
    for default in [true, false] {
        let context = RowContext { sealer: &sealer, serving: &serving(default) };
        let servers =
            merge(&FileConfig { servers: vec![file("f")], ..FileConfig::default() }, Some(&stored), context)
                .servers;
        let found: Vec<_> = servers.iter().map(|server| server.private_addresses).collect();
        assert_eq!(found, [true, true, false, default]);
        assert_eq!(servers[1].alias.as_ref().map(ServerName::as_str), Some("x"));
    }
}

#[test]
fn the_stand_in_is_served_only_without_other_servers() {
    let files = FileConfig { fallback_server: Some(file("demo")), ..FileConfig::default() };
    let of = |servers| StoredConfig { servers, endpoints: Vec::new() };
    check(&files, &of(Vec::new()), &["default: demo"], &["demo file"], &[]);
    let off = row("s", &json!({"enabled": false}));
    check(&files, &of(vec![off]), &["default: demo"], &["demo file"], &[]);
    check(&files, &of(vec![row("s", &json!({}))]), &["default: s"], &["s store"], &[]);
}

#[test]
fn an_unread_store_differs_from_an_empty_one() {
    let sealer = sealer();
    let check = |files: &FileConfig, stored: Option<&StoredConfig>, endpoints: &[&str], said: bool| {
        let merged = merge(files, stored, RowContext { sealer: &sealer, serving: &serving(false) });
        let mut builder = TopologyBuilder::new(TlsRoots::from_roots(RootCertStore::empty()));
        let topology = builder.build_next(merged.servers.clone(), merged.endpoints.clone());
        let found: Vec<_> = topology.table.configured_endpoints().map(|(name, _)| name.as_str()).collect();
        assert_eq!(found, endpoints);
        let rejected = merged.store_status(&topology, 0).rejected;
        assert_eq!(rejected.iter().any(|text| text.contains("could not be read yet")), said, "{rejected:?}");
        assert_eq!(topology.upstreams().count(), 1);
    };
    let name = EndpointName::new(EndpointName::DEFAULT).unwrap();
    let mine = EndpointConfig { name, servers: EndpointMembers::All, prefix: NamePrefix::Always };
    let files = FileConfig { servers: vec![file("a")], ..FileConfig::default() };
    let nothing = StoredConfig::default();
    check(&files, Some(&nothing), &["default"], false);
    check(&files, None, &[], true);
    check(&FileConfig { endpoints: vec![mine], ..files }, None, &["default"], true);
}

#[test]
fn altered_rows_are_not_served() {
    let whole =
        StoredConfig { servers: vec![row("s", &json!({}))], endpoints: vec![endpoint("default", &["s"])] };
    let files = FileConfig::default();
    check(&files, &whole, &["default: s"], &["s store"], &[]);
    let server = |change: &dyn Fn(&mut ServerRow)| {
        let mut stored = whole.clone();
        change(&mut stored.servers[0]);
        let name = stored.servers[0].name.clone();
        let told = format!("server `{name}` of the store is left out: server `{name}` was altered");
        let merged = merge(&files, Some(&stored), RowContext { sealer: &sealer(), serving: &serving(false) });
        assert_eq!(merged.servers, []);
        let [MergedRow { outcome: RowOutcome::LeaveOut(why), .. }, ..] = &merged.rows[..] else {
            panic!("{merged:?}")
        };
        assert!(why.starts_with(&told), "{why}");
    };
    server(&|row| row.definition["url"] = "http://attacker.example/s".into());
    server(&|row| row.name = "t".into());
    server(&|row| row.kind = ServerKind::Sse);
    server(&|row| row.id = Uuid::nil());
    let said = "endpoint `default` of the store is left out: it was altered";
    let refused = |change: &dyn Fn(&mut EndpointRow)| {
        let mut stored = whole.clone();
        change(&mut stored.endpoints[0]);
        check(&files, &stored, &[], &["s store"], &[said]);
    };
    refused(&|row| row.id = Uuid::nil());
    refused(&|row| row.prefix = PrefixMode::Never);
    refused(&|row| row.servers.clear());
    refused(&|row| row.servers[0].allow.push("t".into()));
    refused(&|row| row.servers[0].deny.push("t".into()));
    refused(&|row| row.seal.bytes[5] ^= 1);
    refused(&|row| row.seal = SealedValue::default());
}

#[test]
fn rows_resealed_with_a_future_key_version_keep_their_content() {
    let key = EncryptionKey { version: 2, key: zeroize::Zeroizing::new([8; 32]) };
    let (old, new) = (sealer(), Sealer::new(&[key]).unwrap());
    let before =
        StoredConfig { servers: vec![row("s", &json!({}))], endpoints: vec![endpoint("default", &["s"])] };
    let anew = |change: &dyn Fn(&mut StoredConfig)| {
        let mut stored = before.clone();
        change(&mut stored);
        for row in &mut stored.servers {
            row.secrets = new.seal_row(SealedRow::Server(row), &Plaintext::nothing());
        }
        for row in &mut stored.endpoints {
            row.seal = new.seal_row(SealedRow::Endpoint(row), &Plaintext::nothing());
        }
        stored
    };
    assert_eq!(anew(&|_| {}).with_known(Some(&before), &old), before);
    for other in [
        anew(&|stored| stored.servers[0].definition["url"] = "http://attacker.example/s".into()),
        anew(&|stored| stored.servers[0].version = 4),
        anew(&|stored| stored.endpoints[0].prefix = PrefixMode::Never),
        anew(&|stored| stored.servers[0].id = Uuid::nil()),
    ] {
        let known = other.clone().with_known(Some(&before), &old);
        assert_ne!(known, before);
        let is_kept = [known.servers == before.servers, known.endpoints == before.endpoints];
        assert!(is_kept != [true, true] && is_kept != [false, false], "each by itself: {is_kept:?}");
    }
    assert_ne!(anew(&|_| {}).with_known(None, &old), before, "nothing was known");
}
