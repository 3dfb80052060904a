//! Rows that are bound to `ENCRYPTION_KEY`, as running gateways have them: a new key takes over while they serve, and what
//! was altered in the database behind their backs is refused and told.

use crate::support::{
    Client, Database, ENCRYPTION_KEY, Gateway, PATIENCE, Peer, Request, listed, modern, modern_call, run,
    sql, until,
};
use metamcp_store::auth::{InstallationSecrets, Sealer, parse_encryption_key, rekey};
use metamcp_store::store::{Audit, Grants, Role, SealedKind, Store, VersionMatch};
use serde_json::{Value, json};

const SECRET: &str = "hunter2-hunter2";

const NEW: &str = "2:HxwdHhsaGRgXFhUUExIREA8ODQwLCgkIBwYFBAMCAQA=";

/// As an administrator.
fn administer(gateway: &Gateway, key: &str, method: &str, path: &str, body: &Value) -> (u16, Value) {
    let request = Request::new(method, path).with("X-API-Key", key).with("Content-Type", "application/json");
    let response = Client::once(gateway.address, &request.body(body.to_string()));
    (response.status, if response.status == 204 { Value::Null } else { response.json() })
}

fn get(gateway: &Gateway, key: &str, path: &str) -> Value {
    let response = Client::once(gateway.address, &Request::new("GET", path).with("X-API-Key", key));
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    response.json()
}

fn left_out(gateway: &Gateway, key: &str) -> Vec<String> {
    let ready = get(gateway, key, "/ready");
    let texts = ready["left_out"].as_array().cloned().unwrap_or_default();
    texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
}

/// What an endpoint lists.
fn tools(gateway: &Gateway, key: &str, path: &str) -> Vec<String> {
    listed(&Client::once(gateway.address, &modern(path, "tools/list", "").with("X-API-Key", key)).json())
}

fn status(gateway: &Gateway, key: &str) -> u16 {
    Client::once(gateway.address, &modern("/mcp", "tools/list", "").with("X-API-Key", key)).status
}

/// Three servers with a secret each, `s` in an endpoint that shows less of it.
fn fill(gateway: &Gateway, admin: &str, peer: &Peer) {
    for name in ["s", "gone", "last"] {
        let url = format!("http://{}/mcp", peer.address);
        let server = json!({"name": name, "kind": "http", "url": url, "headers": {"X-Secret": SECRET}});
        assert_eq!(administer(gateway, admin, "POST", "/api/v1/mcp/servers", &server).0, 201);
    }
    let endpoint = json!({"name": "team", "servers": [{"server": "s", "deny": ["other"]}]});
    assert_eq!(administer(gateway, admin, "POST", "/api/v1/mcp/endpoints", &endpoint).0, 201);
    check(gateway, admin, peer);
}

/// Everything is served as it was filled in.
#[track_caller]
fn check(gateway: &Gateway, admin: &str, peer: &Peer) {
    assert_eq!(left_out(gateway, admin), Vec::<String>::new());
    assert_eq!(get(gateway, admin, "/api/v1/mcp/servers/s")["served"], true);
    assert_eq!(tools(gateway, admin, "/mcp/team"), ["s__echo"]);
    let call = modern_call("/mcp", "s__echo", "{}").with("X-API-Key", admin);
    let called = Client::once(gateway.address, &call).json();
    assert!(called["result"].is_object(), "{called}");
    assert_eq!(peer.calls().last().unwrap().header("x-secret"), Some(SECRET));
}

/// Takes a server out, and waits until every gateway has read what there is since.
async fn take_out(store: &Store, name: &str) {
    let row = store.server(name).await.unwrap().unwrap();
    store.delete_server(row.id, VersionMatch::Any, Audit::by("test")).await.unwrap();
}

#[track_caller]
fn read_again(gateways: &[&Gateway], admin: &str, name: &str) {
    let prefix = format!("{name}__");
    for gateway in gateways {
        until(name, || !tools(gateway, admin, "/mcp").iter().any(|tool| tool.starts_with(&prefix)));
    }
}

/// As `keyadm rekey`.
async fn rekey_all(store: &Store, sealer: &Sealer) {
    for kind in SealedKind::ALL {
        let done = rekey(store, sealer, kind, "test").await.unwrap();
        assert_eq!((done.left, done.unsealable.len()), (0, 0), "{done:?}");
    }
}

#[test]
fn a_new_key_takes_over_on_one_machine_in_either_order() {
    for restarts_first in [true, false] {
        let peer = Peer::script([]);
        let mut gateway = crate::support::Setup::new().keys().start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        fill(&gateway, &admin, &peer);
        let data = gateway.path().join("data");
        assert_eq!(InstallationSecrets::add_encryption_key(&data).unwrap(), 2);
        if restarts_first {
            gateway = gateway.restart();
            check(&gateway, &admin, &peer);
        }
        let sealer = gateway.keys().sealer();
        gateway.keys().run(async |store| {
            rekey_all(&store, &sealer).await;
            take_out(&store, "gone").await;
        });
        read_again(&[&gateway], &admin, "gone");
        check(&gateway, &admin, &peer);
        gateway = gateway.restart();
        check(&gateway, &admin, &peer);
        assert_eq!(InstallationSecrets::drop_old_encryption_keys(&data, 2).unwrap(), [1]);
        gateway = gateway.restart();
        check(&gateway, &admin, &peer);
    }
}

#[test]
fn a_new_key_takes_over_gateway_by_gateway() {
    let Some(database) = Database::new() else { return };
    let peer = Peer::script([]);
    let [one, two] = [database.gateway().start(), database.gateway().start()];
    let admin = database.admin_key();
    fill(&one, &admin, &peer);
    until("both serve", || left_out(&two, &admin).is_empty() && tools(&two, &admin, "/mcp").len() == 6);
    let with = |mut gateway: Gateway, key: &str| {
        // Else it would be started again without keys: the first one was shown by the other.
        gateway.key = Some(admin.clone());
        let env = gateway.path().join(".env");
        let lines = std::fs::read_to_string(&env).unwrap();
        let others = lines.lines().filter(|line| !line.starts_with("ENCRYPTION_KEY="));
        let text = others.chain([&*format!("ENCRYPTION_KEY={key}")]).collect::<Vec<_>>().join("\n");
        std::fs::write(env, text).unwrap();
        gateway.restart()
    };
    let both = format!("{NEW},{ENCRYPTION_KEY}");
    let sealer = Sealer::new(&parse_encryption_key(&both).unwrap()).unwrap();
    // One was restarted, the other was forgotten.
    let one = with(one, &both);
    check(&one, &admin, &peer);
    run(async {
        let store = Store::open(database.url()).await.unwrap().bound_by(sealer.clone());
        rekey_all(&store, &sealer).await;
        take_out(&store, "gone").await;
    });
    read_again(&[&one, &two], &admin, "gone");
    check(&one, &admin, &peer);
    check(&two, &admin, &peer);
    // What it cannot open it does not build on, and takes no server out of an endpoint that would not open then.
    let patch = json!({"enabled": false});
    assert_eq!(administer(&two, &admin, "PATCH", "/api/v1/mcp/servers/s", &patch).0, 409);
    assert_eq!(administer(&two, &admin, "DELETE", "/api/v1/mcp/servers/s", &Value::Null).0, 409);
    let two = with(two, &both);
    check(&two, &admin, &peer);
    let [one, two] = [with(one, NEW), with(two, NEW)];
    run(async {
        let store = Store::open(database.url()).await.unwrap();
        take_out(&store, "last").await;
    });
    read_again(&[&one, &two], &admin, "last");
    for gateway in [&one, &two] {
        check(gateway, &admin, &peer);
    }
}

/// Alters rows by `shell`, as whoever can write into the database and has no key.
fn alter(gateway: &Gateway, admin: &str, client: (&str, &str), shell: impl Fn(&str)) {
    let (id, key) = client;
    assert_eq!(status(gateway, key), 200);
    shell("UPDATE mcp_servers SET definition = '{\"url\":\"http://127.0.0.1:1/mcp\"}' WHERE name = 's'");
    let server = "/api/v1/mcp/servers/s";
    until("the server is refused", || get(gateway, admin, server)["served"] == false);
    let told = |what: &str| left_out(gateway, admin).iter().any(|text| text.contains(what));
    assert!(told("server `s` was altered outside of keyadm"), "{:?}", left_out(gateway, admin));
    let (status_of_patch, answer) = administer(gateway, admin, "PATCH", server, &json!({"enabled": true}));
    assert_eq!(status_of_patch, 409, "{answer}");
    assert!(answer.to_string().contains("replace all of it"), "{answer}");

    let endpoint = "/api/v1/mcp/endpoints/team";
    shell("DELETE FROM endpoint_tools WHERE kind = 'deny'");
    until("the endpoint is refused", || told("endpoint `team` of the store is left out: it was altered"));
    assert_eq!(administer(gateway, admin, "PATCH", endpoint, &json!({"prefix": "never"})).0, 409);
    let asked = modern("/mcp/team", "tools/list", "").with("X-API-Key", admin);
    assert_eq!(Client::once(gateway.address, &asked).status, 404);

    shell(&format!("UPDATE api_keys SET role = 'admin' WHERE key_id = '{id}'"));
    until("the key is refused", || status(gateway, key) == 401);
    until("the key is told", || {
        told(&format!("cannot be opened with the given ENCRYPTION_KEY ({id} altered)"))
    });
    let log = gateway.log();
    assert_eq!(log.matches(&format!("({id} altered)")).count(), 1, "once: {log}");
}

/// And writes them anew.
fn mend(gateway: &Gateway, admin: &str, peer: &Peer) {
    let url = format!("http://{}/mcp", peer.address);
    let server = json!({"kind": "http", "url": url, "headers": {"X-Secret": SECRET}});
    assert_eq!(administer(gateway, admin, "PUT", "/api/v1/mcp/servers/s", &server).0, 200);
    let endpoint = json!({"servers": [{"server": "s", "deny": ["other"]}]});
    assert_eq!(administer(gateway, admin, "PUT", "/api/v1/mcp/endpoints/team", &endpoint).0, 200);
    until("served again", || left_out(gateway, admin).iter().all(|text| text.contains("API keys")));
    assert_eq!(tools(gateway, admin, "/mcp/team"), ["s__echo"]);
}

#[test]
fn what_is_altered_on_one_machine_is_refused_and_told() {
    let peer = Peer::script([]);
    let mut gateway = crate::support::Setup::new().keys().start();
    let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
    let (id, key) = gateway.keys().create("client");
    fill(&gateway, &admin, &peer);
    let database = gateway.keys().database();
    alter(&gateway, &admin, (&id, &key), |statement| {
        let shell = rusqlite::Connection::open(&database).unwrap();
        shell.busy_timeout(PATIENCE).unwrap();
        shell.execute_batch(statement).unwrap();
    });
    // A start does without it.
    gateway = gateway.restart();
    assert_eq!((status(&gateway, &key), status(&gateway, &admin)), (401, 200));
    mend(&gateway, &admin, &peer);
    gateway.keys().run(async |store| store.delete_key(&id, Audit::by("test")).await.unwrap());
    until("nothing is wrong", || left_out(&gateway, &admin).is_empty());
    check(&gateway, &admin, &peer);
}

#[test]
fn what_is_altered_in_the_database_of_many_is_refused_and_told() {
    let Some(database) = Database::new() else { return };
    let peer = Peer::script([]);
    let gateway = database.gateway().start();
    let admin = database.admin_key();
    let (id, key) = database.key("client");
    fill(&gateway, &admin, &peer);
    alter(&gateway, &admin, (&id, &key), |statement| sql(database.url(), statement));
    mend(&gateway, &admin, &peer);
    database.store(async |store| store.delete_key(&id, Audit::by("test")).await.unwrap());
    until("nothing is wrong", || left_out(&gateway, &admin).is_empty());
    check(&gateway, &admin, &peer);
}
