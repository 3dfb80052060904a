//! What the log says at its most verbose: no credential, session id, event id, argument or other secret.

use serde_json::{Value, json};

use crate::support::{
    Client, Cluster, Gate, Gateway, Peer, Request, Response, Setup, Step, answer, chunk, events, initialize,
    legacy_call, modern, modern_call, notification, result,
};
use metamcp_store::store::{Grants, Role};

const BEARER: &str = "canary-bearer";
const HEADER: &str = "canary-header";
const QUERY: &str = "canary-query";
const VARIABLE: &str = "canary-variable";
const ARGUMENT: &str = "canary-argument";
const VALUE: &str = "canary-value";
const META: &str = "canary-meta";
const INPUT: &str = "canary-input";
const COOKIE: &str = "canary-cookie";
const TASK: &str = "canary-task";
const STATE: &str = "canary-state";
const UNKNOWN_KEY: &str = "mcp_canary_key_that_nobody_made";

/// A gateway under test, and the secrets that its clients were given.
struct World {
    gateway: Gateway,
    peer: Peer,
    /// Name and value.
    secrets: Vec<(&'static str, String)>,
}

impl World {
    fn start(setup: Setup, filter: &str) -> Self {
        let peer = Peer::script([]);
        let program = env!("CARGO_BIN_EXE_metamcp-stdio-fixture");
        let tables = format!(
            "[log]\nfilter = \"{filter}\"\n[telemetry]\nmetrics = \"open\"\n\
             [servers.a]\nurl = \"http://{}/mcp?key={QUERY}\"\nbearer = \"{BEARER}\"\n\
             headers = {{ X-Key = \"{HEADER}\" }}\n\
             [servers.p]\ncommand = {program:?}\nargs = [\"{ARGUMENT}\"]\nenv = {{ TOKEN = \"{VARIABLE}\" }}",
            peer.address
        );
        let gateway = setup.keys().with(&tables).start();
        let named = [
            ("bearer", BEARER),
            ("header", HEADER),
            ("query", QUERY),
            ("variable", VARIABLE),
            ("argument of a program", ARGUMENT),
            ("argument of a call", VALUE),
            ("_meta", META),
            ("user input", INPUT),
            ("cookie", COOKIE),
            ("task id", TASK),
            ("requestState", STATE),
            ("unknown key", UNKNOWN_KEY),
        ];
        let secrets = named.map(|(name, value)| (name, value.to_owned())).into();
        Self { gateway, peer, secrets }
    }

    fn ask(&self, request: &Request) -> Response {
        Client::once(self.gateway.address, request)
    }

    /// A token for that key, through the route that reads a key from the body.
    fn token(&self, key: &str) -> String {
        let request = Request::new("POST", "/api/v1/auth/token").with("Content-Type", "application/json");
        let response = self.ask(&request.body(json!({"api_key": key}).to_string()));
        response.json()["access_token"].as_str().expect("a token").to_owned()
    }

    /// Calls that succeed, fail, break off and are refused, with that credential.
    fn exercise(&mut self, credential: &str) {
        let arguments = format!(r#"{{"text":"{VALUE}"}}"#);
        let meta = format!(r#""progressToken":"{META}","io.modelcontextprotocol"#);
        for (path, tool) in [("/servers/a/mcp", "echo"), ("/mcp", "a__echo"), ("/servers/p/mcp", "echo")] {
            let call = with(modern_call(path, tool, &arguments), credential).with("Cookie", COOKIE);
            let body = String::from_utf8(call.body.clone()).unwrap();
            let call = call.body(body.replacen(r#""io.modelcontextprotocol"#, &meta, 1));
            let response = self.ask(&call);
            assert!(response.status == 200 && response.text().contains(VALUE), "{}", response.text());
        }
        let call = with(modern_call("/mcp", "a__echo", &arguments), credential);
        for script in [
            vec![Step::Send(answer("500 Internal Server Error", ""))],
            vec![Step::Send(events()), Step::Send(chunk("data: {\"jsonrpc\"")), Step::Reset],
            vec![Step::Reset],
        ] {
            self.peer.push([script]);
            assert!(self.ask(&call).text().contains("\"error\""));
        }
        let malformed = call.clone().body(format!(r#"{{"jsonrpc":"2.0","id":"{VALUE}","{VALUE}":"#));
        assert_eq!(self.ask(&malformed).status, 400);
        let task = modern("/mcp", "tasks/get", &format!(r#""taskId":"{TASK}","#)).with("Mcp-Name", TASK);
        assert!(self.ask(&with(task, credential)).json()["error"].is_object());
        let retry = format!(r#""name":"a__echo","arguments":{{}},"requestState":"{STATE}","#);
        let retry = modern("/mcp", "tools/call", &retry).with("Mcp-Name", "a__echo");
        self.ask(&with(retry, credential));
        self.in_session(credential);
    }

    /// A session in which the server asks for input, and whose stream is resumed.
    fn in_session(&mut self, credential: &str) {
        let path = "/mcp";
        let opening = String::from_utf8(initialize(path).body).unwrap();
        let opening = opening.replace(r#""capabilities":{}"#, r#""capabilities":{"elicitation":{}}"#);
        let opened = self.ask(&with(initialize(path).body(opening), credential));
        let session = opened.header("mcp-session-id").expect("a session id").to_owned();
        self.ask(&with(notification(path, &session, "notifications/initialized", ""), credential));
        let question = json!({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create",
            "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}}});
        let gate = Gate::default();
        let ask = Step::Send([events(), chunk(&format!("data: {question}\n\n"))].concat());
        let rest = format!("data: {}\n\n", result("7", "done"));
        let rest = Step::Send([chunk(&rest), chunk("")].concat());
        self.peer.push([vec![ask, Step::Wait(gate.clone()), rest]]);
        self.peer.push([vec![Step::Send(answer("202 Accepted", ""))]]);
        let call = legacy_call(path, &session, "7", "a__echo", &format!(r#"{{"text":"{VALUE}"}}"#));
        let mut client = Client::connect(self.gateway.address);
        assert!(client.send(&with(call, credential).bytes()));
        assert_eq!(client.head().status, 200);
        let mut stream = String::new();
        let asked: Value = loop {
            let event = client.raw_event().expect("a question");
            stream += &event;
            let data = event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
            if data.contains("elicitation/create") {
                break serde_json::from_str(data).unwrap();
            }
        };
        let input = json!({"jsonrpc": "2.0", "id": asked["id"],
            "result": {"action": "accept", "content": {"secret": INPUT}}});
        let input = Request::post(path, input.to_string()).with("Mcp-Session-Id", session.clone());
        assert_eq!(self.ask(&with(input, credential)).status, 202);
        gate.open();
        while let Some(event) = client.raw_event() {
            stream += &event;
        }
        assert!(stream.contains("done"), "{stream}");
        let ids: Vec<&str> = stream.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
        let resumed = Request::new("GET", path).with("Accept", "text/event-stream");
        let resumed = resumed.with("Mcp-Session-Id", session.clone()).with("Last-Event-ID", ids[0]);
        let mut client = Client::connect(self.gateway.address);
        assert!(client.send(&with(resumed, credential).bytes()));
        assert_eq!(client.head().status, 200);
        self.secrets.extend(ids.iter().map(|id| ("event id", (*id).to_owned())));
        let end =
            Request { method: "DELETE".into(), ..Request::post(path, "").with("Mcp-Session-Id", &*session) };
        self.ask(&with(end, credential));
        self.secrets.push(("session id", session));
    }

    /// Nothing that operators read contains a secret.
    #[track_caller]
    fn check(&self, administrator: &str) {
        let mut texts = vec![("the log", self.gateway.log())];
        for path in ["/metrics", "/ready", "/api/v1/mcp/servers", "/api/v1/audit", "/api/v1/sessions"] {
            let response = self.ask(&with(Request::new("GET", path), administrator));
            assert_eq!(response.status, 200, "{path}");
            texts.push((path, response.text()));
        }
        for (place, text) in &texts {
            for (name, secret) in &self.secrets {
                let line = text.lines().find(|line| line.contains(secret));
                assert!(line.is_none(), "{name} is in {place}: {line:?}");
            }
        }
    }
}

fn with(request: Request, credential: &str) -> Request {
    request.with("Authorization", format!("Bearer {credential}"))
}

/// A gateway that logs all that its crates have to say, over a restart.
#[track_caller]
fn check(filter: &str) {
    let cluster = if filter == "trace" { Cluster::start() } else { None };
    let setup = cluster.as_ref().map_or_else(Setup::new, |cluster| cluster.database().gateway());
    let mut world = World::start(setup, filter);
    if let Some(cluster) = &cluster {
        let url = cluster.url();
        let password = url.split([':', '@']).nth(2).unwrap().to_owned();
        world.secrets.push(("password of the database", password));
    }
    let administrator = Grants { role: Role::Admin, ..Grants::everything() };
    let (administrator, (id, key)) = match &cluster {
        Some(cluster) => (cluster.database().admin_key(), cluster.database().key("key")),
        None => (world.gateway.keys().grant("admin", administrator).1, world.gateway.keys().create("key")),
    };
    let token = world.token(&key);
    world.exercise(&key);
    world.exercise(&token);
    for secret in [&key, &token, &administrator] {
        world.secrets.push(("credential", secret.clone()));
    }
    // The part of the key that is no id.
    world.secrets.push(("secret of the key", key[18..].to_owned()));
    for refused in [UNKNOWN_KEY, &key[..40]] {
        assert_eq!(world.ask(&with(modern("/mcp", "tools/list", ""), refused)).status, 401);
    }
    match &cluster {
        Some(cluster) => cluster.database().revoke(&id),
        None => world.gateway.keys().revoke(&id),
    }
    crate::support::until("the key is refused", || {
        world.ask(&with(modern("/mcp", "tools/list", ""), &key)).status == 401
    });
    world.check(&administrator);
    let level = filter.to_uppercase();
    assert!(world.gateway.log().contains(&level), "nothing is logged at level {level}");
    world.gateway = world.gateway.restart();
    world.check(&administrator);
}

#[test]
fn secrets_are_not_in_the_log_at_level_debug() {
    check("debug");
}

#[test]
fn secrets_are_not_in_the_log_at_level_trace() {
    check("trace");
}
