//! Changes of keys, on an embedded database and on a server's.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use metamcp_store::store::{UsageBatch, UsageCounts, UsageKey, UsageRow};
use serde_json::{Value, json};

use support::{Place, credential, gateway, on_each};

/// Changes a key and compares the members of the answer, and those of `keys show` as well.
#[track_caller]
fn check(place: &Place, id: &str, arguments: &[&str], expected: &Value) {
    let answer = place.run(&[&["keys", "set", id, "--json"], arguments].concat()).json();
    let shown = place.run(&["keys", "show", id, "--json"]).json();
    for (name, value) in expected.as_object().unwrap() {
        assert_eq!(&answer[name], value, "{name} in {answer}");
        if shown.get(name).is_some() {
            assert_eq!(&shown[name], value, "{name} in {shown}");
        }
    }
    assert_eq!(shown["opens"], true, "{shown}");
}

#[tokio::test]
async fn a_key_is_changed_field_by_field() {
    on_each(async |place| {
        let (id, key) = place.key("laptop");
        let check = |arguments: &[&str], expected: Value| check(place, &id, arguments, &expected);
        check(&["--name", "ci"], json!({"name": "ci", "changed": true, "rate": null, "scope": "client"}));
        check(&["--name", "ci"], json!({"name": "ci", "changed": false}));
        check(&["--rate", "10/50"], json!({"name": "ci", "rate": {"per_second": 10, "burst": 50}}));
        check(&["--concurrency", "3", "--description", "d"], json!({"concurrency": 3, "description": "d"}));
        check(&["--scope", "admin"], json!({"scope": "admin", "concurrency": 3}));
        check(&["--expires", "2999-01-31"], json!({"expires_at": "2999-01-31T00:00:00Z"}));
        check(&["--expires", "2999-01-31T12:00:00+02:00"], json!({"expires_at": "2999-01-31T10:00:00Z"}));
        check(
            &["--endpoint", "default,servers/b0,team", "--tools", "a*"],
            json!({"endpoints": ["default", "servers/b0", "team"], "tools": ["a*"],
                "unknown_endpoints": ["servers/b0", "team"]}),
        );
        check(&["--unset", "endpoint,tools"], json!({"endpoints": null, "tools": null, "unknown_endpoints": []}));
        check(
            &["--unset", "rate", "concurrency", "expires", "description", "--scope", "client"],
            json!({"rate": null, "concurrency": null, "expires_at": null, "description": "", "scope": "client"}),
        );
        gateway(place).await.authenticate(&credential(&key)).await.unwrap();
        let audit = place.run(&["audit", "--action", "key.update", "--json"]).json();
        assert_eq!(audit.as_array().unwrap().len(), 9);
        assert_eq!((&audit[8]["before"]["name"], &audit[8]["after"]["name"]), (&json!("laptop"), &json!("ci")));

        let refused = |arguments: &[&str], code: i32, said: &str| {
            place.run(&[&["keys", "set", &id], arguments].concat()).check(code, said);
        };
        refused(&[], 64, "name what to change");
        refused(&["--name", " "], 64, "a key's name");
        refused(&["--rate", "0"], 64, "is not a rate");
        refused(&["--expires", "2020-01-31"], 64, "in the past");
        refused(&["--expires", "tomorrow"], 64, "is not a time");
        refused(&["--rate", "1", "--unset", "rate"], 64, "set and unset");
        refused(&["--unset", "name"], 64, "possible values");
        refused(&["--endpoint", "a b"], 64, "endpoint");
        place.run(&["keys", "set", "AAAAAAAAAAAA", "--name", "x"]).check(65, "there is no key");
        place.run(&["keys", "set", &key, "--name", "x"]).check(64, "give the id alone");
    })
    .await;
}

#[tokio::test]
async fn quotas_are_set_shown_with_what_is_used_and_removed() {
    on_each(async |place| {
        let made =
            ["keys", "create", "--name", "q", "--calls-per-day", "20", "--bytes-per-month", "2GiB", "--json"];
        let made = place.run(&made).json();
        let id = made["id"].as_str().unwrap();
        let quotas = json!({"calls_per_day": 20, "bytes_per_month": 2_147_483_648_u64});
        assert_eq!(made["quotas"], quotas);
        let at = metamcp_core::base::unix_seconds();
        let row = UsageRow {
            key: UsageKey { hour: at, key_id: id.into(), server: "s".into(), tool: String::new() },
            counts: UsageCounts { calls: 7, bytes_in: 1000, bytes_out: 24, ..UsageCounts::default() },
        };
        let batch = UsageBatch { source: "a".into(), sequence: 1, at, rows: vec![row] };
        place.store().await.apply_usage(batch).await.unwrap();

        let check = |arguments: &[&str], expected: Value| check(place, id, arguments, &expected);
        check(&["--name", "r"], json!({"name": "r", "quotas": quotas}));
        let shown = place.run(&["keys", "show", id, "--json"]).json();
        assert_eq!(shown["quotas_used"], json!({"calls_per_day": 7, "bytes_per_month": 1024}));
        let shown = place.run(&["keys", "show", id]).out;
        assert!(shown.contains("quotas       7 of 20 calls per day used, resets 2"), "{shown}");
        assert!(shown.contains("1024 of 2147483648 bytes per month used"), "{shown}");
        let list = place.run(&["keys", "list"]).out;
        assert!(list.contains("client 7/20 calls per day 1024/2147483648 bytes per month"), "{list}");

        check(
            &["--calls-per-day", "none", "--calls-per-month", "5"],
            json!({"quotas": {
            "calls_per_month": 5, "bytes_per_month": 2_147_483_648_u64}}),
        );
        check(&["--unset", "bytes-per-month"], json!({"quotas": {"calls_per_month": 5}}));
        check(&["--calls-per-month", "none"], json!({"quotas": {}, "changed": true}));
        check(&["--calls-per-month", "none"], json!({"quotas": {}, "changed": false}));
        let both = ["keys", "set", id, "--calls-per-day", "1", "--unset", "calls-per-day"];
        place.run(&both).check(64, "set and unset");
    })
    .await;
}

#[test]
fn people_learn_of_unknown_endpoints_and_of_the_expiry() {
    let place = Place::new();
    let made =
        place.run(&["keys", "create", "--name", "a", "--endpoint", "team", "servers/b0", "--expires", "30d"]);
    for said in ["no endpoint \"team\"", "no server \"b0\"", "It expires at 2", "Z (in 30 days)"] {
        assert!(made.err.contains(said), "{said:?} is not in {:?}", made.err);
    }
    assert_eq!(made.out.lines().count(), 1, "{}", made.out);
    let id = &made.out[4..16];
    let set = place.run(&["keys", "set", id, "--endpoint", "other"]);
    assert!(
        set.err.contains("no endpoint \"other\"") && set.out.ends_with("is changed now.\n"),
        "{}",
        set.err
    );
    let shown = place.run(&["keys", "show", id]).out;
    assert!(shown.contains("Z (in 29 days)") || shown.contains("Z (in 30 days)"), "{shown}");
}
