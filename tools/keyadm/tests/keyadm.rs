//! Drives the built binary as a person or a script would.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use metamcp_config::{Env, ProcessEnv};
use metamcp_store::auth::{self, CredentialCheck};
use metamcp_store::store::{Audit, Grants, NewKey, Plaintext, new_id};
use serde_json::Value;

use support::{Place, Run, credential, gateway};

#[test]
fn a_key_is_made_listed_and_switched_off() {
    let place = Place::new();
    let (id, key) = place.key("laptop");
    assert!(key.starts_with(&format!("mcp_{id}_")));

    let list = place.run(&["keys", "list", "--json"]).json();
    assert_eq!(list.as_array().unwrap().len(), 1);
    assert_eq!(
        (&list[0]["id"], &list[0]["name"], &list[0]["status"]),
        (&id.clone().into(), &"laptop".into(), &"active".into())
    );
    assert_eq!(list[0]["expires_at"], Value::Null);

    let off = place.run(&["keys", "inactivate", &id, "--json"]).json();
    assert_eq!((&off["status"], &off["changed"]), (&"inactive".into(), &true.into()));
    assert_eq!(off["expired"], false);
    let off = place.run(&["keys", "inactivate", &id, "--json"]).json();
    assert_eq!(off["changed"], false);
    assert_eq!(place.run(&["keys", "list", "--json"]).json(), Value::Array(vec![]));
    let all = place.run(&["keys", "list", "--include-inactive", "--json"]).json();
    assert_eq!(all[0]["status"], "inactive");
}

#[test]
fn people_get_the_key_alone_on_the_standard_output_and_a_table() {
    let place = Place::new();
    let made = place.run(&["keys", "create", "--name", "Büro 🦀", "--description", "CI", "--expires", "30d"]);
    assert_eq!(made.code, 0);
    let key = made.out.strip_suffix('\n').unwrap();
    assert!(auth::ApiKey::parse(key).is_ok(), "{:?}", made.out);
    assert!(made.err.contains("shown only once") && !made.err.contains(key));

    let list = place.run(&["keys", "list"]);
    assert!(!list.out.contains(&key[17..]));
    let lines: Vec<_> = list.out.lines().collect();
    assert!(lines[0].starts_with("ID            NAME    STATUS  CREATED"), "{}", list.out);
    assert!(lines[1].contains("Büro 🦀  active  20") && lines[1].ends_with("CI"), "{}", list.out);
    let off = place.run(&["keys", "inactivate", &key[4..16]]);
    assert!(off.out.ends_with("is inactive now.\n"), "{}", off.out);
}

#[tokio::test]
async fn a_key_that_has_expired_is_not_told_to_be_good_again() {
    let place = Place::new();
    place.key("first");
    let new = NewKey {
        id: new_id(),
        key_id: "AAAAAAAAAAAA".into(),
        name: "old".into(),
        description: String::new(),
        grants: Grants::everything(),
        hash: Plaintext::nothing(),
        expires_at: Some(1),
    };
    place.store().await.insert_key(new, Audit::by("test")).await.unwrap();
    for (word, status) in [("inactivate", "inactive"), ("activate", "active")] {
        let told = place.run(&["keys", word, "AAAAAAAAAAAA", "--json"]).json();
        assert_eq!((&told["status"], &told["expired"]), (&status.into(), &true.into()), "{told}");
    }
    assert!(place.run(&["keys", "activate", "AAAAAAAAAAAA"]).out.contains("but it has expired"));
}

#[tokio::test]
async fn a_running_gateway_takes_new_keys_at_once_and_drops_old_ones_with_its_poll() {
    let place = Place::new();
    let (first_id, first) = place.key("first");
    let gateway = gateway(&place).await;
    let (_, second) = place.key("second");
    for key in [&first, &second] {
        assert!(gateway.authenticate(&credential(key)).await.is_ok());
    }
    assert_eq!(place.run(&["keys", "inactivate", &first_id]).code, 0);
    assert!(gateway.refresh().await.unwrap());
    assert!(matches!(gateway.check(&credential(&first)), CredentialCheck::Denied(_)));
    assert!(matches!(gateway.check(&credential(&second)), CredentialCheck::Granted(_)));
    assert!(!gateway.refresh().await.unwrap());
}

#[test]
fn nobody_else_may_read_what_was_made_and_the_key_is_nowhere_in_it() {
    let place = Place::new();
    let (_, key) = place.key("laptop");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&place.data_dir()), 0o700);
    for file in std::fs::read_dir(place.data_dir()).unwrap() {
        let path = file.unwrap().path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
        let bytes = std::fs::read(&path).unwrap();
        for needle in [&key[17..60], "$argon2id$"] {
            assert!(
                !bytes.windows(needle.len()).any(|found| found == needle.as_bytes()),
                "{}",
                path.display()
            );
        }
    }
}

#[test]
fn an_encryption_key_in_the_environment_comes_before_the_file() {
    let place = Place::new();
    let with = |key: &str, name: &str| {
        let mut command = place.command(&["keys", "create", "--json", "--name", name]);
        command.env("ENCRYPTION_KEY", key);
        Run::of(command)
    };
    let (one, two) = ("01".repeat(32), "02".repeat(32));
    with(&one, "first").json();
    assert!(!place.data_dir().join("secrets.toml").exists());
    with(&one, "second").json();
    with(&two, "third").check(65, "not the gateway's");
    with(&format!("2:{two},1:{one}"), "fourth").json();
    with("hunter2", "fifth").check(65, "openssl rand -base64 32");
    assert!(!with("hunter2", "fifth").err.contains("hunter2"));
    assert_eq!(place.run(&["keys", "list", "--json"]).json().as_array().unwrap().len(), 3);
}

#[test]
fn mistakes_are_told_apart_by_their_codes() {
    let place = Place::new();
    place.run(&["keys", "list"]).check(69, "no database at");
    place.run(&["keys", "inactivate", "AAAAAAAAAAAA"]).check(69, "no database at");
    assert!(!place.data_dir().exists());
    let (_, key) = place.key("laptop");
    let rows: &[(&[&str], i32, &str)] = &[
        (&[], 64, "Usage"),
        (&["keys", "create"], 64, "--name"),
        (&["keys", "delete", "AAAAAAAAAAAA"], 64, "--confirm"),
        (&["keys", "delete", "x", "--confirm"], 64, "12 letters"),
        (&["keys", "delete", "AAAAAAAAAAAA", "--confirm"], 65, "no key with the id"),
        (&["keys", "show", "00000000-0000-0000-0000-000000000000"], 65, "no key with the id"),
        (&["keys", "create", "--name", "x", "--rate", "0"], 64, "10/50"),
        (&["keys", "create", "--name", "x", "--rate", "5/"], 64, "10/50"),
        (&["keys", "create", "--name", "x", "--concurrency", "0"], 64, "at least 1 call"),
        (
            &["keys", "create", "--name", "x", "--calls-per-day", "0"],
            64,
            "--calls-per-day: \"0\" is not a quota",
        ),
        (&["keys", "create", "--name", "x", "--bytes-per-month", "1PB"], 64, "a size (500MiB"),
        (&["keys", "create", "--name", "x", "--endpoint", "a/b"], 64, "servers/NAME"),
        (&["keys", "create", "--name", "x", "--tools", "a b"], 64, "not a pattern"),
        (&["keys", "create", "--name", "x", "--admin", "--scope", "client"], 64, "cannot be used with"),
        (&["keys", "rotate", "AAAAAAAAAAAA", "--grace", "soon"], 64, "--grace"),
        (&["keys", "rotate", "AAAAAAAAAAAA", "--grace", "2001-01-01"], 64, "over already"),
        (&["jwt", "rotate", "--wait", "x"], 64, "10s"),
        (&["jwt", "rotate"], 65, "start the gateway once"),
        (&["jwt", "delete", "x"], 64, "--confirm"),
        (&["jwt", "delete", "x", "--confirm"], 65, "no such token key"),
        (&["audit", "--object", "thing"], 64, "jwt_key"),
        (&["audit", "--since", "yesterday"], 64, "--since"),
        (&["usage", "--key", "x"], 64, "12 letters"),
        (&["servers", "show", "x"], 65, "no server"),
        (&["endpoints", "remove", "x", "--confirm"], 65, "no endpoint"),
        (&["rekey", "--add-version", "--drop-old"], 64, "cannot be used with"),
        (&["completions", "tcsh"], 64, "possible values"),
        (&["keys", "create", "--name", ""], 64, "name has 1 to 128"),
        (&["keys", "create", "--name", "a\nb"], 64, "control character"),
        (&["keys", "create", "--name", "x", "--expires", "soon"], 64, "30d"),
        (&["keys", "create", "--name", "x", "--expires", "2001-01-01"], 64, "in the past"),
        (&["keys", "inactivate", "short"], 64, "12 letters"),
        (&["keys", "rotate", &key], 64, "disclosed"),
        (&["keys", "inactivate", &key], 64, "disclosed"),
        (&["keys", "inactivate", "AAAAAAAAAAAA"], 65, "no key with the id AAAAAAAAAAAA"),
        (&["--database-url", "postgres://u:hunter2@127.0.0.1:1/x", "keys", "list"], 69, "not available"),
        (&["--database-url", "postgres://u:hunter2@db:x/x", "keys", "list"], 64, "%XX"),
        (&["keys", "list", "--database-url", "mysql://u:hunter2@db/x"], 64, "--data-dir"),
    ];
    for (arguments, code, said) in rows {
        let run = place.run(arguments);
        run.check(*code, said);
        assert!(!run.err.contains("hunter2") && !run.err.contains(&key[17..]), "{}", run.err);
    }
    let help = place.run(&["--help"]);
    assert!(help.code == 0 && help.out.contains("Exit codes"));
}

#[test]
fn a_database_url_in_the_environment_is_not_passed_over_in_silence() {
    let place = Place::new();
    place.key("laptop");
    let mut command = place.command(&["keys", "list"]);
    command.env("DATABASE_URL", "postgres://u:hunter2@127.0.0.1:1/x");
    Run::of(command).check(69, "not available");
    // A directory and an address: the gateway takes the address, and its user may mean either.
    let with = |url: &str, arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("DATABASE_URL", url);
        Run::of(command)
    };
    let url = "postgres://u:hunter2@127.0.0.1:1/x";
    with(url, &["keys", "list", "--data-dir", "data"]).check(64, "clear DATABASE_URL");
    with(url, &["keys", "list", "--data-dir", "elsewhere"]).check(69, "not available");
    let list = with("", &["keys", "list", "--json", "--data-dir", "data"]).json();
    assert_eq!(list.as_array().unwrap().len(), 1);

    // As the gateway does, also from `.env`, behind the environment.
    std::fs::write(place.path().join(".env"), format!("DATABASE_URL={url}\nENCRYPTION_KEY=hunter2\n"))
        .unwrap();
    place.run(&["keys", "list"]).check(69, "not available");
    place.run(&["keys", "create", "--name", "x"]).check(65, "openssl rand");
    assert_eq!(with("", &["keys", "list"]).code, 0);
    std::fs::write(place.path().join(".env"), "DATABASE_URL=mysql://hunter2\nENCRYPTION_KEY=not a line\n")
        .unwrap();
    let wrong = place.run(&["keys", "list"]);
    wrong.check(64, "DATABASE_URL");
    assert!(wrong.err.contains("is not NAME=value") && !wrong.err.contains("hunter2"), "{}", wrong.err);
}

#[test]
fn whoever_writes_is_told_where() {
    let place = Place::new();
    let told = format!("keyadm: using the database {}\n", place.data_dir().join("metamcp.sqlite").display());
    let made = place.run(&["keys", "create", "--name", "x", "--json"]);
    assert_eq!(made.err, told);
    let id = made.json()["id"].as_str().unwrap().to_owned();
    for (arguments, is_told) in [
        (&["keys", "list"][..], false),
        (&["keys", "inactivate", &id], true),
        (&["keys", "show", &id], false),
        (&["servers", "add", "s", "--url", "https://s.example/mcp"], true),
        (&["servers", "list"], false),
        (&["servers", "disable", "s"], true),
        (&["servers", "remove", "s", "--confirm"], true),
        (&["migrate"], true),
        (&["audit"], false),
    ] {
        let run = place.run(arguments);
        assert_eq!((run.code, run.err.contains(&told)), (0, is_told), "{arguments:?}: {}", run.err);
    }
}

/// The keys of a gateway on PostgreSQL; where the variable is not set, this says so and tests nothing.
#[test]
fn keys_are_kept_in_postgresql_when_an_address_says_so() {
    let server = ProcessEnv.var("METAMCP_TEST_DATABASE_URL").and_then(|url| url.into_string().ok());
    let Some(server) = server else {
        println!("METAMCP_TEST_DATABASE_URL is not set: NOT tested with PostgreSQL (tools/check sets it)");
        return;
    };
    // A schema of its own in the server's own database, named by the address.
    let schema = format!("keyadm_{}", std::process::id());
    let url = format!("{server}?options=-c%20search_path%3D{schema}");
    sql(&server, &format!("CREATE SCHEMA {schema}"));
    let place = Place::new();
    let run = |arguments: &[&str]| {
        let mut command = place.command(arguments);
        command.env("DATABASE_URL", &url);
        Run::of(command)
    };
    run(&["keys", "create", "--name", "ci"]).check(64, "set ENCRYPTION_KEY to the gateway's");
    auth::InstallationSecrets::load_or_create(&place.data_dir()).unwrap();
    let made = run(&["keys", "create", "--name", "ci", "--json"]).json();
    let id = made["id"].as_str().unwrap();
    let told = run(&["keys", "inactivate", id]).err;
    assert!(told.contains("/postgres (environment: DATABASE_URL)") && !told.contains("postgres:"), "{told}");
    assert_eq!(run(&["keys", "activate", id, "--json"]).json()["changed"], true);
    assert_eq!(run(&["keys", "inactivate", id, "--json"]).json()["changed"], true);
    let all = run(&["keys", "list", "--include-inactive", "--json"]).json();
    assert_eq!((&all[0]["name"], &all[0]["status"]), (&"ci".into(), &"inactive".into()));
    let flag = place.run(&["--database-url", &url, "keys", "list", "--json"]).json();
    assert_eq!(flag, Value::Array(vec![]));
    assert!(!place.data_dir().join("metamcp.sqlite").exists());
    let wrong = url.replacen("://postgres:", "://postgres:hunter2", 1);
    let refused = place.run(&["--database-url", &wrong, "keys", "list"]);
    sql(&server, &format!("DROP SCHEMA {schema} CASCADE"));
    refused.check(69, "password authentication failed");
    assert!(!refused.err.contains("hunter2"), "{}", refused.err);
}

fn sql(url: &str, statement: &str) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (client, connection) = tokio_postgres::connect(url, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client.batch_execute(statement).await.unwrap();
    });
}

#[test]
fn files_that_cannot_be_used_are_refused_with_what_to_do() {
    let place = Place::new();
    place.key("laptop");
    let secrets = place.data_dir().join("secrets.toml");
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o644)).unwrap();
    place.run(&["keys", "create", "--name", "x"]).check(65, "chmod 600");
    std::fs::set_permissions(&secrets, std::fs::Permissions::from_mode(0o600)).unwrap();
    std::fs::write(place.data_dir().join("metamcp.sqlite-wal"), "").unwrap();
    std::fs::write(place.data_dir().join("metamcp.sqlite"), "no database".repeat(1000)).unwrap();
    place.run(&["keys", "list"]).check(69, "restore it from a backup");
}

/// Another secret than that of the keys would make all of them look altered.
#[test]
fn no_secret_is_made_beside_keys() {
    let place = Place::new();
    place.key("laptop");
    let secrets = place.data_dir().join("secrets.toml");
    std::fs::remove_file(&secrets).unwrap();
    std::fs::write(place.data_dir().join("mcp.json"), r#"{"mcpServers": {}}"#).unwrap();
    let file = place.data_dir().join("mcp.json").display().to_string();
    for arguments in [
        &["keys", "create", "--name", "x"][..],
        &["servers", "import", &file],
        &["servers", "import", &file, "--dry-run"],
    ] {
        place.run(arguments).check(69, "secrets.toml is missing");
        assert!(!secrets.exists(), "{arguments:?}");
    }
    assert_eq!(place.run(&["keys", "list"]).code, 0);
}

#[test]
fn many_at_once_all_get_a_key() {
    let place = Place::new();
    let runs: Vec<_> = (0..8)
        .map(|number| {
            let name = format!("n{number}");
            let mut command = place.command(&["keys", "create", "--json", "--name", &name]);
            command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
        })
        .collect();
    for run in runs {
        let output = run.wait_with_output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }
    assert_eq!(place.run(&["keys", "list", "--json"]).json().as_array().unwrap().len(), 8);
}
