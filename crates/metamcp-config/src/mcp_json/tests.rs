use super::*;

#[track_caller]
fn check(text: &str, expected: &[&str]) {
    let file = parse(text);
    let servers = file.entries.iter().filter_map(|entry| match entry.kind.as_ref().ok()? {
        EntryKind::Http { url, headers, transport } => {
            let suffix = if *transport == HttpTransport::Sse { " sse" } else { "" };
            Some(format!("{} {url} {}{suffix}", entry.name, headers.len()))
        }
        EntryKind::Stdio { command, args, env, cwd, .. } => {
            Some(format!("{} {command} {} {} {}", entry.name, args.join(","), env.len(), cwd.is_some()))
        }
        EntryKind::Skip(reason) => Some(format!("{} skip: {reason}", entry.name)),
    });
    let mut found: Vec<String> = servers.collect();
    let entry_errors = file.entries.iter().filter_map(|entry| entry.kind.as_ref().err()).flatten();
    found.extend(file.errors.iter().chain(entry_errors).map(|error| {
        let line = error.line.map_or(String::new(), |line| format!(":{line}"));
        format!("{}{line}: {}", error.path.join("."), error.text)
    }));
    assert_eq!(found.len(), expected.len(), "{text}: {found:?}");
    for (found, expected) in found.iter().zip(expected) {
        assert!(found.contains(expected), "{text}: {found}");
    }
}

#[test]
fn duplicate_headers_are_reported() {
    let entry =
        |headers: &str| format!(r#"{{"mcpServers": {{"a": {{"url": "http://a", "headers": {headers}}}}}}}"#);
    check(&entry(r#"{"X-A": "1", "X-B": "2"}"#), &["a http://a 2"]);
    check(&entry(r#"{"X-A": "1", "x-a": "2"}"#), &["mcpServers.a.headers.x-a: is a duplicate"]);
    check(&entry(r#"{"x-a": "1", "X-A": "1"}"#), &["is a duplicate: header names are case-insensitive"]);
}

#[test]
fn reads_the_files_of_known_clients() {
    // Claude Desktop, Claude Code
    check(
        r#"{"mcpServers": {"fs": {"command": "npx", "args": ["x"], "env": {"A": "b"}},
            "gh": {"type": "http", "url": "https://a/mcp", "headers": {"Authorization": "Bearer ${T}"}}}}"#,
        &["fs npx x 1 false", "gh https://a/mcp 1"],
    );
    // VS Code: comments, trailing commas, inputs
    check(
        "{\"inputs\": [{\"id\": \"k\"}], \"servers\": {\n// mine\n\"a\": {\"type\": \"http\", \"url\": \"http://a\",},},}",
        &["a http://a 0"],
    );
    check(r#"{"mcp": {"servers": {"a": {"url": "http://a"}}}}"#, &["a http://a 0"]);
    // Windsurf, Gemini
    check(r#"{"mcpServers": {"a": {"serverUrl": "http://a", "disabled": false}}}"#, &["a http://a 0"]);
    check(r#"{"mcpServers": {"a": {"httpUrl": "http://a", "timeout": 5}}}"#, &["a http://a 0"]);
    check(r#"{"mcpServers": {"a": {"url": "http://a", "disabled": true}}}"#, &["a skip: it is disabled"]);
    check(r#"{"mcpServers": {}}"#, &[]);
}

#[test]
fn accepts_every_name_of_a_transport() {
    for word in ["http", "HTTP", "streamable-http", "streamableHttp", "streamable_http", "STREAMABLE_HTTP"] {
        let text = format!(r#"{{"mcpServers": {{"a": {{"type": "{word}", "url": "http://a"}}}}}}"#);
        check(&text, &["a http://a 0"]);
    }
    for (word, expected) in [
        ("sse", "a http://a 0 sse"),
        ("SSE", "a http://a 0 sse"),
        ("http+sse", "transport: is not a transport"),
        ("http-sse", "a http://a 0 sse"),
        ("STDIO", "a x  0"),
        ("std", "a x  0"),
    ] {
        let text = format!(
            r#"{{"mcpServers": {{"a": {{"transport": "{word}", "url": "http://a", "command": "x"}}}}}}"#
        );
        check(&text, &[expected]);
    }
    check(r#"{"mcpServers": {"a": {"type": "stdio"}}}"#, &["a: has no command"]);
}

#[test]
fn reports_every_error() {
    check("", &[":1: is not JSON at column 0: EOF"]);
    check("{\n\n\"a\": }", &[":3: is not JSON at column 6: expected value"]);
    check(
        "{\"mcpServers\": {\n\"a\": {}\n\"b\": {}}}",
        &[":3: is not JSON at column 1: expected `,` or `}`"],
    );
    check("[]", &["is not a JSON object"]);
    check("{}", &["neither mcpServers nor servers"]);
    check(r#"{"mcpServers": "hunter2"}"#, &["mcpServers: is not an object"]);
    check(
        r#"{"mcpServers": {"a": 1, "b": {}, "k": {"comand": "npx"}, "l": {"type": "http"}, "c": {"url": 1}, "d": {"type": "ws", "url": "http://a"},
            "e": {"url": "http://a", "command": "x"}, "i": {"headers": {"A": "1", "A": "2"}, "url": "http://a"}, "f": {"url": "http://a", "headers": {"A": 1, "B": 2}},
            "g": {"url": "http://a", "headers": []}, "ok": {"url": "http://a"},
            "h": {"command": 1, "args": ["a", []], "env": {"A": [], "B": 3, "C": true}, "cwd": {}},
            "j": {"command": "x", "args": "y", "env": []}}}"#,
        &[
            "ok http://a 0",
            "mcpServers.a: is not an object",
            "mcpServers.b: has neither command nor url; write",
            "mcpServers.k: has neither command nor url; write \"command\": \"npx\" or \"url\": \"http://...\"; did you mean \"command\" instead of \"comand\"?",
            "mcpServers.l: has no url",
            "mcpServers.c.url: is not a string",
            "mcpServers.d.type: is not a transport",
            "mcpServers.e: has both command and url",
            "mcpServers.i.headers.A: is a duplicate",
            "mcpServers.f.headers.A: is not a string",
            "mcpServers.f.headers.B: is not a string",
            "mcpServers.g.headers: is not an object",
            "mcpServers.h.command: is not a string",
            "mcpServers.h.cwd: is not a string",
            "mcpServers.h.args: is not a list of strings",
            "mcpServers.h.env.A: is not a string",
            "mcpServers.j.args: is not a list of strings",
            "mcpServers.j.env: is not an object",
        ],
    );
    let deep = format!(r#"{{"mcpServers": {{"a": {}{}}}}}"#, "[".repeat(10_000), "]".repeat(10_000));
    check(&deep, &["mcpServers.a: cannot be parsed"]);
}
