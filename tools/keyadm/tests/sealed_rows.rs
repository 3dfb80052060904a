//! Rows that do not open, as whoever administers meets them: named, with what to do, and done.

#![allow(clippy::unwrap_used, reason = "a test that fails by panicking is a test that fails")]

mod support;

use metamcp_store::auth::{Sealer, generate_jwt_key, parse_encryption_key};
use metamcp_store::store::{
    Audit, EndpointServer, EndpointSpec, Grants, JwtPhase, NewJwtKey, NewKey, Plaintext, PrefixMode, Secrets,
    ServerKind, ServerSpec, Store, new_id,
};
use serde_json::{Value, json};

use support::{Place, on_each};

const KEY: &str = "AAAAAAAAAAAA";

/// A row of each kind by somebody who can write into the database, and has another key of the same version.
async fn forge(store: &Store) {
    let sealer = Sealer::new(&parse_encryption_key(&format!("1:{}", "07".repeat(32))).unwrap()).unwrap();
    let (store, audit) = (store.bound_by(sealer), || Audit::by("test"));
    let key = NewKey {
        id: new_id(),
        key_id: KEY.into(),
        name: "forged".into(),
        description: String::new(),
        grants: Grants::everything(),
        hash: Plaintext::nothing(),
        expires_at: None,
    };
    store.insert_key(key, audit()).await.unwrap();
    let definition = json!({"url": "http://attacker.example/mcp"});
    let spec = ServerSpec { name: "s".into(), kind: ServerKind::Http, definition, secrets: Secrets::Keep };
    let server = store.insert_server(new_id(), spec, audit()).await.unwrap();
    let servers = vec![EndpointServer::unfiltered(server.id)];
    let spec = EndpointSpec { name: "team".into(), prefix: PrefixMode::Always, servers };
    store.insert_endpoint(new_id(), spec, audit()).await.unwrap();
    let signs = NewJwtKey { phase: JwtPhase::Active, ..generate_jwt_key() };
    store.insert_jwt_key(signs, audit()).await.unwrap();
}

/// What the doctor says of rows that do not open.
#[track_caller]
fn check(place: &Place, expected: &[&str]) {
    let run = place.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&run.out).unwrap();
    let findings = report["findings"].as_array().unwrap().iter();
    let closed: Vec<&str> = findings
        .filter(|finding| {
            (finding["about"].as_str(), finding["verdict"].as_str()) == (Some("sealed"), Some("wrong"))
        })
        .map(|finding| finding["text"].as_str().unwrap())
        .collect();
    assert_eq!(closed.len(), expected.len(), "{closed:#?}");
    for (found, expected) in closed.iter().zip(expected) {
        assert!(found.starts_with(expected) && found.contains("altered outside of keyadm"), "{found}");
    }
}

#[tokio::test]
async fn what_does_not_open_is_named_and_can_be_mended() {
    on_each(async |place| {
        let (good, _) = place.key("laptop");
        forge(&place.store().await).await;
        let kid = place.run(&["jwt", "list", "--json"]).json()[0]["kid"].as_str().unwrap().to_owned();
        let token_key = format!("the token key {kid} does not open");
        let rest = [&*token_key, "the server s does not open", "the endpoint team does not open"];
        check(place, &[&["the key AAAAAAAAAAAA does not open"], &rest[..]].concat());

        let list = place.run(&["keys", "list"]);
        assert!(
            list.out.contains("AAAAAAAAAAAA  forged  refused") && list.err.contains("1 keys are refused")
        );
        let keys = place.run(&["keys", "list", "--json"]).json();
        let opens: Vec<_> = keys.as_array().unwrap().iter().map(|key| (&key["id"], &key["opens"])).collect();
        assert!(
            opens.contains(&(&json!(good), &json!(true))) && opens.contains(&(&json!(KEY), &json!(false)))
        );
        let shown = place.run(&["keys", "show", KEY]).out;
        assert!(
            shown.contains("`keyadm keys delete AAAAAAAAAAAA --confirm`, then `keyadm keys create`"),
            "{shown}"
        );
        place.run(&["keys", "activate", KEY]).check(65, "does not open");
        place.run(&["keys", "rotate", KEY]).check(65, "does not open");
        assert!(place.run(&["keys", "inactivate", KEY]).out.contains("is inactive now"));
        place.run(&["keys", "activate", KEY]).check(65, "does not open");
        place.run(&["keys", "delete", KEY, "--confirm", "--json"]).json();
        check(place, &rest);

        assert!(place.run(&["servers", "list"]).err.contains("s is not served: altered outside of keyadm"));
        assert_eq!(place.run(&["servers", "show", "s", "--json"]).json()["opens"], false);
        place.run(&["servers", "disable", "s"]).check(65, "does not open");
        let file = place.data_dir().join("mcp.json");
        std::fs::write(&file, r#"{"mcpServers": {"s": {"url": "https://own.example/mcp"}}}"#).unwrap();
        let import = ["servers", "import", file.to_str().unwrap(), "--replace", "--json"];
        assert_eq!(place.run(&import).json()["items"][0]["outcome"], "replace");
        let shown = place.run(&["servers", "show", "s", "--json"]).json();
        assert_eq!(
            (&shown["opens"], &shown["definition"]["url"]),
            (&json!(true), &json!("https://own.example/mcp"))
        );
        assert_eq!(place.run(&import).json()["items"][0]["outcome"], "keep");

        assert!(place.run(&["endpoints", "list"]).err.contains("team is not served"));
        assert_eq!(place.run(&["endpoints", "show", "team", "--json"]).json()["opens"], false);
        place.run(&["endpoints", "remove", "team", "--confirm", "--json"]).json();
        place.run(&["jwt", "delete", &kid, "--confirm"]).check(65, "keyadm jwt rotate");
        assert!(place.run(&["jwt", "rotate", "--wait", "0s"]).out.contains("signs tokens now"));
        place.run(&["jwt", "delete", &kid, "--confirm", "--json"]).json();
        check(place, &[]);
    })
    .await;
}
