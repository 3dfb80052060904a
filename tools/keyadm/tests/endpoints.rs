//! Endpoints that are added and changed, on an embedded database and on a server's.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use serde_json::{Value, json};

use support::{Place, on_each};

/// Runs a command that succeeds, and compares what the endpoint has then.
#[track_caller]
fn check(place: &Place, arguments: &[&str], shown: &str, expected: &Value) {
    place.run(&[&["endpoints"], arguments, &["--json"]].concat()).json();
    let mut found = place.run(&["endpoints", "show", shown, "--json"]).json();
    assert_eq!(found["opens"], true, "{found}");
    for server in found["servers"].as_array_mut().unwrap() {
        server.as_object_mut().unwrap().retain(|name, value| name != "server_id" && value != &json!([]));
    }
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&found[name], value, "{name} after {arguments:?}");
    }
}

#[tokio::test]
async fn an_endpoint_is_added_and_edited_from_flags_or_a_file() {
    on_each(async |place| {
        for name in ["a", "b", "c"] {
            let url = format!("https://{name}.example/");
            assert_eq!(place.run(&["servers", "add", name, "--url", &url]).code, 0);
        }
        let path = place.path().join("endpoint.json");
        let file = path.to_str().unwrap();
        let write = |text: &str| std::fs::write(&path, text).unwrap();
        let check =
            |arguments: &[&str], shown: &str, expected: Value| check(place, arguments, shown, &expected);

        check(&["add", "empty"], "empty", json!({"prefix": "always", "servers": []}));
        let two = json!([{"server": "b"}, {"server": "a"}]);
        check(&["add", "team", "--server", "b,a"], "team", json!({"prefix": "always", "servers": two}));
        check(&["edit", "team", "--prefix", "never"], "team", json!({"prefix": "never", "servers": two}));
        write(r#"{"servers": [{"server": "a", "allow": ["x*"]}, {"server": "b", "deny": ["y"]}]}"#);
        check(&["add", "filtered", "--file", file], "filtered", json!({"prefix": "always"}));
        let filtered = json!([{"server": "c"}, {"server": "a", "allow": ["x*"]}]);
        check(&["edit", "filtered", "--server", "c", "a"], "filtered", json!({"servers": filtered}));
        let id = place.run(&["endpoints", "show", "filtered", "--json"]).json()["id"].clone();
        check(
            &["edit", id.as_str().unwrap(), "--rename", "readers"],
            "readers",
            json!({"id": id, "servers": filtered, "version": 3}),
        );
        write(r#"{"prefix": "never"}"#);
        check(
            &["edit", "readers", "--file", file],
            "readers",
            json!({"prefix": "never", "servers": filtered}),
        );
        write(r#"{"prefix": null, "servers": []}"#);
        check(&["edit", "readers", "--file", file], "readers", json!({"prefix": "always", "servers": []}));
        let again = place.run(&["endpoints", "edit", "readers", "--file", file]);
        assert_eq!(again.out, "The endpoint \"readers\" is the same already.\n");
        assert!(place.run(&["endpoints", "delete", "empty", "--confirm"]).out.contains("is removed"));
    })
    .await;
}

#[tokio::test]
async fn a_wrong_endpoint_changes_nothing() {
    on_each(async |place| {
        place.run(&["servers", "add", "a", "--url", "https://a.example/"]);
        place.run(&["endpoints", "add", "team", "--server", "a"]);
        place.run(&["endpoints", "add", "other"]);
        let before = place.run(&["endpoints", "list", "--json"]).json();
        let path = place.path().join("endpoint.json");
        let file = path.to_str().unwrap();
        let refused = |arguments: &[&str], code: i32, said: &str| {
            place.run(&[&["endpoints"], arguments].concat()).check(code, said);
        };
        refused(&["add", "a b"], 64, "name");
        refused(&["add", "team"], 65, "already an endpoint \"team\"");
        refused(
            &["add", "new", "--server", "zzz"],
            64,
            "servers/0/server names a server that is not in the store",
        );
        refused(&["add", "new", "--server", "a,a"], 64, "listed already");
        refused(&["add", "new", "--prefix", "some"], 64, "possible values");
        refused(&["edit", "team"], 64, "name what to change");
        refused(&["edit", "zzz", "--prefix", "never"], 65, "there is no endpoint");
        refused(&["edit", "team", "--rename", "other"], 65, "already an endpoint \"other\"");
        refused(&["edit", "team", "--file", file, "--prefix", "never"], 64, "cannot be used with");
        refused(&["edit", "team", "--file", file], 64, "cannot read");
        let rows = [
            ("{", "not valid JSON: line 1"),
            ("[]", "not a JSON object"),
            (
                r#"{"servers": [{"server": "a", "deny": ["hunter2"], "deny": []}]}"#,
                "servers/0/deny is a duplicate",
            ),
            (r#"{"name": "hunter2"}"#, "names the endpoint differently"),
            (r#"{"servers": [{"server": "a", "denny": ["hunter2"]}]}"#, "servers/0/denny"),
            (r#"{"prefix": "hunter2"}"#, "prefix"),
        ];
        for (text, said) in rows {
            std::fs::write(&path, text).unwrap();
            let run = place.run(&["endpoints", "add", "new", "--file", file]);
            assert!(matches!(run.code, 64 | 65) && run.out.is_empty(), "{text}: {}", run.err);
            assert!(run.err.contains(said) && !run.err.contains("hunter2"), "{text}: {}", run.err);
        }
        assert_eq!(place.run(&["endpoints", "list", "--json"]).json(), before);
    })
    .await;
}

#[tokio::test]
async fn an_altered_endpoint_is_not_edited() {
    let place = Place::new();
    place.run(&["endpoints", "add", "team"]);
    let mut command = place.command(&["endpoints", "edit", "team", "--prefix", "never"]);
    command.env("ENCRYPTION_KEY", "07".repeat(32));
    support::Run::of(command).check(65, "sealed with another ENCRYPTION_KEY");
    assert_eq!(place.run(&["endpoints", "show", "team", "--json"]).json()["prefix"], "always");
}
