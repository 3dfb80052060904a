//! Servers that are added, one by one and by a file.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use metamcp_store::auth::{Sealer, parse_encryption_key};
use metamcp_store::store::{Audit, AuditFilter, NewToolPins};
use serde_json::{Value, json};

use support::{Place, Run, on_each, with_database};

/// Name and outcome of each entry.
fn outcomes(report: &Value) -> Vec<String> {
    let word = |value: &Value| value.as_str().unwrap().to_owned();
    let items = report["items"].as_array().unwrap().iter();
    items.map(|item| format!("{} {}", word(&item["name"]), word(&item["outcome"]))).collect()
}

#[tokio::test]
async fn a_server_is_added_as_the_rest_api_would() {
    on_each(async |place| {
        let add = |more: &[&str]| place.run(&[&["servers", "add"], more].concat());
        let secret = "Authorization: Bearer hunter2";
        let url = "https://a.example/mcp?key=hunter2";
        let added = add(&["a", "--url", url, "--header", secret, "--era", "legacy", "--json"]).json();
        assert_eq!((&added["name"], &added["created"]), (&json!("a"), &json!(true)));
        let shown = place.run(&["servers", "show", "a", "--json"]).json();
        let expected = json!({
            "url": "https://a.example/mcp?...", "headers": {"authorization": "(sealed)"}, "era": "legacy",
        });
        assert_eq!((&shown["definition"], &shown["has_secrets"]), (&expected, &json!(true)));
        assert_eq!(shown["id"], added["id"]);

        let refused = |more: &[&str], code: i32, said: &str| {
            let run = add(more);
            run.check(code, said);
            assert!(!run.err.contains("hunter2"), "{}", run.err);
        };
        refused(&["a", "--url", "https://b.example/"], 65, "already");
        refused(&["b", "--url", "javascript:alert(1)"], 64, "url is not an address");
        refused(&["b", "--url", "http://u:hunter2@b.example/"], 64, "as a header");
        refused(&["b__c", "--url", "https://b.example/"], 64, "name");
        refused(&["b", "--url", "https://b.example/", "--header", "hunter2"], 64, "a header is written as");
        refused(&["b", "--url", "https://b.example/", "--header", "Host: hunter2"], 64, "headers/host");
        refused(
            &["b", "--url", "https://b.example/", "--header", "A: hunter2", "--header", "a: x"],
            64,
            "given twice",
        );
        let path = place.data_dir().with_file_name("headers");
        let file = path.to_str().unwrap();
        std::fs::write(&path, "X-A: 1\n\nhunter2\n").unwrap();
        refused(&["b", "--url", "https://b.example/", "--header-file", file], 64, "a header is written as");
        refused(&["b", "--url", "https://b.example/", "--header-file", "/nowhere"], 64, "cannot read");
        std::fs::write(&path, "Authorization: Bearer hunter2\n\nX-A: 1\r\n").unwrap();
        add(&["f", "--url", "https://f.example/", "--header", "X-B: 2", "--header-file", file, "--json"])
            .json();
        let mut piped =
            place.command(&["servers", "add", "g", "--url", "https://g.example/", "--header-file", "-"]);
        let piped = piped.stdin(std::fs::File::open(&path).unwrap()).output().unwrap();
        assert!(piped.status.success(), "{piped:?}");
        let shown = |name: &str| place.run(&["servers", "show", name, "--json"]).json()["definition"].clone();
        let sealed = json!({"authorization": "(sealed)", "x-a": "(sealed)", "x-b": "(sealed)"});
        assert_eq!(shown("f")["headers"], sealed);
        assert_eq!(shown("g")["headers"], json!({"authorization": "(sealed)", "x-a": "(sealed)"}));
        refused(&["b", "--url", "http://127.0.0.1:1/"], 64, "allow_private");
        assert!(
            add(&["b", "--url", "http://127.0.0.1:1/", "--allow-private"]).out.contains("Added the server")
        );
        let shown = place.run(&["servers", "show", "b", "--json"]).json();
        assert_eq!(shown["definition"]["allow_private"], true);
        let audit = place.run(&["audit", "--object", "server", "--json"]).json();
        assert_eq!(audit.as_array().unwrap().len(), 4);
        assert!(!audit.to_string().contains("hunter2"));
    })
    .await;
}

#[tokio::test]
async fn a_program_is_added_with_its_arguments_and_variables_sealed() {
    on_each(async |place| {
        let path = place.data_dir().with_file_name("variables");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, "TOKEN=hunter2=\n\nA=\n").unwrap();
        let file = path.to_str().unwrap();
        let add = |more: &[&str]| {
            let run = place.run(&[&["servers", "add"], more].concat());
            assert!(!run.out.contains("hunter2") && !run.err.contains("hunter2"), "{}{}", run.out, run.err);
            run
        };
        let command = "/usr/bin/npx";
        let added =
            add(&["a", "--command", command, "--env-file", file, "--cwd", "/", "--", "-y", "hunter2"]);
        assert_eq!(added.code, 0, "{}", added.err);
        assert!(
            added.err.contains("`admin.stdio_commands` in metamcp.toml has \"/usr/bin/npx\""),
            "{}",
            added.err
        );
        let shown = place.run(&["servers", "show", "a", "--json"]).json();
        let expected = json!({
            "command": command, "args": ["(sealed)", "(sealed)"], "cwd": "/",
            "env": {"A": "(sealed)", "TOKEN": "(sealed)"},
        });
        assert_eq!((&shown["kind"], &shown["definition"]), (&json!("stdio"), &expected));
        add(&["b", "--command", "npx"]).check(64, "command is not an absolute path");
        add(&["b", "--command", command, "--header", "A: 1"])
            .check(64, "headers applies to http servers only");
        add(&["b", "--command", command, "--url", "http://a/"]).check(64, "cannot be used with");
        add(&["b"]).check(64, "--url");
        add(&["b", "--url", "https://b.example/", "--cwd", "/"])
            .check(64, "cwd applies to stdio servers only");
        std::fs::write(&path, "hunter2\n").unwrap();
        add(&["b", "--command", command, "--env-file", file]).check(64, "a variable is written as");
    })
    .await;
}

#[tokio::test]
async fn a_file_is_taken_as_far_as_it_is_right() {
    on_each(async |place| {
        let file = json!({"mcpServers": {
            "my notes": {"url": "https://notes.example/mcp", "headers": {"X-Key": "hunter2"}},
            "script": {"url": "javascript:alert(1)"}, "shell": {"command": "/bin/sh"}, "nothing": {},
            "npx": {"command": "npx", "args": ["hunter2"]},
            "env": {"url": "https://${HOME}/"}, "near": {"url": "http://127.0.0.1:9/"}}});
        let path = place.data_dir().with_file_name("mcp.json");
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, file.to_string()).unwrap();
        let import = |more: &[&str]| {
            let run = place.run(&[&["servers", "import", path.to_str().unwrap(), "--json"], more].concat());
            assert!(!run.out.contains("hunter2"), "{}", run.out);
            assert_eq!(run.code, 65, "{}", run.err);
            serde_json::from_str::<Value>(&run.out).unwrap()
        };
        let check = |more: &[&str], first: &str, near: &str, shell: &str| {
            let expected = ["env fail", first, near, "nothing fail", "npx fail", "script fail", shell];
            let mut found = outcomes(&import(more));
            found.sort();
            assert_eq!(found, expected, "{more:?}");
        };
        place.key("laptop");
        check(&["--dry-run"], "my notes create", "near fail", "shell create");
        assert_eq!(place.run(&["servers", "list", "--json"]).json(), json!([]));
        check(&[], "my notes create", "near fail", "shell create");
        check(&[], "my notes fail", "near fail", "shell fail");
        check(&["--replace"], "my notes keep", "near fail", "shell keep");
        check(&["--replace", "--dry-run"], "my notes keep", "near fail", "shell keep");
        let private = ["--replace", "--allow-private"];
        check(&[private[0], private[1], "--dry-run"], "my notes replace", "near create", "shell replace");
        check(&private, "my notes replace", "near create", "shell replace");
        let report = import(&[]);
        let script =
            report["items"].as_array().unwrap().iter().find(|item| item["name"] == "script").unwrap();
        assert_eq!(script["errors"][0]["pointer"], "/mcpServers/script/url");
        let shown = place.run(&["servers", "show", "my-notes", "--json"]).json();
        assert_eq!(shown["definition"]["headers"], json!({"x-key": "(sealed)"}));

        std::fs::write(&path, "{\"mcpServers\": 7}").unwrap();
        place.run(&["servers", "import", path.to_str().unwrap()]).check(65, "mcpServers is not an object");
        place.run(&["servers", "import", "/nowhere/mcp.json"]).check(64, "cannot read");
    })
    .await;
}

#[test]
fn a_look_makes_nothing() {
    let place = Place::new();
    let path = place.data_dir().with_file_name("mcp.json");
    std::fs::create_dir_all(path.parent().unwrap()).unwrap();
    std::fs::write(&path, r#"{"mcpServers": {"a": {"url": "https://a.example/"}}}"#).unwrap();
    place.run(&["servers", "import", path.to_str().unwrap(), "--dry-run"]).check(69, "there is no database");
    assert!(!place.data_dir().join("metamcp.sqlite").exists());
    let added = place.run(&["servers", "import", path.to_str().unwrap()]);
    assert_eq!((added.code, added.out.contains("a     create")), (0, true), "{}{}", added.out, added.err);
}

#[tokio::test]
async fn nothing_is_made_in_a_server_or_beside_it_by_a_look_or_without_its_secret() {
    with_database(async |url| {
        let place = Place::away(url);
        let path = place.data_dir().with_file_name("mcp.json");
        std::fs::write(&path, r#"{"mcpServers": {"a": {"url": "https://a.example/"}}}"#).unwrap();
        let import = ["servers", "import", path.to_str().unwrap()];
        let add = ["servers", "add", "a", "--url", "https://a.example/", "--header", "X-A: 1"];
        for refused in [&add[..], &import, &[import[0], import[1], import[2], "--dry-run"]] {
            place.run(refused).check(64, "set ENCRYPTION_KEY to the gateway's");
        }
        let mut look = place.command(&[&import[..], &["--dry-run"]].concat());
        look.env("ENCRYPTION_KEY", format!("1:{}", "ab".repeat(32)));
        support::Run::of(look).check(69, "the database has no metamcp tables");
        assert!(!place.data_dir().exists());
        assert!(metamcp_store::store::is_new_postgres(url).await.unwrap(), "nothing is in the database");
    })
    .await;
}

#[test]
fn what_was_exported_without_its_secrets_is_not_imported_without_them() {
    let place = Place::new();
    let file = place.path().join("mcp.json");
    let written = json!({"mcpServers": {
        "a": {"url": "https://a.example/mcp?key=hunter2"},
        "b": {"url": "https://b.example/mcp", "headers": {"X-A": "hunter2"}},
        "c": {"url": "https://c.example/0123456789abcdef0123456789/mcp"},
        "d": {"url": "https://d.example/mcp"}}});
    std::fs::write(&file, written.to_string()).unwrap();
    let import = |place: &Place, more: &[&str]| {
        let mut command = place.command(&["servers", "import", "--json"]);
        command.arg(&file).args(more);
        Run::of(command)
    };
    import(&place, &[]).json();
    let exported = place.run(&["servers", "export"]);
    assert!(
        exported.err.contains("secrets are left out") && exported.err.contains("for a, b, c\n"),
        "{}",
        exported.err
    );
    assert!(!exported.out.contains("hunter2"), "{}", exported.out);
    std::fs::write(&file, &exported.out).unwrap();

    // Elsewhere they are missing, and what to write is said.
    let found = import(&Place::new(), &[]);
    assert_eq!(found.code, 65, "{}", found.out);
    let report: serde_json::Value = serde_json::from_str(&found.out).unwrap();
    let outcomes: Vec<_> = report["items"].as_array().unwrap().iter().map(|item| &item["outcome"]).collect();
    assert_eq!(outcomes, ["fail", "fail", "fail", "create"], "{report}");
    for (at, pointer, said) in [
        (0, "/mcpServers/a/url", "write the whole address"),
        (1, "/mcpServers/b/headers/x-a", "write the value itself"),
        (2, "/mcpServers/c/url", "write the whole address"),
    ] {
        let error = &report["items"][at]["errors"][0];
        assert_eq!(error["pointer"], pointer, "{error}");
        assert!(error["detail"].as_str().unwrap().contains(said), "{error}");
    }
    // Where they are, what was shown stands for them.
    let again = import(&place, &["--replace"]).json();
    assert!(again["items"].as_array().unwrap().iter().all(|item| item["outcome"] == "keep"), "{again}");
}

#[tokio::test]
async fn what_waits_is_shown_and_approved() {
    on_each(async |place| {
        place.key("any");
        let store = place.store().await;
        let print = |digit: &str| format!("{}:{}", digit.repeat(64), digit.repeat(80));
        let waiting = |digit: &str| json!({"print": print(digit), "since": 7});
        let pins = json!({"tools": {
            "one": {"approved": [print("a")], "waiting": waiting("b")},
            "two": {"waiting": waiting("c")},
            "three": {"approved": [print("d")]},
        }});
        let new = |pins: &Value, expect| NewToolPins {
            server: "files".into(),
            pins: pins.clone(),
            expect,
            told: None,
        };
        store.put_tool_pins(new(&pins, None), Audit::by("test")).await.unwrap();
        let approve = |more: &[&str]| place.run(&[&["servers", "approve", "files", "--json"], more].concat());
        let names = |run: &Run, word: &str| -> Vec<String> {
            let changes = run.json()[word].as_array().unwrap().clone();
            changes.iter().map(|change| change["name"].as_str().unwrap().to_owned()).collect()
        };
        assert_eq!(names(&approve(&["--show"]), "waits"), ["one", "two"]);
        let table = place.run(&["servers", "approve", "files", "--show"]);
        assert!(
            table.out.contains("title,description,inputSchema,outputSchema,annotations"),
            "{}",
            table.out
        );
        place.run(&["servers", "approve", "absent"]).check(65, "nothing waits");
        approve(&["--tool", "three"]).check(65, "waits for approval");
        approve(&["--tool", "one", "--digest", "00"]).check(65, "has changed again");
        approve(&["--digest", "00"]).check(64, "name it by --tool");
        assert_eq!(names(&approve(&["--tool", "one", "--digest", &"b".repeat(64)]), "approved"), ["one"]);
        assert_eq!(names(&approve(&[]), "approved"), ["two"]);
        assert_eq!(names(&approve(&[]), "approved"), Vec::<String>::new());
        let rows = store.audit(AuditFilter::default(), None, 500).await.unwrap().items;
        let mine = rows.iter().filter(|row| row.action == "server.tools.approve");
        assert!(mine.clone().all(|row| row.actor.starts_with("keyadm:")) && mine.count() == 2);
        // What does not open is not approved.
        let stranger =
            Sealer::new(&parse_encryption_key(&format!("9:{}", "A".repeat(43) + "=")).unwrap()).unwrap();
        let stranger = store.bound_by(stranger);
        let row = store.tool_pins_of("files").await.unwrap().unwrap();
        stranger.put_tool_pins(new(&pins, Some(row.version)), Audit::by("test")).await.unwrap();
        approve(&[]).check(65, "ENCRYPTION_KEY");
        let doctor = place.run(&["doctor"]);
        assert!(doctor.code == 1 && doctor.out.contains("the tool pins of files"), "{}", doctor.out);
    })
    .await;
}

#[test]
fn an_import_finds_programs_by_path() {
    let place = Place::new();
    let text = json!({"mcpServers": {"shell": {"command": "sh"}, "none": {"command": "no-such-program"}}});
    let path = place.path().join("mcp.json");
    std::fs::write(&path, text.to_string()).unwrap();
    let import = |search: &str| {
        let mut command = place.command(&["servers", "import", "mcp.json", "--json"]);
        let run = Run::of({
            command.env("PATH", search);
            command
        });
        serde_json::from_str::<Value>(&run.out).unwrap()["items"].clone()
    };
    let item = |items: &Value, name: &str| {
        items.as_array().unwrap().iter().find(|item| item["name"] == name).unwrap().clone()
    };
    assert_eq!(item(&import("/nowhere"), "shell")["outcome"], "fail");
    let items = import("relative:/bin");
    let (shell, none) = (item(&items, "shell"), item(&items, "none"));
    assert_eq!((&shell["outcome"], &none["outcome"]), (&json!("create"), &json!("fail")));
    assert!(shell["detail"].as_str().unwrap().starts_with("PATH has \"sh\" at /bin/sh; "), "{shell}");
    assert!(none["detail"].as_str().unwrap().contains("no directory of PATH"), "{none}");
    assert_eq!(none["errors"][0]["pointer"], "/mcpServers/none/command");
    let shown = place.run(&["servers", "show", "shell", "--json"]).json();
    assert_eq!(shown["definition"]["command"], "/bin/sh");
}
