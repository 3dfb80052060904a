//! Servers and endpoints of the store at work: what is written over HTTP, or by another process, is what clients get.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::support::{
    Client, Gateway, PATIENCE, Peer, Request, Response, Setup, call_in_other_forms, is_long, legacy,
    legacy_call, listed, modern, modern_call, open_session, until, until_within, within,
};
use metamcp_store::store::{
    Audit, EndpointServer, EndpointSpec, Grants, PrefixMode, Role, Secrets, ServerKind, ServerSpec,
    VersionMatch, new_id,
};
use serde_json::{Value, json};

const SERVERS: &str = "/api/v1/mcp/servers";
const ENDPOINTS: &str = "/api/v1/mcp/endpoints";

/// A gateway with an administrator.
struct House {
    gateway: Gateway,
    admin: String,
}

impl House {
    fn new() -> Self {
        Self::of(&Setup::new())
    }

    fn of(setup: &Setup) -> Self {
        let gateway = setup.clone().keys().start();
        let admin = gateway.keys().grant("admin", Grants { role: Role::Admin, ..Grants::everything() }).1;
        Self { gateway, admin }
    }

    fn restart(self) -> Self {
        Self { gateway: self.gateway.restart(), admin: self.admin }
    }

    fn rest(&self, key: &str, method: &str, path: &str, body: Option<&Value>) -> Response {
        let request = Request::new(method, path).with("Authorization", bearer(key));
        let request = match body {
            Some(body) => request.with("Content-Type", "application/json").body(body.to_string()),
            None => request,
        };
        Client::once(self.gateway.address, &request)
    }

    /// As the administrator, who succeeds. A change is taken up by then, as far as it is said.
    #[track_caller]
    fn ask(&self, method: &str, path: &str, body: &Value) -> Value {
        let answer = self.ask_once(method, path, body);
        self.patiently(path, answer)
    }

    #[track_caller]
    fn ask_once(&self, method: &str, path: &str, body: &Value) -> Value {
        let response = self.rest(&self.admin, method, path, Some(body).filter(|body| !body.is_null()));
        assert!((200..300).contains(&response.status), "{method} {path}: {}", response.text());
        if response.status == 204 { Value::Null } else { response.json() }
    }

    /// On a busy machine it may take longer than anybody waits, which the answer says.
    fn patiently(&self, path: &str, answer: Value) -> Value {
        let begun = Instant::now();
        let mut answer = answer;
        while is_behind(&answer) && begun.elapsed() < PATIENCE {
            let kind = if path.starts_with(SERVERS) { SERVERS } else { ENDPOINTS };
            answer =
                self.ask_once("GET", &format!("{kind}/{}", answer["id"].as_str().unwrap()), &Value::Null);
        }
        answer
    }

    /// Creates a server that is served by then.
    #[track_caller]
    fn create(&self, name: &str, address: SocketAddr) {
        let created = self.ask("POST", SERVERS, &definition(name, address));
        assert_eq!(created["served"], true, "{created}");
    }

    #[track_caller]
    fn get(&self, path: &str) -> Value {
        self.ask("GET", path, &Value::Null)
    }

    fn left_out(&self) -> Vec<String> {
        let ready = self.get("/ready");
        let texts = ready["left_out"].as_array().cloned().unwrap_or_default();
        texts.iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    /// A client of each era at that path.
    fn clients(&self, path: &str) -> [Era<'_>; 2] {
        let session = open_session(&self.gateway, path, Some(&self.admin));
        [None, Some(session)].map(|session| Era { house: self, path: path.to_owned(), session })
    }

    /// What is called there is answered, in both eras.
    #[track_caller]
    fn check_call(&self, path: &str, tool: &str) {
        for client in self.clients(path) {
            client.check(tool, true);
        }
    }
}

/// A client of one of the eras.
struct Era<'a> {
    house: &'a House,
    path: String,
    /// Of the Legacy era.
    session: Option<String>,
}

impl Era<'_> {
    fn ask(&self, request: Request) -> Value {
        let request = request.with("Authorization", bearer(&self.house.admin));
        Client::once(self.house.gateway.address, &request).json()
    }

    fn list(&self) -> Value {
        self.ask(match &self.session {
            None => modern(&self.path, "tools/list", ""),
            Some(session) => legacy(&self.path, session, "1", "tools/list", ""),
        })
    }

    fn names(&self) -> Vec<String> {
        listed(&self.list())
    }

    fn call(&self, tool: &str) -> Value {
        let arguments = r#"{"a":1}"#;
        self.ask(match &self.session {
            None => modern_call(&self.path, tool, arguments),
            Some(session) => legacy_call(&self.path, session, "1", tool, arguments),
        })
    }

    /// Whether a tool can be called, or is as unknown as one that never was.
    #[track_caller]
    fn check(&self, tool: &str, works: bool) {
        let answer = self.call(tool);
        if works {
            assert_eq!(answer["result"]["content"][0]["text"], r#"{"a":1}"#, "{tool}: {answer}");
        } else {
            let expected = json!({"code": -32602, "message": format!("Unknown tool: {tool}")});
            assert_eq!(answer["error"], expected, "{tool}: {answer}");
        }
    }
}

fn bearer(key: &str) -> String {
    format!("Bearer {key}")
}

fn is_behind(answer: &Value) -> bool {
    answer["reason"].as_str().is_some_and(|reason| reason.contains("not served yet"))
}

fn definition(name: &str, address: SocketAddr) -> Value {
    json!({"name": name, "kind": "http", "url": format!("http://{address}/mcp")})
}

fn server(name: &str) -> String {
    format!("{SERVERS}/{name}")
}

#[test]
fn what_is_created_can_be_called_next() {
    let (house, peer) = (House::new(), Peer::script([]));
    // Nothing was there but what stands in for nothing.
    assert!(house.clients("/mcp")[0].names().iter().all(|name| name.starts_with("demo__")));
    let mut at_once = 0;
    for round in 0..10 {
        let name = format!("s{round}");
        let created = house.ask_once("POST", SERVERS, &definition(&name, peer.address));
        at_once += usize::from(!is_behind(&created));
        assert_eq!(house.patiently(SERVERS, created)["served"], true);
        house.check_call("/mcp", &format!("{name}__echo"));
        house.check_call(&format!("/servers/{name}/mcp"), "echo");
        let created = house.ask(
            "POST",
            ENDPOINTS,
            &json!({"name": format!("e{round}"), "servers": [{"server": name}]}),
        );
        assert_eq!(created["served"], true, "{created}");
        house.check_call(&format!("/mcp/e{round}"), &format!("{name}__echo"));
        house.check_call(&format!("/metamcp/e{round}/mcp"), &format!("{name}__other"));
    }
    // An answer waits a second for that, which a busy machine may need.
    let least = if is_long() { 5 } else { 1 };
    assert!(at_once >= least, "an answer comes when it is served: {at_once}");
    for client in house.clients("/mcp") {
        let names = client.names();
        assert_eq!(names.len(), 20, "two of each, and no demonstration: {names:?}");
    }
    let import = json!({"mcpServers": {"imported": {"url": format!("http://{}/mcp", peer.address)}}});
    house.ask("POST", "/api/v1/import", &import);
    assert_eq!(house.get(&server("imported"))["served"], true);
    house.check_call("/mcp", "imported__echo");
    assert_eq!(house.left_out(), [""; 0]);
    // What is gone is gone at once.
    house.ask("DELETE", &server("s0"), &Value::Null);
    house.ask("DELETE", &format!("{ENDPOINTS}/e1"), &Value::Null);
    for path in ["/servers/s0/mcp", "/mcp/e1"] {
        let asked = modern(path, "tools/list", "").with("Authorization", bearer(&house.admin));
        until(path, || Client::once(house.gateway.address, &asked).status == 404);
    }
    for client in house.clients("/mcp") {
        client.check("s0__echo", false);
    }
    assert!(house.clients("/mcp/e0")[0].names().is_empty());
}

#[test]
fn a_change_holds_from_the_next_call_on() {
    let (house, before, after) = (House::new(), Peer::script([]), Peer::script([]));
    house.create("a", before.address);
    house.create("b", before.address);
    let clients = house.clients("/mcp");
    let own = house.clients("/servers/a/mcp");
    let call_all = || {
        for (client, tool) in [(&clients, "a__echo"), (&own, "echo")] {
            client[0].check(tool, true);
            client[1].check(tool, true);
        }
    };
    call_all();
    assert_eq!((before.calls().len(), after.calls().len()), (4, 0));
    house.ask("PATCH", &server("a"), &json!({"url": format!("http://{}/mcp", after.address)}));
    call_all();
    assert_eq!((before.calls().len(), after.calls().len()), (4, 4), "the same sessions, the new address");

    // Switched off, it is gone from everything, and clients that listen are told.
    let session = clients[1].session.as_ref().unwrap();
    let stream = Request::new("GET", "/mcp").with("Accept", "text/event-stream");
    let stream = stream.with("Mcp-Session-Id", session).with("Authorization", bearer(&house.admin));
    let mut listening = Client::connect(house.gateway.address);
    listening.send(&stream.bytes());
    assert_eq!(listening.head().status, 200);
    let mut announced = || listening.event().expect("an announcement")["method"].clone();
    let off = house.ask("PATCH", &server("a"), &json!({"enabled": false}));
    assert_eq!((&off["served"], &off["reason"]), (&false.into(), &"it is disabled".into()));
    assert_eq!(announced(), "notifications/tools/list_changed");
    for client in &clients {
        assert_eq!(client.names(), ["b__echo", "b__other"]);
        client.check("a__echo", false);
    }
    assert_eq!(house.left_out(), [""; 0], "it is as it was wanted");
    let on = house.ask("PATCH", &server("a"), &json!({"enabled": true, "alias": "x"}));
    assert_eq!((&on["served"], on.get("reason")), (&true.into(), None));
    assert_eq!(announced(), "notifications/tools/list_changed");
    for client in &clients {
        assert_eq!(client.names(), ["b__echo", "b__other", "x__echo", "x__other"]);
        client.check("x__echo", true);
        client.check("a__echo", false);
    }
    // A filter is as much a change as a server.
    let mine = json!({"name": "default", "servers": [{"server": "b", "deny": ["o*"]}]});
    house.ask("POST", ENDPOINTS, &mine);
    assert_eq!(announced(), "notifications/tools/list_changed");
    for client in &clients {
        assert_eq!(client.names(), ["b__echo"]);
        client.check("b__other", false);
    }
}

/// A server with five tools, of which one says much of itself.
fn toolbox() -> Peer {
    let peer = Peer::script([]);
    let tool = |name: &str| json!({"name": name, "inputSchema": {"type": "object"}});
    let mut ls = tool("ls");
    ls["title"] = "Old".into();
    ls["description"] = "old words".into();
    ls["annotations"] = json!({"title": "old", "destructiveHint": true});
    let tools = [tool("cp"), ls, tool("mv"), tool("rm"), tool("rmdir")];
    let result = json!({"tools": tools, "resultType": "complete"});
    peer.list_tools(&json!({"jsonrpc": "2.0", "id": 1, "result": result}).to_string());
    peer
}

/// Names that somebody may try.
const TRIED: [&str; 14] = [
    "a__cp", "a__ls", "a__mv", "a__rm", "a__rmdir", "cp", "ls", "mv", "rm", "rmdir", "list", "a__list",
    "b__list", "none",
];

/// What the endpoint lists, with the server's own name of each; what it lists can be called, in both eras, and nothing
/// else. Gives the names that are hidden, and why.
#[track_caller]
fn check_shown(house: &House, peer: &Peer, endpoint: &Value, expected: &[(&str, &str)]) -> Vec<String> {
    house.ask("PUT", &format!("{ENDPOINTS}/work"), endpoint);
    let mut hidden = Vec::new();
    for client in house.clients("/mcp/work") {
        let list = client.list();
        let names: Vec<&str> = expected.iter().map(|(name, _)| *name).collect();
        assert_eq!(listed(&list), names, "{endpoint}");
        for tried in TRIED {
            let own = expected.iter().find(|(name, _)| *name == tried).map(|(_, own)| *own);
            let before = peer.calls().len();
            client.check(tried, own.is_some());
            let calls = peer.calls();
            assert_eq!(calls.len() - before, usize::from(own.is_some()), "{tried}");
            if let Some(own) = own {
                let call = calls.last().unwrap();
                let said: Value = serde_json::from_slice(&call.body).unwrap();
                assert_eq!(said["params"]["name"], own);
                assert!(client.session.is_some() || call.header("mcp-name") == Some(own));
            }
        }
        for tried in TRIED {
            let (before, shown) = (peer.calls().len(), names.contains(&tried));
            let answers = call_in_other_forms(&house.gateway, "/mcp/work", Some(&house.admin), tried);
            assert!(answers.iter().all(|answer| answer["error"].is_null() == shown), "{tried}: {answers:?}");
            assert_eq!(peer.calls().len() - before, if shown { answers.len() } else { 0 }, "{tried}");
        }
        let told = list["result"]["_meta"]["dev.metamcp/hidden"].as_array().cloned().unwrap_or_default();
        hidden = told.iter().map(|item| item["name"].as_str().unwrap().to_owned()).collect();
    }
    hidden
}

#[test]
fn filters_and_overrides_decide_lists_and_calls_alike() {
    let (house, peer) = (House::new(), toolbox());
    house.create("a", peer.address);
    let check = |prefix: &str, shows: Value, expected: &[(&str, &str)], hidden: &[&str]| {
        let mut member = shows;
        member["server"] = "a".into();
        let endpoint = json!({"name": "work", "prefix": prefix, "servers": [member]});
        assert_eq!(check_shown(&house, &peer, &endpoint, expected), hidden, "{endpoint}");
    };
    let named = |tool: &str, name: &str| json!({"tool": tool, "name": name});
    let all = [("a__cp", "cp"), ("a__ls", "ls"), ("a__mv", "mv"), ("a__rm", "rm"), ("a__rmdir", "rmdir")];
    check("always", json!({}), &all, &[]);
    check("always", json!({"allow": ["c*", "ls"]}), &all[..2], &[]);
    check("always", json!({"deny": ["rm*", "mv"]}), &all[..2], &[]);
    check("always", json!({"allow": ["rm*"], "deny": ["rm"]}), &all[4..], &[]);
    check("always", json!({"allow": ["a__*", "nothing"]}), &[], &[]);
    check("never", json!({"allow": ["?p", "ls"]}), &[("cp", "cp"), ("ls", "ls")], &[]);
    // Under another name it has no other: neither its own, nor a prefix before the new one.
    let renamed = json!({"allow": ["cp", "ls"], "overrides": [named("ls", "list")]});
    check("always", renamed.clone(), &[("a__cp", "cp"), ("list", "ls")], &[]);
    check("never", renamed, &[("cp", "cp"), ("list", "ls")], &[]);
    // A name that takes another one's place leaves neither; one that has become free is free.
    let taken = json!({"allow": ["cp", "ls", "mv"], "overrides": [named("ls", "a__cp")]});
    check("always", taken, &[("a__mv", "mv")], &["a__cp"]);
    let taken = json!({"allow": ["cp", "ls"], "overrides": [named("ls", "list"), named("cp", "list")]});
    check("never", taken, &[], &["list"]);
    let swapped = json!({"allow": ["cp", "ls"], "overrides": [named("ls", "cp"), named("cp", "ls")]});
    check("never", swapped, &[("cp", "ls"), ("ls", "cp")], &[]);
    // One that is not shown takes no name.
    let gone = json!({"allow": ["cp", "ls"], "deny": ["ls"], "overrides": [named("ls", "a__cp")]});
    check("always", gone, &all[..1], &[]);
}

#[test]
fn what_is_said_of_a_tool_instead_is_shown() {
    let (house, peer) = (House::new(), toolbox());
    house.create("a", peer.address);
    let instead = json!({"tool": "ls", "title": "New", "description": "new \"words\"",
                         "annotations": {"readOnlyHint": true}});
    let servers = json!([{"server": "a", "allow": ["ls"], "overrides": [instead]}]);
    house.ask("POST", ENDPOINTS, &json!({"name": "work", "servers": servers}));
    for client in house.clients("/mcp/work") {
        let expected = json!({"name": "a__ls", "title": "New", "description": "new \"words\"",
                              "annotations": {"readOnlyHint": true}, "inputSchema": {"type": "object"}});
        assert_eq!(client.list()["result"]["tools"], json!([expected]));
        client.check("a__ls", true);
    }
    // Elsewhere it is what its server says.
    for client in house.clients("/mcp") {
        let tools = client.list()["result"]["tools"].clone();
        let found = tools.as_array().unwrap().iter().find(|tool| tool["name"] == "a__ls").unwrap().clone();
        assert_eq!((&found["title"], &found["description"]), (&"Old".into(), &"old words".into()));
    }
}

#[test]
fn a_key_for_an_endpoint_is_shown_no_more_over_http() {
    let (house, peer) = (House::new(), toolbox());
    house.create("a", peer.address);
    let servers =
        json!([{"server": "a", "allow": ["ls", "cp"], "overrides": [{"tool": "ls", "name": "list"}]}]);
    house.ask("POST", ENDPOINTS, &json!({"name": "work", "servers": servers}));
    let grants = Grants { endpoints: Some(vec!["work".into()]), ..Grants::everything() };
    let key = house.gateway.keys().grant("work", grants.clone()).1;
    let narrow = Grants { tools: Some(vec!["list".into()]), ..grants };
    let narrow = house.gateway.keys().grant("narrow", narrow).1;
    let tools = format!("{}/tools", server("a"));
    for (key, expected) in [(&key, &["cp", "ls"][..]), (&narrow, &["ls"])] {
        let shown = house.rest(key, "GET", &tools, None).json();
        let names: Vec<&str> =
            shown["items"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
        assert_eq!(names, expected);
        for tool in ["cp", "ls", "mv", "rm", "list"] {
            let called = house.rest(key, "POST", &format!("{tools}/{tool}/execute"), Some(&json!({"a": 1})));
            let status = if expected.contains(&tool) { 200 } else { 404 };
            assert_eq!(called.status, status, "{tool}: {}", called.text());
        }
    }
}

#[test]
fn what_another_process_writes_is_served_soon_and_after_a_restart() {
    let (house, peer) = (House::new(), Peer::script([]));
    let spec = |url: String| ServerSpec {
        name: "a".into(),
        kind: ServerKind::Http,
        definition: json!({"url": url}),
        secrets: Secrets::Keep,
    };
    let url = format!("http://{}/mcp", peer.address);
    let row = house.gateway.keys().run(async |store| {
        let row = store.insert_server(new_id(), spec(url.clone()), Audit::by("test")).await.unwrap();
        let work = EndpointSpec {
            name: "work".into(),
            prefix: PrefixMode::Never,
            servers: vec![EndpointServer::unfiltered(row.id)],
        };
        store.insert_endpoint(new_id(), work, Audit::by("test")).await.unwrap();
        row
    });
    let soon = within(Duration::from_secs(2));
    until_within("served", soon, || house.get(&server("a"))["served"] == true);
    house.check_call("/mcp", "a__echo");
    until_within("served", soon, || house.get(&format!("{ENDPOINTS}/work"))["served"] == true);
    house.check_call("/mcp/work", "echo");
    let house = house.restart();
    house.check_call("/mcp", "a__echo");
    house.check_call("/mcp/work", "echo");
    assert_eq!(house.get(&server("a"))["served"], true);
    house.gateway.keys().run(async |store| {
        store.delete_server(row.id, VersionMatch::Any, Audit::by("test")).await.unwrap();
    });
    until_within("gone", soon, || {
        house.clients("/mcp")[0].names().iter().all(|name| name.starts_with("demo__"))
    });
    assert!(house.clients("/mcp/work")[0].names().is_empty());
}

#[test]
fn of_one_name_the_files_win_and_that_is_said() {
    let (of_file, of_store) = (Peer::script([]), Peer::script([]));
    let endpoint = "[endpoints.work]\nservers = [\"a\"]\nprefix = \"never\"\n";
    let with = Setup::new().server("a", of_file.address).with(endpoint);
    let house = House::of(&with);
    let created = house.ask("POST", SERVERS, &definition("a", of_store.address));
    let text =
        "server `a` of the store is left out: metamcp.toml or mcp.json has one of that name, which is served";
    assert_eq!((&created["served"], &created["reason"]), (&false.into(), &text.into()));
    let work = house.ask("POST", ENDPOINTS, &json!({"name": "work", "servers": [{"server": "a"}]}));
    let and = text.replace("server `a`", "endpoint `work`");
    assert_eq!((&work["served"], &work["reason"]), (&false.into(), &and.as_str().into()));
    assert_eq!(house.left_out(), [text, &and]);
    assert!(house.gateway.log().contains(text) && house.gateway.log().contains(&and));
    house.check_call("/mcp", "a__echo");
    house.check_call("/mcp/work", "echo");
    // By its UUID nobody gets at the other one of its name.
    let id = created["id"].as_str().unwrap();
    let called =
        house.rest(&house.admin, "POST", &format!("{SERVERS}/{id}/tools/echo/execute"), Some(&json!({})));
    assert_eq!(called.status, 409, "{}", called.text());
    assert_eq!((of_file.calls().len(), of_store.calls().len()), (4, 0));
    // Once the files have it no more, it is the store's.
    house.gateway.reload(&Setup::new(), "configuration reloaded");
    house.check_call("/mcp", "a__echo");
    house.check_call("/mcp/work", "a__echo");
    assert_eq!((of_file.calls().len(), of_store.calls().len()), (4, 4));
    assert_eq!(house.left_out(), [""; 0]);
    for path in [server("a"), format!("{ENDPOINTS}/work")] {
        assert_eq!(house.get(&path)["served"], true);
    }
    house.gateway.reload(&with, "configuration reloaded");
    house.check_call("/mcp/work", "echo");
    assert_eq!((of_file.calls().len(), of_store.calls().len()), (6, 4));
}

#[test]
fn servers_of_files_are_shown_and_changed_in_their_files() {
    let peer = Peer::script([]);
    let setup = Setup::new().server("y", peer.address).server("b", peer.address);
    let house = House::of(&setup.with("[servers.p]\ncommand = \"no-such-program\"\nargs = [\"hunter2\"]"));
    for name in ["x", "a"] {
        house.create(name, peer.address);
    }
    let expected = [("b", "file"), ("p", "file"), ("y", "file"), ("a", "store"), ("x", "store")];
    for limit in 1..=6 {
        let (mut found, mut cursor) = (Vec::new(), String::new());
        loop {
            let page = house.get(&format!("{SERVERS}?limit={limit}{cursor}"));
            let items = page["items"].as_array().unwrap();
            assert!(items.len() <= limit && !page.to_string().contains("hunter2"), "{page}");
            found.extend(items.iter().map(|item| (item["name"].clone(), item["source"].clone())));
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => break,
            }
        }
        let expected = expected.map(|(name, source)| (json!(name), json!(source)));
        assert_eq!(found, expected, "{limit} a page");
    }
    house.check_call("/mcp", "b__echo");
    let one = house.get(&server("b"));
    assert_eq!(
        (&one["served"], &one["kind"], &one["condition"]["state"]),
        (&json!(true), &json!("http"), &json!("ok"))
    );
    assert_eq!(one["url"], format!("http://{}/mcp", peer.address));
    let program = house.get(&server("p"));
    assert_eq!((&program["kind"], &program["command"]), (&json!("stdio"), &json!("no-such-program")));
    // They are tried like those of the store.
    for (name, is_ok) in [("b", true), ("p", false)] {
        let tested = house.rest(&house.admin, "POST", &format!("{}/test", server(name)), None).json();
        assert_eq!((&tested["ok"], tested["reason"].is_string()), (&json!(is_ok), !is_ok), "{tested}");
    }
    for (method, body) in [("PATCH", Some(json!({"era": "modern"}))), ("DELETE", None)] {
        let refused = house.rest(&house.admin, method, &server("b"), body.as_ref());
        assert_eq!(refused.status, 409, "{}", refused.text());
        assert!(refused.text().contains("is defined in a configuration file"), "{}", refused.text());
    }
    assert_eq!(house.rest(&house.admin, "DELETE", &server("none"), None).status, 404);
}

#[test]
fn a_row_that_cannot_be_read_takes_nothing_with_it() {
    let (house, peer) = (House::new(), Peer::script([]));
    for name in ["closed", "good", "torn"] {
        let mut definition = definition(name, peer.address);
        definition["headers"] = json!({"X-Key": "hunter2"});
        assert_eq!(house.ask("POST", SERVERS, &definition)["served"], true);
    }
    house.ask(
        "POST",
        ENDPOINTS,
        &json!({"name": "good", "servers": [{"server": "closed"}, {"server": "good"}]}),
    );
    let filtered = json!({"name": "filtered", "servers": [{"server": "good", "deny": ["echo"]}]});
    house.ask("POST", ENDPOINTS, &filtered);
    let shell = rusqlite::Connection::open(house.gateway.keys().database()).unwrap();
    let mut sealed: Vec<u8> = shell
        .query_row("SELECT sealed_secrets FROM mcp_servers WHERE name = 'closed'", [], |row| row.get(0))
        .unwrap();
    *sealed.last_mut().unwrap() ^= 1;
    let rows = [
        shell.execute("UPDATE mcp_servers SET sealed_secrets = ?1 WHERE name = 'closed'", [sealed]),
        shell.execute("UPDATE mcp_servers SET definition = '{\"url\": 7}' WHERE name = 'torn'", []),
        shell.execute("UPDATE endpoint_tools SET pattern = 'e cho' WHERE pattern = 'echo'", []),
    ];
    assert_eq!(rows, [Ok(1), Ok(1), Ok(1)]);
    drop(shell);
    let house = house.restart();
    house.check_call("/mcp", "good__echo");
    house.check_call("/mcp/good", "good__echo");
    let left_out = house.left_out();
    let expected = [
        "server `closed` of the store is left out: server `closed` was altered",
        "server `torn` of the store is left out: server `torn` was altered",
        "endpoint `filtered` of the store is left out: it was altered",
        "endpoint `good` of the store is served without server `closed`: server `closed` was altered",
    ];
    assert_eq!(left_out.len(), expected.len(), "{left_out:#?}");
    for (found, expected) in left_out.iter().zip(expected) {
        assert!(found.contains(expected), "{found}");
    }
    for name in ["closed", "torn"] {
        let shown = house.get(&server(name));
        assert_eq!(shown["served"], false, "{shown}");
        assert!(shown["reason"].as_str().unwrap().contains("left out"), "{shown}");
    }
    // Without its filter it is not served at all.
    let asked = modern("/mcp/filtered", "tools/list", "").with("Authorization", bearer(&house.admin));
    assert_eq!(Client::once(house.gateway.address, &asked).status, 404);
    // Written anew it is as good as any.
    house.ask("PUT", &server("torn"), &definition("torn", peer.address));
    house.check_call("/mcp", "torn__echo");
    assert!(!house.gateway.log().contains("hunter2"));
}

#[test]
fn a_private_address_is_refused_where_it_is_connected_to() {
    let peer = Peer::script([]);
    let house = House::of(&Setup::new().server("mine", peer.address).with("[server]\nhost = \"0.0.0.0\""));
    // What a file says is allowed; what is stored needs permission, by whatever name it is called.
    house.check_call("/mcp", "mine__echo");
    let before = peer.connections();
    let port = peer.address.port();
    for (name, host) in [("literal", "127.0.0.1"), ("named", "localhost"), ("mapped", "[::ffff:127.0.0.1]")] {
        let url = format!("http://{host}:{port}/mcp");
        let written = json!({"name": name, "kind": "http", "url": url});
        assert_eq!(house.rest(&house.admin, "POST", SERVERS, Some(&written)).status, 422);
        // As after a change of what a name leads to: it was allowed when it was written.
        let spec = ServerSpec {
            name: name.into(),
            kind: ServerKind::Http,
            definition: json!({"url": url}),
            secrets: Secrets::Keep,
        };
        house.gateway.keys().run(async |store| {
            store.insert_server(new_id(), spec.clone(), Audit::by("test")).await.unwrap();
        });
        until("served", || house.get(&server(name))["served"] == true);
        let refusal = format!("server `{name}` leads to a private address");
        let called = house.clients("/mcp")[0].call(&format!("{name}__echo"));
        assert!(called["error"]["message"].as_str().unwrap().contains(&refusal), "{called}");
        let own = modern_call(&format!("/servers/{name}/mcp"), "echo", "{}");
        let own = Client::once(house.gateway.address, &own.with("Authorization", bearer(&house.admin)));
        assert!(own.text().contains(&refusal), "{}", own.text());
        let tested = house.ask("POST", &format!("{}/test", server(name)), &Value::Null);
        assert!(tested["reason"].as_str().unwrap().contains(&refusal), "{tested}");
    }
    let calls = peer.calls().len();
    assert_eq!((peer.connections() - before, calls), (0, 2));
    house.ask("PATCH", &server("named"), &json!({"allow_private": true}));
    house.check_call("/mcp", "named__echo");
    assert_eq!(peer.calls().len(), calls + 2);
}
