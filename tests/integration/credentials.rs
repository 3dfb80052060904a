//! Requests with an invalid credential: they get the same answer on every path of MCP, and reach no server.

use std::time::Duration;

use metamcp_store::auth::ApiKey;
use serde_json::json;

use crate::support::{
    Client, FOREIGN_HEADERS, Form, Gateway, Peer, Request, Response, Setup, initialize, modern, modern_call,
    until, with_checksum,
};

/// The MCP paths of a gateway with the server `a` and the endpoint `team`.
const PATHS: [&str; 7] = [
    "/mcp",
    "/mcp/team",
    "/metamcp/team/mcp",
    "/servers/a/mcp",
    "/api/v1/mcp/stream",
    "/api/v1/mcp/stream/team",
    "/api/v1/mcp/stream/servers/a",
];

/// A gateway with a server, an endpoint, and an active key.
struct World {
    gateway: Gateway,
    peer: Peer,
    key: String,
}

impl World {
    fn new() -> Self {
        let peer = Peer::script([]);
        let setup = Setup::new().server("a", peer.address).with("[endpoints.team]\nservers = [\"a\"]").keys();
        let gateway = setup.start();
        let key = gateway.key.clone().unwrap();
        let world = Self { gateway, peer, key };
        // The lists of the server are known from now on.
        assert_eq!(world.ask(&with(modern("/mcp", "tools/list", ""), &world.key)).status, 200);
        world
    }

    fn ask(&self, request: &Request) -> Response {
        Client::once(self.gateway.address, request)
    }

    /// The status and headers of a response whose body is not read: that of HEAD has none.
    fn head(&self, request: &Request) -> Response {
        let mut client = Client::connect(self.gateway.address);
        assert!(client.send(&request.bytes()));
        client.head()
    }

    /// How many requests the server received that a client may have caused.
    fn reached(&self) -> usize {
        self.peer.all().iter().filter(|seen| !seen.is("subscriptions/listen")).count()
    }

    /// A key that was valid, and is revoked.
    fn revoked(&self) -> String {
        let (id, key) = self.gateway.keys().create("revoked");
        let is_valid = || self.ask(&with(modern("/mcp", "tools/list", ""), &key)).status == 200;
        until("a new key is accepted", is_valid);
        self.gateway.keys().revoke(&id);
        until("a revoked key is refused", || !is_valid());
        key
    }

    /// A key that was valid, and has expired.
    fn expired(&self) -> String {
        let (_, key) = self.gateway.keys().lend("expired", Duration::from_secs(2));
        let is_valid = || self.ask(&with(modern("/mcp", "tools/list", ""), &key)).status == 200;
        until("a new key is accepted", is_valid);
        until("an expired key is refused", || !is_valid());
        key
    }

    /// A token of the active key, with times long past and a valid signature.
    fn expired_token(&self) -> String {
        let request = Request::new("POST", "/api/v1/auth/token").with("Content-Type", "application/json");
        let response = self.ask(&request.body(json!({"api_key": self.key}).to_string())).json();
        let token = response["access_token"].as_str().unwrap();
        assert_eq!(self.ask(&with(modern("/mcp", "tools/list", ""), token)).status, 200);
        self.gateway.keys().expire_token(token)
    }
}

fn with(request: Request, credential: &str) -> Request {
    request.with("Authorization", format!("Bearer {credential}"))
}

/// The requests that a path of MCP may get.
fn requests(path: &str) -> Vec<Request> {
    let tool = if path == "/servers/a/mcp" { "echo" } else { "a__echo" };
    let batch = r#"[{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo"}}]"#;
    let mut requests = vec![
        initialize(path),
        modern_call(path, tool, "{}"),
        Request::post(path, batch),
        modern_call(path, tool, "{}").set("Content-Type", Form::Lines.media_type()),
        initialize(path).set("Content-Type", Form::Frames.media_type()),
    ];
    for method in ["GET", "DELETE", "PUT", "PATCH", "HEAD"] {
        let request = Request::new(method, path).with("Accept", "text/event-stream");
        requests.push(request.clone().with("Mcp-Session-Id", "none"));
        requests.push(request);
    }
    requests
}

#[test]
fn every_mcp_path_needs_a_credential() {
    let world = World::new();
    let mut malformed = world.key.clone();
    malformed.pop();
    let credentials = [
        ("no credential", None),
        ("a malformed key", Some(malformed)),
        ("a revoked key", Some(world.revoked())),
        ("an expired token", Some(world.expired_token())),
    ];
    let before = world.reached();
    for path in PATHS {
        for request in requests(path) {
            for (what, credential) in &credentials {
                let request = match credential {
                    Some(credential) => with(request.clone(), credential),
                    None => request.clone(),
                };
                let response = world.head(&request);
                let row = format!("{} {path} with {what}: {response:?}", request.method);
                assert_eq!(response.status, 401, "{row}");
                assert!(response.header("www-authenticate").is_some(), "{row}");
                assert_eq!(response.header("mcp-session-id"), None, "{row}");
            }
        }
    }
    assert_eq!(world.reached(), before, "a refused request reached the server");
    // The same requests are served with a credential.
    for path in &PATHS[..4] {
        let status = |request| world.head(&with(request, &world.key)).status;
        let [initialize, call, ..] = &requests(path)[..] else { unreachable!() };
        assert_eq!((status(initialize.clone()), status(call.clone())), (200, 200), "{path}");
    }
}

/// But for the time that the answer takes, which docs/SECURITY.md speaks of.
#[test]
fn all_invalid_keys_get_one_answer() {
    let world = World::new();
    let unknown = ApiKey::generate().expose().to_owned();
    let mut wrong_checksum = world.key.clone();
    let last = wrong_checksum.pop();
    wrong_checksum.push(if last == Some('0') { '1' } else { '0' });
    let keys = [
        ("unknown", unknown.clone()),
        ("with a wrong secret", with_checksum(&format!("{}{}", &world.key[..17], &unknown[17..60]))),
        ("revoked", world.revoked()),
        ("expired", world.expired()),
        ("malformed", "mcp_nobody".to_owned()),
        ("with a wrong checksum", wrong_checksum),
    ];
    let before = world.reached();
    let get = |path: &str| Request::new("GET", path).with("Accept", "text/event-stream");
    let requests = [
        modern_call("/mcp", "a__echo", "{}"),
        modern_call("/mcp/none", "a__echo", "{}"),
        initialize("/servers/a/mcp"),
        get("/mcp"),
        modern("/api/v1/mcp/stream", "tools/list", "").set("Content-Type", Form::Lines.media_type()),
        get("/api/v1/mcp/servers/a/tools"),
        get("/api/v1/mcp/servers"),
        get("/metrics"),
    ];
    // The route of the token reads a key from the body.
    let token = Request::new("POST", "/api/v1/auth/token").with("Content-Type", "application/json");
    let ask = |number: usize, key: &str| {
        let request = match requests.get(number) {
            Some(request) => with(request.clone(), key),
            None => token.clone().body(json!({"api_key": key}).to_string()),
        };
        world.ask(&request).comparable()
    };
    for number in 0..=requests.len() {
        let expected = ask(number, &unknown);
        assert_eq!(expected.0, 401, "{number}: {expected:?}");
        for (what, key) in &keys {
            // The problem documents of REST name their request.
            assert_eq!(ask(number, key), expected, "request {number} with a key that is {what}");
        }
    }
    assert_eq!(world.reached(), before, "a refused request reached the server");
}

#[test]
fn no_header_takes_the_place_of_a_credential() {
    let world = World::new();
    let before = world.reached();
    let values = ["true", "admin", "127.0.0.1", "secret-api-key", "localhost"];
    for path in PATHS {
        let call = modern_call(path, "echo", "{}");
        for value in values {
            let all = FOREIGN_HEADERS.iter().fold(call.clone(), |request, name| request.with(name, value));
            for request in [initialize(path).with("Mcp-Init-Host", value), all] {
                assert_eq!(world.ask(&request).status, 401, "{path} {value}");
            }
        }
        for name in FOREIGN_HEADERS {
            assert_eq!(world.ask(&call.clone().with(name, "secret-api-key")).status, 401, "{path} {name}");
        }
    }
    assert_eq!(world.reached(), before, "a refused request reached the server");
}
