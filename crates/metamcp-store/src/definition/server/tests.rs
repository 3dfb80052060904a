use metamcp_config::server::{
    AllowedCommand, EnvPattern, SEALED_PLACEHOLDER, ServerAddress, ServingPolicy, StdioAllowlist,
};
use std::time::Duration;

use serde_json::{Value, json};

use super::super::merge_patch;
use super::*;
use crate::auth::{EncryptionKey, Sealer};
use crate::store::{self, RowSealer, ServerRow, ServerSpec, Uuid};

fn rules() -> DefinitionRules {
    DefinitionRules {
        served_kinds: SERVED_KINDS.to_vec(),
        commands: CommandPolicy::Allowlisted(allowed()),
        allow_private: true,
    }
}

fn allowed() -> StdioAllowlist {
    let command = |path: &str, args: &[&str]| AllowedCommand {
        path: path.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
    };
    StdioAllowlist {
        commands: vec![command("/usr/bin/mcp-notes", &[]), command("/usr/bin/npx", &["-y", "hunter2"])],
        env: ["TOKEN", "NOTES_*", "P*"].map(|text| EnvPattern::new(text).unwrap()).into(),
        dirs: vec!["/srv".into()],
    }
}

fn serving(allow_private: bool) -> ServingPolicy {
    let inherited = vec![("HOME".to_owned(), "/home".to_owned())];
    ServingPolicy { allow_private, allowed: allowed(), inherited }
}

fn sealer() -> Sealer {
    Sealer::new(&[EncryptionKey { version: 1, key: zeroize::Zeroizing::new([7; 32]) }]).unwrap()
}

/// The row that the store would hold, with sealed secrets.
fn row(id: Uuid, spec: ServerSpec) -> ServerRow {
    let store::Secrets::Set(plain) = spec.secrets else { panic!("there are secrets") };
    let row = ServerRow {
        id,
        name: spec.name,
        kind: spec.kind,
        definition: spec.definition,
        secrets: store::SealedValue::default(),
        version: 1,
        created_at: 0,
        changed_at: 0,
    };
    ServerRow { secrets: sealer().seal_row(store::SealedRow::Server(&row), &plain), ..row }
}

/// Reads a definition and compares the pointers of all errors.
#[track_caller]
fn check(value: impl Into<Value>, expected: &[&str]) {
    let value = value.into();
    let found = ServerDefinition::read(&value, None, &rules()).err().unwrap_or_default();
    let pointers: Vec<&str> = found.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(pointers, expected, "{value}: {found:?}");
    let text = format!("{found:?}");
    assert!(!text.contains("hunter2"), "an error quotes a value: {text}");
}

#[test]
fn every_invalid_field_is_reported() {
    let http = |more: Value| {
        let mut value = json!({"name": "a", "kind": "http", "url": "https://a.example/mcp"});
        merge_patch(&mut value, &more);
        value
    };
    check(http(json!({})), &[]);
    check(json!(null), &[""]);
    check(json!({}), &["/name", "/kind", "/url"]);
    check(json!({"name": 1, "kind": "carrier pigeon", "url": "hunter2"}), &["/name", "/kind", "/url"]);
    check(http(json!({"name": "a__b", "alias": "hunter2 "})), &["/name", "/alias"]);
    check(http(json!({"name": "__hunter2"})), &["/name"]);
    check(http(json!({"url": "https://a.example/mcp?..."})), &["/url"]);
    check(http(json!({"url": "http:///hunter2"})), &["/url"]);
    check(http(json!({"url": "http://a.example/\r\nhunter2"})), &["/url"]);
    check(http(json!({"name": "0192b1f0-8b7a-7c11-9c60-0123456789ab"})), &["/name"]);
    check(http(json!({"kind": "sse"})), &[]);
    check(http(json!({"fast_lane": true})), &["/fast_lane"]);
    check(http(json!({"kind": "sse", "era": "modern"})), &["/era"]);
    check(http(json!({"kind": "sse", "url": "unix:/run/a.sock:/sse"})), &["/url"]);
    check(
        http(json!({"alias": "_", "enabled": "yes", "era": "old", "zz/~": 1})),
        &["/alias", "/enabled", "/era", "/zz~1~0"],
    );
    check(
        http(
            json!({"connect_timeout": "hunter2", "queue_timeout": "9d", "in_flight_max": 0, "queue_max": -1}),
        ),
        &["/connect_timeout", "/queue_timeout", "/in_flight_max", "/queue_max"],
    );
    check(
        http(
            json!({"headers": {"Host": "hunter2", "X-A": "hunter2\n", "Accept": "x", "n": 1, "X": SEALED_PLACEHOLDER}}),
        ),
        &["/headers/n", "/headers/Accept", "/headers/Host", "/headers/X", "/headers/X-A"],
    );
    check(http(json!({"headers": {"a": "1", "A": "2"}})), &["/headers/a"]);
    check(http(json!({"command": "/bin/sh", "env": {"A": "hunter2"}})), &["/command", "/env"]);
    check(
        http(
            json!({"id": "x", "version": 3, "created_at": 1, "changed_at": 1, "served": false, "reason": "x"}),
        ),
        &[],
    );
    check(http(json!({"allow_private": false, "url": "http://169.254.169.254/"})), &["/url"]);
    check(http(json!({"allow_private": true, "url": "http://169.254.169.254/"})), &[]);
}

#[test]
fn protocol_is_an_alias_of_kind() {
    let with = |members: Value| {
        let mut value = json!({"name": "a", "url": "https://a.example/mcp"});
        merge_patch(&mut value, &members);
        value
    };
    let server = ServerDefinition::read(&with(json!({"protocol": "sse"})), None, &rules()).unwrap();
    let shown = server.to_json();
    assert_eq!((&shown["kind"], shown.get("protocol")), (&json!("sse"), None));
    check(with(json!({})), &["/kind"]);
    check(with(json!({"kind": "http", "protocol": "http"})), &["/protocol"]);
    check(with(json!({"kind": "http", "protocol": null})), &[]);
    check(with(json!({"protocol": "hunter2"})), &["/protocol"]);
    check(with(json!({"protocol": 1})), &["/protocol"]);
}

#[test]
fn only_allowlisted_programs_are_accepted() {
    let stdio = |command: &str| json!({"name": "a", "kind": "stdio", "command": command});
    check(stdio("/usr/bin/mcp-notes"), &[]);
    for command in
        ["/bin/sh", "mcp-notes", "/usr/bin/mcp-notes ", "/usr/bin//mcp-notes", "/usr/bin/./mcp-notes", ""]
    {
        check(stdio(command), &["/command"]);
    }
    check(
        json!({"name": "a", "kind": "stdio", "url": "http://a/", "cwd": "x"}),
        &["/url", "/command", "/cwd"],
    );
    check(
        json!({"name": "a", "kind": "stdio", "command": "/usr/bin/mcp-notes", "args": ["hunter2\0", SEALED_PLACEHOLDER, 1],
            "env": {"A=": "hunter2", "B": SEALED_PLACEHOLDER}, "cwd": "/a\0", "sharing": "all"}),
        &["/cwd", "/args/2", "/args/0", "/args/1", "/env/A=", "/env/B", "/sharing"],
    );
    let with = |more: Value| {
        let mut value = stdio("/usr/bin/mcp-notes");
        merge_patch(&mut value, &more);
        value
    };
    check(with(json!({"env": {"TOKEN": "hunter2", "NOTES_KEY": "hunter2"}, "cwd": "/srv"})), &[]);
    check(with(json!({"env": {"OTHER": "hunter2"}, "cwd": "/tmp"})), &["/cwd", "/env/OTHER"]);
    check(with(json!({"env": {"LD_PRELOAD": "hunter2", "PATH": "/"}})), &["/env/LD_PRELOAD", "/env/PATH"]);
    check(with(json!({"env": {"BASH_FUNC_ls%%": "() { hunter2; }"}})), &["/env/BASH_FUNC_ls%%"]);
    check(with(json!({"command": "/usr/bin/npx", "args": ["-y", "hunter2", "x"]})), &[]);
    check(with(json!({"command": "/usr/bin/npx", "args": ["-y", "other"]})), &["/args"]);
    check(with(json!({"command": "/usr/bin/npx"})), &["/args"]);
    let nothing =
        DefinitionRules::remote(&ServingPolicy { allowed: StdioAllowlist::default(), ..serving(true) });
    let found = ServerDefinition::read(&stdio("/bin/sh"), None, &nothing);
    assert!(found.unwrap_err()[0].detail.contains("`stdio_commands` in [admin]"));
}

#[test]
fn arguments_and_variables_are_sealed_and_kept_for_the_same_program() {
    let written = json!({
        "name": "a", "kind": "stdio", "command": "/usr/bin/mcp-notes", "args": ["--key", "hunter2"],
        "env": {"TOKEN": "hunter2"}, "cwd": "/srv",
    });
    let server = ServerDefinition::read(&written, None, &rules()).unwrap();
    let shown = server.to_json();
    assert!(!shown.to_string().contains("hunter2") && !format!("{server:?}").contains("hunter2"));
    assert_eq!(
        (&shown["args"], &shown["env"]),
        (&json!([SEALED_PLACEHOLDER, SEALED_PLACEHOLDER]), &json!({"TOKEN": SEALED_PLACEHOLDER}))
    );
    let (sealer, id) = (sealer(), Uuid::from_u128(1));
    let row = row(id, server.to_spec());
    assert!(!row.definition.to_string().contains("hunter2"));
    let read = ServerDefinition::from_row(&row, &sealer).unwrap();
    let ServerAddress::Stdio(program) = read.to_upstream_config(&serving(true)).unwrap().address else {
        panic!("a program")
    };
    assert_eq!(program.args, ["--key", "hunter2"]);
    let env =
        [("HOME", "/home"), ("TOKEN", "hunter2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(program.env, env);
    // Only the allowlist of the serving machine counts.
    let unserved = |subject: &str, key: &str, change: &dyn Fn(&mut StdioAllowlist)| {
        let mut allowed = allowed();
        change(&mut allowed);
        let found =
            read.to_upstream_config(&ServingPolicy { allowed, ..serving(true) }).unwrap_err().to_string();
        assert!(found.contains(subject) && found.contains(key) && !found.contains("hunter2"), "{found}");
    };
    unserved("\"/usr/bin/mcp-notes\"", "`stdio_commands`", &|allowed| allowed.commands.clear());
    unserved("leading arguments", "`stdio_commands`", &|allowed| allowed.commands[0].args.push("-y".into()));
    unserved("\"TOKEN\"", "`stdio_env`", &|allowed| allowed.env.clear());
    unserved("\"/srv\"", "`stdio_dirs`", &|allowed| allowed.dirs.clear());

    // Sealed values sent back are kept; for another program they must be written again.
    let mut again = server_document(&row);
    again["args"] = json!([SEALED_PLACEHOLDER, SEALED_PLACEHOLDER, "more"]);
    let kept = ServerDefinition::read(&again, Some(&read), &rules()).unwrap();
    assert_eq!(kept.secrets.args, ["--key", "hunter2", "more"]);
    again["command"] = "/usr/bin/other".into();
    let errors = ServerDefinition::read(&again, Some(&read), &DefinitionRules::stored()).unwrap_err();
    let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(pointers, ["/args/0", "/args/1", "/env/TOKEN"]);
}

#[test]
fn secrets_are_separated_and_restored() {
    let sealer = sealer();
    let written = json!({
        "name": "a", "kind": "http", "url": "https://a.example/mcp?key=hunter2",
        "headers": {"Authorization": "Bearer hunter2", "X-Team": "hunter2"}, "connect_timeout": "1500ms",
    });
    let server = ServerDefinition::read(&written, None, &rules()).unwrap();
    assert!(!server.to_json().to_string().contains("hunter2"));
    assert!(!format!("{server:?}").contains("hunter2"));
    let id = Uuid::from_u128(1);
    let spec = server.to_spec();
    assert!(!spec.definition.to_string().contains("hunter2"));
    let mut row = row(id, spec);
    let read = ServerDefinition::from_row(&row, &sealer).unwrap();
    assert_eq!((&read.document, &read.secrets), (&server.document, &server.secrets));
    let upstream = read.to_upstream_config(&serving(false)).unwrap();
    assert!(
        !upstream.private_addresses && read.to_upstream_config(&serving(true)).unwrap().private_addresses
    );
    assert_eq!(upstream.settings.connect_timeout, Duration::from_millis(1500));
    assert_eq!(upstream.headers.len(), 2);
    assert!(upstream.headers.iter().all(|(_, value)| value.is_sensitive()));

    // A document sent back as it was shown keeps its secrets.
    let again = ServerDefinition::read(&server_document(&row), Some(&read), &rules()).unwrap();
    assert_eq!(again.secrets, server.secrets);
    assert_eq!(again.to_spec(), server.to_spec());

    // Secrets are never sent to another peer.
    for (url, stays) in [
        ("https://a.example/other", true),
        ("https://a.example:444/mcp", false),
        ("http://a.example/mcp", false),
        ("https://b.example/mcp", false),
        ("unix:/run/x.sock:/mcp", false),
    ] {
        let mut moved = server_document(&row);
        moved["url"] = url.into();
        assert_eq!(ServerDefinition::read(&moved, Some(&read), &rules()).is_ok(), stays, "{url}");
    }

    // Secrets sealed for one server do not open for another.
    row.id = Uuid::from_u128(2);
    assert!(matches!(ServerDefinition::from_row(&row, &sealer), Err(StoredServerError::Unsealable(_))));
}

#[test]
fn merge_patch_follows_rfc_7396() {
    // The examples of RFC 7396, appendix A.
    let check = |target: &str, patch: &str, expected: &str| {
        let [mut target, patch, expected] =
            [target, patch, expected].map(|text| serde_json::from_str::<Value>(text).unwrap());
        merge_patch(&mut target, &patch);
        assert_eq!(target, expected);
    };
    check(r#"{"a":"b"}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
    check(r#"{"a":"b"}"#, r#"{"b":"c"}"#, r#"{"a":"b","b":"c"}"#);
    check(r#"{"a":"b"}"#, r#"{"a":null}"#, "{}");
    check(r#"{"a":["b"]}"#, r#"{"a":"c"}"#, r#"{"a":"c"}"#);
    check(r#"{"a":{"b":"c"}}"#, r#"{"a":{"b":"d","c":null}}"#, r#"{"a":{"b":"d"}}"#);
    check(r#"["a","b"]"#, r#"["c"]"#, r#"["c"]"#);
    check(r#"{"a":"foo"}"#, "null", "null");
    check("[1,2]", r#"{"a":"b","c":null}"#, r#"{"a":"b"}"#);
    check("{}", r#"{"a":{"bb":{"ccc":null}}}"#, r#"{"a":{"bb":{}}}"#);
}
