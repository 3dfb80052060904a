//! The life of keys, of what signs and of what seals, on an embedded database and on a server's.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use metamcp_store::auth::{Authenticator, CredentialCheck};
use metamcp_store::store::Role;
use serde_json::{Value, json};

use support::{LossyWay, Place, Run, credential, gateway, on_each, with_database};

async fn opens(gateway: &Authenticator, text: &str) -> bool {
    gateway.refresh().await.unwrap();
    let bearer = format!("Bearer {text}");
    let credential =
        metamcp_store::auth::Credential::from_headers(Some(bearer.as_bytes()), None).unwrap().unwrap();
    gateway.authenticate(&credential).await.is_ok()
}

async fn token(gateway: &Authenticator, key: &str) -> String {
    let identity = gateway.authenticate(&credential(key)).await.unwrap();
    gateway.mint_token(&identity).unwrap().access_token
}

fn text(value: &Value) -> String {
    value.as_str().unwrap().to_owned()
}

#[tokio::test]
async fn what_a_key_may_do_is_said_at_its_making_and_shown_ever_after() {
    on_each(async |place| {
        let made = place
            .run(&[
                "keys",
                "create",
                "--name",
                "ci",
                "--description",
                "d",
                "--admin",
                "--endpoint",
                "team",
                "servers/b0",
                "--tools",
                "b0__*,echo",
                "--rate",
                "10/50",
                "--concurrency",
                "3",
                "--expires",
                "30d",
                "--json",
            ])
            .json();
        let gateway = gateway(place).await;
        let identity = gateway.authenticate(&credential(made["key"].as_str().unwrap())).await.unwrap();
        assert!(identity.can_call_tool("e/team", "b0__x") && identity.can_call_tool("s/b0", "echo"));
        assert!(!identity.can_call_tool("e/default", "echo") && !identity.can_call_tool("e/team", "b1__x"));
        assert_eq!((identity.role(), identity.concurrency()), (Role::Admin, Some(3)));
        let expected = json!({
            "scope": "admin", "endpoints": ["team", "servers/b0"], "tools": ["b0__*", "echo"],
            "rate": {"per_second": 10, "burst": 50}, "concurrency": 3, "status": "active", "expired": false,
        });
        for id in ["id", "uuid"] {
            let shown = place.run(&["keys", "show", made[id].as_str().unwrap(), "--json"]).json();
            for (name, value) in expected.as_object().unwrap() {
                assert_eq!((&made[name], &shown[name]), (value, value), "{name}");
            }
            assert!(shown.get("key").is_none());
        }
        let shown = place.run(&["keys", "show", made["id"].as_str().unwrap()]).out;
        assert!(
            shown.contains("endpoints    team servers/b0\n") && shown.contains("rate         10/50\n"),
            "{shown}"
        );
        let list = place.run(&["keys", "list"]).out;
        assert!(list.contains("admin on team,servers/b0 tools b0__*,echo 10/s"), "{list}");
    })
    .await;
}

#[tokio::test]
async fn a_key_is_switched_off_and_on_rotated_and_deleted() {
    on_each(async |place| {
        let (id, key) = place.key("laptop");
        let gateway = gateway(place).await;
        assert!(opens(&gateway, &key).await);
        let old_token = token(&gateway, &key).await;
        place.run(&["keys", "inactivate", &id, "--json"]).json();
        assert!(!opens(&gateway, &key).await && !opens(&gateway, &old_token).await);
        assert_eq!(place.run(&["keys", "activate", &id, "--json"]).json()["changed"], true);
        assert!(opens(&gateway, &key).await && !opens(&gateway, &old_token).await);

        let second = place.run(&["keys", "rotate", &id, "--grace", "1h", "--json"]).json();
        let (second_id, second_key) = (text(&second["id"]), text(&second["key"]));
        assert!(opens(&gateway, &key).await && opens(&gateway, &second_key).await);
        place.run(&["keys", "rotate", &id]).check(65, "was rotated already");
        assert_eq!(place.run(&["keys", "show", &id, "--json"]).json()["successor"], second["uuid"]);

        let third = place.run(&["keys", "rotate", &second_id]);
        assert_eq!(third.code, 0, "{}", third.err);
        assert!(third.err.contains("is inactive now") && opens(&gateway, third.out.trim_end()).await);
        assert!(!opens(&gateway, &second_key).await);
        place.run(&["keys", "rotate", &second_id]).check(65, "was rotated already");

        place.run(&["keys", "delete", &id, "--confirm"]);
        assert!(!opens(&gateway, &key).await);
        place.run(&["keys", "show", &id]).check(65, "no key");
        // Everything is in the audit log, with who did it, and without a secret.
        let audit = place.run(&["audit", "--json"]).json();
        let actions: Vec<_> =
            audit.as_array().unwrap().iter().rev().map(|row| row["action"].as_str().unwrap()).collect();
        let expected = [
            "key.create",
            "jwt_key.create",
            "key.inactivate",
            "key.activate",
            "key.create",
            "key.rotate",
            "key.create",
            "key.rotate",
            "key.delete",
        ];
        assert_eq!(actions, expected);
        assert!(audit[0]["actor"].as_str().unwrap().starts_with("keyadm:"), "{audit}");
        for secret in [&key, &second_key] {
            assert!(!audit.to_string().contains(&secret[17..60]) && !audit.to_string().contains("argon2"));
        }
        let off = place.run(&["audit", "--action", "key.inactivate"]).out;
        assert!(off.contains("status: active -> inactive"), "{off}");
        let filtered =
            place.run(&["audit", "--object", &format!("key:{second_id}"), "--limit", "1", "--json"]).json();
        assert_eq!(filtered.as_array().unwrap().len(), 1);
        assert_eq!(place.run(&["audit", "--until", "1h", "--json"]).json(), json!([]));
    })
    .await;
}

#[tokio::test]
async fn tokens_outlive_a_rotation_on_every_replica_until_their_key_is_taken_out() {
    on_each(async |place| {
        let (_, key) = place.key("laptop");
        let (one, other) = (gateway(place).await, gateway(place).await);
        let before = token(&one, &key).await;
        let first = text(&place.run(&["jwt", "list", "--json"]).json()[0]["kid"]);
        place.run(&["jwt", "delete", &first, "--confirm"]).check(65, "that key signs");
        place.run(&["jwt", "delete", "--confirm", "-p3dYQ"]).check(65, "no such token key");
        let rotated = Run::of({
            let mut command = place.command(&["jwt", "rotate", "--wait", "0s", "--json"]);
            command.env("ENCRYPTION_KEY", "02".repeat(32));
            command
        });
        rotated.check(65, "not the gateway's");
        let rotated = place.run(&["jwt", "rotate", "--wait", "0s", "--json"]).json();
        assert_eq!((&rotated["retired"], &rotated["removed"]), (&json!(first), &json!([])));
        let phases = place.run(&["jwt", "list"]).out;
        assert!(phases.contains("retiring") && phases.contains("active"), "{phases}");
        // One has heard of it, the other has not.
        one.refresh().await.unwrap();
        let after = token(&one, &key).await;
        for gateway in [&one, &other] {
            for token in [&before, &after] {
                let bearer = format!("Bearer {token}");
                let credential = metamcp_store::auth::Credential::from_headers(Some(bearer.as_bytes()), None);
                assert!(gateway.authenticate(&credential.unwrap().unwrap()).await.is_ok());
            }
        }
        place.run(&["jwt", "delete", &first, "--confirm", "--json"]).json();
        assert!(!opens(&one, &before).await && !opens(&other, &before).await);
        assert!(opens(&one, &after).await && opens(&other, &after).await);
    })
    .await;
}

#[tokio::test]
async fn a_new_encryption_key_takes_over_while_the_gateway_runs() {
    on_each(async |place| {
        let (_, key) = place.key("laptop");
        let early = gateway(place).await;
        let early_token = token(&early, &key).await;
        assert!(opens(&early, &key).await);
        assert_eq!(place.run(&["rekey", "--add-version", "--json"]).json()["version"], 2);
        place.run(&["rekey", "--drop-old"]).check(65, "run `keyadm rekey` first");
        let done = place.run(&["rekey", "--json"]).json();
        assert_eq!((&done["version"], &done["left"]), (&json!(2), &json!(0)));
        assert_eq!(done["kinds"][0]["sealed_anew"], 1);
        assert_eq!(done["kinds"][2]["sealed_anew"], 1);
        assert_eq!(place.run(&["rekey", "--json"]).json()["kinds"][0]["sealed_anew"], 0);
        // One that was not restarted goes on with what it knows; its successor opens everything.
        assert!(opens(&early, &key).await && opens(&early, &early_token).await);
        assert_eq!(place.run(&["rekey", "--drop-old", "--json"]).json()["dropped"], json!([1]));
        let late = gateway(place).await;
        assert!(opens(&late, &key).await && opens(&late, &early_token).await);
        assert!(matches!(late.check(&credential(&key)), CredentialCheck::Granted(_)));
    })
    .await;
}

#[tokio::test]
async fn what_an_encryption_key_cannot_open_is_left_and_said() {
    on_each(async |place| {
        place.key("laptop");
        let with = |key: &str| {
            let mut command = place.command(&["rekey", "--json"]);
            command.env("ENCRYPTION_KEY", key);
            Run::of(command)
        };
        let done = with(&format!("2:{},3:{}", "02".repeat(32), "03".repeat(32)));
        assert_eq!(done.code, 65, "{}", done.err);
        assert!(done.err.contains("1 values were left"), "{}", done.err);
        assert_eq!(serde_json::from_str::<Value>(&done.out).unwrap()["left"], 1);
        let mut command = place.command(&["rekey", "--add-version"]);
        command.env("ENCRYPTION_KEY", "02".repeat(32));
        Run::of(command).check(64, "2:<new>,1:<old>");
    })
    .await;
}

/// The database keeps the change, and its word that it did is lost.
#[tokio::test]
async fn a_key_whose_making_was_not_confirmed_is_looked_for_and_named() {
    with_database(async |url| {
        let place = Place::away(url);
        metamcp_store::auth::InstallationSecrets::load_or_create(&place.data_dir()).unwrap();
        let (old, _) = place.key("first");
        let over = |arguments: &[&str], ends: bool| {
            let mut command = place.command(arguments);
            command.env("DATABASE_URL", LossyWay::to(url, ends).url);
            Run::of(command)
        };
        // Found when it is looked for: it is shown as if nothing had been.
        let made = over(&["keys", "create", "--name", "found", "--json"], false).json();
        let gateway = gateway(&place).await;
        assert!(gateway.authenticate(&credential(made["key"].as_str().unwrap())).await.is_ok());
        let rotated = over(&["keys", "rotate", &old, "--json"], false).json();
        assert!(gateway.authenticate(&credential(rotated["key"].as_str().unwrap())).await.is_ok());

        // Nobody can say: what to look for is.
        for arguments in
            [&["keys", "create", "--name", "lost"][..], &["keys", "rotate", &text(&rotated["id"])]]
        {
            let lost = over(arguments, true);
            lost.check(69, "whether this was done is not known");
            let (_, rest) = lost.err.split_once("`keyadm keys list` has the key ").unwrap();
            let id = &rest[..12];
            assert!(lost.err.contains(&format!("`keyadm keys delete {id} --confirm`")), "{}", lost.err);
            assert_eq!(place.run(&["keys", "show", id, "--json"]).json()["status"], "active");
        }
    })
    .await;
}
