//! The control plane over HTTP: who may do what, what is said of mistakes, and that secrets stay where they are.

use std::net::SocketAddr;

use crate::support::{
    Client, Gateway, Peer, Request, Response, Setup, Step, answer, chunk, events as events_head,
};
use metamcp::admin::{ROUTES, document};
use metamcp_store::store::{Grants, Role, UsageBatch, UsageCounts, UsageKey, UsageRow};
use serde_json::{Value, json};

/// A gateway with an administrator.
struct House {
    gateway: Gateway,
    peer: Peer,
    admin: String,
}

const SERVERS: &str = "/api/v1/mcp/servers";
const ENDPOINTS: &str = "/api/v1/mcp/endpoints";

impl House {
    fn new() -> Self {
        Self::with("")
    }

    fn with(toml: &str) -> Self {
        let peer = Peer::script([]);
        let endpoints = "[endpoints.default]\nservers = [\"one\"]\n[endpoints.other]\nservers = [\"two\"]\n";
        let gateway = Setup::new()
            .server("one", peer.address)
            .server("two", peer.address)
            .server_with("old", peer.address, "era = \"legacy\"")
            .with(endpoints)
            .with(toml)
            .keys()
            .start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        Self { gateway, peer, admin }
    }

    fn client(&self, endpoint: &str) -> String {
        let grants = Grants { endpoints: Some(vec![endpoint.to_owned()]), ..Grants::everything() };
        self.gateway.keys().grant(endpoint, grants).1
    }

    fn address(&self) -> SocketAddr {
        self.gateway.address
    }

    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: Option<&Value>) -> Response {
        Client::once(self.address(), &request(method, path, body).with("Authorization", bearer(&self.admin)))
    }

    /// With an ETag that is expected.
    #[track_caller]
    fn ask_if(&self, method: &str, path: &str, header: (&str, &str), body: Option<&Value>) -> Response {
        let request = request(method, path, body).with("Authorization", bearer(&self.admin));
        Client::once(self.address(), &request.with(header.0, header.1))
    }

    /// What is there, once it is served.
    #[track_caller]
    fn served(&self, path: &str) -> Response {
        let begun = std::time::Instant::now();
        loop {
            let found = self.ask("GET", path, None);
            if found.json()["served"] == true {
                return found;
            }
            assert!(begun.elapsed() < crate::support::PATIENCE, "{}", found.text());
        }
    }

    /// A definition that leads to the peer.
    fn server(&self, name: &str) -> Value {
        json!({"name": name, "kind": "http", "url": format!("http://{}/mcp", self.peer.address)})
    }

    /// A token of the administrator's whose time is over.
    fn expired_token(&self) -> String {
        let asked = request("POST", "/api/v1/auth/token", Some(&json!({"api_key": self.admin})));
        let answered = Client::once(self.address(), &asked).json();
        let token = answered["access_token"].as_str().unwrap();
        self.gateway.keys().expire_token(token)
    }
}

fn bearer(credential: &str) -> String {
    format!("Bearer {credential}")
}

fn request(method: &str, path: &str, body: Option<&Value>) -> Request {
    let request = Request::new(method, path);
    match body {
        Some(body) => request.with("Content-Type", "application/json").body(body.to_string()),
        None => request,
    }
}

/// The cells of the table of routes in `docs/SECURITY.md`, row by row.
fn table() -> Vec<Vec<String>> {
    let text = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/SECURITY.md")).unwrap();
    let rows = text.lines().filter(|line| {
        line.starts_with("| GET |") || line.starts_with("| P") || line.starts_with("| DELETE |")
    });
    rows.map(|row| {
        row.trim_matches('|').split('|').map(|cell| cell.trim().trim_matches('`').to_owned()).collect()
    })
    .collect()
}

#[test]
fn every_route_answers_everybody_as_the_table_says() {
    let house = House::new();
    let credentials = [
        None,
        Some(house.client("default")),
        Some(house.client("other")),
        Some(house.expired_token()),
        Some(house.admin.clone()),
    ];
    for name in ["stored", "doomed"] {
        assert_eq!(house.ask("POST", SERVERS, Some(&house.server(name))).status, 201);
        assert_eq!(house.ask("POST", ENDPOINTS, Some(&json!({"name": name}))).status, 201);
    }
    let rows = table();
    let routes: Vec<_> =
        ROUTES.iter().map(|route| [route.method, route.path, route.policy.as_str()]).collect();
    let written: Vec<[&str; 3]> =
        rows.iter().map(|row| [&row[0], &row[1], &row[2]].map(String::as_str)).collect();
    assert_eq!(written, routes, "the table in docs/SECURITY.md and the routes differ");
    for row in &rows {
        for (credential, expected) in credentials.iter().zip(&row[3..]) {
            let mut asked = of_route(&house, &row[0], &row[1]);
            if let Some(credential) = credential {
                asked = asked.with("Authorization", bearer(credential));
            }
            let mut client = Client::connect(house.address());
            client.send(&asked.bytes());
            // Streams of events do not end.
            let found = if row[1].starts_with("/api/v1/events") { client.head() } else { client.response() };
            assert_eq!(&found.status.to_string(), expected, "{} {}: {}", row[0], row[1], found.text());
            let problem = found.header("content-type") == Some("application/problem+json");
            assert_eq!(problem, found.status >= 400, "{} {}", row[0], row[1]);
        }
    }
    assert!(house.peer.calls().len() == 2, "only the two that may call have called");
}

/// A page of another origin, and a name that was bound to this machine: no route serves them, and nothing changes.
#[test]
fn no_route_serves_a_foreign_host_or_origin() {
    let house = House::new();
    for name in ["stored", "doomed"] {
        assert_eq!(house.ask("POST", SERVERS, Some(&house.server(name))).status, 201);
        assert_eq!(house.ask("POST", ENDPOINTS, Some(&json!({"name": name}))).status, 201);
    }
    let state = || [SERVERS, ENDPOINTS, "/api/v1/audit"].map(|path| house.ask("GET", path, None).text());
    let before = state();
    for route in ROUTES {
        let asked = of_route(&house, route.method, route.path).with("Authorization", bearer(&house.admin));
        for foreign in [
            asked.clone().set("Host", "evil.example"),
            asked.clone().set("Host", "localhost.evil.example"),
            asked.clone().with("Origin", "http://evil.example"),
            asked.clone().with("Origin", "null"),
        ] {
            let refused = Client::once(house.address(), &foreign);
            assert_eq!(refused.status, 403, "{} {}: {}", route.method, route.path, refused.text());
            assert_eq!(refused.header("access-control-allow-origin"), None, "{}", route.path);
        }
    }
    assert_eq!(state(), before);
    assert!(house.peer.calls().is_empty(), "a call of a foreign page reached the server");
}

/// A request that succeeds for whoever may send it.
fn of_route(house: &House, method: &str, pattern: &str) -> Request {
    let is_work = pattern.contains("/tools");
    let path = pattern
        .replace(
            "{server}",
            if is_work {
                "one"
            } else if method == "DELETE" {
                "doomed"
            } else {
                "stored"
            },
        )
        .replace("{endpoint}", if method == "DELETE" { "doomed" } else { "stored" })
        .replace("{tool}", "echo")
        .replace("{asset}", "swagger-ui.css");
    let body = match (method, pattern) {
        ("POST", "/api/v1/auth/token") => Some(json!({"api_key": house.admin})),
        ("POST", SERVERS) => Some(house.server("new")),
        ("PUT", _) if pattern.starts_with(SERVERS) => Some(house.server("stored")),
        ("POST", ENDPOINTS) => Some(json!({"name": "new"})),
        ("PUT" | "PATCH", _) => Some(json!({})),
        ("POST", "/api/v1/import") => {
            Some(json!({"mcpServers": {"imported": {"url": "http://127.0.0.1:9/"}}}))
        }
        ("POST", _) if pattern.ends_with("/approve") => Some(json!({})),
        ("POST", _) if is_work => Some(json!({"a": 1})),
        _ => None,
    };
    request(method, &path, body.as_ref())
}

#[test]
fn what_is_no_route_is_nothing() {
    let house = House::new();
    let check = |method: &str, path: &str, status: u16, allow: Option<&str>| {
        let found = house.ask(method, path, None);
        assert_eq!(
            (found.status, found.header("allow")),
            (status, allow),
            "{method} {path}: {}",
            found.text()
        );
    };
    check("GET", "/api/v1/keys", 404, None);
    check("POST", "/api/v1/keys", 404, None);
    check("GET", "/api/v1/mcp/servers/", 404, None);
    check("DELETE", SERVERS, 405, Some("GET, HEAD, POST"));
    check("TRACE", "/health", 405, Some("GET, HEAD"));
    check("GET", "/swagger-ui/..%2f..%2fmetamcp.toml", 404, None);
    check("GET", "/api/v1/mcp/servers/absent", 404, None);
    check("POST", "/api/v1/mcp/servers/absent/test", 404, None);
    check("GET", "/api/v1/audit?limit=0&cursor=x&colour=red", 400, None);
    assert_eq!(
        Client::once(house.address(), &Request::new("GET", "/health").set("Host", "evil.example")).status,
        403
    );
}

#[test]
fn head_is_get_without_the_body() {
    let house = House::new();
    let mut client = Client::connect(house.address());
    assert!(client.send(&Request::new("HEAD", "/health").bytes()));
    assert_eq!(client.head().status, 200);
    let next = client.ask(&Request::new("GET", "/health"));
    assert_eq!(next.json(), json!({"status": "ok"}));
    for (name, value) in [("x-content-type-options", "nosniff"), ("cache-control", "no-store")] {
        assert_eq!(next.header(name), Some(value));
    }
}

#[test]
fn usage_is_read_by_pages_and_filters() {
    let house = House::new();
    let row = |server: &str, calls: u64| UsageRow {
        key: UsageKey {
            hour: 7200,
            key_id: "AAAAAAAAAAAA".into(),
            server: server.into(),
            tool: "echo".into(),
        },
        counts: UsageCounts { calls, ..UsageCounts::default() },
    };
    let rows = vec![row("a", 1), row("b", 2), row("c", 3)];
    let batch = UsageBatch { source: "test".into(), sequence: 1, at: 0, rows };
    house.gateway.keys().run(async |store| store.apply_usage(batch).await.unwrap());
    let calls = |query: &str| -> (Vec<u64>, Option<String>) {
        let found = house.ask("GET", &format!("/api/v1/usage{query}"), None).json();
        let calls =
            found["items"].as_array().unwrap().iter().map(|row| row["calls"].as_u64().unwrap()).collect();
        (calls, found["next_cursor"].as_str().map(str::to_owned))
    };
    assert_eq!(calls(""), (vec![1, 2, 3], None));
    assert_eq!(calls("?server=b&tool=echo&from=7200&until=7201"), (vec![2], None));
    assert_eq!(calls("?until=7200"), (vec![], None));
    let (first, next) = calls("?limit=2");
    assert_eq!(first, [1, 2]);
    assert_eq!(calls(&format!("?limit=2&cursor={}", next.unwrap())), (vec![3], None));
}

#[test]
fn the_document_is_the_committed_one() {
    let fresh = serde_json::to_string_pretty(&document()).unwrap() + "\n";
    let root = env!("CARGO_MANIFEST_DIR");
    let committed = std::fs::read_to_string(format!("{root}/docs/openapi.json")).unwrap_or_default();
    if fresh != committed {
        std::fs::write(format!("{root}/target/openapi.json"), &fresh).unwrap();
        panic!(
            "docs/openapi.json is not what the code says: look at what changed, then `cp target/openapi.json docs/`"
        );
    }
    let house = House::new();
    let served = Client::once(house.address(), &Request::new("GET", "/api-docs/openapi.json"));
    assert_eq!(served.json(), document());
}

#[test]
fn protocol_is_accepted_in_place_of_kind() {
    let house = House::new();
    let mut server = house.server("a");
    let kind = server.as_object_mut().unwrap().remove("kind").unwrap();
    server["protocol"] = kind;
    let created = house.ask("POST", SERVERS, Some(&server));
    assert_eq!((created.status, &created.json()["kind"]), (201, &json!("http")), "{}", created.text());
    assert_eq!(created.json().get("protocol"), None);
    let path = "/api/v1/mcp/servers/a";
    assert_eq!(house.ask("PUT", path, Some(&server)).status, 200);
    let patched = house.ask("PATCH", path, Some(&json!({"protocol": "sse"})));
    assert_eq!((patched.status, &patched.json()["kind"]), (200, &json!("sse")), "{}", patched.text());
    server["kind"] = json!("http");
    for (method, body) in [("PUT", server), ("PATCH", json!({"kind": "http", "protocol": "http"}))] {
        let refused = house.ask(method, path, Some(&body));
        assert_eq!(refused.status, 422, "{method}: {}", refused.text());
        assert_eq!(refused.json()["errors"][0]["pointer"], "/protocol", "{method}");
    }
}

#[test]
fn every_wrong_field_is_named() {
    let house = House::new();
    let check = |method: &str, path: &str, body: Value, status: u16, expected: &[&str]| {
        let found = house.ask(method, path, Some(&body));
        let problem = found.json();
        let errors = problem["errors"].as_array().cloned().unwrap_or_default();
        let pointers: Vec<&str> = errors.iter().map(|error| error["pointer"].as_str().unwrap()).collect();
        assert_eq!((found.status, &pointers[..]), (status, expected), "{method} {path} {body}: {problem}");
        assert_eq!(problem["status"], status);
    };
    assert_eq!(house.ask("POST", SERVERS, Some(&house.server("a"))).status, 201);
    check("POST", SERVERS, json!({"url": 1, "x": 2}), 422, &["/name", "/kind", "/url", "/x"]);
    check("POST", SERVERS, house.server("a"), 409, &["/name"]);
    let touch = json!({"name": "t", "kind": "stdio", "command": "/usr/bin/touch", "args": ["pwned"]});
    check("POST", SERVERS, touch, 422, &["/command"]);
    check("PUT", "/api/v1/mcp/servers/a", json!({"name": "a"}), 422, &["/kind", "/url"]);
    check("PUT", "/api/v1/mcp/servers/b", house.server("c"), 422, &["/name"]);
    assert_eq!(house.ask("POST", SERVERS, Some(&house.server("other"))).status, 201);
    check("PUT", "/api/v1/mcp/servers/a", house.server("other"), 422, &["/name"]);
    check("PATCH", "/api/v1/mcp/servers/a", json!({"name": "other"}), 409, &["/name"]);
    check("PATCH", "/api/v1/mcp/servers/a", json!([]), 422, &[""]);
    // What stands before the tools of a server is one server's: of the files, of the store, and of either's alias.
    let called = |name: &str, alias: &str| {
        let mut server = house.server(name);
        server["alias"] = alias.into();
        server
    };
    for taken in ["one", "other"] {
        check("POST", SERVERS, called("n", taken), 409, &["/alias"]);
        check("PUT", "/api/v1/mcp/servers/n", called("n", taken), 409, &["/alias"]);
        check("PATCH", "/api/v1/mcp/servers/a", json!({"alias": taken}), 409, &["/alias"]);
    }
    assert_eq!(house.ask("PATCH", "/api/v1/mcp/servers/other", Some(&json!({"alias": "x"}))).status, 200);
    check("POST", SERVERS, house.server("x"), 409, &["/name"]);
    check("PATCH", "/api/v1/mcp/servers/a", json!({"alias": "x"}), 409, &["/alias"]);
    let off = json!({"alias": "x", "enabled": false});
    assert_eq!(house.ask("PATCH", "/api/v1/mcp/servers/a", Some(&off)).status, 200);
    check("PATCH", "/api/v1/mcp/servers/a", json!({"enabled": true}), 409, &["/alias"]);
    let told = house.ask("PATCH", "/api/v1/mcp/servers/a", Some(&json!({"enabled": true}))).text();
    assert!(told.contains("is the alias of server `other`"), "{told}");
    check("PATCH", "/api/v1/mcp/servers/a", json!({"kind": null, "era": "old"}), 422, &["/kind", "/era"]);
    check("PATCH", "/api/v1/mcp/servers/absent", json!({}), 404, &[]);
    check("PUT", "/api/v1/mcp/servers/0192b1f0-8b7a-7c11-9c60-0123456789ab", house.server("d"), 404, &[]);
    check(
        "POST",
        ENDPOINTS,
        json!({"name": "a b", "prefix": "some", "servers": [{"server": "a", "allow": ["", 1], "deny": ["x", "x"],
               "overrides": [{"tool": "t", "name": ""}, {"tool": "t", "annotations": 1}]}, {}, 3]}),
        422,
        &[
            "/name",
            "/prefix",
            "/servers/0/allow/1",
            "/servers/0/allow/0",
            "/servers/0/deny/1",
            "/servers/0/overrides/0/name",
            "/servers/0/overrides/1/annotations",
            "/servers/0/overrides/1/tool",
            "/servers/1/server",
            "/servers/2",
        ],
    );
    let twice = json!({"name": "e", "servers": [{"server": "a"}, {"server": "absent"}, {"server": "a"}]});
    check("POST", ENDPOINTS, twice, 422, &["/servers/1/server", "/servers/2/server"]);
    check("POST", "/api/v1/import", json!({"servers": 1}), 422, &["/servers"]);
    for (media, body, status) in
        [("text/plain", "{}", 415), ("application/json", "{", 400), ("application/json", "[]", 422)]
    {
        let asked = Request::new("POST", SERVERS).with("Authorization", bearer(&house.admin));
        let found = Client::once(house.address(), &asked.with("Content-Type", media).body(body));
        assert_eq!(found.status, status, "{media} {body}");
    }
}

/// What is stored, without what became of it.
fn defined(response: &Response) -> Value {
    let mut value = response.json();
    value
        .as_object_mut()
        .unwrap()
        .retain(|key, _| !["served", "reason", "condition"].contains(&key.as_str()));
    value
}

/// The part of an ETag that is of what somebody wrote.
fn own_tag(found: &Response) -> Option<&str> {
    found.header("etag")?.split('~').next()
}

#[test]
fn a_server_lives_through_all_of_its_methods() {
    let house = House::new();
    let created = house.ask("PUT", "/api/v1/mcp/servers/notes", Some(&house.server("notes")));
    assert_eq!(created.status, 201, "{}", created.text());
    let id = created.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(created.header("location"), Some(&*format!("{SERVERS}/{id}")));
    let tag = created.header("etag").unwrap().to_owned();

    // By UUID and by name, and known already, once it is served.
    let by_id = format!("{SERVERS}/{id}");
    let found = house.served(&by_id);
    assert_eq!((defined(&found), own_tag(&found)), (defined(&created), own_tag(&created)));
    let known = found.header("etag").unwrap();
    assert_eq!(house.ask_if("GET", &by_id, ("If-None-Match", known), None).status, 304);

    // What was read can be put back, and changes nothing.
    let again = house.ask("PUT", &by_id, Some(&found.json()));
    assert_eq!((again.status, own_tag(&again)), (200, own_tag(&created)), "{}", again.text());
    assert_eq!(house.ask_if("PUT", &by_id, ("If-None-Match", "*"), Some(&found.json())).status, 412);

    let patched = house.ask("PATCH", &by_id, Some(&json!({"queue_timeout": "2s", "headers": {"X-A": "1"}})));
    assert_eq!(patched.json()["headers"], json!({"x-a": "(sealed)"}));
    assert_eq!((patched.json()["version"].clone(), patched.status), (2.into(), 200));
    let kept = house.ask("PATCH", &by_id, Some(&json!({"queue_timeout": null})));
    assert_eq!(kept.json()["headers"], json!({"x-a": "(sealed)"}));
    assert!(kept.json().get("queue_timeout").is_none());

    // On a busy machine somewhat later. A look at it is to be had whether or not.
    assert!(
        kept.json()["served"] == true || kept.json()["reason"].as_str().unwrap().contains("not served yet")
    );
    let tested = house.ask("POST", &format!("{by_id}/test"), None).json();
    assert_eq!(
        (&tested["ok"], &tested["found"]["tools"], &tested["found"]["era"]),
        (&true.into(), &2.into(), &"modern".into()),
        "{tested}"
    );
    assert!(house.peer.all().iter().any(|seen| seen.header("x-a") == Some("1")), "its headers are sent");

    assert_eq!(house.ask_if("DELETE", &by_id, ("If-Match", &tag), None).status, 412);
    assert_eq!(house.ask("DELETE", &by_id, None).status, 204);
    assert_eq!(house.ask("GET", &by_id, None).status, 404);

    let audit = house.ask("GET", "/api/v1/audit?object_kind=server&limit=2", None).json();
    let actions: Vec<&str> =
        audit["items"].as_array().unwrap().iter().map(|row| row["action"].as_str().unwrap()).collect();
    assert_eq!(actions, ["server.delete", "server.replace"]);
    let next = audit["next_cursor"].as_str().unwrap();
    let rest = house.ask("GET", &format!("/api/v1/audit?object_kind=server&cursor={next}"), None).json();
    assert_eq!(rest["items"].as_array().unwrap().len(), 2);
    assert!(rest.get("next_cursor").is_none());
}

#[test]
fn endpoints_name_stored_servers() {
    let house = House::new();
    for name in ["a", "b"] {
        assert_eq!(house.ask("POST", SERVERS, Some(&house.server(name))).status, 201);
    }
    let written = json!({"prefix": "never", "servers": [
        {"server": "b", "allow": ["x*"], "overrides": [{"tool": "x", "title": "X"}]}, {"server": "a"}]});
    let created = house.ask("PUT", "/api/v1/mcp/endpoints/work", Some(&written));
    assert_eq!(created.status, 201, "{}", created.text());
    let tag = created.header("etag").unwrap().to_owned();
    let again = house.ask("PUT", "/api/v1/mcp/endpoints/work", Some(&created.json()));
    assert_eq!((again.status, own_tag(&again)), (200, own_tag(&created)), "{}", again.text());
    assert_eq!(again.json()["servers"][0]["overrides"], json!([{"tool": "x", "title": "X"}]));
    let patched = house.ask_if(
        "PATCH",
        "/api/v1/mcp/endpoints/work",
        ("If-Match", &tag),
        Some(&json!({"prefix": "always"})),
    );
    assert_eq!((patched.status, patched.json()["prefix"].clone()), (200, "always".into()));
    // Its servers' names are part of it, for whoever reads and whoever writes.
    let before = house.ask("GET", "/api/v1/mcp/endpoints/work", None);
    assert_eq!(house.ask("PATCH", "/api/v1/mcp/servers/a", Some(&json!({"name": "c"}))).status, 200);
    let known = ("If-None-Match", before.header("etag").unwrap());
    let after = house.ask_if("GET", "/api/v1/mcp/endpoints/work", known, None);
    assert_eq!((after.status, &after.json()["servers"][1]["server"]), (200, &json!("c")));
    assert_eq!(after.json()["version"], before.json()["version"]);
    let known = ("If-Match", before.header("etag").unwrap());
    for (method, body) in [("PUT", Some(before.json())), ("DELETE", None)] {
        let refused = house.ask_if(method, "/api/v1/mcp/endpoints/work", known, body.as_ref());
        assert_eq!(refused.status, 412, "{method}: {}", refused.text());
    }
    let known = ("If-Match", after.header("etag").unwrap());
    let put = house.ask_if("PUT", "/api/v1/mcp/endpoints/work", known, Some(&after.json()));
    assert_eq!(put.status, 200, "{}", put.text());

    // A server that is taken out is taken out of it.
    assert_eq!(house.ask("DELETE", "/api/v1/mcp/servers/b", None).status, 204);
    let left = house.ask("GET", "/api/v1/mcp/endpoints/work", None).json();
    assert_eq!(left["servers"].as_array().unwrap().len(), 1);
    assert_eq!(house.ask("DELETE", "/api/v1/mcp/endpoints/work", None).status, 204);
    assert_eq!(house.ask("GET", ENDPOINTS, None).json(), json!({"items": []}));
}

#[test]
fn what_is_put_twice_is_done_once() {
    let house = House::new();
    let servers = [house.server("a"), house.server("b")];
    let endpoints = [json!({"name": "a"}), json!({"name": "b"})];
    for (list, [mut one, other]) in [(SERVERS, servers), (ENDPOINTS, endpoints)] {
        let made = house.ask("POST", list, Some(&one)).json();
        assert_eq!(house.ask("POST", list, Some(&other)).status, 201);
        // By a name: another one would leave nothing there for the second, or something else.
        for (path, name) in [("a", "c"), ("a", "b"), ("none", "c")] {
            one["name"] = name.into();
            let refused = house.ask("PUT", &format!("{list}/{path}"), Some(&one));
            let error = &refused.json()["errors"][0];
            assert_eq!((refused.status, &error["pointer"]), (422, &json!("/name")), "{}", refused.text());
            assert!(error["detail"].as_str().unwrap().contains("PUT to its id"), "{error}");
        }
        // By its id it may be renamed, as often as it is sent.
        let by_id = format!("{list}/{}", made["id"].as_str().unwrap());
        one["name"] = "c".into();
        let put = [0; 2].map(|_| house.ask("PUT", &by_id, Some(&one)));
        for put in &put {
            assert_eq!((put.status, &put.json()["name"]), (200, &json!("c")), "{}", put.text());
            assert_eq!(put.json()["version"], 2);
        }
        assert_eq!(house.ask("GET", &format!("{list}/a"), None).status, 404);
        assert_eq!(house.ask("PUT", &format!("{list}/{}", uuid::Uuid::nil()), Some(&one)).status, 404);
    }
}

/// All at once; their statuses in ascending order.
fn race(address: SocketAddr, requests: Vec<Request>) -> Vec<u16> {
    let mut statuses: Vec<u16> = std::thread::scope(|scope| {
        let running: Vec<_> = requests
            .into_iter()
            .map(|request| scope.spawn(move || Client::once(address, &request).status))
            .collect();
        running.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    statuses.sort_unstable();
    statuses
}

#[test]
fn of_several_writers_one_wins_and_nothing_is_lost() {
    let house = House::new();
    let created = house.ask("POST", SERVERS, Some(&house.server("a")));
    let tag = created.header("etag").unwrap().to_owned();
    let path = "/api/v1/mcp/servers/a";
    let asked = |method: &str, path: &str, body: &Value| {
        request(method, path, Some(body)).with("Authorization", bearer(&house.admin))
    };
    let with_tag =
        |number: usize| asked("PATCH", path, &json!({"in_flight_max": number + 1})).with("If-Match", &*tag);
    let statuses = race(house.address(), (0..8).map(with_tag).collect());
    assert_eq!(statuses, [&[200], &[412; 7][..]].concat());
    // Without one, each change is made to what is there: none undoes another.
    let without = |number: usize| asked("PATCH", path, &json!({"headers": {format!("x-{number}"): "1"}}));
    assert_eq!(race(house.address(), (0..4).map(without).collect()), [200; 4]);
    let headers = house.ask("GET", path, None).json()["headers"].as_object().unwrap().len();
    assert_eq!(headers, 4);
    // Of several that add the same name, one does.
    let body = house.server("b");
    let put = |_| asked("PUT", "/api/v1/mcp/servers/b", &body);
    let statuses = race(house.address(), (0..4).map(put).collect());
    assert_eq!(statuses, [200, 200, 200, 201]);
}

#[test]
fn secrets_come_out_nowhere() {
    const CANARY: &str = "canary-5b1d0c";
    let house = House::new();
    let mut said = String::new();
    let mut ask = |method: &str, path: &str, body: Value| {
        let found = house.ask(method, path, Some(&body).filter(|body| !body.is_null()));
        let line =
            [method, path, &format!("{} {:?}", found.status, found.headers), &found.text(), "\n"].join(" ");
        said.push_str(&line);
        found.status
    };
    let address = house.peer.address;
    let secret = json!({
        "name": "a", "kind": "http", "url": format!("http://{address}/mcp?key={CANARY}"),
        "headers": {"Authorization": format!("Bearer {CANARY}"), "X-Key": CANARY},
    });
    assert_eq!(ask("POST", SERVERS, secret.clone()), 201);
    assert_eq!(ask("POST", SERVERS, secret.clone()), 409);
    assert_eq!(ask("PUT", "/api/v1/mcp/servers/a", secret.clone()), 200);
    assert_eq!(
        ask("PATCH", "/api/v1/mcp/servers/a", json!({"headers": {"X-Key": CANARY, "X-New": CANARY}})),
        200
    );
    assert_eq!(
        ask(
            "PATCH",
            "/api/v1/mcp/servers/a",
            json!({"headers": {"Host": CANARY, "X-Bad": format!("{CANARY}\n")}})
        ),
        422
    );
    assert_eq!(ask("PATCH", "/api/v1/mcp/servers/a", json!({"url": format!("http://u:{CANARY}@a/")})), 422);
    assert_eq!(ask("POST", "/api/v1/mcp/servers/a/test", Value::Null), 200);
    let file = json!({"mcpServers": {
        "b": {"url": format!("http://{address}/{CANARY}-{CANARY}"), "headers": {"X": CANARY}},
        "c": {"url": format!("http://:{CANARY}@{address}/"), "headers": {"X": CANARY}},
        "d": {"url": "http://a.example/", "headers": {"X": format!("${{ENCRYPTION_KEY}}{CANARY}")}},
        "e": {"command": "/bin/sh", "args": [CANARY], "env": {"X": CANARY}}}});
    assert_eq!(ask("POST", "/api/v1/import", file), 200);
    for path in [SERVERS, "/api/v1/mcp/servers/a", "/api/v1/mcp/servers/b", "/api/v1/audit", "/ready"] {
        assert_eq!(ask("GET", path, Value::Null), 200);
    }
    assert_eq!(ask("DELETE", "/api/v1/mcp/servers/a", Value::Null), 204);
    assert_eq!(ask("GET", "/api/v1/audit", Value::Null), 200);
    assert!(said.contains("(sealed)"), "{said}");
    assert!(!said.contains(CANARY), "{said}");
    assert!(!house.gateway.log().contains(CANARY), "{}", house.gateway.log());
    // The server was given them.
    let seen = house.peer.all();
    assert!(seen.iter().any(|seen| seen.header("x-new") == Some(CANARY) && seen.head.contains(&format!("?key={CANARY}"))));
    // Nor are they in the database, deleted rows and the log of writes included.
    for name in ["metamcp.sqlite", "metamcp.sqlite-wal"] {
        let bytes = std::fs::read(house.gateway.keys().database().with_file_name(name)).unwrap_or_default();
        assert!(!bytes.windows(CANARY.len()).any(|window| window == CANARY.as_bytes()), "{name}");
    }
}

#[test]
fn an_import_keeps_what_is_right() {
    let house = House::new();
    let file = json!({"mcpServers": {
        "my notes": {"type": "http", "url": "http://127.0.0.1:9/mcp"}, "wrong": {"url": "ftp://a"}, "no": {},
        "shell": {"command": "/bin/sh"}, "env": {"url": "http://${HOME}/"}}});
    let outcomes = |query: &str| -> Vec<String> {
        let found = house.ask("POST", &format!("/api/v1/import{query}"), Some(&file));
        assert_eq!(found.status, 200, "{}", found.text());
        let items = found.json()["items"].as_array().unwrap().clone();
        let line = |item: &Value| {
            format!("{} {}", item["name"].as_str().unwrap(), item["outcome"].as_str().unwrap())
        };
        for item in items.iter().filter(|item| item["outcome"] == "fail" && item["name"] != "my notes") {
            let pointer = item["errors"][0]["pointer"].as_str().unwrap();
            assert!(pointer.starts_with("/mcpServers/"), "{item}");
        }
        items.iter().map(line).collect()
    };
    let rest = ["no fail", "shell fail", "wrong fail"];
    assert_eq!(outcomes(""), [&["env fail", "my notes create"], &rest[..]].concat());
    assert_eq!(outcomes(""), [&["env fail", "my notes fail"], &rest[..]].concat());
    assert_eq!(outcomes("?replace=true"), [&["env fail", "my notes keep"], &rest[..]].concat());
    assert_eq!(house.ask("GET", "/api/v1/mcp/servers/my-notes", None).status, 200);
}

#[test]
fn tools_are_listed_and_called_as_far_as_a_key_goes() {
    let house = House::new();
    let grants = Grants { tools: Some(vec!["one__e*".into()]), ..Grants::everything() };
    let narrow = house.gateway.keys().grant("narrow", grants).1;
    let list = "/api/v1/mcp/servers/one/tools";
    let names = |key: &str, query: &str| -> Vec<String> {
        let asked = Request::new("GET", &format!("{list}{query}")).with("X-API-Key", key);
        let found = Client::once(house.address(), &asked).json();
        found["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(|tool| tool["name"].as_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names(&house.admin, ""), ["echo", "other"]);
    assert_eq!(names(&house.admin, "?limit=1"), ["echo"]);
    assert_eq!(names(&narrow, ""), ["echo"]);
    let call = |key: &str, tool: &str, accept: &str| {
        let asked = request("POST", &format!("{list}/{tool}/execute"), Some(&json!({"a": 1})));
        Client::once(house.address(), &asked.with("X-API-Key", key).with("Accept", accept))
    };
    let answered = call(&narrow, "echo", "application/json");
    assert_eq!(answered.json()["content"][0]["text"], r#"{"a":1}"#, "{}", answered.text());
    assert_eq!(call(&narrow, "other", "*/*").status, 404);
    assert_eq!(call(&house.admin, "absent", "*/*").status, 404);
    let events = call(&narrow, "echo", "text/event-stream");
    assert_eq!(events.header("content-type"), Some("text/event-stream"));
    assert_eq!(events.text().lines().next(), Some("event: result"));
    let seen = house.peer.calls();
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0].header("mcp-name"), Some("echo"));
    assert!(seen.iter().all(|seen| !seen.head.contains(&narrow) && seen.header("x-api-key").is_none()));

    // What is said on the way comes first.
    let said =
        r#"{"jsonrpc":"2.0","method":"notifications/progress","params":{"progressToken":1,"progress":1}}"#;
    let stream = [format!("data: {said}\n\n"), format!("data: {}\n\n", crate::support::result("1", "done"))];
    let mut steps = vec![Step::Send(events_head())];
    steps.extend(stream.iter().map(|event| Step::Send(chunk(event))));
    steps.push(Step::Send(chunk("")));
    house.peer.push([steps]);
    let events = call(&narrow, "echo", "text/event-stream").events();
    assert_eq!(events[0], serde_json::from_str::<Value>(said).unwrap());
    assert_eq!((events.len(), &events[1]["content"][0]["text"]), (2, &"done".into()));

    // What the server says of its failures is told, and nothing of where it is.
    house.peer.push([
        vec![Step::Send(answer(
            "200 OK",
            r#"{"jsonrpc":"2.0","id":1,"error":{"code":-32602,"message":"bad a"}}"#,
        ))],
        vec![Step::Send(answer("500 Internal Server Error", "oops"))],
        vec![Step::Close],
        vec![Step::Send(answer(
            "200 OK",
            r#"{"jsonrpc":"2.0","id":1,"result":{"resultType":"input_required"}}"#,
        ))],
    ]);
    for status in [422, 502, 502, 409] {
        let found = call(&narrow, "echo", "*/*");
        assert_eq!(found.status, status, "{}", found.text());
        assert!(!found.text().contains(&house.peer.address.port().to_string()), "{}", found.text());
    }
}

#[test]
fn a_call_of_an_old_server_has_a_session_of_its_own() {
    let house = House::new();
    let path = "/api/v1/mcp/servers/old/tools/echo/execute";
    // The catalog has one too, which nobody else may use.
    for expected in 2..4 {
        let answered = house.ask("POST", path, Some(&json!({"a": 1})));
        assert_eq!(answered.json()["content"][0]["text"], r#"{"a":1}"#, "{}", answered.text());
        assert_eq!(house.peer.count("initialize"), expected);
    }
    let seen = house.peer.all();
    let used = |start: &str| -> Vec<String> {
        let of_call = seen.iter().filter(|seen| seen.head.starts_with(start));
        of_call
            .filter(|seen| start == "DELETE" || seen.text().contains("tools/call"))
            .map(|seen| seen.header("mcp-session-id").unwrap().to_owned())
            .collect()
    };
    assert_eq!(used("POST").len(), 2);
    assert_eq!(used("POST"), used("DELETE"), "each session is ended");
    assert_ne!(used("POST")[0], used("POST")[1]);
}

#[test]
fn sessions_are_shown_without_their_ids() {
    let house = House::new();
    let (key_id, key) = house.gateway.keys().create("laptop");
    let mut ids = Vec::new();
    for _ in 0..3 {
        let opened = crate::support::initialize("/mcp").with("Authorization", bearer(&key));
        let answered = Client::once(house.address(), &opened);
        ids.push(answered.header("mcp-session-id").unwrap().to_owned());
    }
    let first = house.ask("GET", &format!("/api/v1/sessions?limit=2&key_id={key_id}"), None);
    let items = first.json()["items"].as_array().unwrap().clone();
    assert_eq!(
        (items.len(), &items[0]["key_id"], &items[0]["endpoint"]),
        (2, &key_id.as_str().into(), &"e/default".into())
    );
    let next = first.json()["next_cursor"].as_str().unwrap().to_owned();
    let rest = house.ask("GET", &format!("/api/v1/sessions?cursor={next}"), None);
    assert_eq!(rest.json()["items"].as_array().unwrap().len(), 1);
    assert!(rest.json().get("next_cursor").is_none());
    for id in ids {
        assert!(!first.text().contains(&id) && !rest.text().contains(&id));
    }
    assert_eq!(house.ask("GET", "/api/v1/sessions?key_id=other", None).json(), json!({"items": []}));
}

#[test]
fn without_the_database_nothing_is_changed_and_that_is_said() {
    let house = House::new();
    let shell = rusqlite::Connection::open(house.gateway.keys().database()).unwrap();
    shell.execute_batch("BEGIN IMMEDIATE").unwrap();
    let found = house.ask("POST", SERVERS, Some(&house.server("a")));
    assert_eq!(found.status, 503, "{}", found.text());
    assert!(found.header("retry-after").is_some());
    shell.execute_batch("ROLLBACK").unwrap();
    assert_eq!(house.ask("POST", SERVERS, Some(&house.server("a"))).status, 201);
}

#[test]
fn private_addresses_are_refused_where_strangers_come() {
    let house = House::with("[server]\nhost = \"0.0.0.0\"\n");
    let mut server = house.server("a");
    let found = house.ask("POST", SERVERS, Some(&server));
    assert_eq!((found.status, found.json()["errors"][0]["pointer"].clone()), (422, "/url".into()));
    server["url"] = "http://localhost.localdomain.invalid/".into();
    assert_eq!(house.ask("POST", SERVERS, Some(&server)).status, 201);
    let tested = house.ask("POST", "/api/v1/mcp/servers/a/test", None).json();
    assert_eq!(tested["ok"], false, "{tested}");
    server["allow_private"] = true.into();
    server["url"] = house.server("a")["url"].clone();
    assert_eq!(house.ask("PUT", "/api/v1/mcp/servers/a", Some(&server)).status, 200);
}

#[test]
fn nobody_administers_a_gateway_that_asks_nobody() {
    let peer = Peer::script([]);
    let gateway = Gateway::open(&[("one", peer.address)]);
    assert_eq!(Client::once(gateway.address, &Request::new("GET", SERVERS)).status, 403);
    let tools = Client::once(gateway.address, &Request::new("GET", "/api/v1/mcp/servers/one/tools"));
    assert_eq!(tools.status, 200, "{}", tools.text());
}
