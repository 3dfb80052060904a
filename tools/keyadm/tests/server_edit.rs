//! Servers that are changed, on an embedded database and on a server's.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use serde_json::{Value, json};

use support::{Place, on_each};

/// Changes a server and compares its definition.
#[track_caller]
fn check(place: &Place, arguments: &[&str], shown: &str, expected: &Value) {
    place.run(&[&["servers", "edit"], arguments, &["--json"]].concat()).json();
    let found = place.run(&["servers", "show", shown, "--json"]).json();
    assert_eq!(found["opens"], true, "{found}");
    assert_eq!(&found["definition"], expected, "{arguments:?}");
}

#[tokio::test]
async fn a_server_is_changed_from_flags_or_a_file() {
    on_each(async |place| {
        let path = place.path().join("server.json");
        let file = path.to_str().unwrap();
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let url = "https://a.example/mcp";
        let header = "Authorization: Bearer hunter2";
        place.run(&["servers", "add", "a", "--url", url, "--header", header, "--json"]).json();
        place.run(&["servers", "add", "b", "--url", "https://b.example/", "--json"]).json();
        let check =
            |arguments: &[&str], shown: &str, expected: Value| check(place, arguments, shown, &expected);
        let sealed = json!({"authorization": "(sealed)"});
        check(&["a", "--era", "legacy"], "a", json!({"url": url, "headers": sealed, "era": "legacy"}));
        let moved = "https://a.example/v2";
        check(
            &["a", "--url", moved, "--rename", "c"],
            "c",
            json!({"url": moved, "headers": sealed, "era": "legacy"}),
        );
        write(r#"{"era": null, "headers": {"X-Team": "t"}}"#);
        let both = json!({"authorization": "(sealed)", "x-team": "(sealed)"});
        check(&["c", "--file", file], "c", json!({"url": moved, "headers": both}));
        write(r#"{"headers": {"X-TEAM": null}, "alias": "tools"}"#);
        check(&["c", "--file", file], "c", json!({"url": moved, "headers": sealed, "alias": "tools"}));
        let again = place.run(&["servers", "edit", "c", "--file", file, "--json"]).json();
        assert_eq!(again["changed"], false);
        // Headers of another host are given anew.
        let other = "https://other.example/mcp";
        write("Authorization: Bearer hunter3\n");
        let with_alias = json!({"url": other, "headers": sealed, "alias": "tools"});
        check(&["c", "--url", other, "--header-file", file], "c", with_alias);
        let all = json!({"url": other, "headers": both, "alias": "tools"});
        check(&["c", "--header", "X-Team: t"], "c", all);
        write(r#"{"url": "https://a.example/v2", "headers": {"authorization": "Bearer hunter2", "x-team": null}}"#);
        let before = json!({"url": moved, "headers": sealed, "alias": "tools"});
        check(&["c", "--file", file], "c", before);

        let refused = |arguments: &[&str], code: i32, said: &str| {
            let run = place.run(&[&["servers", "edit"], arguments].concat());
            run.check(code, said);
            assert!(!run.err.contains("hunter2"), "{}", run.err);
        };
        refused(&["c"], 64, "name what to change");
        refused(&["nobody", "--era", "auto"], 65, "there is no server");
        refused(&["c", "--rename", "b"], 65, "already");
        refused(&["b", "--rename", "tools"], 65, "the alias of server `c`");
        refused(&["b", "--url", "http://127.0.0.1:1/"], 64, "allow_private");
        refused(&["c", "--url", "https://elsewhere.example/"], 64, "headers");
        write("[]");
        refused(&["c", "--file", file], 65, "not a JSON object");
        write(r#"{"no_such": 1}"#);
        refused(&["c", "--file", file], 65, "no_such");
        refused(&["c", "--file", file, "--era", "auto"], 64, "cannot be used with");
        refused(&["c", "--file", file, "--header", "a: hunter2"], 64, "cannot be used with");
        refused(&["c", "--header", "hunter2"], 64, "a header is written as in");
        let history = place.run(&["audit", "--object", "server", "--limit", "1"]).out;
        assert!(history.contains("server.update") || history.contains("server.replace"), "{history}");
    })
    .await;
}

#[tokio::test]
async fn a_prefix_of_another_server_is_refused() {
    on_each(async |place| {
        let path = place.path().join("file.json");
        let file = path.to_str().unwrap();
        place.run(&["servers", "add", "a", "--url", "https://a.example/", "--json"]).json();
        std::fs::write(&path, r#"{"alias": "tools"}"#).unwrap();
        place.run(&["servers", "edit", "a", "--file", file, "--json"]).json();
        let added = place.run(&["servers", "add", "tools", "--url", "https://b.example/"]);
        added.check(65, "the alias of server `a`");
        let servers =
            r#"{"mcpServers": {"tools": {"url": "https://b.example/"}, "b": {"url": "https://b.example/"}}}"#;
        std::fs::write(&path, servers).unwrap();
        let imported = place.run(&["servers", "import", file, "--json"]);
        assert_eq!(imported.code, 65, "{}", imported.err);
        assert!(imported.out.contains("the alias of server `a`"), "{}", imported.out);
        let names = place.run(&["servers", "list", "--json"]).json();
        assert_eq!(names.as_array().unwrap().len(), 2, "{names}");
    })
    .await;
}
