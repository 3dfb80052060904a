//! Servers, endpoints, usage and the doctor, on an embedded database and on a server's.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use std::os::unix::fs::PermissionsExt;

use metamcp_store::store::{
    Audit, EndpointServer, EndpointSpec, Plaintext, PrefixMode, Secrets, ServerKind, ServerSpec, Store,
    UsageBatch, UsageCounts, UsageKey, UsageRow, new_id,
};
use serde_json::json;

use support::{Place, Run, gateway, on_each};

/// Two servers, the second with secrets, and an endpoint over both.
async fn fill(store: &Store) {
    let audit = || Audit::by("test");
    let mut servers = Vec::new();
    for (name, secrets) in [("b0", Secrets::Keep), ("b1", Secrets::Set(Plaintext::new(vec![1])))] {
        let id = new_id();
        let definition = json!({"url": format!("http://{name}.example/mcp")});
        let spec = ServerSpec { name: name.into(), kind: ServerKind::Http, definition, secrets };
        store.insert_server(id, spec, audit()).await.unwrap();
        servers.push(EndpointServer { deny: vec!["x*".into()], ..EndpointServer::unfiltered(id) });
    }
    let spec = EndpointSpec { name: "team".into(), prefix: PrefixMode::Always, servers };
    store.insert_endpoint(new_id(), spec, audit()).await.unwrap();
}

#[tokio::test]
async fn servers_and_endpoints_are_listed_switched_exported_and_removed() {
    on_each(async |place| {
        place.key("laptop");
        fill(&place.store().await).await;
        let list = place.run(&["servers", "list"]).out;
        assert!(
            list.contains("b1    http  enabled  sealed") && list.contains("http://b0.example/mcp"),
            "{list}"
        );
        let off = place.run(&["servers", "disable", "b0", "--json"]).json();
        assert_eq!((&off["enabled"], &off["changed"]), (&json!(false), &json!(true)));
        assert_eq!(place.run(&["servers", "disable", "b0", "--json"]).json()["changed"], false);
        let shown = place.run(&["servers", "show", "b0", "--json"]).json();
        assert_eq!((&shown["enabled"], &shown["version"]), (&json!(false), &json!(2)));
        assert_eq!(shown["definition"]["url"], "http://b0.example/mcp");
        assert!(place.run(&["servers", "enable", "b0"]).out.contains("enabled now"));

        let all = place.run(&["servers", "export"]);
        assert!(all.err.contains("secrets are left out") && all.err.contains("for b1\n"), "{}", all.err);
        let all: serde_json::Value = serde_json::from_str(&all.out).unwrap();
        assert_eq!(all["mcpServers"]["b1"], json!({"type": "http", "url": "http://b1.example/mcp"}));
        let one = place.run(&["servers", "export", "b0"]).json();
        assert_eq!(one["mcpServers"].as_object().unwrap().len(), 1);

        let team = place.run(&["endpoints", "show", "team", "--json"]).json();
        assert_eq!(
            (&team["servers"][1]["server"], &team["servers"][1]["deny"]),
            (&json!("b1"), &json!(["x*"]))
        );
        assert!(place.run(&["endpoints", "list"]).out.contains("always  2        0"));

        place.run(&["servers", "remove", "b1"]).check(64, "--confirm");
        place.run(&["servers", "remove", "b1", "--confirm", "--json"]).json();
        let team = place.run(&["endpoints", "show", "team", "--json"]).json();
        assert_eq!((team["servers"].as_array().unwrap().len(), &team["version"]), (1, &json!(2)));
        assert!(place.run(&["endpoints", "remove", "team", "--confirm"]).out.contains("is removed"));
        assert_eq!(place.run(&["endpoints", "list", "--json"]).json(), json!([]));
        let who = place.run(&["audit", "--object", "server", "--limit", "1"]).out;
        assert!(who.contains("server.delete") && who.contains("keyadm:"), "{who}");
    })
    .await;
}

#[tokio::test]
async fn usage_is_summed_over_hours_or_shown_by_hour() {
    on_each(async |place| {
        let (id, _) = place.key("laptop");
        let store = place.store().await;
        let counts = UsageCounts { calls: 2, errors: 1, bytes_in: 10, bytes_out: 20, milliseconds: 7 };
        let now = Audit::by("x").at;
        // More than one page of hours.
        let rows = (0..600).map(|hour| UsageRow {
            key: UsageKey {
                hour: now - hour * 3600,
                key_id: id.clone(),
                server: "b0".into(),
                tool: if hour % 2 == 0 { "echo".into() } else { String::new() },
            },
            counts,
        });
        let batch = UsageBatch { source: "s".into(), sequence: 1, at: now, rows: rows.collect() };
        store.apply_usage(batch).await.unwrap();
        let all = place.run(&["usage", "--json"]).json();
        assert_eq!(all.as_array().unwrap().len(), 2);
        let calls: u64 = all.as_array().unwrap().iter().map(|row| row["calls"].as_u64().unwrap()).sum();
        assert_eq!((calls, &all[0]["name"]), (1200, &json!("laptop")));
        let echo = place.run(&["usage", "--tool", "echo", "--key", &id, "--server", "b0", "--json"]).json();
        assert_eq!((&echo[0]["calls"], &echo[0]["errors"]), (&json!(600), &json!(300)));
        let hourly = place.run(&["usage", "--hourly", "--since", "90m", "--json"]).json();
        // Two full hours began within the last 90 minutes, or one did: that depends on the minute.
        let hours = hourly.as_array().unwrap();
        assert!((1..=2).contains(&hours.len()) && hours.iter().all(|row| row["calls"] == 2), "{hourly}");
        let shown = place.run(&["usage"]).out;
        assert!(shown.contains(&format!("{id}  laptop  b0      echo  600    300     3000")), "{shown}");
        assert_eq!(place.run(&["usage", "--server", "b9", "--json"]).json(), json!([]));
    })
    .await;
}

#[tokio::test]
async fn a_key_says_when_it_was_last_used() {
    on_each(async |place| {
        let ((used, _), (unused, _)) = (place.key("used"), place.key("unused"));
        let store = place.store().await;
        let key =
            UsageKey { hour: 1_785_240_000, key_id: used.clone(), server: "b0".into(), tool: "echo".into() };
        let rows = vec![UsageRow { key, counts: UsageCounts { calls: 1, ..UsageCounts::default() } }];
        let batch = UsageBatch { source: "s".into(), sequence: 1, at: 1_785_240_007, rows };
        store.apply_usage(batch).await.unwrap();
        let last = json!("2026-07-28T12:00:07Z");
        let shown = |id: &str| place.run(&["keys", "show", id, "--json"]).json()["last_used_at"].clone();
        assert_eq!((shown(&used), shown(&unused)), (last.clone(), json!(null)));
        let listed = place.run(&["keys", "list", "--json"]).json();
        let of = |id: &str| listed.as_array().unwrap().iter().find(|key| key["id"] == id).unwrap().clone();
        assert_eq!((&of(&used)["last_used_at"], &of(&unused)["last_used_at"]), (&last, &json!(null)));
        let table = place.run(&["keys", "list"]).out;
        assert!(table.contains("LAST USED") && table.contains("2026-07-28T12:00:07Z"), "{table}");
        assert!(place.run(&["keys", "show", &unused]).out.contains("never"));
    })
    .await;
}

#[tokio::test]
async fn an_empty_list_says_so() {
    on_each(async |place| {
        place.run(&["migrate"]);
        let check = |arguments: &[&str], said: &str| {
            let run = place.run(arguments);
            assert_eq!((run.code, run.out.as_str()), (0, ""), "{}", run.err);
            assert!(run.err.lines().any(|line| line == format!("keyadm: no {said}")), "{}", run.err);
            assert_eq!(place.run(&[arguments, &["--json"]].concat()).json(), json!([]));
        };
        check(&["keys", "list"], "active keys; --include-inactive lists the others too");
        check(&["keys", "list", "--include-inactive"], "keys");
        check(&["jwt", "list"], "keys that sign tokens");
        check(&["servers", "list"], "servers in the database");
        check(&["endpoints", "list"], "endpoints in the database");
        check(&["audit"], "entries");
        check(&["usage"], "calls");
    })
    .await;
}

/// The doctor's verdict on `about`, and what it says of it.
#[track_caller]
fn check(run: &Run, code: i32, about: &str, verdict: &str, said: &str) {
    assert_eq!(run.code, code, "{}{}", run.out, run.err);
    let report: serde_json::Value = serde_json::from_str(&run.out).unwrap();
    assert_eq!(report["good"], code == 0);
    let found = report["findings"].as_array().unwrap().iter().any(|finding| {
        (&finding["about"], &finding["verdict"]) == (&json!(about), &json!(verdict))
            && finding["text"].as_str().unwrap().contains(said)
    });
    assert!(found, "{about} {verdict} {said:?} is not in {report:#}");
}

#[tokio::test]
async fn the_doctor_finds_nothing_wrong_where_nothing_is() {
    on_each(async |place| {
        place.key("laptop");
        gateway(place).await;
        let run = place.run(&["doctor", "--json"]);
        check(&run, 0, "store", "ok", "answers");
        check(&run, 0, "files", "ok", "owner alone");
        check(&run, 0, "secrets", "ok", "version 1");
        check(&run, 0, "sealed", "ok", "everything opens");
        check(&run, 0, "keys", "ok", "1 of 1");
        check(&run, 0, "tokens", "ok", "signs tokens since");
        check(&run, 0, "config", "ok", "every default");
        assert!(!run.out.contains("warning"), "{}", run.out);
        let people = place.run(&["doctor"]).out;
        assert!(people.lines().all(|line| line.starts_with("ok ")), "{people}");
    })
    .await;
}

#[test]
fn the_doctor_names_what_is_wrong_and_what_to_do() {
    let place = Place::new();
    check(&place.run(&["doctor", "--json"]), 1, "store", "wrong", "no database at");
    let (id, _) = place.key("laptop");
    check(&place.run(&["doctor", "--json"]), 0, "tokens", "warning", "next start");
    place.run(&["keys", "create", "--name", "short", "--expires", "1d"]);
    check(&place.run(&["doctor", "--json"]), 0, "keys", "warning", "keys rotate");
    let (secrets, aside) = (place.data_dir().join("secrets.toml"), place.path().join("aside"));
    std::fs::rename(&secrets, &aside).unwrap();
    check(&place.run(&["doctor", "--json"]), 1, "secrets", "wrong", "secrets.toml is missing");
    std::fs::rename(&aside, &secrets).unwrap();
    place.run(&["rekey", "--add-version"]);
    check(&place.run(&["doctor", "--json"]), 0, "sealed", "warning", "keyadm rekey");

    let mut command = place.command(&["doctor", "--json"]);
    command.env("ENCRYPTION_KEY", "07".repeat(32)).env("JWT_SECRET", "short");
    let run = Run::of(command);
    check(&run, 1, "secrets", "ok", "(environment: ENCRYPTION_KEY)");
    check(&run, 1, "sealed", "wrong", "environment: ENCRYPTION_KEY: this encryption key opens nothing");
    check(&run, 1, "sealed", "wrong", "data/secrets.toml has another one");
    assert!(!run.out.contains("delete") && !run.out.contains(&id), "{}", run.out);
    check(&run, 1, "secrets", "wrong", "environment: JWT_SECRET: has 5 bytes");
    assert!(!run.out.contains("0707"), "{}", run.out);

    std::fs::write(place.data_dir().join("metamcp.toml"), "[server]\nnonsense = 1\n").unwrap();
    check(&place.run(&["doctor", "--json"]), 1, "config", "wrong", "nonsense");
    std::fs::remove_file(place.data_dir().join("metamcp.toml")).unwrap();
    let database = place.data_dir().join("metamcp.sqlite");
    std::fs::set_permissions(&database, std::fs::Permissions::from_mode(0o644)).unwrap();
    check(&place.run(&["doctor", "--json"]), 1, "files", "wrong", "chmod 600");
    for name in ["metamcp.sqlite", "metamcp.sqlite-wal", "metamcp.sqlite-shm"] {
        // Those beside it are there when the program before ended too fast to take them away.
        let path = place.data_dir().join(name);
        if path.exists() {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).unwrap();
        }
    }
    for key in place.run(&["keys", "list", "--json"]).json().as_array().unwrap() {
        place.run(&["keys", "inactivate", key["id"].as_str().unwrap()]);
    }
    check(&place.run(&["doctor", "--json"]), 0, "keys", "warning", "no key is active");
}

/// The files of `[server.tls]` are checked as `metamcp check` does, in the configuration that the gateway is given.
#[test]
fn the_doctor_checks_certificates() {
    let place = Place::new();
    place.key("laptop");
    let folder = place.path().join("etc");
    std::fs::create_dir(&folder).unwrap();
    let make = |year| {
        let mut params = rcgen::CertificateParams::new(["localhost".to_owned()]).unwrap();
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let key = rcgen::KeyPair::generate().unwrap();
        (params.self_signed(&key).unwrap().pem(), key.serialize_pem())
    };
    let ((good, key), (expired, expired_key)) = (make(2100), make(2025));
    let config = folder.join("metamcp.toml");
    std::fs::write(&config, "[server.tls]\ncert = 'c.pem'\nkey = 'k.pem'\n").unwrap();
    let verdict = |certificate: &str, key: &str| {
        std::fs::write(folder.join("c.pem"), certificate).unwrap();
        std::fs::write(folder.join("k.pem"), key).unwrap();
        place.run(&["doctor", "--json", "--config", config.to_str().unwrap()])
    };
    check(&verdict(&good, &key), 0, "tls", "ok", "c.pem and its key can be used");
    check(
        &verdict(&good, &expired_key),
        1,
        "tls",
        "wrong",
        "k.pem: the key does not belong to the certificate",
    );
    check(&verdict("", &key), 1, "tls", "wrong", "c.pem: has no certificate in PEM");
    check(&verdict(&expired, &expired_key), 0, "tls", "warning", "(2025-01-01T00:00:00Z)");
}

/// A look at what was emptied must not make it look new.
#[tokio::test]
async fn the_doctor_makes_no_schema() {
    let place = Place::new();
    place.key("laptop");
    let database = place.data_dir().join("metamcp.sqlite");
    std::fs::write(&database, "").unwrap();
    check(&place.run(&["doctor", "--json"]), 1, "store", "wrong", "restore a backup");
    place.run(&["keys", "list"]).check(69, "is empty");
    assert_eq!(std::fs::metadata(&database).unwrap().len(), 0);
    assert_eq!(place.run(&["migrate", "--json"]).json()["keys"], 0);
    check(&place.run(&["doctor", "--json"]), 0, "store", "ok", "answers");

    support::with_database(async |url| {
        let doctor = || {
            let mut command = place.command(&["doctor", "--json"]);
            command.env("DATABASE_URL", url);
            Run::of(command)
        };
        check(&doctor(), 1, "store", "wrong", "keyadm migrate");
        check(&doctor(), 1, "store", "wrong", "keyadm migrate");
        drop(Store::open(url).await.unwrap());
        check(&doctor(), 0, "store", "ok", "answers");
    })
    .await;
}

#[test]
fn a_database_is_made_and_migrated_and_completions_are_written() {
    let place = Place::new();
    assert_eq!(place.run(&["migrate", "--json"]).json()["keys"], 0);
    assert!(place.data_dir().join("metamcp.sqlite").exists());
    for (shell, said) in
        [("bash", "complete -F _keyadm"), ("zsh", "#compdef keyadm"), ("fish", "complete -c keyadm")]
    {
        let run = place.run(&["completions", shell]);
        assert!(run.code == 0 && run.out.contains(said) && run.out.contains("rotate"), "{shell}");
    }
}
