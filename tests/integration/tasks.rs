//! Calls that are answered later: the experimental tasks of 2025-11-25, and the extension of 2026-07-28, each
//! between clients and servers of its era, by name and among several servers.

use crate::task_server as server;

use crate::support::{
    Client, Gateway, MODERN, PATIENCE, Peer, Request, Response, Setup, error, legacy, notification,
};
use serde_json::{Value, json};
use server::{EXTENSION, Server};

/// The paths, and what stands before the names of tools of the server `a` and of `b` there.
const SINGLE: &str = "/servers/a/mcp";
const ALL: &str = "/mcp";

/// Two servers of one era with tasks, and one without.
fn gateway(modern: bool) -> (Server, Gateway) {
    let (a, b, plain) = (Server::start(modern), Server::start(modern), Peer::script([]));
    let era = if modern { "era = \"modern\"" } else { "era = \"legacy\"" };
    let setup = Setup::new().server_with("a", a.address, era).server_with("b", b.address, era);
    (a, setup.server_with("c", plain.address, era).keys().start())
}

/// One client: its key, and its session where it has one.
struct Dialogue<'a> {
    gateway: &'a Gateway,
    path: &'static str,
    key: String,
    session: Option<String>,
    opened: Value,
}

impl<'a> Dialogue<'a> {
    /// A client of sessions.
    fn open(gateway: &'a Gateway, path: &'static str, key: &str) -> Self {
        let params = json!({"protocolVersion": "2025-11-25", "capabilities": {"elicitation": {}},
            "clientInfo": {"name": "test", "version": "1"}});
        let message = json!({"jsonrpc": "2.0", "id": 0, "method": "initialize", "params": params});
        let request = Request::post(path, message.to_string()).with("Authorization", format!("Bearer {key}"));
        let opened = Client::once(gateway.address, &request);
        let session = opened.header("mcp-session-id").expect("a session id").to_owned();
        let told = notification(path, &session, "notifications/initialized", "")
            .with("Authorization", format!("Bearer {key}"));
        assert_eq!(Client::once(gateway.address, &told).status, 202);
        let opened = opened.json()["result"]["capabilities"].clone();
        Self { gateway, path, key: key.to_owned(), session: Some(session), opened }
    }

    /// A client without.
    fn stateless(gateway: &'a Gateway, path: &'static str, key: &str) -> Self {
        Self { gateway, path, key: key.to_owned(), session: None, opened: Value::Null }
    }

    fn request(&self, method: &str, params: &Value) -> Request {
        let request = match &self.session {
            Some(session) => {
                let params = params.to_string();
                legacy(self.path, session, "7", method, &params[1..params.len() - 1])
            }
            None => modern(self.path, method, params, &json!({"extensions": {EXTENSION: {}}})),
        };
        request.with("Authorization", format!("Bearer {}", self.key))
    }

    fn send(&self, method: &str, params: &Value) -> Response {
        Client::once(self.gateway.address, &self.request(method, params))
    }

    #[track_caller]
    fn ask(&self, method: &str, params: &Value) -> Value {
        let response = self.send(method, params);
        let answer = response.json();
        assert!(answer["result"].is_object(), "{method} {params}: {answer}");
        assert_eq!(answer["id"], 7, "{answer}");
        answer["result"].clone()
    }

    /// Begins a task, and gives its id.
    #[track_caller]
    fn begin(&self, tool: &str) -> String {
        let mut params = json!({"name": tool, "arguments": {}});
        if self.session.is_some() {
            params["task"] = json!({"ttl": 60_000});
        }
        let result = self.ask("tools/call", &params);
        let task = if self.session.is_some() { &result["task"] } else { &result };
        assert_eq!(task["status"], "working", "{result}");
        task["taskId"].as_str().unwrap().to_owned()
    }

    /// Fails unless this client is told that there is no such task.
    #[track_caller]
    fn check_unknown(&self, method: &str, id: &str) {
        let refused = self.send(method, &json!({"taskId": id}));
        assert_eq!((refused.status, error(&refused)), (200, -32602), "{method} {id}: {}", refused.text());
        assert!(refused.text().to_lowercase().contains("unknown task"), "{}", refused.text());
    }
}

/// A request of the Modern era; `params` without `_meta`.
fn modern(path: &str, method: &str, params: &Value, declared: &Value) -> Request {
    let mut params = params.clone();
    let named = params.get("name").or(params.get("taskId")).and_then(Value::as_str).map(str::to_owned);
    params["_meta"] = json!({
        "io.modelcontextprotocol/protocolVersion": MODERN,
        "io.modelcontextprotocol/clientCapabilities": declared,
    });
    let message = json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params});
    let request = Request::post(path, message.to_string())
        .with("MCP-Protocol-Version", MODERN)
        .with("Mcp-Method", method);
    match named {
        Some(name) => request.with("Mcp-Name", name),
        None => request,
    }
}

#[test]
fn tasks_of_sessions() {
    let (_a, gateway) = gateway(false);
    let key = gateway.keys().create("one").1;
    let one = Dialogue::open(&gateway, SINGLE, &key);
    let own = one.begin("slow");
    assert_eq!(own, "t1", "by name nothing is changed");
    assert_eq!(one.ask("tasks/get", &json!({"taskId": own}))["taskId"], "t1");

    let all = Dialogue::open(&gateway, ALL, &key);
    let tasks = json!({"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}});
    assert_eq!(all.opened["tasks"], tasks, "{}", all.opened);
    let ids: Vec<_> = ["a__slow", "b__slow", "a__slow"].map(|tool| all.begin(tool)).into();
    assert!(ids[0].starts_with("a~") && ids[1].starts_with("b~") && ids[0] != ids[2], "{ids:?}");
    for id in &ids {
        assert_eq!(all.ask("tasks/get", &json!({"taskId": id}))["taskId"], **id);
        assert_eq!(all.ask("tasks/cancel", &json!({"taskId": id}))["taskId"], **id);
    }
    let listed = all.ask("tasks/list", &json!({}));
    let mut found: Vec<_> =
        listed["tasks"].as_array().unwrap().iter().map(|task| task["taskId"].as_str().unwrap()).collect();
    found.sort_unstable();
    let mut expected: Vec<&str> = ids.iter().map(String::as_str).collect();
    expected.sort_unstable();
    assert_eq!(found, expected, "{listed}");
    assert!(listed["nextCursor"].is_null() && listed["_meta"].is_null(), "{listed}");
    let refused = all.send("tasks/list", &json!({"cursor": "x"}));
    assert_eq!(error(&refused), -32602, "{}", refused.text());
    // A call without a task is answered as ever.
    let at_once = all.ask("tools/call", &json!({"name": "a__slow", "arguments": {}}));
    assert_eq!(at_once["content"][0]["text"], "at once", "{at_once}");

    // Another session of the key, another key, and what nobody made.
    let other = Dialogue::open(&gateway, ALL, &key);
    other.begin("a__slow");
    let stranger = Dialogue::open(&gateway, ALL, &gateway.keys().create("other").1);
    // Every 64th ends so by itself.
    let other_end = if ids[0].ends_with('A') { 'Q' } else { 'A' };
    let altered = format!("{}{other_end}", &ids[0][..ids[0].len() - 1]);
    let raw = ids[0].split('~').nth(1).unwrap();
    for id in [&ids[0], &altered, "t1", "", "a~", &format!("a~{raw}~"), &format!("b~{}", &ids[0][2..])] {
        for method in ["tasks/get", "tasks/result", "tasks/cancel"] {
            other.check_unknown(method, id);
            stranger.check_unknown(method, id);
        }
    }
    let none = stranger.ask("tasks/list", &json!({}));
    assert_eq!(none["tasks"], json!([]), "{none}");
    // As the server says it.
    all.check_unknown("tasks/get", &altered);
}

/// What a server asks for a task, and what it tells of it, names the task as the client knows it; what comes
/// back names it as the server does.
#[test]
fn messages_name_their_task() {
    let (_a, gateway) = gateway(false);
    let key = gateway.keys().create("one").1;
    for (path, tool) in [(SINGLE, "slow"), (ALL, "b__slow")] {
        let dialogue = Dialogue::open(&gateway, path, &key);
        let id = dialogue.begin(tool);
        let related = json!({"io.modelcontextprotocol/related-task": {"taskId": id}});
        let mut client = Client::connect(gateway.address);
        client.send(&dialogue.request("tasks/result", &json!({"taskId": id})).bytes());
        assert_eq!(client.head().status, 200);
        let asked = client.event().unwrap();
        assert_eq!((&asked["method"], &asked["params"]["_meta"]), (&json!("elicitation/create"), &related));
        let answer = json!({"jsonrpc": "2.0", "id": asked["id"],
            "result": {"action": "accept", "content": {}, "_meta": related}});
        let answer = Request::post(path, answer.to_string())
            .with("Mcp-Session-Id", dialogue.session.clone().unwrap())
            .with("Authorization", format!("Bearer {key}"));
        assert_eq!(Client::once(gateway.address, &answer).status, 202);
        let done = client.event().unwrap();
        assert_eq!((&done["id"], &done["result"]["_meta"]), (&json!(7), &related), "{done}");
        let heard = done["result"]["content"][0]["text"].as_str().unwrap();
        assert!(heard.contains(r#"{"taskId":"t1"}"#), "the server hears its own id: {heard}");

        let mut stream = Client::connect(gateway.address);
        let listen = Request::new("GET", path)
            .with("Accept", "text/event-stream")
            .with("Mcp-Session-Id", dialogue.session.clone().unwrap())
            .with("Authorization", format!("Bearer {key}"));
        stream.send(&listen.bytes());
        assert_eq!(stream.head().status, 200);
        stream.stream().set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
        // Its stream at the server is opened in the background.
        let deadline = std::time::Instant::now() + PATIENCE;
        let mut text = String::new();
        while !text.contains("notifications/tasks/status") {
            assert!(std::time::Instant::now() < deadline, "{text}");
            dialogue.ask("tasks/cancel", &json!({"taskId": id}));
            while let Ok(Some(bytes)) = stream.chunk() {
                text += std::str::from_utf8(&bytes).unwrap();
            }
        }
        let event = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
        let event: Value = serde_json::from_str(event).unwrap();
        assert_eq!(
            (&event["params"]["taskId"], &event["params"]["status"]),
            (&json!(id), &json!("cancelled"))
        );
    }
}

#[test]
fn tasks_of_clients_without_sessions() {
    let (a, gateway) = gateway(true);
    let key = gateway.keys().create("one").1;
    let one = Dialogue::stateless(&gateway, SINGLE, &key);
    assert_eq!(one.begin("slow"), "t1", "by name nothing is changed");

    let all = Dialogue::stateless(&gateway, ALL, &key);
    let discovered = all.ask("server/discover", &json!({}));
    assert_eq!(discovered["capabilities"]["extensions"], json!({EXTENSION: {}}), "{discovered}");
    let ids = ["a__slow", "b__slow"].map(|tool| all.begin(tool));
    assert!(ids[0].starts_with("a~") && ids[1].starts_with("b~"), "{ids:?}");
    for id in &ids {
        let got = all.ask("tasks/get", &json!({"taskId": id}));
        assert_eq!((&got["taskId"], &got["resultType"]), (&json!(id), &json!("complete")), "{got}");
        all.ask("tasks/cancel", &json!({"taskId": id}));
    }
    assert!(a.names().iter().any(|name| name == "t2"), "the header says what the body does: {:?}", a.names());
    // One who did not say that it knows tasks gets none.
    let declared = json!({});
    let plain = modern(ALL, "tools/call", &json!({"name": "a__slow"}), &declared)
        .with("Authorization", format!("Bearer {key}"));
    let at_once = Client::once(gateway.address, &plain).json();
    assert_eq!(at_once["result"]["content"][0]["text"], "at once", "{at_once}");
    let stranger = Dialogue::stateless(&gateway, ALL, &gateway.keys().create("other").1);
    for method in ["tasks/get", "tasks/update", "tasks/cancel"] {
        stranger.check_unknown(method, &ids[0]);
        stranger.check_unknown(method, "t1");
    }
    // Only in the other era.
    for method in ["tasks/list", "tasks/result"] {
        let refused = all.send(method, &json!({"taskId": ids[0]}));
        assert_eq!(error(&refused), -32601, "{method}: {}", refused.text());
    }
    let listen = json!({"notifications": {"taskIds": [ids[0], "t1", ids[1]]}});
    let undeclared = modern(ALL, "subscriptions/listen", &listen, &declared)
        .with("Authorization", format!("Bearer {key}"));
    let refused = Client::once(gateway.address, &undeclared);
    assert_eq!((refused.status, error(&refused)), (400, -32021), "{}", refused.text());
    let mut client = Client::connect(gateway.address);
    client.send(&all.request("subscriptions/listen", &listen).bytes());
    assert_eq!(client.head().status, 200);
    let acknowledged = client.event().unwrap();
    assert_eq!(acknowledged["params"]["notifications"], json!({"taskIds": [ids[0], ids[1]]}));
    client.stream().set_read_timeout(Some(std::time::Duration::from_millis(200))).unwrap();
    let (deadline, mut text) = (std::time::Instant::now() + PATIENCE, String::new());
    while !text.contains("notifications/tasks") {
        assert!(std::time::Instant::now() < deadline, "{text}");
        all.ask("tasks/update", &json!({"taskId": ids[1], "inputResponses": {"k": {}}}));
        while let Ok(Some(bytes)) = client.chunk() {
            text += std::str::from_utf8(&bytes).unwrap();
        }
    }
    let event = text.lines().find_map(|line| line.strip_prefix("data: ")).unwrap();
    let event: Value = serde_json::from_str(event).unwrap();
    let params = &event["params"];
    assert_eq!((&params["taskId"], &params["status"]), (&json!(ids[1]), &json!("completed")), "{event}");
    assert_eq!(params["_meta"]["io.modelcontextprotocol/subscriptionId"], 7, "{event}");
}

/// What neither era can say in the other's words is not promised there.
#[test]
fn tasks_do_not_cross_eras() {
    let (servers, key) = ([false, true].map(Server::start), "x");
    let bridge = "[bridge]\ndiscover = true";
    for (server, modern_server) in servers.iter().zip([false, true]) {
        let era = if modern_server { "era = \"modern\"" } else { "era = \"legacy\"" };
        let gateway = Setup::new().server_with("a", server.address, era).with(bridge).start();
        for path in [SINGLE, ALL] {
            if modern_server {
                let dialogue = Dialogue::open(&gateway, path, key);
                assert!(dialogue.opened["tasks"].is_null() && dialogue.opened["extensions"].is_null());
                let refused = dialogue.send("tasks/get", &json!({"taskId": "t1"}));
                assert!(refused.json()["error"].is_object(), "{}", refused.text());
            } else {
                let dialogue = Dialogue::stateless(&gateway, path, key);
                let discovered = dialogue.ask("server/discover", &json!({}));
                let capabilities = &discovered["capabilities"];
                assert!(
                    capabilities["tasks"].is_null() && capabilities["extensions"].is_null(),
                    "{discovered}"
                );
                let refused = dialogue.send("tasks/get", &json!({"taskId": "t1"}));
                assert_eq!((refused.status, error(&refused)), (404, -32601), "{}", refused.text());
            }
        }
    }
}
