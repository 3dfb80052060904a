use serde_json::json;

use super::*;
use crate::auth::EncryptionKey;

fn rules() -> Rules {
    Rules { served: SERVED.to_vec(), commands: Commands::Only(allowed()), allow_private: true }
}

fn allowed() -> Allowed {
    let command = |path: &str, args: &[&str]| AllowedCommand {
        path: path.into(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
    };
    Allowed {
        commands: vec![command("/usr/bin/mcp-notes", &[]), command("/usr/bin/npx", &["-y", "hunter2"])],
        env: ["TOKEN", "NOTES_*", "P*"].map(|text| EnvPattern::new(text).unwrap()).into(),
        dirs: vec!["/srv".into()],
    }
}

fn serving(allow_private: bool) -> Serving {
    let inherited = vec![("HOME".to_owned(), "/home".to_owned())];
    Serving { allow_private, allowed: allowed(), inherited }
}

fn sealer() -> Sealer {
    Sealer::new(&[EncryptionKey { version: 1, key: zeroize::Zeroizing::new([7; 32]) }]).unwrap()
}

/// As it lies in the store.
fn row(id: Uuid, spec: ServerSpec) -> ServerRow {
    let store::Secrets::Set(plain) = spec.secrets else { panic!("there are secrets") };
    let row = ServerRow {
        id,
        name: spec.name,
        kind: spec.kind,
        definition: spec.definition,
        secrets: store::Sealed::default(),
        version: 1,
        created_at: 0,
        changed_at: 0,
    };
    ServerRow { secrets: sealer().seal_row(store::Bound::Server(&row), &plain), ..row }
}

/// Reads, and compares the pointers of all mistakes.
#[track_caller]
fn check(value: impl Into<Value>, expected: &[&str]) {
    let value = value.into();
    let found = Server::read(&value, None, &rules()).err().unwrap_or_default();
    let pointers: Vec<&str> = found.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(pointers, expected, "{value}: {found:?}");
    let told = format!("{found:?}");
    assert!(!told.contains("hunter2"), "a mistake quotes a value: {told}");
}

#[test]
fn names_every_wrong_field() {
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
        http(json!({"headers": {"Host": "hunter2", "X-A": "hunter2\n", "Accept": "x", "n": 1, "X": SEALED}})),
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
fn runs_only_what_is_on_the_list() {
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
        json!({"name": "a", "kind": "stdio", "command": "/usr/bin/mcp-notes", "args": ["hunter2\0", SEALED, 1],
            "env": {"A=": "hunter2", "B": SEALED}, "cwd": "/a\0", "sharing": "all"}),
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
    let nothing = Rules::remote(&Serving { allowed: Allowed::default(), ..serving(true) });
    let found = Server::read(&stdio("/bin/sh"), None, &nothing);
    assert!(found.unwrap_err()[0].detail.contains("`stdio_commands` in [admin]"));
}

#[test]
fn arguments_and_variables_of_a_program_are_sealed_and_stay_with_it() {
    let written = json!({
        "name": "a", "kind": "stdio", "command": "/usr/bin/mcp-notes", "args": ["--key", "hunter2"],
        "env": {"TOKEN": "hunter2"}, "cwd": "/srv",
    });
    let server = Server::read(&written, None, &rules()).unwrap();
    let shown = server.to_json();
    assert!(!shown.to_string().contains("hunter2") && !format!("{server:?}").contains("hunter2"));
    assert_eq!((&shown["args"], &shown["env"]), (&json!([SEALED, SEALED]), &json!({"TOKEN": SEALED})));
    let (sealer, id) = (sealer(), Uuid::from_u128(1));
    let row = row(id, server.spec());
    assert!(!row.definition.to_string().contains("hunter2"));
    let read = Server::from_row(&row, &sealer).unwrap();
    let Address::Stdio(program) = read.upstream(&serving(true)).unwrap().address else { panic!("a program") };
    assert_eq!(program.args, ["--key", "hunter2"]);
    let env =
        [("HOME", "/home"), ("TOKEN", "hunter2")].map(|(name, value)| (name.to_owned(), value.to_owned()));
    assert_eq!(program.env, env);
    // What is on another machine's lists does not count here.
    let unserved = |told: &str, key: &str, change: &dyn Fn(&mut Allowed)| {
        let mut allowed = allowed();
        change(&mut allowed);
        let found = read.upstream(&Serving { allowed, ..serving(true) }).unwrap_err().to_string();
        assert!(found.contains(told) && found.contains(key) && !found.contains("hunter2"), "{found}");
    };
    unserved("\"/usr/bin/mcp-notes\"", "`stdio_commands`", &|allowed| allowed.commands.clear());
    unserved("arguments first", "`stdio_commands`", &|allowed| allowed.commands[0].args.push("-y".into()));
    unserved("\"TOKEN\"", "`stdio_env`", &|allowed| allowed.env.clear());
    unserved("\"/srv\"", "`stdio_dirs`", &|allowed| allowed.dirs.clear());

    // Sent back as shown they stay; for another program they are to be written anew.
    let mut again = document_of(&row);
    again["args"] = json!([SEALED, SEALED, "more"]);
    let kept = Server::read(&again, Some(&read), &rules()).unwrap();
    assert_eq!(kept.secrets.args, ["--key", "hunter2", "more"]);
    again["command"] = "/usr/bin/other".into();
    let errors = Server::read(&again, Some(&read), &Rules::stored()).unwrap_err();
    let pointers: Vec<_> = errors.iter().map(|error| error.pointer.as_str()).collect();
    assert_eq!(pointers, ["/args/0", "/args/1", "/env/TOKEN"]);
}

#[test]
fn secrets_are_split_off_and_come_back() {
    let sealer = sealer();
    let written = json!({
        "name": "a", "kind": "http", "url": "https://a.example/mcp?key=hunter2",
        "headers": {"Authorization": "Bearer hunter2", "X-Team": "hunter2"}, "connect_timeout": "1500ms",
    });
    let server = Server::read(&written, None, &rules()).unwrap();
    assert!(!server.to_json().to_string().contains("hunter2"));
    assert!(!format!("{server:?}").contains("hunter2"));
    let id = Uuid::from_u128(1);
    let spec = server.spec();
    assert!(!spec.definition.to_string().contains("hunter2"));
    let mut row = row(id, spec);
    let read = Server::from_row(&row, &sealer).unwrap();
    assert_eq!((&read.document, &read.secrets), (&server.document, &server.secrets));
    let upstream = read.upstream(&serving(false)).unwrap();
    assert!(!upstream.private_addresses && read.upstream(&serving(true)).unwrap().private_addresses);
    assert_eq!(upstream.connect_timeout, Duration::from_millis(1500));
    assert_eq!(upstream.headers.len(), 2);
    assert!(upstream.headers.iter().all(|(_, value)| value.is_sensitive()));

    // What was shown and is sent back stays what it was.
    let again = Server::read(&document_of(&row), Some(&read), &rules()).unwrap();
    assert_eq!(again.secrets, server.secrets);
    assert_eq!(again.spec(), server.spec());

    // They go nowhere else.
    for (url, stays) in [
        ("https://a.example/other", true),
        ("https://a.example:444/mcp", false),
        ("http://a.example/mcp", false),
        ("https://b.example/mcp", false),
        ("unix:/run/x.sock:/mcp", false),
    ] {
        let mut moved = document_of(&row);
        moved["url"] = url.into();
        assert_eq!(Server::read(&moved, Some(&read), &rules()).is_ok(), stays, "{url}");
    }

    // Another server's secrets do not open.
    row.id = Uuid::from_u128(2);
    assert!(matches!(Server::from_row(&row, &sealer), Err(Unreadable::Closed(_))));
}

#[test]
fn merges_as_the_standard_says() {
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
